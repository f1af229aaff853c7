#include "steps.h"

#include <ATen/Dispatch.h>

#include "../kernels/steps.h"
#include "map.h"
#include "map_reduce.h"

namespace pydistill::cpu {
namespace {

int64_t width_of(const at::Tensor& rows) { return rows.dim() == 1 ? 1 : rows.size(1); }

}  // namespace

void take_point(const at::Tensor& points, const at::Tensor& step, const at::Tensor& out) {
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "pydistill::take_point", [&] {
    map(kernels::TakePoint<scalar_t>{points.const_data_ptr<int64_t>(), step.const_data_ptr<int64_t>(),
                                     out.numel(), out.mutable_data_ptr<scalar_t>()},
        out.numel());
  });
}

void sgd_step_of_tables(const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& target,
                        const at::Tensor& lr, const at::Tensor& step, const at::Tensor& points,
                        const at::Tensor& distances) {
  AT_DISPATCH_FLOATING_TYPES(theta.scalar_type(), "pydistill::sgd_step_of_tables", [&] {
    const kernels::SgdStepOfTables<scalar_t> tables{
        theta.const_data_ptr<scalar_t>(),  grad.const_data_ptr<scalar_t>(),
        target.const_data_ptr<scalar_t>(), lr.const_data_ptr<scalar_t>(),
        points.const_data_ptr<int64_t>(),  distances.mutable_data_ptr<double>(),
        step.const_data_ptr<int64_t>(),    theta.numel()};
    map_reduce(tables.now(), theta.numel());
  });
}

void adjoint_step_of_tables(const at::Tensor& adjoint, const at::Tensor& product, const at::Tensor& lr,
                            const at::Tensor& step) {
  AT_DISPATCH_FLOATING_TYPES(adjoint.scalar_type(), "pydistill::adjoint_step_of_tables", [&] {
    map(kernels::AdjointStepOfTables<scalar_t>{adjoint.mutable_data_ptr<scalar_t>(),
                                               product.const_data_ptr<scalar_t>(),
                                               lr.const_data_ptr<scalar_t>(), step.const_data_ptr<int64_t>(),
                                               adjoint.numel()},
        adjoint.numel());
  });
}

void take_rows(const at::Tensor& table, const at::Tensor& index, const at::Tensor& step,
               const at::Tensor& out) {
  AT_DISPATCH_FLOATING_TYPES_AND(at::kLong, out.scalar_type(), "pydistill::take_rows", [&] {
    map(kernels::TakeRows<scalar_t>{table.const_data_ptr<scalar_t>(), table.size(0),
                                    index.const_data_ptr<int64_t>(), step.const_data_ptr<int64_t>(),
                                    index.size(1), width_of(table), out.mutable_data_ptr<scalar_t>()},
        out.numel());
  });
}

void subtract_rows(const at::Tensor& share, const at::Tensor& index, const at::Tensor& lr,
                   const at::Tensor& step, const at::Tensor& gradient) {
  AT_DISPATCH_FLOATING_TYPES(share.scalar_type(), "pydistill::subtract_rows", [&] {
    map(kernels::SubtractRows<scalar_t>{share.const_data_ptr<scalar_t>(), index.const_data_ptr<int64_t>(),
                                        lr.const_data_ptr<scalar_t>(), step.const_data_ptr<int64_t>(),
                                        index.size(1), width_of(share),
                                        gradient.mutable_data_ptr<scalar_t>()},
        gradient.numel());
  });
}

void subtract_at_step(const at::Tensor& value, const at::Tensor& step, const at::Tensor& table) {
  AT_DISPATCH_FLOATING_TYPES(table.scalar_type(), "pydistill::subtract_at_step", [&] {
    map(kernels::SubtractAtStep<scalar_t>{value.const_data_ptr<scalar_t>(), step.const_data_ptr<int64_t>(),
                                          table.mutable_data_ptr<scalar_t>()},
        1);
  });
}

}  // namespace pydistill::cpu
