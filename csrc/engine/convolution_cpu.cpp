#include "convolution_cpu.h"

namespace pydistill::engine {

std::unique_ptr<LinearMap> cpu_convolution(const ConvolutionShape& shape, at::TensorOptions options) {
  return shape.first ? window_convolution(shape, options) : winograd_convolution(shape, options);
}

}  // namespace pydistill::engine
