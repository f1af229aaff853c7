#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>

#include "../cpu/adjoint_step.h"
#if defined(PYDISTILL_WITH_CUDA)
#include "../cuda/adjoint_step.h"
#endif

namespace pydistill::ops {
namespace {

void check_like(const at::Tensor& value, const char* name, const at::Tensor& adjoint) {
  TORCH_CHECK_VALUE(value.scalar_type() == adjoint.scalar_type(), "adjoint_step: ", name, " is ",
                    value.scalar_type(), " where adjoint is ", adjoint.scalar_type());
  TORCH_CHECK_VALUE(value.device() == adjoint.device(), "adjoint_step: ", name, " is on ", value.device(),
                    " where adjoint is on ", adjoint.device());
}

void check(const at::Tensor& adjoint, const at::Tensor& product, const at::Tensor& grad,
           const at::Tensor& lr) {
  TORCH_CHECK_VALUE(adjoint.scalar_type() == at::kFloat || adjoint.scalar_type() == at::kDouble,
                    "adjoint_step: adjoint is ", adjoint.scalar_type(), "; it must be float32 or float64");
  TORCH_CHECK_VALUE(adjoint.dim() == 1, "adjoint_step: adjoint has shape ", adjoint.sizes(),
                    "; it must be a vector [P]");
  TORCH_CHECK_VALUE(product.sizes() == adjoint.sizes(), "adjoint_step: product has shape ", product.sizes(),
                    " where adjoint has shape ", adjoint.sizes());
  TORCH_CHECK_VALUE(grad.sizes() == adjoint.sizes(), "adjoint_step: grad has shape ", grad.sizes(),
                    " where adjoint has shape ", adjoint.sizes());
  TORCH_CHECK_VALUE(lr.dim() == 0, "adjoint_step: lr has shape ", lr.sizes(), "; it must be a 0-dim tensor");
  check_like(product, "product", adjoint);
  check_like(grad, "grad", adjoint);
  check_like(lr, "lr", adjoint);
}

using Launcher = void (*)(const at::Tensor& adjoint, const at::Tensor& product, const at::Tensor& grad,
                          const at::Tensor& lr, const at::Tensor& adjoint_next, const at::Tensor& inner);

template <Launcher launch>
std::tuple<at::Tensor, at::Tensor> adjoint_step(const at::Tensor& adjoint, const at::Tensor& product,
                                                const at::Tensor& grad, const at::Tensor& lr) {
  check(adjoint, product, grad, lr);
  const at::Tensor adjoint_next = at::empty_like(adjoint, at::MemoryFormat::Contiguous);
  const at::Tensor inner = at::empty({}, adjoint.options().dtype(at::kDouble));
  launch(adjoint.contiguous(), product.contiguous(), grad.contiguous(), lr, adjoint_next, inner);
  return {adjoint_next, inner};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pydistill, library) {
  library.def(
      "adjoint_step(Tensor adjoint, Tensor product, Tensor grad, Tensor lr) -> (Tensor adjoint_next, Tensor "
      "inner)",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(pydistill, CPU, library) {
  library.impl("adjoint_step", &adjoint_step<&cpu::adjoint_step>);
}

#if defined(PYDISTILL_WITH_CUDA)
TORCH_LIBRARY_IMPL(pydistill, CUDA, library) {
  library.impl("adjoint_step", &adjoint_step<&cuda::adjoint_step>);
}
#endif

}  // namespace pydistill::ops
