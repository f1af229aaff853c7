// The first layer's 3x3 convolution on the CPU, by unrolled windows.
#include <ATen/Dispatch.h>
#include <ATen/ops/zeros.h>

#include <array>

#include "../cpu/simd/convolution.h"
#include "convolution_cpu.h"

namespace pydistill::engine {
namespace {

using cpu::ConvolutionLoops;

// The first layer: few input channels, so a window is unrolled into a row of 9 * inputs numbers and the
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
    for (int i = 0; i < 2; ++i) {
      weights_[i] = at::zeros({rounded_up(shape_.outputs, loops_.panel) * depth_}, options);
      transposed_[i] = at::zeros({rounded_up(depth_, loops_.panel) * shape_.outputs}, options);
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
    // One sum per image of the slice; flush_weight_gradient adds them up in order.
    in_parallel(dz.size(0), pixels_ * depth_ * shape_.outputs, [&](int64_t first, int64_t last) {
      for (int64_t image = first; image < last; ++image) {
        loops_.transposed_product(pixels_, depth_, shape_.outputs,
                                  data_of<T>(windows_) + image * pixels_ * window_row_, window_row_,
                                  data_of<T>(dz) + image * pixels_ * shape_.outputs,
                                  data_of<T>(sums_) + image * sums_size());
      }
    });
  }

  void add_weight_gradient_jvp(const DualTensor& x, const DualTensor& dz) override {
    add_weight_gradient(x.value, dz.tangent);
  }

  void flush_weight_gradient(const at::Tensor& weight_gradient) override {
    T* sums = data_of<T>(sums_);
    for (int64_t image = 1; image < shape_.images; ++image) {
      for (int64_t i = 0; i < sums_size(); ++i) {
        sums[i] += sums[image * sums_size() + i];
      }
    }
    T* gradient = data_of<T>(weight_gradient);
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
    auto map = std::make_unique<WindowConvolution>(shape_, options_);
    map->weights_ = weights_;
    map->transposed_ = transposed_;
    return map;
  }

  at::Tensor weight_gradient_sum() const override { return sums_; }

 private:
  int64_t sums_size() const { return window_row_ * rounded_up(shape_.outputs, loops_.panel); }

  // weights [outputs, inputs, 3, 3] as a matrix of 9 inputs by outputs in panels of outputs, and its
  // transpose in panels of windows.
  void read_one(const at::Tensor& weight, int which) {
    const T* from = weight.const_data_ptr<T>();
    T* by_output = data_of<T>(weights_[which]);
    T* by_window = data_of<T>(transposed_[which]);
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
    const T* images = data_of<T>(x);
    T* windows = data_of<T>(windows_);
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
    const T* right = data_of<T>(weights);
    loops_.product(pixels_, shape_.outputs, depth_, &windows, window_row_, &right, 1,
                   data_of<T>(z) + image * pixels_ * shape_.outputs, shape_.outputs);
  }

  // Calls visit(pixel, tap, offset) for the nine taps of every output pixel's window; the offset of the tap's
  // pixel in the image is -1 where it lies outside.
  template <typename Visit>
  void for_each_tap(const Visit& visit) const {
    int64_t pixel = 0;
    for (int64_t y = 0; y < shape_.output_height(); ++y) {
      for (int64_t x = 0; x < shape_.output_width(); ++x, ++pixel) {
        for (int64_t tap = 0; tap < 9; ++tap) {
          const int64_t row = y + tap / 3 - shape_.padding;
          const int64_t column = x + tap % 3 - shape_.padding;
          const bool inside = row >= 0 && row < shape_.height && column >= 0 && column < shape_.width;
          visit(pixel, tap, inside ? (row * shape_.width + column) * shape_.inputs : -1);
        }
      }
    }
  }

  // The windows of one image, one row per output pixel.
  void unroll(const T* image, T* rows) const {
    const int64_t inputs = shape_.inputs;
    for_each_tap([=, row = window_row_](int64_t pixel, int64_t tap, int64_t offset) {
      T* const window = rows + pixel * row + tap * inputs;
      for (int64_t input = 0; input < inputs; ++input) {
        window[input] = offset >= 0 ? image[offset + input] : T(0);
      }
    });
  }

  // dx = the sum over terms of dz weights: the numbers of a window are added to the pixels that they came
  // from.
  void spread(const std::array<at::Tensor, 2>& dz, const std::array<at::Tensor, 2>& weights,
              const at::Tensor& dx) {
    const int64_t images = dz[0].size(0);
    const int terms = dz[1].defined() ? 2 : 1;
    const int64_t size_each = pixels_ * depth_;
    T* scratch = data_of<T>(scratch_.buffer(2, size_each * at::get_num_threads()));
    const int64_t input_size = shape_.height * shape_.width * shape_.inputs;
    in_parallel(images, terms * pixels_ * depth_ * shape_.outputs, [&](int64_t first, int64_t last) {
      T* windows = scratch + size_each * at::get_thread_num();
      for (int64_t image = first; image < last; ++image) {
        const int64_t offset = image * pixels_ * shape_.outputs;
        const T* lefts[2] = {data_of<T>(dz[0]) + offset, terms == 2 ? data_of<T>(dz[1]) + offset : nullptr};
        const T* rights[2] = {data_of<T>(weights[0]), data_of<T>(weights[1])};
        loops_.product(pixels_, depth_, shape_.outputs, lefts, shape_.outputs, rights, terms, windows,
                       depth_);
        T* pixels = data_of<T>(dx) + image * input_size;
        std::fill(pixels, pixels + input_size, T(0));
        gather(windows, pixels);
      }
    });
  }

  void gather(const T* rows, T* image) const {
    const int64_t inputs = shape_.inputs;
    for_each_tap([=, row = depth_](int64_t pixel, int64_t tap, int64_t offset) {
      const T* const window = rows + pixel * row + tap * inputs;
      for (int64_t input = 0; offset >= 0 && input < inputs; ++input) {
        image[offset + input] += window[input];
      }
    });
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

std::unique_ptr<LinearMap> window_convolution(const ConvolutionShape& shape, at::TensorOptions options) {
  std::unique_ptr<LinearMap> map;
  AT_DISPATCH_FLOATING_TYPES(c10::typeMetaToScalarType(options.dtype()), "pydistill::window_convolution",
                             [&] { map = std::make_unique<WindowConvolution<scalar_t>>(shape, options); });
  return map;
}

}  // namespace pydistill::engine
