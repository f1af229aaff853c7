// norm_act_pool on planes of float and double; included by one file for each instruction set.
#include "norm_act_pool_loops.inl"

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

template <typename T>
void run_group(NormActPoolPhase phase, Norm norm, Pooling pooling, const NormActPoolArrays<T>& arrays,
               int64_t image, int64_t channel, int64_t count, bool streams) {
  constexpr int64_t kSize = Lanes<T>::kSize;
  const int64_t whole = count / kSize;
  const int64_t rest = count % kSize;
  if (whole > 0) {
    kernels::with_norm_act_pool(phase, norm, pooling, arrays, WholeVector<T>{streams},
                                Loops{{image, channel, whole}});
    if (streams) {
      fence_streams();
    }
  }
  if (rest > 0) {
    kernels::with_norm_act_pool(phase, norm, pooling, arrays, PartOfVector<T>{rest},
                                Loops{{image, channel + whole * kSize, 1}});
  }
}

}  // namespace

void norm_act_pool(NormActPoolPhase phase, Norm norm, Pooling pooling, const NormActPoolArrays<float>& arrays,
                   int64_t image, int64_t channel, int64_t count, bool streams) {
  run_group(phase, norm, pooling, arrays, image, channel, count, streams);
}

void norm_act_pool(NormActPoolPhase phase, Norm norm, Pooling pooling,
                   const NormActPoolArrays<double>& arrays, int64_t image, int64_t channel, int64_t count,
                   bool streams) {
  run_group(phase, norm, pooling, arrays, image, channel, count, streams);
}

}  // namespace pydistill::cpu::PYDISTILL_ISA
