#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "../cpu/sgd_step.h"
#if defined(PYDISTILL_WITH_CUDA)
#include "../cuda/sgd_step.h"
#endif

namespace pydistill::ops {
namespace {

void check_vector(const at::Tensor& value, const char* name, const at::Tensor& theta) {
  TORCH_CHECK_VALUE(value.dim() == 1 && value.sizes() == theta.sizes(), "sgd_step: ", name, " has shape ",
                    value.sizes(), " where theta has shape ", theta.sizes(), "; both must be [P]");
  TORCH_CHECK_VALUE(value.scalar_type() == theta.scalar_type(), "sgd_step: ", name, " is ",
                    value.scalar_type(), " where theta is ", theta.scalar_type());
  TORCH_CHECK_VALUE(value.device() == theta.device(), "sgd_step: ", name, " is on ", value.device(),
                    " where theta is on ", theta.device());
}

void check(const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& lr, const at::Tensor& target,
           const at::Tensor& weights) {
  TORCH_CHECK_VALUE(theta.scalar_type() == at::kFloat || theta.scalar_type() == at::kDouble,
                    "sgd_step: theta is ", theta.scalar_type(), "; it must be float32 or float64");
  check_vector(theta, "theta", theta);
  check_vector(grad, "grad", theta);
  check_vector(target, "target", theta);
  if (weights.defined()) {
    check_vector(weights, "weights", theta);
  }
  TORCH_CHECK_VALUE(lr.dim() == 0, "sgd_step: lr has shape ", lr.sizes(), "; it must be a 0-dim tensor");
  TORCH_CHECK_VALUE(lr.scalar_type() == theta.scalar_type(), "sgd_step: lr is ", lr.scalar_type(),
                    " where theta is ", theta.scalar_type());
  TORCH_CHECK_VALUE(lr.device() == theta.device(), "sgd_step: lr is on ", lr.device(), " where theta is on ",
                    theta.device());
}

using Launcher = void (*)(const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& lr,
                          const at::Tensor& target, const at::Tensor& weights, const at::Tensor& theta_next,
                          const at::Tensor& distances);

template <Launcher launch>
std::tuple<at::Tensor, at::Tensor> sgd_step(const at::Tensor& theta, const at::Tensor& grad,
                                            const at::Tensor& lr, const at::Tensor& target,
                                            const std::optional<at::Tensor>& optional_weights) {
  const at::Tensor weights = optional_weights.value_or(at::Tensor());
  check(theta, grad, lr, target, weights);
  const at::Tensor theta_next = at::empty_like(theta, at::MemoryFormat::Contiguous);
  const at::Tensor distances = at::empty({2}, theta.options().dtype(at::kDouble));
  launch(theta.contiguous(), grad.contiguous(), lr, target.contiguous(),
         weights.defined() ? weights.contiguous() : weights, theta_next, distances);
  return {theta_next, distances};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pydistill, library) {
  library.def(
      "sgd_step(Tensor theta, Tensor grad, Tensor lr, Tensor target, Tensor? weights=None) -> "
      "(Tensor theta_next, Tensor distances)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(pydistill, CPU, library) { library.impl("sgd_step", &sgd_step<&cpu::sgd_step>); }

#if defined(PYDISTILL_WITH_CUDA)
TORCH_LIBRARY_IMPL(pydistill, CUDA, library) { library.impl("sgd_step", &sgd_step<&cuda::sgd_step>); }
#endif

}  // namespace pydistill::ops
