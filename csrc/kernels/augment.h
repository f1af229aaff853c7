// Differentiable Siamese augmentation of one image: colour, crop, cutout, flip, scale and rotation, one after
// the other, and the transpose of that. What is outside an image is 0.
//
// Every operation is a struct with
//   kNeedsMean                                     whether it reads the mean of all numbers of the image
//   pixel<kTranspose>(from, mean, row, column, write)   its result at one pixel, or that of its transpose:
//                                                  write(channel, row, column, value) once for every channel
// so that a pixel of the result is one thread's, in both directions, and no two threads write to one place.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

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
struct StoreImage {
  Image<T> to;
  PYDISTILL_HOST_DEVICE void operator()(int64_t channel, int64_t row, int64_t column, T value) const {
    to.at(channel, row, column) = value;
  }
};
template <typename T>
struct AddToImage {
  Image<T> to;
  T factor;
  PYDISTILL_HOST_DEVICE void operator()(int64_t channel, int64_t row, int64_t column, T value) const {
    to.at(channel, row, column) += factor * value;
  }
};

template <typename T>
struct Unchanged {
  static constexpr bool kNeedsMean = false;
  ImageSize size;

  template <bool kTranspose, typename Write>
  PYDISTILL_HOST_DEVICE void pixel(const Image<const T>& from, T /*mean*/, int64_t row, int64_t column,
                                   const Write& write) const {
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      write(channel, row, column, from.at(channel, row, column));
    }
  }
};

// NaN everywhere, for an image or an operation that does not exist.
template <typename T>
struct NotANumber {
  static constexpr bool kNeedsMean = false;
  ImageSize size;

  template <bool kTranspose, typename Write>
  PYDISTILL_HOST_DEVICE void pixel(const Image<const T>& /*from*/, T /*mean*/, int64_t row, int64_t column,
                                   const Write& write) const {
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      write(channel, row, column, static_cast<T>(NAN));
    }
  }
};

// Brightness b, saturation s and contrast c, one after the other, in one go:
//   c s x + c (1 - s) grey(x) + (1 - c) mean(x) + b,
// since saturation keeps a pixel's mean over the channels, grey, and so the mean that contrast needs. Without
// b it is its own transpose.
template <typename T>
struct Color {
  static constexpr bool kNeedsMean = true;
  ImageSize size;
  T of_pixel;
  T of_grey;
  T of_mean;
  T added;

  PYDISTILL_HOST_DEVICE Color(const ImageSize& of, const T* p, bool linear)  // p: [3]
      : size(of),
        of_pixel(p[2] * p[1]),
        of_grey(p[2] - p[2] * p[1]),
        of_mean(1 - p[2]),
        added(linear ? T(0) : p[0]) {}

  template <bool kTranspose, typename Write>
  PYDISTILL_HOST_DEVICE void pixel(const Image<const T>& from, T mean, int64_t row, int64_t column,
                                   const Write& write) const {
    T sum = 0;
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      sum += from.at(channel, row, column);
    }
    const T shared = added + of_mean * mean + of_grey * (sum / static_cast<T>(size.channels));
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      write(channel, row, column, of_pixel * from.at(channel, row, column) + shared);
    }
  }
};

// The image seen through a window that is moved by whole pixels.
template <typename T>
struct Crop {
  static constexpr bool kNeedsMean = false;
  ImageSize size;
  int64_t down;
  int64_t right;

  PYDISTILL_HOST_DEVICE Crop(const ImageSize& of, const T* p)  // p: [2]
      : size(of), down(whole(p[0], of.height)), right(whole(p[1], of.width)) {}

  // Towards 0; what moves the window off the image, or is no number, is as good as the image's side.
  PYDISTILL_HOST_DEVICE static int64_t whole(T shift, int64_t side) {
    const T most = static_cast<T>(side);
    return static_cast<int64_t>(shift > -most && shift < most ? shift : most);
  }

  template <bool kTranspose, typename Write>
  PYDISTILL_HOST_DEVICE void pixel(const Image<const T>& from, T /*mean*/, int64_t row, int64_t column,
                                   const Write& write) const {
    const int64_t y = kTranspose ? row - down : row + down;
    const int64_t x = kTranspose ? column - right : column + right;
    const bool inside = y >= 0 && y < size.height && x >= 0 && x < size.width;
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      write(channel, row, column, inside ? from.at(channel, y, x) : T(0));
    }
  }
};

// 0 in a rectangle: rows from p[0] to before p[1], columns from p[2] to before p[3]. Its own transpose.
template <typename T>
struct Cutout {
  static constexpr bool kNeedsMean = false;
  ImageSize size;
  T first_row;
  T end_row;
  T first_column;
  T end_column;

  PYDISTILL_HOST_DEVICE Cutout(const ImageSize& of, const T* p)  // p: [4]
      : size(of), first_row(p[0]), end_row(p[1]), first_column(p[2]), end_column(p[3]) {}

  template <bool kTranspose, typename Write>
  PYDISTILL_HOST_DEVICE void pixel(const Image<const T>& from, T /*mean*/, int64_t row, int64_t column,
                                   const Write& write) const {
    const T y = static_cast<T>(row);
    const T x = static_cast<T>(column);
    const bool cut = y >= first_row && y < end_row && x >= first_column && x < end_column;
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      write(channel, row, column, cut ? T(0) : from.at(channel, row, column));
    }
  }
};

// Left and right exchanged where p[0] > 0. Its own transpose.
template <typename T>
struct Flip {
  static constexpr bool kNeedsMean = false;
  ImageSize size;
  bool mirrors;

  PYDISTILL_HOST_DEVICE Flip(const ImageSize& of, const T* p) : size(of), mirrors(p[0] > 0) {}  // p: [1]

  template <bool kTranspose, typename Write>
  PYDISTILL_HOST_DEVICE void pixel(const Image<const T>& from, T /*mean*/, int64_t row, int64_t column,
                                   const Write& write) const {
    const int64_t x = mirrors ? size.width - 1 - column : column;
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      write(channel, row, column, from.at(channel, row, x));
    }
  }
};

// Bilinear sampling: pixel (row, column) of the result is read at
//   column of source = xx (column - centre) + xy (row - centre) + centre,   row of source likewise with yx,
//   yy,
// which is the matrix in coordinates from -1 to 1 between the centres of the outermost pixels. The weight of
// a pixel is tent(distance in rows) tent(distance in columns), in both directions.
template <typename T>
struct Resample {
  static constexpr bool kNeedsMean = false;
  static constexpr int64_t kChannelsAtOnce = 4;
  ImageSize size;
  T centre_row;
  T centre_column;
  T xx;
  T xy;
  T yx;
  T yy;

  // The matrix in coordinates from -1 to 1: x' = xx x + xy y, y' = yx x + yy y.
  PYDISTILL_HOST_DEVICE Resample(const ImageSize& of, T x_of_x, T x_of_y, T y_of_x, T y_of_y)
      : size(of),
        centre_row(static_cast<T>(of.height - 1) / 2),
        centre_column(static_cast<T>(of.width - 1) / 2),
        xx(x_of_x),
        xy(of.height > 1 ? x_of_y * centre_column / centre_row : T(0)),
        yx(of.width > 1 ? y_of_x * centre_row / centre_column : T(0)),
        yy(y_of_y) {}

  PYDISTILL_HOST_DEVICE static Resample scale(const ImageSize& of, const T* p) {  // p: [2]
    return Resample(of, p[0], T(0), T(0), p[1]);
  }
  PYDISTILL_HOST_DEVICE static Resample rotate(const ImageSize& of, const T* p) {  // p: [1]
    const T cosine = std::cos(p[0]);
    const T sine = std::sin(p[0]);
    return Resample(of, cosine, -sine, sine, cosine);
  }

  template <typename Whole>  // int64_t, or int32_t where the compiler makes vectors of it
  PYDISTILL_HOST_DEVICE T column_of_source(Whole row, Whole column) const {
    const T down = static_cast<T>(row) - centre_row;
    const T right = static_cast<T>(column) - centre_column;
    return xx * right + (xy * down + centre_column);
  }
  template <typename Whole>
  PYDISTILL_HOST_DEVICE T row_of_source(Whole row, Whole column) const {
    const T down = static_cast<T>(row) - centre_row;
    const T right = static_cast<T>(column) - centre_column;
    return yx * right + (yy * down + centre_row);
  }

  PYDISTILL_HOST_DEVICE static T tent(T distance) {
    const T weight = 1 - size_of(distance);
    return weight > 0 ? weight : T(0);
  }

  template <bool kTranspose, typename Write>
  PYDISTILL_HOST_DEVICE void pixel(const Image<const T>& from, T /*mean*/, int64_t row, int64_t column,
                                   const Write& write) const {
    if constexpr (kTranspose) {
      spread(from, row, column, write);
    } else {
      sample(from, row, column, write);
    }
  }

 private:
  template <typename Write>
  PYDISTILL_HOST_DEVICE void sample(const Image<const T>& from, int64_t row, int64_t column,
                                    const Write& write) const {
    const T x = column_of_source(row, column);
    const T y = row_of_source(row, column);
    const bool reaches =
        x > -1 && x < static_cast<T>(size.width) && y > -1 && y < static_cast<T>(size.height);
    if (!reaches) {  // also where a parameter is no number
      for (int64_t channel = 0; channel < size.channels; ++channel) {
        write(channel, row, column, T(0));
      }
      return;
    }
    const int64_t left = static_cast<int64_t>(std::floor(x));
    const int64_t top = static_cast<int64_t>(std::floor(y));
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      T sum = 0;
      for (int64_t v = top < 0 ? 0 : top; v <= top + 1 && v < size.height; ++v) {
        for (int64_t u = left < 0 ? 0 : left; u <= left + 1 && u < size.width; ++u) {
          sum += tent(y - static_cast<T>(v)) * tent(x - static_cast<T>(u)) * from.at(channel, v, u);
        }
      }
      write(channel, row, column, sum);
    }
  }

  // The pixels of the result, [first, end) in rows and columns, that read within a distance of 1 of one pixel
  // of the source: what the inverse map makes of a square around it, and the box around that.
  struct Box {
    int64_t first_row;
    int64_t end_row;
    int64_t first_column;
    int64_t end_column;
  };
  PYDISTILL_HOST_DEVICE Box readers_of(int64_t row, int64_t column) const {
    const T determinant = xx * yy - xy * yx;
    // Where the matrix is too close to one without an inverse, every pixel may be a reader.
    if (!(size_of(determinant) * 64 > size_of(xx * yy) + size_of(xy * yx))) {
      return {0, size.height, 0, size.width};
    }
    // Half the square's side: 1, and some more for the rounding of positions and of the inverse.
    const T half = (T(1.01) + static_cast<T>(size.height + size.width) / 65536) / size_of(determinant);
    const T right = (static_cast<T>(column) - centre_column) / determinant;
    const T down = (static_cast<T>(row) - centre_row) / determinant;
    const T reader_column = yy * right - xy * down + centre_column;
    const T reader_row = xx * down - yx * right + centre_row;
    const T columns = (size_of(yy) + size_of(xy)) * half;
    const T rows = (size_of(xx) + size_of(yx)) * half;
    return {limit(std::ceil(reader_row - rows), size.height),
            limit(std::floor(reader_row + rows) + 1, size.height),
            limit(std::ceil(reader_column - columns), size.width),
            limit(std::floor(reader_column + columns) + 1, size.width)};
  }
  PYDISTILL_HOST_DEVICE static T size_of(T number) { return number < 0 ? -number : number; }
  PYDISTILL_HOST_DEVICE static int64_t limit(T edge, int64_t side) {
    return edge > 0 ? (edge < static_cast<T>(side) ? static_cast<int64_t>(edge) : side) : 0;
  }

  template <typename Write>
  PYDISTILL_HOST_DEVICE void spread(const Image<const T>& from, int64_t row, int64_t column,
                                    const Write& write) const {
    const Box box = readers_of(row, column);
    for (int64_t first = 0; first < size.channels; first += kChannelsAtOnce) {
      const int64_t channels =
          size.channels - first < kChannelsAtOnce ? size.channels - first : kChannelsAtOnce;
      T sums[kChannelsAtOnce] = {};
      for (int64_t y = box.first_row; y < box.end_row; ++y) {
        for (int64_t x = box.first_column; x < box.end_column; ++x) {
          const T weight = tent(row_of_source(y, x) - static_cast<T>(row)) *
                           tent(column_of_source(y, x) - static_cast<T>(column));
          if (weight > 0) {
            for (int64_t channel = 0; channel < channels; ++channel) {
              sums[channel] += weight * from.at(first + channel, y, x);
            }
          }
        }
      }
      for (int64_t channel = 0; channel < channels; ++channel) {
        write(first + channel, row, column, sums[channel]);
      }
    }
  }
};

// What is done to one image: operations one after the other, their parameters side by side.
template <typename scalar_t>
struct AugmentList {
  const int64_t* operations;   // [L]
  int64_t length;              // L
  const scalar_t* parameters;  // [width], of this image
  int64_t width;
  bool linear;  // leave out what does not depend on the image

  // The operations before the end of the list, as far as there are parameters of them.
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

// Runs the list on one image, or its transpose, from the last operation to the first. An engine offers
//   stage<kTranspose>(operation, from, write)   one operation on all pixels
//   meet()                                      what one stage has written the next may read
// from: the image; last: where the result goes; scratch: [2, C, H, W], or [1, C, H, W] for two stages and
// nothing for one.
template <bool kTranspose, typename scalar_t, typename Engine, typename Write>
struct AugmentImage {
  const AugmentList<scalar_t>& list;
  const ImageSize& size;
  const Engine& engine;
  const Write& last;
  scalar_t* scratch;

  PYDISTILL_ENGINE_SIDE void run(Image<const scalar_t> from) const {
    const int64_t stages = list.stages();
    if (stages == 0) {
      engine.template stage<kTranspose>(Unchanged<scalar_t>{size}, from, last);
      engine.meet();
    }
    for (int64_t done = 0; done < stages; ++done) {
      const int64_t stage = kTranspose ? stages - 1 - done : done;
      if (done + 1 == stages) {
        run_stage(stage, from, last);
      } else {
        const Image<scalar_t> between = dense_image(scratch + done % 2 * size.numbers(), size);
        run_stage(stage, from, StoreImage<scalar_t>{between});
        from = between.read_only();
      }
      engine.meet();
    }
  }

 private:
  template <typename To>
  PYDISTILL_ENGINE_SIDE void run_stage(int64_t stage, const Image<const scalar_t>& from, const To& to) const {
    const scalar_t* p = list.parameters_of(stage);
    switch (static_cast<Augmentation>(list.operations[stage])) {
      case Augmentation::kColor:
        return engine.template stage<kTranspose>(Color<scalar_t>(size, p, kTranspose || list.linear), from,
                                                 to);
      case Augmentation::kCrop:
        return engine.template stage<kTranspose>(Crop<scalar_t>(size, p), from, to);
      case Augmentation::kCutout:
        return engine.template stage<kTranspose>(Cutout<scalar_t>(size, p), from, to);
      case Augmentation::kFlip:
        return engine.template stage<kTranspose>(Flip<scalar_t>(size, p), from, to);
      case Augmentation::kScale:
        return engine.template stage<kTranspose>(Resample<scalar_t>::scale(size, p), from, to);
      case Augmentation::kRotate:
        return engine.template stage<kTranspose>(Resample<scalar_t>::rotate(size, p), from, to);
      case Augmentation::kEndOfList:
        return;
    }
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
};

// Makes place j of the batch.
template <typename scalar_t, typename Engine>
PYDISTILL_ENGINE_SIDE void augment_place(const AugmentArrays<scalar_t>& arrays, int64_t j, scalar_t* scratch,
                                         const Engine& engine) {
  const AugmentList<scalar_t> list = arrays.list(j);
  const int64_t source = arrays.source(j);
  const StoreImage<scalar_t> out{arrays.to[j]};
  if (source < 0 || source >= arrays.images || !list.is_valid()) {
    engine.template stage<false>(NotANumber<scalar_t>{arrays.size}, arrays.from[0], out);
    return;
  }
  if (arrays.transpose) {
    const AugmentImage<true, scalar_t, Engine, StoreImage<scalar_t>> image{list, arrays.size, engine, out,
                                                                           scratch};
    image.run(arrays.from[source]);
  } else {
    const AugmentImage<false, scalar_t, Engine, StoreImage<scalar_t>> image{list, arrays.size, engine, out,
                                                                            scratch};
    image.run(arrays.from[source]);
  }
}

// Adds to the gradient of image i what its place j in the batch gives.
template <typename scalar_t, typename Engine>
PYDISTILL_ENGINE_SIDE void augment_place_backward(const AugmentArrays<scalar_t>& arrays, int64_t i, int64_t j,
                                                  scalar_t* scratch, const Engine& engine) {
  const AugmentList<scalar_t> list = arrays.list(j);
  const AddToImage<scalar_t> gradient{arrays.to[i], arrays.factor_of(list)};
  const AugmentImage<true, scalar_t, Engine, AddToImage<scalar_t>> image{list, arrays.size, engine, gradient,
                                                                         scratch};
  image.run(arrays.from[j]);
}

}  // namespace pydistill::kernels
