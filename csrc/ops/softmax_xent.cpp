#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <limits>
#include <tuple>
#include <vector>

#include "../cpu/softmax_xent.h"
#if defined(PYDISTILL_WITH_CUDA)
#include "../cuda/softmax_xent.h"
#endif

namespace pydistill::ops {
namespace {

void check_like_logits(const at::Tensor& value, const char* name, const at::Tensor& logits) {
  TORCH_CHECK_VALUE(value.scalar_type() == logits.scalar_type(), "softmax_xent: ", name, " is ",
                    value.scalar_type(), " where logits is ", logits.scalar_type());
  TORCH_CHECK_VALUE(value.device() == logits.device(), "softmax_xent: ", name, " is on ", value.device(),
                    " where logits is on ", logits.device());
}

// On a GPU class numbers are not checked: the kernels turn the rows of invalid ones into NaN.
void check_class_numbers(const at::Tensor& labels, int64_t classes) {
  const at::Tensor dense = labels.contiguous();
  const int64_t* numbers = dense.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < dense.numel(); ++row) {
    TORCH_CHECK_VALUE(0 <= numbers[row] && numbers[row] < classes, "softmax_xent: labels[", row, "] is ",
                      numbers[row], "; class numbers must lie in [0, ", classes - 1, "]");
  }
}

void check(const at::Tensor& logits, const at::Tensor& labels) {
  TORCH_CHECK_VALUE(logits.scalar_type() == at::kFloat || logits.scalar_type() == at::kDouble,
                    "softmax_xent: logits is ", logits.scalar_type(), "; it must be float32 or float64");
  TORCH_CHECK_VALUE(logits.dim() == 2 && logits.size(1) > 0, "softmax_xent: logits has shape ",
                    logits.sizes(), "; it must be [B, K] with K >= 1");
  if (labels.scalar_type() == at::kLong) {
    TORCH_CHECK_VALUE(labels.dim() == 1 && labels.size(0) == logits.size(0),
                      "softmax_xent: labels has shape ", labels.sizes(), " where logits has shape ",
                      logits.sizes(), "; class numbers must be [B]");
    TORCH_CHECK_VALUE(labels.device() == logits.device(), "softmax_xent: labels is on ", labels.device(),
                      " where logits is on ", logits.device());
    if (labels.device().is_cpu()) {
      check_class_numbers(labels, logits.size(1));
    }
  } else {
    check_like_logits(labels, "labels", logits);
    TORCH_CHECK_VALUE(labels.sizes() == logits.sizes(), "softmax_xent: labels has shape ", labels.sizes(),
                      " where logits has shape ", logits.sizes(), "; label rows must be [B, K]");
  }
}

void check_tangent(const at::Tensor& logits_tangent, const at::Tensor& logits) {
  check_like_logits(logits_tangent, "logits_tangent", logits);
  TORCH_CHECK_VALUE(logits_tangent.sizes() == logits.sizes(), "softmax_xent: logits_tangent has shape ",
                    logits_tangent.sizes(), " where logits has shape ", logits.sizes());
}

struct Cpu {
  static constexpr auto loss = &cpu::softmax_xent_loss;
  static constexpr auto backward = &cpu::softmax_xent_backward;
  static constexpr auto backward_jvp = &cpu::softmax_xent_backward_jvp;
  static constexpr auto sum = &cpu::softmax_xent_sum;
};

#if defined(PYDISTILL_WITH_CUDA)
struct Cuda {
  static constexpr auto loss = &cuda::softmax_xent_loss;
  static constexpr auto backward = &cuda::softmax_xent_backward;
  static constexpr auto backward_jvp = &cuda::softmax_xent_backward_jvp;
  static constexpr auto sum = &cuda::softmax_xent_sum;
};
#endif

double scale_of(const at::Tensor& logits) { return 1.0 / static_cast<double>(logits.size(0)); }

at::Tensor like(const at::Tensor& logits) { return at::empty_like(logits, at::MemoryFormat::Contiguous); }

// The mean [] from the rows' shares of it [B]; NaN without rows, as in PyTorch.
template <typename Device>
at::Tensor total(const at::Tensor& shares) {
  at::Tensor mean = at::empty({}, shares.options());
  if (shares.numel() == 0) {
    mean.fill_(std::numeric_limits<double>::quiet_NaN());
  } else {
    Device::sum(shares, mean);
  }
  return mean;
}

template <typename Device>
at::Tensor softmax_xent(const at::Tensor& logits, const at::Tensor& labels) {
  check(logits, labels);
  const at::Tensor losses = at::empty({logits.size(0)}, logits.options());
  Device::loss(logits.contiguous(), labels.contiguous(), scale_of(logits), losses);
  return total<Device>(losses);
}

template <typename Device>
std::tuple<at::Tensor, at::Tensor> softmax_xent_backward(const at::Tensor& grad_loss,
                                                         const at::Tensor& logits, const at::Tensor& labels,
                                                         bool of_labels) {
  check(logits, labels);
  check_like_logits(grad_loss, "grad_loss", logits);
  TORCH_CHECK_VALUE(grad_loss.dim() == 0, "softmax_xent: grad_loss has shape ", grad_loss.sizes(),
                    "; it must be a 0-dim tensor");
  TORCH_CHECK_VALUE(!of_labels || labels.scalar_type() != at::kLong,
                    "softmax_xent: class numbers have no gradient; label rows have one");
  const at::Tensor grad_logits = like(logits);
  const at::Tensor grad_labels = of_labels ? like(logits) : at::Tensor();
  Device::backward(logits.contiguous(), labels.contiguous(), scale_of(logits), at::Tensor(), grad_logits,
                   grad_labels);
  grad_logits.mul_(grad_loss);
  if (!of_labels) {
    return {grad_logits, at::empty({0}, logits.options())};
  }
  grad_labels.mul_(grad_loss);
  return {grad_logits, grad_labels};
}

template <typename Device>
std::tuple<at::Tensor, at::Tensor> softmax_xent_jvp(const at::Tensor& logits,
                                                    const at::Tensor& logits_tangent,
                                                    const at::Tensor& labels) {
  check(logits, labels);
  check_tangent(logits_tangent, logits);
  const at::Tensor losses = at::empty({logits.size(0)}, logits.options());
  const at::Tensor loss_tangents = at::empty_like(losses);
  const at::Tensor dense = logits.contiguous();
  const at::Tensor dense_labels = labels.contiguous();
  const double scale = scale_of(logits);
  Device::loss(dense, dense_labels, scale, losses);
  Device::backward_jvp(dense, logits_tangent.contiguous(), dense_labels, scale, loss_tangents, at::Tensor(),
                       at::Tensor(), at::Tensor());
  return {total<Device>(losses), total<Device>(loss_tangents)};
}

template <typename Device>
std::tuple<at::Tensor, at::Tensor, at::Tensor> softmax_xent_backward_jvp(const at::Tensor& logits,
                                                                         const at::Tensor& logits_tangent,
                                                                         const at::Tensor& labels) {
  check(logits, labels);
  check_tangent(logits_tangent, logits);
  const bool rows = labels.scalar_type() != at::kLong;
  const at::Tensor grad_logits = like(logits);
  const at::Tensor grad_logits_tangent = like(logits);
  const at::Tensor grad_labels_tangent = rows ? like(logits) : at::Tensor();
  Device::backward_jvp(logits.contiguous(), logits_tangent.contiguous(), labels.contiguous(),
                       scale_of(logits), at::Tensor(), grad_logits, grad_logits_tangent, grad_labels_tangent);
  return {grad_logits, grad_logits_tangent, rows ? grad_labels_tangent : at::empty({0}, logits.options())};
}

template <typename Device>
void implement(torch::Library& library) {
  library.impl("softmax_xent", &softmax_xent<Device>);
  library.impl("softmax_xent_backward", &softmax_xent_backward<Device>);
  library.impl("softmax_xent_jvp", &softmax_xent_jvp<Device>);
  library.impl("softmax_xent_backward_jvp", &softmax_xent_backward_jvp<Device>);
}

}  // namespace

// The gradient of the labels is an empty tensor [0] if it is not asked for, or the labels are class numbers.
TORCH_LIBRARY_FRAGMENT(pydistill, library) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  library.def("softmax_xent(Tensor logits, Tensor labels) -> Tensor loss", tags);
  library.def(
      "softmax_xent_backward(Tensor grad_loss, Tensor logits, Tensor labels, bool of_labels) -> (Tensor "
      "grad_logits, Tensor grad_labels)",
      tags);
  library.def(
      "softmax_xent_jvp(Tensor logits, Tensor logits_tangent, Tensor labels) -> (Tensor loss, Tensor "
      "loss_tangent)",
      tags);
  library.def(
      "softmax_xent_backward_jvp(Tensor logits, Tensor logits_tangent, Tensor labels) -> (Tensor "
      "grad_logits, "
      "Tensor grad_logits_tangent, Tensor grad_labels_tangent)",
      tags);
}

TORCH_LIBRARY_IMPL(pydistill, CPU, library) { implement<Cpu>(library); }

#if defined(PYDISTILL_WITH_CUDA)
TORCH_LIBRARY_IMPL(pydistill, CUDA, library) { implement<Cuda>(library); }
#endif

}  // namespace pydistill::ops
