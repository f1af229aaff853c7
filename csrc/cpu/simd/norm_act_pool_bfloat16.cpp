// norm_act_pool on planes of bfloat16, in float. A CPU gains nothing by them: they are there so that what a
// GPU computes can be tried and tested, so they are compiled once, for what every processor has, and a whole
// vector is taken for a part of one.
#include "norm_act_pool_loops.inl"
//
#include "../../kernels/bfloat16.h"

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

using kernels::Bfloat16;

struct PartOfBfloat16s {
  using Scalar = float;
  using Plane = Bfloat16;
  using Value = Lanes<float>;
  static constexpr int64_t kMostVectors = 1;
  int64_t count;
  PYDISTILL_INLINE Value load(const float* from) const { return Value::load(from, count); }
  PYDISTILL_INLINE void store(float* to, Value value) const { value.store(to, count); }
  PYDISTILL_INLINE Value load_plane(const Bfloat16* from) const {
    float numbers[Value::kSize] = {};
    for (int64_t lane = 0; lane < count; ++lane) {
      numbers[lane] = kernels::to_float(from[lane]);
    }
    return Value::load(numbers);
  }
  PYDISTILL_INLINE void store_plane(Bfloat16* to, Value value) const {
    float numbers[Value::kSize];
    value.store(numbers);
    for (int64_t lane = 0; lane < count; ++lane) {
      to[lane] = kernels::to_bfloat16(numbers[lane]);
    }
  }
};

}  // namespace

void norm_act_pool(NormActPoolPhase phase, Norm norm, Pooling pooling,
                   const NormActPoolArrays<float, Bfloat16>& arrays, int64_t image, int64_t channel,
                   int64_t count, bool /*streams*/) {
  constexpr int64_t kSize = Lanes<float>::kSize;
  for (int64_t done = 0; done < count; done += kSize) {
    const int64_t now = count - done < kSize ? count - done : kSize;
    kernels::with_norm_act_pool(phase, norm, pooling, arrays, PartOfBfloat16s{now},
                                Loops{{image, channel + done, 1}});
  }
}

}  // namespace pydistill::cpu::PYDISTILL_ISA
