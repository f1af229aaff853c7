#include "norm_act_pool.h"

#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../tensors/norm_act_pool.h"
#include "plane.cuh"

namespace pydistill::cuda {
namespace {

using kernels::NormActPoolArrays;
using kernels::NormActPoolPhase;
using kernels::NormActPoolSettings;

template <typename scalar_t>
void run(NormActPoolPhase phase, const NormActPoolSettings& settings, const at::Tensor& z,
         const NormActPoolArrays<scalar_t>& arrays) {
  const c10::cuda::CUDAGuard guard(z.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  C10_CUDA_CHECK(kernels::with_norm_act_pool(phase, settings.norm, settings.pooling, arrays,
                                             OneNumber<scalar_t>{}, PlaneLaunch{z.size(0), stream}));
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
  const c10::cuda::CUDAGuard guard(sums.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(sums.scalar_type(), "pydistill::sum_images", [&] {
    C10_CUDA_CHECK(sum_rows(parameter_grads.const_data_ptr<scalar_t>(), sums.mutable_data_ptr<scalar_t>(),
                            parameter_grads.size(0), sums.numel(), stream));
  });
}

}  // namespace pydistill::cuda
