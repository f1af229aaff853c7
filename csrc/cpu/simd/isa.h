// The instruction set that the including file is compiled for: included first, after the file has defined
// PYDISTILL_ISA_AVX512, PYDISTILL_ISA_AVX2 or neither. It sets the compiler's target for all that follows.
#pragma once

#if defined(__clang__) || !defined(__GNUC__)
#error "pydistill's loops over vector registers are written for g++ (docs/building.md)"
#endif

#if defined(PYDISTILL_ISA_AVX512)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi,bmi2,prefer-vector-width=512")
#define PYDISTILL_ISA avx512
#define PYDISTILL_VECTOR_BYTES 64
#elif defined(PYDISTILL_ISA_AVX2)
#pragma GCC target("avx2,fma,bmi,bmi2")
#define PYDISTILL_ISA avx2
#define PYDISTILL_VECTOR_BYTES 32
#else  // on every processor of the architecture: SSE2 or NEON
#if defined(__x86_64__)
// Without it GCC 12 uses MMX registers and leaves the x87 state, which long double needs, unusable.
#pragma GCC target("no-mmx")
#endif
#define PYDISTILL_ISA baseline
#define PYDISTILL_VECTOR_BYTES 16
#endif

#define PYDISTILL_INLINE inline __attribute__((always_inline))
