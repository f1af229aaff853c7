// Mark a function as arithmetic for host and device. This header and everything in kernels/ includes neither
// torch nor the CUDA runtime: g++ compiles it as plain C++17, nvcc once for the host and once for the device.
#pragma once

#include <cmath>

// Always inlined on the host too: of a file that is compiled for several instruction sets (cpu/simd/isa.h)
// the linker would otherwise choose one copy of such a function for all.
#if defined(__CUDACC__)
#define PYDISTILL_HOST_DEVICE __host__ __device__ __forceinline__
#elif defined(__GNUC__)
#define PYDISTILL_HOST_DEVICE inline __attribute__((always_inline))
#else
#define PYDISTILL_HOST_DEVICE inline
#endif

namespace pydistill::kernels {

// Arithmetic for a value type V runs on one number (V = float or double, as on a GPU) or on as many as a
// vector register holds (V = Lanes, see cpu/simd/lanes.h). Besides + - * / and comparisons it uses
//   select(condition, a, b)   a where the condition holds, b elsewhere; both are evaluated
//   square_root(a)
// Conditions are written so that a NaN stays one: select(v <= 0, 0, v), not select(v > 0, v, 0).
PYDISTILL_HOST_DEVICE float select(bool condition, float a, float b) { return condition ? a : b; }
PYDISTILL_HOST_DEVICE double select(bool condition, double a, double b) { return condition ? a : b; }
PYDISTILL_HOST_DEVICE float square_root(float a) { return std::sqrt(a); }
PYDISTILL_HOST_DEVICE double square_root(double a) { return std::sqrt(a); }

}  // namespace pydistill::kernels
