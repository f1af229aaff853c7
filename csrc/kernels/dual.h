// A number with its tangent: value + ε tangent, ε² = 0. A formula written for Dual<V, tangent> is the formula
// itself where `tangent` is false, and the formula with its directional derivative where it is true, so the
// two are one text.
#pragma once

#include "host_device.h"

namespace pydistill::kernels {

template <typename V, bool tangent>
struct Dual;

template <typename V>
struct Dual<V, false> {
  V value;

  PYDISTILL_HOST_DEVICE static Dual constant(V value) { return {value}; }

  PYDISTILL_HOST_DEVICE friend Dual operator+(Dual a, Dual b) { return {a.value + b.value}; }
  PYDISTILL_HOST_DEVICE friend Dual operator-(Dual a, Dual b) { return {a.value - b.value}; }
  PYDISTILL_HOST_DEVICE friend Dual operator*(Dual a, Dual b) { return {a.value * b.value}; }
  PYDISTILL_HOST_DEVICE friend Dual scaled(Dual a, V factor) { return {a.value * factor}; }
  PYDISTILL_HOST_DEVICE friend Dual squared(Dual a) { return {a.value * a.value}; }
  PYDISTILL_HOST_DEVICE friend Dual reciprocal_root(Dual a) { return {V(1) / square_root(a.value)}; }
  template <typename Mask>
  PYDISTILL_HOST_DEVICE friend Dual choose(Mask condition, Dual a, Dual b) {
    return {select(condition, a.value, b.value)};
  }
};

template <typename V>
struct Dual<V, true> {
  V value;
  V tangent;

  PYDISTILL_HOST_DEVICE static Dual constant(V value) { return {value, V(0)}; }

  PYDISTILL_HOST_DEVICE friend Dual operator+(Dual a, Dual b) {
    return {a.value + b.value, a.tangent + b.tangent};
  }
  PYDISTILL_HOST_DEVICE friend Dual operator-(Dual a, Dual b) {
    return {a.value - b.value, a.tangent - b.tangent};
  }
  PYDISTILL_HOST_DEVICE friend Dual operator*(Dual a, Dual b) {
    return {a.value * b.value, a.value * b.tangent + a.tangent * b.value};
  }
  PYDISTILL_HOST_DEVICE friend Dual scaled(Dual a, V factor) {
    return {a.value * factor, a.tangent * factor};
  }
  PYDISTILL_HOST_DEVICE friend Dual squared(Dual a) {
    return {a.value * a.value, V(2) * a.value * a.tangent};
  }
  PYDISTILL_HOST_DEVICE friend Dual reciprocal_root(Dual a) {
    const V root = V(1) / square_root(a.value);
    return {root, V(-0.5f) * root * root * root * a.tangent};
  }
  template <typename Mask>
  PYDISTILL_HOST_DEVICE friend Dual choose(Mask condition, Dual a, Dual b) {
    return {select(condition, a.value, b.value), select(condition, a.tangent, b.tangent)};
  }
};

}  // namespace pydistill::kernels
