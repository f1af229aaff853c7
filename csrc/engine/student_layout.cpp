#include "student_layout.h"

#include <c10/util/accumulate.h>

#include <algorithm>
#include <utility>

namespace pydistill::engine {
namespace {

using kernels::Norm;
using kernels::Pooling;

// Of a forward pass, in the linear maps.
constexpr int64_t kMinMultiplicationsForThreads = 16'000'000;

int64_t pooled(int64_t side, Pooling pooling) { return pooling == Pooling::kNone ? side : side / 2; }

}  // namespace

StudentLayout::StudentLayout(const Architecture& a) : architecture(a) {
  int64_t channels = a.channels;
  int64_t height = a.height;
  int64_t width = a.width;
  blocks.resize(static_cast<size_t>(a.convolutional ? a.depth : a.depth - 1));
  for (BlockLayout& block : blocks) {
    block.settings = {a.convolutional ? a.norm : Norm::kNone, a.convolutional ? a.pooling : Pooling::kNone,
                      a.eps};
    if (a.convolutional) {
      const bool first = &block == &blocks.front();
      block.map = {channels, a.units, height, width, first ? a.first_padding : 1, 0, first};
      add(block.weight, {a.units, channels, 3, 3});
      height = block.map.output_height();
      width = block.map.output_width();
    } else {
      block.map = {channels, a.units, height, width, 0, 0, false};
      add(block.weight, {a.units, channels * height * width});
      height = width = 1;
    }
    add(block.bias, {a.units});
    if (block.settings.norm == Norm::kInstance) {
      add(block.norm_weight, {a.units});
      add(block.norm_bias, {a.units});
    }
    block.z = {a.units, height, width};
    height = pooled(height, block.settings.pooling);
    width = pooled(width, block.settings.pooling);
    block.out = {a.units, height, width};
    channels = a.units;
  }
  features = {channels, height, width};
  add(head_weight, {a.classes, features.numel()});
  add(head_bias, {a.classes});
}

void StudentLayout::add(ParameterLayout& parameter, std::vector<int64_t> shape) {
  parameter.offset = parameter_count;
  parameter_count += c10::multiply_integers(shape);
  parameter.shape = std::move(shape);
}

// Values, tangents and gradients of every block, and the spectra of its convolution (four numbers for each of
// its inputs and outputs).
int64_t StudentLayout::bytes_per_image(int64_t itemsize) const {
  int64_t numel = architecture.channels * architecture.height * architecture.width;
  if (architecture.convolutional) {
    numel += 9 * architecture.channels * blocks.front().z.height * blocks.front().z.width;
  }
  int64_t largest = 0;
  for (const BlockLayout& block : blocks) {
    const int64_t z = block.z.numel();
    const bool spectra = architecture.convolutional && &block != &blocks.front();
    numel += 2 * z + 2 * block.out.numel() + (spectra ? 8 * z : 0);
    largest = std::max(largest, 2 * z + (spectra ? 8 * z : 0));
  }
  return (numel + largest) * itemsize;
}

bool StudentLayout::gains_from_threads(int64_t images) const {
  int64_t multiplications = features.numel() * architecture.classes;
  for (const BlockLayout& block : blocks) {
    multiplications += block.z.height * block.z.width * c10::multiply_integers(block.weight.shape);
  }
  return multiplications * images >= kMinMultiplicationsForThreads;
}

}  // namespace pydistill::engine
