#include "augment.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "augment.cuh"

namespace pydistill::cuda {
namespace {

// The bytes of shared memory that a block may have on the current device.
int64_t most_shared_bytes() {
  int device = 0;
  int bytes = 0;
  C10_CUDA_CHECK(cudaGetDevice(&device));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return bytes;
}

// items: images that a block each has; like: a tensor of the device and the dtype.
template <bool kBackward, typename scalar_t>
void run(const kernels::AugmentArrays<scalar_t>& arrays, int64_t items, const at::Tensor& like) {
  const c10::cuda::CUDAGuard guard(like.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const AugmentPlan plan = augment_plan(arrays, items, most_shared_bytes());
  at::Tensor workspace;
  if (plan.needs_workspace) {
    workspace = at::empty({plan.blocks * plan.block_numbers}, like.options());
  }
  C10_CUDA_CHECK(augment<kBackward>(
      arrays, plan, workspace.defined() ? workspace.mutable_data_ptr<scalar_t>() : nullptr, stream));
}

}  // namespace

void augment(const at::Tensor& images, const tensors::AugmentRecipe& recipe, const at::Tensor& out) {
  AT_DISPATCH_FLOATING_TYPES(images.scalar_type(), "pydistill::augment", [&] {
    run<false>(tensors::augment_arrays<scalar_t>(images, recipe, out), out.size(0), images);
  });
}

void augment_backward(const at::Tensor& grad_out, const tensors::AugmentRecipe& recipe,
                      const at::Tensor& factor, bool negate, const at::Tensor& gradient) {
  AT_DISPATCH_FLOATING_TYPES(grad_out.scalar_type(), "pydistill::augment_backward", [&] {
    run<true>(tensors::augment_backward_arrays<scalar_t>(grad_out, recipe, factor, negate, gradient),
              gradient.size(0), grad_out);
  });
}

}  // namespace pydistill::cuda
