// Runs a map with a reduction (see kernels/sgd_step.h for what such a struct offers) on all threads of the
// CPU.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "reduce_chunk.h"

namespace pydistill::cpu {

// Chunks run in parallel, their states are combined in the order of the chunks: the result is the same, bit
// for bit, for any number of threads.
template <typename Map>
void map_reduce(const Map& map, int64_t count) {
  using State = typename Map::State;
  const int64_t chunks = (count + kChunkSize - 1) / kChunkSize;
  std::vector<State> partial(static_cast<size_t>(chunks), Map::identity());
  at::parallel_for(0, chunks, /*grain_size=*/4, [&](int64_t first, int64_t last) {
    for (int64_t chunk = first; chunk < last; ++chunk) {
      const int64_t begin = chunk * kChunkSize;
      partial[static_cast<size_t>(chunk)] = reduce_chunk(map, begin, std::min(begin + kChunkSize, count));
    }
  });
  State total = Map::identity();
  for (const State& state : partial) {
    total = Map::combine(total, state);
  }
  map.finish(total);
}

}  // namespace pydistill::cpu
