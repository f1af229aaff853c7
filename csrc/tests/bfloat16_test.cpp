// Rounding to bfloat16, and norm_act_pool on planes of it: what float gives on the same numbers, rounded.
#include "../kernels/bfloat16.h"

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "../cpu/simd/norm_act_pool.h"
#include "check.h"

namespace {

using namespace pydistill::kernels;

void every_bfloat16_comes_back() {
  for (uint32_t bits = 0; bits <= 0xffffu; ++bits) {
    const Bfloat16 number = {static_cast<uint16_t>(bits)};
    const float value = to_float(number);
    if (std::isnan(value)) {
      CHECK(std::isnan(to_float(to_bfloat16(value))));
    } else {
      CHECK(to_bfloat16(value).bits == number.bits);
    }
  }
}

// Between two neighbours: the nearer one, and from the middle the one with an even last bit.
void what_lies_between_goes_to_the_nearest() {
  for (uint32_t bits = 0; bits < 0x7f7fu; ++bits) {
    const float below = to_float({static_cast<uint16_t>(bits)});
    const float above = to_float({static_cast<uint16_t>(bits + 1)});
    const float middle = below + (above - below) / 2;
    const float largest = std::numeric_limits<float>::max();
    const uint32_t even = bits % 2 == 0 ? bits : bits + 1;
    for (const float sign : {1.0f, -1.0f}) {
      const uint32_t minus = sign < 0 ? 0x8000u : 0u;
      CHECK(to_bfloat16(sign * middle).bits == (minus | even));
      CHECK(to_bfloat16(sign * std::nextafter(middle, 0.0f)).bits == (minus | bits));
      CHECK(to_bfloat16(sign * std::nextafter(middle, largest)).bits == (minus | (bits + 1)));
    }
  }
  CHECK(std::isinf(to_float(to_bfloat16(std::numeric_limits<float>::max()))));
  // A NaN whose upper half would be infinity.
  CHECK(std::isnan(to_float(to_bfloat16(std::nanf("1")))));
  const uint32_t bits = 0x7f800001u;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  CHECK(std::isnan(to_float(to_bfloat16(value))));
}

template <typename To>
To kept_in(Bfloat16 number) {
  if constexpr (std::is_same_v<To, float>) {
    return to_float(number);
  } else {
    return number;
  }
}

template <typename plane_t>
struct Problem {
  static constexpr int64_t kChannels = 37;
  static constexpr int64_t kHeight = 7;
  static constexpr int64_t kWidth = 5;
  Norm norm;
  Pooling pooling;
  std::vector<plane_t> planes[8];  // z, grad_out, out, grad_z, and their tangents
  std::vector<float> weight, bias, stats, parameter_grads;

  Problem(Norm norm_, Pooling pooling_) : norm(norm_), pooling(pooling_) {
    const int64_t side = pooling == Pooling::kNone ? 1 : 2;
    const int64_t pixels[4] = {kHeight * kWidth, (kHeight / side) * (kWidth / side),
                               (kHeight / side) * (kWidth / side), kHeight * kWidth};
    for (size_t which = 0; which < 8; ++which) {
      for (int64_t i = 0; i < pixels[which % 4] * kChannels; ++i) {
        const double wave = std::sin((1.3 + static_cast<double>(which)) * static_cast<double>(i + 1));
        planes[which].push_back(kept_in<plane_t>(to_bfloat16(static_cast<float>(wave))));
      }
    }
    for (int64_t i = 0; i < 2 * kChannels; ++i) {
      weight.push_back(static_cast<float>(std::sin(0.9 * static_cast<double>(i + 1))));
      bias.push_back(static_cast<float>(std::sin(3.1 * static_cast<double>(i + 1))));
    }
    stats = parameter_grads = std::vector<float>(4 * kChannels, -77.0f);
  }

  void run(NormActPoolPhase phase) {
    const bool instance = norm == Norm::kInstance;
    const NormActPoolArrays<float, plane_t> arrays = {
        kChannels,
        kHeight,
        kWidth,
        1e-3f,
        {planes[0].data(), planes[4].data()},
        {instance ? weight.data() : nullptr, instance ? weight.data() + kChannels : nullptr},
        {bias.data(), bias.data() + kChannels},
        {planes[1].data(), planes[5].data()},
        {planes[2].data(), planes[6].data()},
        instance ? stats.data() : nullptr,
        {planes[3].data(), planes[7].data()},
        parameter_grads.data()};
    const pydistill::cpu::NormActPoolLoop<float, plane_t> loop = &pydistill::cpu::baseline::norm_act_pool;
    loop(phase, norm, pooling, arrays, 0, 0, kChannels, false);
  }
};

void planes_are_those_of_float_rounded(Norm norm, Pooling pooling) {
  Problem<float> full(norm, pooling);
  Problem<Bfloat16> kept(norm, pooling);
  for (const auto phase : {NormActPoolPhase::kForward, NormActPoolPhase::kBackward, NormActPoolPhase::kJvp,
                           NormActPoolPhase::kBackwardJvp}) {
    full.run(phase);
    kept.run(phase);
    CHECK(full.stats == kept.stats);
    CHECK(full.parameter_grads == kept.parameter_grads);
    for (size_t which = 0; which < 8; ++which) {
      for (size_t i = 0; i < full.planes[which].size(); ++i) {
        CHECK(to_bfloat16(full.planes[which][i]).bits == kept.planes[which][i].bits);
      }
    }
  }
}

}  // namespace

int main() {
  every_bfloat16_comes_back();
  what_lies_between_goes_to_the_nearest();
  for (const Norm norm : {Norm::kNone, Norm::kInstance}) {
    for (const Pooling pooling : {Pooling::kNone, Pooling::kAverage, Pooling::kMax}) {
      planes_are_those_of_float_rounded(norm, pooling);
    }
  }
  std::puts("bfloat16: all checks hold");
  return 0;
}
