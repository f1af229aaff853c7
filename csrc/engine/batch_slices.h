// The memory of a batch, and how a batch is cut into slices and shared out among threads.
//
// On a CPU a slice has so few images that what it needs stays in the caches. The slices depend on the network
// and the batch alone, never on the number of threads. Each belongs to a worker slot, which has the memory
// for one slice; with two slots, two threads share the batch and do not wait for each other until the end.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "linear_map.h"
#include "student_layout.h"

namespace pydistill::engine {

// Which code runs a ConvNet's convolutions: the loops of csrc/cpu (on a CPU alone), or ATen's.
enum class Convolutions { kBuiltin, kAten };

// Linear maps, and memory for the largest slice.
struct WorkerSlot {
  struct Block {
    std::unique_ptr<LinearMap> map;
    at::Tensor z;      // value and tangent; undefined if the map allocates its results
    at::Tensor out;    // value and tangent
    at::Tensor stats;  // [images, 4, channels]
  };
  std::vector<Block> blocks;
  std::unique_ptr<LinearMap> head;
  at::Tensor dz;  // value and tangent, for the largest block
  at::Tensor dout;
};

// One slice's part of the batch's memory, and of its slot's.
struct Slice {
  struct Block {
    DualTensor z;
    DualTensor out;
    DualTensor dz;
    DualTensor dout;
    at::Tensor stats2;  // of the passes without and with tangents; undefined without a norm
    at::Tensor stats4;
    at::Tensor parameter_grads2;
    at::Tensor parameter_grads4;
  };

  size_t slot;
  int64_t first;  // image of the batch
  int64_t images;
  at::Tensor pixels;
  at::Tensor pixel_gradients;
  DualTensor logits;
  DualTensor logit_gradients;
  at::Tensor losses;
  at::Tensor label_gradients;
  std::vector<Block> blocks;
};

class BatchSlices {
 public:
  // slice_bytes: memory that a slice may need; 0 leaves it to the device.
  BatchSlices(const StudentLayout& layout, at::TensorOptions options, int64_t largest_batch,
              Convolutions convolutions, int64_t slice_bytes);

  // Cuts batches of this size from now on.
  void set_size(int64_t images);
  int64_t size() const { return size_; }

  // Calls work(slice, slot) for each slice; those of one slot in order.
  template <typename Work>
  void for_each(const Work& work);

  const std::vector<WorkerSlot>& slots() const { return slots_; }
  // How many of them the slices use.
  size_t slots_in_use() const { return slices_.back().slot + 1; }

  // The batch: of the largest one's memory the first part.
  at::Tensor images() const;                                     // [B, C, H, W], channels-last
  at::Tensor image_gradients() const;                            // likewise
  const at::Tensor& logits() const { return logits_; }           // [B, K]
  const at::Tensor& losses() const { return losses_; }           // [B]
  at::Tensor logit_gradients(bool tangent) const;                // [B, K]
  at::Tensor label_gradients() const;                            // [B, K]
  at::Tensor parameter_grads(size_t block, int64_t rows) const;  // [B, rows, units]
  at::Tensor parameter_sums(size_t block, int64_t rows) const;   // [rows, units]

 private:
  struct BlockMemory {
    at::Tensor parameter_grads;  // [largest batch, 4, units]
    at::Tensor sums;             // [4, units]
  };

  WorkerSlot new_slot() const;
  Slice new_slice(size_t slot, int64_t first, int64_t images, int64_t batch) const;
  bool runs_builtin_convolutions() const;

  const StudentLayout& layout_;
  at::TensorOptions options_;
  int64_t largest_batch_;
  Convolutions convolutions_;
  int64_t slice_images_;

  std::vector<BlockMemory> blocks_;
  at::Tensor images_memory_;  // [largest batch, C, H, W]
  at::Tensor image_gradients_memory_;
  at::Tensor logits_memory_;  // [2, largest batch, K]: values and tangents
  at::Tensor logit_gradients_memory_;
  at::Tensor losses_memory_;           // [largest batch]
  at::Tensor label_gradients_memory_;  // [largest batch, K]

  int64_t size_ = 0;
  at::Tensor logits_;
  at::Tensor losses_;
  std::vector<WorkerSlot> slots_;
  std::vector<Slice> slices_;
};

template <typename Work>
void BatchSlices::for_each(const Work& work) {
  const auto slots = static_cast<int64_t>(slots_in_use());
  if (slots > 1 && at::get_num_threads() > 1 && at::get_num_threads() <= slots && !at::in_parallel_region()) {
    at::parallel_for(0, slots, 1, [&](int64_t first, int64_t last) {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;  // this state belongs to a thread
      for (const Slice& slice : slices_) {
        const auto slot = static_cast<int64_t>(slice.slot);
        if (slot >= first && slot < last) {
          work(slice, slots_[slice.slot]);
        }
      }
    });
    return;
  }
  for (const Slice& slice : slices_) {
    work(slice, slots_[slice.slot]);
  }
}

}  // namespace pydistill::engine
