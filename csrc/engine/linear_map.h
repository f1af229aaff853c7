// The part of a block that multiplies: z = w x, a convolution or a matrix product, with its gradients and
// with the tangents of both. A student is a chain of linear maps, each followed by norm, activation and
// pooling.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

namespace pydistill::engine {

struct DualTensor {
  at::Tensor value;
  at::Tensor tangent;
};

// Works on a batch, or on a slice of one: x [n, inputs, ...] and z [n, outputs, ...], channels-last in
// memory. A tangent is the derivative of its value along (weight, x) in the direction of their tangents; dz
// stands for the gradient of the loss in z.
//
// A pass is given memory for its result, `into`, and returns the result: there, or in memory of its own.
class LinearMap {
 public:
  virtual ~LinearMap() = default;

  // Whether results lie in the memory given for them.
  virtual bool writes_in_place() const { return true; }

  // Reads the weights, and their tangents where a pass with tangents follows (else undefined): once a step.
  virtual void read_weights(const at::Tensor& weight, const at::Tensor& weight_tangent) = 0;

  // z = w x
  virtual at::Tensor forward(const at::Tensor& x, const at::Tensor& into) = 0;
  // z and z' = w x' + w' x; x' undefined stands for zero.
  virtual DualTensor forward_jvp(const DualTensor& x, const DualTensor& into) = 0;

  // dx = transpose(w) dz
  virtual at::Tensor input_gradient(const at::Tensor& dz, const at::Tensor& into) = 0;
  // dx and dx' = transpose(w) dz' + transpose(w') dz; for the images only dx'.
  virtual DualTensor input_gradient_jvp(const DualTensor& dz, const DualTensor& into) = 0;

  // Adds dz transpose(x) to the sum over slices; x is that of the last forward pass.
  virtual void add_weight_gradient(const at::Tensor& x, const at::Tensor& dz) = 0;
  // Adds dz' transpose(x) + dz transpose(x').
  virtual void add_weight_gradient_jvp(const DualTensor& x, const DualTensor& dz) = 0;
  // Writes the sum, in the layout of the weights, and starts a new one.
  virtual void flush_weight_gradient(const at::Tensor& weight_gradient) = 0;

  // Another map that multiplies by the weights that this one reads, with memory and a sum of its own.
  virtual std::unique_ptr<LinearMap> with_shared_weights() const = 0;
  // The sum so far, in a layout of the map's own; adding a sibling's to it adds what that has summed.
  virtual at::Tensor weight_gradient_sum() const = 0;
};

struct ConvolutionShape {
  int64_t inputs;
  int64_t outputs;
  int64_t height;  // of x
  int64_t width;
  int64_t padding;  // rings of zeros around x
  int64_t images;   // at most, in a slice
  bool first;  // x are the images: they have no tangent, and only the tangent of their gradient is wanted

  int64_t output_height() const { return height + 2 * padding - 2; }
  int64_t output_width() const { return width + 2 * padding - 2; }
};

// 3x3 convolutions over the CPU's vector registers: the first layer by unrolled windows, the others by
// Winograd's minimal filtering.
std::unique_ptr<LinearMap> cpu_convolution(const ConvolutionShape& shape, at::TensorOptions options);

// 3x3 convolutions by ATen, on any device.
std::unique_ptr<LinearMap> aten_convolution(const ConvolutionShape& shape, at::TensorOptions options);

// A matrix product by ATen. The inputs are `channels` planes of `pixels`, counted plane by plane in the
// weights [outputs, channels * pixels] and channels-last in x.
std::unique_ptr<LinearMap> dense(int64_t channels, int64_t pixels, int64_t outputs,
                                 at::TensorOptions options);

}  // namespace pydistill::engine
