#include "adjoint_step.h"

#include <ATen/Dispatch.h>

#include "../kernels/adjoint_step.h"
#include "map_reduce.h"

namespace pydistill::cpu {

void adjoint_step(const at::Tensor& adjoint, const at::Tensor& product, const at::Tensor& grad,
                  const at::Tensor& lr, const at::Tensor& adjoint_next, const at::Tensor& inner) {
  AT_DISPATCH_FLOATING_TYPES(adjoint.scalar_type(), "pydistill::adjoint_step", [&] {
    const scalar_t* from = adjoint.const_data_ptr<scalar_t>();
    const scalar_t* along = product.const_data_ptr<scalar_t>();
    const scalar_t* rate = lr.const_data_ptr<scalar_t>();
    scalar_t* next = adjoint_next.mutable_data_ptr<scalar_t>();
    if (grad.defined()) {
      map_reduce(kernels::AdjointStep<scalar_t, true>{from, along, grad.const_data_ptr<scalar_t>(), rate,
                                                      next, inner.mutable_data_ptr<double>()},
                 adjoint.numel());
    } else {
      map_reduce(kernels::AdjointStep<scalar_t, false>{from, along, nullptr, rate, next, nullptr},
                 adjoint.numel());
    }
  });
}

}  // namespace pydistill::cpu
