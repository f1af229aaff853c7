// The driver of maps with a reduction, against the CPU's: the outputs have the same bits, the sums are close.
#include "../../cuda/map_reduce.cuh"

#include "../../cpu/reduce_chunk.h"
#include "../../kernels/adjoint_step.h"
#include "../../kernels/sgd_step.h"
#include "../../kernels/softmax_xent.h"
#include "host_test.h"

namespace {

using namespace cuda_on_host;
using pydistill::cuda::blocks_for;
using pydistill::cuda::kElementsPerBlock;
using pydistill::cuda::kThreads;
using pydistill::cuda::map_reduce;
using pydistill::kernels::AdjointStep;
using pydistill::kernels::DistanceSums;
using pydistill::kernels::InnerProduct;
using pydistill::kernels::LossSum;
using pydistill::kernels::SgdStep;

constexpr double kSums = 1e-12;  // of numbers in double, added in another order

template <typename T, bool kWeighted>
void sgd_steps_are_those_of_the_cpu(int64_t count) {
  const auto theta = wave<T>(count, 1.3);
  const auto grad = wave<T>(count, 0.7);
  const auto target = wave<T>(count, 2.1);
  const auto weights = wave<T>(kWeighted ? count : 0, 0.3);
  const std::vector<T> lr = {T(0.3)};
  std::vector<T> next(static_cast<size_t>(count));
  std::vector<double> sums(2);
  const SgdStep<T, kWeighted> step{theta.data(), grad.data(), target.data(), weights.data(),
                                   lr.data(),    next.data(), sums.data()};
  step.finish(pydistill::cpu::reduce_chunk(step, 0, count));
  DeviceArray<T> from(theta), along(grad), towards(target), shares(weights), rate(lr);
  const Results results = in_every_order([&]() -> Results {
    DeviceArray<T> out(count);
    DeviceArray<double> distances(2);
    DeviceArray<DistanceSums> partial(blocks_for(count));
    const SgdStep<T, kWeighted> on_device{from.data(), along.data(), towards.data(),  shares.data(),
                                          rate.data(), out.data(),   distances.data()};
    CHECK(map_reduce(on_device, count, partial.data(), nullptr) == cudaSuccess);
    return {as_doubles(out.numbers()), distances.numbers()};
  });
  CHECK(same_bits({results[0]}, {as_doubles(next)}));
  check_close({results[1]}, {sums}, kSums * (1 + static_cast<double>(count)));
}

template <typename T, bool kInner>
void adjoint_steps_are_those_of_the_cpu(int64_t count) {
  const auto adjoint = wave<T>(count, 1.3);
  const auto product = wave<T>(count, 0.7);
  const auto grad = wave<T>(kInner ? count : 0, 2.1);
  const std::vector<T> lr = {T(0.3)};
  std::vector<T> next(static_cast<size_t>(count));
  std::vector<double> sum(kInner ? 1 : 0);
  const AdjointStep<T, kInner> step{adjoint.data(), product.data(), grad.data(),
                                    lr.data(),      next.data(),    sum.data()};
  step.finish(pydistill::cpu::reduce_chunk(step, 0, count));
  DeviceArray<T> along(product), against(grad), rate(lr);
  const Results results = in_every_order([&]() -> Results {
    DeviceArray<T> in_place(adjoint);
    DeviceArray<double> inner(int64_t{kInner ? 1 : 0});
    DeviceArray<InnerProduct> partial(blocks_for(count));
    const AdjointStep<T, kInner> on_device{in_place.data(), along.data(),    against.data(),
                                           rate.data(),     in_place.data(), inner.data()};
    CHECK(map_reduce(on_device, count, partial.data(), nullptr) == cudaSuccess);
    return {as_doubles(in_place.numbers()), inner.numbers()};
  });
  CHECK(same_bits({results[0]}, {as_doubles(next)}));
  check_close({results[1]}, {sum}, kSums * (1 + static_cast<double>(count)));
}

// It writes nothing on its way, so it is the quickest for many blocks.
template <typename T>
double sum_of_losses(const std::vector<T>& losses) {
  const auto count = static_cast<int64_t>(losses.size());
  DeviceArray<T> numbers(losses);
  const Results results = in_every_order([&]() -> Results {
    DeviceArray<T> loss(1);
    DeviceArray<typename LossSum<T>::State> partial(blocks_for(count));
    CHECK(map_reduce(LossSum<T>{numbers.data(), loss.data()}, count, partial.data(), nullptr) == cudaSuccess);
    return {as_doubles(loss.numbers())};
  });
  return results[0][0];
}

template <typename T>
void counts_around_every_boundary(bool sweep) {
  std::vector<int64_t> counts = {0,    1,    2,    31,   32,   33,   255,  256, 257,
                                 1023, 1024, 1025, 4095, 4096, 4097, 8191, 8193};
  if (sweep) {
    for (int64_t count = 3; count < 3 * kElementsPerBlock; count += 251) {
      counts.push_back(count);
    }
  }
  for (const int64_t count : counts) {
    sgd_steps_are_those_of_the_cpu<T, false>(count);
    sgd_steps_are_those_of_the_cpu<T, true>(count);
    adjoint_steps_are_those_of_the_cpu<T, false>(count);
    adjoint_steps_are_those_of_the_cpu<T, true>(count);
    const auto losses = wave<T>(count, 0.9);
    double sum = 0;
    for (const T loss : losses) {
      sum += static_cast<double>(loss);
    }
    CHECK(std::fabs(sum_of_losses(losses) - sum) <= 1e-6 * (1 + std::fabs(sum)));
  }
}

// The second stage has fewer states than threads, as many, and more.
void the_second_stage_combines_any_number_of_blocks() {
  for (const int64_t blocks : {kThreads - 1, kThreads, kThreads + 1}) {
    std::vector<float> losses(static_cast<size_t>((blocks - 1) * kElementsPerBlock + 1), 1.0f);
    losses.back() = 5.0f;
    CHECK(sum_of_losses(losses) == static_cast<double>(losses.size() + 4));
  }
}

void every_barrier_is_needed() {
  const int64_t count = 5;
  DeviceArray<float> losses(wave<float>(count, 0.9));
  DeviceArray<float> loss(1);
  DeviceArray<LossSum<float>::State> partial(blocks_for(count));
  check_every_barrier_is_needed(2, [&] {
    CHECK(map_reduce(LossSum<float>{losses.data(), loss.data()}, count, partial.data(), nullptr) ==
          cudaSuccess);
  });
}

}  // namespace

int main(int count, char** arguments) {
  counts_around_every_boundary<float>(is_sweep(count, arguments));
  counts_around_every_boundary<double>(is_sweep(count, arguments));
  the_second_stage_combines_any_number_of_blocks();
  every_barrier_is_needed();
  std::puts("map_reduce: all checks hold");
  return 0;
}
