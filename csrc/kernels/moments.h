// Mean and sum of squared deviations without cancellation: exact inside a chunk of a few numbers, chunks
// combined by the formula of Chan, Golub and LeVeque. With tangents (D = Dual<V, true>) it carries the mean
// of the tangents and twice the co-moment along, since these are the derivatives of the two.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dual.h"

namespace pydistill::kernels {

// What combining n_a numbers with n_b more needs of the counts.
template <typename scalar_t>
struct CountWeights {
  scalar_t share;  // n_b / (n_a + n_b)
  scalar_t cross;  // n_a n_b / (n_a + n_b)
};

template <typename scalar_t>
PYDISTILL_HOST_DEVICE CountWeights<scalar_t> count_weights(int64_t n_a, int64_t n_b) {
  const scalar_t share = static_cast<scalar_t>(n_b) / static_cast<scalar_t>(n_a + n_b);
  return {share, static_cast<scalar_t>(n_a) * share};
}

template <typename V, bool tangent>
struct Moments {
  using D = Dual<V, tangent>;

  // Sums over numbers of how far each is from one number near them.
  struct Deviations {
    D sum;
    D squares;

    PYDISTILL_HOST_DEVICE static Deviations none() { return {D::constant(V(0)), D::constant(V(0))}; }
    PYDISTILL_HOST_DEVICE void add(const D& deviation) {
      sum = sum + deviation;
      squares = squares + squared(deviation);
    }
  };

  D mean;
  D excess;   // by which the rounding of `mean` made it too large: the mean is mean - excess
  D squares;  // sum of squared deviations from the mean

  PYDISTILL_HOST_DEVICE static Moments none() {
    const D zero = D::constant(V(0));
    return {zero, zero, zero};
  }

  // n: a power of two; halving keeps the mean of equal numbers exact.
  template <std::size_t n>
  PYDISTILL_HOST_DEVICE static Moments of(const D (&numbers)[n]) {
    D sums[n];
    for (std::size_t k = 0; k < n; ++k) {
      sums[k] = numbers[k];
    }
    for (std::size_t half = n / 2; half > 0; half /= 2) {
      for (std::size_t k = 0; k < half; ++k) {
        sums[k] = sums[k] + sums[k + half];
      }
    }
    const D mean = scaled(sums[0], V(1.0f / n));
    D squares = squared(numbers[0] - mean);
    for (std::size_t k = 1; k < n; ++k) {
      squares = squares + squared(numbers[k] - mean);
    }
    return {mean, D::constant(V(0)), squares};
  }

  template <typename scalar_t>
  PYDISTILL_HOST_DEVICE static Moments combine(const Moments& a, const Moments& b,
                                               CountWeights<scalar_t> weights) {
    const D gap = (b.mean - a.mean) + (a.excess - b.excess);
    const D step = scaled(gap, V(weights.share)) - a.excess;
    const D mean = a.mean + step;
    return {mean, (mean - a.mean) - step, a.squares + b.squares + scaled(squared(gap), V(weights.cross))};
  }

  // a, of n_a numbers, with n_b more, of which only the deviations from a.mean were summed. What is
  // subtracted, sum^2 / (n_a + n_b), is at most the share n_b / (n_a + n_b) of b.squares, so while n_b <= n_a
  // no more than half cancels.
  template <typename scalar_t>
  PYDISTILL_HOST_DEVICE static Moments grow(const Moments& a, scalar_t n_a, const Deviations& b,
                                            scalar_t n_b) {
    const D sum = b.sum - scaled(a.excess, V(n_a));
    const D step = scaled(sum, V(static_cast<scalar_t>(1) / (n_a + n_b)));
    const D mean = a.mean + step;
    return {mean, (mean - a.mean) - step, a.squares + (b.squares - sum * step)};
  }
};

// Moments that know of how many numbers they are, so that any two can be combined.
template <typename V, bool tangent>  // V = float or double
struct CountedMoments {
  using Moments = kernels::Moments<V, tangent>;
  Moments moments;
  int64_t count;

  PYDISTILL_HOST_DEVICE static CountedMoments none() { return {Moments::none(), 0}; }

  PYDISTILL_HOST_DEVICE static CountedMoments combine(const CountedMoments& a, const CountedMoments& b) {
    if (a.count == 0 || b.count == 0) {
      return a.count == 0 ? b : a;
    }
    const auto weights = count_weights<V>(a.count, b.count);
    return {Moments::combine(a.moments, b.moments, weights), a.count + b.count};
  }
};

}  // namespace pydistill::kernels
