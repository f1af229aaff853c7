// The linear part of a block: z = w x, a convolution or a matrix product, with its gradients and the tangents
// of both. A student is a chain of linear maps with norm, activation and pooling after them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>

namespace pydistill::engine {

struct DualTensor {
  at::Tensor value;
  at::Tensor tangent;
};

// Takes a slice of a batch: x [n, inputs, ...] and z [n, outputs, ...], channels-last in memory. A tangent is
// the derivative of its value in the direction of the tangents of (weight, x); dz is the gradient of the loss
// in z.
//
// A pass returns its result in the memory `into`, or in memory that it allocates.
class LinearMap {
 public:
  virtual ~LinearMap() = default;

  // Whether results lie in `into`.
  virtual bool writes_in_place() const { return true; }

  // Reads the weights, and their tangents if a pass with tangents follows (else undefined). Called once a
  // step.
  virtual void read_weights(const at::Tensor& weight, const at::Tensor& weight_tangent) = 0;

  // z = w x
  virtual at::Tensor forward(const at::Tensor& x, const at::Tensor& into) = 0;
  // z and z' = w x' + w' x; x' undefined stands for zero.
  virtual DualTensor forward_jvp(const DualTensor& x, const DualTensor& into) = 0;

  // dx = transpose(w) dz
  virtual at::Tensor input_gradient(const at::Tensor& dz, const at::Tensor& into) = 0;
  // dx and dx' = transpose(w) dz' + transpose(w') dz; of the first map, whose x are the images, only dx'.
  virtual DualTensor input_gradient_jvp(const DualTensor& dz, const DualTensor& into) = 0;

  // Adds dz transpose(x) to the sum over slices; x is that of the last forward pass.
  virtual void add_weight_gradient(const at::Tensor& x, const at::Tensor& dz) = 0;
  // Adds dz' transpose(x) + dz transpose(x').
  virtual void add_weight_gradient_jvp(const DualTensor& x, const DualTensor& dz) = 0;
  // Writes the sum to weight_gradient, in the layout of the weights, and sets it to zero.
  virtual void flush_weight_gradient(const at::Tensor& weight_gradient) = 0;

  // A map that multiplies by the weights that this one reads, with its own memory and its own sum.
  virtual std::unique_ptr<LinearMap> with_shared_weights() const = 0;
  // The sum so far, in the map's internal layout, which maps with shared weights have in common.
  virtual at::Tensor weight_gradient_sum() const = 0;
};

struct ConvolutionShape {
  int64_t inputs;
  int64_t outputs;
  int64_t height;  // of x
  int64_t width;
  int64_t padding;  // rings of zeros around x
  int64_t images;   // at most, in a slice
  bool first;  // x are the images: they have no tangent, and only the tangent of their gradient is computed

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
