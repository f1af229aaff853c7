// The loops of augment over vector registers; included by one file for each instruction set. Everything goes
// by rows of one channel, but for a resampling that mixes rows and columns, which goes by pixels.
#include "isa.h"
//
// Comparisons of numbers that are not finite may raise a flag that nobody reads: without this the compiler
// makes no vectors of them.
#pragma GCC optimize("no-trapping-math")
// Of a variable that the compiler (12) makes itself out of a crop.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

#include "augment_apart.inl"
#include "augment_colour.inl"
#include "augment_copies.inl"
#include "augment_pixels.inl"
#include "augment_rows.inl"

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

using kernels::AugmentArrays;

// The engine of kernels::AugmentImage on one thread.
template <typename T>
struct RowStage {
  ImageSize size;
  Scratch<T> scratch;

  void meet() const {}

  // What lies between stages comes after the rest.
  T* end_of_scratch() const { return scratch.pixels + pixels_of_augment(size.height, size.width); }

  template <bool kTranspose, typename Operation, typename Write>
  void stage(const Operation& operation, const Image<const T>& from, const Write& write) const {
    Copies<T>{size, scratch}.template run<kTranspose>(operation, from, write);
  }

  template <bool kTranspose, typename Write>
  void stage(const Color<T>& color, const Image<const T>& from, const Write& write) const {
    Colours<T>{size, scratch}.template run<kTranspose>(color, from, write);
  }

  template <bool kTranspose, typename Write>
  void stage(const Resample<T>& resample, const Image<const T>& from, const Write& write) const {
    const bool is_apart = resample.xy == 0 && resample.yx == 0;
    if (is_apart && ResampleApart<T>{size, scratch}.template run<kTranspose>(resample, from, write)) {
      return;
    }
    ResamplePixels<T>{size, scratch}.template run<kTranspose>(resample, from, write);
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
