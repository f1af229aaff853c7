// Runs a map with a reduction (see kernels/sgd_step.h for what such a struct offers) on a GPU. No torch here,
// so that nvcc alone compiles it.
//
// Two stages, no atomics: each block reduces a fixed range of elements, then one block combines the blocks'
// states in a fixed order. The order of the additions depends on the number of elements alone, so the result
// is the same, bit for bit, on every run.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "launch.cuh"

namespace pydistill::cuda {

constexpr int kThreads = 256;        // a power of two: combine_block halves it
constexpr int kItemsInFlight = 4;    // loads that a thread issues before it uses the first
constexpr int kRoundsPerThread = 4;  // rounds of kItemsInFlight elements
constexpr int64_t kElementsPerBlock = int64_t{kThreads} * kItemsInFlight * kRoundsPerThread;

// The number of blocks of the first stage, and so of the states [blocks] that its caller provides.
inline int64_t blocks_for(int64_t count) { return (count + kElementsPerBlock - 1) / kElementsPerBlock; }

// Combines one state of each thread, as a tree; thread 0 returns the total.
template <typename Map>
__device__ typename Map::State combine_block(const typename Map::State& own) {
  __shared__ typename Map::State shared[kThreads];
  shared[threadIdx.x] = own;
  __syncthreads();
  for (unsigned int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      shared[threadIdx.x] = Map::combine(shared[threadIdx.x], shared[threadIdx.x + half]);
    }
    __syncthreads();
  }
  return shared[0];
}

// A map that is known when it is queued; kernels/steps.h has those that a counter in memory chooses.
template <typename MapAsItIs>
struct Known {
  MapAsItIs map;
  __device__ const MapAsItIs& now() const { return map; }
};

template <typename Map, typename Tables>
__global__ void __launch_bounds__(kThreads)
    map_reduce_blocks(const Tables tables, int64_t count,
                      typename Map::State* __restrict__ partial) {  // partial: [blocks]
  const Map map = tables.now();
  const auto constants = map.constants();
  typename Map::State state = Map::identity();
  const int64_t block_begin = int64_t{blockIdx.x} * kElementsPerBlock + threadIdx.x;
  for (int round = 0; round < kRoundsPerThread; ++round) {
    const int64_t first = block_begin + int64_t{round} * kThreads * kItemsInFlight;
    typename Map::Item items[kItemsInFlight];
#pragma unroll
    for (int k = 0; k < kItemsInFlight; ++k) {
      const int64_t i = first + int64_t{k} * kThreads;
      if (i < count) {
        items[k] = map.load(i);
      }
    }
#pragma unroll
    for (int k = 0; k < kItemsInFlight; ++k) {
      const int64_t i = first + int64_t{k} * kThreads;
      if (i < count) {
        map.accumulate(state, constants, i, items[k]);
      }
    }
  }
  state = combine_block<Map>(state);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = state;
  }
}

template <typename Map, typename Tables>
__global__ void __launch_bounds__(kThreads)
    map_reduce_finish(const Tables tables, int64_t blocks,
                      const typename Map::State* __restrict__ partial) {  // partial: [blocks]
  const Map map = tables.now();
  typename Map::State state = Map::identity();
  for (int64_t block = threadIdx.x; block < blocks; block += kThreads) {
    state = Map::combine(state, partial[block]);
  }
  state = combine_block<Map>(state);
  if (threadIdx.x == 0) {
    map.finish(state);
  }
}

// Queues both stages of the map that tables.now() gives on the device; partial: [blocks_for(count)] there.
// Gives the first error of the two launches.
template <typename Map, typename Tables>
cudaError_t map_reduce_now(const Tables& tables, int64_t count, typename Map::State* partial,
                           cudaStream_t stream) {
  const int64_t blocks = blocks_for(count);
  const cudaError_t launched =
      launch(&map_reduce_blocks<Map, Tables>, blocks, kThreads, 0, stream, tables, count, partial);
  if (launched != cudaSuccess) {
    return launched;
  }
  // With no element, too: the sums of nothing are zero and have to be written.
  return launch(&map_reduce_finish<Map, Tables>, 1, kThreads, 0, stream, tables, blocks, partial);
}

// Queues both stages of `map`.
template <typename Map>
cudaError_t map_reduce(const Map& map, int64_t count, typename Map::State* partial, cudaStream_t stream) {
  return map_reduce_now<Map>(Known<Map>{map}, count, partial, stream);
}

}  // namespace pydistill::cuda
