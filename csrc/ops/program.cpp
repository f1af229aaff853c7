// The engine's program as torch.classes.pydistill.Program. pydistill/matching/program.py makes its tables,
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
    like_ = given.images;
    const EngineGuard guard(like_);
    program_ = std::make_unique<engine::Program>(student->engine(), std::move(given),
                                                 std::move(batches_of_step), graphs);
  }

  void train(int64_t first, int64_t last) {
    const EngineGuard guard(like_, student_->mutex());
    program_->train(first, last);
  }

  void go_back(int64_t last, int64_t first, const std::vector<int64_t>& wanted) {
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
