// The loops of norm_act_pool over vector registers; included by one file for each instruction set.
//
// A group of neighbouring vectors of channels goes through the pixels together, so that memory is read in
// runs of kGroupBytes; a vector takes a few pixels before it is the next one's turn, so that its constants
// stay in registers. Each pass over a plane is short enough for the next one to find it in the cache.
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
  bool streams;
  PYDISTILL_INLINE Value load(const T* from) const { return Value::load(from); }
  PYDISTILL_INLINE void store(T* to, Value value) const { value.store(to); }
  PYDISTILL_INLINE void store_plane(T* to, Value value) const {
    bool now = streams;
    // What cannot be known beforehand: or else the compiler makes two loops of one, and their roundings
    // differ.
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
constexpr int64_t kSegment = 4;  // windows that a vector takes in one turn

// Calls visit(vector, offset, out, windows) for each vector and each run of windows along a row.
template <typename Op, typename Visit>
PYDISTILL_INLINE void for_each_segment(const Op& op, const Group& group, const Visit& visit) {
  const int64_t down = op.windows_down();
  const int64_t across = op.windows_across();
  for (int64_t row = 0; row < down; ++row) {
    for (int64_t first = 0; first < across; first += kSegment) {
      const int64_t windows = across - first < kSegment ? across - first : kSegment;
      const int64_t offset = op.pixel_offset(group.image, row * Op::kSide, first * Op::kSide, group.channel);
      const int64_t out = op.out_offset(group.image, row, first, group.channel);
      for (int64_t vector = 0; vector < group.vectors; ++vector) {
        visit(vector, offset + vector * Op::V::kSize, out + vector * Op::V::kSize, windows);
      }
    }
  }
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

// Asks for neighbouring pixels of the group, in the order of memory: that one vector goes through them before
// the next one does is no order that a processor foresees.
template <typename Op, typename T>
PYDISTILL_INLINE void fetch(const Op& op, const Group& group, const T* plane, int64_t offset,
                            int64_t pixels) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    for (int64_t channel = 0; channel < group.vectors * Op::V::kSize; channel += kLine) {
      __builtin_prefetch(plane + offset + pixel * op.arrays.channels + channel);
    }
  }
}

// Adds the moments of `chunk` pixels, from pixel `done` on, to each vector's.
template <std::size_t chunk, typename Op, typename Moments>
PYDISTILL_INLINE void add_chunk(const Op& op, const Group& group, int64_t done, Moments* moments) {
  constexpr auto kPixels = static_cast<int64_t>(chunk);
  const auto weights = kernels::count_weights<typename Op::Scalar>(done, kPixels);
  const int64_t offset = op.pixel_offset(group.image, 0, done, group.channel);
  if (done + 2 * kPixels <= op.pixels()) {
    for (int64_t which = 0; which < Op::kRows / 2; ++which) {
      fetch(op, group, op.arrays.z[which], offset + kPixels * op.arrays.channels, kPixels);
    }
  }
  for (int64_t vector = 0; vector < group.vectors; ++vector) {
    moments[vector] = Moments::combine(
        moments[vector], op.template moments_of<chunk>(offset + vector * Op::V::kSize), weights);
  }
}

template <typename Op>
void forward(const Op& shared_op, const Group& group) {
  const Op op = shared_op;  // a copy that no store can be taken to change
  typename Op::Channel channels[kMostVectors];
  if constexpr (Op::kInstance) {
    using Moments = kernels::Moments<typename Op::V, (Op::kRows > 2)>;
    // As many pixels as fit into registers with their tangents.
    constexpr int kChunk = Op::kRows > 2 ? 4 : 8;
    Moments moments[kMostVectors];
    for (int64_t vector = 0; vector < group.vectors; ++vector) {
      moments[vector] = Moments::none();
    }
    const int64_t pixels = op.pixels();
    int64_t done = 0;
    for (; done + kChunk <= pixels; done += kChunk) {
      add_chunk<kChunk>(op, group, done, moments);
    }
    for (; done < pixels; ++done) {
      add_chunk<1>(op, group, done, moments);
    }
    for (int64_t vector = 0; vector < group.vectors; ++vector) {
      channels[vector] = op.normalise(group.image, group.channel + vector * Op::V::kSize, moments[vector]);
    }
  } else {
    for (int64_t vector = 0; vector < group.vectors; ++vector) {
      channels[vector] = op.channel_of(group.image, group.channel + vector * Op::V::kSize);
    }
  }
  for_each_segment(op, group, [&](int64_t vector, int64_t offset, int64_t out, int64_t windows) {
    const typename Op::Channel channel = channels[vector];
    for (int64_t window = 0; window < windows; ++window) {
      op.emit(channel, offset, out);
      offset += Op::kSide * op.arrays.channels;
      out += op.arrays.channels;
    }
  });
}

template <typename Op>
void backward(const Op& shared_op, const Group& group) {
  const Op op = shared_op;
  typename Op::Channel channels[kMostVectors];
  typename Op::Sums sums[kMostVectors];
  typename Op::Projection projections[kMostVectors];
  for (int64_t vector = 0; vector < group.vectors; ++vector) {
    channels[vector] = op.channel_of(group.image, group.channel + vector * Op::V::kSize);
    sums[vector] = Op::Sums::none();
  }
  for_each_segment(op, group, [&](int64_t vector, int64_t offset, int64_t out, int64_t windows) {
    const typename Op::Channel channel = channels[vector];
    typename Op::Sums share = Op::Sums::none();
    for (int64_t window = 0; window < windows; ++window) {
      share = share + op.accumulate(channel, offset, out);
      offset += Op::kSide * op.arrays.channels;
      out += op.arrays.channels;
    }
    sums[vector] = sums[vector] + share;
  });
  for (int64_t vector = 0; vector < group.vectors; ++vector) {
    projections[vector] = op.finish(group.image, group.channel + vector * Op::V::kSize, sums[vector]);
  }
  for_each_segment(op, group, [&](int64_t vector, int64_t offset, int64_t out, int64_t windows) {
    const typename Op::Channel channel = channels[vector];
    const typename Op::Projection projection = projections[vector];
    for (int64_t window = 0; window < windows; ++window) {
      op.emit_backward(channel, projection, offset, out);
      offset += Op::kSide * op.arrays.channels;
      out += op.arrays.channels;
    }
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

template <typename T>
void run_group(NormActPoolPhase phase, Norm norm, Pooling pooling, const NormActPoolArrays<T>& arrays,
               int64_t image, int64_t channel, int64_t count, bool streams) {
  constexpr int64_t kSize = Lanes<T>::kSize;
  const int64_t whole = count / kSize;
  const int64_t rest = count % kSize;
  if (whole > 0) {
    kernels::with_norm_act_pool(phase, norm, pooling, arrays, WholeVector<T>{streams},
                                Loops{{image, channel, whole}});
    if (streams) {
      fence_streams();
    }
  }
  if (rest > 0) {
    kernels::with_norm_act_pool(phase, norm, pooling, arrays, PartOfVector<T>{rest},
                                Loops{{image, channel + whole * kSize, 1}});
  }
}

}  // namespace

void norm_act_pool(NormActPoolPhase phase, Norm norm, Pooling pooling, const NormActPoolArrays<float>& arrays,
                   int64_t image, int64_t channel, int64_t count, bool streams) {
  run_group(phase, norm, pooling, arrays, image, channel, count, streams);
}

void norm_act_pool(NormActPoolPhase phase, Norm norm, Pooling pooling,
                   const NormActPoolArrays<double>& arrays, int64_t image, int64_t channel, int64_t count,
                   bool streams) {
  run_group(phase, norm, pooling, arrays, image, channel, count, streams);
}

}  // namespace pydistill::cpu::PYDISTILL_ISA
