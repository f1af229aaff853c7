// One chunk of a map with a reduction, on one thread. No torch here, so that the host tests run it as it is.
#pragma once

#include <cstdint>

namespace pydistill::cpu {

// Elements in a chunk: a constant, so that the order of the additions, and with it every bit of the result,
// is the same for any number of threads.
constexpr int64_t kChunkSize = 8192;

// Several states side by side break the chain of dependent additions, which would otherwise set the speed.
constexpr int64_t kLanes = 8;

// Reduces the elements [begin, end); lane j takes the elements begin + j, begin + j + kLanes, ... What
// accumulate() writes for one element must not be what load() reads for another.
template <typename Map>
typename Map::State reduce_chunk(const Map& shared_map, int64_t begin, int64_t end) {
  using State = typename Map::State;
  const Map map = shared_map;  // a local copy, which no store can alias
  const auto constants = map.constants();
  State lanes[kLanes];
  for (State& lane : lanes) {
    lane = Map::identity();
  }
  int64_t i = begin;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
  for (; i + kLanes <= end; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      map.accumulate(lanes[lane], constants, i + lane, map.load(i + lane));
    }
  }
  for (int64_t lane = 0; lane < end - i; ++lane) {
    map.accumulate(lanes[lane], constants, i + lane, map.load(i + lane));
  }
  State total = lanes[0];
  for (int64_t lane = 1; lane < kLanes; ++lane) {
    total = Map::combine(total, lanes[lane]);
  }
  return total;
}

}  // namespace pydistill::cpu
