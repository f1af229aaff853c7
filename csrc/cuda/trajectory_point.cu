#include "trajectory_point.h"

#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "../kernels/trajectory_point.h"
#include "map.cuh"

namespace pydistill::cuda {

void trajectory_point(const at::Tensor& start, const at::Tensor& end, const at::Tensor& weights,
                      const at::Tensor& ends, const at::Tensor& point) {
  const c10::cuda::CUDAGuard guard(start.device());
  const c10::cuda::CUDAStream stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES(start.scalar_type(), "pydistill::trajectory_point", [&] {
    const kernels::TrajectoryPoint<scalar_t> lerp{
        start.const_data_ptr<scalar_t>(),
        end.const_data_ptr<scalar_t>(),
        weights.const_data_ptr<double>(),
        ends.const_data_ptr<int64_t>(),
        ends.numel(),
        point.mutable_data_ptr<scalar_t>(),
    };
    C10_CUDA_CHECK(map(lerp, start.numel(), stream));
  });
}

}  // namespace pydistill::cuda
