// The driver of planes and the sum of their images, against the CPU's loops.
#include "../../cuda/plane.cuh"

#include <limits>

#include "../../cpu/simd/norm_act_pool.h"
#include "host_test.h"

namespace {

using namespace cuda_on_host;
using namespace pydistill::kernels;
using pydistill::cuda::OneNumber;
using pydistill::cuda::PlaneLaunch;

constexpr NormActPoolPhase kForward = NormActPoolPhase::kForward;
constexpr NormActPoolPhase kJvp = NormActPoolPhase::kJvp;
constexpr NormActPoolPhase kBackward = NormActPoolPhase::kBackward;
constexpr NormActPoolPhase kBackwardJvp = NormActPoolPhase::kBackwardJvp;

struct Shape {
  int64_t images, channels, height, width;
};

template <typename T>
struct Problem {
  Norm norm;
  Pooling pooling;
  Shape shape;
  bool has_bias;
  std::vector<T> z, z_tangent, weight, weight_tangent, bias, bias_tangent, grad_out, grad_out_tangent;

  Problem(Norm norm_, Pooling pooling_, const Shape& of, bool with_bias)
      : norm(norm_),
        pooling(pooling_),
        shape(of),
        has_bias(with_bias),
        z(wave<T>(z_count(), 1.7)),
        z_tangent(wave<T>(z_count(), 2.3)),
        weight(wave<T>(instance() ? of.channels : 0, 0.9)),
        weight_tangent(wave<T>(instance() ? of.channels : 0, 0.6)),
        bias(wave<T>(has_bias ? of.channels : 0, 3.1)),
        bias_tangent(wave<T>(has_bias ? of.channels : 0, 1.2)),
        grad_out(wave<T>(out_count(), 0.7)),
        grad_out_tangent(wave<T>(out_count(), 1.1)) {}

  bool instance() const { return norm == Norm::kInstance; }
  int64_t z_count() const { return shape.images * shape.channels * shape.height * shape.width; }
  int64_t out_count() const {
    const int64_t side = pooling == Pooling::kNone ? 1 : 2;
    return shape.images * shape.channels * (shape.height / side) * (shape.width / side);
  }
  int64_t row_count(bool tangent) const { return shape.images * (tangent ? 4 : 2) * shape.channels; }
};

// The arrays of a problem in either memory; Numbers<T> has data() and is made of numbers or of a count.
template <typename T, template <typename> class Numbers>
struct Memory {
  const Problem<T>& problem;
  Numbers<T> z, z_tangent, weight, weight_tangent, bias, bias_tangent, grad_out, grad_out_tangent;

  explicit Memory(const Problem<T>& of)
      : problem(of),
        z(of.z),
        z_tangent(of.z_tangent),
        weight(of.weight),
        weight_tangent(of.weight_tangent),
        bias(of.bias),
        bias_tangent(of.bias_tangent),
        grad_out(of.grad_out),
        grad_out_tangent(of.grad_out_tangent) {}

  // Runs a phase and its backward: the backward reads the statistics that the forward wrote.
  template <typename Run>
  Results run(bool tangent, const Run& run_phase) {
    const auto of_tangent = [&](int64_t count) { return tangent ? count : 0; };
    const int64_t rows = problem.row_count(tangent);
    Numbers<T> out(problem.out_count()), out_tangent(of_tangent(problem.out_count()));
    Numbers<T> stats(problem.instance() ? rows : 0), parameter_grads(rows);
    Numbers<T> grad_z(problem.z_count()), grad_z_tangent(of_tangent(problem.z_count()));
    const NormActPoolArrays<T> arrays{problem.shape.channels,
                                      problem.shape.height,
                                      problem.shape.width,
                                      T(1e-3),
                                      {z.data(), z_tangent.data()},
                                      {weight.data(), weight_tangent.data()},
                                      {bias.data(), bias_tangent.data()},
                                      {grad_out.data(), grad_out_tangent.data()},
                                      {out.data(), out_tangent.data()},
                                      stats.data(),
                                      {grad_z.data(), grad_z_tangent.data()},
                                      parameter_grads.data()};
    run_phase(tangent ? kJvp : kForward, arrays);
    run_phase(tangent ? kBackwardJvp : kBackward, arrays);
    Results results;
    for (Numbers<T>* numbers : {&out, &out_tangent, &stats, &grad_z, &grad_z_tangent, &parameter_grads}) {
      results.push_back(as_doubles(numbers->numbers()));
    }
    return results;
  }
};

template <typename T>
void planes_are_those_of_the_cpu(const Problem<T>& problem, bool tangent) {
  Memory<T, HostArray> host(problem);
  const Results expected = host.run(tangent, [&](NormActPoolPhase phase, const NormActPoolArrays<T>& arrays) {
    const int64_t group = pydistill::cpu::kGroupBytes / static_cast<int64_t>(sizeof(T));
    for (int64_t image = 0; image < problem.shape.images; ++image) {
      for (int64_t channel = 0; channel < problem.shape.channels; channel += group) {
        pydistill::cpu::baseline::norm_act_pool(phase, problem.norm, problem.pooling, arrays, image, channel,
                                                std::min(group, problem.shape.channels - channel), false);
      }
    }
  });
  Memory<T, DeviceArray> device(problem);
  const Results results = in_every_order([&] {
    return device.run(tangent, [&](NormActPoolPhase phase, const NormActPoolArrays<T>& arrays) {
      CHECK(with_norm_act_pool(phase, problem.norm, problem.pooling, arrays, OneNumber<T>{},
                               PlaneLaunch{problem.shape.images, nullptr}) == cudaSuccess);
    });
  });
  // The sums over the pixels are in T, added in another order.
  const double pixels = static_cast<double>(problem.shape.height * problem.shape.width);
  check_close(results, expected, 2 * (1 + pixels) * static_cast<double>(std::numeric_limits<T>::epsilon()));
}

template <typename T>
void sums_are_added_in_the_order_of_the_rows(int64_t rows, int64_t columns) {
  const auto numbers = wave<T>(rows * columns, 0.7);
  std::vector<T> expected(static_cast<size_t>(columns));
  for (size_t i = 0; i < numbers.size(); ++i) {
    expected[i % expected.size()] += numbers[i];
  }
  DeviceArray<T> from(numbers);
  const Results results = in_every_order([&]() -> Results {
    DeviceArray<T> sums(columns);
    CHECK(pydistill::cuda::sum_rows<T>(from.data(), sums.data(), rows, columns, nullptr) == cudaSuccess);
    return {as_doubles(sums.numbers())};
  });
  CHECK(same_bits(results, {as_doubles(expected)}));
}

template <typename T>
void all_planes(const std::vector<Shape>& shapes) {
  for (const Shape& shape : shapes) {
    for (const Pooling pooling : {Pooling::kNone, Pooling::kAverage, Pooling::kMax}) {
      for (const bool tangent : {false, true}) {
        planes_are_those_of_the_cpu(Problem<T>(Norm::kInstance, pooling, shape, true), tangent);
        planes_are_those_of_the_cpu(Problem<T>(Norm::kNone, pooling, shape, shape.channels % 2 == 0),
                                    tangent);
      }
    }
  }
  for (const int64_t rows : {0, 1, 5}) {
    for (const int64_t columns : {0, 1, 127, 128, 129, 257}) {
      sums_are_added_in_the_order_of_the_rows<T>(rows, columns);
    }
  }
}

void every_barrier_is_needed() {
  Memory<float, DeviceArray> device(Problem<float>(Norm::kInstance, Pooling::kMax, {1, 3, 5, 8}, true));
  check_every_barrier_is_needed(3, [&] {
    device.run(false, [&](NormActPoolPhase phase, const NormActPoolArrays<float>& arrays) {
      CHECK(with_norm_act_pool(phase, Norm::kInstance, Pooling::kMax, arrays, OneNumber<float>{},
                               PlaneLaunch{1, nullptr}) == cudaSuccess);
    });
  });
}

}  // namespace

int main(int count, char** arguments) {
  // Channels around a warp; planes around one, two and sixteen rows of threads, odd ones among them.
  std::vector<Shape> shapes = {{0, 3, 4, 4},  {1, 1, 1, 1},  {2, 31, 1, 5},  {1, 32, 5, 3},  {2, 33, 4, 4},
                               {1, 2, 17, 1}, {1, 65, 3, 6}, {1, 3, 16, 15}, {1, 2, 16, 16}, {1, 1, 17, 16}};
  if (is_sweep(count, arguments)) {
    for (const int64_t channels : {1, 32, 65, 130}) {
      for (const int64_t side : {1, 2, 3, 4, 5, 8, 13, 31}) {
        shapes.push_back({2, channels, side, 1 + 3 * side % 7});
      }
    }
    shapes.push_back({4, 32, 8, 8});
    shapes.push_back({1, 2, 64, 64});
  }
  all_planes<float>(shapes);
  all_planes<double>(shapes);
  every_barrier_is_needed();
  std::puts("plane: all checks hold");
  return 0;
}
