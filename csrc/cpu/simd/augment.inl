// The loops of augment over vector registers; included by one file for each instruction set.
//
// Everything goes by rows of one channel, next to each other in memory; a row that is not is copied first.
// Only the resampling works on pixels, four channels in one register, surrounded by a border of zeros: what a
// position reads is then four loads, and its transpose, on one thread, is four additions to memory.
#include "isa.h"
//
#include <cstring>

#include "../../kernels/augment.h"
#include "augment.h"

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

using kernels::AddToImage;
using kernels::AugmentArrays;
using kernels::Color;
using kernels::Crop;
using kernels::Cutout;
using kernels::Flip;
using kernels::Image;
using kernels::ImageSize;
using kernels::NotANumber;
using kernels::Resample;
using kernels::StoreImage;
using kernels::Unchanged;

// Spelt out for each type, since GCC forgets the attribute on a type that depends on a template's argument.
template <typename T>
struct FourOf;
template <>
struct FourOf<float> {
  typedef float Type __attribute__((vector_size(16)));
  typedef int32_t Order __attribute__((vector_size(16)));
};
template <>
struct FourOf<double> {
  typedef double Type __attribute__((vector_size(32)));
  typedef int64_t Order __attribute__((vector_size(32)));
};

// Four channels of a pixel, or four neighbouring numbers of a row.
template <typename T>
struct Four {
  using Vector = typename FourOf<T>::Type;
  using Order = typename FourOf<T>::Order;
  Vector vector;

  PYDISTILL_INLINE static Four load(const T* from) {
    Four four;
    std::memcpy(&four.vector, from, sizeof(Vector));
    return four;
  }
  PYDISTILL_INLINE void store(T* to) const { std::memcpy(to, &vector, sizeof(Vector)); }
  PYDISTILL_INLINE friend Four operator+(Four a, Four b) { return {a.vector + b.vector}; }
  PYDISTILL_INLINE friend Four operator*(T a, Four b) { return {a * b.vector}; }
};

// From four rows to four pixels, and back.
template <typename T>
PYDISTILL_INLINE void exchange(Four<T> (&a)[4]) {
  using Order = typename Four<T>::Order;
  constexpr Order kLow = {0, 4, 1, 5};
  constexpr Order kHigh = {2, 6, 3, 7};
  const auto low02 = __builtin_shuffle(a[0].vector, a[2].vector, kLow);
  const auto high02 = __builtin_shuffle(a[0].vector, a[2].vector, kHigh);
  const auto low13 = __builtin_shuffle(a[1].vector, a[3].vector, kLow);
  const auto high13 = __builtin_shuffle(a[1].vector, a[3].vector, kHigh);
  a[0].vector = __builtin_shuffle(low02, low13, kLow);
  a[1].vector = __builtin_shuffle(low02, low13, kHigh);
  a[2].vector = __builtin_shuffle(high02, high13, kLow);
  a[3].vector = __builtin_shuffle(high02, high13, kHigh);
}

// What one thread keeps beside the images between stages. A row has room for a multiple of four numbers.
template <typename T>
struct Scratch {
  int64_t pitch;    // of a row
  T* in;            // [C + 4, pitch], rows that are read; those after the C-th are zeros
  T* out;           // [C + 4, pitch], rows that are written
  T* weights;       // [4, pitch]
  int32_t* places;  // [pitch]
  T* pixels;        // [H + 2, W + 2, 4]

  static Scratch of(const ImageSize& size, T* memory) {
    Scratch scratch{};
    scratch.pitch = (size.width + 3) / 4 * 4;
    scratch.in = memory;
    scratch.out = scratch.in + (size.channels + 4) * scratch.pitch;
    scratch.weights = scratch.out + (size.channels + 4) * scratch.pitch;
    scratch.places = reinterpret_cast<int32_t*>(scratch.weights + 4 * scratch.pitch);
    scratch.pixels = scratch.weights + 5 * scratch.pitch;
    for (int64_t x = 0; x < 4 * scratch.pitch; ++x) {
      scratch.in[size.channels * scratch.pitch + x] = 0;
    }
    return scratch;
  }
};

// Rows of an image that is written or added to: a row is made where begin() says, and end() brings it home.
template <typename T>
PYDISTILL_INLINE T* begin_row(const StoreImage<T>& write, int64_t channel, int64_t row, T* buffer) {
  return write.to.column_stride == 1 ? &write.to.at(channel, row, 0) : buffer;
}
template <typename T>
PYDISTILL_INLINE T* begin_row(const AddToImage<T>&, int64_t, int64_t, T* buffer) {
  return buffer;
}
template <typename T>
PYDISTILL_INLINE void end_row(const StoreImage<T>& write, int64_t channel, int64_t row, const T* made,
                              int64_t width) {
  T* to = &write.to.at(channel, row, 0);
  if (made != to) {
    for (int64_t x = 0; x < width; ++x) {
      to[x * write.to.column_stride] = made[x];
    }
  }
}
template <typename T>
PYDISTILL_INLINE void end_row(const AddToImage<T>& write, int64_t channel, int64_t row, const T* made,
                              int64_t width) {
  T* to = &write.to.at(channel, row, 0);
  const T factor = write.factor;
  if (write.to.column_stride == 1) {
#pragma GCC ivdep
    for (int64_t x = 0; x < width; ++x) {
      to[x] += factor * made[x];
    }
  } else {
    for (int64_t x = 0; x < width; ++x) {
      to[x * write.to.column_stride] += factor * made[x];
    }
  }
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

// The engine of kernels::AugmentImage on one thread.
template <typename T>
struct RowStage {
  ImageSize size;
  Scratch<T> scratch;

  void meet() const {}

  // What lies between stages comes after the rest.
  T* end_of_scratch() const { return scratch.pixels + 4 * (size.height + 2) * (size.width + 2); }

  // Operations that move or leave out numbers: make(y, to) makes row y from the row that it names.
  template <bool kTranspose, typename Write>
  void stage(const Unchanged<T>&, const Image<const T>& from, const Write& write) const {
    each_row(write, [&](int64_t channel, int64_t y, T* to) {
      const T* row = read_row(from, channel, y, scratch.in, size.width);
      std::memcpy(to, row, static_cast<size_t>(size.width) * sizeof(T));
    });
  }

  template <bool kTranspose, typename Write>
  void stage(const NotANumber<T>&, const Image<const T>&, const Write& write) const {
    each_row(write, [&](int64_t, int64_t, T* to) {
      for (int64_t x = 0; x < size.width; ++x) {
        to[x] = static_cast<T>(NAN);
      }
    });
  }

  template <bool kTranspose, typename Write>
  void stage(const Crop<T>& crop, const Image<const T>& from, const Write& write) const {
    const int64_t down = kTranspose ? -crop.down : crop.down;
    const int64_t right = kTranspose ? -crop.right : crop.right;
    const int64_t first = right < 0 ? -right : 0;
    const int64_t end = right > 0 ? size.width - right : size.width;
    each_row(write, [&](int64_t channel, int64_t y, T* to) {
      if (y + down < 0 || y + down >= size.height) {
        keep_between(to, to, size.width, 0, 0);
        return;
      }
      const T* row = read_row(from, channel, y + down, scratch.in, size.width);
      keep_between(to, row + right, size.width, first, end);
    });
  }

  template <bool kTranspose, typename Write>
  void stage(const Cutout<T>& cutout, const Image<const T>& from, const Write& write) const {
    // The rectangle in whole numbers; a number that is none, or an empty rectangle, cuts nothing.
    const int64_t first = whole_above(cutout.first_column, size.width);
    const int64_t end = whole_above(cutout.end_column, size.width);
    each_row(write, [&](int64_t channel, int64_t y, T* to) {
      const T* row = read_row(from, channel, y, scratch.in, size.width);
      const T place = static_cast<T>(y);
      const bool cut = place >= cutout.first_row && place < cutout.end_row;
      drop_between(to, row, size.width, cut ? first : 0, cut ? end : 0);
    });
  }

  template <bool kTranspose, typename Write>
  void stage(const Flip<T>& flip, const Image<const T>& from, const Write& write) const {
    if (!flip.mirrors) {
      stage<kTranspose>(Unchanged<T>{size}, from, write);
      return;
    }
    each_row(write, [&](int64_t channel, int64_t y, T* to) {
      const T* row = read_row(from, channel, y, scratch.in, size.width);
#pragma GCC ivdep
      for (int64_t x = 0; x < size.width; ++x) {
        to[x] = row[size.width - 1 - x];
      }
    });
  }

  template <bool kTranspose, typename Write>
  void stage(const Color<T>& color, const Image<const T>& from, const Write& write) const {
    const T shared = color.added + color.of_mean * mean_of(from);
    const T of_pixel = color.of_pixel;
    const T of_sum = color.of_grey / static_cast<T>(size.channels);
    for (int64_t y = 0; y < size.height; ++y) {
      T* grey = scratch.weights;
      for (int64_t channel = 0; channel < size.channels; ++channel) {
        const T* row = read_row(from, channel, y, scratch.in, size.width);
        if (channel == 0) {
#pragma GCC ivdep
          for (int64_t x = 0; x < size.width; ++x) {
            grey[x] = row[x];
          }
        } else {
#pragma GCC ivdep
          for (int64_t x = 0; x < size.width; ++x) {
            grey[x] += row[x];
          }
        }
      }
      for (int64_t channel = 0; channel < size.channels; ++channel) {
        const T* row = read_row(from, channel, y, scratch.in, size.width);
        T* to = begin_row(write, channel, y, scratch.out);
#pragma GCC ivdep
        for (int64_t x = 0; x < size.width; ++x) {
          to[x] = of_pixel * row[x] + (shared + of_sum * grey[x]);
        }
        end_row(write, channel, y, to, size.width);
      }
    }
  }

  template <bool kTranspose, typename Write>
  void stage(const Resample<T>& resample, const Image<const T>& from, const Write& write) const {
    for (int64_t first = 0; first < size.channels; first += 4) {
      const int64_t channels = size.channels - first < 4 ? size.channels - first : 4;
      if constexpr (kTranspose) {
        clear_pixels();
        for (int64_t y = 0; y < size.height; ++y) {
          read_weights(resample, y);
          spread_row(from, first, channels, y);
        }
        for (int64_t y = 0; y < size.height; ++y) {
          write_pixels(write, first, channels, y);
        }
      } else {
        clear_pixels();
        for (int64_t y = 0; y < size.height; ++y) {
          read_pixels(from, first, channels, y);
        }
        for (int64_t y = 0; y < size.height; ++y) {
          read_weights(resample, y);
          sample_row(write, first, channels, y);
        }
      }
    }
  }

 private:
  template <typename Write, typename Make>
  PYDISTILL_INLINE void each_row(const Write& write, const Make& make) const {
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      for (int64_t y = 0; y < size.height; ++y) {
        T* to = begin_row(write, channel, y, scratch.out);
        make(channel, y, to);
        end_row(write, channel, y, to, size.width);
      }
    }
  }

  // to[x] = from[x] within [first, end), 0 elsewhere; and the other way round.
  PYDISTILL_INLINE static void keep_between(T* to, const T* from, int64_t width, int64_t first, int64_t end) {
#pragma GCC ivdep
    for (int64_t x = 0; x < width; ++x) {
      to[x] = x >= first && x < end ? from[x] : T(0);
    }
  }
  PYDISTILL_INLINE static void drop_between(T* to, const T* from, int64_t width, int64_t first, int64_t end) {
#pragma GCC ivdep
    for (int64_t x = 0; x < width; ++x) {
      const T number = from[x];
      to[x] = x >= first && x < end ? T(0) : number;
    }
  }

  // The first whole number from `edge` on, within [0, side]; side where edge is no number.
  static int64_t whole_above(T edge, int64_t side) {
    if (!(edge < static_cast<T>(side))) {
      return side;
    }
    if (!(edge > 0)) {
      return 0;
    }
    const int64_t below = static_cast<int64_t>(edge);
    return static_cast<T>(below) < edge ? below + 1 : below;
  }

  // In lanes of a row, whose sum is added to a sum in double.
  T mean_of(const Image<const T>& from) const {
    constexpr int64_t kLanes = PYDISTILL_VECTOR_BYTES / static_cast<int64_t>(sizeof(T));
    double sum = 0;
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      for (int64_t y = 0; y < size.height; ++y) {
        const T* row = read_row(from, channel, y, scratch.in, size.width);
        T lanes[kLanes] = {};
        int64_t x = 0;
        for (; x + kLanes <= size.width; x += kLanes) {
          for (int64_t lane = 0; lane < kLanes; ++lane) {
            lanes[lane] += row[x + lane];
          }
        }
        for (; x < size.width; ++x) {
          lanes[x % kLanes] += row[x];
        }
        T of_row = 0;
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          of_row += lanes[lane];
        }
        sum += static_cast<double>(of_row);
      }
    }
    return static_cast<T>(sum / static_cast<double>(size.numbers()));
  }

  int64_t pixel_pitch() const { return size.width + 2; }

  void clear_pixels() const {
    std::memset(scratch.pixels, 0, static_cast<size_t>((size.height + 2) * pixel_pitch() * 4) * sizeof(T));
  }

  // Where each pixel of row y reads and with which weights: places, and weights of the pixels top left, top
  // right, bottom left and bottom right of the position. A position outside reads the border alone.
  void read_weights(const Resample<T>& resample, int64_t y) const {
    const int32_t width = static_cast<int32_t>(size.width);
    const int32_t height = static_cast<int32_t>(size.height);
    const int32_t row = static_cast<int32_t>(y);
    const int32_t pitch = static_cast<int32_t>(pixel_pitch());
    const Resample<T> map = resample;  // a copy that no store can be taken to change
    T* const weights0 = scratch.weights;
    T* const weights1 = weights0 + scratch.pitch;
    T* const weights2 = weights1 + scratch.pitch;
    T* const weights3 = weights2 + scratch.pitch;
    int32_t* const places = scratch.places;
#pragma GCC ivdep
    for (int32_t x = 0; x < width; ++x) {
      const T right = within(map.column_of_source(row, x), static_cast<T>(width));
      const T down = within(map.row_of_source(row, x), static_cast<T>(height));
      // Rounded down: the positions are no less than -1.
      const int32_t column = static_cast<int32_t>(right + 1) - 1;
      const int32_t line = static_cast<int32_t>(down + 1) - 1;
      const int32_t left = column < width ? column : width - 1;
      const int32_t top = line < height ? line : height - 1;
      const T of_left = map.tent(right - static_cast<T>(left));
      const T of_right = map.tent(right - static_cast<T>(left + 1));
      const T of_top = map.tent(down - static_cast<T>(top));
      const T of_bottom = map.tent(down - static_cast<T>(top + 1));
      weights0[x] = of_top * of_left;
      weights1[x] = of_top * of_right;
      weights2[x] = of_bottom * of_left;
      weights3[x] = of_bottom * of_right;
      places[x] = 4 * ((top + 1) * pitch + left + 1);
    }
    for (int64_t x = size.width; x < scratch.pitch; ++x) {
      weights0[x] = weights1[x] = weights2[x] = weights3[x] = 0;
      places[x] = 0;
    }
  }

  PYDISTILL_INLINE static T within(T position, T side) {
    const T low = position > -1 ? position : T(-1);
    return low < side ? low : side;
  }

  // The rows of four channels; those beyond the last channel are zeros, or memory that nobody reads.
  struct FourRows {
    const T* rows[4];
  };
  FourRows four_rows(const Image<const T>& from, int64_t first, int64_t channels, int64_t y) const {
    FourRows four;
    for (int64_t channel = 0; channel < 4; ++channel) {
      T* zeros = scratch.in + size.channels * scratch.pitch;
      four.rows[channel] = channel < channels ? read_row(from, first + channel, y,
                                                         scratch.in + channel * scratch.pitch, size.width)
                                              : zeros;
    }
    return four;
  }

  // Four pixels from x on; the last ones of a row that ends before are zeros.
  PYDISTILL_INLINE void load_pixels(const FourRows& four, int64_t x, Four<T> (&pixels)[4]) const {
    if (x + 4 <= size.width) {
      for (int64_t channel = 0; channel < 4; ++channel) {
        pixels[channel] = Four<T>::load(four.rows[channel] + x);
      }
    } else {
      for (int64_t channel = 0; channel < 4; ++channel) {
        T numbers[4] = {};
        for (int64_t after = 0; x + after < size.width; ++after) {
          numbers[after] = four.rows[channel][x + after];
        }
        pixels[channel] = Four<T>::load(numbers);
      }
    }
    exchange(pixels);
  }

  void read_pixels(const Image<const T>& from, int64_t first, int64_t channels, int64_t y) const {
    const FourRows four = four_rows(from, first, channels, y);
    T* to = scratch.pixels + 4 * ((y + 1) * pixel_pitch() + 1);
    for (int64_t x = 0; x < size.width; x += 4) {
      Four<T> pixels[4];
      load_pixels(four, x, pixels);
      for (int64_t after = 0; after < 4 && x + after < size.width; ++after) {
        pixels[after].store(to + 4 * (x + after));
      }
    }
  }

  template <typename Write>
  void sample_row(const Write& write, int64_t first, int64_t channels, int64_t y) const {
    const int64_t below = 4 * pixel_pitch();
    for (int64_t x = 0; x < size.width; x += 4) {
      Four<T> made[4];
      for (int64_t after = 0; after < 4; ++after) {
        const T* top = scratch.pixels + scratch.places[x + after];
        const T* weights = scratch.weights + x + after;
        made[after] = weights[0] * Four<T>::load(top) + weights[scratch.pitch] * Four<T>::load(top + 4) +
                      weights[2 * scratch.pitch] * Four<T>::load(top + below) +
                      weights[3 * scratch.pitch] * Four<T>::load(top + below + 4);
      }
      exchange(made);
      for (int64_t channel = 0; channel < 4; ++channel) {
        made[channel].store(scratch.out + channel * scratch.pitch + x);
      }
    }
    write_rows(write, first, channels, y);
  }

  void spread_row(const Image<const T>& from, int64_t first, int64_t channels, int64_t y) const {
    const FourRows four = four_rows(from, first, channels, y);
    const int64_t below = 4 * pixel_pitch();
    for (int64_t x = 0; x < size.width; x += 4) {
      Four<T> given[4];
      load_pixels(four, x, given);
      for (int64_t after = 0; after < 4; ++after) {
        T* top = scratch.pixels + scratch.places[x + after];
        const T* weights = scratch.weights + x + after;
        add(top, weights[0], given[after]);
        add(top + 4, weights[scratch.pitch], given[after]);
        add(top + below, weights[2 * scratch.pitch], given[after]);
        add(top + below + 4, weights[3 * scratch.pitch], given[after]);
      }
    }
  }

  PYDISTILL_INLINE static void add(T* to, T weight, Four<T> given) {
    (Four<T>::load(to) + weight * given).store(to);
  }

  template <typename Write>
  void write_pixels(const Write& write, int64_t first, int64_t channels, int64_t y) const {
    const T* from = scratch.pixels + 4 * ((y + 1) * pixel_pitch() + 1);
    for (int64_t x = 0; x < size.width; x += 4) {
      Four<T> pixels[4];
      for (int64_t after = 0; after < 4; ++after) {
        // Beyond the last pixel of the last row there is still the border.
        pixels[after] = Four<T>::load(from + 4 * (x + after < size.width ? x + after : size.width));
      }
      exchange(pixels);
      for (int64_t channel = 0; channel < 4; ++channel) {
        pixels[channel].store(scratch.out + channel * scratch.pitch + x);
      }
    }
    write_rows(write, first, channels, y);
  }

  template <typename Write>
  void write_rows(const Write& write, int64_t first, int64_t channels, int64_t y) const {
    for (int64_t channel = 0; channel < channels; ++channel) {
      end_row(write, first + channel, y, scratch.out + channel * scratch.pitch, size.width);
    }
  }
};

template <typename T>
RowStage<T> engine(const AugmentArrays<T>& arrays, T* scratch) {
  return {arrays.size, Scratch<T>::of(arrays.size, scratch)};
}

}  // namespace

#define PYDISTILL_DEFINE_AUGMENT(scalar_t)                                                  \
  void augment_place(const AugmentArrays<scalar_t>& arrays, int64_t j, scalar_t* scratch) { \
    const RowStage<scalar_t> rows = engine(arrays, scratch);                                \
    kernels::augment_place(arrays, j, rows.end_of_scratch(), rows);                         \
  }                                                                                         \
  void augment_place_backward(const AugmentArrays<scalar_t>& arrays, int64_t i, int64_t j,  \
                              scalar_t* scratch) {                                          \
    const RowStage<scalar_t> rows = engine(arrays, scratch);                                \
    kernels::augment_place_backward(arrays, i, j, rows.end_of_scratch(), rows);             \
  }

PYDISTILL_DEFINE_AUGMENT(float)
PYDISTILL_DEFINE_AUGMENT(double)
#undef PYDISTILL_DEFINE_AUGMENT

}  // namespace pydistill::cpu::PYDISTILL_ISA
