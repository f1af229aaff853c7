#pragma once

#include <ATen/core/Tensor.h>

namespace pydistill::cuda {

// adjoint, product, grad, adjoint_next: [P], contiguous, one dtype (float or double); lr: [] of that dtype;
// inner: one double; all on one GPU. adjoint_next may be adjoint itself. Without grad (undefined) there is no
// inner. Queued on that device's current stream.
void adjoint_step(const at::Tensor& adjoint, const at::Tensor& product, const at::Tensor& grad,
                  const at::Tensor& lr, const at::Tensor& adjoint_next, const at::Tensor& inner);

}  // namespace pydistill::cuda
