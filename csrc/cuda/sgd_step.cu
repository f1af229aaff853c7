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
              const at::Tensor& theta_next, const at::Tensor& distances) {
  const c10::cuda::CUDAGuard guard(theta.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  const int64_t count = theta.numel();
  AT_DISPATCH_FLOATING_TYPES(theta.scalar_type(), "pydistill::sgd_step", [&] {
    using Step = kernels::SgdStep<scalar_t>;
    static_assert(sizeof(typename Step::State) == 2 * sizeof(double));
    const at::Tensor partial = at::empty({blocks_for(count), 2}, distances.options());
    const Step step{
        theta.const_data_ptr<scalar_t>(),        grad.const_data_ptr<scalar_t>(),
        target.const_data_ptr<scalar_t>(),       lr.const_data_ptr<scalar_t>(),
        theta_next.mutable_data_ptr<scalar_t>(), distances.mutable_data_ptr<double>(),
    };
    C10_CUDA_CHECK(map_reduce(
        step, count, reinterpret_cast<typename Step::State*>(partial.mutable_data_ptr<double>()), stream));
  });
}

}  // namespace pydistill::cuda
