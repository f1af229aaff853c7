// nvcc compiles every kernel struct through the engine that drives it, on machines without a GPU and without
// torch.
#include "../cuda/map_reduce.cuh"
#include "../cuda/plane.cuh"
#include "../kernels/norm_act_pool.h"
#include "../kernels/sgd_step.h"

namespace pydistill::cuda {

template cudaError_t map_reduce(const kernels::SgdStep<float>&, int64_t, kernels::DistanceSums*,
                                cudaStream_t);
template cudaError_t map_reduce(const kernels::SgdStep<double>&, int64_t, kernels::DistanceSums*,
                                cudaStream_t);

template cudaError_t sum_rows(const float*, float*, int64_t, int64_t, cudaStream_t);
template cudaError_t sum_rows(const double*, double*, int64_t, int64_t, cudaStream_t);

}  // namespace pydistill::cuda

namespace pydistill::kernels {

template cudaError_t with_norm_act_pool(NormActPoolPhase, Norm, Pooling, const NormActPoolArrays<float>&,
                                        const cuda::OneNumber<float>&, const cuda::PlaneLaunch&);
template cudaError_t with_norm_act_pool(NormActPoolPhase, Norm, Pooling, const NormActPoolArrays<double>&,
                                        const cuda::OneNumber<double>&, const cuda::PlaneLaunch&);

}  // namespace pydistill::kernels
