#include "steps.h"

#include <ATen/Dispatch.h>

#include "../tensors/steps.h"
#include "map.h"
#include "map_reduce.h"

namespace pydistill::cpu {

void copy_point(const at::Tensor& points, const at::Tensor& step, const at::Tensor& out) {
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "pydistill::copy_point", [&] {
    map(tensors::copy_point_arrays<scalar_t>(points, step, out), out.numel());
  });
}

void sgd_step_of_tables(const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& target,
                        const at::Tensor& weights, const at::Tensor& lr, const at::Tensor& step,
                        const at::Tensor& points, const at::Tensor& distances) {
  AT_DISPATCH_FLOATING_TYPES(theta.scalar_type(), "pydistill::sgd_step_of_tables", [&] {
    const auto run = [&](const auto& arrays) { map_reduce(arrays.now(), theta.numel()); };
    if (weights.defined()) {
      run(tensors::sgd_step_arrays<scalar_t, true>(theta, grad, target, weights, lr, step, points,
                                                   distances));
    } else {
      run(tensors::sgd_step_arrays<scalar_t, false>(theta, grad, target, weights, lr, step, points,
                                                    distances));
    }
  });
}

void adjoint_step_of_tables(const at::Tensor& adjoint, const at::Tensor& product, const at::Tensor& lr,
                            const at::Tensor& step) {
  AT_DISPATCH_FLOATING_TYPES(adjoint.scalar_type(), "pydistill::adjoint_step_of_tables", [&] {
    map(tensors::adjoint_step_arrays<scalar_t>(adjoint, product, lr, step), adjoint.numel());
  });
}

void gather_rows(const at::Tensor& table, const at::Tensor& index, const at::Tensor& step,
                 const at::Tensor& out) {
  AT_DISPATCH_FLOATING_TYPES_AND(at::kLong, out.scalar_type(), "pydistill::gather_rows", [&] {
    map(tensors::gather_rows_arrays<scalar_t>(table, index, step, out), out.numel());
  });
}

void subtract_rows(const at::Tensor& share, const at::Tensor& index, const at::Tensor& lr,
                   const at::Tensor& step, const at::Tensor& gradient) {
  AT_DISPATCH_FLOATING_TYPES(share.scalar_type(), "pydistill::subtract_rows", [&] {
    map(tensors::subtract_rows_arrays<scalar_t>(share, index, lr, step, gradient), gradient.numel());
  });
}

void subtract_at_step(const at::Tensor& value, const at::Tensor& step, const at::Tensor& table) {
  AT_DISPATCH_FLOATING_TYPES(table.scalar_type(), "pydistill::subtract_at_step",
                             [&] { map(tensors::subtract_at_step_arrays<scalar_t>(value, step, table), 1); });
}

}  // namespace pydistill::cpu
