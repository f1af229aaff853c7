// The driver of maps of rows, one warp a row, against the CPU's.
#include "../../cuda/row_map.cuh"

#include <limits>

#include "../../cpu/reduce_row.h"
#include "../../kernels/softmax_xent.h"
#include "host_test.h"

namespace {

using namespace cuda_on_host;
using pydistill::kernels::ClassNumbers;
using pydistill::kernels::LabelRows;
using pydistill::kernels::SoftmaxXent;
using pydistill::kernels::SoftmaxXentTangent;

// The sums over the classes are in double, added in another order, and rounded to T.
template <typename T>
double tolerance(int64_t classes) {
  return 2 * static_cast<double>(std::numeric_limits<T>::epsilon()) +
         static_cast<double>(classes) * std::numeric_limits<double>::epsilon();
}

template <typename T>
struct Problem {
  int64_t rows;
  int64_t classes;
  std::vector<T> logits;
  std::vector<T> tangent;
  std::vector<T> soft;        // labels as rows
  std::vector<int64_t> hard;  // as class numbers

  Problem(int64_t rows_, int64_t classes_)
      : rows(rows_),
        classes(classes_),
        logits(wave<T>(rows * classes, 1.7)),
        tangent(wave<T>(rows * classes, 0.9)),
        soft(wave<T>(rows * classes, 0.3)) {
    for (int64_t row = 0; row < rows; ++row) {
      hard.push_back(7 * row % classes);
    }
  }
};

// Runs both kernels on the CPU or on the device, whichever `run` does, with the labels of either kind.
template <typename T, typename Labels, typename Run>
void run_both(const Problem<T>& problem, const T* logits, const T* tangent, const Labels& labels,
              T* const (&results)[7], const Run& run) {
  const T scale = T(0.25);
  run(SoftmaxXent<T, Labels>{logits, labels, problem.classes, scale, results[0], results[1], results[2]});
  run(SoftmaxXentTangent<T, Labels>{logits, tangent, labels, problem.classes, scale, results[3], results[4],
                                    results[5], results[6]});
}

template <typename T, typename Label, typename Labels>
void rows_are_those_of_the_cpu(const Problem<T>& problem, const std::vector<Label>& labels) {
  const int64_t sizes[] = {problem.rows, problem.rows * problem.classes};
  const int64_t counts[] = {sizes[0], sizes[1], sizes[1], sizes[0], sizes[1], sizes[1], sizes[1]};
  Results expected;
  {
    std::vector<std::vector<T>> out;
    for (const int64_t count : counts) {
      out.emplace_back(static_cast<size_t>(count));
    }
    run_both<T>(problem, problem.logits.data(), problem.tangent.data(),
                Labels{labels.data(), problem.classes},
                {out[0].data(), out[1].data(), out[2].data(), out[3].data(), out[4].data(), out[5].data(),
                 out[6].data()},
                [&](const auto& map) {
                  for (int64_t row = 0; row < problem.rows; ++row) {
                    pydistill::cpu::reduce_row(map, row);
                  }
                });
    for (const auto& numbers : out) {
      expected.push_back(as_doubles(numbers));
    }
  }
  DeviceArray<T> logits(problem.logits), tangent(problem.tangent);
  DeviceArray<Label> names(labels);
  const Results results = in_every_order([&]() -> Results {
    DeviceArray<T> a(counts[0]), b(counts[1]), c(counts[2]), d(counts[3]), e(counts[4]), f(counts[5]),
        g(counts[6]);
    run_both<T>(problem, logits.data(), tangent.data(), Labels{names.data(), problem.classes},
                {a.data(), b.data(), c.data(), d.data(), e.data(), f.data(), g.data()}, [&](const auto& map) {
                  CHECK(pydistill::cuda::row_map(map, problem.rows, nullptr) == cudaSuccess);
                });
    Results all;
    for (DeviceArray<T>* array : {&a, &b, &c, &d, &e, &f, &g}) {
      all.push_back(as_doubles(array->numbers()));
    }
    return all;
  });
  check_close(results, expected, tolerance<T>(problem.classes));
}

template <typename T>
void labels_of_both_kinds(const Problem<T>& problem) {
  rows_are_those_of_the_cpu<T, T, LabelRows<T>>(problem, problem.soft);
  rows_are_those_of_the_cpu<T, int64_t, ClassNumbers<T>>(problem, problem.hard);
}

template <typename T>
void sizes_around_every_boundary(bool sweep) {
  for (const int64_t rows : {0, 1, 7, 8, 9}) {
    for (const int64_t classes : {1, 2, 10, 31, 32, 33, 65}) {
      labels_of_both_kinds(Problem<T>(rows, classes));
    }
  }
  labels_of_both_kinds(Problem<T>(65, 10));
  labels_of_both_kinds(Problem<T>(2, 1000));
  for (int64_t classes = 1; sweep && classes < 140; ++classes) {
    labels_of_both_kinds(Problem<T>(classes % 19, classes));
  }
}

// What is not finite, and a class that does not exist, reach every lane of their row, and no other row.
template <typename T>
void rows_do_not_mix() {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  Problem<T> problem(9, 33);
  problem.logits[3] = std::numeric_limits<T>::quiet_NaN();
  problem.logits[33 + 32] = kInfinity;
  std::fill_n(problem.logits.begin() + 2 * 33, 33, -kInfinity);
  problem.logits[3 * 33] = -kInfinity;
  problem.hard[4] = 33;
  problem.hard[5] = -1;
  labels_of_both_kinds(problem);
}

}  // namespace

int main(int count, char** arguments) {
  sizes_around_every_boundary<float>(is_sweep(count, arguments));
  sizes_around_every_boundary<double>(is_sweep(count, arguments));
  rows_do_not_mix<float>();
  rows_do_not_mix<double>();
  std::puts("row_map: all checks hold");
  return 0;
}
