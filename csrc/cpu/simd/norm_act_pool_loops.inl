// The loops of norm_act_pool over vector registers; included by one file for each instruction set.
//
// A group of neighbouring vectors of channels goes through the pixels together, pixel by pixel, so that
// memory is read in its own order: that is worth more than constants that stay in registers (twice the speed
// where planes come from memory). Each pass over a plane is short enough for the next one to find it in a
// cache.
#include "isa.h"
//
#include "../../kernels/norm_act_pool.h"
#include "lanes.h"
#include "norm_act_pool.h"

namespace pydistill::cpu::PYDISTILL_ISA {
namespace {

using kernels::Norm;
using kernels::NormActPoolArrays;
using kernels::NormActPoolPhase;
using kernels::Pooling;

// A whole vector of channels, or the `count` channels that are left after the last whole one.
template <typename T>
struct WholeVector {
  using Scalar = T;
  using Value = Lanes<T>;
  static constexpr int64_t kMostVectors = kGroupBytes / PYDISTILL_VECTOR_BYTES;
  bool streams;
  PYDISTILL_INLINE Value load(const T* from) const { return Value::load(from); }
  PYDISTILL_INLINE void store(T* to, Value value) const { value.store(to); }
  PYDISTILL_INLINE void store_plane(T* to, Value value) const {
    bool now = streams;
    // Hides the value from the compiler, which would otherwise make two loops of one, with different
    // roundings.
    asm volatile("" : "+r"(now));
    if (now) {
      value.stream(to);
    } else {
      value.store(to);
    }
  }
};
template <typename T>
struct PartOfVector {
  using Scalar = T;
  using Value = Lanes<T>;
  static constexpr int64_t kMostVectors = 1;
  int64_t count;
  PYDISTILL_INLINE Value load(const T* from) const { return Value::load(from, count); }
  PYDISTILL_INLINE void store(T* to, Value value) const { value.store(to, count); }
  PYDISTILL_INLINE void store_plane(T* to, Value value) const { value.store(to, count); }
};

// `vectors` vectors of channels of one image, from `channel` on.
struct Group {
  int64_t image;
  int64_t channel;
  int64_t vectors;
};
constexpr int64_t kMostVectors = kGroupBytes / PYDISTILL_VECTOR_BYTES;

// Whether a pass is the first over its planes, which are then on their way from memory.
enum class Pass { kFirst, kSecond };

// Asks for the next row of windows behind those at `offset`: two rows of pixels are more than a processor
// foresees.
template <typename Op>
PYDISTILL_INLINE void fetch_below(const Op& op, const Group& group, int64_t offset) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(typename Op::Scalar));
  constexpr int kIntoL2 = 1;
  const int64_t row = op.arrays.width * op.arrays.channels;
  for (int64_t which = 0; which < Op::kRows / 2; ++which) {
    for (int64_t down = Op::kSide; down < 2 * Op::kSide; ++down) {
      for (int64_t across = 0; across < Op::kSide; ++across) {
        const auto* const pixel = op.arrays.z[which] + offset + down * row + across * op.arrays.channels;
        for (int64_t channel = 0; channel < group.vectors * Op::V::kSize; channel += kLine) {
          __builtin_prefetch(pixel + channel, 0, kIntoL2);
        }
      }
    }
  }
}

// Calls visit(vector, offset, out) for each window and vector, and after_row() after a row of windows.
template <Pass pass, typename Op, typename Visit, typename AfterRow>
PYDISTILL_INLINE void for_each_window(const Op& op, const Group& group, const Visit& visit,
                                      const AfterRow& after_row) {
  const int64_t down = op.windows_down();
  const int64_t across = op.windows_across();
  for (int64_t row = 0; row < down; ++row) {
    for (int64_t column = 0; column < across; ++column) {
      const int64_t offset = op.pixel_offset(group.image, row * Op::kSide, column * Op::kSide, group.channel);
      const int64_t out = op.out_offset(group.image, row, column, group.channel);
      if (pass == Pass::kFirst && row + 1 < down) {
        fetch_below(op, group, offset);
      }
      for (int64_t vector = 0; vector < group.vectors; ++vector) {
        visit(vector, offset + vector * Op::V::kSize, out + vector * Op::V::kSize);
      }
    }
    after_row();
  }
}
template <Pass pass, typename Op, typename Visit>
PYDISTILL_INLINE void for_each_window(const Op& op, const Group& group, const Visit& visit) {
  for_each_window<pass>(op, group, visit, [] {});
}

// One vector after the other: these are the last row and the last column of an odd plane at most.
template <typename Op, typename Visit>
PYDISTILL_INLINE void for_each_unpooled(const Op& op, const Group& group, const Visit& visit) {
  const int64_t pooled_rows = op.windows_down() * Op::kSide;
  const int64_t pooled_columns = op.windows_across() * Op::kSide;
  for (int64_t row = 0; row < op.arrays.height; ++row) {
    for (int64_t column = row < pooled_rows ? pooled_columns : 0; column < op.arrays.width; ++column) {
      const int64_t offset = op.pixel_offset(group.image, row, column, group.channel);
      for (int64_t vector = 0; vector < group.vectors; ++vector) {
        visit(vector, offset + vector * Op::V::kSize);
      }
    }
  }
}

constexpr int64_t kFirstPixels = 4;
constexpr int64_t kMostPixels = 32;

// The moments of `count` neighbouring vectors' planes, from `channel` on: those of a few pixels, to which
// others are added by what they deviate from the mean so far, at most as many as there already are.
template <std::size_t count, typename Op, typename Moments>
PYDISTILL_INLINE void take_moments(const Op& op, int64_t image, int64_t channel, Moments* taken) {
  using Scalar = typename Op::Scalar;
  constexpr int64_t kSize = Op::V::kSize;
  const int64_t pixels = op.pixels();
  const int64_t begin = op.pixel_offset(image, 0, 0, channel);
  Moments moments[count];
  int64_t done = pixels < kFirstPixels ? 1 : kFirstPixels;
  for (std::size_t i = 0; i < count; ++i) {
    const int64_t offset = begin + static_cast<int64_t>(i) * kSize;
    moments[i] = done == 1 ? op.template moments_of<1>(offset) : op.template moments_of<kFirstPixels>(offset);
  }
  while (done < pixels) {
    int64_t more = done < kMostPixels ? done : kMostPixels;
    more = pixels - done < more ? pixels - done : more;
    typename Moments::Deviations deviations[count];
    for (std::size_t i = 0; i < count; ++i) {
      deviations[i] = Moments::Deviations::none();
    }
    int64_t offset = begin + done * op.arrays.channels;
    for (int64_t pixel = 0; pixel < more; ++pixel) {
#pragma GCC unroll 8
      for (std::size_t i = 0; i < count; ++i) {
        deviations[i].add(op.deviation(moments[i], offset + static_cast<int64_t>(i) * kSize));
      }
      offset += op.arrays.channels;
    }
    for (std::size_t i = 0; i < count; ++i) {
      moments[i] =
          Moments::grow(moments[i], static_cast<Scalar>(done), deviations[i], static_cast<Scalar>(more));
    }
    done += more;
  }
  for (std::size_t i = 0; i < count; ++i) {
    taken[i] = moments[i];
  }
}

// Of all vectors of the group, eight at a time while there are so many. Pooling has no part in it: one
// function serves all three.
template <typename Access, bool tangent>
__attribute__((noinline)) void take_moments_of_group(
    const kernels::NormActPool<Access, Norm::kInstance, Pooling::kNone, tangent>& op, const Group& group,
    kernels::Moments<typename Access::Value, tangent>* taken) {
  const auto channel = [&](int64_t vector) { return group.channel + vector * Access::Value::kSize; };
  int64_t vector = 0;
  if constexpr (Access::kMostVectors > 1) {
    for (; vector + 8 <= group.vectors; vector += 8) {
      take_moments<8>(op, group.image, channel(vector), taken + vector);
    }
    for (; vector + 2 <= group.vectors; vector += 2) {
      take_moments<2>(op, group.image, channel(vector), taken + vector);
    }
  }
  for (; vector < group.vectors; ++vector) {
    take_moments<1>(op, group.image, channel(vector), taken + vector);
  }
}

template <typename Op>
void forward(const Op& shared_op, const Group& group) {
  const Op op = shared_op;  // a copy that no store can be taken to change
  typename Op::Channel channels[kMostVectors];
  if constexpr (Op::kInstance) {
    constexpr bool kTangent = Op::kRows > 2;
    kernels::Moments<typename Op::V, kTangent> moments[kMostVectors];
    take_moments_of_group<typename Op::Through, kTangent>({op.arrays, op.access}, group, moments);
    for (int64_t vector = 0; vector < group.vectors; ++vector) {
      channels[vector] = op.normalise(group.image, group.channel + vector * Op::V::kSize, moments[vector]);
    }
  } else {
    for (int64_t vector = 0; vector < group.vectors; ++vector) {
      channels[vector] = op.channel_of(group.image, group.channel + vector * Op::V::kSize);
    }
  }
  constexpr Pass pass = Op::kInstance ? Pass::kSecond : Pass::kFirst;
  for_each_window<pass>(op, group, [&](int64_t vector, int64_t offset, int64_t out) {
    op.emit(channels[vector], offset, out);
  });
}

template <typename Op>
void backward(const Op& shared_op, const Group& group) {
  const Op op = shared_op;
  typename Op::Channel channels[kMostVectors];
  typename Op::Sums sums[kMostVectors];
  typename Op::Sums row_sums[kMostVectors];  // summed by rows first, for smaller rounding errors
  typename Op::Projection projections[kMostVectors];
  for (int64_t vector = 0; vector < group.vectors; ++vector) {
    channels[vector] = op.channel_of(group.image, group.channel + vector * Op::V::kSize);
    sums[vector] = row_sums[vector] = Op::Sums::none();
  }
  for_each_window<Pass::kFirst>(
      op, group,
      [&](int64_t vector, int64_t offset, int64_t out) {
        row_sums[vector] = row_sums[vector] + op.accumulate(channels[vector], offset, out);
      },
      [&] {
        for (int64_t vector = 0; vector < group.vectors; ++vector) {
          sums[vector] = sums[vector] + row_sums[vector];
          row_sums[vector] = Op::Sums::none();
        }
      });
  for (int64_t vector = 0; vector < group.vectors; ++vector) {
    projections[vector] = op.finish(group.image, group.channel + vector * Op::V::kSize, sums[vector]);
  }
  for_each_window<Pass::kSecond>(op, group, [&](int64_t vector, int64_t offset, int64_t out) {
    op.emit_backward(channels[vector], projections[vector], offset, out);
  });
  for_each_unpooled(op, group, [&](int64_t vector, int64_t offset) {
    op.emit_unpooled(channels[vector], projections[vector], offset);
  });
}

struct Loops {
  using Result = void;
  Group group;
  template <typename Op>
  void forward(const Op& op) const {
    cpu::PYDISTILL_ISA::forward(op, group);
  }
  template <typename Op>
  void backward(const Op& op) const {
    cpu::PYDISTILL_ISA::backward(op, group);
  }
};

}  // namespace
}  // namespace pydistill::cpu::PYDISTILL_ISA
