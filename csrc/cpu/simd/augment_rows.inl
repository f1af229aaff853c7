// What the loops of augment share: the memory of a thread, and rows of an image that are read and written. A
// row whose numbers are not next to each other in memory is copied first.
#pragma once

#include "isa.h"
//
#include <cstring>

#include "../../kernels/augment.h"
#include "augment.h"
#include "lanes.h"

// A loop that is compiled by itself has the registers for itself.
#define PYDISTILL_APART __attribute__((noinline))
#define PYDISTILL_ALWAYS __attribute__((always_inline))  // of a lambda

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

using kernels::AddToImage;
using kernels::Image;
using kernels::ImageSize;
using kernels::StoreImage;

// What one thread keeps beside the images between stages. A row of `pitch` has room for a multiple of four
// numbers.
template <typename T>
struct Scratch {
  int64_t pitch;       // of a row
  int64_t taps_pitch;  // of a row of `across`
  T* in;               // [C + 4, pitch], rows that are read; those after the C-th are zeros
  T* rights;        // [pitch], of each pixel how far beyond its place its position lies (augment_pixels.inl)
  T* downs;         // [pitch]
  int32_t* places;  // [pitch]
  T* across;        // [2 kTapsOfAugment, taps_pitch]: what a row's pixels read (augment_apart.inl)
  T* down;          // [2 kTapsOfAugment, H]: likewise a column's
  T* row;           // [W + kLanesOfAugment, 4], the pixels of one row
  T* pixels;        // [H + 3, W + 3, 4], or rows that a resampling has gone down

  static Scratch of(const ImageSize& size, T* memory) {
    Scratch scratch{};
    scratch.pitch = (size.width + 3) / 4 * 4;
    scratch.taps_pitch = (size.width + kLanesOfAugment - 1) / kLanesOfAugment * kLanesOfAugment;
    scratch.in = memory;
    scratch.rights = scratch.in + (size.channels + 4) * scratch.pitch;
    scratch.downs = scratch.rights + scratch.pitch;
    scratch.places = reinterpret_cast<int32_t*>(scratch.downs + scratch.pitch);
    scratch.across = scratch.downs + 2 * scratch.pitch;
    scratch.down = scratch.across + 2 * kTapsOfAugment * scratch.taps_pitch;
    scratch.row = scratch.down + 2 * kTapsOfAugment * size.height;
    scratch.pixels = scratch.row + 4 * (size.width + kLanesOfAugment);
    for (int64_t x = 0; x < 4 * scratch.pitch; ++x) {
      scratch.in[size.channels * scratch.pitch + x] = 0;
    }
    return scratch;
  }
};

template <typename T>
PYDISTILL_INLINE void put(const StoreImage<T>&, T& to, T value) {
  to = value;
}
template <typename T>
PYDISTILL_INLINE void put(const AddToImage<T>& write, T& to, T value) {
  to += write.factor * value;
}
template <typename T, template <typename> typename Vector>  // Lanes, or Four (augment_pixels.inl)
PYDISTILL_INLINE void put(const StoreImage<T>&, T* to, const Vector<T>& value) {
  value.store(to);
}
template <typename T, template <typename> typename Vector>
PYDISTILL_INLINE void put(const AddToImage<T>& write, T* to, const Vector<T>& value) {
  (Vector<T>::load(to) + write.factor * value).store(to);
}
// The first `count` lanes, all of them if it is more, to places `stride` apart.
template <typename T, template <typename> typename Write>
PYDISTILL_INLINE void put_lanes(const Write<T>& write, T* to, int64_t stride, const Lanes<T>& value,
                                int64_t count) {
  if (stride == 1 && count >= Lanes<T>::kSize) {
    put(write, to, value);
    return;
  }
  T numbers[static_cast<size_t>(Lanes<T>::kSize)];
  value.store(numbers);
  for (int64_t x = 0; x < count && x < Lanes<T>::kSize; ++x) {
    put(write, to[x * stride], numbers[x]);
  }
}

// Writes numbers of one row of a channel, from its first on: value(x) for x < count.
template <typename T, template <typename> typename Write, typename Value>
PYDISTILL_INLINE void write_row(const Write<T>& shared_write, int64_t channel, int64_t row, int64_t count,
                                const Value& shared_value) {
  const Write<T> write = shared_write;  // copies that no store can be taken to change
  const Value value = shared_value;
  T* const to = &write.to.at(channel, row, 0);
  const int64_t stride = write.to.column_stride;
  if (stride == 1) {
#pragma GCC ivdep
    for (int64_t x = 0; x < count; ++x) {
      put(write, to[x], value(x));
    }
  } else {
    for (int64_t x = 0; x < count; ++x) {
      put(write, to[x * stride], value(x));
    }
  }
}

// Whether the rows of each channel follow one another without a gap, so that several are as good as one.
template <typename T>
PYDISTILL_INLINE bool has_dense_rows(const Image<T>& image, const ImageSize& size) {
  return image.column_stride == 1 && image.row_stride == size.width;
}

// The row of an image that is read; a copy in `buffer` if its numbers are not neighbours.
template <typename T>
PYDISTILL_INLINE const T* read_row(const Image<const T>& from, int64_t channel, int64_t row, T* buffer,
                                   int64_t width) {
  const T* numbers = &from.at(channel, row, 0);
  if (from.column_stride == 1) {
    return numbers;
  }
  for (int64_t x = 0; x < width; ++x) {
    buffer[x] = numbers[x * from.column_stride];
  }
  return buffer;
}

// make(channel, y) for every row of an image.
template <typename Make>
PYDISTILL_INLINE void each_row(const ImageSize& size, const Make& make) {
  for (int64_t channel = 0; channel < size.channels; ++channel) {
    for (int64_t y = 0; y < size.height; ++y) {
      make(channel, y);
    }
  }
}

}  // namespace
}  // namespace pydistill::cpu::PYDISTILL_ISA
