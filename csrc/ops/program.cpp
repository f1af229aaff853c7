// The engine's program as torch.classes.pydistill.Program. pydistill/matching/backends/program.py makes its tables,
// fills them and says what they mean.
#include "program.h"

#include <ATen/core/Tensor.h>
#include <torch/custom_class.h>

#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "../engine/program.h"
#include "student.h"

namespace pydistill::ops {
namespace {

// Where there is nothing, callers give a tensor of no elements.
at::Tensor or_nothing(const at::Tensor& tensor) { return tensor.numel() > 0 ? tensor : at::Tensor(); }

class Program : public torch::CustomClassHolder {
 public:
  // tables: as in engine::ProgramTables, in its order; batches: as in engine::BatchTables, likewise.
  Program(const c10::intrusive_ptr<Student>& student, const std::vector<at::Tensor>& tables,
          const std::vector<std::vector<at::Tensor>>& batches, std::vector<int64_t> batches_of_step,
          bool graphs)
      : student_(student) {
    TORCH_CHECK_VALUE(tables.size() == 9, "Program: there must be nine tables, not ", tables.size());
    engine::ProgramTables given = {tables[0], tables[1], tables[2], tables[3], tables[4],
                                   tables[5], tables[6], tables[7], tables[8], {}};
    for (const std::vector<at::Tensor>& each : batches) {
      TORCH_CHECK_VALUE(each.size() == 6, "Program: batches must have six tables, not ", each.size());
      given.batches.push_back(
          {each[0], each[1], each[2], or_nothing(each[3]), or_nothing(each[4]), or_nothing(each[5])});
    }
    for (const int64_t which : batches_of_step) {
      TORCH_CHECK_VALUE(which >= 0 && which < static_cast<int64_t>(batches.size()),
                        "Program: a step reads batches ", which, " of ", batches.size());
    }
    steps_ = static_cast<int64_t>(batches_of_step.size());
    check(given, student->parameters());
    like_ = given.images;
    const EngineGuard guard(like_);
    program_ = std::make_unique<engine::Program>(student->engine(), std::move(given),
                                                 std::move(batches_of_step), graphs);
  }

  void train(int64_t first, int64_t last) {
    check_steps(first, last);
    const EngineGuard guard(like_, student_->mutex());
    program_->train(first, last);
  }

  void go_back(int64_t last, int64_t first, const std::vector<int64_t>& wanted) {
    check_steps(first, last);
    TORCH_CHECK_VALUE(static_cast<int64_t>(wanted.size()) == last - first, "Program: wanted has ",
                      wanted.size(), " values for ", last - first, " steps");
    const EngineGuard guard(like_, student_->mutex());
    program_->go_back(last, first, wanted);
  }

  // How often a step was run as it is, recorded as a graph, replayed.
  std::tuple<int64_t, int64_t, int64_t> counts() {
    const engine::Replayer::Counts& counts = program_->replayer().counts();
    return {counts.direct, counts.recorded, counts.replayed};
  }

  std::string obstacle() { return program_->replayer().obstacle(); }

 private:
  void check_steps(int64_t first, int64_t last) const {
    TORCH_CHECK_VALUE(first >= 0 && first <= last && last <= steps_, "Program: steps ", first, " to ", last,
                      " of ", steps_);
  }

  // The bodies trust these shapes on every run.
  void check(const engine::ProgramTables& tables, int64_t parameters) const {
    const auto is = [&](const at::Tensor& table, const char* name, at::IntArrayRef shape,
                        at::ScalarType type) {
      TORCH_CHECK_VALUE(table.sizes() == shape && table.is_contiguous(), "Program: ", name, " has shape ",
                        table.sizes(), "; it must be ", shape, " and contiguous");
      TORCH_CHECK_VALUE(table.scalar_type() == type && table.device() == tables.images.device(),
                        "Program: ", name, " is ", table.scalar_type(), " on ", table.device(),
                        "; it must be ", type, " on ", tables.images.device());
    };
    TORCH_CHECK_VALUE(tables.images.dim() == 4, "Program: images have shape ", tables.images.sizes(),
                      "; they must be [n, C, H, W]");
    const at::ScalarType type = tables.images.scalar_type();
    is(tables.images, "images", tables.images.sizes(), type);
    is(tables.image_gradients, "image_gradients", tables.images.sizes(), type);
    is(tables.step, "step", {}, at::kLong);
    is(tables.points, "points", {}, at::kLong);
    is(tables.target, "target", {parameters}, type);
    is(tables.adjoint, "adjoint", {parameters}, type);
    is(tables.lr, "lr", {steps_}, type);
    is(tables.lr_gradient, "lr_gradient", {steps_}, type);
    is(tables.sums, "sums", {steps_ + 1, 2}, at::kDouble);
    for (const engine::BatchTables& each : tables.batches) {
      TORCH_CHECK_VALUE(each.image_index.dim() == 2, "Program: image_index has shape ",
                        each.image_index.sizes(), "; it must be [N, B]");
      const int64_t batch = each.image_index.size(1);
      is(each.image_index, "image_index", {steps_, batch}, at::kLong);
      is(each.label_index, "label_index", {steps_, batch}, at::kLong);
      const bool rows = each.labels.dim() == 2;
      TORCH_CHECK_VALUE(rows || each.labels.dim() == 1, "Program: labels have shape ", each.labels.sizes(),
                        "; they must be [n] or [n, K]");
      is(each.labels, "labels", each.labels.sizes(), rows ? type : at::kLong);
      if (rows) {
        TORCH_CHECK_VALUE(each.label_gradients.defined(), "Program: label rows must have gradients");
        is(each.label_gradients, "label_gradients", each.labels.sizes(), type);
      }
      if (each.operations.defined()) {
        TORCH_CHECK_VALUE(
            each.operations.dim() == 2 && each.parameters.defined() && each.parameters.dim() == 3,
            "Program: an augmentation has operations [N, L] and parameters [N, rows, width]");
        is(each.operations, "operations", {steps_, each.operations.size(1)}, at::kLong);
        const int64_t sets = each.parameters.size(1);
        TORCH_CHECK_VALUE(sets == 1 || sets == batch, "Program: ", sets,
                          " sets of parameters for a batch of ", batch);
        is(each.parameters, "parameters", {steps_, sets, each.parameters.size(2)}, type);
      }
    }
  }

  int64_t steps_ = 0;
  c10::intrusive_ptr<Student> student_;
  std::unique_ptr<engine::Program> program_;
  at::Tensor like_;
};

}  // namespace

void define_program(torch::Library& library) {
  library.class_<Program>("Program")
      .def(torch::init<const c10::intrusive_ptr<Student>&, const std::vector<at::Tensor>&,
                       const std::vector<std::vector<at::Tensor>>&, std::vector<int64_t>, bool>())
      .def("train", &Program::train)
      .def("go_back", &Program::go_back)
      .def("counts", &Program::counts)
      .def("obstacle", &Program::obstacle);
}

}  // namespace pydistill::ops
