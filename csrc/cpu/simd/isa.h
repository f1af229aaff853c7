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
#else  // what every machine of the kind has: SSE2 or NEON
#if defined(__x86_64__)
// Or the compiler (12) moves numbers through the registers that long double needs, and leaves them unusable.
#pragma GCC target("no-mmx")
#endif
#define PYDISTILL_ISA baseline
#define PYDISTILL_VECTOR_BYTES 16
#endif

#define PYDISTILL_INLINE inline __attribute__((always_inline))
