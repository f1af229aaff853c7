#pragma once

#include <ATen/core/Tensor.h>

namespace pydistill::cuda {

// logits, their tangents and gradients: [B, K], contiguous, one dtype (float or double); labels: class
// numbers [B] int64, or rows [B, K] of that dtype; what is kept of each row: [B] of that dtype; all on one
// GPU. A class number outside [0, K) makes its row of every result NaN. scale stands for 1/B of the whole
// batch, of which these rows may be a part. Results that are undefined are left out. Queued on that device's
// current stream.

void softmax_xent_loss(const at::Tensor& logits, const at::Tensor& labels, double scale,
                       const at::Tensor& losses);

void softmax_xent_backward(const at::Tensor& logits, const at::Tensor& labels, double scale,
                           const at::Tensor& losses, const at::Tensor& grad_logits,
                           const at::Tensor& grad_labels);

void softmax_xent_backward_jvp(const at::Tensor& logits, const at::Tensor& logits_tangent,
                               const at::Tensor& labels, double scale, const at::Tensor& loss_tangents,
                               const at::Tensor& grad_logits, const at::Tensor& grad_logits_tangent,
                               const at::Tensor& grad_labels_tangent);

// The sum of losses [B] into loss [], in double and in an order that depends on B alone.
void softmax_xent_sum(const at::Tensor& losses, const at::Tensor& loss);

}  // namespace pydistill::cuda
