// The operation colour of augment. A mean is added up in short runs, lane by lane, and their sums in double.
#pragma once

#include "augment_rows.inl"

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

using kernels::Color;

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
struct Colours {
  ImageSize size;
  Scratch<T> scratch;

  template <bool kTranspose, typename Write>
  void run(const Color<T>& color, const Image<const T>& from, const Write& write) const {
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

 private:
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
        Lanes<T> pixels[static_cast<size_t>(kChannels > 0 ? kChannels : 1)];
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
};

}  // namespace
}  // namespace pydistill::cpu::PYDISTILL_ISA
