// Runs blocks one after the other, and the threads of a block as fibres from one barrier to the next.
// Compiled without -fsanitize=thread.
#include "device.h"

#include <cuda_runtime.h>
#include <link.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "fibre.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace pydistill::cuda {
// The memory behind the kernels' `extern __shared__`: as much as a block of Hopper's may ask for.
thread_local double shared_scratch[227 * 1024 / sizeof(double)];
}  // namespace pydistill::cuda

namespace cuda_on_host {
namespace {

constexpr size_t kLanes = 32;
constexpr size_t kSharedByDefault = 48 << 10;  // bytes that a launch may ask for without allowance

enum class State { kReady, kWaits, kEnded };

struct Thread {
  Fibre fibre;
  State state = State::kEnded;
  uint32_t number = 0;
  uint32_t barriers = 0;
  // What it waits at, and with what.
  const char* file = "";
  int line = 0;
  Meeting meeting = Meeting::kBarrier;
  unsigned int lanes = 0;
  uint64_t own = 0;
  int mask = 0;
  uint64_t result = 0;

  bool waits_in_warp() const {
    return state == State::kWaits && (meeting == Meeting::kShuffleXor || meeting == Meeting::kBallot);
  }
  bool waits_where(const Thread& other) const {
    return state == State::kWaits && other.state == State::kWaits && meeting == other.meeting &&
           lanes == other.lanes && line == other.line && std::strcmp(file, other.file) == 0;
  }
};

std::vector<Thread> threads;  // as many as any block had
size_t thread_count = 0;      // of this block
Thread* running = nullptr;
Fibre scheduler;
void (*run_call)(const void*) = nullptr;
Range call;
Range shared;
size_t dynamic_bytes = 0;
Position current = {};
Order order = Order::kForward;
std::mt19937 generator;
cudaError_t last_error = cudaSuccess;
std::map<const void*, size_t> allowed_shared_memory;
std::set<Place> barriers;
Place left_out = {"", 0};

dim3 index_of(uint32_t number, const dim3& size) {
  return {number % size.x, number / size.x % size.y, number / size.x / size.y};
}

std::vector<uint32_t> ordered(size_t count) {
  std::vector<uint32_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0u);
  if (order == Order::kReverse) {
    std::reverse(numbers.begin(), numbers.end());
  } else if (order == Order::kShuffled) {
    std::shuffle(numbers.begin(), numbers.end(), generator);
  }
  return numbers;
}

void run_thread() {
  run_call(reinterpret_cast<const void*>(call.begin));
  Thread& self = *running;
  self.state = State::kEnded;
  self.fibre.switch_to(scheduler);
}

std::string place_of(const Thread& thread) {
  static const char* const names[] = {"__syncthreads", "__syncthreads_or", "__shfl_xor_sync",
                                      "__ballot_sync"};
  return std::string(names[static_cast<int>(thread.meeting)]) + " at " + thread.file + ":" +
         std::to_string(thread.line);
}

// Whether all lanes that the thread names are where it is.
bool warp_is_complete(size_t first, const Thread& thread) {
  if ((thread.lanes >> (thread.number - first) & 1u) == 0) {
    fault("thread %u names lanes %08x without itself: %s", thread.number, thread.lanes,
          place_of(thread).c_str());
  }
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if ((thread.lanes >> lane & 1u) == 0) {
      continue;
    }
    if (first + lane >= thread_count || threads[first + lane].state == State::kEnded) {
      fault("thread %u names lane %zu, which %s: %s", thread.number, lane,
            first + lane >= thread_count ? "does not exist" : "has ended", place_of(thread).c_str());
    }
    if (!threads[first + lane].waits_where(thread)) {
      return false;
    }
  }
  return true;
}

void release_lanes(size_t first, unsigned int lanes) {
  unsigned int ballot = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if ((lanes >> lane & 1u) != 0 && threads[first + lane].own != 0) {
      ballot |= 1u << lane;
    }
  }
  for (size_t lane = 0; lane < kLanes; ++lane) {
    if ((lanes >> lane & 1u) == 0) {
      continue;
    }
    Thread& thread = threads[first + lane];
    if (thread.meeting == Meeting::kBallot) {
      thread.result = ballot;
    } else {
      const size_t source = lane ^ static_cast<size_t>(thread.mask);
      if (source >= kLanes || (lanes >> source & 1u) == 0) {
        fault("thread %u reads lane %zu, which takes no part: %s", thread.number, source,
              place_of(thread).c_str());
      }
      thread.result = threads[first + source].own;
    }
    thread.state = State::kReady;
  }
}

bool release_warps() {
  bool released = false;
  for (size_t number = 0; number < thread_count; ++number) {
    const size_t first = number / kLanes * kLanes;
    if (threads[number].waits_in_warp() && warp_is_complete(first, threads[number])) {
      release_lanes(first, threads[number].lanes);
      released = true;
    }
  }
  return released;
}

// No thread can go on without the others of the block.
void release_block() {
  const Thread* waiting = nullptr;
  const Thread* ended = nullptr;
  uint64_t any = 0;
  for (size_t number = 0; number < thread_count; ++number) {
    const Thread& thread = threads[number];
    if (thread.state == State::kEnded) {
      ended = &thread;
      continue;
    }
    waiting = waiting == nullptr ? &thread : waiting;
    if (thread.waits_in_warp() || !thread.waits_where(*waiting)) {
      fault("block %u hangs: thread %u waits for %s, thread %u for %s", current.block, waiting->number,
            place_of(*waiting).c_str(), thread.number, place_of(thread).c_str());
    }
    any |= thread.own;
  }
  if (ended != nullptr && waiting != nullptr) {
    fault("block %u: thread %u has ended where thread %u waits for %s", current.block, ended->number,
          waiting->number, place_of(*waiting).c_str());
  }
  for (size_t number = 0; number < thread_count; ++number) {
    Thread& thread = threads[number];
    thread.result = any;
    thread.state = State::kReady;
    ++thread.barriers;
  }
}

void run_block() {
  // A number that is read before it is written is NaN.
  std::memset(reinterpret_cast<void*>(shared.begin), 0xff, shared.end - shared.begin);
  for (size_t number = 0; number < thread_count; ++number) {
    Thread& thread = threads[number];
    thread.number = static_cast<uint32_t>(number);
    thread.barriers = 0;
    thread.state = State::kReady;
    thread.fibre.start(&run_thread);
  }
  while (true) {
    bool all_ended = true;
    for (const uint32_t number : ordered(thread_count)) {
      Thread& thread = threads[number];
      if (thread.state == State::kReady) {
        running = &thread;
        threadIdx = index_of(number, blockDim);
        scheduler.switch_to(thread.fibre);
        running = nullptr;
      }
      all_ended = all_ended && thread.state == State::kEnded;
    }
    if (all_ended) {
      return;
    }
    if (!release_warps()) {
      release_block();
    }
  }
}

// The program's thread-local memory, in which all shared memory lies.
int find_shared_memory(dl_phdr_info* program, size_t, void*) {
  for (int i = 0; i < program->dlpi_phnum; ++i) {
    if (program->dlpi_phdr[i].p_type == PT_TLS) {
      shared.begin = reinterpret_cast<uintptr_t>(program->dlpi_tls_data);
      shared.end = shared.begin + program->dlpi_phdr[i].p_memsz;
    }
  }
  return 1;  // the program is the first of all modules
}

cudaError_t error_of(const void* kernel, const cudaLaunchConfig_t& config) {
  const dim3& block = config.blockDim;
  const dim3& grid = config.gridDim;
  const size_t count = size_t{block.x} * block.y * block.z;
  if (count < 1 || count > 1024 || block.z > 64 || grid.x < 1 || grid.x > INT32_MAX || grid.y != 1 ||
      grid.z != 1) {
    return cudaErrorInvalidConfiguration;
  }
  const auto allowed = allowed_shared_memory.find(kernel);
  const size_t most = allowed == allowed_shared_memory.end() ? kSharedByDefault : allowed->second;
  const size_t all = sizeof(pydistill::cuda::shared_scratch);
  return config.dynamicSmemBytes > std::min(most, all) ? cudaErrorInvalidValue : cudaSuccess;
}

}  // namespace

uint64_t meet(const char* file, int line, Meeting meeting, unsigned int lanes, uint64_t own, int mask) {
  Thread& self = *running;
  if (meeting == Meeting::kBarrier) {
    if (line == left_out.second && file == left_out.first) {
      return 0;
    }
    if (self.number == 0) {
      barriers.insert({file, line});
    }
  }
  self.file = file;
  self.line = line;
  self.meeting = meeting;
  self.lanes = lanes;
  self.own = own;
  self.mask = mask;
  self.state = State::kWaits;
  self.fibre.switch_to(scheduler);
  return self.result;
}

cudaError_t run_kernel(const void* kernel, const cudaLaunchConfig_t& config, void (*run)(const void*),
                       const void* call_begin, size_t call_bytes) {
  last_error = error_of(kernel, config);
  if (last_error != cudaSuccess) {
    return last_error;
  }
  dl_iterate_phdr(&find_shared_memory, nullptr);
  blockDim = config.blockDim;
  gridDim = config.gridDim;
  thread_count = size_t{blockDim.x} * blockDim.y * blockDim.z;
  threads.resize(std::max(threads.size(), thread_count));
  run_call = run;
  call.begin = reinterpret_cast<uintptr_t>(call_begin);
  call.end = call.begin + call_bytes;
  dynamic_bytes = config.dynamicSmemBytes;
  ++current.launch;
  generator.seed(current.launch);
  for (const uint32_t block : ordered(gridDim.x)) {
    blockIdx = dim3(block);
    current.block = block;
    ++current.block_of_all;
    run_block();
  }
  return cudaSuccess;
}

void allow_shared_memory(const void* kernel, size_t bytes) { allowed_shared_memory[kernel] = bytes; }

void set_order(Order wanted) { order = wanted; }

const std::set<Place>& barriers_met() { return barriers; }

void leave_out_barrier(const Place& barrier) { left_out = barrier; }

void fault(const char* format, ...) {
  va_list values;
  va_start(values, format);
  std::fputs("cuda_on_host: ", stderr);
  std::vfprintf(stderr, format, values);
  std::fputc('\n', stderr);
  va_end(values);
  std::abort();
}

bool in_kernel() { return running != nullptr; }

Position position() {
  Position now = current;
  now.thread = running->number;
  now.barriers = running->barriers;
  return now;
}

bool is_private(uintptr_t address) { return running->fibre.has_on_stack(address) || call.holds(address); }

Range shared_memory() { return shared; }

Range beyond_dynamic_shared_memory() {
  const auto begin = reinterpret_cast<uintptr_t>(&pydistill::cuda::shared_scratch[0]);
  return {begin + dynamic_bytes, begin + sizeof(pydistill::cuda::shared_scratch)};
}

}  // namespace cuda_on_host

cudaError_t cudaGetLastError() {
  const cudaError_t error = cuda_on_host::last_error;
  cuda_on_host::last_error = cudaSuccess;
  return error;
}
