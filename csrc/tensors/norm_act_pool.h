// From the tensors that the launchers of norm_act_pool take, for any device, to the pointers that its kernels
// take. Shapes are those of cpu/norm_act_pool.h.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>

#include <type_traits>

#include "../kernels/bfloat16.h"
#include "../kernels/norm_act_pool.h"

namespace pydistill::tensors {

// A value and its tangent; either may be undefined.
struct Pair {
  const at::Tensor& value;
  const at::Tensor& tangent;
};

// What a launcher computes in, and what it keeps planes in.
template <typename scalar_t, typename plane_t>
struct NormActPoolTypes {
  using Scalar = scalar_t;
  using Plane = plane_t;
  using Arrays = kernels::NormActPoolArrays<scalar_t, plane_t>;
};

// Calls work(NormActPoolTypes) with the types for these planes.
template <typename Work>
void with_types_of(const at::Tensor& planes, const Work& work) {
  if (planes.scalar_type() == at::kBFloat16) {
    work(NormActPoolTypes<float, kernels::Bfloat16>());
    return;
  }
  AT_DISPATCH_FLOATING_TYPES(planes.scalar_type(), "pydistill::norm_act_pool",
                             [&] { work(NormActPoolTypes<scalar_t, scalar_t>()); });
}

// Where a tensor's numbers lie; null if it is undefined.
template <typename T>
const T* numbers_of(const at::Tensor& tensor) {
  if (!tensor.defined()) {
    return nullptr;
  }
  if constexpr (std::is_same_v<T, kernels::Bfloat16>) {
    static_assert(sizeof(T) == sizeof(at::BFloat16));
    return reinterpret_cast<const T*>(tensor.const_data_ptr<at::BFloat16>());
  } else {
    return tensor.const_data_ptr<T>();
  }
}
template <typename T>
T* mutable_numbers_of(const at::Tensor& tensor) {
  if (!tensor.defined()) {
    return nullptr;
  }
  if constexpr (std::is_same_v<T, kernels::Bfloat16>) {
    return reinterpret_cast<T*>(tensor.mutable_data_ptr<at::BFloat16>());
  } else {
    return tensor.mutable_data_ptr<T>();
  }
}

template <typename T>
void read(const T* (&to)[2], const Pair& from) {
  to[0] = numbers_of<T>(from.value);
  to[1] = numbers_of<T>(from.tangent);
}

template <typename T>
void write(T* (&to)[2], const Pair& from) {
  to[0] = mutable_numbers_of<T>(from.value);
  to[1] = mutable_numbers_of<T>(from.tangent);
}

template <typename Types>
typename Types::Arrays norm_act_pool_inputs(const kernels::NormActPoolSettings& settings, const Pair& z,
                                            const Pair& weight, const Pair& bias) {
  typename Types::Arrays arrays{};
  arrays.channels = z.value.size(1);
  arrays.height = z.value.size(2);
  arrays.width = z.value.size(3);
  arrays.eps = static_cast<typename Types::Scalar>(settings.eps);
  read(arrays.z, z);
  read(arrays.weight, weight);
  read(arrays.bias, bias);
  return arrays;
}

template <typename Types>
typename Types::Arrays norm_act_pool_arrays(const kernels::NormActPoolSettings& settings, const Pair& z,
                                            const Pair& weight, const Pair& bias, const Pair& out,
                                            const at::Tensor& stats) {
  auto arrays = norm_act_pool_inputs<Types>(settings, z, weight, bias);
  write(arrays.out, out);
  arrays.stats = mutable_numbers_of<typename Types::Scalar>(stats);
  return arrays;
}

template <typename Types>
typename Types::Arrays norm_act_pool_backward_arrays(const kernels::NormActPoolSettings& settings,
                                                     const Pair& grad_out, const Pair& z, const Pair& weight,
                                                     const Pair& bias, const at::Tensor& stats,
                                                     const Pair& grad_z, const at::Tensor& parameter_grads) {
  using Scalar = typename Types::Scalar;
  auto arrays = norm_act_pool_inputs<Types>(settings, z, weight, bias);
  read(arrays.grad_out, grad_out);
  arrays.stats = const_cast<Scalar*>(numbers_of<Scalar>(stats));
  write(arrays.grad_z, grad_z);
  arrays.parameter_grads = mutable_numbers_of<Scalar>(parameter_grads);
  return arrays;
}

}  // namespace pydistill::tensors
