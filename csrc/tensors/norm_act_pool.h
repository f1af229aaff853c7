// Convert the tensors of norm_act_pool's launchers to the pointers of its kernels, for any device. Shapes are
// those of cpu/norm_act_pool.h.
#pragma once

#include <ATen/core/Tensor.h>

#include "../kernels/norm_act_pool.h"

namespace pydistill::tensors {

// A value and its tangent; either may be undefined.
struct DualRef {
  const at::Tensor& value;
  const at::Tensor& tangent;
};

// The address of a tensor's elements; null if it is undefined.
template <typename T>
const T* data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr<T>() : nullptr;
}
template <typename T>
T* mutable_data_or_null(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}

template <typename T>
void read(const T* (&to)[2], const DualRef& from) {
  to[0] = data_or_null<T>(from.value);
  to[1] = data_or_null<T>(from.tangent);
}

template <typename T>
void write(T* (&to)[2], const DualRef& from) {
  to[0] = mutable_data_or_null<T>(from.value);
  to[1] = mutable_data_or_null<T>(from.tangent);
}

template <typename T>
kernels::NormActPoolArrays<T> norm_act_pool_inputs(const kernels::NormActPoolSettings& settings,
                                                   const DualRef& z, const DualRef& weight,
                                                   const DualRef& bias) {
  kernels::NormActPoolArrays<T> arrays{};
  arrays.channels = z.value.size(1);
  arrays.height = z.value.size(2);
  arrays.width = z.value.size(3);
  arrays.eps = static_cast<T>(settings.eps);
  read(arrays.z, z);
  read(arrays.weight, weight);
  read(arrays.bias, bias);
  return arrays;
}

template <typename T>
kernels::NormActPoolArrays<T> norm_act_pool_arrays(const kernels::NormActPoolSettings& settings,
                                                   const DualRef& z, const DualRef& weight,
                                                   const DualRef& bias, const DualRef& out,
                                                   const at::Tensor& stats) {
  auto arrays = norm_act_pool_inputs<T>(settings, z, weight, bias);
  write(arrays.out, out);
  arrays.stats = mutable_data_or_null<T>(stats);
  return arrays;
}

template <typename T>
kernels::NormActPoolArrays<T> norm_act_pool_backward_arrays(const kernels::NormActPoolSettings& settings,
                                                            const DualRef& grad_out, const DualRef& z,
                                                            const DualRef& weight, const DualRef& bias,
                                                            const at::Tensor& stats, const DualRef& grad_z,
                                                            const at::Tensor& parameter_grads) {
  auto arrays = norm_act_pool_inputs<T>(settings, z, weight, bias);
  read(arrays.grad_out, grad_out);
  arrays.stats = const_cast<T*>(data_or_null<T>(stats));
  write(arrays.grad_z, grad_z);
  arrays.parameter_grads = mutable_data_or_null<T>(parameter_grads);
  return arrays;
}

}  // namespace pydistill::tensors
