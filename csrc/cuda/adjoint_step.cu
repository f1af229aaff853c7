#include "adjoint_step.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../kernels/adjoint_step.h"
#include "map_reduce.cuh"

namespace pydistill::cuda {

void adjoint_step(const at::Tensor& adjoint, const at::Tensor& product, const at::Tensor& grad,
                  const at::Tensor& lr, const at::Tensor& adjoint_next, const at::Tensor& inner) {
  const c10::cuda::CUDAGuard guard(adjoint.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const int64_t count = adjoint.numel();
  static_assert(sizeof(kernels::InnerProduct) == sizeof(double));
  const at::Tensor scratch = at::empty({blocks_for(count)}, adjoint.options().dtype(at::kDouble));
  auto* partial = reinterpret_cast<kernels::InnerProduct*>(scratch.mutable_data_ptr<double>());
  AT_DISPATCH_FLOATING_TYPES(adjoint.scalar_type(), "pydistill::adjoint_step", [&] {
    const scalar_t* from = adjoint.const_data_ptr<scalar_t>();
    const scalar_t* along = product.const_data_ptr<scalar_t>();
    const scalar_t* rate = lr.const_data_ptr<scalar_t>();
    scalar_t* next = adjoint_next.mutable_data_ptr<scalar_t>();
    if (grad.defined()) {
      const kernels::AdjointStep<scalar_t, true> step{from, along, grad.const_data_ptr<scalar_t>(),
                                                      rate, next,  inner.mutable_data_ptr<double>()};
      C10_CUDA_CHECK(map_reduce(step, count, partial, stream));
    } else {
      const kernels::AdjointStep<scalar_t, false> step{from, along, nullptr, rate, next, nullptr};
      C10_CUDA_CHECK(map_reduce(step, count, partial, stream));
    }
  });
}

}  // namespace pydistill::cuda
