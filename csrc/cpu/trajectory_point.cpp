#include "trajectory_point.h"

#include <ATen/Dispatch.h>

#include "../kernels/trajectory_point.h"
#include "map.h"

namespace pydistill::cpu {

void trajectory_point(const at::Tensor& start, const at::Tensor& end, const at::Tensor& weights,
                      const at::Tensor& ends, const at::Tensor& point) {
  AT_DISPATCH_FLOATING_TYPES(start.scalar_type(), "pydistill::trajectory_point", [&] {
    const kernels::TrajectoryPoint<scalar_t> lerp{
        start.const_data_ptr<scalar_t>(),
        end.const_data_ptr<scalar_t>(),
        weights.const_data_ptr<double>(),
        ends.const_data_ptr<int64_t>(),
        ends.numel(),
        point.mutable_data_ptr<scalar_t>(),
    };
    map(lerp, start.numel());
  });
}

}  // namespace pydistill::cpu
