// The loops of norm_act_pool over vector registers, once for each instruction set. No torch here.
#pragma once

#include <cstdint>

#include "../../kernels/norm_act_pool.h"

namespace pydistill::cpu {

// The most channels of one call are as many as this many bytes hold: whole vectors of every instruction set,
// and all that a pixel of the papers' networks has, so that pixels are read one behind the other.
constexpr int64_t kGroupBytes = 512;

// One phase of one image's channels [channel, channel + count): count <= kGroupBytes / sizeof(scalar_t).
// streams: store planes past the caches; their pixels must then begin at multiples of 64 bytes.
template <typename scalar_t>
using NormActPoolLoop = void (*)(kernels::NormActPoolPhase phase, kernels::Norm norm,
                                 kernels::Pooling pooling, const kernels::NormActPoolArrays<scalar_t>& arrays,
                                 int64_t image, int64_t channel, int64_t count, bool streams);

#define PYDISTILL_DECLARE_NORM_ACT_POOL(isa)                                                           \
  namespace isa {                                                                                      \
  void norm_act_pool(kernels::NormActPoolPhase phase, kernels::Norm norm, kernels::Pooling pooling,    \
                     const kernels::NormActPoolArrays<float>& arrays, int64_t image, int64_t channel,  \
                     int64_t count, bool streams);                                                     \
  void norm_act_pool(kernels::NormActPoolPhase phase, kernels::Norm norm, kernels::Pooling pooling,    \
                     const kernels::NormActPoolArrays<double>& arrays, int64_t image, int64_t channel, \
                     int64_t count, bool streams);                                                     \
  }

PYDISTILL_DECLARE_NORM_ACT_POOL(baseline)
#if defined(__x86_64__)
PYDISTILL_DECLARE_NORM_ACT_POOL(avx2)
PYDISTILL_DECLARE_NORM_ACT_POOL(avx512)
#endif
#undef PYDISTILL_DECLARE_NORM_ACT_POOL

}  // namespace pydistill::cpu
