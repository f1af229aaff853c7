// The engine's program for callers outside the engine: the tables are checked once, when it is made, because
// its steps trust their shapes. No Python here; module.cpp binds it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../engine/program.h"
#include "student.h"

namespace pydistill::bindings {

class Program {
 public:
  // The caller fills all tables but `points`, which the program makes: set_points() fills that.
  Program(std::shared_ptr<Student> student, engine::ProgramTables tables,
          std::vector<int64_t> batches_of_step, bool graphs);

  // theta_0, theta_1, ..., [n, P]: train() to step `last` needs n > last, go_back() from it n >= last. The
  // program stores the address alone: the tensor must live until the last call that uses it has ended.
  void set_points(const at::Tensor& points);

  // The steps [first, last) forward.
  void train(int64_t first, int64_t last);

  // The steps last - 1 ... first backward. outputs: for each step from `first` on, what it computes.
  void go_back(int64_t last, int64_t first, const std::vector<int64_t>& outputs);

  const engine::Replayer& replayer() const { return program_->replayer(); }

 private:
  void check_steps(int64_t first, int64_t last) const;
  void check_points(int64_t needed) const;

  std::shared_ptr<Student> student_;
  int64_t steps_;
  at::Tensor images_;  // any table, for its dtype and device
  at::Tensor points_;  // [] int64
  int64_t point_count_ = 0;
  std::unique_ptr<engine::Program> program_;
};

}  // namespace pydistill::bindings
