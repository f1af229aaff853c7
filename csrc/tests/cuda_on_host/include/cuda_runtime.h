// Stands for CUDA's header where g++ compiles the kernels for the host: the part of the language and of the
// runtime that csrc/cuda uses. device.cpp runs the blocks, access.cpp watches their memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)
// One block runs at a time. The thread-local memory of a program is one range, so it can be watched.
#define __shared__ thread_local

struct dim3 {
  unsigned int x;
  unsigned int y;
  unsigned int z;
  constexpr dim3(unsigned int of_x = 1, unsigned int of_y = 1, unsigned int of_z = 1)
      : x(of_x), y(of_y), z(of_z) {}
};

// Of the thread that runs now.
extern dim3 threadIdx;
extern dim3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

struct CUstream_st;
using cudaStream_t = CUstream_st*;

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace cuda_on_host {

enum class Meeting { kBarrier, kBarrierOr, kShuffleXor, kBallot };

// Waits for all threads of the block, or for the lanes of the warp that are named, and returns what the
// meeting gives this thread. `own` is what it brings; `mask` is the shuffle's.
uint64_t meet(const char* file, int line, Meeting meeting, unsigned int lanes, uint64_t own, int mask);

// A kernel with its arguments, of which every thread has a copy.
template <typename... Parameters>
struct Call {
  void (*kernel)(Parameters...);
  std::tuple<Parameters...> arguments;

  static void run(const void* call) {
    const Call* self = static_cast<const Call*>(call);
    std::apply(self->kernel, self->arguments);
  }
};

// Runs all blocks, each thread as run(call).
cudaError_t run_kernel(const void* kernel, const cudaLaunchConfig_t& config, void (*run)(const void*),
                       const void* call, size_t call_bytes);
void allow_shared_memory(const void* kernel, size_t bytes);

}  // namespace cuda_on_host

#define PYDISTILL_MEET(meeting, lanes, own, mask)                                   \
  ::cuda_on_host::meet(__FILE__, __LINE__, ::cuda_on_host::Meeting::meeting, lanes, \
                       static_cast<uint64_t>(own), mask)
#define __syncthreads() static_cast<void>(PYDISTILL_MEET(kBarrier, 0, 0, 0))
#define __syncthreads_or(predicate) static_cast<int>(PYDISTILL_MEET(kBarrierOr, 0, (predicate) ? 1 : 0, 0))
#define __ballot_sync(lanes, predicate) \
  static_cast<unsigned int>(PYDISTILL_MEET(kBallot, lanes, (predicate) ? 1 : 0, 0))
#define __shfl_xor_sync(lanes, word, mask) static_cast<int>(PYDISTILL_MEET(kShuffleXor, lanes, word, mask))
#define __ffs(number) __builtin_ffs(number)

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  using Call = cuda_on_host::Call<Parameters...>;
  const Call call{kernel, {arguments...}};
  return cuda_on_host::run_kernel(reinterpret_cast<const void*>(kernel), *config, &Call::run, &call,
                                  sizeof(call));
}

cudaError_t cudaGetLastError();

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  cuda_on_host::allow_shared_memory(reinterpret_cast<const void*>(kernel), static_cast<size_t>(bytes));
  return cudaSuccess;
}
