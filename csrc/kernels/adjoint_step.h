// One step of the adjoint sweep and, in the same pass, the derivative in the learning rate:
//   adjoint_next = adjoint - lr * product,   inner = <adjoint, grad>.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace pydistill::kernels {

// Kept in double whatever the type of the parameters.
struct InnerProduct {
  double sum;
};

// A map with a reduction (sgd_step.h). adjoint_next may be adjoint itself. Without kInner there is no grad,
// and inner is not written.
template <typename scalar_t, bool kInner>
struct AdjointStep {
  const scalar_t* adjoint;  // [P]
  const scalar_t* product;  // [P]
  const scalar_t* grad;     // [P]
  const scalar_t* lr;       // []
  scalar_t* adjoint_next;   // [P]
  double* inner;            // []

  using State = InnerProduct;
  using Constants = scalar_t;
  struct Item {
    scalar_t adjoint;
    scalar_t product;
    scalar_t grad;
  };

  PYDISTILL_HOST_DEVICE Constants constants() const { return *lr; }

  PYDISTILL_HOST_DEVICE static State identity() { return {0.0}; }

  PYDISTILL_HOST_DEVICE Item load(int64_t i) const {
    return {adjoint[i], product[i], kInner ? grad[i] : scalar_t(0)};
  }

  PYDISTILL_HOST_DEVICE void accumulate(State& state, Constants rate, int64_t i, const Item& item) const {
    adjoint_next[i] = item.adjoint - rate * item.product;
    if (kInner) {
      state.sum += static_cast<double>(item.adjoint) * static_cast<double>(item.grad);
    }
  }

  PYDISTILL_HOST_DEVICE static State combine(const State& a, const State& b) { return {a.sum + b.sum}; }

  PYDISTILL_HOST_DEVICE void finish(const State& state) const {
    if (kInner) {
      *inner = state.sum;
    }
  }
};

}  // namespace pydistill::kernels
