// The loops of augment over vector registers; included by one file for each instruction set.
//
// Everything goes by rows of one channel, next to each other in memory; a row that is not is copied first.
// A resampling that keeps rows and columns apart goes down the columns first and then along the rows, from
// tables of what each pixel reads. Any other works on pixels, four channels in one register, surrounded by a
// border of zeros: what a position reads is then four loads, and its transpose, on one thread, is four
// additions to memory.
#include "isa.h"
//
// Comparisons of numbers that are not finite may raise a flag that nobody reads: without this the compiler
// makes no vectors of them.
#pragma GCC optimize("no-trapping-math")
// Of a variable that the compiler (12) makes itself out of a crop.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

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
struct DoublesOf;
template <>
struct DoublesOf<float> {
  typedef double Type __attribute__((vector_size(2 * PYDISTILL_VECTOR_BYTES)));
};
template <>
struct DoublesOf<double> {
  typedef double Type __attribute__((vector_size(PYDISTILL_VECTOR_BYTES)));
};

template <typename T>
struct FourOf;
template <>
struct FourOf<float> {
  typedef float Type __attribute__((vector_size(16)));
  typedef int32_t Order __attribute__((vector_size(16)));
  typedef float Pair __attribute__((vector_size(32)));
  typedef int32_t PairOrder __attribute__((vector_size(32)));
  using Place = int32_t;
};
template <>
struct FourOf<double> {
  typedef double Type __attribute__((vector_size(32)));
  typedef int64_t Order __attribute__((vector_size(32)));
  typedef double Pair __attribute__((vector_size(64)));
  typedef int64_t PairOrder __attribute__((vector_size(64)));
  using Place = int64_t;
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
  PYDISTILL_INLINE friend Four operator+(const Four& a, const Four& b) { return {a.vector + b.vector}; }
  PYDISTILL_INLINE friend Four operator*(T a, const Four& b) { return {a * b.vector}; }
};

// Two pixels of four channels next to each other.
template <typename T>
struct Pair {
  using Vector = typename FourOf<T>::Pair;
  using Order = typename FourOf<T>::PairOrder;
  Vector vector;

  PYDISTILL_INLINE static Pair load(const T* from) {
    Pair pair;
    std::memcpy(&pair.vector, from, sizeof(Vector));
    return pair;
  }
  // One number in all places of the first pixel, another in those of the second.
  template <int kFirst, int kSecond>
  PYDISTILL_INLINE Pair each() const {
    constexpr Order kOrder = {kFirst, kFirst, kFirst, kFirst, kSecond, kSecond, kSecond, kSecond};
    return {__builtin_shuffle(vector, kOrder)};
  }
  // Of both pixels.
  PYDISTILL_INLINE Four<T> sum() const {
    return Four<T>{typename Four<T>::Vector{vector[0], vector[1], vector[2], vector[3]}} +
           Four<T>{typename Four<T>::Vector{vector[4], vector[5], vector[6], vector[7]}};
  }
  PYDISTILL_INLINE friend Pair operator+(const Pair& a, const Pair& b) { return {a.vector + b.vector}; }
  PYDISTILL_INLINE friend Pair operator*(const Pair& a, const Pair& b) { return {a.vector * b.vector}; }
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

// What each pixel of a row, or of a column, reads of another in a resampling: weights and places, -1 for
// none.
template <typename T>
struct Taps {
  static constexpr int64_t kMost = kTapsOfAugment;
  using Place = typename FourOf<T>::Place;

  int64_t pitch;  // of a table's row
  int64_t used;   // no pixel reads more
  T* weights;     // [kMost, pitch]
  Place* places;  // [kMost, pitch]

  static Taps of(T* memory, int64_t pitch) {
    static_assert(sizeof(Place) == sizeof(T));
    return {pitch, 0, memory, reinterpret_cast<Place*>(memory + kMost * pitch)};
  }

  void clear() {
    used = 0;
    std::memset(weights, 0, static_cast<size_t>(kMost * pitch) * sizeof(T));
    std::memset(places, -1, static_cast<size_t>(kMost * pitch) * sizeof(Place));
  }
  // False if there are too many already.
  bool add(int64_t pixel, int64_t place, T weight) {
    for (int64_t tap = 0; tap < kMost; ++tap) {
      if (places[tap * pitch + pixel] < 0) {
        places[tap * pitch + pixel] = static_cast<Place>(place);
        weights[tap * pitch + pixel] = weight;
        used = tap < used ? used : tap + 1;
        return true;
      }
    }
    return false;
  }

  // Bilinear sampling at `position(i)` for i < side, or its transpose. False if that takes too many.
  template <bool kTranspose, typename Position>
  bool sample(int64_t side, const Position& position) {
    clear();
    for (int64_t i = 0; i < side; ++i) {
      const T at = position(static_cast<int32_t>(i));
      if (!(at > -1 && at < static_cast<T>(side))) {
        continue;
      }
      const int64_t before = static_cast<int64_t>(at + 1) - 1;  // rounded down
      const T of_after = at - static_cast<T>(before);
      if (before >= 0 && !(kTranspose ? add(before, i, 1 - of_after) : add(i, before, 1 - of_after))) {
        return false;
      }
      if (before + 1 < side && !(kTranspose ? add(before + 1, i, of_after) : add(i, before + 1, of_after))) {
        return false;
      }
    }
    return true;
  }
};

// What one thread keeps beside the images between stages. A row has room for a multiple of four numbers.
template <typename T>
struct Scratch {
  int64_t pitch;    // of a row
  T* in;            // [C + 4, pitch], rows that are read; those after the C-th are zeros
  T* out;           // [C + 4, pitch], rows that are written
  T* weights;       // [pitch, 4]
  int32_t* places;  // [pitch]
  T* pixels;        // [H + 3, W + 3, 4], or rows that a resampling has gone down
  Taps<T> across;   // of a row's pixels
  Taps<T> down;     // of a column's

  static Scratch of(const ImageSize& size, T* memory) {
    Scratch scratch{};
    scratch.pitch = (size.width + 3) / 4 * 4;
    scratch.in = memory;
    scratch.out = scratch.in + (size.channels + 4) * scratch.pitch;
    scratch.weights = scratch.out + (size.channels + 4) * scratch.pitch;
    scratch.places = reinterpret_cast<int32_t*>(scratch.weights + 4 * scratch.pitch);
    const int64_t taps_pitch = (size.width + kLanesOfAugment - 1) / kLanesOfAugment * kLanesOfAugment;
    scratch.across = Taps<T>::of(scratch.weights + 5 * scratch.pitch, taps_pitch);
    scratch.down = Taps<T>::of(scratch.across.weights + 2 * kTapsOfAugment * taps_pitch, size.height);
    scratch.pixels = scratch.down.weights + 2 * kTapsOfAugment * size.height;
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
template <typename T, template <typename> typename Vector>  // Lanes or Four
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

// The engine of kernels::AugmentImage on one thread.
template <typename T>
struct RowStage {
  ImageSize size;
  Scratch<T> scratch;

  void meet() const {}

  // What lies between stages comes after the rest.
  T* end_of_scratch() const { return scratch.pixels + pixels_of_augment(size.height, size.width); }

  template <bool kTranspose, typename Write>
  void stage(const Unchanged<T>&, const Image<const T>& from, const Write& write) const {
    copy_rows(from, write, 0, size.height);
  }

  template <bool kTranspose, typename Write>
  void stage(const NotANumber<T>&, const Image<const T>&, const Write& write) const {
    each_row([&](int64_t channel, int64_t y) {
      write_row(write, channel, y, size.width, [](int64_t) { return static_cast<T>(NAN); });
    });
  }

  template <bool kTranspose, typename Write>
  void stage(const Crop<T>& crop, const Image<const T>& from, const Write& write) const {
    const int64_t down = kTranspose ? -crop.down : crop.down;
    const int64_t right = kTranspose ? -crop.right : crop.right;
    const int64_t first = right < 0 ? -right : 0;
    const int64_t end = right > 0 ? size.width - right : size.width;
    each_row([&](int64_t channel, int64_t y) {
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
  void stage(const Cutout<T>& cutout, const Image<const T>& from, const Write& write) const {
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
  void stage(const Flip<T>& flip, const Image<const T>& from, const Write& write) const {
    if (!flip.mirrors) {
      copy_rows(from, write, 0, size.height);
      return;
    }
    each_row([&](int64_t channel, int64_t y) {
      const T* last = read_row(from, channel, y, scratch.in, size.width) + size.width - 1;
      write_row(write, channel, y, size.width, [last](int64_t x) { return last[-x]; });
    });
  }

  template <bool kTranspose, typename Write>
  void stage(const Color<T>& color, const Image<const T>& from, const Write& write) const {
    const bool as_one = has_dense_rows(from, size) && has_dense_rows(write.to, size);
    const int64_t rows = as_one ? 1 : size.height;
    const int64_t width = as_one ? size.height * size.width : size.width;
    const T shared = color.added + color.of_mean * mean_of(from, rows, width);
    for (int64_t y = 0; y < rows; ++y) {
      if (size.channels == 3) {
        color_row<3>(color, shared, from, write, y, width);
      } else if (size.channels == 1) {
        color_row<1>(color, shared, from, write, y, width);
      } else {
        color_row<0>(color, shared, from, write, y, width);
      }
    }
  }

  template <bool kTranspose, typename Write>
  void stage(const Resample<T>& resample, const Image<const T>& from, const Write& write) const {
    if (resample.xy == 0 && resample.yx == 0 && resample_apart<kTranspose>(resample, from, write)) {
      return;
    }
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
        clear_border();
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
  template <typename Make>
  PYDISTILL_INLINE void each_row(const Make& make) const {
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      for (int64_t y = 0; y < size.height; ++y) {
        make(channel, y);
      }
    }
  }

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

  // Lane by lane, in pairs.
  template <int kRegisters>
  PYDISTILL_INLINE static Lanes<T> sum_of_run(const T* numbers) {
    if constexpr (kRegisters == 1) {
      return Lanes<T>::load(numbers);
    } else {
      return sum_of_run<kRegisters / 2>(numbers) +
             sum_of_run<kRegisters / 2>(numbers + kRegisters / 2 * Lanes<T>::kSize);
    }
  }
  PYDISTILL_INLINE static Lanes<T> sum_of(const T* numbers, int64_t count) {
    constexpr int64_t kLanes = Lanes<T>::kSize;
    Lanes<T> sum(T(0));
    int64_t x = 0;
    for (; x + kLanes <= count; x += kLanes) {
      sum += Lanes<T>::load(numbers + x);
    }
    return x < count ? sum + Lanes<T>::load(numbers + x, count - x) : sum;
  }

  // The mean of all numbers, each channel being `rows` rows of `width` numbers. Short runs are added up lane
  // by lane, and their sums in double.
  T mean_of(const Image<const T>& from, int64_t rows, int64_t width) const {
    constexpr int64_t kLanes = Lanes<T>::kSize;
    constexpr int64_t kRun = 8 * kLanes;
    typename DoublesOf<T>::Type sums{};
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      for (int64_t y = 0; y < rows; ++y) {
        const T* row = read_row(from, channel, y, scratch.in, width);
        for (int64_t first = 0; first < width; first += kRun) {
          const int64_t end = first + kRun < width ? first + kRun : width;
          const Lanes<T> run =
              end - first == kRun ? sum_of_run<8>(row + first) : sum_of(row + first, end - first);
          sums += __builtin_convertvector(run.vector, typename DoublesOf<T>::Type);
        }
      }
    }
    double sum = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      sum += sums[lane];
    }
    return static_cast<T>(sum / static_cast<double>(size.numbers()));
  }

  // One row of every channel; kChannels: how many, or 0 for any number.
  template <int kChannels, typename Write>
  PYDISTILL_APART void color_row(const Color<T>& color, T shared, const Image<const T>& shared_from,
                                 const Write& shared_write, int64_t y, int64_t width) const {
    constexpr int64_t kLanes = Lanes<T>::kSize;
    const Image<const T> from = shared_from;  // copies that no store can be taken to change
    const Write write = shared_write;
    const int64_t channels = kChannels > 0 ? kChannels : size.channels;
    const T of_pixel = color.of_pixel;
    const T of_sum = color.of_grey / static_cast<T>(channels);
    int64_t x = 0;
    if (kChannels > 0 && from.column_stride == 1 && write.to.column_stride == 1) {
      for (; x + kLanes <= width; x += kLanes) {
        Lanes<T> pixels[static_cast<std::size_t>(kChannels > 0 ? kChannels : 1)];
        Lanes<T> sum(T(0));
        for (int64_t channel = 0; channel < kChannels; ++channel) {
          pixels[channel] = Lanes<T>::load(&from.at(channel, y, x));
          sum += pixels[channel];
        }
        const Lanes<T> same = Lanes<T>(shared) + Lanes<T>(of_sum) * sum;
        for (int64_t channel = 0; channel < kChannels; ++channel) {
          put(write, &write.to.at(channel, y, x), Lanes<T>(of_pixel) * pixels[channel] + same);
        }
      }
    }
    for (; x < width; ++x) {
      T sum = 0;
      for (int64_t channel = 0; channel < channels; ++channel) {
        sum += from.at(channel, y, x);
      }
      const T same = shared + of_sum * sum;
      for (int64_t channel = 0; channel < channels; ++channel) {
        put(write, write.to.at(channel, y, x), of_pixel * from.at(channel, y, x) + same);
      }
    }
  }

  // A resampling whose rows and columns do not mix; false, and nothing is written, if the tables cannot hold
  // it.
  template <bool kTranspose, typename Write>
  bool resample_apart(const Resample<T>& resample, const Image<const T>& from, const Write& write) const {
    Taps<T> across = scratch.across;
    Taps<T> down = scratch.down;
    const auto column = [&](int32_t x) { return resample.column_of_source(int32_t{0}, x); };
    const auto row = [&](int32_t y) { return resample.row_of_source(y, int32_t{0}); };
    if (!across.template sample<kTranspose>(size.width, column) ||
        !down.template sample<kTranspose>(size.height, row) || !blocks_are_narrow(across)) {
      return false;
    }
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      go_down(down, from, channel);
      go_across(across, write, channel);
    }
    return true;
  }

  // Of the rows between both passes: each can be read two registers beyond its last number.
  int64_t row_pitch() const { return size.width + 2 * kLanesOfAugment; }

  // Whether what the lanes of a register read lies in two registers next to each other; their places are then
  // counted from the first of these numbers, whose own place is put into scratch.places.
  bool blocks_are_narrow(const Taps<T>& across) const {
    constexpr int64_t kLanes = Lanes<T>::kSize;
    for (int64_t block = 0; block * kLanes < size.width; ++block) {
      int64_t first = size.width;
      int64_t last = 0;
      for (int64_t tap = 0; tap < across.used; ++tap) {
        for (int64_t x = block * kLanes; x < (block + 1) * kLanes; ++x) {
          const int64_t place = across.places[tap * across.pitch + x];
          first = place >= 0 && place < first ? place : first;
          last = place > last ? place : last;
        }
      }
      if (last >= first + 2 * kLanes) {
        return false;
      }
      scratch.places[block] = static_cast<int32_t>(first);
      for (int64_t tap = 0; tap < across.used; ++tap) {
        for (int64_t x = block * kLanes; x < (block + 1) * kLanes; ++x) {
          auto& place = across.places[tap * across.pitch + x];
          place = place < 0 ? place : static_cast<typename Taps<T>::Place>(place - first);
        }
      }
    }
    return true;
  }

  // The rows of one channel, each made of those that its pixels read.
  PYDISTILL_APART void go_down(const Taps<T>& own_down, const Image<const T>& from, int64_t channel) const {
    const Taps<T> down = own_down;  // a copy that no store can be taken to change
    for (int64_t y = 0; y < size.height; ++y) {
      const auto reads = [&](int64_t tap) {
        return tap < down.used && down.places[tap * down.pitch + y] >= 0;
      };
      T* const to = scratch.pixels + y * row_pitch();
      if (!reads(0)) {
        std::memset(to, 0, static_cast<size_t>(size.width) * sizeof(T));
      } else if (!reads(1)) {
        add_rows<1>(down, from, channel, y, to);
      } else if (!reads(2)) {
        add_rows<2>(down, from, channel, y, to);
      } else if (!reads(3)) {
        add_rows<3>(down, from, channel, y, to);
      } else {
        add_rows<4>(down, from, channel, y, to);
      }
    }
  }
  template <int kTaps>
  PYDISTILL_INLINE void add_rows(const Taps<T>& down, const Image<const T>& from, int64_t channel, int64_t y,
                                 T* to) const {
    static_assert(kTaps <= Taps<T>::kMost);
    constexpr int64_t kLanes = Lanes<T>::kSize;
    const int64_t width = size.width;
    const T* rows[static_cast<std::size_t>(kTaps)];
    Lanes<T> weights[static_cast<std::size_t>(kTaps)];
    for (int tap = 0; tap < kTaps; ++tap) {
      rows[tap] =
          read_row(from, channel, down.places[tap * down.pitch + y], scratch.in + tap * scratch.pitch, width);
      weights[tap] = Lanes<T>(down.weights[tap * down.pitch + y]);
    }
    const int64_t whole = width / kLanes * kLanes;
    for (int64_t x = 0; x < whole; x += kLanes) {
      Lanes<T> sum = weights[0] * Lanes<T>::load(rows[0] + x);
      for (int tap = 1; tap < kTaps; ++tap) {
        sum += weights[tap] * Lanes<T>::load(rows[tap] + x);
      }
      sum.store(to + x);
    }
    if (whole < width) {
      Lanes<T> sum = weights[0] * Lanes<T>::load(rows[0] + whole, width - whole);
      for (int tap = 1; tap < kTaps; ++tap) {
        sum += weights[tap] * Lanes<T>::load(rows[tap] + whole, width - whole);
      }
      sum.store(to + whole);
    }
  }

  // The same along those rows.
  template <typename Write>
  PYDISTILL_APART void go_across(const Taps<T>& across, const Write& write, int64_t channel) const {
    if (across.used <= 2) {
      go_across_by<2>(across, write, channel);
    } else if (across.used == 3) {
      go_across_by<3>(across, write, channel);
    } else {
      go_across_by<Taps<T>::kMost>(across, write, channel);
    }
  }
  template <int kTaps, typename Write>
  PYDISTILL_INLINE void go_across_by(const Taps<T>& own_across, const Write& shared_write,
                                     int64_t channel) const {
    constexpr int64_t kLanes = Lanes<T>::kSize;
    using Mask = typename Lanes<T>::Mask;
    const Taps<T> across = own_across;  // copies that no store can be taken to change
    const Write write = shared_write;
    const int64_t width = size.width;
    const int64_t height = size.height;
    for (int64_t first = 0; first < width; first += kLanes) {
      Mask places[static_cast<std::size_t>(kTaps)];
      Lanes<T> weights[static_cast<std::size_t>(kTaps)];
      for (int tap = 0; tap < kTaps; ++tap) {
        std::memcpy(&places[tap], across.places + tap * across.pitch + first, sizeof(Mask));
        weights[tap] = Lanes<T>::load(across.weights + tap * across.pitch + first);
      }
      const T* row = scratch.pixels + scratch.places[first / kLanes];
      for (int64_t y = 0; y < height; ++y, row += row_pitch()) {
        const auto low = Lanes<T>::load(row).vector;
        const auto high = Lanes<T>::load(row + kLanes).vector;
        Lanes<T> sum(T(0));
        for (int tap = 0; tap < kTaps; ++tap) {
          Lanes<T> read;
          read.vector = __builtin_shuffle(low, high, places[tap]);
          sum += weights[tap] * select(places[tap] < 0, Lanes<T>(T(0)), read);
        }
        put_lanes(write, &write.to.at(channel, y, first), write.to.column_stride, sum, width - first);
      }
    }
  }

  // With one column of zeros before the pixels and two after them; rows likewise.
  int64_t pixel_pitch() const { return size.width + 3; }

  void clear_pixels() const {
    std::memset(scratch.pixels, 0, static_cast<size_t>((size.height + 3) * pixel_pitch() * 4) * sizeof(T));
  }

  void clear_border() const {
    const int64_t pitch = 4 * pixel_pitch();
    const size_t row = static_cast<size_t>(pitch) * sizeof(T);
    std::memset(scratch.pixels, 0, row);
    std::memset(scratch.pixels + (size.height + 1) * pitch, 0, 2 * row);
    for (int64_t y = 1; y <= size.height; ++y) {
      std::memset(scratch.pixels + y * pitch, 0, 4 * sizeof(T));
      std::memset(scratch.pixels + (y + 1) * pitch - 8, 0, 8 * sizeof(T));
    }
  }

  // Where each pixel of row y reads, and with which weights: places, and for each of them the weights of the
  // pixels top left, top right, bottom left and bottom right of the position. A position outside reads the
  // border alone.
  PYDISTILL_APART void read_weights(const Resample<T>& resample, int64_t y) const {
    const int32_t width = static_cast<int32_t>(size.width);
    const int32_t row = static_cast<int32_t>(y);
    const int32_t pitch = static_cast<int32_t>(4 * pixel_pitch());
    const T end_column = static_cast<T>(size.width + 1);
    const T end_row = static_cast<T>(size.height + 1);
    const Resample<T> map = resample;  // a copy that no store can be taken to change
    T* const weights = scratch.weights;
    int32_t* const places = scratch.places;
#pragma GCC ivdep
    for (int32_t x = 0; x < width; ++x) {
      // Counted from the border on.
      const T right = within(map.column_of_source(row, x) + 1, end_column);
      const T down = within(map.row_of_source(row, x) + 1, end_row);
      const int32_t column = static_cast<int32_t>(right);
      const int32_t line = static_cast<int32_t>(down);
      // The tents of both neighbours: the position lies between them.
      const T of_right = right - static_cast<T>(column);
      const T of_bottom = down - static_cast<T>(line);
      const T of_left = 1 - of_right;
      const T of_top = 1 - of_bottom;
      T* const four = weights + 4 * static_cast<int64_t>(x);
      four[0] = of_top * of_left;
      four[1] = of_top * of_right;
      four[2] = of_bottom * of_left;
      four[3] = of_bottom * of_right;
      places[x] = pitch * line + 4 * column;
    }
    for (int64_t x = size.width; x < scratch.pitch; ++x) {
      weights[4 * x] = weights[4 * x + 1] = weights[4 * x + 2] = weights[4 * x + 3] = 0;
      places[x] = 0;
    }
  }

  // What is outside, or no number, goes to the end.
  PYDISTILL_INLINE static T within(T position, T end) {
    return position > 0 && position < end ? position : end;
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

  // use(x, pixels) for four pixels from x on; the last ones of a row that ends before are zeros.
  template <typename Use>
  PYDISTILL_INLINE static void each_four_pixels(const FourRows& four, int64_t begin, int64_t width,
                                                const Use& use) {
    const T* const rows[4] = {four.rows[0], four.rows[1], four.rows[2], four.rows[3]};
    int64_t x = begin;
    for (; x + 4 <= width; x += 4) {
      Four<T> pixels[4] = {Four<T>::load(rows[0] + x), Four<T>::load(rows[1] + x), Four<T>::load(rows[2] + x),
                           Four<T>::load(rows[3] + x)};
      exchange(pixels);
      use(x, pixels);
    }
    if (x < width) {
      T numbers[4][4] = {};
      for (int64_t channel = 0; channel < 4; ++channel) {
        for (int64_t after = 0; x + after < width; ++after) {
          numbers[channel][after] = rows[channel][x + after];
        }
      }
      Four<T> pixels[4] = {Four<T>::load(numbers[0]), Four<T>::load(numbers[1]), Four<T>::load(numbers[2]),
                           Four<T>::load(numbers[3])};
      exchange(pixels);
      use(x, pixels);
    }
  }

  PYDISTILL_APART void read_pixels(const Image<const T>& from, int64_t first, int64_t channels,
                                   int64_t y) const {
    const FourRows four = four_rows(from, first, channels, y);
    T* const to = scratch.pixels + 4 * ((y + 1) * pixel_pitch() + 1);
    // The zeros after the last pixel go to the border, or to pixels that are still to come.
    each_four_pixels(four, 0, size.width, [to](int64_t x, const Four<T>(&pixels)[4]) PYDISTILL_ALWAYS {
      for (int64_t after = 0; after < 4; ++after) {
        pixels[after].store(to + 4 * (x + after));
      }
    });
  }

  template <typename Write>
  PYDISTILL_APART void sample_row(const Write& write, int64_t first, int64_t channels, int64_t y) const {
    const Scratch<T> own = scratch;  // a copy that no store can be taken to change
    const int64_t below = 4 * pixel_pitch();
    const int64_t width = size.width;
    for (int64_t x = 0; x < width; x += 4) {
      Four<T> made[4];
      for (int64_t after = 0; after < 4; after += 2) {
        const auto weights = Pair<T>::load(own.weights + 4 * (x + after));  // of two pixels
        const T* one = own.pixels + own.places[x + after];
        made[after] = (weights.template each<0, 1>() * Pair<T>::load(one) +
                       weights.template each<2, 3>() * Pair<T>::load(one + below))
                          .sum();
        const T* other = own.pixels + own.places[x + after + 1];
        made[after + 1] = (weights.template each<4, 5>() * Pair<T>::load(other) +
                           weights.template each<6, 7>() * Pair<T>::load(other + below))
                              .sum();
      }
      exchange(made);
      put_four(write, first, channels, y, x, made);
    }
  }

  PYDISTILL_APART void spread_row(const Image<const T>& from, int64_t first, int64_t channels,
                                  int64_t y) const {
    const Scratch<T> own = scratch;  // a copy that no store can be taken to change
    const FourRows four = four_rows(from, first, channels, y);
    const int64_t below = 4 * pixel_pitch();
    const auto add_pixel = [own, below](int64_t x, const Four<T>& given) PYDISTILL_ALWAYS {
      T* top = own.pixels + own.places[x];
      const T* weights = own.weights + 4 * x;
      add(top, weights[0], given);
      add(top + 4, weights[1], given);
      add(top + below, weights[2], given);
      add(top + below + 4, weights[3], given);
    };
    // A pixel adds to what its neighbour has just written, so the halves of a row take turns.
    const int64_t half = size.width / 8 * 4;
    const T* const rows[4] = {four.rows[0], four.rows[1], four.rows[2], four.rows[3]};
    for (int64_t x = 0; x < half; x += 4) {
      Four<T> left[4] = {Four<T>::load(rows[0] + x), Four<T>::load(rows[1] + x), Four<T>::load(rows[2] + x),
                         Four<T>::load(rows[3] + x)};
      exchange(left);
      const int64_t z = x + half;
      Four<T> right[4] = {Four<T>::load(rows[0] + z), Four<T>::load(rows[1] + z), Four<T>::load(rows[2] + z),
                          Four<T>::load(rows[3] + z)};
      exchange(right);
      for (int64_t after = 0; after < 4; ++after) {
        add_pixel(x + after, left[after]);
        add_pixel(z + after, right[after]);
      }
    }
    each_four_pixels(four, 2 * half, size.width,
                     [add_pixel](int64_t x, const Four<T>(&given)[4]) PYDISTILL_ALWAYS {
                       for (int64_t after = 0; after < 4; ++after) {
                         add_pixel(x + after, given[after]);
                       }
                     });
  }

  PYDISTILL_INLINE static void add(T* to, T weight, const Four<T>& given) {
    (Four<T>::load(to) + weight * given).store(to);
  }

  template <typename Write>
  PYDISTILL_APART void write_pixels(const Write& write, int64_t first, int64_t channels, int64_t y) const {
    const Scratch<T> own = scratch;  // a copy that no store can be taken to change
    const int64_t width = size.width;
    const T* from = own.pixels + 4 * ((y + 1) * pixel_pitch() + 1);
    for (int64_t x = 0; x < width; x += 4) {
      Four<T> pixels[4];
      for (int64_t after = 0; after < 4; ++after) {
        pixels[after] = Four<T>::load(from + 4 * (x + after < width ? x + after : width));
      }
      exchange(pixels);
      put_four(write, first, channels, y, x, pixels);
    }
  }

  // Four numbers of each channel, fewer at the end of the row.
  template <typename Write>
  PYDISTILL_INLINE void put_four(const Write& write, int64_t first, int64_t channels, int64_t y, int64_t x,
                                 const Four<T> (&rows)[4]) const {
    const bool is_whole = write.to.column_stride == 1 && x + 4 <= size.width;
#pragma GCC unroll 4
    for (int64_t channel = 0; channel < 4; ++channel) {
      if (channel >= channels) {
        return;
      }
      T* const to = &write.to.at(first + channel, y, x);
      if (is_whole) {
        put(write, to, rows[channel]);
      } else {
        T numbers[4];
        rows[channel].store(numbers);
        for (int64_t after = 0; after < 4 && x + after < size.width; ++after) {
          put(write, to[after * write.to.column_stride], numbers[after]);
        }
      }
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
