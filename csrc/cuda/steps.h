#pragma once

#include <ATen/core/Tensor.h>

namespace pydistill::cuda {

// Work on the row of tables that the step names: step: [] int64, in the memory that the work runs on. Numbers
// are of one dtype (float or double), all tensors contiguous and on one GPU. points: [] int64, the address of
// theta_0 ... theta_N, [N + 1, P]. Queued on that device's current stream; reads nothing back.

// out: [P] <- theta_k
void copy_point(const at::Tensor& points, const at::Tensor& step, const at::Tensor& out);

// theta, grad, target, weights (undefined for none): [P]; lr: [N]; writes theta_{k+1} and row k + 1 of
// distances: [N + 1, 2] double.
void sgd_step_of_tables(const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& target,
                        const at::Tensor& weights, const at::Tensor& lr, const at::Tensor& step,
                        const at::Tensor& points, const at::Tensor& distances);

// adjoint: [P] <- adjoint - lr_k product; lr: [N].
void adjoint_step_of_tables(const at::Tensor& adjoint, const at::Tensor& product, const at::Tensor& lr,
                            const at::Tensor& step);

// table: [n] int64 or [n, K]; index: [N, B] int64; out: [B] or [B, K] <- the rows index[k]. A row that does
// not exist is NaN, or -1 in integers.
void gather_rows(const at::Tensor& table, const at::Tensor& index, const at::Tensor& step,
                 const at::Tensor& out);

// gradient: [n, K]; share: [B, K]; gradient[index[k, b]] -= lr_k share[b], in the order of b.
void subtract_rows(const at::Tensor& share, const at::Tensor& index, const at::Tensor& lr,
                   const at::Tensor& step, const at::Tensor& gradient);

// table: [N]; table[k] -= value: [].
void subtract_at_step(const at::Tensor& value, const at::Tensor& step, const at::Tensor& table);

}  // namespace pydistill::cuda
