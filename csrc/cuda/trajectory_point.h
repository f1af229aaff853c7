#pragma once

#include <ATen/core/Tensor.h>

namespace pydistill::cuda {

// start, end, point: [P], contiguous, one dtype (float or double); weights: [J] double; ends: [J] int64, the
// running sum of the tensors' sizes, whose last is P; all on one GPU. Queued on that device's current stream.
void trajectory_point(const at::Tensor& start, const at::Tensor& end, const at::Tensor& weights,
                      const at::Tensor& ends, const at::Tensor& point);

}  // namespace pydistill::cuda
