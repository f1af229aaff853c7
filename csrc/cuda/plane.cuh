// Runs an op on planes (see kernels/norm_act_pool.h for what such a struct offers) on a GPU. No torch here,
// so that nvcc alone compiles it.
//
// A block has one image and 32 neighbouring channels, one of them for each lane of a warp, so that a warp
// reads neighbouring numbers; the block's rows of threads share the plane's pixels. No atomics: the rows'
// states are combined in a fixed order, and the number of rows depends on the plane's size alone, so the
// result is the same, bit for bit, on every run.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "../kernels/norm_act_pool.h"
#include "launch.cuh"

namespace pydistill::cuda {

constexpr int kPlaneChannels = 32;    // of a block: the lanes of a warp
constexpr int kMostPlaneRows = 16;    // of threads in a block
constexpr int64_t kPixelsOfRow = 16;  // that a row of threads has at least, before there is a further row
constexpr int kChunk = 4;             // pixels whose moments are taken at once

// The Access of kernels/norm_act_pool.h for one number at a time.
template <typename scalar_t>
struct OneNumber {
  using Scalar = scalar_t;
  using Value = scalar_t;
  PYDISTILL_HOST_DEVICE Value load(const Scalar* from) const { return *from; }
  PYDISTILL_HOST_DEVICE void store(Scalar* to, Value value) const { *to = value; }
  PYDISTILL_HOST_DEVICE void store_plane(Scalar* to, Value value) const { *to = value; }
};

// Combines the states of the rows of threads, channel by channel, as a tree; every thread must call it, and
// the threads of row 0 return the totals. blockDim.y is a power of two.
template <typename State>
__device__ State combine_rows(const State& own) {
  __shared__ State shared[kMostPlaneRows][kPlaneChannels];
  shared[threadIdx.y][threadIdx.x] = own;
  __syncthreads();
  for (unsigned int half = blockDim.y / 2; half > 0; half /= 2) {
    if (threadIdx.y < half) {
      shared[threadIdx.y][threadIdx.x] =
          State::combine(shared[threadIdx.y][threadIdx.x], shared[threadIdx.y + half][threadIdx.x]);
    }
    __syncthreads();
  }
  return shared[0][threadIdx.x];
}

// Row 0's value for the threads of all rows; every thread must call it.
template <typename Value>
__device__ Value from_row_0(const Value& own) {
  __shared__ Value shared[kPlaneChannels];
  if (threadIdx.y == 0) {
    shared[threadIdx.x] = own;
  }
  __syncthreads();
  return shared[threadIdx.x];
}

template <typename Op>
using CountedMoments = kernels::CountedMoments<typename Op::V, (Op::kRows > 2)>;

template <typename Op>
struct PlaneSums {
  typename Op::Sums sums;
  __device__ static PlaneSums combine(const PlaneSums& a, const PlaneSums& b) { return {a.sums + b.sums}; }
};

// Where a thread works.
struct PlaneThread {
  int64_t image;
  int64_t channel;
  bool has_channel;  // false for spare threads of an image's last block, which still reach the barriers
};

template <typename Op>
__device__ PlaneThread plane_thread(const Op& op) {
  const int64_t groups = (op.arrays.channels + kPlaneChannels - 1) / kPlaneChannels;
  const int64_t block = blockIdx.x;
  const int64_t channel = block % groups * kPlaneChannels + threadIdx.x;
  return {block / groups, channel, channel < op.arrays.channels};
}

// Calls visit(op, offset, out) for this thread's share of the plane's windows.
template <typename Op, typename Visit>
__device__ void for_each_window(const Op& op, const PlaneThread& thread, Visit& visit) {
  const int64_t down = op.windows_down();
  const int64_t across = op.windows_across();
  if (!thread.has_channel || across == 0) {
    return;
  }
  int64_t row = 0;
  int64_t column = threadIdx.y;
  while (true) {
    while (column >= across) {
      column -= across;
      ++row;
    }
    if (row >= down) {
      return;
    }
    visit(op, op.pixel_offset(thread.image, row * Op::kSide, column * Op::kSide, thread.channel),
          op.out_offset(thread.image, row, column, thread.channel));
    column += blockDim.y;
  }
}

template <typename Op>
struct Emit {
  typename Op::Channel channel;
  __device__ void operator()(const Op& op, int64_t offset, int64_t out) { op.emit(channel, offset, out); }
};

template <typename Op>
struct Accumulate {
  typename Op::Channel channel;
  typename Op::Sums sums;
  __device__ void operator()(const Op& op, int64_t offset, int64_t out) {
    sums = sums + op.accumulate(channel, offset, out);
  }
};

template <typename Op>
struct EmitBackward {
  typename Op::Channel channel;
  typename Op::Projection projection;
  __device__ void operator()(const Op& op, int64_t offset, int64_t out) {
    op.emit_backward(channel, projection, offset, out);
  }
};

// The moments of this thread's share of the plane's pixels, chunk by chunk.
template <typename Op>
__device__ CountedMoments<Op> moments_of_thread(const Op& op, const PlaneThread& thread) {
  using Counted = CountedMoments<Op>;
  Counted own = Counted::none();
  if (!thread.has_channel) {
    return own;
  }
  const int64_t pixels = op.pixels();
  for (int64_t first = int64_t{threadIdx.y} * kChunk; first < pixels; first += int64_t{blockDim.y} * kChunk) {
    const int64_t offset = op.pixel_offset(thread.image, 0, first, thread.channel);
    if (first + kChunk <= pixels) {
      own = Counted::combine(own, {op.template moments_of<kChunk>(offset), kChunk});
    } else {
      for (int64_t pixel = 0; pixel < pixels - first; ++pixel) {
        own = Counted::combine(own, {op.template moments_of<1>(offset + pixel * op.arrays.channels), 1});
      }
    }
  }
  return own;
}

template <typename Op>
__global__ void __launch_bounds__(kPlaneChannels* kMostPlaneRows) plane_forward(const Op op) {
  const PlaneThread thread = plane_thread(op);
  Emit<Op> emit{};
  if constexpr (Op::kInstance) {
    const CountedMoments<Op> total = combine_rows(moments_of_thread(op, thread));
    if (threadIdx.y == 0 && thread.has_channel) {
      emit.channel = op.normalise(thread.image, thread.channel, total.moments);
    }
    emit.channel = from_row_0(emit.channel);
  } else if (thread.has_channel) {
    emit.channel = op.channel_of(thread.image, thread.channel);
  }
  for_each_window(op, thread, emit);
}

template <typename Op>
__global__ void __launch_bounds__(kPlaneChannels* kMostPlaneRows) plane_backward(const Op op) {
  const PlaneThread thread = plane_thread(op);
  Accumulate<Op> accumulate{};
  if (thread.has_channel) {
    accumulate.channel = op.channel_of(thread.image, thread.channel);
  }
  for_each_window(op, thread, accumulate);
  const PlaneSums<Op> total = combine_rows(PlaneSums<Op>{accumulate.sums});
  EmitBackward<Op> emit{accumulate.channel, {}};
  if (threadIdx.y == 0 && thread.has_channel) {
    emit.projection = op.finish(thread.image, thread.channel, total.sums);
  }
  emit.projection = from_row_0(emit.projection);
  for_each_window(op, thread, emit);
  if (!thread.has_channel) {
    return;
  }
  // The last row and the last column of an odd plane are in no window.
  const int64_t pooled_rows = op.windows_down() * Op::kSide;
  const int64_t pooled_columns = op.windows_across() * Op::kSide;
  for (int64_t row = threadIdx.y; row < op.arrays.height; row += blockDim.y) {
    for (int64_t column = row < pooled_rows ? pooled_columns : 0; column < op.arrays.width; ++column) {
      op.emit_unpooled(emit.channel, emit.projection,
                       op.pixel_offset(thread.image, row, column, thread.channel));
    }
  }
}

template <typename scalar_t>
__global__ void sum_rows_of_columns(const scalar_t* __restrict__ rows,  // [count, columns]
                                    scalar_t* __restrict__ sums,        // [columns]
                                    int64_t count, int64_t columns) {
  const int64_t column = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (column < columns) {
    scalar_t sum = 0;
    for (int64_t row = 0; row < count; ++row) {
      sum += rows[row * columns + column];
    }
    sums[column] = sum;
  }
}

// Queues sums = the sum of the rows, added in their order; rows: [count, columns], sums: [columns].
template <typename scalar_t>
cudaError_t sum_rows(const scalar_t* rows, scalar_t* sums, int64_t count, int64_t columns,
                     cudaStream_t stream) {
  constexpr int kThreads = 128;
  const int64_t blocks = (columns + kThreads - 1) / kThreads;
  return launch(&sum_rows_of_columns<scalar_t>, blocks, kThreads, 0, stream, rows, sums, count, columns);
}

// The run of kernels::with_norm_act_pool: queues the kernel for all planes on `stream` and gives the launch's
// error.
struct PlaneLaunch {
  using Result = cudaError_t;
  int64_t images;
  cudaStream_t stream;

  template <typename Op>
  cudaError_t forward(const Op& op) const {
    return queue(op, &plane_forward<Op>);
  }
  template <typename Op>
  cudaError_t backward(const Op& op) const {
    return queue(op, &plane_backward<Op>);
  }

 private:
  template <typename Op>
  cudaError_t queue(const Op& op, void (*kernel)(Op)) const {
    const int64_t blocks = images * ((op.arrays.channels + kPlaneChannels - 1) / kPlaneChannels);
    unsigned int rows = 1;
    while (rows < kMostPlaneRows && rows * kPixelsOfRow < op.pixels()) {
      rows *= 2;
    }
    return launch(kernel, blocks, dim3(kPlaneChannels, rows), 0, stream, op);
  }
};

}  // namespace pydistill::cuda
