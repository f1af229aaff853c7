#include "steps.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../tensors/steps.h"
#include "map.cuh"
#include "map_reduce.cuh"

namespace pydistill::cuda {

void copy_point(const at::Tensor& points, const at::Tensor& step, const at::Tensor& out) {
  const c10::cuda::CUDAGuard guard(out.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "pydistill::copy_point", [&] {
    C10_CUDA_CHECK(map(tensors::copy_point_arrays<scalar_t>(points, step, out), out.numel(), stream));
  });
}

void sgd_step_of_tables(const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& target,
                        const at::Tensor& weights, const at::Tensor& lr, const at::Tensor& step,
                        const at::Tensor& points, const at::Tensor& distances) {
  const c10::cuda::CUDAGuard guard(theta.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const int64_t count = theta.numel();
  static_assert(sizeof(kernels::DistanceSums) == 2 * sizeof(double));
  const at::Tensor scratch = at::empty({blocks_for(count), 2}, distances.options());
  auto* partial = reinterpret_cast<kernels::DistanceSums*>(scratch.mutable_data_ptr<double>());
  AT_DISPATCH_FLOATING_TYPES(theta.scalar_type(), "pydistill::sgd_step_of_tables", [&] {
    if (weights.defined()) {
      const auto arrays =
          tensors::sgd_step_arrays<scalar_t, true>(theta, grad, target, weights, lr, step, points, distances);
      using Step = kernels::SgdStep<scalar_t, true>;
      C10_CUDA_CHECK(map_reduce_now<Step>(arrays, count, partial, stream));
    } else {
      const auto arrays = tensors::sgd_step_arrays<scalar_t, false>(theta, grad, target, weights, lr, step,
                                                                    points, distances);
      using Step = kernels::SgdStep<scalar_t, false>;
      C10_CUDA_CHECK(map_reduce_now<Step>(arrays, count, partial, stream));
    }
  });
}

void adjoint_step_of_tables(const at::Tensor& adjoint, const at::Tensor& product, const at::Tensor& lr,
                            const at::Tensor& step) {
  const c10::cuda::CUDAGuard guard(adjoint.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(adjoint.scalar_type(), "pydistill::adjoint_step_of_tables", [&] {
    C10_CUDA_CHECK(
        map(tensors::adjoint_step_arrays<scalar_t>(adjoint, product, lr, step), adjoint.numel(), stream));
  });
}

void gather_rows(const at::Tensor& table, const at::Tensor& index, const at::Tensor& step,
                 const at::Tensor& out) {
  const c10::cuda::CUDAGuard guard(out.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND(at::kLong, out.scalar_type(), "pydistill::gather_rows", [&] {
    C10_CUDA_CHECK(map(tensors::gather_rows_arrays<scalar_t>(table, index, step, out), out.numel(), stream));
  });
}

void subtract_rows(const at::Tensor& share, const at::Tensor& index, const at::Tensor& lr,
                   const at::Tensor& step, const at::Tensor& gradient) {
  const c10::cuda::CUDAGuard guard(share.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(share.scalar_type(), "pydistill::subtract_rows", [&] {
    C10_CUDA_CHECK(map(tensors::subtract_rows_arrays<scalar_t>(share, index, lr, step, gradient),
                       gradient.numel(), stream));
  });
}

void subtract_at_step(const at::Tensor& value, const at::Tensor& step, const at::Tensor& table) {
  const c10::cuda::CUDAGuard guard(value.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(table.scalar_type(), "pydistill::subtract_at_step", [&] {
    C10_CUDA_CHECK(map(tensors::subtract_at_step_arrays<scalar_t>(value, step, table), 1, stream));
  });
}

}  // namespace pydistill::cuda
