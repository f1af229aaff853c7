// Marks a function as arithmetic for both machines. This header and everything in kernels/ includes neither
// torch nor the CUDA runtime: g++ compiles it as plain C++17, nvcc once for the host and once for the device.
#pragma once

#if defined(__CUDACC__)
#define PYDISTILL_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define PYDISTILL_HOST_DEVICE inline
#endif
