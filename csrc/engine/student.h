// A student: a network as a function of a flat parameter vector and a batch. With l the mean softmax
// cross-entropy of the batch and H its Hessian in theta,
//
//   the gradient pass computes   g = dl/dtheta: one step of its training;
//   the adjoint pass computes    H lambda, and the derivatives of dl/dX and dl/dY along lambda: one step of
//                                the backward sweep.
//
// The adjoint pass runs forward with tangents and backward with tangents (forward over reverse); it stores
// nothing between steps.
//
// A student owns the memory of its passes, for batches up to a fixed size, and allocates it once. On a CPU it
// works on a batch slice by slice (batch_slices.h): the loss is a sum over images and the norm is per image,
// so only the weights' gradients are summed over slices.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "../cpu/one_thread.h"
#include "architecture.h"
#include "batch_slices.h"
#include "slice_passes.h"
#include "student_layout.h"
#include "student_parameters.h"

namespace pydistill::engine {

class Student {
 public:
  // slice_bytes: memory that a slice may need; 0 leaves it to the device.
  Student(const Architecture& architecture, at::TensorOptions options, int64_t largest_batch,
          Convolutions convolutions, int64_t slice_bytes);
  Student(const Student&) = delete;
  Student& operator=(const Student&) = delete;

  int64_t parameters() const { return layout_.parameter_count; }

  // g at theta [P] for images [B, C, H, W] and labels ([B] int64, or rows [B, K]). The result is this
  // student's memory, [P], valid until its next pass; so are logits() [B, K] and losses() [B], the images'
  // shares of the mean.
  const at::Tensor& gradient(const at::Tensor& theta, const at::Tensor& images, const at::Tensor& labels);

  // The logits alone, [B, K].
  const at::Tensor& classify(const at::Tensor& theta, const at::Tensor& images);

  struct Adjoint {
    at::Tensor inner;    // <g, lambda>, []
    at::Tensor product;  // H lambda, [P]
    at::Tensor images;   // [B, C, H, W]
    at::Tensor labels;   // [B, K]
  };
  // At theta [P], along lambda [P]; outputs that are not asked for are undefined. The results are this
  // student's memory, valid until its next pass.
  Adjoint adjoint(const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images,
                  const at::Tensor& labels, const AdjointOutputs& outputs);

  // The memory that a pass reads. A caller that writes to it directly saves the copies of the passes above.
  // Valid until the next pass; lambda is read by the adjoint pass alone.
  struct Inputs {
    at::Tensor theta;   // [P]
    at::Tensor lambda;  // [P]
    at::Tensor images;  // [batch, C, H, W], channels-last
  };
  Inputs inputs(int64_t batch);
  // gradient() and adjoint() of what inputs() holds.
  const at::Tensor& gradient_of_inputs(const at::Tensor& labels);
  Adjoint adjoint_of_inputs(const at::Tensor& labels, const AdjointOutputs& outputs);

  // Discards the sums of a pass that ended in an exception (out of memory on a GPU, say).
  void discard_unfinished_pass();

  const at::Tensor& logits() const { return slices_.logits(); }
  const at::Tensor& losses() const { return slices_.losses(); }

 private:
  void check_labels(const at::Tensor& labels, int64_t images) const;
  void copy_to_inputs(const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images);
  void begin_pass(bool with_tangents);
  void write_parameter_gradient(bool tangent);
  cpu::OnOneThread one_thread_if_small() const;

  at::TensorOptions options_;
  StudentLayout layout_;
  StudentParameters parameters_;
  BatchSlices slices_;
  bool in_pass_ = false;
};

}  // namespace pydistill::engine
