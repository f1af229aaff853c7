// Runs a map of pieces (kernels/trajectory_point.h says what such a struct offers) on all threads of the CPU.
#pragma once

#include <ATen/Parallel.h>

#include <cstdint>

#include "map_chunk.h"

namespace pydistill::cpu {

template <typename Map>
void map(const Map& map, int64_t count) {
  at::parallel_for(0, count, /*grain_size=*/32768,
                   [&](int64_t begin, int64_t end) { map_chunk(map, begin, end); });
}

}  // namespace pydistill::cpu
