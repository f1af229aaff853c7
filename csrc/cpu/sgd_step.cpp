#include "sgd_step.h"

#include <ATen/Dispatch.h>

#include "../kernels/sgd_step.h"
#include "map_reduce.h"

namespace pydistill::cpu {

void sgd_step(const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& lr, const at::Tensor& target,
              const at::Tensor& theta_next, const at::Tensor& distances) {
  AT_DISPATCH_FLOATING_TYPES(theta.scalar_type(), "pydistill::sgd_step", [&] {
    const kernels::SgdStep<scalar_t> step{
        theta.const_data_ptr<scalar_t>(),        grad.const_data_ptr<scalar_t>(),
        target.const_data_ptr<scalar_t>(),       lr.const_data_ptr<scalar_t>(),
        theta_next.mutable_data_ptr<scalar_t>(), distances.mutable_data_ptr<double>(),
    };
    map_reduce(step, theta.numel());
  });
}

}  // namespace pydistill::cpu
