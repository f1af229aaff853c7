// Runs a map of pieces (see kernels/trajectory_point.h for what such a struct offers) on a GPU. No torch
// here, so that nvcc alone compiles it.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "launch.cuh"

namespace pydistill::cuda {

constexpr int kMapThreads = 256;
constexpr int kMapItems = 4;  // elements of a thread
constexpr int64_t kMapElementsPerBlock = int64_t{kMapThreads} * kMapItems;

template <typename Map>
__global__ void __launch_bounds__(kMapThreads) map_elements(const Map map, int64_t count) {
  int64_t i = int64_t{blockIdx.x} * kMapElementsPerBlock + threadIdx.x;
  if (i >= count) {
    return;
  }
  typename Map::Piece piece = map.piece(i);
  for (int item = 0; item < kMapItems && i < count; ++item, i += kMapThreads) {
    if (i >= piece.end) {
      piece = map.piece(i);
    }
    map.write(i, piece);
  }
}

// Queues the map on `stream`; gives the launch's error.
template <typename Map>
cudaError_t map(const Map& map, int64_t count, cudaStream_t stream) {
  const int64_t blocks = (count + kMapElementsPerBlock - 1) / kMapElementsPerBlock;
  return launch(&map_elements<Map>, blocks, kMapThreads, 0, stream, map, count);
}

}  // namespace pydistill::cuda
