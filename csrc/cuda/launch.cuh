// How a kernel is queued: in C++ that any compiler reads, so that csrc/tests/cuda_on_host runs the kernels on
// machines without a GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace pydistill::cuda {

// Queues the kernel on `stream`, or nothing if there are no blocks; gives the launch's error.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, dim3 threads, size_t shared_bytes,
                   cudaStream_t stream, const Arguments&... arguments) {
  if (blocks > INT32_MAX) {
    return cudaErrorInvalidConfiguration;
  }
  if (blocks == 0) {
    return cudaSuccess;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned int>(blocks));
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, arguments...));
  return cudaGetLastError();  // the launch's error too, which would else be left for the next launch
}

}  // namespace pydistill::cuda
