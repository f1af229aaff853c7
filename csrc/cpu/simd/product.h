// A block of a matrix product in registers: kRows rows by one panel of kPanel columns.
//
// The right-hand matrix is read panel by panel, [panels][k][kPanel], so that a block reads it without gaps;
// the left-hand one by any two strides, so that the same block serves x w, x w' and x' y.
#pragma once

#include "lanes.h"

namespace pydistill::cpu::PYDISTILL_ISA {

// Rows of a block: with two vectors a row, its accumulators and what it multiplies fit in the registers.
constexpr int kRows = PYDISTILL_VECTOR_BYTES == 64 ? 8 : 4;

// Columns of a panel.
template <typename T>
constexpr int64_t kPanel = 2 * Lanes<T>::kSize;

template <typename T>
struct Block {
  Lanes<T> sums[kRows][2];

  PYDISTILL_INLINE Block() {
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      sums[row][0] = sums[row][1] = Lanes<T>(T(0));
    }
  }

  // sums += left right; left [kRows, depth] by its strides, right [depth, kPanel] with rows `right_row`
  // apart.
  PYDISTILL_INLINE void add(int64_t depth, const T* left, int64_t left_row, int64_t left_column,
                            const T* right, int64_t right_row) {
    Lanes<T> local[kRows][2];
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      local[row][0] = local[row][1] = Lanes<T>(T(0));
    }
    for (int64_t k = 0; k < depth; ++k) {
      const auto first = Lanes<T>::load(right);
      const auto second = Lanes<T>::load(right + Lanes<T>::kSize);
#pragma GCC unroll 8
      for (int row = 0; row < kRows; ++row) {
        const Lanes<T> factor(left[row * left_row]);
        local[row][0] += factor * first;
        local[row][1] += factor * second;
      }
      left += left_column;
      right += right_row;
    }
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
      sums[row][0] += local[row][0];
      sums[row][1] += local[row][1];
    }
  }
};

}  // namespace pydistill::cpu::PYDISTILL_ISA
