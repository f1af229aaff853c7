/* Preloaded into a process: calls that change files below one folder are counted, and one of them fails. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[PATH_MAX], kinds[1 << 16];
static long calls, target;
static int error, lasting;

/* Start to count. Call number `at` fails with `number`, with `last` also all later ones; 0 kills the process
 * before it. */
void faults_arm(const char* below, long at, int number, int last) {
  snprintf(folder, sizeof folder, "%s", below);
  memset(kinds, 0, sizeof kinds);
  calls = 0, target = at, error = number, lasting = last;
}

/* One letter per call since then: open, write, fsync, rename, truncate. */
const char* faults_calls(void) { return kinds; }

static int fails(char kind, const char* path) {
  if (!*folder || !path || strncmp(path, folder, strlen(folder)) != 0) return 0;
  long now = calls++;
  if (now < (long)sizeof kinds - 1) kinds[now] = kind;
  if (target < 0 || now < target || (now > target && !lasting)) return 0;
  if (error == 0) kill(getpid(), SIGKILL);
  errno = error;
  return 1;
}

static int fails_on(char kind, int descriptor) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = *folder ? readlink(link, path, sizeof path - 1) : -1;
  path[length < 0 ? 0 : length] = 0;
  return fails(kind, path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define OPEN(name)                                                                                 \
  int name(const char* path, int flags, ...) {                                                     \
    va_list rest;                                                                                  \
    va_start(rest, flags);                                                                         \
    mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                                      \
    va_end(rest);                                                                                  \
    return (flags & (O_WRONLY | O_RDWR)) && fails('o', path) ? -1 : NEXT(name)(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

ssize_t write(int descriptor, const void* data, size_t size) {
  return fails_on('w', descriptor) ? -1 : NEXT(write)(descriptor, data, size);
}
int fsync(int descriptor) { return fails_on('f', descriptor) ? -1 : NEXT(fsync)(descriptor); }
int rename(const char* from, const char* to) { return fails('r', to) ? -1 : NEXT(rename)(from, to); }
int ftruncate(int descriptor, off_t size) {
  return fails_on('t', descriptor) ? -1 : NEXT(ftruncate)(descriptor, size);
}
int ftruncate64(int descriptor, off64_t size) {
  return fails_on('t', descriptor) ? -1 : NEXT(ftruncate64)(descriptor, size);
}
