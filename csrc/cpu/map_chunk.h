// One chunk of a map of pieces (kernels/trajectory_point.h says what such a struct offers), on one thread. No
// torch here, so that the host tests run it as it is.
#pragma once

#include <cstdint>

namespace pydistill::cpu {

// Writes the elements [begin, end), asking once for each piece.
template <typename Map>
void map_chunk(const Map& shared_map, int64_t begin, int64_t end) {
  const Map map = shared_map;  // a local copy, which no store can alias
  for (int64_t i = begin; i < end;) {
    const typename Map::Piece piece = map.piece(i);
    const int64_t stop = piece.end < end ? piece.end : end;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
    for (; i < stop; ++i) {
      map.write(i, piece);
    }
  }
}

}  // namespace pydistill::cpu
