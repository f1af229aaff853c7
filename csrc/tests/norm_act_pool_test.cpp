// The arithmetic of norm_act_pool and the CPU's loops over it, in every instruction set that this processor
// has, without torch.
#include "../kernels/norm_act_pool.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "../cpu/isa.h"
#include "../cpu/simd/norm_act_pool.h"
#include "check.h"

namespace {

using namespace pydistill::kernels;
using pydistill::cpu::Isa;
using pydistill::cpu::NormActPoolLoop;

template <typename T>
NormActPoolLoop<T> loop_of(Isa isa) {
#if defined(__x86_64__)
  if (isa != Isa::kBaseline) {
    return isa == Isa::kAvx2 ? static_cast<NormActPoolLoop<T>>(&pydistill::cpu::avx2::norm_act_pool)
                             : static_cast<NormActPoolLoop<T>>(&pydistill::cpu::avx512::norm_act_pool);
  }
#endif
  CHECK(isa == Isa::kBaseline);
  return &pydistill::cpu::baseline::norm_act_pool;
}

constexpr double kUntouched = -77;

template <typename T>
struct Problem {
  Norm norm;
  Pooling pooling;
  int64_t images, channels, height, width;
  std::vector<T> z, z_tangent, weight, bias, grad_out, grad_out_tangent;
  std::vector<T> out, out_tangent, stats, grad_z, grad_z_tangent, parameter_grads;

  Problem(Norm norm_, Pooling pooling_, int64_t channels_, int64_t height_, int64_t width_)
      : norm(norm_), pooling(pooling_), images(2), channels(channels_), height(height_), width(width_) {
    const int64_t count = images * channels * height * width;
    const int64_t out_count = images * channels * (height / side()) * (width / side());
    z = wave<T>(count, 1.7);
    z_tangent = wave<T>(count, 2.3);
    weight = wave<T>(2 * channels, 0.9);
    bias = wave<T>(2 * channels, 3.1);
    grad_out = wave<T>(out_count, 0.7);
    grad_out_tangent = wave<T>(out_count, 1.1);
    out = out_tangent = std::vector<T>(static_cast<size_t>(out_count), T(kUntouched));
    grad_z = grad_z_tangent = std::vector<T>(static_cast<size_t>(count), T(kUntouched));
    stats = parameter_grads = std::vector<T>(static_cast<size_t>(images * 4 * channels), T(kUntouched));
  }

  int64_t side() const { return pooling == Pooling::kNone ? 1 : 2; }

  NormActPoolArrays<T> arrays() {
    const bool instance = norm == Norm::kInstance;
    return {channels,
            height,
            width,
            T(1e-3),
            {z.data(), z_tangent.data()},
            {instance ? weight.data() : nullptr, instance ? weight.data() + channels : nullptr},
            {bias.data(), bias.data() + channels},
            {grad_out.data(), grad_out_tangent.data()},
            {out.data(), out_tangent.data()},
            instance ? stats.data() : nullptr,
            {grad_z.data(), grad_z_tangent.data()},
            parameter_grads.data()};
  }

  void run(NormActPoolPhase phase, NormActPoolLoop<T> loop) {
    const int64_t group = pydistill::cpu::kGroupBytes / static_cast<int64_t>(sizeof(T));
    for (int64_t image = 0; image < images; ++image) {
      for (int64_t channel = 0; channel < channels; channel += group) {
        loop(phase, norm, pooling, arrays(), image, channel, std::min(group, channels - channel), false);
      }
    }
  }

  // The point a little further in the direction of the tangents.
  Problem moved(double by) const {
    Problem other = *this;
    const auto move = [by](std::vector<T>& to, const std::vector<T>& tangent) {
      for (size_t i = 0; i < to.size(); ++i) {
        to[i] += static_cast<T>(by) * tangent[i];
      }
    };
    move(other.z, z_tangent);
    move(other.grad_out, grad_out_tangent);
    for (size_t i = 0; i < static_cast<size_t>(channels); ++i) {
      other.weight[i] += static_cast<T>(by) * weight[i + static_cast<size_t>(channels)];
      other.bias[i] += static_cast<T>(by) * bias[i + static_cast<size_t>(channels)];
    }
    return other;
  }

  size_t at(int64_t image, int64_t row, int64_t column, int64_t channel, int64_t shrink = 1) const {
    return static_cast<size_t>(((image * (height / shrink) + row) * (width / shrink) + column) * channels +
                               channel);
  }
};

void all_close(const std::vector<double>& actual, const std::vector<double>& expected, double tolerance) {
  CHECK(actual.size() == expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    CHECK(std::fabs(actual[i] - expected[i]) <= tolerance * (1 + std::fabs(expected[i])));
  }
}

// Written out in double, pixel by pixel.
template <typename T>
std::vector<double> forward_by_the_formula(const Problem<T>& problem) {
  std::vector<double> expected(problem.out.size());
  const int64_t pixels = problem.height * problem.width;
  for (int64_t image = 0; image < problem.images; ++image) {
    for (int64_t channel = 0; channel < problem.channels; ++channel) {
      double mean = 0.0;
      double variance = 0.0;
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        mean += static_cast<double>(problem.z[problem.at(image, 0, pixel, channel)]) /
                static_cast<double>(pixels);
      }
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        const double x = static_cast<double>(problem.z[problem.at(image, 0, pixel, channel)]) - mean;
        variance += x * x / static_cast<double>(pixels);
      }
      const auto c = static_cast<size_t>(channel);
      const auto active = [&](int64_t row, int64_t column) {
        const double z = static_cast<double>(problem.z[problem.at(image, row, column, channel)]);
        const double u = (z - mean) / std::sqrt(variance + 1e-3) * static_cast<double>(problem.weight[c]);
        const double v = (problem.norm == Norm::kInstance ? u : z) + static_cast<double>(problem.bias[c]);
        return v > 0 ? v : 0.0;
      };
      for (int64_t row = 0; row < problem.height / problem.side(); ++row) {
        for (int64_t column = 0; column < problem.width / problem.side(); ++column) {
          double& out = expected[problem.at(image, row, column, channel, problem.side())];
          if (problem.pooling == Pooling::kNone) {
            out = active(row, column);
            continue;
          }
          const double four[] = {active(2 * row, 2 * column), active(2 * row, 2 * column + 1),
                                 active(2 * row + 1, 2 * column), active(2 * row + 1, 2 * column + 1)};
          out = problem.pooling == Pooling::kMax ? *std::max_element(four, four + 4)
                                                 : (four[0] + four[1] + four[2] + four[3]) / 4;
        }
      }
    }
  }
  return expected;
}

template <typename T>
void forward_agrees_with_the_formula(Problem<T> problem, NormActPoolLoop<T> loop) {
  problem.run(NormActPoolPhase::kForward, loop);
  all_close(std::vector<double>(problem.out.begin(), problem.out.end()), forward_by_the_formula(problem),
            64 * static_cast<double>(std::numeric_limits<T>::epsilon()));
}

std::vector<double> slope(const std::vector<double>& after, const std::vector<double>& before, double step) {
  std::vector<double> rates;
  for (size_t i = 0; i < after.size(); ++i) {
    rates.push_back((after[i] - before[i]) / (2 * step));
  }
  return rates;
}

// Forward, backward and their tangents, each against the difference quotient of the one before.
void derivatives_are_difference_quotients(Problem<double> problem, NormActPoolLoop<double> loop) {
  const double step = 1e-6;
  Problem<double> ahead = problem.moved(step);
  Problem<double> behind = problem.moved(-step);
  for (Problem<double>* point : {&problem, &ahead, &behind}) {
    point->run(NormActPoolPhase::kForward, loop);
    point->run(NormActPoolPhase::kBackward, loop);
  }
  Problem<double> tangents = problem;
  tangents.run(NormActPoolPhase::kJvp, loop);
  tangents.run(NormActPoolPhase::kBackwardJvp, loop);
  all_close(tangents.out, problem.out, 1e-14);
  all_close(tangents.grad_z, problem.grad_z, 1e-11);
  all_close(tangents.out_tangent, slope(ahead.out, behind.out, step), 1e-6);
  all_close(tangents.grad_z_tangent, slope(ahead.grad_z, behind.grad_z, step), 1e-6);

  // <grad_out, tangent of out> is the gradients' product with the tangents.
  double through_out = 0.0;
  for (size_t i = 0; i < problem.out.size(); ++i) {
    through_out += problem.grad_out[i] * tangents.out_tangent[i];
  }
  double through_arguments = 0.0;
  for (size_t i = 0; i < problem.z.size(); ++i) {
    through_arguments += problem.grad_z[i] * problem.z_tangent[i];
  }
  const auto channels = static_cast<size_t>(problem.channels);
  for (size_t image = 0; image < static_cast<size_t>(problem.images); ++image) {
    for (size_t channel = 0; channel < channels; ++channel) {
      const double* const grads = &problem.parameter_grads[2 * image * channels + channel];
      through_arguments += grads[0] * problem.weight[channels + channel];
      through_arguments += grads[channels] * problem.bias[channels + channel];
      const double* const both = &tangents.parameter_grads[4 * image * channels + channel];
      const double* const later = &ahead.parameter_grads[2 * image * channels + channel];
      const double* const earlier = &behind.parameter_grads[2 * image * channels + channel];
      for (size_t row = 0; row < 2; ++row) {
        const double rate = (later[row * channels] - earlier[row * channels]) / (2 * step);
        CHECK(std::fabs(both[row * channels] - grads[row * channels]) <= 1e-11);
        CHECK(std::fabs(both[(row + 2) * channels] - rate) <= 1e-6 * (1 + std::fabs(rate)));
      }
    }
  }
  CHECK(std::fabs(through_out - through_arguments) <= 1e-10 * (1 + std::fabs(through_out)));
}

// Other channels are another thread's.
void a_group_writes_its_own_channels_alone(NormActPoolLoop<float> loop) {
  Problem<float> problem(Norm::kInstance, Pooling::kAverage, 70, 5, 4);
  for (const auto phase : {NormActPoolPhase::kJvp, NormActPoolPhase::kBackwardJvp}) {
    loop(phase, problem.norm, problem.pooling, problem.arrays(), 1, 32, 19, false);
  }
  const auto check = [](const std::vector<float>& numbers, size_t of_image) {
    for (size_t i = 0; i < numbers.size(); ++i) {
      const size_t channel = i % 70;
      const bool own = i >= of_image && channel >= 32 && channel < 51;
      CHECK((numbers[i] == static_cast<float>(kUntouched)) != own);
    }
  };
  for (const auto* numbers : {&problem.out, &problem.out_tangent, &problem.stats, &problem.grad_z,
                              &problem.grad_z_tangent, &problem.parameter_grads}) {
    check(*numbers, numbers->size() / 2);
  }
}

void combining_moments_is_taking_them_together() {
  using Few = Moments<double, false>;
  const Dual<double, false> numbers[8] = {{1000.5}, {999.0},   {1001.25}, {1000.0},
                                          {998.5},  {1000.75}, {1e6},     {1000.125}};
  const Dual<double, false> first[4] = {numbers[0], numbers[1], numbers[2], numbers[3]};
  const Dual<double, false> second[4] = {numbers[4], numbers[5], numbers[6], numbers[7]};
  const Few together = Few::of(numbers);
  const Few combined = Few::combine(Few::of(first), Few::of(second), count_weights<double>(4, 4));
  CHECK(std::fabs(together.mean.value - (combined.mean.value - combined.excess.value)) <= 1e-9);
  CHECK(std::fabs(together.squares.value / combined.squares.value - 1) <= 1e-14);
  const Few same = Few::combine(Few::none(), together, count_weights<double>(0, 8));
  CHECK(same.mean.value == together.mean.value && same.squares.value == together.squares.value);

  Few grown = Few::of(first);
  Few::Deviations deviations = Few::Deviations::none();
  for (const auto& number : second) {
    deviations.add(number - grown.mean);
  }
  grown = Few::grow(grown, 4.0, deviations, 4.0);
  CHECK(std::fabs(together.mean.value - (grown.mean.value - grown.excess.value)) <= 1e-9);
  CHECK(std::fabs(together.squares.value / grown.squares.value - 1) <= 1e-14);
}

// The worst case of growing: what is added lies far from what there is, and close together.
void growing_moments_cancels_no_more_than_half() {
  using Floats = Moments<float, false>;
  const Dual<float, false> first[4] = {{1000.5f}, {999.0f}, {1001.25f}, {1000.0f}};
  Floats grown = Floats::of(first);
  Floats::Deviations deviations = Floats::Deviations::none();
  for (int k = 0; k < 4; ++k) {
    deviations.add(Dual<float, false>{-5000.0f + static_cast<float>(k)} - grown.mean);
  }
  grown = Floats::grow(grown, 4.0f, deviations, 4.0f);
  const double mean = -1999.15625;  // of the eight, and their squared deviations from it
  const double squares = 71968511.1171875;
  CHECK(std::fabs(static_cast<double>(grown.mean.value - grown.excess.value) - mean) <= 1e-3);
  CHECK(std::fabs(static_cast<double>(grown.squares.value) / squares - 1) <= 1e-6);
}

// Of 1, 2, ... kParts numbers each, in the order of a GPU's rows of threads: a tree over parts of unequal
// counts, one of them without any. Against sums in long double; the tangents against those of the formulas.
template <typename T, bool tangent>
void unequal_counts_are_combined_as_a_gpu_s_rows_combine_them(double bound) {
  using Counted = CountedMoments<T, tangent>;
  constexpr int kParts = 8;
  std::vector<Counted> parts;
  std::vector<long double> values, tangents;
  for (int part = 0; part < kParts; ++part) {
    Counted own = Counted::none();
    for (int k = 0; k < part * part; ++k) {
      const int place = static_cast<int>(values.size());
      const T value = static_cast<T>(100.0 + std::sin(1.7 * place) + 5.0 * part);
      const T direction = static_cast<T>(std::cos(0.9 * place));
      Dual<T, tangent> numbers[1];
      numbers[0].value = value;
      if constexpr (tangent) {
        numbers[0].tangent = direction;
      }
      own = Counted::combine(own, {Counted::Moments::of(numbers), 1});
      values.push_back(value);
      tangents.push_back(direction);
    }
    parts.push_back(own);
  }
  for (int half = kParts / 2; half > 0; half /= 2) {
    for (int part = 0; part < half; ++part) {
      const auto at = static_cast<size_t>(part);
      parts[at] = Counted::combine(parts[at], parts[at + static_cast<size_t>(half)]);
    }
  }
  const auto close = [bound](T actual, long double expected) {
    return std::fabs(static_cast<double>(actual) / static_cast<double>(expected) - 1) <= bound;
  };
  long double mean = 0, mean_tangent = 0, squares = 0, squares_tangent = 0;
  const auto count = static_cast<long double>(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    mean += values[i] / count;
    mean_tangent += tangents[i] / count;
  }
  for (size_t i = 0; i < values.size(); ++i) {
    squares += (values[i] - mean) * (values[i] - mean);
    squares_tangent += 2 * (values[i] - mean) * (tangents[i] - mean_tangent);
  }
  const auto& actual = parts[0].moments;
  CHECK(parts[0].count == static_cast<int64_t>(values.size()));
  CHECK(close(actual.mean.value - actual.excess.value, mean));
  CHECK(close(actual.squares.value, squares));
  if constexpr (tangent) {
    CHECK(std::fabs(static_cast<double>(actual.mean.tangent - actual.excess.tangent - mean_tangent)) <=
          bound);
    CHECK(std::fabs(static_cast<double>(actual.squares.tangent - squares_tangent)) <=
          bound * static_cast<double>(squares));
  }
}

void the_first_of_equal_maxima_wins_unless_one_is_no_number() {
  using Window = ReluPool<double, Pooling::kMax>;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Dual<double, false> grad{3.0};
  Dual<double, false> of_v[4];
  Window::backward({1.0, 2.0, 2.0, -1.0}, grad, of_v);
  CHECK(of_v[0].value == 0 && of_v[1].value == 3 && of_v[2].value == 0 && of_v[3].value == 0);
  Window::backward({1.0, nan, 2.0, -1.0}, grad, of_v);
  CHECK(of_v[0].value == 0 && of_v[1].value == 3 && of_v[2].value == 0 && of_v[3].value == 0);
  Window::backward({-1.0, -2.0, 0.0, -1.0}, grad, of_v);
  CHECK(of_v[0].value == 0 && of_v[1].value == 0 && of_v[2].value == 0 && of_v[3].value == 0);
  CHECK(std::isnan(Window::apply<false>({{1.0}, {nan}, {2.0}, {-1.0}}).value));
}

}  // namespace

int main() {
  for (const Isa isa : {Isa::kBaseline, Isa::kAvx2, Isa::kAvx512}) {
    if (isa > pydistill::cpu::isa()) {
      std::printf("norm_act_pool: %s left out\n", pydistill::cpu::isa_name(isa));
      continue;
    }
    for (const Norm norm : {Norm::kNone, Norm::kInstance}) {
      for (const Pooling pooling : {Pooling::kNone, Pooling::kAverage, Pooling::kMax}) {
        for (const int64_t channels : {1, 3, 15, 16, 17, 65}) {
          for (const int64_t side : {1, 2, 5, 8}) {
            const Problem<double> problem(norm, pooling, channels, side, 9);
            forward_agrees_with_the_formula(problem, loop_of<double>(isa));
            derivatives_are_difference_quotients(problem, loop_of<double>(isa));
            forward_agrees_with_the_formula(Problem<float>(norm, pooling, channels, side, 9),
                                            loop_of<float>(isa));
          }
        }
      }
    }
    a_group_writes_its_own_channels_alone(loop_of<float>(isa));
  }
  combining_moments_is_taking_them_together();
  growing_moments_cancels_no_more_than_half();
  unequal_counts_are_combined_as_a_gpu_s_rows_combine_them<double, false>(1e-14);
  unequal_counts_are_combined_as_a_gpu_s_rows_combine_them<double, true>(1e-14);
  unequal_counts_are_combined_as_a_gpu_s_rows_combine_them<float, false>(2e-6);
  unequal_counts_are_combined_as_a_gpu_s_rows_combine_them<float, true>(2e-6);
  the_first_of_equal_maxima_wins_unless_one_is_no_number();
  std::puts("norm_act_pool: all checks hold");
  return 0;
}
