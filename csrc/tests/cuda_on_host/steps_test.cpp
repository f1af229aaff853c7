// Maps over the row of a table that a counter in device memory names, against the CPU's, to the bit.
#include "../../kernels/steps.h"

#include "../../cpu/map_chunk.h"
#include "../../cpu/reduce_chunk.h"
#include "../../cuda/map.cuh"
#include "../../cuda/map_reduce.cuh"
#include "host_test.h"

namespace {

using namespace cuda_on_host;
namespace kernels = pydistill::kernels;

constexpr int64_t kSteps = 3;

int64_t address(const void* memory) { return reinterpret_cast<int64_t>(memory); }

template <typename Map>
void map_on_device(const Map& map, int64_t count) {
  CHECK(pydistill::cuda::map(map, count, nullptr) == cudaSuccess);
}

template <typename T, bool kWeighted>
void sgd_steps_are_those_of_the_cpu(int64_t count, int64_t step) {
  using Tables = kernels::SgdStepOfTables<T, kWeighted>;
  const auto theta = wave<T>(count, 1.3);
  const auto grad = wave<T>(count, 0.7);
  const auto target = wave<T>(count, 2.1);
  const auto weights = wave<T>(kWeighted ? count : 0, 0.3);
  const auto lr = wave<T>(kSteps, 0.4);
  std::vector<T> points((kSteps + 1) * static_cast<size_t>(count), T(-77));
  std::vector<double> sums(2 * (kSteps + 1), -77.0);
  DeviceArray<T> from(theta), along(grad), towards(target), shares(weights), rates(lr);
  DeviceArray<int64_t> now(std::vector<int64_t>{step});
  const Results results = in_every_order([&]() -> Results {
    DeviceArray<T> table(points);
    DeviceArray<double> distances(sums);
    DeviceArray<int64_t> where(std::vector<int64_t>{address(table.data())});
    DeviceArray<kernels::DistanceSums> partial(pydistill::cuda::blocks_for(count));
    const Tables tables{from.data(),  along.data(),     towards.data(), shares.data(), rates.data(),
                        where.data(), distances.data(), now.data(),     count};
    CHECK((pydistill::cuda::map_reduce_now<kernels::SgdStep<T, kWeighted>>(tables, count, partial.data(),
                                                                           nullptr) == cudaSuccess));
    return {as_doubles(table.numbers()), distances.numbers()};
  });
  const int64_t where = address(points.data());
  const Tables tables{theta.data(), grad.data(), target.data(), weights.data(), lr.data(),
                      &where,       sums.data(), &step,         count};
  const auto expected = tables.now();
  expected.finish(pydistill::cpu::reduce_chunk(expected, 0, count));
  CHECK(same_bits({results[0]}, {as_doubles(points)}));
  check_close({results[1]}, {sums}, 1e-12 * (1 + static_cast<double>(count)));
}

template <typename T>
void vectors_are_those_of_the_cpu(int64_t count, int64_t step) {
  const auto product = wave<T>(count, 0.7);
  const auto lr = wave<T>(kSteps, 0.4);
  const auto points = wave<T>((kSteps + 1) * count, 0.2);
  auto adjoint = wave<T>(count, 1.3);
  auto table = wave<T>(kSteps, 0.9);
  const std::vector<T> value = {T(0.3)};
  DeviceArray<T> along(product), rates(lr), all(points), one(value);
  DeviceArray<int64_t> now(std::vector<int64_t>{step}), where(std::vector<int64_t>{address(all.data())});
  const Results results = in_every_order([&]() -> Results {
    DeviceArray<T> in_place(adjoint), copy(count), of_steps(table);
    map_on_device(
        kernels::AdjointStepOfTables<T>{in_place.data(), along.data(), rates.data(), now.data(), count},
        count);
    map_on_device(kernels::CopyPoint<T>{where.data(), now.data(), count, copy.data()}, count);
    map_on_device(kernels::SubtractAtStep<T>{one.data(), now.data(), of_steps.data()}, 1);
    return {as_doubles(in_place.numbers()), as_doubles(copy.numbers()), as_doubles(of_steps.numbers())};
  });
  std::vector<T> copy(static_cast<size_t>(count));
  const int64_t of_points = address(points.data());
  using pydistill::cpu::map_chunk;
  map_chunk(kernels::AdjointStepOfTables<T>{adjoint.data(), product.data(), lr.data(), &step, count}, 0,
            count);
  map_chunk(kernels::CopyPoint<T>{&of_points, &step, count, copy.data()}, 0, count);
  map_chunk(kernels::SubtractAtStep<T>{value.data(), &step, table.data()}, 0, 1);
  CHECK(same_bits(results, {as_doubles(adjoint), as_doubles(copy), as_doubles(table)}));
}

// Of an index that names rows twice, not at all, and rows that do not exist.
std::vector<int64_t> index_of(int64_t rows, int64_t table_rows) {
  std::vector<int64_t> index;
  for (int64_t i = 0; i < kSteps * rows; ++i) {
    index.push_back(i * i % (table_rows + 2) - 1);
  }
  return index;
}

template <typename T>
void gathered_rows_are_those_of_the_cpu(int64_t rows, int64_t table_rows, int64_t width, int64_t step) {
  const auto index = index_of(rows, table_rows);
  std::vector<T> table;
  for (int64_t i = 0; i < table_rows * width; ++i) {
    table.push_back(static_cast<T>(i + 5));
  }
  DeviceArray<T> all(table);
  DeviceArray<int64_t> sources(index), now(std::vector<int64_t>{step});
  const Results results = in_every_order([&]() -> Results {
    DeviceArray<T> out(rows * width);
    map_on_device(
        kernels::GatherRows<T>{all.data(), table_rows, sources.data(), now.data(), rows, width, out.data()},
        rows * width);
    return {as_doubles(out.numbers())};
  });
  std::vector<T> out(static_cast<size_t>(rows * width));
  pydistill::cpu::map_chunk(
      kernels::GatherRows<T>{table.data(), table_rows, index.data(), &step, rows, width, out.data()}, 0,
      rows * width);
  CHECK(same_bits(results, {as_doubles(out)}));
}

template <typename T>
void subtracted_rows_are_those_of_the_cpu(int64_t rows, int64_t table_rows, int64_t width, int64_t step) {
  const auto index = index_of(rows, table_rows);
  const auto share = wave<T>(rows * width, 0.8);
  const auto lr = wave<T>(kSteps, 0.4);
  auto gradient = wave<T>(table_rows * width, 0.5);
  DeviceArray<T> shares(share), rates(lr);
  DeviceArray<int64_t> sources(index), now(std::vector<int64_t>{step});
  const Results results = in_every_order([&]() -> Results {
    DeviceArray<T> out(gradient);
    map_on_device(kernels::SubtractRows<T>{shares.data(), sources.data(), rates.data(), now.data(), rows,
                                           width, out.data()},
                  table_rows * width);
    return {as_doubles(out.numbers())};
  });
  pydistill::cpu::map_chunk(
      kernels::SubtractRows<T>{share.data(), index.data(), lr.data(), &step, rows, width, gradient.data()}, 0,
      table_rows * width);
  CHECK(same_bits(results, {as_doubles(gradient)}));
}

template <typename T>
void all_maps(const std::vector<int64_t>& counts) {
  for (const int64_t count : counts) {
    const int64_t step = count % kSteps;
    sgd_steps_are_those_of_the_cpu<T, false>(count, step);
    sgd_steps_are_those_of_the_cpu<T, true>(count, step);
    vectors_are_those_of_the_cpu<T>(count, step);
  }
  for (int64_t step = 0; step < kSteps; ++step) {
    for (const int64_t width : {1, 2, 31, 256, 1025}) {
      gathered_rows_are_those_of_the_cpu<T>(3, 4, width, step);
      subtracted_rows_are_those_of_the_cpu<T>(3, 4, width, step);
    }
    gathered_rows_are_those_of_the_cpu<T>(0, 4, 3, step);
    gathered_rows_are_those_of_the_cpu<T>(700, 5, 3, step);
    gathered_rows_are_those_of_the_cpu<int64_t>(700, 5, 1, step);
    subtracted_rows_are_those_of_the_cpu<T>(0, 4, 3, step);
    subtracted_rows_are_those_of_the_cpu<T>(9, 700, 3, step);
  }
}

}  // namespace

int main(int count, char** arguments) {
  std::vector<int64_t> counts = {0, 1, 32, 255, 256, 257, 1024, 1025, 4095, 4096, 4097};
  if (is_sweep(count, arguments)) {
    for (int64_t further = 3; further < 9000; further += 241) {
      counts.push_back(further);
    }
  }
  all_maps<float>(counts);
  all_maps<double>(counts);
  std::puts("steps: all checks hold");
  return 0;
}
