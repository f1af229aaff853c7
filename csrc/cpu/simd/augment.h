// The loops of augment over vector registers, one set for each instruction set.
#pragma once

#include <cstdint>

#include "../../kernels/augment.h"

namespace pydistill::cpu {

constexpr int64_t kTapsOfAugment = 4;  // that a pixel may read along a row, where rows and columns do not mix
constexpr int64_t kLanesOfAugment = 16;  // of the widest registers

// Four channels with a border; or a row and two registers for each row.
constexpr int64_t pixels_of_augment(int64_t height, int64_t width) {
  return (height + 3) * (4 * (width + 3) + 2 * kLanesOfAugment);
}

// The numbers of scratch that one thread needs for the images of a batch.
constexpr int64_t augment_scratch(int64_t stages, int64_t channels, int64_t height, int64_t width) {
  const int64_t between = (stages < 2 ? 0 : stages == 2 ? 1 : 2) * channels * height * width;
  const int64_t rows = (channels + 16) * (width + kLanesOfAugment);  // of an image, of positions, of pixels
  const int64_t taps = 2 * kTapsOfAugment * (width + kLanesOfAugment + height);
  return between + rows + taps + pixels_of_augment(height, width);
}

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
