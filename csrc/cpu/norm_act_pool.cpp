#include "norm_act_pool.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "../tensors/norm_act_pool.h"
#include "isa.h"
#include "simd/norm_act_pool.h"

namespace pydistill::cpu {
namespace {

using kernels::NormActPoolArrays;
using kernels::NormActPoolPhase;
using kernels::NormActPoolSettings;

constexpr int64_t kCacheLine = 64;
// The most that both passes over a group read: a share of the last-level cache.
constexpr int64_t kCacheBytes = 4 * 1024 * 1024;
// More bytes of planes than this, written in one call, do not stay in the caches.
constexpr int64_t kStreamBytes = 8 * 1024 * 1024;
// Bytes that a thread must read to be worth starting.
constexpr int64_t kThreadBytes = 256 * 1024;

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

// Whether to store planes past the caches: they are too large to be there when they are read next, and an
// ordinary store to memory that is not cached would read it first.
template <typename scalar_t>
bool streams(NormActPoolPhase phase, const NormActPoolSettings& settings, int64_t images,
             const NormActPoolArrays<scalar_t>& arrays) {
  const bool forward = phase == NormActPoolPhase::kForward || phase == NormActPoolPhase::kJvp;
  int64_t bytes = images * arrays.height * arrays.width * arrays.channels * int64_t{sizeof(scalar_t)};
  if (forward && settings.pooling != kernels::Pooling::kNone) {
    bytes /= 4;
  }
  bool aligned = arrays.channels * int64_t{sizeof(scalar_t)} % kCacheLine == 0;
  int64_t written = 0;
  for (const scalar_t* plane : {arrays.out[0], arrays.out[1], arrays.grad_z[0], arrays.grad_z[1]}) {
    aligned = aligned && reinterpret_cast<uintptr_t>(plane) % kCacheLine == 0;
    written += plane == nullptr ? 0 : bytes;
  }
  return aligned && written >= kStreamBytes;
}

// An image and a group of channels are one task. A channel's result does not depend on the grouping.
template <typename scalar_t>
void run(NormActPoolPhase phase, const NormActPoolSettings& settings, const at::Tensor& z,
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
  const bool past_caches = streams(phase, settings, z.size(0), arrays);
  at::parallel_for(0, z.size(0) * groups, grain, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t channel = piece % groups * group;
      run_group(phase, settings.norm, settings.pooling, arrays, piece / groups, channel,
                std::min(group, arrays.channels - channel), past_caches);
    }
  });
}

}  // namespace

void norm_act_pool(const NormActPoolSettings& settings, const at::Tensor& z, const at::Tensor& weight,
                   const at::Tensor& bias, const at::Tensor& out, const at::Tensor& stats) {
  const at::Tensor none;
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "pydistill::norm_act_pool", [&] {
    run(NormActPoolPhase::kForward, settings, z,
        tensors::norm_act_pool_arrays<scalar_t>(settings, {z, none}, {weight, none}, {bias, none},
                                                {out, none}, stats));
  });
}

void norm_act_pool_backward(const NormActPoolSettings& settings, const at::Tensor& grad_out,
                            const at::Tensor& z, const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& stats, const at::Tensor& grad_z,
                            const at::Tensor& parameter_grads) {
  const at::Tensor none;
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "pydistill::norm_act_pool", [&] {
    run(NormActPoolPhase::kBackward, settings, z,
        tensors::norm_act_pool_backward_arrays<scalar_t>(settings, {grad_out, none}, {z, none},
                                                         {weight, none}, {bias, none}, stats, {grad_z, none},
                                                         parameter_grads));
  });
}

void norm_act_pool_jvp(const NormActPoolSettings& settings, const at::Tensor& z, const at::Tensor& z_tangent,
                       const at::Tensor& weight, const at::Tensor& weight_tangent, const at::Tensor& bias,
                       const at::Tensor& bias_tangent, const at::Tensor& out, const at::Tensor& out_tangent,
                       const at::Tensor& stats) {
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "pydistill::norm_act_pool", [&] {
    run(NormActPoolPhase::kJvp, settings, z,
        tensors::norm_act_pool_arrays<scalar_t>(settings, {z, z_tangent}, {weight, weight_tangent},
                                                {bias, bias_tangent}, {out, out_tangent}, stats));
  });
}

void norm_act_pool_backward_jvp(const NormActPoolSettings& settings, const at::Tensor& grad_out,
                                const at::Tensor& grad_out_tangent, const at::Tensor& z,
                                const at::Tensor& z_tangent, const at::Tensor& weight,
                                const at::Tensor& weight_tangent, const at::Tensor& bias,
                                const at::Tensor& bias_tangent, const at::Tensor& stats,
                                const at::Tensor& grad_z, const at::Tensor& grad_z_tangent,
                                const at::Tensor& parameter_grads) {
  AT_DISPATCH_FLOATING_TYPES(z.scalar_type(), "pydistill::norm_act_pool", [&] {
    run(NormActPoolPhase::kBackwardJvp, settings, z,
        tensors::norm_act_pool_backward_arrays<scalar_t>(
            settings, {grad_out, grad_out_tangent}, {z, z_tangent}, {weight, weight_tangent},
            {bias, bias_tangent}, stats, {grad_z, grad_z_tangent}, parameter_grads));
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
