#if defined(__x86_64__)
#define PYDISTILL_ISA_AVX2
#include "augment.inl"
#endif
