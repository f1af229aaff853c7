// Any resampling of augment, on pixels: four channels in one register, surrounded by a border of zeros. What
// a position reads is then two neighbours above and two below, and its transpose, on one thread, adds to
// these.
#pragma once

#include "augment_rows.inl"

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

using kernels::Resample;

// Spelt out for each type, since GCC forgets the attribute on a type that depends on a template's argument.
template <typename T>
struct FourOf;
template <>
struct FourOf<float> {
  typedef float Type __attribute__((vector_size(16)));
  typedef float Pair __attribute__((vector_size(32)));
};
template <>
struct FourOf<double> {
  typedef double Type __attribute__((vector_size(32)));
  typedef double Pair __attribute__((vector_size(64)));
};

// Four channels of a pixel.
template <typename T>
struct Four {
  using Vector = typename FourOf<T>::Type;
  Vector vector;

  PYDISTILL_INLINE static Four load(const T* from) {
    Four four;
    std::memcpy(&four.vector, from, sizeof(Vector));
    return four;
  }
  PYDISTILL_INLINE void store(T* to) const { std::memcpy(to, &vector, sizeof(Vector)); }
  PYDISTILL_INLINE friend Four operator+(const Four& a, const Four& b) { return {a.vector + b.vector}; }
  PYDISTILL_INLINE friend Four operator-(const Four& a, const Four& b) { return {a.vector - b.vector}; }
  PYDISTILL_INLINE friend Four operator*(T a, const Four& b) { return {a * b.vector}; }
};

// Two pixels of four channels next to each other.
template <typename T>
struct Pair {
  using Vector = typename FourOf<T>::Pair;
  Vector vector;

  PYDISTILL_INLINE static Pair load(const T* from) {
    Pair pair;
    std::memcpy(&pair.vector, from, sizeof(Vector));
    return pair;
  }
  PYDISTILL_INLINE void store(T* to) const { std::memcpy(to, &vector, sizeof(Vector)); }
  // (1 - share) pixel and share pixel
  PYDISTILL_INLINE static Pair of(const Four<T>& pixel, T share) {
    const Four<T> second = share * pixel;
    const auto first = (pixel - second).vector;
    const auto& v = second.vector;
    return {Vector{first[0], first[1], first[2], first[3], v[0], v[1], v[2], v[3]}};
  }
  PYDISTILL_INLINE Four<T> first() const {
    return {typename Four<T>::Vector{vector[0], vector[1], vector[2], vector[3]}};
  }
  PYDISTILL_INLINE Four<T> second() const {
    return {typename Four<T>::Vector{vector[4], vector[5], vector[6], vector[7]}};
  }

  PYDISTILL_INLINE friend Pair operator+(const Pair& a, const Pair& b) { return {a.vector + b.vector}; }
  PYDISTILL_INLINE friend Pair operator-(const Pair& a, const Pair& b) { return {a.vector - b.vector}; }
  PYDISTILL_INLINE friend Pair operator*(T a, const Pair& b) { return {a * b.vector}; }
};

// Between one register for each of four channels and as many pixels, which four registers hold one after the
// other. An order says which number of two registers, counted through both, comes to place `to`; kLanes: of a
// register.
template <int kLanes>
struct PairRows {  // of two rows: pairs of numbers, from the rows' first half on, or from the second
  static constexpr int low(int to) { return to / 2 + to % 2 * kLanes; }
  static constexpr int high(int to) { return low(to) + kLanes / 2; }
};
template <int kLanes>
struct PairPairs {  // of pairs of the channels 0 and 1, and 2 and 3: pixels
  static constexpr int of(int number) { return number / 4 * 2 + number % 2 + (number % 4 < 2 ? 0 : kLanes); }
  static constexpr int low(int to) { return of(to); }
  static constexpr int high(int to) { return of(to + kLanes); }
};
template <int kLanes>
struct PartPixels {  // of pixels: pairs of the channels 0 and 1; or 2 and 3
  static constexpr int low(int to) { return to / 2 * 4 + to % 2; }
  static constexpr int high(int to) { return low(to) + 2; }
};
template <int kLanes>
struct PartPairs {  // of pairs: the first numbers, or the second
  static constexpr int low(int to) { return 2 * to; }
  static constexpr int high(int to) { return 2 * to + 1; }
};

template <int... kTo>
struct Places {};
template <typename Done, int kNext, int kEnd>
struct CountPlaces;
template <int... kTo, int kEnd>
struct CountPlaces<Places<kTo...>, kEnd, kEnd> {
  using Type = Places<kTo...>;
};
template <int... kTo, int kNext, int kEnd>
struct CountPlaces<Places<kTo...>, kNext, kEnd> {
  using Type = typename CountPlaces<Places<kTo..., kNext>, kNext + 1, kEnd>::Type;
};

template <template <int> typename Order, typename T, int... kTo>
PYDISTILL_INLINE void reorder(Lanes<T>& a, Lanes<T>& b, Places<kTo...>) {
  constexpr int kLanes = sizeof...(kTo);
  constexpr typename Lanes<T>::Mask kLow = {Order<kLanes>::low(kTo)...};
  constexpr typename Lanes<T>::Mask kHigh = {Order<kLanes>::high(kTo)...};
  const auto low = __builtin_shuffle(a.vector, b.vector, kLow);
  b.vector = __builtin_shuffle(a.vector, b.vector, kHigh);
  a.vector = low;
}
// (a, b) become what the order's low and high places take of them.
template <template <int> typename Order, typename T>
PYDISTILL_INLINE void reorder(Lanes<T>& a, Lanes<T>& b) {
  reorder<Order>(a, b, typename CountPlaces<Places<>, 0, static_cast<int>(Lanes<T>::kSize)>::Type{});
}

// rows: of four channels -> their pixels, stored from `to` on.
template <typename T>
PYDISTILL_INLINE void store_as_pixels(Lanes<T> (&rows)[4], T* to) {
  reorder<PairRows>(rows[0], rows[1]);
  reorder<PairRows>(rows[2], rows[3]);
  reorder<PairPairs>(rows[0], rows[2]);
  reorder<PairPairs>(rows[1], rows[3]);
  rows[0].store(to);
  rows[2].store(to + Lanes<T>::kSize);
  rows[1].store(to + 2 * Lanes<T>::kSize);
  rows[3].store(to + 3 * Lanes<T>::kSize);
}

// The reverse.
template <typename T>
PYDISTILL_INLINE void load_pixels(const T* from, Lanes<T> (&rows)[4]) {
  rows[0] = Lanes<T>::load(from);
  rows[2] = Lanes<T>::load(from + Lanes<T>::kSize);
  rows[1] = Lanes<T>::load(from + 2 * Lanes<T>::kSize);
  rows[3] = Lanes<T>::load(from + 3 * Lanes<T>::kSize);
  reorder<PartPixels>(rows[0], rows[2]);
  reorder<PartPixels>(rows[1], rows[3]);
  reorder<PartPairs>(rows[0], rows[1]);
  reorder<PartPairs>(rows[2], rows[3]);
}

template <typename T>
struct ResamplePixels {
  ImageSize size;
  Scratch<T> scratch;

  template <bool kTranspose, typename Write>
  void run(const Resample<T>& resample, const Image<const T>& from, const Write& write) const {
    for (int64_t first = 0; first < size.channels; first += 4) {
      const int64_t channels = size.channels - first < 4 ? size.channels - first : 4;
      if constexpr (kTranspose) {
        clear_pixels();
        for (int64_t y = 0; y < size.height; ++y) {
          find_places(resample, y);
          read_row_of_pixels(from, first, channels, y, scratch.row);
          spread_row();
        }
        for (int64_t y = 0; y < size.height; ++y) {
          write_row_of_pixels(pixel(y, 0), write, first, channels, y);
        }
      } else {
        clear_border();
        // The zeros after a row's last pixel go to the border, or to pixels that are still to come.
        for (int64_t y = 0; y < size.height; ++y) {
          read_row_of_pixels(from, first, channels, y, pixel(y, 0));
        }
        for (int64_t y = 0; y < size.height; ++y) {
          find_places(resample, y);
          sample_row();
          write_row_of_pixels(scratch.row, write, first, channels, y);
        }
      }
    }
  }

 private:
  // With one column of zeros before the pixels and two after them; rows likewise.
  int64_t pixel_pitch() const { return size.width + 3; }
  T* pixel(int64_t y, int64_t x) const { return scratch.pixels + 4 * ((y + 1) * pixel_pitch() + x + 1); }

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

  // Where each pixel of row y reads: the place of the pixel above and to the left of its position, and how
  // far beyond it the position lies. One outside reads the border alone.
  PYDISTILL_APART void find_places(const Resample<T>& resample, int64_t y) const {
    const int32_t width = static_cast<int32_t>(size.width);
    const int32_t row = static_cast<int32_t>(y);
    const int32_t pitch = static_cast<int32_t>(4 * pixel_pitch());
    const T end_column = static_cast<T>(size.width + 1);
    const T end_row = static_cast<T>(size.height + 1);
    const Resample<T> map = resample;  // a copy that no store can be taken to change
    T* const rights = scratch.rights;
    T* const downs = scratch.downs;
    int32_t* const places = scratch.places;
#pragma GCC ivdep
    for (int32_t x = 0; x < width; ++x) {
      // Counted from the border on.
      const T right = within(map.column_of_source(row, x) + 1, end_column);
      const T down = within(map.row_of_source(row, x) + 1, end_row);
      const int32_t column = static_cast<int32_t>(right);
      const int32_t line = static_cast<int32_t>(down);
      rights[x] = right - static_cast<T>(column);
      downs[x] = down - static_cast<T>(line);
      places[x] = pitch * line + 4 * column;
    }
  }

  // What is outside, or no number, goes to the end.
  PYDISTILL_INLINE static T within(T position, T end) {
    return position > 0 && position < end ? position : end;
  }

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

  // The pixels of row y one after the other from `to` on; those beyond the last, up to a register, are zeros.
  PYDISTILL_APART void read_row_of_pixels(const Image<const T>& from, int64_t first, int64_t channels,
                                          int64_t y, T* to) const {
    constexpr int64_t kLanes = Lanes<T>::kSize;
    const FourRows four = four_rows(from, first, channels, y);
    const int64_t width = size.width;
    const int64_t whole = width / kLanes * kLanes;
    for (int64_t x = 0; x < whole; x += kLanes) {
      Lanes<T> rows[4] = {Lanes<T>::load(four.rows[0] + x), Lanes<T>::load(four.rows[1] + x),
                          Lanes<T>::load(four.rows[2] + x), Lanes<T>::load(four.rows[3] + x)};
      store_as_pixels(rows, to + 4 * x);
    }
    if (whole < width) {
      Lanes<T> rows[4];
      for (int64_t channel = 0; channel < 4; ++channel) {
        rows[channel] = Lanes<T>::load(four.rows[channel] + whole, width - whole);
      }
      store_as_pixels(rows, to + 4 * whole);
    }
  }

  // The reverse, from memory that can be read up to a register beyond the last pixel.
  template <typename Write>
  PYDISTILL_APART void write_row_of_pixels(const T* from, const Write& shared_write, int64_t first,
                                           int64_t channels, int64_t y) const {
    constexpr int64_t kLanes = Lanes<T>::kSize;
    const Write write = shared_write;  // a copy that no store can be taken to change
    const int64_t width = size.width;
    const int64_t stride = write.to.column_stride;
    const int64_t apart = write.to.channel_stride;
    T* const to = &write.to.at(first, y, 0);
    int64_t x = 0;
    if (stride == 1) {
      for (; x + kLanes <= width; x += kLanes) {
        Lanes<T> rows[4];
        load_pixels(from + 4 * x, rows);
        put(write, to + x, rows[0]);
        if (channels > 1) {
          put(write, to + apart + x, rows[1]);
        }
        if (channels > 2) {
          put(write, to + 2 * apart + x, rows[2]);
        }
        if (channels > 3) {
          put(write, to + 3 * apart + x, rows[3]);
        }
      }
    }
    for (; x < width; x += kLanes) {
      Lanes<T> rows[4];
      load_pixels(from + 4 * x, rows);
      for (int64_t channel = 0; channel < channels; ++channel) {
        put_lanes(write, to + channel * apart + x * stride, stride, rows[channel], width - x);
      }
    }
  }

  // The pixels of a row at their places, into scratch.row. The tents of the four neighbours are 1 - right and
  // right, times 1 - down and down: first between the rows, then between the columns.
  PYDISTILL_APART void sample_row() const {
    const Scratch<T> own = scratch;  // a copy that no store can be taken to change
    const int64_t below = 4 * pixel_pitch();
    const int64_t width = size.width;
    for (int64_t x = 0; x < width; ++x) {
      const T* const top = own.pixels + own.places[x];
      const Pair<T> above = Pair<T>::load(top);
      const Pair<T> between = above + own.downs[x] * (Pair<T>::load(top + below) - above);
      const Four<T> left = between.first();
      (left + own.rights[x] * (between.second() - left)).store(own.row + 4 * x);
    }
  }

  // Adds the pixels of scratch.row to their places.
  PYDISTILL_APART void spread_row() const {
    const Scratch<T> own = scratch;  // a copy that no store can be taken to change
    const int64_t below = 4 * pixel_pitch();
    const int64_t width = size.width;
    // A pixel adds to what its neighbour has written, which must have reached memory: neighbours take turns
    // with pixels far away.
    for (int64_t begin = 0; begin < kTurns; ++begin) {
      for (int64_t x = begin; x < width; x += kTurns) {
        const Pair<T> given = Pair<T>::of(Four<T>::load(own.row + 4 * x), own.rights[x]);
        const Pair<T> under = own.downs[x] * given;
        T* const top = own.pixels + own.places[x];
        (Pair<T>::load(top) + (given - under)).store(top);
        (Pair<T>::load(top + below) + under).store(top + below);
      }
    }
  }
  static constexpr int64_t kTurns = 4;
};

}  // namespace
}  // namespace pydistill::cpu::PYDISTILL_ISA
