#if defined(__x86_64__)
#define PYDISTILL_ISA_AVX512
#include "augment.inl"
#endif
