// The loops of augment over vector registers, compiled once for each instruction set. scratch:
// [images_between(L), C, H, W].
#pragma once

#include <cstdint>

#include "../../kernels/augment.h"

namespace pydistill::cpu {

#define PYDISTILL_DECLARE_AUGMENT(isa, scalar_t)                                                    \
  namespace isa {                                                                                   \
  /* Makes place j of the batch. */                                                                 \
  void augment_place(const kernels::AugmentArrays<scalar_t>& arrays, int64_t j, scalar_t* scratch); \
  /* Adds to the gradient of image i what its place j in the batch gives. */                        \
  void augment_place_backward(const kernels::AugmentArrays<scalar_t>& arrays, int64_t i, int64_t j, \
                              scalar_t* scratch);                                                   \
  }

PYDISTILL_DECLARE_AUGMENT(baseline, float)
PYDISTILL_DECLARE_AUGMENT(baseline, double)
#if defined(__x86_64__)
PYDISTILL_DECLARE_AUGMENT(avx2, float)
PYDISTILL_DECLARE_AUGMENT(avx2, double)
PYDISTILL_DECLARE_AUGMENT(avx512, float)
PYDISTILL_DECLARE_AUGMENT(avx512, double)
#endif
#undef PYDISTILL_DECLARE_AUGMENT

}  // namespace pydistill::cpu
