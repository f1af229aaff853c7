#include "program.h"

#include <ATen/ops/zeros.h>

#include <utility>

namespace pydistill::bindings {
namespace {

void check_table(const at::Tensor& table, const char* name, at::IntArrayRef shape, at::ScalarType type,
                 at::Device device) {
  TORCH_CHECK_VALUE(table.sizes() == shape && table.is_contiguous(), "Program: ", name, " has shape ",
                    table.sizes(), "; it must be ", shape, " and contiguous");
  TORCH_CHECK_VALUE(table.scalar_type() == type && table.device() == device, "Program: ", name, " is ",
                    table.scalar_type(), " on ", table.device(), "; it must be ", type, " on ", device);
}

void check_batches(const engine::BatchTables& batches, int64_t steps, at::ScalarType type,
                   at::Device device) {
  const auto check = [&](const at::Tensor& table, const char* name, at::IntArrayRef shape,
                         at::ScalarType table_type) { check_table(table, name, shape, table_type, device); };
  TORCH_CHECK_VALUE(batches.image_index.dim() == 2, "Program: image_index has shape ",
                    batches.image_index.sizes(), "; it must be [N, B]");
  const int64_t batch = batches.image_index.size(1);
  check(batches.image_index, "image_index", {steps, batch}, at::kLong);
  check(batches.label_index, "label_index", {steps, batch}, at::kLong);
  const bool soft = batches.labels.dim() == 2;
  TORCH_CHECK_VALUE(soft || batches.labels.dim() == 1, "Program: labels have shape ", batches.labels.sizes(),
                    "; they must be [n] or [n, K]");
  check(batches.labels, "labels", batches.labels.sizes(), soft ? type : at::kLong);
  if (soft) {
    TORCH_CHECK_VALUE(batches.label_gradients.defined(), "Program: label rows must have label_gradients");
    check(batches.label_gradients, "label_gradients", batches.labels.sizes(), type);
  }
  if (batches.operations.defined()) {
    TORCH_CHECK_VALUE(
        batches.operations.dim() == 2 && batches.parameters.defined() && batches.parameters.dim() == 3,
        "Program: an augmentation has operations [N, L] and parameters [N, rows, width]");
    check(batches.operations, "operations", {steps, batches.operations.size(1)}, at::kLong);
    const int64_t rows = batches.parameters.size(1);
    TORCH_CHECK_VALUE(rows == 1 || rows == batch, "Program: parameters have ", rows, " rows for a batch of ",
                      batch, "; they must have 1 or ", batch);
    check(batches.parameters, "parameters", {steps, rows, batches.parameters.size(2)}, type);
  }
}

void check_tables(const engine::ProgramTables& tables, int64_t steps, int64_t parameters) {
  TORCH_CHECK_VALUE(tables.images.dim() == 4, "Program: images have shape ", tables.images.sizes(),
                    "; they must be [n, C, H, W]");
  const at::ScalarType type = tables.images.scalar_type();
  const at::Device device = tables.images.device();
  check_table(tables.images, "images", tables.images.sizes(), type, device);
  check_table(tables.image_gradients, "image_gradients", tables.images.sizes(), type, device);
  check_table(tables.step, "step", {}, at::kLong, device);
  check_table(tables.target, "target", {parameters}, type, device);
  if (tables.weights.defined()) {
    check_table(tables.weights, "weights", {parameters}, type, device);
  }
  check_table(tables.adjoint, "adjoint", {parameters}, type, device);
  check_table(tables.lr, "lr", {steps}, type, device);
  check_table(tables.lr_gradient, "lr_gradient", {steps}, type, device);
  check_table(tables.sums, "sums", {steps + 1, 2}, at::kDouble, device);
  for (const engine::BatchTables& batches : tables.batches) {
    check_batches(batches, steps, type, device);
  }
}

}  // namespace

Program::Program(std::shared_ptr<Student> student, engine::ProgramTables tables,
                 std::vector<int64_t> batches_of_step, bool graphs)
    : student_(std::move(student)),
      steps_(static_cast<int64_t>(batches_of_step.size())),
      images_(tables.images) {
  const int64_t kinds = static_cast<int64_t>(tables.batches.size());
  for (const int64_t kind : batches_of_step) {
    TORCH_CHECK_VALUE(kind >= 0 && kind < kinds, "Program: a step reads batches ", kind, " of ", kinds);
  }
  check_tables(tables, steps_, student_->parameters());
  const EngineGuard guard(images_);
  points_ = at::zeros({}, images_.options().dtype(at::kLong));
  tables.points = points_;
  program_ = std::make_unique<engine::Program>(student_->engine(), std::move(tables),
                                               std::move(batches_of_step), graphs);
}

void Program::set_points(const at::Tensor& points) {
  TORCH_CHECK_VALUE(points.dim() == 2, "Program: points has shape ", points.sizes(), "; it must be [n, P]");
  check_table(points, "points", {points.size(0), student_->parameters()}, images_.scalar_type(),
              images_.device());
  const EngineGuard guard(images_);
  points_.fill_(reinterpret_cast<int64_t>(points.mutable_data_ptr()));
  point_count_ = points.size(0);
}

void Program::train(int64_t first, int64_t last) {
  check_steps(first, last);
  check_points(last + 1);
  const EngineGuard guard(images_, student_->mutex());
  program_->train(first, last);
}

void Program::go_back(int64_t last, int64_t first, const std::vector<int64_t>& outputs) {
  check_steps(first, last);
  check_points(last);
  TORCH_CHECK_VALUE(static_cast<int64_t>(outputs.size()) == last - first, "Program: outputs has ",
                    outputs.size(), " values for ", last - first, " steps");
  const EngineGuard guard(images_, student_->mutex());
  program_->go_back(last, first, outputs);
}

void Program::check_steps(int64_t first, int64_t last) const {
  TORCH_CHECK_VALUE(first >= 0 && first <= last && last <= steps_, "Program: steps ", first, " to ", last,
                    " of ", steps_);
}

void Program::check_points(int64_t needed) const {
  TORCH_CHECK_VALUE(point_count_ >= needed, "Program: points has ", point_count_, " rows; these steps need ",
                    needed);
}

}  // namespace pydistill::bindings
