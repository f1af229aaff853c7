// The arithmetic of sgd_step and the CPU's chunking of it, without torch.
#include "../kernels/sgd_step.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "../cpu/reduce_chunk.h"
#include "check.h"

namespace {

using pydistill::cpu::kChunkSize;
using pydistill::cpu::kLanes;
using pydistill::cpu::reduce_chunk;
using pydistill::kernels::DistanceSums;
using pydistill::kernels::SgdStep;

template <typename scalar_t>
struct Problem {
  std::vector<scalar_t> theta, grad, target, weights, theta_next;
  scalar_t lr = scalar_t(0.3);
  double distances[2] = {-1.0, -1.0};

  explicit Problem(int64_t count) : theta_next(static_cast<size_t>(count), scalar_t(-77)) {
    for (int64_t i = 0; i < count; ++i) {
      theta.push_back(static_cast<scalar_t>(std::sin(1.0 + static_cast<double>(i))));
      grad.push_back(static_cast<scalar_t>(std::cos(2.0 * static_cast<double>(i))));
      target.push_back(static_cast<scalar_t>(std::sin(3.0 * static_cast<double>(i))));
      weights.push_back(static_cast<scalar_t>(i % 3) / scalar_t(2));
    }
  }

  template <bool kWeighted>
  SgdStep<scalar_t, kWeighted> step() {
    const scalar_t* used = kWeighted ? weights.data() : nullptr;
    return {theta.data(), grad.data(), target.data(), used, &lr, theta_next.data(), distances};
  }
};

bool close(double a, double b, double relative) {
  return std::fabs(a - b) <= relative * (std::fabs(a) + std::fabs(b)) || a == b;
}

template <typename scalar_t, bool kWeighted>
void agrees_with_the_formula(int64_t count) {
  Problem<scalar_t> problem(count);
  const auto step = problem.template step<kWeighted>();
  step.finish(reduce_chunk(step, 0, count));
  const double eps = static_cast<double>(std::numeric_limits<scalar_t>::epsilon());
  double absolute = 0.0;
  double squared = 0.0;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    const double next = static_cast<double>(problem.theta[i]) -
                        static_cast<double>(problem.lr) * static_cast<double>(problem.grad[i]);
    CHECK(std::fabs(static_cast<double>(problem.theta_next[i]) - next) <= 4 * eps);
    const double gap = static_cast<double>(problem.theta_next[i] - problem.target[i]);
    const double weight = kWeighted ? static_cast<double>(problem.weights[i]) : 1.0;
    absolute += weight * std::fabs(gap);
    squared += weight * gap * gap;
  }
  CHECK(close(problem.distances[0], absolute, 1e-13));
  CHECK(close(problem.distances[1], squared, 1e-13));
}

// Elements outside [begin, end) are another thread's.
template <typename scalar_t>
void a_chunk_writes_its_own_elements_alone() {
  Problem<scalar_t> problem(100);
  reduce_chunk(problem.template step<false>(), 13, 57);
  for (size_t i = 0; i < 100; ++i) {
    CHECK((problem.theta_next[i] == scalar_t(-77)) == (i < 13 || i >= 57));
  }
}

template <typename scalar_t, bool kWeighted>
void chunks_combine_to_the_whole() {
  const int64_t count = 3 * kChunkSize + 5;
  Problem<scalar_t> problem(count);
  const auto step = problem.template step<kWeighted>();
  DistanceSums total = step.identity();
  for (int64_t begin = 0; begin < count; begin += kChunkSize) {
    total = step.combine(total,
                         reduce_chunk(step, begin, begin + kChunkSize < count ? begin + kChunkSize : count));
  }
  const DistanceSums complete = reduce_chunk(step, 0, count);
  CHECK(close(total.absolute, complete.absolute, 1e-13));
  CHECK(close(total.squared, complete.squared, 1e-13));
}

void identity_changes_nothing() {
  const DistanceSums sums{3.5, 7.25};
  using Step = SgdStep<float, false>;
  const DistanceSums same = Step::combine(Step::identity(), sums);
  CHECK(same.absolute == 3.5 && same.squared == 7.25);
}

// Of a parameter of weight 0 too.
template <bool kWeighted>
void not_a_number_reaches_both_sums() {
  Problem<float> problem(20);
  problem.grad[18] = std::numeric_limits<float>::quiet_NaN();
  const DistanceSums sums = reduce_chunk(problem.step<kWeighted>(), 0, 20);
  CHECK(std::isnan(sums.absolute) && std::isnan(sums.squared));
}

template <typename scalar_t>
void weights_of_one_change_no_bit() {
  Problem<scalar_t> problem(kChunkSize + 5);
  problem.weights.assign(problem.weights.size(), scalar_t(1));
  const DistanceSums without = reduce_chunk(problem.template step<false>(), 0, kChunkSize + 5);
  const DistanceSums ones = reduce_chunk(problem.template step<true>(), 0, kChunkSize + 5);
  CHECK(without.absolute == ones.absolute && without.squared == ones.squared);
}

}  // namespace

int main() {
  for (const int64_t count : {int64_t{0}, int64_t{1}, kLanes - 1, kLanes, kLanes + 1, int64_t{97},
                              kChunkSize - 1, kChunkSize, kChunkSize + 1}) {
    agrees_with_the_formula<float, false>(count);
    agrees_with_the_formula<double, false>(count);
    agrees_with_the_formula<float, true>(count);
    agrees_with_the_formula<double, true>(count);
  }
  a_chunk_writes_its_own_elements_alone<float>();
  a_chunk_writes_its_own_elements_alone<double>();
  chunks_combine_to_the_whole<float, false>();
  chunks_combine_to_the_whole<double, false>();
  chunks_combine_to_the_whole<float, true>();
  chunks_combine_to_the_whole<double, true>();
  weights_of_one_change_no_bit<float>();
  weights_of_one_change_no_bit<double>();
  identity_changes_nothing();
  not_a_number_reaches_both_sums<false>();
  not_a_number_reaches_both_sums<true>();
  std::puts("sgd_step: all checks hold");
  return 0;
}
