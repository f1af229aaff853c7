// nvcc compiles every kernel struct through the engine that drives it, on machines without a GPU and without
// torch.
#include "../cuda/map_reduce.cuh"
#include "../kernels/sgd_step.h"

namespace pydistill::cuda {

template cudaError_t map_reduce(const kernels::SgdStep<float>&, int64_t, kernels::DistanceSums*,
                                cudaStream_t);
template cudaError_t map_reduce(const kernels::SgdStep<double>&, int64_t, kernels::DistanceSums*,
                                cudaStream_t);

}  // namespace pydistill::cuda
