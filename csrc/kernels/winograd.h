// A 3x3 convolution by the minimal filtering of Winograd, F(2x2, 3x3): 16 multiplications for 2x2 outputs
// where the sum over the window needs 36.
//
//   y = A' [ (G w G') o (B' x B) ] A        x [4, 4], w [3, 3], y [2, 2], o element by element
//
//   B' = 1  0 -1  0      G = 1    0    0      A' = 1  1  1  0
//        0  1  1  0          1/2  1/2  1/2         0  1 -1 -1
//        0 -1  1  0          1/2 -1/2  1/2
//        0  1  0 -1          0    0    1
//
// Its adjoints give the gradients: dw = G' [ (B' x B) o (A dy A') ] G. Every factor is 1 or 1/2, so that the
// transforms round little; in float32 the result is as near to the exact one as the sum over the window is
// (docs/fused.md has the measurement). S. Winograd, Arithmetic Complexity of Computations, 1980; Lavin and
// Gray, CVPR 2016.
#pragma once

#include <cstddef>

#include "host_device.h"

namespace pydistill::kernels::winograd {

// Each function works on one column or row of length 4, 3 or 2 and is applied along both directions by
// `both`.

// B' x
template <typename V>
PYDISTILL_HOST_DEVICE void input(const V* x, V* out) {
  out[0] = x[0] - x[2];
  out[1] = x[1] + x[2];
  out[2] = x[2] - x[1];
  out[3] = x[1] - x[3];
}

// G w
template <typename V>
PYDISTILL_HOST_DEVICE void weight(const V* w, V* out) {
  const V half = V(0.5f);
  const V outer = half * (w[0] + w[2]);
  const V inner = half * w[1];
  out[0] = w[0];
  out[1] = outer + inner;
  out[2] = outer - inner;
  out[3] = w[2];
}

// A' m
template <typename V>
PYDISTILL_HOST_DEVICE void output(const V* m, V* out) {
  out[0] = m[0] + m[1] + m[2];
  out[1] = m[1] - m[2] - m[3];
}

// A dy
template <typename V>
PYDISTILL_HOST_DEVICE void output_gradient(const V* dy, V* out) {
  out[0] = dy[0];
  out[1] = dy[0] + dy[1];
  out[2] = dy[0] - dy[1];
  out[3] = -dy[1];
}

// G' m
template <typename V>
PYDISTILL_HOST_DEVICE void weight_gradient(const V* m, V* out) {
  const V half = V(0.5f);
  const V sum = half * (m[1] + m[2]);
  out[0] = m[0] + sum;
  out[1] = half * (m[1] - m[2]);
  out[2] = sum + m[3];
}

// Applies `transform`, from vectors of length `from` to vectors of length `to`, to the columns and then to
// the rows of x [from, from], both row by row: out [to, to].
template <std::size_t from, std::size_t to, typename V, typename Transform>
PYDISTILL_HOST_DEVICE void both(const Transform& transform, const V* x, V* out) {
  V columns[to * from];
#pragma GCC unroll 4
  for (std::size_t column = 0; column < from; ++column) {
    V in[from];
    V done[to];
#pragma GCC unroll 4
    for (std::size_t row = 0; row < from; ++row) {
      in[row] = x[row * from + column];
    }
    transform(in, done);
#pragma GCC unroll 4
    for (std::size_t row = 0; row < to; ++row) {
      columns[row * from + column] = done[row];
    }
  }
#pragma GCC unroll 4
  for (std::size_t row = 0; row < to; ++row) {
    transform(columns + row * from, out + row * to);
  }
}

template <typename V>
struct Input {
  PYDISTILL_HOST_DEVICE void operator()(const V* x, V* out) const { input(x, out); }
};
template <typename V>
struct Weight {
  PYDISTILL_HOST_DEVICE void operator()(const V* x, V* out) const { weight(x, out); }
};
template <typename V>
struct Output {
  PYDISTILL_HOST_DEVICE void operator()(const V* x, V* out) const { output(x, out); }
};
template <typename V>
struct OutputGradient {
  PYDISTILL_HOST_DEVICE void operator()(const V* x, V* out) const { output_gradient(x, out); }
};
template <typename V>
struct WeightGradient {
  PYDISTILL_HOST_DEVICE void operator()(const V* x, V* out) const { weight_gradient(x, out); }
};

}  // namespace pydistill::kernels::winograd
