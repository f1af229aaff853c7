// nvcc compiles every kernel struct through the engine that drives it, on machines without a GPU and without
// torch.
#include "../cuda/augment.cuh"
#include "../cuda/map.cuh"
#include "../cuda/map_reduce.cuh"
#include "../cuda/plane.cuh"
#include "../cuda/row_map.cuh"
#include "../kernels/adjoint_step.h"
#include "../kernels/augment.h"
#include "../kernels/norm_act_pool.h"
#include "../kernels/sgd_step.h"
#include "../kernels/softmax_xent.h"
#include "../kernels/steps.h"
#include "../kernels/trajectory_point.h"

namespace pydistill::cuda {

template cudaError_t map_reduce(const kernels::SgdStep<float, true>&, int64_t, kernels::DistanceSums*,
                                cudaStream_t);
template cudaError_t map_reduce(const kernels::SgdStep<float, false>&, int64_t, kernels::DistanceSums*,
                                cudaStream_t);
template cudaError_t map_reduce(const kernels::SgdStep<double, true>&, int64_t, kernels::DistanceSums*,
                                cudaStream_t);
template cudaError_t map_reduce(const kernels::SgdStep<double, false>&, int64_t, kernels::DistanceSums*,
                                cudaStream_t);

template cudaError_t sum_rows(const float*, float*, int64_t, int64_t, cudaStream_t);
template cudaError_t sum_rows(const double*, double*, int64_t, int64_t, cudaStream_t);

template cudaError_t map_reduce(const kernels::AdjointStep<float, true>&, int64_t, kernels::InnerProduct*,
                                cudaStream_t);
template cudaError_t map_reduce(const kernels::AdjointStep<float, false>&, int64_t, kernels::InnerProduct*,
                                cudaStream_t);
template cudaError_t map_reduce(const kernels::AdjointStep<double, true>&, int64_t, kernels::InnerProduct*,
                                cudaStream_t);
template cudaError_t map_reduce(const kernels::AdjointStep<double, false>&, int64_t, kernels::InnerProduct*,
                                cudaStream_t);

template cudaError_t map_reduce(const kernels::LossSum<float>&, int64_t, kernels::LossSum<float>::State*,
                                cudaStream_t);
template cudaError_t map_reduce(const kernels::LossSum<double>&, int64_t, kernels::LossSum<double>::State*,
                                cudaStream_t);

template cudaError_t augment<false>(const kernels::AugmentArrays<float>&, const AugmentPlan&, float*,
                                    cudaStream_t);
template cudaError_t augment<false>(const kernels::AugmentArrays<double>&, const AugmentPlan&, double*,
                                    cudaStream_t);
template cudaError_t augment<true>(const kernels::AugmentArrays<float>&, const AugmentPlan&, float*,
                                   cudaStream_t);
template cudaError_t augment<true>(const kernels::AugmentArrays<double>&, const AugmentPlan&, double*,
                                   cudaStream_t);

template cudaError_t map(const kernels::TrajectoryPoint<float>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::TrajectoryPoint<double>&, int64_t, cudaStream_t);

template cudaError_t map_reduce_now<kernels::SgdStep<float, true>>(
    const kernels::SgdStepOfTables<float, true>&, int64_t, kernels::DistanceSums*, cudaStream_t);
template cudaError_t map_reduce_now<kernels::SgdStep<float, false>>(
    const kernels::SgdStepOfTables<float, false>&, int64_t, kernels::DistanceSums*, cudaStream_t);
template cudaError_t map_reduce_now<kernels::SgdStep<double, true>>(
    const kernels::SgdStepOfTables<double, true>&, int64_t, kernels::DistanceSums*, cudaStream_t);
template cudaError_t map_reduce_now<kernels::SgdStep<double, false>>(
    const kernels::SgdStepOfTables<double, false>&, int64_t, kernels::DistanceSums*, cudaStream_t);
template cudaError_t map(const kernels::AdjointStepOfTables<float>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::AdjointStepOfTables<double>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::CopyPoint<float>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::CopyPoint<double>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::GatherRows<int64_t>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::GatherRows<float>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::GatherRows<double>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::SubtractRows<float>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::SubtractRows<double>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::SubtractAtStep<float>&, int64_t, cudaStream_t);
template cudaError_t map(const kernels::SubtractAtStep<double>&, int64_t, cudaStream_t);

template <typename scalar_t>
using Numbers = kernels::ClassNumbers<scalar_t>;
template <typename scalar_t>
using Rows = kernels::LabelRows<scalar_t>;

template cudaError_t row_map(const kernels::SoftmaxXent<float, Numbers<float>>&, int64_t, cudaStream_t);
template cudaError_t row_map(const kernels::SoftmaxXent<float, Rows<float>>&, int64_t, cudaStream_t);
template cudaError_t row_map(const kernels::SoftmaxXent<double, Numbers<double>>&, int64_t, cudaStream_t);
template cudaError_t row_map(const kernels::SoftmaxXent<double, Rows<double>>&, int64_t, cudaStream_t);
template cudaError_t row_map(const kernels::SoftmaxXentTangent<float, Numbers<float>>&, int64_t,
                             cudaStream_t);
template cudaError_t row_map(const kernels::SoftmaxXentTangent<float, Rows<float>>&, int64_t, cudaStream_t);
template cudaError_t row_map(const kernels::SoftmaxXentTangent<double, Numbers<double>>&, int64_t,
                             cudaStream_t);
template cudaError_t row_map(const kernels::SoftmaxXentTangent<double, Rows<double>>&, int64_t, cudaStream_t);

}  // namespace pydistill::cuda

namespace pydistill::kernels {

template cudaError_t with_norm_act_pool(NormActPoolPhase, Norm, Pooling, const NormActPoolArrays<float>&,
                                        const cuda::OneNumber<float>&, const cuda::PlaneLaunch&);
template cudaError_t with_norm_act_pool(NormActPoolPhase, Norm, Pooling, const NormActPoolArrays<double>&,
                                        const cuda::OneNumber<double>&, const cuda::PlaneLaunch&);

}  // namespace pydistill::kernels
