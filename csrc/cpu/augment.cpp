#include "augment.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <vector>

#include "isa.h"
#include "simd/augment.h"

namespace pydistill::cpu {
namespace {

using kernels::AugmentArrays;
using kernels::ImageSize;

constexpr int64_t kNumbersPerThread = 16384;  // that a thread must make for it to be worth its start

int64_t grain(const ImageSize& size) { return kNumbersPerThread / std::max<int64_t>(1, size.numbers()) + 1; }

template <typename scalar_t>
struct Loops {
  void (*place)(const AugmentArrays<scalar_t>& arrays, int64_t j, scalar_t* scratch);
  void (*place_backward)(const AugmentArrays<scalar_t>& arrays, int64_t i, int64_t j, scalar_t* scratch);
};

template <typename scalar_t>
Loops<scalar_t> loops() {
#if defined(__x86_64__)
  switch (isa()) {
    case Isa::kAvx512:
      return {&avx512::augment_place, &avx512::augment_place_backward};
    case Isa::kAvx2:
      return {&avx2::augment_place, &avx2::augment_place_backward};
    case Isa::kBaseline:
      break;
  }
#endif
  return {&baseline::augment_place, &baseline::augment_place_backward};
}

// Offsets in a channel of float numbers have 32 bits in the loops.
void check_size(const at::Tensor& images) {
  constexpr int64_t kMost = int64_t{1} << 30;
  const int64_t height = images.size(2);
  const int64_t width = images.size(3);
  const int64_t span = height * std::abs(images.stride(2)) + width * std::abs(images.stride(3));
  TORCH_CHECK_VALUE(images.numel() == 0 || (height * width < kMost && span < kMost), "augment: images of ",
                    height, " x ", width, " pixels with strides ", images.stride(2), " and ",
                    images.stride(3), " are too large for the CPU");
}

// The scratch of one thread.
template <typename scalar_t>
std::unique_ptr<scalar_t[]> scratch_of(const AugmentArrays<scalar_t>& arrays) {
  const int64_t numbers = kernels::images_between(arrays.length) * arrays.size.numbers();
  return std::unique_ptr<scalar_t[]>(new scalar_t[static_cast<size_t>(numbers)]);
}

template <typename scalar_t>
void run_forward(const AugmentArrays<scalar_t>& arrays) {
  const Loops<scalar_t> run = loops<scalar_t>();
  at::parallel_for(0, arrays.batch, grain(arrays.size), [&](int64_t begin, int64_t end) {
    const auto scratch = scratch_of(arrays);
    for (int64_t j = begin; j < end; ++j) {
      run.place(arrays, j, scratch.get());
    }
  });
}

// The batch's places in the order of their source images, and for one image in their own order.
template <typename scalar_t>
std::vector<int64_t> places_by_source(const AugmentArrays<scalar_t>& arrays) {
  std::vector<int64_t> places(static_cast<size_t>(arrays.batch));
  std::iota(places.begin(), places.end(), int64_t{0});
  if (arrays.index != nullptr) {
    std::stable_sort(places.begin(), places.end(),
                     [&](int64_t a, int64_t b) { return arrays.source(a) < arrays.source(b); });
  }
  return places;
}

// A source image is one thread's, with all the places that it went to.
template <typename scalar_t>
void run_backward(const AugmentArrays<scalar_t>& arrays) {
  const Loops<scalar_t> run = loops<scalar_t>();
  const std::vector<int64_t> places = places_by_source(arrays);
  const auto source_of = [&](int64_t k) { return arrays.source(places[static_cast<size_t>(k)]); };
  at::parallel_for(0, arrays.batch, grain(arrays.size), [&](int64_t begin, int64_t end) {
    const auto scratch = scratch_of(arrays);
    // An image whose places begin before `begin` is the previous thread's, to its last place.
    while (begin > 0 && begin < end && source_of(begin) == source_of(begin - 1)) {
      ++begin;
    }
    while (begin < end && end < arrays.batch && source_of(end) == source_of(end - 1)) {
      ++end;
    }
    for (int64_t k = begin; k < end; ++k) {
      const int64_t j = places[static_cast<size_t>(k)];
      const int64_t source = arrays.source(j);
      if (source >= 0 && source < arrays.images) {
        run.place_backward(arrays, source, j, scratch.get());
      }
    }
  });
}

}  // namespace

void augment(const at::Tensor& images, const tensors::AugmentRecipe& recipe, const at::Tensor& out) {
  check_size(images);
  AT_DISPATCH_FLOATING_TYPES(images.scalar_type(), "pydistill::augment",
                             [&] { run_forward(tensors::augment_arrays<scalar_t>(images, recipe, out)); });
}

void augment_backward(const at::Tensor& grad_out, const tensors::AugmentRecipe& recipe,
                      const at::Tensor& factor, bool negate, const at::Tensor& gradient) {
  check_size(grad_out);
  AT_DISPATCH_FLOATING_TYPES(grad_out.scalar_type(), "pydistill::augment_backward", [&] {
    run_backward(tensors::augment_backward_arrays<scalar_t>(grad_out, recipe, factor, negate, gradient));
  });
}

}  // namespace pydistill::cpu
