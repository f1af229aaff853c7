// The sizes of a student: where its parameters lie in the flat vector, and what its blocks make of one image.
// Numbers alone, no memory.
//
// Parameters, in order: of each block the weight, the bias, and with a norm its weight and bias; last the
// classifier's weight and bias. Before an instance norm the bias has gradient exactly 0, since the norm
// removes it.
#pragma once

#include <cstdint>
#include <vector>

#include "architecture.h"
#include "linear_map.h"

namespace pydistill::engine {

// The planes of one image.
struct Planes {
  int64_t channels = 0;
  int64_t height = 0;
  int64_t width = 0;

  int64_t numel() const { return channels * height * width; }
};

// A parameter's place in the flat vector; without a shape, the student does not have it.
struct ParameterLayout {
  int64_t offset = 0;
  std::vector<int64_t> shape;
};

struct BlockLayout {
  kernels::NormActPoolSettings settings;
  ConvolutionShape map;  // of an MLP's layer: its inputs, outputs, height and width
  ParameterLayout weight;
  ParameterLayout bias;
  ParameterLayout norm_weight;
  ParameterLayout norm_bias;
  Planes z;    // after the linear map
  Planes out;  // after norm, activation and pooling
};

struct StudentLayout {
  explicit StudentLayout(const Architecture& architecture);

  // Memory that the adjoint pass touches for one image.
  int64_t bytes_per_image(int64_t itemsize) const;
  // Whether more than one thread of a CPU saves time on a batch of so many images.
  bool gains_from_threads(int64_t images) const;

  Architecture architecture;
  std::vector<BlockLayout> blocks;
  Planes features;  // what the classifier reads
  ParameterLayout head_weight;
  ParameterLayout head_bias;
  int64_t parameter_count = 0;  // P

 private:
  void add(ParameterLayout& parameter, std::vector<int64_t> shape);
};

}  // namespace pydistill::engine
