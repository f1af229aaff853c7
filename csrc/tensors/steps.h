// Convert the tensors of the steps' launchers to the pointers of their kernels, for any device.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "../kernels/steps.h"

namespace pydistill::tensors {

// K of rows [B, K]; 1 for class numbers [B].
inline int64_t width_of(const at::Tensor& rows) { return rows.dim() == 1 ? 1 : rows.size(1); }

template <typename scalar_t>
kernels::CopyPoint<scalar_t> copy_point_arrays(const at::Tensor& points, const at::Tensor& step,
                                               const at::Tensor& out) {
  return {points.const_data_ptr<int64_t>(), step.const_data_ptr<int64_t>(), out.numel(),
          out.mutable_data_ptr<scalar_t>()};
}

template <typename scalar_t, bool kWeighted>
kernels::SgdStepOfTables<scalar_t, kWeighted> sgd_step_arrays(
    const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& target, const at::Tensor& weights,
    const at::Tensor& lr, const at::Tensor& step, const at::Tensor& points, const at::Tensor& distances) {
  return {theta.const_data_ptr<scalar_t>(),
          grad.const_data_ptr<scalar_t>(),
          target.const_data_ptr<scalar_t>(),
          kWeighted ? weights.const_data_ptr<scalar_t>() : nullptr,
          lr.const_data_ptr<scalar_t>(),
          points.const_data_ptr<int64_t>(),
          distances.mutable_data_ptr<double>(),
          step.const_data_ptr<int64_t>(),
          theta.numel()};
}

template <typename scalar_t>
kernels::AdjointStepOfTables<scalar_t> adjoint_step_arrays(const at::Tensor& adjoint,
                                                           const at::Tensor& product, const at::Tensor& lr,
                                                           const at::Tensor& step) {
  return {adjoint.mutable_data_ptr<scalar_t>(), product.const_data_ptr<scalar_t>(),
          lr.const_data_ptr<scalar_t>(), step.const_data_ptr<int64_t>(), adjoint.numel()};
}

template <typename scalar_t>
kernels::GatherRows<scalar_t> gather_rows_arrays(const at::Tensor& table, const at::Tensor& index,
                                                 const at::Tensor& step, const at::Tensor& out) {
  return {table.const_data_ptr<scalar_t>(), table.size(0), index.const_data_ptr<int64_t>(),
          step.const_data_ptr<int64_t>(),   index.size(1), width_of(table),
          out.mutable_data_ptr<scalar_t>()};
}

template <typename scalar_t>
kernels::SubtractRows<scalar_t> subtract_rows_arrays(const at::Tensor& share, const at::Tensor& index,
                                                     const at::Tensor& lr, const at::Tensor& step,
                                                     const at::Tensor& gradient) {
  return {share.const_data_ptr<scalar_t>(),
          index.const_data_ptr<int64_t>(),
          lr.const_data_ptr<scalar_t>(),
          step.const_data_ptr<int64_t>(),
          index.size(1),
          width_of(share),
          gradient.mutable_data_ptr<scalar_t>()};
}

template <typename scalar_t>
kernels::SubtractAtStep<scalar_t> subtract_at_step_arrays(const at::Tensor& value, const at::Tensor& step,
                                                          const at::Tensor& table) {
  return {value.const_data_ptr<scalar_t>(), step.const_data_ptr<int64_t>(),
          table.mutable_data_ptr<scalar_t>()};
}

}  // namespace pydistill::tensors
