// Scale and rotation of an image by bilinear sampling, and the transpose of that.
#pragma once

#include <cmath>
#include <cstdint>

#include "augment_image.h"

namespace pydistill::kernels {

// Bilinear sampling: pixel (row, column) of the result is read at
//   column of source = xx (column - centre) + xy (row - centre) + centre,   row of source likewise with yx,
//   yy,
// which is the matrix in coordinates from -1 to 1 between the centres of the outermost pixels. The weight of
// a pixel is tent(distance in rows) tent(distance in columns), in both directions.
template <typename T>
struct Resample {
  static constexpr int64_t kChannelsAtOnce = 4;
  T centre_row;
  T centre_column;
  T xx;
  T xy;
  T yx;
  T yy;
  bool transpose;

  // The matrix in coordinates from -1 to 1: x' = xx x + xy y, y' = yx x + yy y.
  PYDISTILL_HOST_DEVICE static Resample from_matrix(const ImageSize& size, T xx, T xy, T yx, T yy,
                                                    bool transpose) {
    const T centre_row = static_cast<T>(size.height - 1) / 2;
    const T centre_column = static_cast<T>(size.width - 1) / 2;
    return {centre_row,
            centre_column,
            xx,
            size.height > 1 ? xy * centre_column / centre_row : T(0),
            size.width > 1 ? yx * centre_row / centre_column : T(0),
            yy,
            transpose};
  }
  PYDISTILL_HOST_DEVICE static Resample scale(const ImageSize& size, const T* p, bool transpose) {  // p: [2]
    return from_matrix(size, p[0], T(0), T(0), p[1], transpose);
  }
  PYDISTILL_HOST_DEVICE static Resample rotate(const ImageSize& size, const T* p, bool transpose) {  // p: [1]
    const T cosine = std::cos(p[0]);
    const T sine = std::sin(p[0]);
    return from_matrix(size, cosine, -sine, sine, cosine, transpose);
  }

  template <typename V, typename Write>
  PYDISTILL_HOST_DEVICE void pixel(const Source<V>& from, typename Numbers<V>::Index row,
                                   typename Numbers<V>::Index column, const Write& write) const {
    if (transpose) {
      spread(from, row, column, write);
    } else {
      sample(from, row, column, write);
    }
  }

 private:
  template <typename V, typename Index>
  PYDISTILL_HOST_DEVICE V column_of_source(Index row, Index column) const {
    const V down = Numbers<V>::value(row) - V(centre_row);
    const V right = Numbers<V>::value(column) - V(centre_column);
    return V(xx) * right + (V(xy) * down + V(centre_column));
  }
  template <typename V, typename Index>
  PYDISTILL_HOST_DEVICE V row_of_source(Index row, Index column) const {
    const V down = Numbers<V>::value(row) - V(centre_row);
    const V right = Numbers<V>::value(column) - V(centre_column);
    return V(yx) * right + (V(yy) * down + V(centre_row));
  }

  PYDISTILL_HOST_DEVICE static T size_of(T number) { return number < 0 ? -number : number; }
  template <typename V>
  PYDISTILL_HOST_DEVICE static V tent(V distance) {
    const V weight = V(T(1)) - select(distance < V(T(0)), -distance, distance);
    return select(weight > V(T(0)), weight, V(T(0)));  // 0 for a NaN
  }

  template <typename V, typename Index, typename Write>
  PYDISTILL_HOST_DEVICE void sample(const Source<V>& from, Index row, Index column,
                                    const Write& write) const {
    using N = Numbers<V>;
    const V x = column_of_source<V>(row, column);
    const V y = row_of_source<V>(row, column);
    const auto reaches = x > V(T(-1)) && x < V(static_cast<T>(from.size.width)) && y > V(T(-1)) &&
                         y < V(static_cast<T>(from.size.height));
    // A position that reaches no pixel, or is NaN, reads at -2 and -1, which is outside.
    const Index left = N::floor(select(reaches, x, V(T(-2))));
    const Index top = N::floor(select(reaches, y, V(T(-2))));
    typename Source<V>::Place places[4];
    V weights[4];
    for (int neighbour = 0; neighbour < 4; ++neighbour) {
      const Index v = top + N::index(neighbour / 2);
      const Index u = left + N::index(neighbour % 2);
      places[neighbour] = from.place(v, u);
      weights[neighbour] = tent(y - N::value(v)) * tent(x - N::value(u));
    }
    for (int64_t channel = 0; channel < from.size.channels; ++channel) {
      V sum(T(0));
      for (int neighbour = 0; neighbour < 4; ++neighbour) {
        sum += weights[neighbour] * from.read(channel, places[neighbour]);
      }
      write(channel, sum);
    }
  }

  // The pixels of the result that read within a distance of 1 of one pixel of the source lie in a box: the
  // inverse map makes a parallelogram of a square around the pixel, and this is the box around that.
  struct Box {
    T determinant;
    T half_rows;
    T half_columns;
    int64_t rows;
    int64_t columns;
  };
  PYDISTILL_HOST_DEVICE Box box_of_readers(const ImageSize& size) const {
    const T determinant = xx * yy - xy * yx;
    // Where the matrix is too close to one without an inverse, every pixel may be a reader.
    if (!(size_of(determinant) * 64 > size_of(xx * yy) + size_of(xy * yx))) {
      return {T(1), T(0), T(0), size.height, size.width};
    }
    // Half the square's side: 1, and some more for the rounding of positions and of the inverse.
    const T half = (T(1.01) + static_cast<T>(size.height + size.width) / 65536) / size_of(determinant);
    const T half_rows = (size_of(xx) + size_of(yx)) * half;
    const T half_columns = (size_of(yy) + size_of(xy)) * half;
    return {determinant, half_rows, half_columns, most_within(half_rows, size.height),
            most_within(half_columns, size.width)};
  }
  // The most pixels in a row of `side` pixels that lie within `half` of a position.
  PYDISTILL_HOST_DEVICE static int64_t most_within(T half, int64_t side) {
    return 2 * half + 1 < static_cast<T>(side) ? static_cast<int64_t>(2 * half + 1) : side;
  }
  // The first of `count` pixels that lie within `half` of a position.
  template <typename V>
  PYDISTILL_HOST_DEVICE static typename Numbers<V>::Index first_within(V position, T half, int64_t count,
                                                                       int64_t side) {
    using N = Numbers<V>;
    if (count == side) {
      return N::index(0);
    }
    const V least(-static_cast<T>(side));
    const V most(static_cast<T>(side));
    V first = position - V(half);
    first = select(first > least, first, least);
    first = select(first < most, first, most);
    return -N::floor(-first);
  }

  template <typename V, typename Index, typename Write>
  PYDISTILL_HOST_DEVICE void spread(const Source<V>& from, Index row, Index column,
                                    const Write& write) const {
    using N = Numbers<V>;
    const ImageSize& size = from.size;
    const Box box = box_of_readers(size);
    const V right = (N::value(column) - V(centre_column)) / V(box.determinant);
    const V down = (N::value(row) - V(centre_row)) / V(box.determinant);
    const Index first_row =
        first_within(V(xx) * down - V(yx) * right + V(centre_row), box.half_rows, box.rows, size.height);
    const Index first_column = first_within(V(yy) * right - V(xy) * down + V(centre_column), box.half_columns,
                                            box.columns, size.width);
    for (int64_t first = 0; first < size.channels; first += kChannelsAtOnce) {
      V sums[kChannelsAtOnce] = {V(T(0)), V(T(0)), V(T(0)), V(T(0))};
      for (int64_t v = 0; v < box.rows; ++v) {
        for (int64_t u = 0; u < box.columns; ++u) {
          const Index y = first_row + N::index(v);
          const Index x = first_column + N::index(u);
          const V below = row_of_source<V>(y, x) - N::value(row);
          const V beyond = column_of_source<V>(y, x) - N::value(column);
          const V weight = tent(below) * tent(beyond);
          auto place = from.place(y, x);
          // Exactly the pixels that read this one in sample(), with weight 0 too: 0 NaN is NaN.
          place.inside =
              place.inside && below >= V(T(-1)) && below < V(T(1)) && beyond >= V(T(-1)) && beyond < V(T(1));
          for (int64_t channel = 0; channel < kChannelsAtOnce; ++channel) {
            if (first + channel < size.channels) {
              sums[channel] += weight * from.read(first + channel, place);
            }
          }
        }
      }
      for (int64_t channel = 0; channel < kChannelsAtOnce; ++channel) {
        if (first + channel < size.channels) {
          write(first + channel, sums[channel]);
        }
      }
    }
  }
};

}  // namespace pydistill::kernels
