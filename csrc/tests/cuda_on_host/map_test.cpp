// The driver of maps, against the CPU's: elements that depend on nothing but their piece have the same bits.
#include "../../cuda/map.cuh"

#include "../../cpu/map_chunk.h"
#include "../../kernels/trajectory_point.h"
#include "host_test.h"

namespace {

using namespace cuda_on_host;
using pydistill::kernels::TrajectoryPoint;

template <typename T>
void points_are_those_of_the_cpu(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> ends;
  for (const int64_t size : sizes) {
    ends.push_back((ends.empty() ? 0 : ends.back()) + size);
  }
  const int64_t count = ends.empty() ? 0 : ends.back();
  const auto tensors = static_cast<int64_t>(sizes.size());
  const auto start = wave<T>(count, 1.3);
  const auto end = wave<T>(count, 0.7);
  auto weights = wave<double>(tensors, 0.31);
  std::vector<T> expected(static_cast<size_t>(count));
  pydistill::cpu::map_chunk(
      TrajectoryPoint<T>{start.data(), end.data(), weights.data(), ends.data(), tensors, expected.data()}, 0,
      count);
  DeviceArray<T> from(start), to(end);
  DeviceArray<double> shares(weights);
  DeviceArray<int64_t> stops(ends);
  const Results points = in_every_order([&]() -> Results {
    DeviceArray<T> point(count);
    CHECK(pydistill::cuda::map(
              TrajectoryPoint<T>{from.data(), to.data(), shares.data(), stops.data(), tensors, point.data()},
              count, nullptr) == cudaSuccess);
    return {as_doubles(point.numbers())};
  });
  CHECK(same_bits(points, {as_doubles(expected)}));
}

template <typename T>
void sizes_around_every_boundary(bool sweep) {
  std::vector<int64_t> counts = {0, 1, 31, 32, 33, 255, 256, 257, 1023, 1024, 1025, 2051};
  if (sweep) {
    for (int64_t count = 2; count < 5000; count += 97) {
      counts.push_back(count);
    }
  }
  for (const int64_t count : counts) {
    points_are_those_of_the_cpu<T>({count});
    points_are_those_of_the_cpu<T>({0, count / 3, 0, count - count / 3, 0});
  }
  points_are_those_of_the_cpu<T>({});
  points_are_those_of_the_cpu<T>({255, 257, 0, 1024, 3});
  points_are_those_of_the_cpu<T>(std::vector<int64_t>(1100, 1));
}

}  // namespace

int main(int count, char** arguments) {
  sizes_around_every_boundary<float>(is_sweep(count, arguments));
  sizes_around_every_boundary<double>(is_sweep(count, arguments));
  std::puts("map: all checks hold");
  return 0;
}
