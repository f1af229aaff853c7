// The arithmetic of augment, on one pixel at a time as a GPU runs it, and on vector registers as the CPU
// does, without torch.
#include "../kernels/augment.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <utility>
#include <vector>

#include "../cpu/isa.h"
#include "../cpu/simd/augment.h"
#include "check.h"

namespace {

using pydistill::cpu::Isa;
using pydistill::kernels::AugmentArrays;
using pydistill::kernels::dense_image;
using pydistill::kernels::images_between;
using pydistill::kernels::ImageSize;
using pydistill::kernels::Source;
using pydistill::kernels::Stage;
using pydistill::kernels::Stages;
using pydistill::kernels::Target;

// Runs the stages pixel by pixel, as a GPU does.
template <typename scalar_t>
struct WritePixel {
  const Target<scalar_t>& target;
  int64_t row;
  int64_t column;

  void operator()(int64_t channel, scalar_t value) const {
    scalar_t& number = target.to.at(channel, row, column);
    number = target.adds ? target.updated(number, value) : value;
  }
};

template <typename scalar_t>
void run_pixel_by_pixel(const Stages<scalar_t>& stages) {
  const ImageSize& size = stages.size;
  for (int64_t i = 0; i < stages.count(); ++i) {
    const Stage<scalar_t> stage = stages[i];
    const Source<scalar_t> from{stage.from, size};
    double sum = 0;
    if (stage.operation.needs_mean()) {
      for (int64_t pixel = 0; pixel < size.height * size.width; ++pixel) {
        for (int64_t channel = 0; channel < size.channels; ++channel) {
          sum += static_cast<double>(stage.from.at(channel, pixel / size.width, pixel % size.width));
        }
      }
    }
    const scalar_t mean = static_cast<scalar_t>(sum / static_cast<double>(size.numbers()));
    for (int64_t row = 0; row < size.height; ++row) {
      for (int64_t column = 0; column < size.width; ++column) {
        stage.operation.pixel(from, mean, row, column, WritePixel<scalar_t>{stage.to, row, column});
      }
    }
  }
}

// Two images of one size, the second of which is made from the first.
template <typename scalar_t>
struct Problem {
  ImageSize size;
  std::vector<int64_t> operations;
  std::vector<scalar_t> parameters, from, to, scratch;

  Problem(const ImageSize& of, std::vector<int64_t> list, std::vector<scalar_t> numbers)
      : size(of),
        operations(std::move(list)),
        parameters(std::move(numbers)),
        to(static_cast<size_t>(of.numbers()), scalar_t(-77)),
        scratch(static_cast<size_t>(images_between(static_cast<int64_t>(operations.size())) * of.numbers())) {
    for (int64_t i = 0; i < size.numbers(); ++i) {
      from.push_back(static_cast<scalar_t>(std::sin(1.0 + 0.7 * static_cast<double>(i))));
    }
  }

  AugmentArrays<scalar_t> arrays() {
    AugmentArrays<scalar_t> arrays{};
    arrays.from = {dense_image<const scalar_t>(from.data(), size), size.numbers()};
    arrays.to = {dense_image(to.data(), size), size.numbers()};
    arrays.images = 1;
    arrays.batch = 1;
    arrays.size = size;
    arrays.operations = operations.data();
    arrays.parameters = parameters.data();
    arrays.length = static_cast<int64_t>(operations.size());
    arrays.rows = 1;
    arrays.width = static_cast<int64_t>(parameters.size());
    return arrays;
  }

  std::vector<scalar_t> pixel_by_pixel(bool transpose) {
    AugmentArrays<scalar_t> of = arrays();
    of.transpose = transpose;
    run_pixel_by_pixel(of.stages(0, scratch.data()));
    return to;
  }

  using Place = void (*)(const AugmentArrays<scalar_t>&, int64_t, scalar_t*);
  std::vector<scalar_t> by_vectors(Place place, bool transpose) {
    AugmentArrays<scalar_t> of = arrays();
    of.transpose = transpose;
    place(of, 0, scratch.data());
    return to;
  }
};

template <typename scalar_t>
double inner(const std::vector<scalar_t>& a, const std::vector<scalar_t>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  }
  return sum;
}

template <typename scalar_t>
bool close(const std::vector<scalar_t>& a, const std::vector<scalar_t>& b) {
  const double tolerance = 256 * static_cast<double>(std::numeric_limits<scalar_t>::epsilon());
  for (size_t i = 0; i < a.size(); ++i) {
    if (!(std::fabs(static_cast<double>(a[i] - b[i])) <= tolerance)) {
      return false;
    }
  }
  return true;
}

// <A x, y> = <x, transpose(A) y>, and the loops over vector registers agree with both.
template <typename scalar_t>
void check_list(const ImageSize& size, const std::vector<int64_t>& list,
                const std::vector<scalar_t>& parameters) {
  Problem<scalar_t> problem(size, list, parameters);
  const std::vector<scalar_t> x = problem.from;
  const std::vector<scalar_t> forward = problem.pixel_by_pixel(false);
  const std::vector<scalar_t> transposed = problem.pixel_by_pixel(true);
  AugmentArrays<scalar_t> linear = problem.arrays();
  linear.linear = true;
  run_pixel_by_pixel(linear.stages(0, problem.scratch.data()));
  std::vector<scalar_t> y(x.rbegin(), x.rend());
  const double one = inner(problem.to, y);
  problem.from = y;
  const double other = inner(x, problem.pixel_by_pixel(true));
  problem.from = x;
  const double tolerance =
      64 * static_cast<double>(std::numeric_limits<scalar_t>::epsilon()) * static_cast<double>(x.size() + 1);
  CHECK(std::fabs(one - other) <= tolerance);

  using Place = typename Problem<scalar_t>::Place;
  std::vector<Place> places{&pydistill::cpu::baseline::augment_place};
#if defined(__x86_64__)
  if (pydistill::cpu::isa() >= Isa::kAvx2) {
    places.push_back(&pydistill::cpu::avx2::augment_place);
  }
  if (pydistill::cpu::isa() >= Isa::kAvx512) {
    places.push_back(&pydistill::cpu::avx512::augment_place);
  }
#endif
  for (const Place place : places) {
    CHECK(close(problem.by_vectors(place, false), forward));
    CHECK(close(problem.by_vectors(place, true), transposed));
  }
}

// Parameters of each operation.
template <typename scalar_t>
std::vector<std::vector<std::vector<scalar_t>>> parameter_sets() {
  return {
      {{0.3f, 1.7f, 0.6f}},                                                    // colour
      {{2, -1}, {-3, 0}, {0, 99}, {-99, 5}},                                   // crop
      {{1, 3, 0, 2}, {0, 99, 0, 99}, {2, 2, 0, 9}},                            // cutout
      {{0}, {1}},                                                              // flip
      {{0.9f, 1.2f}, {3, 0.25f}, {0, 1}, {-1, 1}, {0.7f, -0.8f}, {-5, 0.6f}},  // scale
      {{0.2f}, {-0.26f}, {1.5707963f}, {3}, {0.7853982f}}                      // rotate
  };
}

template <typename scalar_t>
void check_sizes() {
  const auto sets = parameter_sets<scalar_t>();
  const int64_t sides[][2] = {{1, 1}, {1, 7}, {5, 1}, {4, 4}, {3, 9}, {17, 16}, {33, 35}};
  for (const int64_t channels : {1, 2, 3, 4, 5}) {
    for (const auto& side : sides) {
      const ImageSize size{channels, side[0], side[1]};
      std::vector<int64_t> all;
      std::vector<scalar_t> all_parameters;
      for (size_t operation = 0; operation < sets.size(); ++operation) {
        for (const auto& parameters : sets[operation]) {
          check_list<scalar_t>(size, {static_cast<int64_t>(operation)}, parameters);
        }
        all.push_back(static_cast<int64_t>(operation));
        all_parameters.insert(all_parameters.end(), sets[operation][0].begin(), sets[operation][0].end());
      }
      all.push_back(-1);
      check_list<scalar_t>(size, all, all_parameters);
      check_list<scalar_t>(size, {-1, 3}, {1});
      check_list<scalar_t>(size, {}, {});
    }
  }
}

// Random operations in random order, on rows around the number of lanes.
template <typename scalar_t>
void check_random_lists() {
  const auto sets = parameter_sets<scalar_t>();
  uint32_t state = 1;
  const auto below = [&](size_t count) {
    state = state * 1664525u + 1013904223u;
    return static_cast<size_t>(state >> 8) % count;
  };
  const int64_t widths[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 15, 16, 17, 31};
  for (int round = 0; round < 4; ++round) {
    for (const int64_t channels : {1, 3}) {
      for (const int64_t width : widths) {
        std::vector<int64_t> list;
        std::vector<scalar_t> parameters;
        for (size_t length = 1 + below(4); list.size() < length;) {
          const size_t operation = below(sets.size());
          // Only the first two sets, whose numbers stay within the tolerance's range.
          const auto& numbers = sets[operation][below(operation == 0 ? 1 : 2)];
          list.push_back(static_cast<int64_t>(operation));
          parameters.insert(parameters.end(), numbers.begin(), numbers.end());
        }
        check_list<scalar_t>({channels, 1 + static_cast<int64_t>(below(12)), width}, list, parameters);
      }
    }
  }
}

// A list or an image that does not exist.
void what_does_not_exist_is_not_a_number() {
  const auto all_nan = [](const std::vector<float>& numbers) {
    for (const float number : numbers) {
      if (!std::isnan(number)) {
        return false;
      }
    }
    return true;
  };
  Problem<float> unknown({2, 3, 5}, {3, 6}, {1, 1});
  CHECK(all_nan(unknown.pixel_by_pixel(false)));
  CHECK(all_nan(unknown.by_vectors(&pydistill::cpu::baseline::augment_place, false)));
  Problem<float> without_parameters({2, 3, 5}, {3, 2}, {1, 1, 1, 1});
  CHECK(all_nan(without_parameters.pixel_by_pixel(false)));
  CHECK(all_nan(without_parameters.by_vectors(&pydistill::cpu::baseline::augment_place, false)));
  Problem<float> outside({2, 3, 5}, {3}, {1});
  const int64_t source = 1;
  AugmentArrays<float> arrays = outside.arrays();
  arrays.index = &source;
  pydistill::cpu::baseline::augment_place(arrays, 0, outside.scratch.data());
  CHECK(all_nan(outside.to));
}

// The gradient is added to, times the factor of the step, or subtracted from.
void gradients_are_added_up() {
  Problem<double> problem({1, 2, 3}, {3}, {1});
  AugmentArrays<double> arrays = problem.arrays();
  const double factors[] = {5.0, 0.5};
  const int64_t step = 1;
  arrays.step = &step;
  arrays.factor = factors;
  arrays.factor_step = 1;
  arrays.negate = true;
  pydistill::cpu::baseline::augment_place_backward(arrays, 0, 0, problem.scratch.data());
  for (size_t row = 0; row < 2; ++row) {
    for (size_t column = 0; column < 3; ++column) {
      CHECK(problem.to[3 * row + column] == -77 - 0.5 * problem.from[3 * row + 2 - column]);
    }
  }
}

// Pixels that are no numbers do not reach those that do not read them.
void a_position_that_is_no_number_reads_nothing() {
  Problem<float> problem({1, 4, 4}, {5}, {std::numeric_limits<float>::quiet_NaN()});
  for (const float number : problem.pixel_by_pixel(false)) {
    CHECK(number == 0);
  }
  for (const float number : problem.by_vectors(&pydistill::cpu::baseline::augment_place, false)) {
    CHECK(number == 0);
  }
}

}  // namespace

int main() {
  check_sizes<float>();
  check_sizes<double>();
  check_random_lists<float>();
  check_random_lists<double>();
  what_does_not_exist_is_not_a_number();
  gradients_are_added_up();
  a_position_that_is_no_number_reads_nothing();
  std::puts("augment: all checks hold");
  return 0;
}
