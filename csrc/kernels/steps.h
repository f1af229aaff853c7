// Tables with one row per step of a student, and maps over row k, with k read from a counter in memory: work
// that is recorded once reads and writes another row every time it is replayed.
//
// now() returns the map over row k; the drivers in cpu/ and cuda/ call it once per thread.
#pragma once

#include <cstdint>
#include <limits>

#include "adjoint_step.h"
#include "host_device.h"
#include "sgd_step.h"

namespace pydistill::kernels {

// theta_{k+1} = theta_k - lr_k g_k and the distances of theta_{k+1} (sgd_step.h).
template <typename scalar_t, bool kWeighted>
struct SgdStepOfTables {
  const scalar_t* theta;    // [P], theta_k
  const scalar_t* grad;     // [P]
  const scalar_t* target;   // [P]
  const scalar_t* weights;  // [P]; not read without kWeighted
  const scalar_t* lr;       // [N]
  const int64_t* points;    // [], the address of the points [N + 1, P]
  double* distances;        // [N + 1, 2]
  const int64_t* step;      // []
  int64_t count;            // P

  PYDISTILL_HOST_DEVICE SgdStep<scalar_t, kWeighted> now() const {
    const int64_t next = *step + 1;
    return {theta,
            grad,
            target,
            weights,
            lr + *step,
            reinterpret_cast<scalar_t*>(*points) + next * count,
            distances + 2 * next};
  }
};

// lambda <- lambda - lr_k product, by the arithmetic of adjoint_step.h.
template <typename scalar_t>
struct AdjointStepOfTables {
  scalar_t* adjoint;        // [P]
  const scalar_t* product;  // [P]
  const scalar_t* lr;       // [N]
  const int64_t* step;      // []
  int64_t count;            // P

  struct Piece {
    AdjointStep<scalar_t, false> now;
    scalar_t rate;
    int64_t end;
  };

  PYDISTILL_HOST_DEVICE Piece piece(int64_t /*i*/) const {
    const AdjointStep<scalar_t, false> now = {adjoint, product, nullptr, lr + *step, adjoint, nullptr};
    return {now, now.constants(), count};
  }

  PYDISTILL_HOST_DEVICE void write(int64_t i, const Piece& piece) const {
    InnerProduct none = {};
    piece.now.accumulate(none, piece.rate, i, piece.now.load(i));
  }
};

// out = theta_k
template <typename scalar_t>
struct CopyPoint {
  const int64_t* points;  // [], the address of the points [N + 1, P]
  const int64_t* step;    // []
  int64_t count;          // P
  scalar_t* out;          // [P]

  struct Piece {
    const scalar_t* source;
    int64_t end;
  };

  PYDISTILL_HOST_DEVICE Piece piece(int64_t /*i*/) const {
    return {reinterpret_cast<const scalar_t*>(*points) + *step * count, count};
  }

  PYDISTILL_HOST_DEVICE void write(int64_t i, const Piece& piece) const { out[i] = piece.source[i]; }
};

// out[b] = table[index[k, b]]; a row that does not exist is NaN, or -1 in integers.
template <typename scalar_t>
struct GatherRows {
  const scalar_t* table;  // [n, width]
  int64_t table_rows;     // n
  const int64_t* index;   // [N, rows]
  const int64_t* step;    // []
  int64_t rows;           // B
  int64_t width;
  scalar_t* out;  // [rows, width]

  using Limits = std::numeric_limits<scalar_t>;
  static constexpr scalar_t kMissing = Limits::has_quiet_NaN ? Limits::quiet_NaN() : scalar_t(-1);

  struct Piece {
    const scalar_t* source;  // of the row, so that element i is source[i]; or none
    int64_t end;
  };

  PYDISTILL_HOST_DEVICE Piece piece(int64_t i) const {
    const int64_t row = i / width;
    const int64_t from = index[*step * rows + row];
    const bool exists = from >= 0 && from < table_rows;
    return {exists ? table + (from - row) * width : nullptr, (row + 1) * width};
  }

  PYDISTILL_HOST_DEVICE void write(int64_t i, const Piece& piece) const {
    out[i] = piece.source != nullptr ? piece.source[i] : kMissing;
  }
};

// gradient[i] -= lr_k * the sum of share[b] over the b with index[k, b] = i, in the order of b.
template <typename scalar_t>
struct SubtractRows {
  const scalar_t* share;  // [rows, width]
  const int64_t* index;   // [N, rows]
  const scalar_t* lr;     // [N]
  const int64_t* step;    // []
  int64_t rows;           // B
  int64_t width;
  scalar_t* gradient;  // [n, width]

  struct Piece {
    const int64_t* index;  // [rows], of the step
    int64_t first;         // the first b of this row of the gradient; rows if there is none
    int64_t row;
    int64_t end;
    scalar_t rate;
  };

  PYDISTILL_HOST_DEVICE Piece piece(int64_t i) const {
    const int64_t row = i / width;
    const int64_t* index_now = index + *step * rows;
    int64_t first = 0;
    while (first < rows && index_now[first] != row) {
      ++first;
    }
    return {index_now, first, row, (row + 1) * width, lr[*step]};
  }

  PYDISTILL_HOST_DEVICE void write(int64_t i, const Piece& piece) const {
    const int64_t column = i - piece.row * width;
    for (int64_t b = piece.first; b < rows; ++b) {
      if (piece.index[b] == piece.row) {
        gradient[i] -= piece.rate * share[b * width + column];
      }
    }
  }
};

// table[k] -= value: a map of one element.
template <typename scalar_t>
struct SubtractAtStep {
  const scalar_t* value;  // []
  const int64_t* step;    // []
  scalar_t* table;        // [N]

  struct Piece {
    int64_t end;
  };

  PYDISTILL_HOST_DEVICE static Piece piece(int64_t /*i*/) { return {1}; }

  PYDISTILL_HOST_DEVICE void write(int64_t /*i*/, const Piece& /*piece*/) const { table[*step] -= *value; }
};

}  // namespace pydistill::kernels
