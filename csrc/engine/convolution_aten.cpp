#include <ATen/ops/cat.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/empty.h>

#include <array>
#include <tuple>
#include <vector>

#include "linear_map.h"

namespace pydistill::engine {
namespace {

// `first` and `second` as one batch: without a copy if they are adjacent in memory.
at::Tensor as_one_batch(const at::Tensor& first, const at::Tensor& second) {
  const bool adjacent = first.is_alias_of(second) && first.strides() == second.strides() &&
                        second.storage_offset() == first.storage_offset() + first.size(0) * first.stride(0);
  if (!adjacent) {
    return at::cat({first, second});
  }
  std::vector<int64_t> sizes = first.sizes().vec();
  sizes[0] *= 2;
  return first.as_strided(sizes, first.strides());
}

class AtenConvolution final : public LinearMap {
 public:
  AtenConvolution(const ConvolutionShape& shape, at::TensorOptions options)
      : shape_(shape), options_(options) {
    const std::array<int64_t, 4> sizes = {shape.outputs, shape.inputs, 3, 3};
    weight_ = at::empty(sizes, options, at::MemoryFormat::ChannelsLast);
    weight_tangent_ = at::empty(sizes, options, at::MemoryFormat::ChannelsLast);
  }

  bool writes_in_place() const override { return false; }

  void read_weights(const at::Tensor& weight, const at::Tensor& weight_tangent) override {
    weight_.copy_(weight);
    if (weight_tangent.defined()) {
      weight_tangent_.copy_(weight_tangent);
    }
  }

  at::Tensor forward(const at::Tensor& x, const at::Tensor& /*into*/) override {
    return convolve(x, weight_);
  }

  DualTensor forward_jvp(const DualTensor& x, const DualTensor& /*into*/) override {
    if (!x.tangent.defined()) {
      return {convolve(x.value, weight_), convolve(x.value, weight_tangent_)};
    }
    const at::Tensor both = convolve(as_one_batch(x.value, x.tangent), weight_);
    const int64_t count = x.value.size(0);
    return {both.narrow(0, 0, count), both.narrow(0, count, count).add_(convolve(x.value, weight_tangent_))};
  }

  at::Tensor input_gradient(const at::Tensor& dz, const at::Tensor& /*into*/) override {
    return convolve(dz, weight_, true);
  }

  // In memory the tangent comes first, to match (x, x') in add_weight_gradient_jvp.
  DualTensor input_gradient_jvp(const DualTensor& dz, const DualTensor& /*into*/) override {
    if (shape_.first) {
      return {{}, convolve(dz.tangent, weight_, true).add_(convolve(dz.value, weight_tangent_, true))};
    }
    const int64_t count = dz.value.size(0);
    const at::Tensor both = convolve(as_one_batch(dz.tangent, dz.value), weight_, true);
    return {both.narrow(0, count, count),
            both.narrow(0, 0, count).add_(convolve(dz.value, weight_tangent_, true))};
  }

  void add_weight_gradient(const at::Tensor& x, const at::Tensor& dz) override {
    add(weight_gradient(x, dz));
  }

  void add_weight_gradient_jvp(const DualTensor& x, const DualTensor& dz) override {
    if (!x.tangent.defined()) {
      add(weight_gradient(x.value, dz.tangent));
      return;
    }
    add(weight_gradient(as_one_batch(x.value, x.tangent), as_one_batch(dz.tangent, dz.value)));
  }

  void flush_weight_gradient(const at::Tensor& weight_gradient) override {
    if (sum_.defined()) {
      weight_gradient.copy_(sum_);
      sum_.reset();
    }
  }

  std::unique_ptr<LinearMap> with_shared_weights() const override {
    auto map = std::make_unique<AtenConvolution>(shape_, options_);
    map->weight_ = weight_;
    map->weight_tangent_ = weight_tangent_;
    return map;
  }

  at::Tensor weight_gradient_sum() const override { return sum_; }

 private:
  // The convolution of x, or its transpose, which is the gradient in the input. Not every library behind ATen
  // returns channels-last memory (on a GPU, in float64, it does not).
  at::Tensor convolve(const at::Tensor& x, const at::Tensor& weight, bool transposed = false) const {
    const std::array<int64_t, 2> padding = {shape_.padding, shape_.padding};
    return at::convolution(x, weight, {}, {1, 1}, padding, {1, 1}, transposed, {0, 0}, 1)
        .contiguous(at::MemoryFormat::ChannelsLast);
  }

  at::Tensor weight_gradient(const at::Tensor& x, const at::Tensor& dz) const {
    return std::get<1>(at::convolution_backward(dz, x, weight_, c10::nullopt, {1, 1},
                                                {shape_.padding, shape_.padding}, {1, 1}, false, {0, 0}, 1,
                                                {false, true, false}));
  }

  void add(const at::Tensor& gradient) {
    if (sum_.defined()) {
      sum_.add_(gradient);
    } else {
      sum_ = gradient;
    }
  }

  ConvolutionShape shape_;
  at::TensorOptions options_;
  at::Tensor weight_;
  at::Tensor weight_tangent_;
  at::Tensor sum_;
};

}  // namespace

std::unique_ptr<LinearMap> aten_convolution(const ConvolutionShape& shape, at::TensorOptions options) {
  return std::make_unique<AtenConvolution>(shape, options);
}

}  // namespace pydistill::engine
