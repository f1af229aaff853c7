#include "program.h"

#include <ATen/ops/empty.h>

#include <utility>

#include "kernels.h"
#include "recorder_cuda.h"

namespace pydistill::engine {

Program::Program(std::shared_ptr<Student> student, ProgramTables tables, std::vector<int64_t> batches_of_step,
                 bool graphs)
    : student_(std::move(student)),
      tables_(std::move(tables)),
      batches_of_step_(std::move(batches_of_step)),
      replayer_(recorder_of(tables_.images.device(), graphs)) {
  for (const BatchTables& batches : tables_.batches) {
    std::vector<int64_t> sizes = batches.labels.sizes().vec();
    sizes[0] = batches.label_index.size(1);
    labels_.push_back(at::empty(sizes, batches.labels.options()));
  }
}

void Program::train(int64_t first, int64_t last) {
  tables_.step.fill_(first);
  for (int64_t step = first; step < last; ++step) {
    const int64_t kind = batches_of_step_[static_cast<size_t>(step)];
    student_->discard_unfinished_pass();
    replayer_.run({0, kind}, [this, kind] { forward_step(static_cast<size_t>(kind)); });
  }
}

void Program::go_back(int64_t last, int64_t first, const std::vector<int64_t>& outputs) {
  tables_.step.fill_(last - 1);
  for (int64_t step = last; step-- > first;) {
    const int64_t kind = batches_of_step_[static_cast<size_t>(step)];
    const int64_t output = outputs[static_cast<size_t>(step - first)];
    student_->discard_unfinished_pass();
    replayer_.run({1, kind, output},
                  [this, kind, output] { adjoint_step(static_cast<size_t>(kind), output); });
  }
}

tensors::AugmentRecipe Program::recipe(const BatchTables& batches) const {
  return {batches.image_index, batches.operations, batches.parameters, tables_.step};
}

// Writes theta_k and batch k to the student's inputs.
Student::Inputs Program::load_step(size_t kind) {
  const BatchTables& batches = tables_.batches[kind];
  Student::Inputs inputs = student_->inputs(batches.image_index.size(1));
  PYDISTILL_ON_DEVICE_OF(inputs.theta, copy_point, tables_.points, tables_.step, inputs.theta);
  PYDISTILL_ON_DEVICE_OF(inputs.images, augment, tables_.images, recipe(batches), inputs.images);
  PYDISTILL_ON_DEVICE_OF(labels_[kind], gather_rows, batches.labels, batches.label_index, tables_.step,
                         labels_[kind]);
  return inputs;
}

void Program::forward_step(size_t kind) {
  const Student::Inputs inputs = load_step(kind);
  const at::Tensor& gradient = student_->gradient_of_inputs(labels_[kind]);
  PYDISTILL_ON_DEVICE_OF(gradient, sgd_step_of_tables, inputs.theta, gradient, tables_.target,
                         tables_.weights, tables_.lr, tables_.step, tables_.points, tables_.sums);
  tables_.step.add_(1);
}

void Program::adjoint_step(size_t kind, int64_t outputs) {
  if (outputs != 0) {
    const BatchTables& batches = tables_.batches[kind];
    const Student::Inputs inputs = load_step(kind);
    inputs.lambda.copy_(tables_.adjoint);
    const Student::Adjoint result = student_->adjoint_of_inputs(
        labels_[kind], {(outputs & kProduct) != 0, (outputs & kImages) != 0, (outputs & kLabels) != 0});
    if ((outputs & kLr) != 0) {
      PYDISTILL_ON_DEVICE_OF(result.inner, subtract_at_step, result.inner, tables_.step, tables_.lr_gradient);
    }
    if ((outputs & kImages) != 0) {
      PYDISTILL_ON_DEVICE_OF(result.images, augment_backward, result.images, recipe(batches), tables_.lr,
                             true, tables_.image_gradients);
    }
    if ((outputs & kLabels) != 0) {
      PYDISTILL_ON_DEVICE_OF(result.labels, subtract_rows, result.labels, batches.label_index, tables_.lr,
                             tables_.step, batches.label_gradients);
    }
    if ((outputs & kProduct) != 0) {
      PYDISTILL_ON_DEVICE_OF(result.product, adjoint_step_of_tables, tables_.adjoint, result.product,
                             tables_.lr, tables_.step);
    }
  }
  tables_.step.sub_(1);
}

}  // namespace pydistill::engine
