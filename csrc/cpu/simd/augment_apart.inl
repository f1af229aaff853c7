// A resampling of augment that keeps rows and columns apart, such as a scale: it goes down the columns first
// and then along the rows, from tables of what each pixel reads.
#pragma once

#include "augment_rows.inl"

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

using kernels::Resample;

// Whole numbers as wide as a T.
template <typename T>
struct WholeOf;
template <>
struct WholeOf<float> {
  using Type = int32_t;
};
template <>
struct WholeOf<double> {
  using Type = int64_t;
};

// What each pixel of a row, or of a column, reads of another in a resampling: weights and places, -1 for
// none.
template <typename T>
struct Taps {
  static constexpr int64_t kMost = kTapsOfAugment;
  using Place = typename WholeOf<T>::Type;

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
struct ResampleApart {
  ImageSize size;
  Scratch<T> scratch;

  // A resampling whose rows and columns do not mix; false, and nothing is written, if the tables cannot hold
  // it.
  template <bool kTranspose, typename Write>
  bool run(const Resample<T>& resample, const Image<const T>& from, const Write& write) const {
    Taps<T> across = Taps<T>::of(scratch.across, scratch.taps_pitch);
    Taps<T> down = Taps<T>::of(scratch.down, size.height);
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

 private:
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
    const T* rows[static_cast<size_t>(kTaps)];
    Lanes<T> weights[static_cast<size_t>(kTaps)];
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
      Mask places[static_cast<size_t>(kTaps)];
      Lanes<T> weights[static_cast<size_t>(kTaps)];
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
};

}  // namespace
}  // namespace pydistill::cpu::PYDISTILL_ISA
