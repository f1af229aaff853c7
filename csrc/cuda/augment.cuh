// Runs a list of augmentations (kernels/augment.h) on a GPU. No torch here, so that nvcc alone compiles it.
//
// A block has one image from its first stage to its last, and its threads share the pixels. Backward, it has
// one source image, with all the places of the batch that it went to, one after the other. No atomics: a
// number is written by one thread, and the number of threads depends on the image's size alone, so the result
// is the same, bit for bit, on every run.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "../kernels/augment.h"
#include "launch.cuh"

namespace pydistill::cuda {

constexpr int kMostAugmentThreads = 256;  // of a block
constexpr int64_t kPixelsPerThread = 2;   // that a thread has at least, before there are more of them
constexpr int kWarpLanes = 32;
constexpr int64_t kBlocksWithWorkspace = 256;    // at most, where the scratch is not in shared memory
constexpr int64_t kSharedByDefault = 40 * 1024;  // bytes of scratch that need no asking

// The sum over all threads of the block, for all of them; every thread must call it, and reach a barrier
// before it does so again. blockDim.x is a power of two.
inline __device__ double sum_of_block(double own) {
  __shared__ double shared[kMostAugmentThreads];
  shared[threadIdx.x] = own;
  __syncthreads();
  for (unsigned int half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) {
      shared[threadIdx.x] += shared[threadIdx.x + half];
    }
    __syncthreads();
  }
  return shared[0];
}

// Writes one pixel.
template <typename scalar_t>
struct WritePixel {
  const kernels::Target<scalar_t>& target;
  int64_t row;
  int64_t column;

  __device__ void operator()(int64_t channel, scalar_t value) const {
    scalar_t& number = target.to.at(channel, row, column);
    number = target.adds ? target.updated(number, value) : value;
  }
};

// The mean of all numbers of an image, for all threads of the block; every thread must call it.
template <typename scalar_t>
__device__ scalar_t mean_of(const kernels::Image<const scalar_t>& from, const kernels::ImageSize& size) {
  const int64_t pixels = size.height * size.width;
  double sum = 0;
  for (int64_t pixel = threadIdx.x; pixel < pixels; pixel += blockDim.x) {
    for (int64_t channel = 0; channel < size.channels; ++channel) {
      sum += static_cast<double>(from.at(channel, pixel / size.width, pixel % size.width));
    }
  }
  return static_cast<scalar_t>(sum_of_block(sum) / static_cast<double>(size.numbers()));
}

// All threads of a block share the pixels of a stage, and wait for each other after it.
template <typename scalar_t>
__device__ void run_stages(const kernels::Stages<scalar_t>& stages) {
  const kernels::ImageSize& size = stages.size;
  const int64_t count = stages.count();
  for (int64_t i = 0; i < count; ++i) {
    const kernels::Stage<scalar_t> stage = stages[i];
    const kernels::Source<scalar_t> from{stage.from, size};
    const scalar_t mean = stage.operation.needs_mean() ? mean_of(stage.from, size) : scalar_t(0);
    const int64_t pixels = size.height * size.width;
    for (int64_t pixel = threadIdx.x; pixel < pixels; pixel += blockDim.x) {
      const int64_t row = pixel / size.width;
      const int64_t column = pixel % size.width;
      stage.operation.pixel(from, mean, row, column, WritePixel<scalar_t>{stage.to, row, column});
    }
    __syncthreads();
  }
}

// All places of the batch that image i went to, in their order. The threads look at as many places at once as
// there are threads.
template <typename scalar_t>
__device__ void augment_image_backward(const kernels::AugmentArrays<scalar_t>& arrays, int64_t i,
                                       scalar_t* scratch) {
  __shared__ unsigned int places[kMostAugmentThreads / kWarpLanes];
  if (arrays.index == nullptr) {
    run_stages(arrays.stages_backward(i, i, scratch));
    return;
  }
  for (int64_t first = 0; first < arrays.batch; first += blockDim.x) {
    const int64_t own = first + threadIdx.x;
    const bool is_own = own < arrays.batch && arrays.source(own) == i;
    if (!__syncthreads_or(is_own)) {
      continue;
    }
    const unsigned int of_warp = __ballot_sync(0xffffffffu, is_own);
    if (threadIdx.x % kWarpLanes == 0) {
      places[threadIdx.x / kWarpLanes] = of_warp;
    }
    __syncthreads();
    for (unsigned int warp = 0; warp < blockDim.x / kWarpLanes; ++warp) {
      for (unsigned int left = places[warp]; left != 0; left &= left - 1) {
        const int64_t j = first + warp * kWarpLanes + (__ffs(static_cast<int>(left)) - 1);
        run_stages(arrays.stages_backward(i, j, scratch));
      }
    }
  }
}

template <bool kBackward, typename scalar_t>
__global__ void __launch_bounds__(kMostAugmentThreads, 2)
    augment_images(const kernels::AugmentArrays<scalar_t> arrays,
                   scalar_t* workspace,      // [blocks, buffers, C, H, W]; null: shared memory is enough
                   int64_t block_numbers) {  // buffers * C * H * W
  extern __shared__ double shared_scratch[];
  scalar_t* scratch = workspace == nullptr ? reinterpret_cast<scalar_t*>(shared_scratch)
                                           : workspace + blockIdx.x * block_numbers;
  const int64_t images = kBackward ? arrays.images : arrays.batch;
  for (int64_t i = blockIdx.x; i < images; i += gridDim.x) {
    if constexpr (kBackward) {
      augment_image_backward(arrays, i, scratch);
    } else {
      run_stages(arrays.stages(i, scratch));
    }
  }
}

// How a batch is launched, and the scratch of each block.
struct AugmentPlan {
  int64_t blocks;
  int64_t block_numbers;  // of scratch
  unsigned int threads;
  size_t shared_bytes;
  int64_t most_shared_bytes;  // that a block may ask for
  bool needs_workspace;       // of blocks * block_numbers numbers
};

// items: images that a block each has; stages: L; shared_limit: the bytes of shared memory that a block may
// ask for on this device.
template <typename scalar_t>
AugmentPlan augment_plan(const kernels::AugmentArrays<scalar_t>& arrays, int64_t items,
                         int64_t shared_limit) {
  AugmentPlan plan{};
  plan.block_numbers = kernels::images_between(arrays.length) * arrays.size.numbers();
  plan.threads = 2 * kWarpLanes;
  while (plan.threads < kMostAugmentThreads &&
         plan.threads * kPixelsPerThread < arrays.size.height * arrays.size.width) {
    plan.threads *= 2;
  }
  const int64_t bytes = plan.block_numbers * static_cast<int64_t>(sizeof(scalar_t));
  // What the kernel has of its own in shared memory comes on top.
  const int64_t own_bytes = kMostAugmentThreads * static_cast<int64_t>(sizeof(double)) + 1024;
  plan.most_shared_bytes = shared_limit - own_bytes;
  plan.needs_workspace = bytes > kSharedByDefault && bytes > plan.most_shared_bytes;
  plan.shared_bytes = plan.needs_workspace ? 0 : static_cast<size_t>(bytes);
  plan.blocks = plan.needs_workspace && items > kBlocksWithWorkspace ? kBlocksWithWorkspace : items;
  return plan;
}

// Queues a batch, or with kBackward the gradients of its sources, on `stream`; gives the launch's error.
// workspace: null unless the plan needs one.
template <bool kBackward, typename scalar_t>
cudaError_t augment(const kernels::AugmentArrays<scalar_t>& arrays, const AugmentPlan& plan,
                    scalar_t* workspace, cudaStream_t stream) {
  // An empty batch has an empty index, whose address may be null as that of no index.
  if (arrays.batch == 0 || arrays.size.numbers() == 0) {
    return cudaSuccess;
  }
  const auto kernel = &augment_images<kBackward, scalar_t>;
  if (plan.shared_bytes > static_cast<size_t>(kSharedByDefault)) {
    // Always all that there is: another thread may be about to launch with more than this call needs.
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(plan.most_shared_bytes));
    if (error != cudaSuccess) {
      return error;
    }
  }
  return launch(kernel, plan.blocks, plan.threads, plan.shared_bytes, stream, arrays, workspace,
                plan.block_numbers);
}

}  // namespace pydistill::cuda
