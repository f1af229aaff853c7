// 3x3 convolutions on the CPU by Winograd's minimal filtering (kernels/winograd.h): all layers but the first.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <array>

#include "../cpu/simd/convolution.h"
#include "convolution_cpu.h"

namespace pydistill::engine {
namespace {

using cpu::ConvolutionLoops;
using cpu::GradientTerm;
using cpu::SpectralTerm;
using cpu::Tiles;

constexpr int64_t kPositions = 16;

// Tiles that a thread transforms and multiplies at once: their spectra stay in its second-level cache.
constexpr int64_t kTilesAtATime = 64;

// A convolution with padding 1, so that x and z have the same height and width. The gradient in the input is
// the same convolution with the windows rotated by 180 degrees and inputs and outputs exchanged.
template <typename T>
class WinogradConvolution final : public LinearMap {
 public:
  WinogradConvolution(const ConvolutionShape& shape, at::TensorOptions options)
      : shape_(shape), options_(options), scratch_(options) {
    images_ = at::empty({spectrum_size(shape_.inputs)}, options_);
    sums_ = at::zeros(
        {kPositions * rounded_up(shape_.outputs, loops_.panel) * rounded_up(shape_.inputs, loops_.rows)},
        options_);
    for (int i = 0; i < 2; ++i) {
      weights_[i] =
          at::empty({kPositions * rounded_up(shape_.outputs, loops_.panel) * shape_.inputs}, options_);
      turned_[i] =
          at::empty({kPositions * rounded_up(shape_.inputs, loops_.panel) * shape_.outputs}, options_);
    }
  }

  void read_weights(const at::Tensor& weight, const at::Tensor& weight_tangent) override {
    read_one(weight, 0);
    if (weight_tangent.defined()) {
      read_one(weight_tangent, 1);
    }
  }

  at::Tensor forward(const at::Tensor& x, const at::Tensor& into) override {
    return convolve({x, {}}, {into, {}}, shape_.inputs, shape_.outputs, weights_, {images_, {}}).value;
  }

  DualTensor forward_jvp(const DualTensor& x, const DualTensor& into) override {
    if (!image_tangents_.defined()) {
      image_tangents_ = at::empty_like(images_);
    }
    return convolve(x, into, shape_.inputs, shape_.outputs, weights_, {images_, image_tangents_});
  }

  at::Tensor input_gradient(const at::Tensor& dz, const at::Tensor& into) override {
    const int64_t size = spectrum_size(shape_.outputs);
    return convolve({dz, {}}, {into, {}}, shape_.outputs, shape_.inputs, turned_,
                    {scratch_.buffer(0, size), {}})
        .value;
  }

  DualTensor input_gradient_jvp(const DualTensor& dz, const DualTensor& into) override {
    const int64_t size = spectrum_size(shape_.outputs);
    return convolve(dz, into, shape_.outputs, shape_.inputs, turned_,
                    {scratch_.buffer(0, size), scratch_.buffer(1, size)});
  }

  void add_weight_gradient(const at::Tensor& /*x*/, const at::Tensor& dz) override {
    const T* gradients = transform(dz, 0);
    add_terms(dz.size(0), {{{data_of<T>(images_), gradients}, {}}}, 1);
  }

  void add_weight_gradient_jvp(const DualTensor& /*x*/, const DualTensor& dz) override {
    const T* gradients = transform(dz.value, 0);
    const T* tangents = transform(dz.tangent, 1);
    add_terms(dz.value.size(0), {{{data_of<T>(image_tangents_), gradients}, {data_of<T>(images_), tangents}}},
              2);
  }

  void flush_weight_gradient(const at::Tensor& weight_gradient) override {
    const int64_t panels = rounded_up(shape_.outputs, loops_.panel) / loops_.panel;
    in_parallel(panels, shape_.inputs * loops_.panel * 8, [&](int64_t first, int64_t last) {
      loops_.finish_weight_gradient(data_of<T>(sums_), shape_.inputs, shape_.outputs, first, last,
                                    data_of<T>(weight_gradient));
    });
    sums_.zero_();
  }

  std::unique_ptr<LinearMap> with_shared_weights() const override {
    auto map = std::make_unique<WinogradConvolution>(shape_, options_);
    map->weights_ = weights_;
    map->turned_ = turned_;
    return map;
  }

  at::Tensor weight_gradient_sum() const override { return sums_; }

 private:
  Tiles tiles(int64_t images) const { return {images, shape_.height, shape_.width}; }

  int64_t padded_tiles(int64_t images) const { return rounded_up(tiles(images).count(), loops_.rows); }

  int64_t spectrum_size(int64_t channels) const {
    return kPositions * rounded_up(channels, loops_.panel) * padded_tiles(shape_.images);
  }

  void read_one(const at::Tensor& weight, int which) {
    const T* from = weight.const_data_ptr<T>();
    const int64_t by_output = shape_.inputs * 9;
    transform_weights(from, by_output, 9, false, shape_.inputs, shape_.outputs, weights_[which]);
    transform_weights(from, 9, by_output, true, shape_.outputs, shape_.inputs, turned_[which]);
  }

  void transform_weights(const T* from, int64_t output_stride, int64_t input_stride, bool flipped,
                         int64_t inputs, int64_t outputs, const at::Tensor& spectrum) {
    const int64_t panels = rounded_up(outputs, loops_.panel) / loops_.panel;
    in_parallel(panels, inputs * loops_.panel * 16, [&](int64_t first, int64_t last) {
      loops_.transform_weights(from, output_stride, input_stride, flipped, inputs, outputs,
                               first * loops_.panel, std::min(last * loops_.panel, outputs),
                               data_of<T>(spectrum));
    });
  }

  // z = x convolved with weights[0], and with tangents z' = x' weights[0] + x weights[1]. Leaves the spectra
  // of x and x' in `spectrum`.
  DualTensor convolve(const DualTensor& x, const DualTensor& z, int64_t inputs, int64_t outputs,
                      const std::array<at::Tensor, 2>& weights, const DualTensor& spectrum) {
    const int64_t images = x.value.size(0);
    const Tiles all = tiles(images);
    const int64_t padded = padded_tiles(images);
    const int64_t blocks = padded / loops_.rows;
    const int64_t scratch_each = kPositions * rounded_up(kTilesAtATime, loops_.rows) * loops_.panel;
    T* scratch = data_of<T>(scratch_.buffer(2, scratch_each * at::get_num_threads()));
    const bool tangents = z.tangent.defined();
    const SpectralTerm<T> value[] = {{data_of<T>(spectrum.value), data_of<T>(weights[0])}};
    const SpectralTerm<T> tangent[] = {{data_of<T>(spectrum.tangent), data_of<T>(weights[0])},
                                       {data_of<T>(spectrum.value), data_of<T>(weights[1])}};
    clear_padding(spectrum.value, inputs, images);
    if (tangents) {
      clear_padding(spectrum.tangent, inputs, images);
    }
    const int64_t products = tangents ? 3 : 1;
    const int64_t panels = rounded_up(outputs, loops_.panel) / loops_.panel;
    const int64_t tiles_at_a_time = tangents ? kTilesAtATime / 2 : kTilesAtATime;
    in_parallel(blocks, products * loops_.rows * kPositions * inputs * outputs,
                [&](int64_t begin, int64_t end) {
                  T* buffer = scratch + scratch_each * at::get_thread_num();
                  const int64_t limit = std::min(end * loops_.rows, all.count());
                  for (int64_t first = begin * loops_.rows; first < limit; first += tiles_at_a_time) {
                    const int64_t last = std::min(first + tiles_at_a_time, limit);
                    loops_.transform_images(all, inputs, data_of<T>(x.value), first, last, padded,
                                            data_of<T>(spectrum.value));
                    if (tangents) {
                      loops_.transform_images(all, inputs, data_of<T>(x.tangent), first, last, padded,
                                              data_of<T>(spectrum.tangent));
                    }
                    // Value and tangent in turn, so that a panel of the weights is fetched once for both.
                    for (int64_t panel = 0; panel < panels; ++panel) {
                      loops_.outputs(all, inputs, outputs, panel, value, 1, first, last, padded, buffer,
                                     data_of<T>(z.value));
                      if (tangents) {
                        loops_.outputs(all, inputs, outputs, panel, tangent, 2, first, last, padded, buffer,
                                       data_of<T>(z.tangent));
                      }
                    }
                  }
                });
    return z;
  }

  // Zeros the tiles that pad the last block: a weight gradient sums over all tiles.
  void clear_padding(const at::Tensor& spectrum, int64_t channels, int64_t images) const {
    const int64_t count = tiles(images).count();
    const int64_t padded = padded_tiles(images);
    if (count == padded) {
      return;
    }
    const int64_t matrices = kPositions * rounded_up(channels, loops_.panel) / loops_.panel;
    T* numbers = data_of<T>(spectrum);
    for (int64_t matrix = 0; matrix < matrices; ++matrix) {
      T* row = numbers + (matrix * padded + count) * loops_.panel;
      std::fill(row, row + (padded - count) * loops_.panel, T(0));
    }
  }

  const T* transform(const at::Tensor& dz, int slot) {
    const at::Tensor spectrum = scratch_.buffer(slot, spectrum_size(shape_.outputs));
    const Tiles all = tiles(dz.size(0));
    const int64_t padded = padded_tiles(dz.size(0));
    in_parallel(all.count(), shape_.outputs * 32, [&](int64_t first, int64_t last) {
      loops_.transform_gradients(all, shape_.outputs, data_of<T>(dz), first, last, padded,
                                 data_of<T>(spectrum));
    });
    clear_padding(spectrum, shape_.outputs, dz.size(0));
    return data_of<T>(spectrum);
  }

  // One thread adds up a position, so the order of the additions does not depend on the number of threads.
  void add_terms(int64_t images, const std::array<GradientTerm<T>, 2>& terms, int count) {
    const int64_t padded = padded_tiles(images);
    const int64_t panels = rounded_up(shape_.outputs, loops_.panel) / loops_.panel;
    in_parallel(kPositions * panels, count * padded * shape_.inputs * loops_.panel,
                [&](int64_t begin, int64_t end) {
                  for (int64_t item = begin; item < end; ++item) {
                    const int64_t panel = item % panels;
                    loops_.weight_gradient(item / panels, shape_.inputs, shape_.outputs, terms.data(), count,
                                           panel, panel + 1, padded, data_of<T>(sums_));
                  }
                });
  }

  const ConvolutionLoops<T>& loops_ = cpu::convolution_loops<T>();
  ConvolutionShape shape_;
  at::TensorOptions options_;
  Scratch scratch_;
  std::array<at::Tensor, 2> weights_;  // the spectra of the weights and of their tangents
  std::array<at::Tensor, 2> turned_;   // the same for the gradient in the input
  at::Tensor images_;                  // the spectrum of the last x
  at::Tensor image_tangents_;
  at::Tensor sums_;  // the spectrum of the weight gradient so far
};

}  // namespace

std::unique_ptr<LinearMap> winograd_convolution(const ConvolutionShape& shape, at::TensorOptions options) {
  std::unique_ptr<LinearMap> map;
  AT_DISPATCH_FLOATING_TYPES(c10::typeMetaToScalarType(options.dtype()), "pydistill::winograd_convolution",
                             [&] { map = std::make_unique<WinogradConvolution<scalar_t>>(shape, options); });
  return map;
}

}  // namespace pydistill::engine
