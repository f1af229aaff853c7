// bfloat16: the upper half of a float. Numbers are only kept in it; arithmetic is in float.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace pydistill::kernels {

struct Bfloat16 {
  uint16_t bits;
};

PYDISTILL_HOST_DEVICE float to_float(Bfloat16 number) {
  const uint32_t bits = static_cast<uint32_t>(number.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
// The nearest, of two the one that is even; what is beyond the largest becomes infinite, a NaN stays one.
PYDISTILL_HOST_DEVICE Bfloat16 to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint32_t rounded = is_nan ? bits | 0x400000u : bits + 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<uint16_t>(rounded >> 16)};
}

}  // namespace pydistill::kernels
