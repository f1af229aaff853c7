// The arithmetic of softmax_xent, row by row, without torch.
#include "../kernels/softmax_xent.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "../cpu/reduce_chunk.h"
#include "../cpu/reduce_row.h"
#include "check.h"

namespace {

using pydistill::cpu::reduce_chunk;
using pydistill::cpu::reduce_row;
using pydistill::kernels::ClassNumbers;
using pydistill::kernels::LabelRows;
using pydistill::kernels::LossSum;
using pydistill::kernels::SoftmaxXent;
using pydistill::kernels::SoftmaxXentTangent;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNotANumber = std::numeric_limits<double>::quiet_NaN();
constexpr int64_t kRows = 3;
constexpr double kUntouched = -77.0;

bool close(double a, double b, double tolerance) { return std::fabs(a - b) <= tolerance; }

template <typename scalar_t>
struct Problem {
  int64_t classes;
  scalar_t scale = scalar_t(0.25);
  std::vector<scalar_t> logits, tangent, rows;  // [kRows, classes]
  std::vector<int64_t> numbers;                 // [kRows]
  std::vector<scalar_t> losses, loss_tangents;  // [kRows]
  std::vector<scalar_t> grad_logits, grad_labels, grad_logits_tangent, grad_labels_tangent;

  explicit Problem(int64_t classes_given) : classes(classes_given) {
    const size_t count = static_cast<size_t>(kRows * classes);
    for (size_t i = 0; i < count; ++i) {
      const double at = static_cast<double>(i);
      logits.push_back(static_cast<scalar_t>(4.0 * std::sin(1.0 + at)));
      tangent.push_back(static_cast<scalar_t>(std::cos(2.0 * at)));
      rows.push_back(static_cast<scalar_t>(std::fabs(std::sin(3.0 * at))));
    }
    for (int64_t row = 0; row < kRows; ++row) {
      numbers.push_back((5 * row + 2) % classes);
    }
    losses = loss_tangents = std::vector<scalar_t>(static_cast<size_t>(kRows), scalar_t(kUntouched));
    grad_logits = grad_labels = grad_logits_tangent = grad_labels_tangent =
        std::vector<scalar_t>(count, scalar_t(kUntouched));
  }

  ClassNumbers<scalar_t> hard() const { return {numbers.data(), classes}; }
  LabelRows<scalar_t> soft() const { return {rows.data(), classes}; }

  template <typename Labels>
  void run(const Labels& labels) {
    const SoftmaxXent<scalar_t, Labels> loss{
        logits.data(), labels, classes, scale, losses.data(), grad_logits.data(), grad_labels.data()};
    const SoftmaxXentTangent<scalar_t, Labels> moved{logits.data(),
                                                     tangent.data(),
                                                     labels,
                                                     classes,
                                                     scale,
                                                     loss_tangents.data(),
                                                     nullptr,
                                                     grad_logits_tangent.data(),
                                                     grad_labels_tangent.data()};
    for (int64_t row = 0; row < kRows; ++row) {
      reduce_row(loss, row);
      reduce_row(moved, row);
    }
  }
};

// The formulas as they are written, for moderate logits.
template <typename scalar_t, typename Labels>
void agrees_with_the_formulas(Problem<scalar_t>& problem, const Labels& labels) {
  problem.run(labels);
  const double tolerance = 64 * static_cast<double>(std::numeric_limits<scalar_t>::epsilon());
  const double scale = static_cast<double>(problem.scale);
  for (int64_t row = 0; row < kRows; ++row) {
    const auto at = [&](int64_t column) { return static_cast<size_t>(row * problem.classes + column); };
    double sum = 0.0;
    double mass = 0.0;
    for (int64_t column = 0; column < problem.classes; ++column) {
      sum += std::exp(static_cast<double>(problem.logits[at(column)]));
      mass += static_cast<double>(labels.weight(row, column));
    }
    double loss = 0.0;
    double mean_tangent = 0.0;
    double loss_tangent = 0.0;
    for (int64_t column = 0; column < problem.classes; ++column) {
      const double logit = static_cast<double>(problem.logits[at(column)]);
      loss -= static_cast<double>(labels.weight(row, column)) * (logit - std::log(sum));
      mean_tangent += std::exp(logit) / sum * static_cast<double>(problem.tangent[at(column)]);
    }
    for (int64_t column = 0; column < problem.classes; ++column) {
      const double logit = static_cast<double>(problem.logits[at(column)]);
      const double p = std::exp(logit) / sum;
      const double y = static_cast<double>(labels.weight(row, column));
      const double spread = static_cast<double>(problem.tangent[at(column)]) - mean_tangent;
      loss_tangent -= y * spread;
      CHECK(close(static_cast<double>(problem.grad_logits[at(column)]), scale * (mass * p - y), tolerance));
      CHECK(close(static_cast<double>(problem.grad_labels[at(column)]), scale * (std::log(sum) - logit),
                  10 * tolerance));
      CHECK(close(static_cast<double>(problem.grad_logits_tangent[at(column)]), scale * mass * p * spread,
                  tolerance));
      CHECK(close(static_cast<double>(problem.grad_labels_tangent[at(column)]), -scale * spread, tolerance));
    }
    const size_t own = static_cast<size_t>(row);
    CHECK(close(static_cast<double>(problem.losses[own]), scale * loss, (1.0 + mass) * 10 * tolerance));
    CHECK(close(static_cast<double>(problem.loss_tangents[own]), scale * loss_tangent,
                (1.0 + mass) * tolerance));
  }
}

template <typename scalar_t>
void agrees_with_the_formulas() {
  for (const int64_t classes : {1, 2, 10, 33}) {
    Problem<scalar_t> hard(classes);
    agrees_with_the_formulas(hard, hard.hard());
    Problem<scalar_t> soft(classes);
    agrees_with_the_formulas(soft, soft.soft());
  }
}

void one_class_has_no_loss() {
  Problem<double> problem(1);
  problem.logits = {1e300, -1e300, 0.0};
  problem.run(problem.hard());
  for (size_t row = 0; row < static_cast<size_t>(kRows); ++row) {
    CHECK(problem.losses[row] == 0.0 && problem.grad_logits[row] == 0.0);
    CHECK(problem.loss_tangents[row] == 0.0 && problem.grad_logits_tangent[row] == 0.0);
  }
}

void large_logits_do_not_overflow() {
  Problem<float> problem(2);
  problem.logits = {1e30f, 0.0f, -1e30f, 0.0f, 3e38f, 3e38f};
  problem.numbers = {0, 1, 0};
  problem.run(problem.hard());
  CHECK(problem.losses[0] == 0.0f && problem.losses[1] == 0.0f);
  CHECK(close(static_cast<double>(problem.losses[2]), 0.25 * std::log(2.0), 1e-7));
  CHECK(problem.grad_logits[4] == -0.125f && problem.grad_logits[5] == 0.125f);
}

// -infinity is a class of probability zero; a number, or a row of zero weight there, decides what comes of
// it.
void minus_infinity_is_probability_zero() {
  Problem<double> problem(2);
  problem.logits = {-kInfinity, 1.0, -kInfinity, 1.0, -kInfinity, -kInfinity};
  problem.numbers = {1, 0, 0};
  problem.run(problem.hard());
  CHECK(problem.losses[0] == 0.0 && problem.grad_logits[0] == 0.0 && problem.grad_logits[1] == 0.0);
  CHECK(problem.losses[1] == kInfinity && problem.grad_logits[2] == -0.25 && problem.grad_logits[3] == 0.25);
  CHECK(std::isnan(problem.losses[2]) && std::isnan(problem.grad_logits[4]));
}

void not_a_number_reaches_its_row_alone() {
  for (const size_t where : {size_t{3}, size_t{4}, size_t{5}}) {
    Problem<double> problem(3);
    problem.logits[where] = kNotANumber;
    problem.run(problem.soft());
    for (size_t i = 0; i < 9; ++i) {
      const bool own = i / 3 == 1;
      CHECK(std::isnan(problem.losses[i / 3]) == own && std::isnan(problem.loss_tangents[i / 3]) == own);
      CHECK(std::isnan(problem.grad_logits[i]) == own && std::isnan(problem.grad_labels[i]) == own);
      CHECK(std::isnan(problem.grad_logits_tangent[i]) == own);
    }
  }
}

void a_class_that_does_not_exist_makes_the_row_a_nan() {
  for (const int64_t number : {int64_t{-1}, int64_t{3}, std::numeric_limits<int64_t>::max()}) {
    Problem<double> problem(3);
    problem.numbers[1] = number;
    problem.run(problem.hard());
    for (size_t i = 0; i < 9; ++i) {
      const bool own = i / 3 == 1;
      CHECK(std::isnan(problem.losses[i / 3]) == own && std::isnan(problem.loss_tangents[i / 3]) == own);
      CHECK(std::isnan(problem.grad_logits[i]) == own && std::isnan(problem.grad_logits_tangent[i]) == own);
    }
  }
}

void a_row_without_mass_has_no_gradient() {
  Problem<double> problem(4);
  problem.rows.assign(12, 0.0);
  problem.run(problem.soft());
  for (size_t i = 0; i < 12; ++i) {
    CHECK(problem.losses[i / 4] == 0.0 && problem.loss_tangents[i / 4] == 0.0);
    CHECK(problem.grad_logits[i] == 0.0 && problem.grad_logits_tangent[i] == 0.0);
    CHECK(problem.grad_labels[i] > 0.0);
  }
}

void what_is_absent_is_left_out() {
  Problem<double> problem(4);
  const SoftmaxXent<double, LabelRows<double>> nothing{
      problem.logits.data(), problem.soft(), 4, problem.scale, nullptr, nullptr, nullptr};
  const SoftmaxXentTangent<double, LabelRows<double>> gradient{problem.logits.data(),
                                                               problem.tangent.data(),
                                                               problem.soft(),
                                                               4,
                                                               problem.scale,
                                                               nullptr,
                                                               problem.grad_logits.data(),
                                                               nullptr,
                                                               nullptr};
  reduce_row(nothing, 1);
  reduce_row(gradient, 1);
  Problem<double> complete(4);
  complete.run(complete.soft());
  for (size_t i = 0; i < 12; ++i) {
    CHECK(problem.grad_logits[i] == (i / 4 == 1 ? complete.grad_logits[i] : kUntouched));
  }
}

void the_sum_is_kept_in_double() {
  const std::vector<float> losses(8000, 16777216.0f + 2.0f);
  float loss = -1.0f;
  const LossSum<float> sum{losses.data(), &loss};
  sum.finish(reduce_chunk(sum, 0, 8000));
  CHECK(loss == static_cast<float>(8000.0 * 16777218.0));
}

}  // namespace

int main() {
  agrees_with_the_formulas<float>();
  agrees_with_the_formulas<double>();
  one_class_has_no_loss();
  large_logits_do_not_overflow();
  minus_infinity_is_probability_zero();
  not_a_number_reaches_its_row_alone();
  a_class_that_does_not_exist_makes_the_row_a_nan();
  a_row_without_mass_has_no_gradient();
  what_is_absent_is_left_out();
  the_sum_is_kept_in_double();
  std::puts("softmax_xent: all checks hold");
  return 0;
}
