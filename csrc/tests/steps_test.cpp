// Maps over the row of a table that a counter names, without torch.
#include "../kernels/steps.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "../cpu/map_chunk.h"
#include "../cpu/reduce_chunk.h"
#include "check.h"

namespace {

using pydistill::cpu::map_chunk;
using pydistill::cpu::reduce_chunk;
using pydistill::kernels::AdjointStep;
using pydistill::kernels::AdjointStepOfTables;
using pydistill::kernels::CopyPoint;
using pydistill::kernels::GatherRows;
using pydistill::kernels::SgdStep;
using pydistill::kernels::SgdStepOfTables;
using pydistill::kernels::SubtractAtStep;
using pydistill::kernels::SubtractRows;

constexpr int64_t kSteps = 3;
constexpr int64_t kCount = 21;  // P

template <typename scalar_t>
std::vector<scalar_t> numbers(int64_t count, double seed) {
  std::vector<scalar_t> made;
  for (int64_t i = 0; i < count; ++i) {
    made.push_back(static_cast<scalar_t>(std::sin(seed + static_cast<double>(i))));
  }
  return made;
}

int64_t address(const void* memory) { return reinterpret_cast<int64_t>(memory); }

// A step of the tables is the step with the pointers moved to its row, and writes no other row.
template <typename scalar_t, bool kWeighted>
void sgd_step_reads_and_writes_its_rows() {
  const auto theta = numbers<scalar_t>(kCount, 1.0);
  const auto grad = numbers<scalar_t>(kCount, 2.0);
  const auto target = numbers<scalar_t>(kCount, 3.0);
  const auto weights = numbers<scalar_t>(kCount, 5.0);
  const scalar_t* used = kWeighted ? weights.data() : nullptr;
  const auto lr = numbers<scalar_t>(kSteps, 4.0);
  for (int64_t step = 0; step < kSteps; ++step) {
    std::vector<scalar_t> points(static_cast<size_t>((kSteps + 1) * kCount), scalar_t(-77));
    std::vector<double> sums(static_cast<size_t>(2 * (kSteps + 1)), -77.0);
    const int64_t where = address(points.data());
    const SgdStepOfTables<scalar_t, kWeighted> tables{
        theta.data(), grad.data(), target.data(), used, lr.data(), &where, sums.data(), &step, kCount};
    const auto now = tables.now();
    now.finish(reduce_chunk(now, 0, kCount));
    std::vector<scalar_t> next(static_cast<size_t>(kCount));
    double distances[2];
    const SgdStep<scalar_t, kWeighted> expected{theta.data(),     grad.data(), target.data(), used,
                                                lr.data() + step, next.data(), distances};
    expected.finish(reduce_chunk(expected, 0, kCount));
    for (int64_t row = 0; row <= kSteps; ++row) {
      const bool written = row == step + 1;
      for (int64_t i = 0; i < kCount; ++i) {
        CHECK(points[static_cast<size_t>(row * kCount + i)] ==
              (written ? next[static_cast<size_t>(i)] : scalar_t(-77)));
      }
      for (int64_t which = 0; which < 2; ++which) {
        CHECK(sums[static_cast<size_t>(2 * row + which)] == (written ? distances[which] : -77.0));
      }
    }
    std::vector<scalar_t> taken(static_cast<size_t>(kCount));
    const int64_t after = step + 1;
    map_chunk(CopyPoint<scalar_t>{&where, &after, kCount, taken.data()}, 0, kCount);
    CHECK(taken == next);
  }
}

template <typename scalar_t>
void adjoint_step_reads_its_rate() {
  const auto product = numbers<scalar_t>(kCount, 2.0);
  const auto lr = numbers<scalar_t>(kSteps, 4.0);
  for (int64_t step = 0; step < kSteps; ++step) {
    auto adjoint = numbers<scalar_t>(kCount, 1.0);
    auto expected = adjoint;
    map_chunk(AdjointStepOfTables<scalar_t>{adjoint.data(), product.data(), lr.data(), &step, kCount}, 0,
              kCount);
    reduce_chunk(AdjointStep<scalar_t, false>{expected.data(), product.data(), nullptr, lr.data() + step,
                                              expected.data(), nullptr},
                 0, kCount);
    CHECK(adjoint == expected);
  }
}

template <typename scalar_t>
bool is_missing(scalar_t value) {
  return value != value || value == scalar_t(-1);
}

// In chunks of every place and size; rows -1 and n do not exist.
template <typename scalar_t>
void rows_are_taken_by_the_index_of_the_step(int64_t width) {
  constexpr int64_t kTableRows = 4;
  constexpr int64_t kRows = 3;
  const std::vector<int64_t> index = {3, 0, 3, 1, -1, 2, 4, 0, 2};
  std::vector<scalar_t> table;
  for (int64_t i = 0; i < kTableRows * width; ++i) {
    table.push_back(static_cast<scalar_t>(5 + i));
  }
  const int64_t count = kRows * width;
  for (int64_t step = 0; step < kSteps; ++step) {
    for (int64_t begin = 0; begin <= count; ++begin) {
      for (int64_t end = begin; end <= count; ++end) {
        std::vector<scalar_t> out(static_cast<size_t>(count), scalar_t(77));
        map_chunk(
            GatherRows<scalar_t>{table.data(), kTableRows, index.data(), &step, kRows, width, out.data()},
            begin, end);
        for (int64_t i = 0; i < count; ++i) {
          const scalar_t actual = out[static_cast<size_t>(i)];
          const int64_t from = index[static_cast<size_t>(step * kRows + i / width)];
          if (i < begin || i >= end) {
            CHECK(actual == scalar_t(77));
          } else if (from < 0 || from >= kTableRows) {
            CHECK(is_missing(actual));
          } else {
            CHECK(actual == table[static_cast<size_t>(from * width + i % width)]);
          }
        }
      }
    }
  }
}

// A row that the index names twice gets both shares, one that it does not name none.
template <typename scalar_t>
void shares_are_subtracted_where_they_came_from() {
  constexpr int64_t kTableRows = 4;
  constexpr int64_t kRows = 3;
  constexpr int64_t kWidth = 2;
  const std::vector<int64_t> index = {3, 0, 3, 1, 1, 1, 2, 0, 9};
  const std::vector<scalar_t> lr = {scalar_t(0.5), scalar_t(2), scalar_t(4)};
  const std::vector<scalar_t> share = {1, 2, 3, 4, 5, 6};
  const std::vector<std::vector<scalar_t>> expected = {
      {scalar_t(-1.5), -2, 0, 0, 0, 0, -3, -4}, {0, 0, -18, -24, 0, 0, 0, 0}, {-12, -16, 0, 0, -4, -8, 0, 0}};
  for (int64_t step = 0; step < kSteps; ++step) {
    for (int64_t cut = 0; cut <= kTableRows * kWidth; ++cut) {
      std::vector<scalar_t> gradient(static_cast<size_t>(kTableRows * kWidth), scalar_t(0));
      const SubtractRows<scalar_t> map{share.data(), index.data(), lr.data(),      &step,
                                       kRows,        kWidth,       gradient.data()};
      map_chunk(map, 0, cut);
      map_chunk(map, cut, kTableRows * kWidth);
      CHECK(gradient == expected[static_cast<size_t>(step)]);
    }
  }
}

void one_number_is_subtracted_at_the_step() {
  std::vector<double> table = {1.0, 2.0, 3.0};
  const double value = 0.5;
  const int64_t step = 1;
  map_chunk(SubtractAtStep<double>{&value, &step, table.data()}, 0, 1);
  CHECK((table == std::vector<double>{1.0, 1.5, 3.0}));
}

}  // namespace

int main() {
  sgd_step_reads_and_writes_its_rows<float, false>();
  sgd_step_reads_and_writes_its_rows<double, false>();
  sgd_step_reads_and_writes_its_rows<float, true>();
  sgd_step_reads_and_writes_its_rows<double, true>();
  adjoint_step_reads_its_rate<float>();
  adjoint_step_reads_its_rate<double>();
  for (const int64_t width : {1, 2, 5}) {
    rows_are_taken_by_the_index_of_the_step<int64_t>(width);
    rows_are_taken_by_the_index_of_the_step<float>(width);
    rows_are_taken_by_the_index_of_the_step<double>(width);
  }
  shares_are_subtracted_where_they_came_from<float>();
  shares_are_subtracted_where_they_came_from<double>();
  one_number_is_subtracted_at_the_step();
  std::puts("steps: all checks hold");
  return 0;
}
