// The passes of a student over one slice of a batch. Weight gradients are added to the slot's maps; the other
// results are written to the slice.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "batch_slices.h"
#include "student_layout.h"
#include "student_parameters.h"

namespace pydistill::engine {

// What an adjoint pass computes, besides <g, lambda>.
struct AdjointOutputs {
  bool product;  // H lambda
  bool images;   // the derivative of dl/dX along lambda
  bool labels;   // of dl/dY, for label rows
};

class SlicePasses {
 public:
  // batch: images of the batch, over which the loss is a mean.
  SlicePasses(const StudentLayout& layout, const StudentParameters& parameters, const Slice& slice,
              const WorkerSlot& slot, int64_t batch);

  // The logits.
  void classify() const { forward(); }

  // The logits, the losses and the gradient in the parameters. labels: of the batch.
  void gradient(const at::Tensor& labels) const;

  // The same with tangents. losses: their tangents, the slice's shares of <g, lambda>.
  void adjoint(const at::Tensor& labels, const AdjointOutputs& outputs) const;

 private:
  // Return z of every block, which a map may have allocated.
  std::vector<at::Tensor> forward() const;
  std::vector<DualTensor> forward_jvp() const;

  at::Tensor labels_of_slice(const at::Tensor& labels) const;

  const StudentLayout& layout_;
  const StudentParameters& parameters_;
  const Slice& slice_;
  const WorkerSlot& slot_;
  double scale_;
};

}  // namespace pydistill::engine
