// The work on a step's row of tables as ops, one for each kernel, for tests of the kernels alone: the engine
// calls the launchers itself. As there, nothing is checked.
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include "../engine/kernels.h"

namespace pydistill::ops {
namespace {

using at::Tensor;
using engine::on_device_of;

void take_point(const Tensor& points, const Tensor& step, Tensor out) {
  PYDISTILL_ON_DEVICE_OF(out, take_point, points, step, out);
}
void sgd_step_of_tables(const Tensor& theta, const Tensor& grad, const Tensor& target, const Tensor& lr,
                        const Tensor& step, const Tensor& points, Tensor distances) {
  PYDISTILL_ON_DEVICE_OF(theta, sgd_step_of_tables, theta, grad, target, lr, step, points, distances);
}
void adjoint_step_of_tables(Tensor adjoint, const Tensor& product, const Tensor& lr, const Tensor& step) {
  PYDISTILL_ON_DEVICE_OF(adjoint, adjoint_step_of_tables, adjoint, product, lr, step);
}
void take_rows(const Tensor& table, const Tensor& index, const Tensor& step, Tensor out) {
  PYDISTILL_ON_DEVICE_OF(out, take_rows, table, index, step, out);
}
void subtract_rows(const Tensor& share, const Tensor& index, const Tensor& lr, const Tensor& step,
                   Tensor gradient) {
  PYDISTILL_ON_DEVICE_OF(share, subtract_rows, share, index, lr, step, gradient);
}
void subtract_at_step(const Tensor& value, const Tensor& step, Tensor table) {
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

// csrc/cpu/steps.h says what each does and the shapes.
TORCH_LIBRARY_FRAGMENT(pydistill, library) {
  library.def("steps_take_point(Tensor points, Tensor step, Tensor(a!) out) -> ()");
  library.def(
      "steps_sgd_step_of_tables(Tensor theta, Tensor grad, Tensor target, Tensor lr, Tensor step, Tensor "
      "points, "
      "Tensor(a!) distances) -> ()");
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
