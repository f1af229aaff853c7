// A student's network: a ConvNet or an MLP of pydistill.nn, and the shape of its images.
#pragma once

#include <cstdint>

#include "../kernels/norm_act_pool.h"

namespace pydistill::engine {

struct Architecture {
  bool convolutional;  // else an MLP
  int64_t channels;    // of the images
  int64_t height;
  int64_t width;
  int64_t classes;
  int64_t units;  // channels of every block, or hidden units of every layer
  int64_t depth;  // blocks, or linear layers with the last
  kernels::Norm norm;
  kernels::Pooling pooling;
  double eps;             // of the norm
  int64_t first_padding;  // rings of zeros around the image in the first convolution
};

}  // namespace pydistill::engine
