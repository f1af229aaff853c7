#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "../cpu/trajectory_point.h"
#if defined(PYDISTILL_WITH_CUDA)
#include "../cuda/trajectory_point.h"
#endif

namespace pydistill::ops {
namespace {

void check(const at::Tensor& start, const at::Tensor& end, const at::Tensor& weights) {
  TORCH_CHECK_VALUE(start.scalar_type() == at::kFloat || start.scalar_type() == at::kDouble,
                    "trajectory_point: start is ", start.scalar_type(), "; it must be float32 or float64");
  TORCH_CHECK_VALUE(end.scalar_type() == start.scalar_type(), "trajectory_point: end is ", end.scalar_type(),
                    " where start is ", start.scalar_type());
  TORCH_CHECK_VALUE(weights.scalar_type() == at::kDouble, "trajectory_point: weights is ",
                    weights.scalar_type(), "; it must be float64");
  TORCH_CHECK_VALUE(end.device() == start.device(), "trajectory_point: end is on ", end.device(),
                    " where start is on ", start.device());
  TORCH_CHECK_VALUE(weights.device() == start.device(), "trajectory_point: weights is on ", weights.device(),
                    " where start is on ", start.device());
}

// The running sum of the sizes, [J] on the CPU; checks them and the shapes that go with them.
at::Tensor running_sum(const at::Tensor& start, const at::Tensor& end, const at::Tensor& weights,
                       at::IntArrayRef sizes) {
  const at::Tensor ends = at::empty({static_cast<int64_t>(sizes.size())}, at::kLong);
  int64_t* written = ends.mutable_data_ptr<int64_t>();
  int64_t total = 0;
  for (size_t j = 0; j < sizes.size(); ++j) {
    TORCH_CHECK_VALUE(sizes[j] >= 0, "trajectory_point: sizes[", j, "] is ", sizes[j],
                      "; a tensor has no fewer than 0 elements");
    written[j] = total += sizes[j];
  }
  TORCH_CHECK_VALUE(start.dim() == 1 && start.numel() == total && end.dim() == 1 && end.numel() == total,
                    "trajectory_point: start and end must be flat parameters [", total,
                    "] (the sum of sizes), not ", start.sizes(), " and ", end.sizes());
  TORCH_CHECK_VALUE(weights.sizes() == ends.sizes(), "trajectory_point: weights has shape ", weights.sizes(),
                    "; it must hold one number per parameter tensor: ", ends.sizes());
  return ends;
}

using Launcher = void (*)(const at::Tensor& start, const at::Tensor& end, const at::Tensor& weights,
                          const at::Tensor& ends, const at::Tensor& point);

template <Launcher launch>
at::Tensor trajectory_point(const at::Tensor& start, const at::Tensor& end, const at::Tensor& weights,
                            at::IntArrayRef sizes) {
  check(start, end, weights);
  const at::Tensor ends = running_sum(start, end, weights, sizes).to(start.device());
  const at::Tensor point = at::empty_like(start, at::MemoryFormat::Contiguous);
  launch(start.contiguous(), end.contiguous(), weights.contiguous(), ends, point);
  return point;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pydistill, library) {
  library.def("trajectory_point(Tensor start, Tensor end, Tensor weights, int[] sizes) -> Tensor",
              {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(pydistill, CPU, library) {
  library.impl("trajectory_point", &trajectory_point<&cpu::trajectory_point>);
}

#if defined(PYDISTILL_WITH_CUDA)
TORCH_LIBRARY_IMPL(pydistill, CUDA, library) {
  library.impl("trajectory_point", &trajectory_point<&cuda::trajectory_point>);
}
#endif

}  // namespace pydistill::ops
