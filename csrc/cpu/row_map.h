// Runs a map over rows (kernels/softmax_xent.h says what such a struct offers) on all threads of the CPU.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

#include "reduce_row.h"

namespace pydistill::cpu {

// Elements that are worth one more thread: about 30 microseconds of exponentials.
constexpr int64_t kElementsPerThread = 4096;

// One thread takes a row, from the first column to the last: the result is the same, bit for bit, for any
// number of threads.
template <typename Map>
void row_map(const Map& map, int64_t rows) {
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, map.columns()));
  at::parallel_for(0, rows, grain, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      reduce_row(map, row);
    }
  });
}

}  // namespace pydistill::cpu
