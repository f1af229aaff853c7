// One row of a map over rows (kernels/softmax_xent.h says what such a struct offers), on one thread. No torch
// here, so that the host tests run it as it is.
#pragma once

#include <cmath>
#include <cstdint>

namespace pydistill::cpu {

template <typename Map>
void reduce_row(const Map& map, int64_t row) {
  const int64_t columns = map.columns();
  typename Map::Score largest = -INFINITY;
  for (int64_t column = 0; column < columns; ++column) {
    const typename Map::Score score = map.score(row, column);
    largest = score > largest ? score : largest;  // skips NaN, which the sums pick up
  }
  typename Map::Sums sums = Map::identity();
  for (int64_t column = 0; column < columns; ++column) {
    map.accumulate(sums, row, column, largest);
  }
  const typename Map::Row result = map.finish(largest, sums);
  map.write_row(row, result);
  for (int64_t column = 0; column < columns; ++column) {
    map.write(row, column, result);
  }
}

}  // namespace pydistill::cpu
