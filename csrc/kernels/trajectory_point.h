// A point between two waypoints: one linear interpolation for each parameter tensor of a flat vector,
//   point_i = start_i + w_j (end_i - start_i)   for the tensor j that element i belongs to.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace pydistill::kernels {

// A map of pieces, as the drivers in cpu/ and cuda/ run it: piece(i) returns what element i shares with those
// after it, up to piece.end; write(i, piece) writes the element.
template <typename scalar_t>
struct TrajectoryPoint {
  const scalar_t* start;  // [P]
  const scalar_t* end;    // [P]
  const double* weights;  // [J]
  const int64_t* ends;    // [J], the running sum of the tensors' sizes
  int64_t tensors;        // J
  scalar_t* point;        // [P]

  struct Piece {
    scalar_t weight;
    int64_t end;
  };

  // The first tensor that ends after i; never an empty one.
  PYDISTILL_HOST_DEVICE Piece piece(int64_t i) const {
    int64_t low = 0;
    int64_t high = tensors - 1;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (ends[middle] > i) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return {static_cast<scalar_t>(weights[low]), ends[low]};
  }

  // From the nearer end, so that weights 0 and 1 give both ends exactly.
  PYDISTILL_HOST_DEVICE void write(int64_t i, const Piece& piece) const {
    const scalar_t from = start[i];
    const scalar_t to = end[i];
    const scalar_t way = to - from;
    point[i] =
        piece.weight < scalar_t(0.5) ? from + piece.weight * way : to - (scalar_t(1) - piece.weight) * way;
  }
};

}  // namespace pydistill::kernels
