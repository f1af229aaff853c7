#pragma once

#include <ATen/core/Tensor.h>

namespace pydistill::cuda {

// theta, grad, target, weights (undefined for none), theta_next: [P], contiguous, one dtype (float or
// double); lr: [] of that dtype; distances: [2] double; all on one GPU. Queued on that device's current
// stream.
void sgd_step(const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& lr, const at::Tensor& target,
              const at::Tensor& weights, const at::Tensor& theta_next, const at::Tensor& distances);

}  // namespace pydistill::cuda
