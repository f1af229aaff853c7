#pragma once

#include <ATen/core/Tensor.h>

#include "../kernels/norm_act_pool.h"

namespace pydistill::cpu {

// All tensors: one dtype (float or double), contiguous; those of planes (z, out, their tangents and
// gradients) are contiguous in channels-last memory. H' x W' is half of H x W, rounded down, or H x W without
// pooling. weight and bias, with their tangents, may be undefined without a norm (weight always is), and so
// may stats. parameter_grads hold each image's share; without a norm those of the weight are zero. Results
// have the same bits for any number of threads.

// z: [B, C, H, W]; weight, bias: [C] -> out: [B, C, H', W']; stats: [B, 2, C].
void norm_act_pool(const kernels::NormActPoolSettings& settings, const at::Tensor& z,
                   const at::Tensor& weight, const at::Tensor& bias, const at::Tensor& out,
                   const at::Tensor& stats);

// grad_out: [B, C, H', W'] -> grad_z: [B, C, H, W]; parameter_grads: [B, 2, C] of weight and bias.
void norm_act_pool_backward(const kernels::NormActPoolSettings& settings, const at::Tensor& grad_out,
                            const at::Tensor& z, const at::Tensor& weight, const at::Tensor& bias,
                            const at::Tensor& stats, const at::Tensor& grad_z,
                            const at::Tensor& parameter_grads);

// As norm_act_pool; a tangent has the shape of what it is the tangent of; stats: [B, 4, C].
void norm_act_pool_jvp(const kernels::NormActPoolSettings& settings, const at::Tensor& z,
                       const at::Tensor& z_tangent, const at::Tensor& weight,
                       const at::Tensor& weight_tangent, const at::Tensor& bias,
                       const at::Tensor& bias_tangent, const at::Tensor& out, const at::Tensor& out_tangent,
                       const at::Tensor& stats);

// As norm_act_pool_backward; stats: [B, 4, C] of norm_act_pool_jvp; parameter_grads: [B, 4, C] of weight and
// bias, and the tangents of these.
void norm_act_pool_backward_jvp(const kernels::NormActPoolSettings& settings, const at::Tensor& grad_out,
                                const at::Tensor& grad_out_tangent, const at::Tensor& z,
                                const at::Tensor& z_tangent, const at::Tensor& weight,
                                const at::Tensor& weight_tangent, const at::Tensor& bias,
                                const at::Tensor& bias_tangent, const at::Tensor& stats,
                                const at::Tensor& grad_z, const at::Tensor& grad_z_tangent,
                                const at::Tensor& parameter_grads);

// parameter_grads: [B, k, C] -> sums: [k, C], added in the order of the images.
void sum_images(const at::Tensor& parameter_grads, const at::Tensor& sums);

}  // namespace pydistill::cpu
