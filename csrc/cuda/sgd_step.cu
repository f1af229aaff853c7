#include "sgd_step.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../kernels/sgd_step.h"
#include "map_reduce.cuh"

namespace pydistill::cuda {

void sgd_step(const at::Tensor& theta, const at::Tensor& grad, const at::Tensor& lr, const at::Tensor& target,
              const at::Tensor& weights, const at::Tensor& theta_next, const at::Tensor& distances) {
  const c10::cuda::CUDAGuard guard(theta.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const int64_t count = theta.numel();
  static_assert(sizeof(kernels::DistanceSums) == 2 * sizeof(double));
  const at::Tensor scratch = at::empty({blocks_for(count), 2}, distances.options());
  auto* partial = reinterpret_cast<kernels::DistanceSums*>(scratch.mutable_data_ptr<double>());
  double* sums = distances.mutable_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES(theta.scalar_type(), "pydistill::sgd_step", [&] {
    const scalar_t* from = theta.const_data_ptr<scalar_t>();
    const scalar_t* along = grad.const_data_ptr<scalar_t>();
    const scalar_t* towards = target.const_data_ptr<scalar_t>();
    const scalar_t* rate = lr.const_data_ptr<scalar_t>();
    scalar_t* next = theta_next.mutable_data_ptr<scalar_t>();
    if (weights.defined()) {
      const kernels::SgdStep<scalar_t, true> step{from, along, towards, weights.const_data_ptr<scalar_t>(),
                                                  rate, next,  sums};
      C10_CUDA_CHECK(map_reduce(step, count, partial, stream));
    } else {
      const kernels::SgdStep<scalar_t, false> step{from, along, towards, nullptr, rate, next, sums};
      C10_CUDA_CHECK(map_reduce(step, count, partial, stream));
    }
  });
}

}  // namespace pydistill::cuda
