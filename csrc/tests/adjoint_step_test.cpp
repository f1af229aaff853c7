// The arithmetic of adjoint_step and the CPU's chunking of it, without torch.
#include "../kernels/adjoint_step.h"

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
using pydistill::kernels::AdjointStep;
using pydistill::kernels::InnerProduct;

template <typename scalar_t>
struct Problem {
  std::vector<scalar_t> adjoint, product, grad, next;
  scalar_t lr = scalar_t(0.3);
  double inner = -1.0;

  explicit Problem(int64_t count) : next(static_cast<size_t>(count), scalar_t(-77)) {
    for (int64_t i = 0; i < count; ++i) {
      adjoint.push_back(static_cast<scalar_t>(std::sin(1.0 + static_cast<double>(i))));
      product.push_back(static_cast<scalar_t>(std::cos(2.0 * static_cast<double>(i))));
      grad.push_back(static_cast<scalar_t>(std::sin(3.0 * static_cast<double>(i))));
    }
  }

  AdjointStep<scalar_t, true> step() {
    return {adjoint.data(), product.data(), grad.data(), &lr, next.data(), &inner};
  }
};

template <typename scalar_t>
void agrees_with_the_formula(int64_t count) {
  Problem<scalar_t> problem(count);
  const auto step = problem.step();
  step.finish(reduce_chunk(step, 0, count));
  const double eps = static_cast<double>(std::numeric_limits<scalar_t>::epsilon());
  double inner = 0.0;
  for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
    const double adjoint = static_cast<double>(problem.adjoint[i]);
    const double next = adjoint - static_cast<double>(problem.lr) * static_cast<double>(problem.product[i]);
    CHECK(std::fabs(static_cast<double>(problem.next[i]) - next) <= 4 * eps);
    inner += adjoint * static_cast<double>(problem.grad[i]);
  }
  CHECK(std::fabs(problem.inner - inner) <= 1e-12 * (1.0 + static_cast<double>(count)));
}

// The inner product is with the adjoint before the step.
template <typename scalar_t>
void in_place_is_the_same() {
  const int64_t count = 3 * kLanes + 5;
  Problem<scalar_t> apart(count);
  const auto step = apart.step();
  step.finish(reduce_chunk(step, 0, count));
  Problem<scalar_t> within(count);
  auto over = within.step();
  over.adjoint_next = within.adjoint.data();
  over.finish(reduce_chunk(over, 0, count));
  CHECK(within.adjoint == apart.next && within.inner == apart.inner);
}

void without_a_gradient_there_is_no_inner_product() {
  Problem<double> problem(20);
  const AdjointStep<double, false> step{
      problem.adjoint.data(), problem.product.data(), nullptr, &problem.lr, problem.next.data(), nullptr};
  const InnerProduct none = reduce_chunk(step, 0, 20);
  step.finish(none);
  CHECK(none.sum == 0.0);
  Problem<double> complete(20);
  reduce_chunk(complete.step(), 0, 20);
  CHECK(problem.next == complete.next);
}

void not_a_number_reaches_the_inner_product() {
  Problem<float> problem(20);
  problem.grad[17] = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(reduce_chunk(problem.step(), 0, 20).sum));
}

}  // namespace

int main() {
  for (const int64_t count : {int64_t{0}, int64_t{1}, kLanes - 1, kLanes, kLanes + 1, int64_t{97},
                              kChunkSize - 1, kChunkSize, kChunkSize + 1}) {
    agrees_with_the_formula<float>(count);
    agrees_with_the_formula<double>(count);
  }
  in_place_is_the_same<float>();
  in_place_is_the_same<double>();
  without_a_gradient_there_is_no_inner_product();
  not_a_number_reaches_the_inner_product();
  std::puts("adjoint_step: all checks hold");
  return 0;
}
