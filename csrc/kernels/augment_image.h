// Images as the operations of an augmentation read and write them. The text is written for a value type V:
// one number (float or double, as on a GPU), or as many neighbours in a row as a vector register holds
// (Lanes, see cpu/simd/augment.inl).
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace pydistill::kernels {

struct ImageSize {
  int64_t channels;
  int64_t height;
  int64_t width;

  PYDISTILL_HOST_DEVICE int64_t numbers() const { return channels * height * width; }
};

// One image in memory; neighbours in a channel, a row and a column lie the three strides apart.
template <typename T>
struct Image {
  T* data;  // [C, H, W]
  int64_t channel_stride;
  int64_t row_stride;
  int64_t column_stride;

  PYDISTILL_HOST_DEVICE T& at(int64_t channel, int64_t row, int64_t column) const {
    return data[channel * channel_stride + row * row_stride + column * column_stride];
  }
  PYDISTILL_HOST_DEVICE Image<const T> read_only() const {
    return {data, channel_stride, row_stride, column_stride};
  }
};

// Several images of one size, `image_stride` apart.
template <typename T>
struct Images {
  Image<T> first;
  int64_t image_stride;

  PYDISTILL_HOST_DEVICE Image<T> operator[](int64_t i) const {
    return {first.data + i * image_stride, first.channel_stride, first.row_stride, first.column_stride};
  }
};

// Channel by channel, row by row, without gaps.
template <typename T>
PYDISTILL_HOST_DEVICE Image<T> dense_image(T* data, const ImageSize& size) {
  return {data, size.height * size.width, size.width, 1};
}

// Where a stage's result goes: into an image, or, times a factor, on top of it.
template <typename T>
struct Target {
  Image<T> to;
  T factor;
  bool adds;

  PYDISTILL_HOST_DEVICE static Target store(const Image<T>& to) { return {to, T(1), false}; }
  PYDISTILL_HOST_DEVICE static Target add(const Image<T>& to, T factor) { return {to, factor, true}; }

  // before: the numbers in the image, which are read only where the target adds.
  template <typename V>
  PYDISTILL_HOST_DEVICE V updated(V before, V value) const {
    return before + V(factor) * value;
  }
};

// The integers that go with the value type V: positions of pixels, and offsets in memory.
template <typename V>
struct Numbers {
  using Scalar = V;
  using Index = int64_t;
  using Mask = bool;

  PYDISTILL_HOST_DEVICE static Index index(int64_t number) { return number; }
  PYDISTILL_HOST_DEVICE static V value(Index index) { return static_cast<V>(index); }
  PYDISTILL_HOST_DEVICE static Index floor(V value) { return static_cast<Index>(std::floor(value)); }
  // The number at an offset, 0 where the mask does not hold; nothing is read there.
  PYDISTILL_HOST_DEVICE static V read(const V* data, Index offset, Mask mask) {
    return mask ? data[offset] : V(0);
  }
};

// An image as the operations read it: 0 outside.
template <typename V>
struct Source {
  using Index = typename Numbers<V>::Index;
  using Mask = typename Numbers<V>::Mask;

  struct Place {
    Index offset;  // in the memory of a channel
    Mask inside;
  };

  Image<const typename Numbers<V>::Scalar> image;
  ImageSize size;

  PYDISTILL_HOST_DEVICE Place place(Index row, Index column) const {
    using N = Numbers<V>;
    return {row * N::index(image.row_stride) + column * N::index(image.column_stride),
            row >= 0 && row < N::index(size.height) && column >= 0 && column < N::index(size.width)};
  }
  PYDISTILL_HOST_DEVICE V read(int64_t channel, const Place& place) const {
    return Numbers<V>::read(image.data + channel * image.channel_stride, place.offset, place.inside);
  }
};

}  // namespace pydistill::kernels
