// A student's training as a program: two bodies of work, one step forward and one step backward
// (pydistill/matching/backends/torch.py has the formulas). They find what a step needs by a counter, in
// memory whose address never changes: a body that was recorded once can be replayed for every step of every
// training of this shape.
//
//   forward:    theta_{k+1} = theta_k - lr_k g_k, and in the same pass the distances of theta_{k+1} to the
//               target, weighted if there are weights; k + 1
//   backward:   dL/dX_k = -lr_k d<g_k, lambda_{k+1}>/dX_k, likewise Y_k;  dL/dlr_k = -<g_k, lambda_{k+1}>;
//               lambda_k = lambda_{k+1} - lr_k H_k lambda_{k+1};  k - 1
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "../tensors/augment.h"
#include "replayer.h"
#include "student.h"

namespace pydistill::engine {

// The batches of the steps of one kind: those of one size, with class numbers or with label rows. Tables have
// N rows, of which those of other steps are not read.
struct BatchTables {
  at::Tensor image_index;      // [N, B] int64: rows of the images
  at::Tensor label_index;      // [N, B] int64: rows of the labels
  at::Tensor labels;           // [n] int64, or rows [n, K]
  at::Tensor label_gradients;  // [n, K]; undefined for class numbers
  at::Tensor operations;       // [N, L] int64; undefined without augmentation
  at::Tensor parameters;       // [N, B or 1, width]; likewise
};

struct ProgramTables {
  at::Tensor step;     // [] int64, the counter k
  at::Tensor points;   // [] int64, the address of theta_0 ... theta_N, [N + 1, P]
  at::Tensor target;   // [P]
  at::Tensor weights;  // [P], w; undefined for w = 1
  at::Tensor lr;       // [N]
  at::Tensor sums;     // [N + 1, 2] double: (sum w |theta_k - target|, sum w (theta_k - target)^2)
  at::Tensor images;   // [n, C, H, W]
  at::Tensor image_gradients;
  at::Tensor adjoint;      // [P], lambda
  at::Tensor lr_gradient;  // [N]
  std::vector<BatchTables> batches;
};

// What a backward step computes, as a sum of these: lambda_k, and dL/dX_k, dL/dY_k and dL/dlr_k.
enum StepOutput : int64_t { kProduct = 1, kImages = 2, kLabels = 4, kLr = 8 };

class Program {
 public:
  // batches_of_step: for each of the N steps, the batch tables that it reads.
  Program(std::shared_ptr<Student> student, ProgramTables tables, std::vector<int64_t> batches_of_step,
          bool graphs);

  // The steps [first, last): reads theta_first; writes theta_{first+1} ... theta_last and their sums.
  void train(int64_t first, int64_t last);

  // The steps last - 1 ... first: replaces lambda_last by lambda_first and adds to the gradients. outputs: of
  // the steps from `first` on.
  void go_back(int64_t last, int64_t first, const std::vector<int64_t>& outputs);

  const Replayer& replayer() const { return replayer_; }

 private:
  Student::Inputs load_step(size_t kind);
  tensors::AugmentRecipe recipe(const BatchTables& batches) const;
  void forward_step(size_t kind);
  void adjoint_step(size_t kind, int64_t outputs);

  std::shared_ptr<Student> student_;
  ProgramTables tables_;
  std::vector<int64_t> batches_of_step_;
  std::vector<at::Tensor> labels_;  // the step's, for each of the batch tables: [B] or [B, K]
  Replayer replayer_;
};

}  // namespace pydistill::engine
