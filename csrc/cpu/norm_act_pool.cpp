#include "norm_act_pool.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "isa.h"
#include "simd/norm_act_pool.h"

namespace pydistill::cpu {
namespace {

using kernels::NormActPoolArrays;
using kernels::NormActPoolPhase;
using kernels::NormActPoolSettings;

constexpr int64_t kCacheLine = 64;
constexpr int64_t kCacheBytes =
    512 * 1024;  // what both passes over a group may read: half of a small L2 cache
constexpr int64_t kThreadBytes = 256 * 1024;  // what a thread must read for it to be worth its start

template <typename scalar_t>
NormActPoolLoop<scalar_t> loop() {
#if defined(__x86_64__)
  switch (isa()) {
    case Isa::kAvx512:
      return &avx512::norm_act_pool;
    case Isa::kAvx2:
      return &avx2::norm_act_pool;
    case Isa::kBaseline:
      break;
  }
#endif
  return &baseline::norm_act_pool;
}

template <typename scalar_t>
const scalar_t* input(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<scalar_t>() : nullptr;
}

template <typename scalar_t>
scalar_t* output(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<scalar_t>() : nullptr;
}

template <typename scalar_t>
NormActPoolArrays<scalar_t> arrays_of(const NormActPoolSettings& settings, const at::Tensor& z) {
  NormActPoolArrays<scalar_t> arrays{};
  arrays.channels = z.size(1);
  arrays.height = z.size(2);
  arrays.width = z.size(3);
  arrays.eps = static_cast<scalar_t>(settings.eps);
  arrays.z[0] = z.const_data_ptr<scalar_t>();
  return arrays;
}

// Every image and group of channels is a piece of work; no channel's result depends on how they are grouped.
template <typename scalar_t>
void run(NormActPoolPhase phase, const NormActPoolSettings& settings, int64_t images,
         const NormActPoolArrays<scalar_t>& arrays) {
  const bool tangents = phase == NormActPoolPhase::kJvp || phase == NormActPoolPhase::kBackwardJvp;
  const int64_t channel_bytes =
      arrays.height * arrays.width * static_cast<int64_t>(sizeof(scalar_t)) * (tangents ? 2 : 1);
  int64_t group_bytes = kGroupBytes;
  while (group_bytes > kCacheLine &&
         channel_bytes * group_bytes / static_cast<int64_t>(sizeof(scalar_t)) > kCacheBytes) {
    group_bytes /= 2;
  }
  const int64_t group = group_bytes / static_cast<int64_t>(sizeof(scalar_t));
  const int64_t groups = (arrays.channels + group - 1) / group;
  const int64_t grain = kThreadBytes / (channel_bytes * std::min(group, arrays.channels)) + 1;
  const NormActPoolLoop<scalar_t> run_group = loop<scalar_t>();
  at::parallel_for(0, images * groups, grain, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t channel = piece % groups * group;
      run_group(phase, settings.norm, settings.pooling, arrays, piece / groups, channel,
                std::min(group, arrays.channels - channel));
    }
  });
}

}  // namespace

void norm_act_pool(const NormActPoolSettings& settings, const at::Tensor& z, const at::Tensor& weight,
                   const at::Tensor& bias, const at::Tensor& out, const at::Tensor& stats) {
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "pydistill::norm_act_pool", [&] {
    auto arrays = arrays_of<scalar_t>(settings, z);
    arrays.weight[0] = input<scalar_t>(weight);
    arrays.bias[0] = input<scalar_t>(bias);
    arrays.out[0] = output<scalar_t>(out);
    arrays.stats = output<scalar_t>(stats);
    run(NormActPoolPhase::kForward, settings, z.size(0), arrays);
  });
}

void norm_act_pool_backward(const NormActPoolSettings& settings, const at::Tensor& grad_out,
                            const at::Tensor& z, const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& stats, const at::Tensor& grad_z,
                            const at::Tensor& parameter_grads) {
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "pydistill::norm_act_pool_backward", [&] {
    auto arrays = arrays_of<scalar_t>(settings, z);
    arrays.weight[0] = input<scalar_t>(weight);
    arrays.bias[0] = input<scalar_t>(bias);
    arrays.grad_out[0] = input<scalar_t>(grad_out);
    arrays.stats = const_cast<scalar_t*>(input<scalar_t>(stats));
    arrays.grad_z[0] = output<scalar_t>(grad_z);
    arrays.parameter_grads = output<scalar_t>(parameter_grads);
    run(NormActPoolPhase::kBackward, settings, z.size(0), arrays);
  });
}

void norm_act_pool_jvp(const NormActPoolSettings& settings, const at::Tensor& z, const at::Tensor& z_tangent,
                       const at::Tensor& weight, const at::Tensor& weight_tangent, const at::Tensor& bias,
                       const at::Tensor& bias_tangent, const at::Tensor& out, const at::Tensor& out_tangent,
                       const at::Tensor& stats) {
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "pydistill::norm_act_pool_jvp", [&] {
    auto arrays = arrays_of<scalar_t>(settings, z);
    arrays.z[1] = input<scalar_t>(z_tangent);
    arrays.weight[0] = input<scalar_t>(weight);
    arrays.weight[1] = input<scalar_t>(weight_tangent);
    arrays.bias[0] = input<scalar_t>(bias);
    arrays.bias[1] = input<scalar_t>(bias_tangent);
    arrays.out[0] = output<scalar_t>(out);
    arrays.out[1] = output<scalar_t>(out_tangent);
    arrays.stats = output<scalar_t>(stats);
    run(NormActPoolPhase::kJvp, settings, z.size(0), arrays);
  });
}

void norm_act_pool_backward_jvp(const NormActPoolSettings& settings, const at::Tensor& grad_out,
                                const at::Tensor& grad_out_tangent, const at::Tensor& z,
                                const at::Tensor& z_tangent, const at::Tensor& weight,
                                const at::Tensor& weight_tangent, const at::Tensor& bias,
                                const at::Tensor& bias_tangent, const at::Tensor& stats,
                                const at::Tensor& grad_z, const at::Tensor& grad_z_tangent,
                                const at::Tensor& parameter_grads) {
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "pydistill::norm_act_pool_backward_jvp", [&] {
    auto arrays = arrays_of<scalar_t>(settings, z);
    arrays.z[1] = input<scalar_t>(z_tangent);
    arrays.weight[0] = input<scalar_t>(weight);
    arrays.weight[1] = input<scalar_t>(weight_tangent);
    arrays.bias[0] = input<scalar_t>(bias);
    arrays.bias[1] = input<scalar_t>(bias_tangent);
    arrays.grad_out[0] = input<scalar_t>(grad_out);
    arrays.grad_out[1] = input<scalar_t>(grad_out_tangent);
    arrays.stats = const_cast<scalar_t*>(input<scalar_t>(stats));
    arrays.grad_z[0] = output<scalar_t>(grad_z);
    arrays.grad_z[1] = output<scalar_t>(grad_z_tangent);
    arrays.parameter_grads = output<scalar_t>(parameter_grads);
    run(NormActPoolPhase::kBackwardJvp, settings, z.size(0), arrays);
  });
}

void sum_images(const at::Tensor& parameter_grads, const at::Tensor& sums) {
  const int64_t images = parameter_grads.size(0);
  const int64_t columns = sums.numel();
  AT_DISPATCH_FLOATING_TYPES(sums.scalar_type(), "pydistill::sum_images", [&] {
    const scalar_t* const rows = parameter_grads.const_data_ptr<scalar_t>();
    scalar_t* const totals = sums.mutable_data_ptr<scalar_t>();
    std::fill(totals, totals + columns, scalar_t(0));
    for (int64_t image = 0; image < images; ++image) {
      const scalar_t* const row = rows + image * columns;
      for (int64_t column = 0; column < columns; ++column) {
        totals[column] += row[column];
      }
    }
  });
}

}  // namespace pydistill::cpu
