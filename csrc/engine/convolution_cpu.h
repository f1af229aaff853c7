// What the CPU's two convolutions share.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cstdint>
#include <memory>

#include "linear_map.h"

namespace pydistill::engine {

// The first layer, by unrolled windows (convolution_windows.cpp), and the others, by Winograd's minimal
// filtering (convolution_winograd.cpp).
std::unique_ptr<LinearMap> window_convolution(const ConvolutionShape& shape, at::TensorOptions options);
std::unique_ptr<LinearMap> winograd_convolution(const ConvolutionShape& shape, at::TensorOptions options);

// Multiplications that are worth one more thread.
constexpr int64_t kMinMultiplicationsPerThread = 1'000'000;

inline int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Runs work(first, last) over [0, count) on as many threads as are worth starting.
template <typename Work>
void in_parallel(int64_t count, int64_t multiplications_each, const Work& work) {
  const int64_t grain =
      std::max<int64_t>(1, kMinMultiplicationsPerThread / std::max<int64_t>(1, multiplications_each));
  at::parallel_for(0, count, grain, work);
}

// The address of a tensor's elements; null if it is undefined.
template <typename T>
T* data_of(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr<T>() : nullptr;
}

// Temporary memory. It grows and never shrinks.
class Scratch {
 public:
  explicit Scratch(at::TensorOptions options) : options_(options) {}

  // One dimension of at least `numel` undefined values; the same memory for the same `slot`.
  at::Tensor buffer(int slot, int64_t numel) {
    at::Tensor& memory = slots_[slot];
    if (!memory.defined() || memory.numel() < numel) {
      memory = at::empty({numel}, options_);
    }
    return memory;
  }

 private:
  static constexpr int kSlots = 3;
  at::TensorOptions options_;
  at::Tensor slots_[kSlots];
};

}  // namespace pydistill::engine
