// Differentiable Siamese augmentation of one image: colour, crop, cutout, flip, scale and rotation, one after
// the other, and the transpose of that. Outside an image everything is 0.
//
// An operation computes its result, or its transpose's, at one pixel, for every channel. Pixels do not depend
// on each other, so in both directions a pixel of the result belongs to one thread. The text is written for a
// value type V: one number (float or double, as on a GPU), or as many neighbours in a row as a vector
// register holds (Lanes, see cpu/simd/augment.inl).
#pragma once

#include <cmath>
#include <cstdint>

#include "augment_image.h"
#include "augment_resample.h"

namespace pydistill::kernels {

// The operations by their number in a list; kEndOfList fills up a list that is shorter than its row.
enum class Augmentation : int64_t { kEndOfList = -1, kColor, kCrop, kCutout, kFlip, kScale, kRotate };

// How many parameters an operation has; -1 for a number that names none.
PYDISTILL_HOST_DEVICE int64_t augmentation_columns(int64_t operation) {
  switch (static_cast<Augmentation>(operation)) {
    case Augmentation::kColor:
      return 3;
    case Augmentation::kCrop:
    case Augmentation::kScale:
      return 2;
    case Augmentation::kCutout:
      return 4;
    case Augmentation::kFlip:
    case Augmentation::kRotate:
      return 1;
    case Augmentation::kEndOfList:
      break;
  }
  return -1;
}

// Brightness b, saturation s and contrast c, one after the other, in one go:
//   c s x + c (1 - s) grey(x) + (1 - c) mean(x) + b,
// since saturation keeps a pixel's mean over the channels, grey, and so the mean that contrast needs. Without
// b it is its own transpose.
template <typename T>
struct Color {
  T of_pixel;
  T of_grey;
  T of_mean;
  T added;

  PYDISTILL_HOST_DEVICE static Color from_parameters(const T* p, bool linear) {  // p: [3]
    return {p[2] * p[1], p[2] - p[2] * p[1], 1 - p[2], linear ? T(0) : p[0]};
  }

  template <typename V, typename Write>
  PYDISTILL_HOST_DEVICE void pixel(const Source<V>& from, T mean, typename Numbers<V>::Index row,
                                   typename Numbers<V>::Index column, const Write& write) const {
    const auto place = from.place(row, column);
    V sum(T(0));
    for (int64_t channel = 0; channel < from.size.channels; ++channel) {
      sum += from.read(channel, place);
    }
    const V shared = V(added + of_mean * mean) + V(of_grey) * (sum / V(static_cast<T>(from.size.channels)));
    for (int64_t channel = 0; channel < from.size.channels; ++channel) {
      write(channel, V(of_pixel) * from.read(channel, place) + shared);
    }
  }
};

// The image seen through a window that is moved by whole pixels.
template <typename T>
struct Crop {
  int64_t down;
  int64_t right;

  PYDISTILL_HOST_DEVICE static Crop from_parameters(const ImageSize& size, const T* p,
                                                    bool transpose) {  // p: [2]
    const int64_t down = whole(p[0], size.height);
    const int64_t right = whole(p[1], size.width);
    return {transpose ? -down : down, transpose ? -right : right};
  }

  template <typename V, typename Index>
  PYDISTILL_HOST_DEVICE typename Source<V>::Place source(const Source<V>& from, Index row,
                                                         Index column) const {
    return from.place(row + Numbers<V>::index(down), column + Numbers<V>::index(right));
  }

 private:
  // Rounded towards 0. A shift that moves the window off the image, or is NaN, becomes the image's side.
  PYDISTILL_HOST_DEVICE static int64_t whole(T shift, int64_t side) {
    const T most = static_cast<T>(side);
    return static_cast<int64_t>(shift > -most && shift < most ? shift : most);
  }
};

// 0 in a rectangle: rows from p[0] to before p[1], columns from p[2] to before p[3]. Its own transpose.
template <typename T>
struct Cutout {
  T first_row;
  T end_row;
  T first_column;
  T end_column;

  PYDISTILL_HOST_DEVICE static Cutout from_parameters(const T* p) {
    return {p[0], p[1], p[2], p[3]};
  }  // p: [4]

  template <typename V, typename Index>
  PYDISTILL_HOST_DEVICE typename Source<V>::Place source(const Source<V>& from, Index row,
                                                         Index column) const {
    const V y = Numbers<V>::value(row);
    const V x = Numbers<V>::value(column);
    auto place = from.place(row, column);
    place.inside =
        place.inside && !(y >= V(first_row) && y < V(end_row) && x >= V(first_column) && x < V(end_column));
    return place;
  }
};

// Left and right exchanged where p[0] > 0. Its own transpose.
struct Flip {
  bool mirrors;

  template <typename V, typename Index>
  PYDISTILL_HOST_DEVICE typename Source<V>::Place source(const Source<V>& from, Index row,
                                                         Index column) const {
    return from.place(row, mirrors ? Numbers<V>::index(from.size.width - 1) - column : column);
  }
};

// One operation with its parameters, or its transpose. kEndOfList leaves the image as it is.
template <typename T>
struct Operation {
  Augmentation kind;
  bool exists;  // if not, the result is NaN
  union {
    Color<T> color;
    Crop<T> crop;
    Cutout<T> cutout;
    Flip flip;
    Resample<T> resample;
  };

  PYDISTILL_HOST_DEVICE static Operation unchanged() { return Operation(Augmentation::kEndOfList, true); }
  PYDISTILL_HOST_DEVICE static Operation missing() { return Operation(Augmentation::kEndOfList, false); }
  PYDISTILL_HOST_DEVICE static Operation from_parameters(Augmentation kind, const ImageSize& size, const T* p,
                                                         bool linear, bool transpose) {
    Operation operation(kind, true);
    switch (kind) {
      case Augmentation::kColor:
        operation.color = Color<T>::from_parameters(p, linear || transpose);
        break;
      case Augmentation::kCrop:
        operation.crop = Crop<T>::from_parameters(size, p, transpose);
        break;
      case Augmentation::kCutout:
        operation.cutout = Cutout<T>::from_parameters(p);
        break;
      case Augmentation::kFlip:
        operation.flip = {p[0] > 0};
        break;
      case Augmentation::kScale:
        operation.resample = Resample<T>::scale(size, p, transpose);
        break;
      case Augmentation::kRotate:
        operation.resample = Resample<T>::rotate(size, p, transpose);
        break;
      case Augmentation::kEndOfList:
        break;
    }
    return operation;
  }

  // Whether pixel() reads the mean of all numbers of the image.
  PYDISTILL_HOST_DEVICE bool needs_mean() const { return kind == Augmentation::kColor; }

  // The result at one pixel, or at V's lanes from one on: write(channel, value) once for every channel.
  template <typename V, typename Write>
  PYDISTILL_HOST_DEVICE void pixel(const Source<V>& from, T mean, typename Numbers<V>::Index row,
                                   typename Numbers<V>::Index column, const Write& write) const {
    switch (kind) {
      case Augmentation::kColor:
        return color.pixel(from, mean, row, column, write);
      case Augmentation::kCrop:
        return copy(from, crop.source(from, row, column), write);
      case Augmentation::kCutout:
        return copy(from, cutout.source(from, row, column), write);
      case Augmentation::kFlip:
        return copy(from, flip.source(from, row, column), write);
      case Augmentation::kScale:
      case Augmentation::kRotate:
        return resample.pixel(from, row, column, write);
      case Augmentation::kEndOfList:
        break;
    }
    if (exists) {
      return copy(from, from.place(row, column), write);
    }
    for (int64_t channel = 0; channel < from.size.channels; ++channel) {
      write(channel, V(static_cast<T>(NAN)));
    }
  }

 private:
  PYDISTILL_HOST_DEVICE Operation(Augmentation of, bool does_exist) : kind(of), exists(does_exist), crop{} {}

  template <typename V, typename Write>
  PYDISTILL_HOST_DEVICE static void copy(const Source<V>& from, const typename Source<V>::Place& place,
                                         const Write& write) {
    for (int64_t channel = 0; channel < from.size.channels; ++channel) {
      write(channel, from.read(channel, place));
    }
  }
};

// The operations on one image, in order, with their parameters side by side.
template <typename scalar_t>
struct AugmentList {
  const int64_t* operations;   // [L]
  int64_t length;              // L
  const scalar_t* parameters;  // [width], of this image
  int64_t width;
  bool linear;  // leave out what does not depend on the image

  // How many operations come before the end of the list and have all their parameters.
  PYDISTILL_HOST_DEVICE int64_t stages() const {
    int64_t stages = 0;
    int64_t left = width;
    while (stages < length) {
      const int64_t columns = augmentation_columns(operations[stages]);
      if (columns <= 0 || columns > left) {
        break;
      }
      left -= columns;
      ++stages;
    }
    return stages;
  }
  // False if the list holds a number that is no operation, or one without parameters.
  PYDISTILL_HOST_DEVICE bool is_valid() const {
    const int64_t end = stages();
    return end == length || operations[end] == static_cast<int64_t>(Augmentation::kEndOfList);
  }
  // Where the parameters of a stage begin.
  PYDISTILL_HOST_DEVICE const scalar_t* parameters_of(int64_t stage) const {
    int64_t column = 0;
    for (int64_t before = 0; before < stage; ++before) {
      column += augmentation_columns(operations[before]);
    }
    return parameters + column;
  }
};

// One operation of a list, the image that it reads, and where its result goes.
template <typename T>
struct Stage {
  Operation<T> operation;
  Image<const T> from;
  Target<T> to;
};

// How many images lie between the stages of a list of `length` operations.
PYDISTILL_HOST_DEVICE int64_t images_between(int64_t length) { return length < 2 ? 0 : length == 2 ? 1 : 2; }

// The way of one image through its list, or through the transpose, from the last operation to the first.
// Each stage may be run when all pixels of the stage before it have been written.
template <typename T>
struct Stages {
  AugmentList<T> list;
  ImageSize size;
  Image<const T> from;
  Target<T> to;
  T* scratch;  // [images_between(L), C, H, W]
  bool transpose;
  bool exists;  // if not, the result is NaN

  PYDISTILL_HOST_DEVICE int64_t count() const {
    const int64_t operations = exists ? list.stages() : 0;
    return operations == 0 ? 1 : operations;
  }

  PYDISTILL_HOST_DEVICE Stage<T> operator[](int64_t i) const {
    const int64_t last = count() - 1;
    return {operation(transpose ? last - i : i), i == 0 ? from : between(i - 1).read_only(),
            i == last ? to : Target<T>::store(between(i))};
  }

 private:
  // The result of stage i.
  PYDISTILL_HOST_DEVICE Image<T> between(int64_t i) const {
    return dense_image(scratch + i % 2 * size.numbers(), size);
  }
  PYDISTILL_HOST_DEVICE Operation<T> operation(int64_t i) const {
    if (!exists) {
      return Operation<T>::missing();
    }
    if (list.stages() == 0) {
      return Operation<T>::unchanged();
    }
    return Operation<T>::from_parameters(static_cast<Augmentation>(list.operations[i]), size,
                                         list.parameters_of(i), list.linear, transpose);
  }
};

// A batch made of images, or the gradients that go back to them.
template <typename scalar_t>
struct AugmentArrays {
  Images<const scalar_t> from;  // forward: n images; transpose: B gradients
  Images<scalar_t> to;          // forward: B images; transpose: n gradients, which are added to
  int64_t images;               // n
  int64_t batch;                // B
  ImageSize size;
  const int64_t* step;         // [], the row of the tables; null: there are none
  const int64_t* index;        // [B] or [N, B]; null: all images in order
  const int64_t* operations;   // [L] or [N, L]
  const scalar_t* parameters;  // [rows, width] or [N, rows, width]
  const scalar_t* factor;      // [] or [N]; null: 1
  int64_t index_step;          // from one row of a table to the next; 0 where there is one row for all steps
  int64_t operations_step;
  int64_t parameters_step;
  int64_t factor_step;
  int64_t length;  // L
  int64_t rows;    // B, or 1 for a set that all images share
  int64_t width;
  bool negate;
  bool linear;
  bool transpose;  // forward: apply the transposes, place by place

  PYDISTILL_HOST_DEVICE int64_t row() const { return step == nullptr ? 0 : *step; }
  PYDISTILL_HOST_DEVICE int64_t source(int64_t j) const {
    return index == nullptr ? j : index[row() * index_step + j];
  }
  PYDISTILL_HOST_DEVICE AugmentList<scalar_t> list(int64_t j) const {
    return {operations + row() * operations_step, length,
            parameters + row() * parameters_step + (rows == 1 ? 0 : j * width), width, linear};
  }
  // What the gradient of a place is multiplied by.
  PYDISTILL_HOST_DEVICE scalar_t factor_of(const AugmentList<scalar_t>& list) const {
    const scalar_t value = factor == nullptr ? scalar_t(1) : factor[row() * factor_step];
    return list.is_valid() ? (negate ? -value : value) : static_cast<scalar_t>(NAN);
  }

  // Place j of the batch, made from its source.
  PYDISTILL_HOST_DEVICE Stages<scalar_t> stages(int64_t j, scalar_t* scratch) const {
    const int64_t image = source(j);
    const bool exists = image >= 0 && image < images && list(j).is_valid();
    return {list(j),   size,  from[exists ? image : 0], Target<scalar_t>::store(to[j]), scratch,
            transpose, exists};
  }
  // What place j of the batch adds to the gradient of its source, image i.
  PYDISTILL_HOST_DEVICE Stages<scalar_t> stages_backward(int64_t i, int64_t j, scalar_t* scratch) const {
    return {list(j), size, from[j], Target<scalar_t>::add(to[i], factor_of(list(j))), scratch, true, true};
  }
};

}  // namespace pydistill::kernels
