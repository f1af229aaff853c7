// One step of gradient descent and, in the same pass, its distances to a target:
//   theta_next = theta - lr * grad,   distances = (sum |theta_next - target|, sum (theta_next - target)^2);
// with weights, distances = (sum w |theta_next - target|, sum w (theta_next - target)^2).
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace pydistill::kernels {

// Both sums are kept in double whatever the type of the parameters.
struct DistanceSums {
  double absolute;
  double squared;
};

// A map with a reduction, as the engines in cpu/ and cuda/ drive it:
//   constants() once per thread, load(i) and then accumulate(state, ...) once per element in any order,
//   combine(state, state) in a fixed order, finish(state) once.
// Without kWeighted there are no weights.
template <typename scalar_t, bool kWeighted>
struct SgdStep {
  const scalar_t* theta;    // [P]
  const scalar_t* grad;     // [P]
  const scalar_t* target;   // [P]
  const scalar_t* weights;  // [P]
  const scalar_t* lr;       // []
  scalar_t* theta_next;     // [P]
  double* distances;        // [2]

  using State = DistanceSums;
  using Constants = scalar_t;
  struct Item {
    scalar_t theta;
    scalar_t grad;
    scalar_t target;
    scalar_t weight;
  };

  PYDISTILL_HOST_DEVICE Constants constants() const { return *lr; }

  PYDISTILL_HOST_DEVICE static State identity() { return {0.0, 0.0}; }

  PYDISTILL_HOST_DEVICE Item load(int64_t i) const {
    return {theta[i], grad[i], target[i], kWeighted ? weights[i] : scalar_t(1)};
  }

  PYDISTILL_HOST_DEVICE void accumulate(State& state, Constants rate, int64_t i, const Item& item) const {
    const scalar_t next = item.theta - rate * item.grad;
    theta_next[i] = next;
    const double gap = static_cast<double>(next - item.target);
    if (kWeighted) {
      const double weight = static_cast<double>(item.weight);
      state.absolute += weight * std::fabs(gap);
      state.squared += weight * (gap * gap);
    } else {
      state.absolute += std::fabs(gap);
      state.squared += gap * gap;
    }
  }

  PYDISTILL_HOST_DEVICE static State combine(const State& a, const State& b) {
    return {a.absolute + b.absolute, a.squared + b.squared};
  }

  PYDISTILL_HOST_DEVICE void finish(const State& state) const {
    distances[0] = state.absolute;
    distances[1] = state.squared;
  }
};

}  // namespace pydistill::kernels
