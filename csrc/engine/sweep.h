// Trajectory matching's two sweeps over the steps of a student (pydistill/matching/adjoint.py has the
// formulas).
//
// Training:       theta_{k+1} = theta_k - lr_k g_k, and in the same pass the distances of theta_{k+1} to the
// target.
//
// The way back:   lambda_K = dL/dtheta_K, and for k = K - 1 ... 0
//                   dL/dX_k = -lr_k d<g_k, lambda_{k+1}>/dX_k, likewise Y_k;
//                   dL/dlr_k = -<g_k, lambda_{k+1}>;
//                   lambda_k = lambda_{k+1} - lr_k H_k lambda_{k+1}   (exact; truncated keeps lambda_K).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "student.h"

namespace pydistill::engine {

// Where the steps find their batches: step k trains on the rows index[k] of two of the source tensors, or on
// all their rows where index[k] is empty.
struct Recipe {
  std::vector<at::Tensor> sources;
  std::vector<int64_t> images;  // for each step, which source
  std::vector<int64_t> labels;
  std::vector<at::Tensor> index;

  at::Tensor rows(int64_t source, int64_t step) const;
};

// One step: theta_next = theta - lr g, sums [2] = (sum |theta_next - target|, sum (theta_next - target)^2).
void train_step(Student& student, const at::Tensor& theta, const at::Tensor& images, const at::Tensor& labels,
                const at::Tensor& lr, const at::Tensor& target, const at::Tensor& theta_next,
                const at::Tensor& sums);

// The steps [first, last): points [N + 1, P], of which points[first] is given and the next ones are written;
// sums [N + 1, 2] likewise; lr [N].
void train(Student& student, const Recipe& recipe, const at::Tensor& lr, const at::Tensor& target,
           const at::Tensor& points, const at::Tensor& sums, int64_t first, int64_t last);

// lambda [P] <- lambda - lr product
void move_adjoint(const at::Tensor& lambda, const at::Tensor& product, const at::Tensor& lr);

struct SweepWanted {
  bool exact;
  bool start;                   // lambda_0
  bool lr;                      // lr_gradient
  std::vector<bool> of_source;  // the gradient in each source
};

// Back over the steps last - 1 ... first: lambda [P] goes from lambda_last to lambda_first in place;
// lr_gradient [N] and the gradients, each like its source and zero at first, are added to.
void sweep(Student& student, const Recipe& recipe, const at::Tensor& lr, const at::Tensor& points,
           int64_t first, int64_t last, const SweepWanted& wanted, const at::Tensor& lambda,
           const at::Tensor& lr_gradient, const std::vector<at::Tensor>& gradients);

}  // namespace pydistill::engine
