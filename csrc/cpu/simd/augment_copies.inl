// Operations of augment that move numbers or replace them: crop, cutout, flip, and none.
#pragma once

#include "augment_rows.inl"

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

using kernels::Crop;
using kernels::Cutout;
using kernels::Flip;
using kernels::NotANumber;
using kernels::Unchanged;

template <typename T>
struct Copies {
  ImageSize size;
  Scratch<T> scratch;

  template <bool kTranspose, typename Write>
  void run(const Unchanged<T>&, const Image<const T>& from, const Write& write) const {
    copy_rows(from, write, 0, size.height);
  }

  template <bool kTranspose, typename Write>
  void run(const NotANumber<T>&, const Image<const T>&, const Write& write) const {
    each_row(size, [&](int64_t channel, int64_t y) {
      write_row(write, channel, y, size.width, [](int64_t) { return static_cast<T>(NAN); });
    });
  }

  template <bool kTranspose, typename Write>
  void run(const Crop<T>& crop, const Image<const T>& from, const Write& write) const {
    const int64_t down = kTranspose ? -crop.down : crop.down;
    const int64_t right = kTranspose ? -crop.right : crop.right;
    const int64_t first = right < 0 ? -right : 0;
    const int64_t end = right > 0 ? size.width - right : size.width;
    each_row(size, [&](int64_t channel, int64_t y) {
      if (y + down < 0 || y + down >= size.height) {
        write_row(write, channel, y, size.width, [](int64_t) { return T(0); });
        return;
      }
      const T* row = read_row(from, channel, y + down, scratch.in, size.width) + right;
      write_row(write, channel, y, size.width,
                [row, first, end](int64_t x) { return x >= first && x < end ? row[x] : T(0); });
    });
  }

  template <bool kTranspose, typename Write>
  void run(const Cutout<T>& cutout, const Image<const T>& from, const Write& write) const {
    // The rectangle in whole numbers; an edge that is no number leaves it empty.
    const int64_t first_row = whole_from(cutout.first_row, size.height);
    const int64_t end_row = whole_from(cutout.end_row, size.height);
    const int64_t first = whole_from(cutout.first_column, size.width);
    const int64_t end = whole_from(cutout.end_column, size.width);
    const bool empty = !(cutout.first_row < cutout.end_row && cutout.first_column < cutout.end_column);
    if (empty) {
      copy_rows(from, write, 0, size.height);
      return;
    }
    copy_rows(from, write, 0, first_row);
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      for (int64_t y = first_row; y < end_row; ++y) {
        const T* row = read_row(from, channel, y, scratch.in, size.width);
        write_row(write, channel, y, size.width, [row, first, end](int64_t x) {
          const T number = row[x];
          return x >= first && x < end ? T(0) : number;
        });
      }
    }
    copy_rows(from, write, end_row, size.height);
  }

  template <bool kTranspose, typename Write>
  void run(const Flip<T>& flip, const Image<const T>& from, const Write& write) const {
    if (!flip.mirrors) {
      copy_rows(from, write, 0, size.height);
      return;
    }
    each_row(size, [&](int64_t channel, int64_t y) {
      const T* last = read_row(from, channel, y, scratch.in, size.width) + size.width - 1;
      write_row(write, channel, y, size.width, [last](int64_t x) { return last[-x]; });
    });
  }

 private:
  // The rows [first, end) as they are.
  template <typename Write>
  void copy_rows(const Image<const T>& from, const Write& write, int64_t first, int64_t end) const {
    const bool as_one = has_dense_rows(from, size) && has_dense_rows(write.to, size);
    const int64_t rows = as_one && end > first ? 1 : end - first;
    const int64_t width = as_one ? (end - first) * size.width : size.width;
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      for (int64_t y = first; y < first + rows; ++y) {
        const T* row = read_row(from, channel, y, scratch.in, width);
        write_row(write, channel, y, width, [row](int64_t x) { return row[x]; });
      }
    }
  }

  // The first whole number from `edge` on, within [0, side]; side where edge is no number.
  static int64_t whole_from(T edge, int64_t side) {
    if (!(edge < static_cast<T>(side))) {
      return side;
    }
    if (!(edge > 0)) {
      return 0;
    }
    const int64_t below = static_cast<int64_t>(edge);
    return static_cast<T>(below) < edge ? below + 1 : below;
  }
};

}  // namespace
}  // namespace pydistill::cpu::PYDISTILL_ISA
