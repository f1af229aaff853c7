// Runs a map over rows (see kernels/softmax_xent.h for what such a struct offers) on a GPU: one warp a row.
// No torch here, so that nvcc alone compiles it.
//
// No shared memory and no barrier: the warp's lanes combine their states by shuffles, in a fixed order, so
// the result is the same, bit for bit, on every run.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "launch.cuh"

namespace pydistill::cuda {

constexpr int kWarp = 32;
constexpr int kRowsPerBlock = 8;
constexpr int kRowThreads = kWarp * kRowsPerBlock;
constexpr unsigned int kAllLanes = 0xffffffffu;

// The state of the lane whose number differs in the bits of `mask`.
template <typename State>
__device__ State shuffle(const State& own, int mask) {
  constexpr size_t kWords = sizeof(State) / sizeof(int);
  static_assert(sizeof(State) % sizeof(int) == 0, "a state is shuffled in words");
  int words[kWords];
  std::memcpy(words, &own, sizeof(State));
#pragma unroll
  for (size_t word = 0; word < kWords; ++word) {
    words[word] = __shfl_xor_sync(kAllLanes, words[word], mask);
  }
  State other;
  std::memcpy(&other, words, sizeof(State));
  return other;
}

template <typename Map>
__global__ void __launch_bounds__(kRowThreads) row_map_rows(const Map map, int64_t rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t row = int64_t{blockIdx.x} * kRowsPerBlock + threadIdx.x / kWarp;
  if (row >= rows) {
    return;  // the whole warp: its lanes have one row
  }
  const int64_t columns = map.columns();
  typename Map::Score largest = -INFINITY;
  for (int64_t column = lane; column < columns; column += kWarp) {
    const typename Map::Score score = map.score(row, column);
    largest = score > largest ? score : largest;  // skips NaN, which the sums pick up
  }
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const typename Map::Score other = shuffle(largest, mask);
    largest = other > largest ? other : largest;
  }
  typename Map::Sums sums = Map::identity();
  for (int64_t column = lane; column < columns; column += kWarp) {
    map.accumulate(sums, row, column, largest);
  }
  // Additions commute, so after each round both lanes of a pair hold the same bits, and in the end all do.
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    sums = Map::combine(sums, shuffle(sums, mask));
  }
  const typename Map::Row result = map.finish(largest, sums);
  if (lane == 0) {
    map.write_row(row, result);
  }
  for (int64_t column = lane; column < columns; column += kWarp) {
    map.write(row, column, result);
  }
}

// Queues the rows on `stream`; gives the launch's error.
template <typename Map>
cudaError_t row_map(const Map& map, int64_t rows, cudaStream_t stream) {
  const int64_t blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  return launch(&row_map_rows<Map>, blocks, kRowThreads, 0, stream, map, rows);
}

}  // namespace pydistill::cuda
