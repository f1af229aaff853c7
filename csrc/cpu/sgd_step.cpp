#include "sgd_step.h"

#include <ATen/Dispatch.h>

#include "../kernels/sgd_step.h"
#include "map_reduce.h"

namespace pydistill::cpu {

void sgd_step(const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& lr, const at::Tensor& target,
              const at::Tensor& weights, const at::Tensor& theta_next, const at::Tensor& distances) {
  AT_DISPATCH_FLOATING_TYPES(theta.scalar_type(), "pydistill::sgd_step", [&] {
    const scalar_t* from = theta.const_data_ptr<scalar_t>();
    const scalar_t* along = grad.const_data_ptr<scalar_t>();
    const scalar_t* towards = target.const_data_ptr<scalar_t>();
    const scalar_t* rate = lr.const_data_ptr<scalar_t>();
    scalar_t* next = theta_next.mutable_data_ptr<scalar_t>();
    double* sums = distances.mutable_data_ptr<double>();
    if (weights.defined()) {
      map_reduce(kernels::SgdStep<scalar_t, true>{from, along, towards, weights.const_data_ptr<scalar_t>(),
                                                  rate, next, sums},
                 theta.numel());
    } else {
      map_reduce(kernels::SgdStep<scalar_t, false>{from, along, towards, nullptr, rate, next, sums},
                 theta.numel());
    }
  });
}

}  // namespace pydistill::cpu
