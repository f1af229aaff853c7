// Takes the calls that the compiler puts at each read and write with -fsanitize=thread, and checks them by
// the rules of a GPU's memory. Compiled without -fsanitize=thread.
//
// The unit is a word of four bytes: no kernel has smaller numbers in memory.
#include <cstdint>
#include <map>
#include <vector>

#include "device.h"

namespace cuda_on_host {
namespace {

constexpr uintptr_t kWord = 4;

// Who was at a word. `launch` is that of the block in shared memory, of which every block has its own.
struct Visit {
  uint32_t launch = 0;
  uint32_t block = 0;
  uint32_t thread = 0;
  uint32_t barriers = 0;
};

struct Word {
  Visit write;
  Visit read;
  Visit other_read;  // by another thread, of another block if there was one
  uint32_t written = 0;
};

struct Memory {
  const char* name = "device memory";
  Range range;
  std::vector<Word> words;
};

std::map<uintptr_t, Memory> device_memory;  // by the end of each range
Memory shared = {"shared memory", {}, {}};
constexpr uint32_t kAlways = UINT32_MAX;

bool same_thread(const Visit& a, const Visit& b) { return a.block == b.block && a.thread == b.thread; }

// Whether no barrier lies between the two visits.
bool unordered(const Visit& before, const Visit& now) {
  return before.launch == now.launch && !same_thread(before, now) &&
         (before.block != now.block || before.barriers == now.barriers);
}

void check_order(const char* what, const Visit& before, const Visit& now, const Memory& memory,
                 uintptr_t address) {
  if (unordered(before, now)) {
    fault("%s without a barrier at byte %zu of %s of %zu bytes: block %u thread %u, then block %u thread %u",
          what, static_cast<size_t>(address - memory.range.begin), memory.name,
          static_cast<size_t>(memory.range.end - memory.range.begin), before.block, before.thread, now.block,
          now.thread);
  }
}

void visit(Memory& memory, uintptr_t address, const Visit& now, bool writes) {
  Word& word = memory.words[(address - memory.range.begin) / kWord];
  check_order(writes ? "write after write" : "read after write", word.write, now, memory, address);
  if (writes) {
    check_order("write after read", word.read, now, memory, address);
    check_order("write after read", word.other_read, now, memory, address);
    word.write = now;
    word.written = now.launch;
    return;
  }
  const bool known = &memory == &shared ? word.written == now.launch : word.written != 0;
  if (!known) {
    fault("read of what was never written at byte %zu of %s of %zu bytes: block %u thread %u",
          static_cast<size_t>(address - memory.range.begin), memory.name,
          static_cast<size_t>(memory.range.end - memory.range.begin), now.block, now.thread);
  }
  if (word.read.launch == now.launch && !same_thread(word.read, now)) {
    const bool has_two_blocks =
        word.other_read.launch == now.launch && word.other_read.block != word.read.block;
    if (!has_two_blocks || word.read.block != now.block) {
      word.other_read = word.read;
    }
  }
  word.read = now;
}

extern "C" char __executable_start;
extern "C" char end;

// Constants, and the indices of threads and blocks, which the program sets.
bool is_of_the_program(uintptr_t address) {
  return Range{reinterpret_cast<uintptr_t>(&__executable_start), reinterpret_cast<uintptr_t>(&end)}.holds(
      address);
}

void access(const void* pointer, size_t bytes, bool writes) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  if (!in_kernel() || is_private(address) || (!writes && is_of_the_program(address))) {
    return;
  }
  const Position at = position();
  Visit now = {at.launch, at.block, at.thread, at.barriers};
  Memory* memory = nullptr;
  if (const Range range = shared_memory(); range.holds(address)) {
    if (beyond_dynamic_shared_memory().holds(address + bytes - 1)) {
      fault("%s behind the shared memory of the launch: block %u thread %u", writes ? "write" : "read",
            at.block, at.thread);
    }
    shared.range = range;
    shared.words.resize((range.end - range.begin + kWord - 1) / kWord);
    now.launch = at.block_of_all;
    memory = &shared;
  } else if (const auto found = device_memory.upper_bound(address); found != device_memory.end()) {
    memory = &found->second;
  }
  if (memory == nullptr || !memory->range.holds(address) || !memory->range.holds(address + bytes - 1)) {
    fault("%s of %zu bytes at %p, which is no device memory: block %u thread %u", writes ? "write" : "read",
          bytes, pointer, at.block, at.thread);
  }
  for (uintptr_t word = address / kWord * kWord; word < address + bytes; word += kWord) {
    visit(*memory, word, now, writes);
  }
}

}  // namespace

void add_memory(const void* data, size_t bytes, bool written) {
  if (bytes == 0) {
    return;
  }
  Memory memory;
  memory.range.begin = reinterpret_cast<uintptr_t>(data);
  memory.range.end = memory.range.begin + bytes;
  memory.words.resize((bytes + kWord - 1) / kWord);
  for (Word& word : memory.words) {
    word.written = written ? kAlways : 0;
  }
  device_memory[memory.range.end] = std::move(memory);
}

void remove_memory(const void* data) {
  const auto found = device_memory.upper_bound(reinterpret_cast<uintptr_t>(data));
  if (found != device_memory.end() && found->second.range.begin == reinterpret_cast<uintptr_t>(data)) {
    device_memory.erase(found);
  }
}

}  // namespace cuda_on_host

#define ACCESS(name, bytes, writes) \
  extern "C" void name(void* address) { cuda_on_host::access(address, bytes, writes); }
#define ACCESSES(bytes)                              \
  ACCESS(__tsan_read##bytes, bytes, false)           \
  ACCESS(__tsan_write##bytes, bytes, true)           \
  ACCESS(__tsan_unaligned_read##bytes, bytes, false) \
  ACCESS(__tsan_unaligned_write##bytes, bytes, true)
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)

extern "C" {
void __tsan_read_range(void* address, size_t bytes) { cuda_on_host::access(address, bytes, false); }
void __tsan_write_range(void* address, size_t bytes) { cuda_on_host::access(address, bytes, true); }
// Calls that tell of other things than memory.
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
}
