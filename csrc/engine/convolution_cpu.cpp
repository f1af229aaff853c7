#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "../cpu/simd/convolution.h"
#include "linear_map.h"

namespace pydistill::engine {
namespace {

using cpu::ConvolutionLoops;
using cpu::GradientTerm;
using cpu::SpectralTerm;
using cpu::Tiles;

constexpr int64_t kPositions = 16;

// Less work than this many multiplications is not worth another thread.
constexpr int64_t kWorthAThread = 1'000'000;

// Tiles that a thread takes through transform and product at once: what they need stays in its second-level
// cache.
constexpr int64_t kTilesAtATime = 64;

int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Runs work(first, last) over [0, count) on as many threads as are worth it.
template <typename Work>
void in_parallel(int64_t count, int64_t multiplications_each, const Work& work) {
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, multiplications_each));
  at::parallel_for(0, count, grain, work);
}

template <typename T>
T* numbers_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}

// Memory that a map uses for a while and keeps nothing in. It grows and never shrinks.
class Scratch {
 public:
  explicit Scratch(at::TensorOptions options) : options_(options) {}
  // One dimension, at least `count` numbers, of undefined value; the same memory for the same `slot`.
  at::Tensor numbers(int slot, int64_t count);

 private:
  static constexpr int kSlots = 3;
  at::TensorOptions options_;
  at::Tensor slots_[kSlots];
};

at::Tensor Scratch::numbers(int slot, int64_t count) {
  at::Tensor& own = slots_[slot];
  if (!own.defined() || own.numel() < count) {
    own = at::empty({count}, options_);
  }
  return own;
}

// Any but the first layer: one ring of zeros, so that x and z have the same plane. The gradient in the input
// is the same convolution with the windows turned and the channels' roles exchanged.
template <typename T>
class WinogradConvolution final : public LinearMap {
 public:
  WinogradConvolution(const ConvolutionShape& shape, at::TensorOptions options)
      : shape_(shape), options_(options), scratch_(options) {
    images_ = at::empty({spectrum_size(shape_.inputs)}, options_);
    sums_ = at::zeros(
        {kPositions * rounded_up(shape_.outputs, loops_.panel) * rounded_up(shape_.inputs, loops_.rows)},
        options_);
    for (int each = 0; each < 2; ++each) {
      weights_[each] =
          at::empty({kPositions * rounded_up(shape_.outputs, loops_.panel) * shape_.inputs}, options_);
      turned_[each] =
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
                    {scratch_.numbers(0, size), {}})
        .value;
  }

  DualTensor input_gradient_jvp(const DualTensor& dz, const DualTensor& into) override {
    const int64_t size = spectrum_size(shape_.outputs);
    return convolve(dz, into, shape_.outputs, shape_.inputs, turned_,
                    {scratch_.numbers(0, size), scratch_.numbers(1, size)});
  }

  void add_weight_gradient(const at::Tensor& /*x*/, const at::Tensor& dz) override {
    const T* gradients = transform(dz, 0);
    add_terms(dz.size(0), {{{numbers_of<T>(images_), gradients}, {}}}, 1);
  }

  void add_weight_gradient_jvp(const DualTensor& /*x*/, const DualTensor& dz) override {
    const T* gradients = transform(dz.value, 0);
    const T* tangents = transform(dz.tangent, 1);
    add_terms(dz.value.size(0),
              {{{numbers_of<T>(image_tangents_), gradients}, {numbers_of<T>(images_), tangents}}}, 2);
  }

  void flush_weight_gradient(const at::Tensor& weight_gradient) override {
    const int64_t panels = rounded_up(shape_.outputs, loops_.panel) / loops_.panel;
    in_parallel(panels, shape_.inputs * loops_.panel * 8, [&](int64_t first, int64_t last) {
      loops_.finish_weight_gradient(numbers_of<T>(sums_), shape_.inputs, shape_.outputs, first, last,
                                    numbers_of<T>(weight_gradient));
    });
    sums_.zero_();
  }

  std::unique_ptr<LinearMap> with_shared_weights() const override {
    auto made = std::make_unique<WinogradConvolution>(shape_, options_);
    made->weights_ = weights_;
    made->turned_ = turned_;
    return made;
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
                               numbers_of<T>(spectrum));
    });
  }

  // z = x convolved with weights[0] and, if there are tangents, z' = x' weights[0] + x weights[1]. The
  // spectra of x and x' are left behind.
  DualTensor convolve(const DualTensor& x, const DualTensor& z, int64_t inputs, int64_t outputs,
                      const std::array<at::Tensor, 2>& weights, const DualTensor& spectrum) {
    const int64_t images = x.value.size(0);
    const Tiles all = tiles(images);
    const int64_t padded = padded_tiles(images);
    const int64_t blocks = padded / loops_.rows;
    const int64_t scratch_each = kPositions * rounded_up(kTilesAtATime, loops_.rows) * loops_.panel;
    T* scratch = numbers_of<T>(scratch_.numbers(2, scratch_each * at::get_num_threads()));
    const bool tangents = z.tangent.defined();
    const SpectralTerm<T> value[] = {{numbers_of<T>(spectrum.value), numbers_of<T>(weights[0])}};
    const SpectralTerm<T> tangent[] = {{numbers_of<T>(spectrum.tangent), numbers_of<T>(weights[0])},
                                       {numbers_of<T>(spectrum.value), numbers_of<T>(weights[1])}};
    clear_padding(spectrum.value, inputs, images);
    if (tangents) {
      clear_padding(spectrum.tangent, inputs, images);
    }
    const int64_t products = tangents ? 3 : 1;
    const int64_t panels = rounded_up(outputs, loops_.panel) / loops_.panel;
    const int64_t tiles_at_a_time = tangents ? kTilesAtATime / 2 : kTilesAtATime;
    in_parallel(blocks, products * loops_.rows * kPositions * inputs * outputs,
                [&](int64_t begin, int64_t end) {
                  T* own = scratch + scratch_each * at::get_thread_num();
                  const int64_t limit = std::min(end * loops_.rows, all.count());
                  for (int64_t first = begin * loops_.rows; first < limit; first += tiles_at_a_time) {
                    const int64_t last = std::min(first + tiles_at_a_time, limit);
                    loops_.transform_images(all, inputs, numbers_of<T>(x.value), first, last, padded,
                                            numbers_of<T>(spectrum.value));
                    if (tangents) {
                      loops_.transform_images(all, inputs, numbers_of<T>(x.tangent), first, last, padded,
                                              numbers_of<T>(spectrum.tangent));
                    }
                    // The value and the tangent in turn, so that a panel of the weights is fetched once for
                    // both.
                    for (int64_t panel = 0; panel < panels; ++panel) {
                      loops_.outputs(all, inputs, outputs, panel, value, 1, first, last, padded, own,
                                     numbers_of<T>(z.value));
                      if (tangents) {
                        loops_.outputs(all, inputs, outputs, panel, tangent, 2, first, last, padded, own,
                                       numbers_of<T>(z.tangent));
                      }
                    }
                  }
                });
    return z;
  }

  // The tiles that fill up the last block are zeros: a weight gradient sums over all tiles.
  void clear_padding(const at::Tensor& spectrum, int64_t channels, int64_t images) const {
    const int64_t count = tiles(images).count();
    const int64_t padded = padded_tiles(images);
    if (count == padded) {
      return;
    }
    const int64_t matrices = kPositions * rounded_up(channels, loops_.panel) / loops_.panel;
    T* numbers = numbers_of<T>(spectrum);
    for (int64_t matrix = 0; matrix < matrices; ++matrix) {
      T* row = numbers + (matrix * padded + count) * loops_.panel;
      std::fill(row, row + (padded - count) * loops_.panel, T(0));
    }
  }

  const T* transform(const at::Tensor& dz, int slot) {
    const at::Tensor spectrum = scratch_.numbers(slot, spectrum_size(shape_.outputs));
    const Tiles all = tiles(dz.size(0));
    const int64_t padded = padded_tiles(dz.size(0));
    in_parallel(all.count(), shape_.outputs * 32, [&](int64_t first, int64_t last) {
      loops_.transform_gradients(all, shape_.outputs, numbers_of<T>(dz), first, last, padded,
                                 numbers_of<T>(spectrum));
    });
    clear_padding(spectrum, shape_.outputs, dz.size(0));
    return numbers_of<T>(spectrum);
  }

  // Each position's sum is one thread's, so the order of the additions does not depend on their number.
  void add_terms(int64_t images, const std::array<GradientTerm<T>, 2>& terms, int count) {
    const int64_t padded = padded_tiles(images);
    const int64_t panels = rounded_up(shape_.outputs, loops_.panel) / loops_.panel;
    in_parallel(kPositions * panels, count * padded * shape_.inputs * loops_.panel,
                [&](int64_t begin, int64_t end) {
                  for (int64_t item = begin; item < end; ++item) {
                    const int64_t panel = item % panels;
                    loops_.weight_gradient(item / panels, shape_.inputs, shape_.outputs, terms.data(), count,
                                           panel, panel + 1, padded, numbers_of<T>(sums_));
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

// The first layer: few input channels, so each window is laid out as one row of 9 inputs numbers and the
// convolution is a matrix product. x has no tangent.
template <typename T>
class WindowConvolution final : public LinearMap {
 public:
  WindowConvolution(const ConvolutionShape& shape, at::TensorOptions options)
      : shape_(shape),
        options_(options),
        scratch_(options),
        depth_(9 * shape.inputs),
        window_row_(rounded_up(depth_, loops_.rows)),
        pixels_(shape.output_height() * shape.output_width()) {
    windows_ = at::zeros({rounded_up(shape_.images * pixels_, loops_.rows) * window_row_}, options);
    sums_ = at::zeros({shape_.images * sums_size()}, options);
    for (int each = 0; each < 2; ++each) {
      weights_[each] = at::zeros({rounded_up(shape_.outputs, loops_.panel) * depth_}, options);
      transposed_[each] = at::zeros({rounded_up(depth_, loops_.panel) * shape_.outputs}, options);
    }
  }

  void read_weights(const at::Tensor& weight, const at::Tensor& weight_tangent) override {
    read_one(weight, 0);
    if (weight_tangent.defined()) {
      read_one(weight_tangent, 1);
    }
  }

  at::Tensor forward(const at::Tensor& x, const at::Tensor& into) override {
    convolve(x, {into, {}});
    return into;
  }

  DualTensor forward_jvp(const DualTensor& x, const DualTensor& into) override {
    convolve(x.value, into);
    return into;
  }

  at::Tensor input_gradient(const at::Tensor& dz, const at::Tensor& into) override {
    spread({dz, {}}, {transposed_[0], {}}, into);
    return into;
  }

  DualTensor input_gradient_jvp(const DualTensor& dz, const DualTensor& into) override {
    spread({dz.value, dz.tangent}, {transposed_[1], transposed_[0]}, into.tangent);
    return {{}, into.tangent};
  }

  void add_weight_gradient(const at::Tensor& /*x*/, const at::Tensor& dz) override {
    // A sum of its own for each image of a slice, added up in order at the end.
    in_parallel(dz.size(0), pixels_ * depth_ * shape_.outputs, [&](int64_t first, int64_t last) {
      for (int64_t image = first; image < last; ++image) {
        loops_.transposed_product(pixels_, depth_, shape_.outputs,
                                  numbers_of<T>(windows_) + image * pixels_ * window_row_, window_row_,
                                  numbers_of<T>(dz) + image * pixels_ * shape_.outputs,
                                  numbers_of<T>(sums_) + image * sums_size());
      }
    });
  }

  void add_weight_gradient_jvp(const DualTensor& x, const DualTensor& dz) override {
    add_weight_gradient(x.value, dz.tangent);
  }

  void flush_weight_gradient(const at::Tensor& weight_gradient) override {
    T* sums = numbers_of<T>(sums_);
    for (int64_t image = 1; image < shape_.images; ++image) {
      for (int64_t each = 0; each < sums_size(); ++each) {
        sums[each] += sums[image * sums_size() + each];
      }
    }
    T* gradient = numbers_of<T>(weight_gradient);
    const int64_t row = rounded_up(shape_.outputs, loops_.panel);
    for (int64_t output = 0; output < shape_.outputs; ++output) {
      for (int64_t input = 0; input < shape_.inputs; ++input) {
        for (int64_t tap = 0; tap < 9; ++tap) {
          gradient[(output * shape_.inputs + input) * 9 + tap] =
              sums[(tap * shape_.inputs + input) * row + output];
        }
      }
    }
    sums_.zero_();
  }

  std::unique_ptr<LinearMap> with_shared_weights() const override {
    auto made = std::make_unique<WindowConvolution>(shape_, options_);
    made->weights_ = weights_;
    made->transposed_ = transposed_;
    return made;
  }

  at::Tensor weight_gradient_sum() const override { return sums_; }

 private:
  int64_t sums_size() const { return window_row_ * rounded_up(shape_.outputs, loops_.panel); }

  // weights [outputs, inputs, 3, 3] as a matrix of 9 inputs by outputs in panels of outputs, and its
  // transpose in panels of windows.
  void read_one(const at::Tensor& weight, int which) {
    const T* from = weight.const_data_ptr<T>();
    T* by_output = numbers_of<T>(weights_[which]);
    T* by_window = numbers_of<T>(transposed_[which]);
    const int64_t panel = loops_.panel;
    for (int64_t output = 0; output < shape_.outputs; ++output) {
      for (int64_t input = 0; input < shape_.inputs; ++input) {
        for (int64_t tap = 0; tap < 9; ++tap) {
          const int64_t k = tap * shape_.inputs + input;
          const T number = from[(output * shape_.inputs + input) * 9 + tap];
          by_output[(output / panel * depth_ + k) * panel + output % panel] = number;
          by_window[(k / panel * shape_.outputs + output) * panel + k % panel] = number;
        }
      }
    }
  }

  void convolve(const at::Tensor& x, const DualTensor& z) {
    const T* images = numbers_of<T>(x);
    T* windows = numbers_of<T>(windows_);
    in_parallel(x.size(0), pixels_ * depth_ * shape_.outputs, [&](int64_t first, int64_t last) {
      for (int64_t image = first; image < last; ++image) {
        T* rows = windows + image * pixels_ * window_row_;
        unroll(images + image * shape_.height * shape_.width * shape_.inputs, rows);
        multiply(rows, weights_[0], image, z.value);
        if (z.tangent.defined()) {
          multiply(rows, weights_[1], image, z.tangent);
        }
      }
    });
  }

  void multiply(const T* windows, const at::Tensor& weights, int64_t image, const at::Tensor& z) const {
    const T* right = numbers_of<T>(weights);
    loops_.product(pixels_, shape_.outputs, depth_, &windows, window_row_, &right, 1,
                   numbers_of<T>(z) + image * pixels_ * shape_.outputs, shape_.outputs);
  }

  // The windows of one image, a row for each output pixel.
  void unroll(const T* image, T* rows) const {
    const int64_t inputs = shape_.inputs;
    for (int64_t y = 0; y < shape_.output_height(); ++y) {
      for (int64_t x = 0; x < shape_.output_width(); ++x, rows += window_row_) {
        for (int64_t tap = 0; tap < 9; ++tap) {
          const int64_t row = y + tap / 3 - shape_.padding;
          const int64_t column = x + tap % 3 - shape_.padding;
          const bool inside = row >= 0 && row < shape_.height && column >= 0 && column < shape_.width;
          for (int64_t input = 0; input < inputs; ++input) {
            rows[tap * inputs + input] =
                inside ? image[(row * shape_.width + column) * inputs + input] : T(0);
          }
        }
      }
    }
  }

  // dx = the sum over terms of dz weights, each window's numbers added to the pixels that they came from.
  void spread(const std::array<at::Tensor, 2>& dz, const std::array<at::Tensor, 2>& weights,
              const at::Tensor& dx) {
    const int64_t images = dz[0].size(0);
    const int terms = dz[1].defined() ? 2 : 1;
    const int64_t size_each = pixels_ * depth_;
    T* scratch = numbers_of<T>(scratch_.numbers(2, size_each * at::get_num_threads()));
    const int64_t input_size = shape_.height * shape_.width * shape_.inputs;
    in_parallel(images, terms * pixels_ * depth_ * shape_.outputs, [&](int64_t first, int64_t last) {
      T* windows = scratch + size_each * at::get_thread_num();
      for (int64_t image = first; image < last; ++image) {
        const int64_t offset = image * pixels_ * shape_.outputs;
        const T* lefts[2] = {numbers_of<T>(dz[0]) + offset,
                             terms == 2 ? numbers_of<T>(dz[1]) + offset : nullptr};
        const T* rights[2] = {numbers_of<T>(weights[0]), numbers_of<T>(weights[1])};
        loops_.product(pixels_, depth_, shape_.outputs, lefts, shape_.outputs, rights, terms, windows,
                       depth_);
        T* pixels = numbers_of<T>(dx) + image * input_size;
        std::fill(pixels, pixels + input_size, T(0));
        gather(windows, pixels);
      }
    });
  }

  void gather(const T* rows, T* image) const {
    const int64_t inputs = shape_.inputs;
    for (int64_t y = 0; y < shape_.output_height(); ++y) {
      for (int64_t x = 0; x < shape_.output_width(); ++x, rows += depth_) {
        for (int64_t tap = 0; tap < 9; ++tap) {
          const int64_t row = y + tap / 3 - shape_.padding;
          const int64_t column = x + tap % 3 - shape_.padding;
          if (row >= 0 && row < shape_.height && column >= 0 && column < shape_.width) {
            for (int64_t input = 0; input < inputs; ++input) {
              image[(row * shape_.width + column) * inputs + input] += rows[tap * inputs + input];
            }
          }
        }
      }
    }
  }

  const ConvolutionLoops<T>& loops_ = cpu::convolution_loops<T>();
  ConvolutionShape shape_;
  at::TensorOptions options_;
  Scratch scratch_;
  int64_t depth_;                         // numbers in a window
  int64_t window_row_;                    // the same, filled up to whole blocks with zeros
  int64_t pixels_;                        // of an output plane
  at::Tensor windows_;                    // [images, pixels, window_row]
  at::Tensor sums_;                       // [images, window_row, outputs filled up to panels]
  std::array<at::Tensor, 2> weights_;     // [panels of outputs, depth, panel], and of the tangents
  std::array<at::Tensor, 2> transposed_;  // [panels of depth, outputs, panel], and of the tangents
};

}  // namespace

std::unique_ptr<LinearMap> cpu_convolution(const ConvolutionShape& shape, at::TensorOptions options) {
  std::unique_ptr<LinearMap> made;
  AT_DISPATCH_FLOATING_TYPES(c10::typeMetaToScalarType(options.dtype()), "pydistill::convolution", [&] {
    if (shape.first) {
      made = std::make_unique<WindowConvolution<scalar_t>>(shape, options);
    } else {
      made = std::make_unique<WinogradConvolution<scalar_t>>(shape, options);
    }
  });
  return made;
}

}  // namespace pydistill::engine
