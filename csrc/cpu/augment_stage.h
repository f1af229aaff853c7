// One operation of an augmentation (kernels/augment.h says what such a struct offers) on a whole image, on
// one thread. No torch here, so that the host tests run it as it is.
#pragma once

#include <cstdint>

#include "../kernels/augment.h"

namespace pydistill::cpu {

// The engine of kernels::AugmentImage on one thread.
template <typename scalar_t>
struct AugmentStage {
  kernels::ImageSize size;

  void meet() const {}

  template <bool kTranspose, typename Operation, typename Write>
  void stage(const Operation& operation, const kernels::Image<const scalar_t>& from,
             const Write& write) const {
    scalar_t mean = 0;
    if constexpr (Operation::kNeedsMean) {
      mean = mean_of(from);
    }
    for (int64_t row = 0; row < size.height; ++row) {
      for (int64_t column = 0; column < size.width; ++column) {
        operation.template pixel<kTranspose>(from, mean, row, column, write);
      }
    }
  }

 private:
  scalar_t mean_of(const kernels::Image<const scalar_t>& from) const {
    double sum = 0;
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      for (int64_t row = 0; row < size.height; ++row) {
        for (int64_t column = 0; column < size.width; ++column) {
          sum += static_cast<double>(from.at(channel, row, column));
        }
      }
    }
    return static_cast<scalar_t>(sum / static_cast<double>(size.numbers()));
  }
};

}  // namespace pydistill::cpu
