// Kernels with one planted fault each, which must be reported, and correct ones, which must not be.
#include <cuda_runtime.h>

#include <functional>

#include "../../cuda/launch.cuh"
#include "host_test.h"

namespace pydistill::cuda {  // device.cpp has the memory of this name

__global__ void more_shared_memory_than_asked_for() {
  extern __shared__ double shared_scratch[];
  shared_scratch[threadIdx.x] = 1;
}

}  // namespace pydistill::cuda

namespace {

using cuda_on_host::DeviceArray;
using cuda_on_host::fault_of;
using pydistill::cuda::launch;

constexpr unsigned int kThreads = 64;

__global__ void reverse(float* out) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}
__global__ void no_barrier(float* out) {
  __shared__ float shared[kThreads];
  shared[threadIdx.x] = 1;
  out[threadIdx.x] = shared[kThreads - 1 - threadIdx.x];
}
__global__ void no_barrier_before_the_next_round(float* out) {
  __shared__ float shared[kThreads];
  for (int round = 0; round < 2; ++round) {
    shared[threadIdx.x] = static_cast<float>(round);
    __syncthreads();
    out[threadIdx.x] += shared[kThreads - 1 - threadIdx.x];
  }
}
// As a GPU runs warps, it need not happen: of one warp, in which every thread reads what it wrote itself.
__global__ void two_threads_write_the_same(float* out) { out[threadIdx.x / 2] = 1; }
__global__ void two_blocks_write_the_same(float* out) { out[threadIdx.x] = 1; }
__global__ void a_block_reads_its_neighbour_s(float* out) {
  if (threadIdx.x == 0) {
    out[blockIdx.x] = 1;
    out[kThreads + blockIdx.x] = out[(blockIdx.x + 1) % gridDim.x];
  }
}
__global__ void some_end_before_the_barrier(float* out) {
  if (threadIdx.x > 50) {
    return;
  }
  __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void two_barriers_for_one(float* out) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    out[threadIdx.x] = 1;
    __syncthreads();
  }
}
__global__ void a_shuffle_without_lane_5(float* out) {
  if (threadIdx.x != 5) {
    out[threadIdx.x] = static_cast<float>(__shfl_xor_sync(0xffffffffu, 1, 1));
  }
}
__global__ void a_vote_in_one_branch(float* out) {
  if (threadIdx.x < 16) {
    out[threadIdx.x] = static_cast<float>(__ballot_sync(0xffffffffu, true));
  } else {
    __syncthreads();
  }
}
__global__ void past_the_end(float* out) { out[blockIdx.x * kThreads + threadIdx.x] = 1; }
__global__ void before_the_beginning(float* out) { *(out - 1) = 1; }
__global__ void reads_what_nothing_wrote(const float* in, float* out) { out[threadIdx.x] = in[threadIdx.x]; }
__global__ void reads_the_last_block_s_shared_memory(float* out) {
  __shared__ float shared[1];
  if (blockIdx.x == 0) {
    shared[0] = 1;
  }
  out[blockIdx.x] = shared[0];
}
void must_report(const char* expected, const std::function<void()>& run) {
  for (const auto order :
       {cuda_on_host::Order::kForward, cuda_on_host::Order::kReverse, cuda_on_host::Order::kShuffled}) {
    const std::string report = fault_of([&] {
      cuda_on_host::set_order(order);
      run();
    });
    if (report.find(expected) == std::string::npos) {
      std::fprintf(stderr, "expected \"%s\", was \"%s\"\n", expected, report.c_str());
      std::exit(1);
    }
  }
}

void faults_are_reported() {
  DeviceArray<float> numbers(std::vector<float>(2 * kThreads, 0.0f));
  DeviceArray<float> unwritten(int64_t{kThreads});
  float* const out = numbers.data();
  std::vector<float> of_the_host(kThreads);
  must_report("shared memory", [&] { launch(&no_barrier, 1, kThreads, 0, nullptr, out); });
  must_report("without a barrier",
              [&] { launch(&no_barrier_before_the_next_round, 1, kThreads, 0, nullptr, out); });
  must_report("write after write without a barrier",
              [&] { launch(&two_threads_write_the_same, 1, kThreads, 0, nullptr, out); });
  must_report("write after write without a barrier",
              [&] { launch(&two_blocks_write_the_same, 2, kThreads, 0, nullptr, out); });
  must_report("without a barrier",
              [&] { launch(&a_block_reads_its_neighbour_s, 3, kThreads, 0, nullptr, out); });
  must_report("has ended", [&] { launch(&some_end_before_the_barrier, 1, kThreads, 0, nullptr, out); });
  must_report("hangs", [&] { launch(&two_barriers_for_one, 1, kThreads, 0, nullptr, out); });
  must_report("names lane 5, which has ended",
              [&] { launch(&a_shuffle_without_lane_5, 1, 32, 0, nullptr, out); });
  must_report("names lane 4, which does not exist",
              [&] { launch(&a_shuffle_without_lane_5, 1, 4, 0, nullptr, out); });
  must_report("hangs", [&] { launch(&a_vote_in_one_branch, 1, 32, 0, nullptr, out); });
  must_report("no device memory", [&] { launch(&past_the_end, 3, kThreads, 0, nullptr, out); });
  must_report("no device memory", [&] { launch(&before_the_beginning, 1, 1, 0, nullptr, out); });
  must_report("no device memory", [&] { launch(&before_the_beginning, 1, 1, 0, nullptr, nullptr); });
  must_report("no device memory",
              [&] { launch(&past_the_end, 1, kThreads, 0, nullptr, of_the_host.data()); });
  must_report("never written",
              [&] { launch(&reads_what_nothing_wrote, 1, kThreads, 0, nullptr, unwritten.data(), out); });
  must_report("never written", [&] { launch(&reads_the_last_block_s_shared_memory, 2, 1, 0, nullptr, out); });
  must_report("behind the shared memory of the launch", [&] {
    launch(&pydistill::cuda::more_shared_memory_than_asked_for, 1, 5, 4 * sizeof(double), nullptr);
  });
}

void what_is_no_fault_runs() {
  DeviceArray<float> numbers(int64_t{2 * kThreads});
  CHECK(launch(&reverse, 2, kThreads, 0, nullptr, numbers.data()) == cudaSuccess);
  for (unsigned int i = 0; i < 2 * kThreads; ++i) {
    CHECK(numbers.numbers()[i] == static_cast<float>(kThreads - 1 - i % kThreads));
  }
  // A later launch reads what an earlier one wrote.
  DeviceArray<float> copy(int64_t{kThreads});
  CHECK(launch(&reads_what_nothing_wrote, 1, kThreads, 0, nullptr, numbers.data(), copy.data()) ==
        cudaSuccess);
  cuda_on_host::check_every_barrier_is_needed(
      1, [&] { launch(&reverse, 1, kThreads, 0, nullptr, copy.data()); });
}

// As a device refuses them; the error is that launch's alone.
void launches_are_refused() {
  DeviceArray<float> numbers(int64_t{kThreads});
  float* const out = numbers.data();
  CHECK(launch(&reverse, 1, 1025, 0, nullptr, out) == cudaErrorInvalidConfiguration);
  CHECK(launch(&reverse, int64_t{1} << 31, kThreads, 0, nullptr, out) == cudaErrorInvalidConfiguration);
  CHECK(launch(&reverse, 1, kThreads, 50 * 1024, nullptr, out) == cudaErrorInvalidValue);
  CHECK(launch(&reverse, 0, kThreads, 0, nullptr, out) == cudaSuccess);
  CHECK(launch(&reverse, 1, kThreads, 0, nullptr, out) == cudaSuccess);
  CHECK(cudaFuncSetAttribute(&reverse, cudaFuncAttributeMaxDynamicSharedMemorySize, 60 * 1024) ==
        cudaSuccess);
  CHECK(launch(&reverse, 1, kThreads, 50 * 1024, nullptr, out) == cudaSuccess);
}

}  // namespace

int main() {
  faults_are_reported();
  what_is_no_fault_runs();
  launches_are_refused();
  std::puts("planted_faults: all checks hold");
  return 0;
}
