#include "softmax_xent.h"

#include <ATen/Dispatch.h>

#include <type_traits>

#include "../kernels/softmax_xent.h"
#include "map_reduce.h"
#include "row_map.h"

namespace pydistill::cpu {
namespace {

template <typename scalar_t>
scalar_t* data_or_null(const at::Tensor& result) {
  return result.defined() ? result.mutable_data_ptr<scalar_t>() : nullptr;
}

// Calls run(labels) with the kernels' view of them.
template <typename scalar_t, typename Run>
void with_labels(const at::Tensor& labels, int64_t classes, const Run& run) {
  if (labels.scalar_type() == at::kLong) {
    run(kernels::ClassNumbers<scalar_t>{labels.const_data_ptr<int64_t>(), classes});
  } else {
    run(kernels::LabelRows<scalar_t>{labels.const_data_ptr<scalar_t>(), classes});
  }
}

}  // namespace

void softmax_xent_loss(const at::Tensor& logits, const at::Tensor& labels, double scale,
                       const at::Tensor& losses) {
  softmax_xent_backward(logits, labels, scale, losses, at::Tensor(), at::Tensor());
}

void softmax_xent_backward(const at::Tensor& logits, const at::Tensor& labels, double scale,
                           const at::Tensor& losses, const at::Tensor& grad_logits,
                           const at::Tensor& grad_labels) {
  const int64_t classes = logits.size(1);
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "pydistill::softmax_xent", [&] {
    with_labels<scalar_t>(labels, classes, [&](const auto& view) {
      using Labels = std::decay_t<decltype(view)>;
      row_map(
          kernels::SoftmaxXent<scalar_t, Labels>{logits.const_data_ptr<scalar_t>(), view, classes,
                                                 static_cast<scalar_t>(scale), data_or_null<scalar_t>(losses),
                                                 data_or_null<scalar_t>(grad_logits),
                                                 data_or_null<scalar_t>(grad_labels)},
          logits.size(0));
    });
  });
}

void softmax_xent_backward_jvp(const at::Tensor& logits, const at::Tensor& logits_tangent,
                               const at::Tensor& labels, double scale, const at::Tensor& loss_tangents,
                               const at::Tensor& grad_logits, const at::Tensor& grad_logits_tangent,
                               const at::Tensor& grad_labels_tangent) {
  const int64_t classes = logits.size(1);
  AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "pydistill::softmax_xent_backward_jvp", [&] {
    with_labels<scalar_t>(labels, classes, [&](const auto& view) {
      using Labels = std::decay_t<decltype(view)>;
      row_map(
          kernels::SoftmaxXentTangent<scalar_t, Labels>{
              logits.const_data_ptr<scalar_t>(), logits_tangent.const_data_ptr<scalar_t>(), view, classes,
              static_cast<scalar_t>(scale), data_or_null<scalar_t>(loss_tangents),
              data_or_null<scalar_t>(grad_logits), data_or_null<scalar_t>(grad_logits_tangent),
              data_or_null<scalar_t>(grad_labels_tangent)},
          logits.size(0));
    });
  });
}

void softmax_xent_sum(const at::Tensor& losses, const at::Tensor& loss) {
  AT_DISPATCH_FLOATING_TYPES(losses.scalar_type(), "pydistill::softmax_xent_sum", [&] {
    map_reduce(
        kernels::LossSum<scalar_t>{losses.const_data_ptr<scalar_t>(), loss.mutable_data_ptr<scalar_t>()},
        losses.numel());
  });
}

}  // namespace pydistill::cpu
