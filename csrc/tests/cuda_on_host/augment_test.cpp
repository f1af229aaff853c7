// The driver of augmentations, forward and backward, against the CPU's loops.
#include "../../cuda/augment.cuh"

#include <limits>
#include <utility>

#include "../../cpu/simd/augment.h"
#include "host_test.h"

namespace {

using namespace cuda_on_host;
using pydistill::cuda::augment_plan;
using pydistill::cuda::AugmentPlan;
using pydistill::kernels::AugmentArrays;
using pydistill::kernels::Images;
using pydistill::kernels::images_between;
using pydistill::kernels::ImageSize;

constexpr int64_t kSharedOfHopper = 227 * 1024;
constexpr int64_t kSteps = 2;
constexpr int64_t kStep = 1;  // that the tables are read at

enum class Order { kChannelsFirst, kChannelsLast };

template <typename T, typename Pointer>
Images<T> images(Pointer* data, const ImageSize& size, Order order) {
  if (order == Order::kChannelsLast) {
    return {{data, 1, size.width * size.channels, size.channels}, size.numbers()};
  }
  return {{data, size.height * size.width, size.width, 1}, size.numbers()};
}

template <typename T>
struct Problem {
  ImageSize size;
  Order order = Order::kChannelsFirst;
  int64_t count = 3;           // n
  std::vector<int64_t> index;  // [B]; read in no case without has_index
  bool has_index = true;
  std::vector<int64_t> operations;
  std::vector<T> numbers;  // parameters of one image
  bool has_tables = false;
  int64_t shared_limit = kSharedOfHopper;
  int64_t most_blocks = INT64_MAX;

  int64_t batch() const { return has_index ? static_cast<int64_t>(index.size()) : count; }
  int64_t steps() const { return has_tables ? kSteps : 1; }

  // A table's rows of the other steps, before that of kStep, are of no use to anybody.
  template <typename U>
  std::vector<U> table(const std::vector<U>& row, U other) const {
    std::vector<U> all(has_tables ? row.size() * kStep : 0, other);
    all.insert(all.end(), row.begin(), row.end());
    return all;
  }

  // Of one set for all images, or one for each, a little different.
  std::vector<T> parameters() const {
    std::vector<T> rows = numbers;
    for (int64_t j = 1; has_tables && j < batch(); ++j) {
      for (const T number : numbers) {
        rows.push_back(number * (1 - T(j) / 64));
      }
    }
    return rows;
  }

  // Without the recipe.
  AugmentArrays<T> arrays(const T* from, T* to) const {
    AugmentArrays<T> made{};
    made.from = images<const T>(from, size, order);
    made.to = images<T>(to, size, order);
    made.images = count;
    made.batch = batch();
    made.size = size;
    made.length = static_cast<int64_t>(operations.size());
    made.rows = has_tables ? batch() : 1;
    made.width = static_cast<int64_t>(numbers.size());
    if (has_tables) {
      made.index_step = batch();
      made.operations_step = made.length;
      made.parameters_step = made.rows * made.width;
      made.factor_step = 1;
    }
    made.negate = has_tables;
    return made;
  }
};

// The recipe in either memory.
template <typename T, template <typename> class Numbers>
struct Recipe {
  Numbers<int64_t> index, operations, step;
  Numbers<T> parameters, factor;

  explicit Recipe(const Problem<T>& problem)
      : index(problem.table(problem.index, int64_t{-7})),
        operations(problem.table(problem.operations, int64_t{-7})),
        step(std::vector<int64_t>(problem.has_tables ? 1 : 0, kStep)),
        parameters(problem.table(problem.parameters(), T(NAN))),
        factor(problem.table(std::vector<T>(problem.has_tables ? 1 : 0, T(0.5)), T(NAN))) {}

  void put_into(const Problem<T>& problem, AugmentArrays<T>& arrays) {
    arrays.index = problem.has_index ? index.data() : nullptr;
    arrays.operations = operations.data();
    arrays.parameters = parameters.data();
    arrays.step = step.data();
    arrays.factor = factor.data();
  }
};

template <typename T>
Results by_the_cpu(const Problem<T>& problem, const std::vector<T>& from, const std::vector<T>& grad_out,
                   std::vector<T> gradient) {
  Recipe<T, HostArray> recipe(problem);
  std::vector<T> out(grad_out.size());
  std::vector<T> scratch(static_cast<size_t>(images_between(static_cast<int64_t>(problem.operations.size())) *
                                             problem.size.numbers()));
  AugmentArrays<T> forward = problem.arrays(from.data(), out.data());
  recipe.put_into(problem, forward);
  AugmentArrays<T> backward = problem.arrays(grad_out.data(), gradient.data());
  recipe.put_into(problem, backward);
  for (int64_t j = 0; j < problem.batch(); ++j) {
    pydistill::cpu::baseline::augment_place(forward, j, scratch.data());
    const int64_t source = backward.source(j);
    if (source >= 0 && source < problem.count) {
      pydistill::cpu::baseline::augment_place_backward(backward, source, j, scratch.data());
    }
  }
  return {as_doubles(out), as_doubles(gradient)};
}

template <bool kBackward, typename T>
void run_on_device(const Problem<T>& problem, Recipe<T, DeviceArray>& recipe, T* from, T* to) {
  AugmentArrays<T> arrays = problem.arrays(from, to);
  recipe.put_into(problem, arrays);
  AugmentPlan plan = augment_plan(arrays, kBackward ? problem.count : problem.batch(), problem.shared_limit);
  plan.blocks = std::min(plan.blocks, problem.most_blocks);
  DeviceArray<T> workspace(plan.needs_workspace ? plan.blocks * plan.block_numbers : 0);
  CHECK(pydistill::cuda::augment<kBackward>(arrays, plan, workspace.data(), nullptr) == cudaSuccess);
}

template <typename T>
Results by_the_device(const Problem<T>& problem, const std::vector<T>& from, const std::vector<T>& grad_out,
                      const std::vector<T>& gradient) {
  Recipe<T, DeviceArray> recipe(problem);
  DeviceArray<T> all(from), grads(grad_out), out(static_cast<int64_t>(grad_out.size())), sums(gradient);
  run_on_device<false>(problem, recipe, all.data(), out.data());
  run_on_device<true>(problem, recipe, grads.data(), sums.data());
  return {as_doubles(out.numbers()), as_doubles(sums.numbers())};
}

template <typename T>
void images_are_those_of_the_cpu(const Problem<T>& problem) {
  const auto from = wave<T>(problem.count * problem.size.numbers(), 0.7);
  const auto grad_out = wave<T>(problem.batch() * problem.size.numbers(), 1.3);
  const auto gradient = wave<T>(problem.count * problem.size.numbers(), 0.2);
  const Results results = in_every_order([&] { return by_the_device(problem, from, grad_out, gradient); });
  check_close(results, by_the_cpu(problem, from, grad_out, gradient),
              256 * static_cast<double>(std::numeric_limits<T>::epsilon()));
}

// Parameters of each operation: colour, crop, cutout, flip, scale, rotate.
template <typename T>
const std::vector<std::vector<T>> kParameters = {{T(0.3), T(1.7), T(0.6)}, {2, -1}, {1, 3, 0, 2}, {1},
                                                 {T(0.9), T(1.2)},         {T(0.2)}};

// The operations with their parameters, all in one list.
template <typename T>
Problem<T> problem_of(const ImageSize& size, const std::vector<int64_t>& operations) {
  Problem<T> problem;
  problem.size = size;
  problem.index = {1, 2, 1, 1, 0};
  problem.operations = operations;
  for (const int64_t operation : operations) {
    if (operation >= 0 && operation < 6) {
      const auto& own = kParameters<T>[static_cast<size_t>(operation)];
      problem.numbers.insert(problem.numbers.end(), own.begin(), own.end());
    }
  }
  return problem;
}

// In both memory orders, with an index, with tables and without either: one after the other, or all of them.
template <typename T>
void all_lists(const std::vector<ImageSize>& sizes, bool all) {
  int variant = 0;
  for (const ImageSize& size : sizes) {
    for (const std::vector<int64_t>& list : std::vector<std::vector<int64_t>>{
             {}, {0}, {1}, {2}, {3}, {4}, {5}, {4, 0}, {0, 0, 0}, {0, 1, 2, 3, 4, 5, -1}, {-1, 3}}) {
      for (int k = 0; k < (all ? 6 : 1); ++k, ++variant) {
        Problem<T> problem = problem_of<T>(size, list);
        problem.order = variant % 2 == 0 ? Order::kChannelsFirst : Order::kChannelsLast;
        problem.has_tables = variant % 3 == 1;
        problem.has_index = variant % 3 != 2;
        images_are_those_of_the_cpu(problem);
      }
    }
  }
}

// As many places as threads look at together, one more or less; some images have none.
template <typename T>
void every_place_of_an_image_is_found() {
  for (const int64_t places : {0, 1, 31, 32, 33, 63, 64, 65, 130}) {
    Problem<T> problem = problem_of<T>({1, 2, 3}, {3});
    problem.index.clear();
    for (int64_t j = 0; j < places; ++j) {
      problem.index.push_back(j * j % 5 - 1);  // -1 and 3 do not exist
    }
    images_are_those_of_the_cpu(problem);
  }
}

template <typename T>
void what_does_not_exist_is_not_a_number() {
  images_are_those_of_the_cpu(problem_of<T>({2, 3, 5}, {3, 6}));
  Problem<T> without_parameters = problem_of<T>({2, 3, 5}, {3, 2});
  without_parameters.numbers.pop_back();
  images_are_those_of_the_cpu(without_parameters);
}

template <typename T>
void nothing_is_made_of_nothing() {
  for (const bool has_index : {false, true}) {
    Problem<T> problem = problem_of<T>({2, 3, 5}, {0, 3});
    problem.index.clear();
    problem.has_index = has_index;
    images_are_those_of_the_cpu(problem);
    problem.count = 0;
    images_are_those_of_the_cpu(problem);
    problem.count = 3;
    problem.size.width = 0;
    images_are_those_of_the_cpu(problem);
  }
}

// More scratch than a block has without asking, and than it can have; blocks that take several images.
void large_scratch() {
  Problem<double> problem = problem_of<double>({1, 51, 51}, {3, 1, 0});
  images_are_those_of_the_cpu(problem);
  problem.shared_limit = 43 * 1024;
  const AugmentArrays<double> arrays = problem.arrays(nullptr, nullptr);
  CHECK(!augment_plan(arrays, 5, kSharedOfHopper).needs_workspace);
  CHECK(augment_plan(arrays, 5, kSharedOfHopper).shared_bytes > 40 * 1024);
  CHECK(augment_plan(arrays, 257, problem.shared_limit).needs_workspace);
  CHECK(augment_plan(arrays, 257, problem.shared_limit).blocks == 256);
  problem.most_blocks = 2;
  images_are_those_of_the_cpu(problem);
}

void every_barrier_is_needed() {
  Problem<float> problem = problem_of<float>({1, 5, 8}, {0, 0, 3});
  problem.index = std::vector<int64_t>(70, 1);
  const auto from = wave<float>(3 * 40, 0.7);
  const auto grad_out = wave<float>(70 * 40, 0.7);
  check_every_barrier_is_needed(4, [&] { by_the_device(problem, from, grad_out, from); });
}

}  // namespace

int main(int count, char** arguments) {
  // Pixels around one, one for each of 64 threads, two for each of 128 and of 256.
  std::vector<ImageSize> sizes = {{1, 1, 1}, {3, 1, 7}, {2, 8, 8}, {3, 16, 17}, {1, 23, 25}};
  if (is_sweep(count, arguments)) {
    for (const int64_t height : {1, 4, 11, 16, 33}) {
      for (const int64_t width : {1, 12, 16, 31}) {
        sizes.push_back({1 + (height + width) % 5, height, width});
      }
    }
  }
  all_lists<float>(sizes, is_sweep(count, arguments));
  all_lists<double>(sizes, is_sweep(count, arguments));
  every_place_of_an_image_is_found<float>();
  every_place_of_an_image_is_found<double>();
  what_does_not_exist_is_not_a_number<float>();
  what_does_not_exist_is_not_a_number<double>();
  nothing_is_made_of_nothing<float>();
  nothing_is_made_of_nothing<double>();
  large_scratch();
  every_barrier_is_needed();
  std::puts("augment: all checks hold");
  return 0;
}
