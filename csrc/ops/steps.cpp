// The kernels of kernels/steps.h as ops, for their tests alone: the engine calls the launchers directly.
#include <ATen/core/Tensor.h>
#include <ATen/ops/scalar_tensor.h>
#include <torch/library.h>

#include <optional>

#include "../engine/kernels.h"

namespace pydistill::ops {
namespace {

using at::Tensor;
using engine::on_device_of;

void check(const Tensor& tensor, const char* name, at::Device device, at::ScalarType kind,
           at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(tensor.sizes() == shape && tensor.is_contiguous(), name,
                    " must be contiguous and of shape ", shape, ", not ", tensor.sizes());
  TORCH_CHECK_VALUE(tensor.device() == device, name, " must be on ", device, ", not on ", tensor.device());
  TORCH_CHECK_VALUE(tensor.scalar_type() == kind, name, " must be ", kind, ", not ", tensor.scalar_type());
}
void check_like(const Tensor& tensor, const char* name, const Tensor& like, at::IntArrayRef shape) {
  check(tensor, name, like.device(), like.scalar_type(), shape);
}

// Check that a step lies in [0, steps); not on a GPU, where reading it would wait for the device.
void check_step(const Tensor& step, const Tensor& like, int64_t steps) {
  check(step, "step", like.device(), at::kLong, {});
  if (step.is_cpu()) {
    const int64_t number = step.item<int64_t>();
    TORCH_CHECK_VALUE(number >= 0 && number < steps, "step must be from 0 to ", steps - 1, ", not ", number);
  }
}

void check_index(const Tensor& index, const Tensor& like) {
  TORCH_CHECK_VALUE(index.dim() == 2, "index must be [N, B], not ", index.sizes());
  check(index, "index", like.device(), at::kLong, index.sizes());
}

void check_vector(const Tensor& tensor, const char* name) {
  TORCH_CHECK_VALUE(tensor.dim() == 1 && tensor.is_contiguous(), name, " must be a contiguous vector, not ",
                    tensor.sizes());
}

// The address of the points [N + 1, P], [] int64 in the device's memory, where the kernels read it.
Tensor address_of(const Tensor& points) {
  return at::scalar_tensor(reinterpret_cast<int64_t>(points.data_ptr()), points.options().dtype(at::kLong));
}

void take_point(const Tensor& points, const Tensor& step, Tensor out) {
  check_vector(out, "out");
  TORCH_CHECK_VALUE(points.dim() == 2, "points must be [N + 1, P], not ", points.sizes());
  check_like(points, "points", out, {points.size(0), out.numel()});
  check_step(step, out, points.size(0));
  PYDISTILL_ON_DEVICE_OF(out, copy_point, address_of(points), step, out);
}
void sgd_step_of_tables(const Tensor& theta, const Tensor& grad, const Tensor& target,
                        const std::optional<Tensor>& weights, const Tensor& lr, const Tensor& step,
                        Tensor points, Tensor distances) {
  check_vector(theta, "theta");
  check_like(grad, "grad", theta, theta.sizes());
  check_like(target, "target", theta, theta.sizes());
  if (weights) {
    check_like(*weights, "weights", theta, theta.sizes());
  }
  check_vector(lr, "lr");
  check_like(lr, "lr", theta, lr.sizes());
  check_like(points, "points", theta, {lr.numel() + 1, theta.numel()});
  check(distances, "distances", theta.device(), at::kDouble, {lr.numel() + 1, 2});
  check_step(step, theta, lr.numel());
  PYDISTILL_ON_DEVICE_OF(theta, sgd_step_of_tables, theta, grad, target, weights.value_or(Tensor()), lr, step,
                         address_of(points), distances);
}
void adjoint_step_of_tables(Tensor adjoint, const Tensor& product, const Tensor& lr, const Tensor& step) {
  check_vector(adjoint, "adjoint");
  check_like(product, "product", adjoint, adjoint.sizes());
  check_vector(lr, "lr");
  check_like(lr, "lr", adjoint, lr.sizes());
  check_step(step, adjoint, lr.numel());
  PYDISTILL_ON_DEVICE_OF(adjoint, adjoint_step_of_tables, adjoint, product, lr, step);
}
void take_rows(const Tensor& table, const Tensor& index, const Tensor& step, Tensor out) {
  TORCH_CHECK_VALUE(table.dim() == 1 || table.dim() == 2, "table must be [n] or [n, K], not ", table.sizes());
  check_like(table, "table", out, table.sizes());
  check_index(index, out);
  auto shape = table.sizes().vec();
  shape[0] = index.size(1);
  check_like(out, "out", table, shape);
  check_step(step, out, index.size(0));
  PYDISTILL_ON_DEVICE_OF(out, gather_rows, table, index, step, out);
}
void subtract_rows(const Tensor& share, const Tensor& index, const Tensor& lr, const Tensor& step,
                   Tensor gradient) {
  TORCH_CHECK_VALUE(share.dim() == 2 && gradient.dim() == 2, "share must be [B, K] and gradient [n, K], not ",
                    share.sizes(), " and ", gradient.sizes());
  check_index(index, share);
  check_like(share, "share", share, {index.size(1), share.size(1)});
  check_like(gradient, "gradient", share, {gradient.size(0), share.size(1)});
  check_like(lr, "lr", share, {index.size(0)});
  check_step(step, share, index.size(0));
  PYDISTILL_ON_DEVICE_OF(share, subtract_rows, share, index, lr, step, gradient);
}
void subtract_at_step(const Tensor& value, const Tensor& step, Tensor table) {
  check_vector(table, "table");
  check_like(value, "value", table, {});
  check_step(step, table, table.numel());
  PYDISTILL_ON_DEVICE_OF(table, subtract_at_step, value, step, table);
}

void implement(torch::Library& library) {
  library.impl("steps_take_point", &take_point);
  library.impl("steps_sgd_step_of_tables", &sgd_step_of_tables);
  library.impl("steps_adjoint_step_of_tables", &adjoint_step_of_tables);
  library.impl("steps_take_rows", &take_rows);
  library.impl("steps_subtract_rows", &subtract_rows);
  library.impl("steps_subtract_at_step", &subtract_at_step);
}

}  // namespace

// csrc/cpu/steps.h says what each does and the shapes; points are the points themselves here, [N + 1, P].
TORCH_LIBRARY_FRAGMENT(pydistill, library) {
  library.def("steps_take_point(Tensor points, Tensor step, Tensor(a!) out) -> ()");
  library.def(
      "steps_sgd_step_of_tables(Tensor theta, Tensor grad, Tensor target, Tensor? weights, Tensor lr, "
      "Tensor step, Tensor(a!) points, Tensor(b!) distances) -> ()");
  library.def(
      "steps_adjoint_step_of_tables(Tensor(a!) adjoint, Tensor product, Tensor lr, Tensor step) -> ()");
  library.def("steps_take_rows(Tensor table, Tensor index, Tensor step, Tensor(a!) out) -> ()");
  library.def(
      "steps_subtract_rows(Tensor share, Tensor index, Tensor lr, Tensor step, Tensor(a!) gradient) -> ()");
  library.def("steps_subtract_at_step(Tensor value, Tensor step, Tensor(a!) table) -> ()");
}

TORCH_LIBRARY_IMPL(pydistill, CPU, library) { implement(library); }

#if defined(PYDISTILL_WITH_CUDA)
TORCH_LIBRARY_IMPL(pydistill, CUDA, library) { implement(library); }
#endif

}  // namespace pydistill::ops
