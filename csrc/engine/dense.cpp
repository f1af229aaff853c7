#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "linear_map.h"

namespace pydistill::engine {
namespace {

class Dense final : public LinearMap {
 public:
  Dense(int64_t channels, int64_t pixels, int64_t outputs, at::TensorOptions options)
      : channels_(channels), pixels_(pixels), outputs_(outputs) {
    weight_ = at::empty({outputs, pixels * channels}, options);
    weight_tangent_ = at::empty_like(weight_);
    sum_ = at::zeros({outputs, pixels * channels}, options);
  }

  void read_weights(const at::Tensor& weight, const at::Tensor& weight_tangent) override {
    by_pixel(weight_).copy_(by_channel(weight));
    if (weight_tangent.defined()) {
      by_pixel(weight_tangent_).copy_(by_channel(weight_tangent));
    }
  }

  at::Tensor forward(const at::Tensor& x, const at::Tensor& into) override {
    multiply(into, x, weight_.t());
    return into;
  }

  DualTensor forward_jvp(const DualTensor& x, const DualTensor& into) override {
    forward(x.value, into.value);
    if (x.tangent.defined()) {
      multiply(into.tangent, x.value, weight_tangent_.t(), x.tangent, weight_.t());
    } else {
      multiply(into.tangent, x.value, weight_tangent_.t());
    }
    return into;
  }

  at::Tensor input_gradient(const at::Tensor& dz, const at::Tensor& into) override {
    multiply(into, dz, weight_);
    return into;
  }

  DualTensor input_gradient_jvp(const DualTensor& dz, const DualTensor& into) override {
    if (into.value.defined()) {
      input_gradient(dz.value, into.value);
    }
    multiply(into.tangent, dz.tangent, weight_, dz.value, weight_tangent_);
    return into;
  }

  void add_weight_gradient(const at::Tensor& x, const at::Tensor& dz) override {
    sum_.addmm_(rows(dz).t(), rows(x));
  }

  void add_weight_gradient_jvp(const DualTensor& x, const DualTensor& dz) override {
    add_weight_gradient(x.value, dz.tangent);
    if (x.tangent.defined()) {
      add_weight_gradient(x.tangent, dz.value);
    }
  }

  void flush_weight_gradient(const at::Tensor& weight_gradient) override {
    by_channel(weight_gradient).copy_(by_pixel(sum_));
    sum_.zero_();
  }

  std::unique_ptr<LinearMap> with_shared_weights() const override {
    auto map = std::make_unique<Dense>(channels_, pixels_, outputs_, sum_.options());
    map->weight_ = weight_;
    map->weight_tangent_ = weight_tangent_;
    return map;
  }

  at::Tensor weight_gradient_sum() const override { return sum_; }

 private:
  // Channels-last memory as a matrix [n, pixels * channels].
  static at::Tensor rows(const at::Tensor& x) {
    return x.dim() == 2 ? x : x.permute({0, 2, 3, 1}).view({x.size(0), -1});
  }

  // into = x w, or x w + more more_w.
  void multiply(const at::Tensor& into, const at::Tensor& x, const at::Tensor& w, const at::Tensor& more = {},
                const at::Tensor& more_w = {}) const {
    at::Tensor product = rows(into);
    at::mm_out(product, rows(x), w);
    if (more.defined()) {
      product.addmm_(rows(more), more_w);
    }
  }

  at::Tensor by_pixel(const at::Tensor& weight) const { return weight.view({outputs_, pixels_, channels_}); }
  at::Tensor by_channel(const at::Tensor& weight) const {
    return weight.view({outputs_, channels_, pixels_}).transpose(1, 2);
  }

  int64_t channels_;
  int64_t pixels_;
  int64_t outputs_;
  at::Tensor weight_;  // [outputs, pixels * channels]
  at::Tensor weight_tangent_;
  at::Tensor sum_;
};

}  // namespace

std::unique_ptr<LinearMap> dense(int64_t channels, int64_t pixels, int64_t outputs,
                                 at::TensorOptions options) {
  return std::make_unique<Dense>(channels, pixels, outputs, options);
}

}  // namespace pydistill::engine
