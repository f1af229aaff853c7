// A GPU's blocks and threads on the host, watched. Kernels are compiled with -fsanitize=thread, whose calls
// at every read and write access.cpp takes, and linked without its library.
//
// A fault is reported on stderr and ends the process:
//   - a barrier that some threads of the block do not reach, or reach at another line;
//   - a shuffle or vote that names lanes which have ended, do not exist or are elsewhere;
//   - a read or write outside device memory, or of shared memory that the launch did not ask for;
//   - a read of what nothing was written to: each block begins with its shared memory unwritten;
//   - two threads at one place, of which one writes, without a barrier between, whatever their order was;
//     and so two blocks of one launch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>

namespace cuda_on_host {

enum class Order { kForward, kReverse, kShuffled };

// The order in which the blocks run, and the threads between two barriers.
void set_order(Order order);

// Device memory; `written`: its numbers are known before a kernel writes them.
void add_memory(const void* data, size_t bytes, bool written);
void remove_memory(const void* data);

// Places in the sources, as file and line.
using Place = std::pair<std::string, int>;
// The __syncthreads() that threads have come to so far.
const std::set<Place>& barriers_met();
// From now on threads run past this one.
void leave_out_barrier(const Place& barrier);

// What device.cpp and access.cpp share.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

struct Range {
  uintptr_t begin = 0;
  uintptr_t end = 0;
  bool holds(uintptr_t address) const { return address >= begin && address < end; }
};

// Where the thread that runs now has got to.
struct Position {
  uint32_t launch;
  uint32_t block;
  uint32_t block_of_all;  // counted over all launches
  uint32_t thread;
  uint32_t barriers;  // that it has passed
};

bool in_kernel();
Position position();
// Of its own stack and of the kernel's arguments, which no other thread writes.
bool is_private(uintptr_t address);
Range shared_memory();
// What the launch did not ask for of the memory behind `extern __shared__`.
Range beyond_dynamic_shared_memory();

}  // namespace cuda_on_host
