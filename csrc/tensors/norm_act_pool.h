// From the tensors that the launchers of norm_act_pool take, for any device, to the pointers that its kernels
// take. Shapes are those of cpu/norm_act_pool.h.
#pragma once

#include <ATen/core/Tensor.h>

#include "../kernels/norm_act_pool.h"

namespace pydistill::tensors {

// A value and its tangent; either may be undefined.
struct Pair {
  const at::Tensor& value;
  const at::Tensor& tangent;
};

template <typename scalar_t>
void read(const scalar_t* (&to)[2], const Pair& from) {
  to[0] = from.value.defined() ? from.value.const_data_ptr<scalar_t>() : nullptr;
  to[1] = from.tangent.defined() ? from.tangent.const_data_ptr<scalar_t>() : nullptr;
}

template <typename scalar_t>
void write(scalar_t* (&to)[2], const Pair& from) {
  to[0] = from.value.defined() ? from.value.mutable_data_ptr<scalar_t>() : nullptr;
  to[1] = from.tangent.defined() ? from.tangent.mutable_data_ptr<scalar_t>() : nullptr;
}

template <typename scalar_t>
kernels::NormActPoolArrays<scalar_t> norm_act_pool_inputs(const kernels::NormActPoolSettings& settings,
                                                          const Pair& z, const Pair& weight,
                                                          const Pair& bias) {
  kernels::NormActPoolArrays<scalar_t> arrays{};
  arrays.channels = z.value.size(1);
  arrays.height = z.value.size(2);
  arrays.width = z.value.size(3);
  arrays.eps = static_cast<scalar_t>(settings.eps);
  read(arrays.z, z);
  read(arrays.weight, weight);
  read(arrays.bias, bias);
  return arrays;
}

template <typename scalar_t>
kernels::NormActPoolArrays<scalar_t> norm_act_pool_arrays(const kernels::NormActPoolSettings& settings,
                                                          const Pair& z, const Pair& weight, const Pair& bias,
                                                          const Pair& out, const at::Tensor& stats) {
  auto arrays = norm_act_pool_inputs<scalar_t>(settings, z, weight, bias);
  write(arrays.out, out);
  arrays.stats = stats.defined() ? stats.mutable_data_ptr<scalar_t>() : nullptr;
  return arrays;
}

template <typename scalar_t>
kernels::NormActPoolArrays<scalar_t> norm_act_pool_backward_arrays(
    const kernels::NormActPoolSettings& settings, const Pair& grad_out, const Pair& z, const Pair& weight,
    const Pair& bias, const at::Tensor& stats, const Pair& grad_z, const at::Tensor& parameter_grads) {
  auto arrays = norm_act_pool_inputs<scalar_t>(settings, z, weight, bias);
  read(arrays.grad_out, grad_out);
  arrays.stats = stats.defined() ? const_cast<scalar_t*>(stats.const_data_ptr<scalar_t>()) : nullptr;
  write(arrays.grad_z, grad_z);
  arrays.parameter_grads = parameter_grads.mutable_data_ptr<scalar_t>();
  return arrays;
}

}  // namespace pydistill::tensors
