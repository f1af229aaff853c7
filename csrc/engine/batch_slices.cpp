#include "batch_slices.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <utility>

namespace pydistill::engine {
namespace {

// A slice's share of a CPU's caches: between 12 and 24 MB the time hardly differs at batch 100, and at batch
// 10 the least is best.
constexpr int64_t kSliceBytesOnCpu = 12 << 20;

// With more threads than slots, or one, the slices are worked on in turn, all threads together.
constexpr int64_t kMostSlots = 2;

// A view of a flat tensor from `offset` on as [images, channels, height, width], channels-last.
at::Tensor channels_last(const at::Tensor& flat, int64_t offset, int64_t images, const Planes& planes) {
  return flat.as_strided({images, planes.channels, planes.height, planes.width},
                         {planes.numel(), 1, planes.width * planes.channels, planes.channels}, offset);
}

enum class Order { kValueFirst, kTangentFirst };

// A value and its tangent for `images` images, one behind the other in `memory`. Gradients have the tangent
// first, as LinearMap expects them. Undefined if the memory is.
DualTensor dual_view(const at::Tensor& memory, int64_t images, const Planes& planes, Order order) {
  if (!memory.defined()) {
    return {};
  }
  const int64_t size = images * planes.numel();
  const bool tangent_first = order == Order::kTangentFirst;
  return {channels_last(memory, tangent_first ? size : 0, images, planes),
          channels_last(memory, tangent_first ? 0 : size, images, planes)};
}

Planes image_planes(const Architecture& a) { return {a.channels, a.height, a.width}; }

}  // namespace

BatchSlices::BatchSlices(const StudentLayout& layout, at::TensorOptions options, int64_t largest_batch,
                         Convolutions convolutions, int64_t slice_bytes)
    : layout_(layout), options_(options), largest_batch_(largest_batch), convolutions_(convolutions) {
  const Architecture& a = layout_.architecture;
  const bool on_cpu = options_.device().is_cpu();
  const int64_t budget = slice_bytes > 0 ? slice_bytes : on_cpu ? kSliceBytesOnCpu : INT64_MAX;
  const int64_t image_bytes = layout_.bytes_per_image(static_cast<int64_t>(options_.dtype().itemsize()));
  slice_images_ = std::clamp<int64_t>(budget / image_bytes, 1, largest_batch_);
  for (size_t block = 0; block < layout_.blocks.size(); ++block) {
    blocks_.push_back(
        {at::empty({largest_batch_ * 4 * a.units}, options_), at::empty({4, a.units}, options_)});
  }
  slots_.push_back(new_slot());
  images_memory_ = at::empty({largest_batch_ * image_planes(a).numel()}, options_);
  image_gradients_memory_ = at::empty_like(images_memory_);
  logits_memory_ = at::empty({2 * largest_batch_ * a.classes}, options_);
  logit_gradients_memory_ = at::empty_like(logits_memory_);
  losses_memory_ = at::empty({largest_batch_}, options_);
  label_gradients_memory_ = at::empty({largest_batch_ * a.classes}, options_);
}

bool BatchSlices::runs_builtin_convolutions() const {
  return convolutions_ == Convolutions::kBuiltin && options_.device().is_cpu();
}

// The maps of the second slot multiply by the weights that the first slot's read.
WorkerSlot BatchSlices::new_slot() const {
  const WorkerSlot* const first = slots_.empty() ? nullptr : &slots_.front();
  const auto dual = [&](int64_t numel) { return at::empty({2 * slice_images_ * numel}, options_); };
  WorkerSlot slot;
  int64_t largest_z = 0;
  int64_t largest_out = 0;
  for (const BlockLayout& block : layout_.blocks) {
    ConvolutionShape shape = block.map;
    shape.images = slice_images_;
    WorkerSlot::Block memory;
    if (first != nullptr) {
      memory.map = first->blocks[slot.blocks.size()].map->with_shared_weights();
    } else if (!layout_.architecture.convolutional) {
      memory.map = dense(shape.inputs, shape.height * shape.width, shape.outputs, options_);
    } else {
      memory.map =
          runs_builtin_convolutions() ? cpu_convolution(shape, options_) : aten_convolution(shape, options_);
    }
    memory.z = memory.map->writes_in_place() ? dual(block.z.numel()) : at::Tensor();
    memory.out = dual(block.out.numel());
    memory.stats = at::empty({slice_images_ * 4 * layout_.architecture.units}, options_);
    largest_z = std::max(largest_z, block.z.numel());
    largest_out = std::max(largest_out, block.out.numel());
    slot.blocks.push_back(std::move(memory));
  }
  slot.dz = dual(largest_z);
  slot.dout = dual(largest_out);
  const Planes& features = layout_.features;
  slot.head = first != nullptr ? first->head->with_shared_weights()
                               : dense(features.channels, features.height * features.width,
                                       layout_.architecture.classes, options_);
  return slot;
}

void BatchSlices::set_size(int64_t images) {
  TORCH_CHECK_VALUE(images >= 1 && images <= largest_batch_, "a batch has ", images,
                    " images; this student takes 1 to ", largest_batch_);
  if (images == size_) {
    return;
  }
  slices_.clear();
  size_ = 0;  // until the slices are complete
  const int64_t slots = runs_builtin_convolutions() && layout_.gains_from_threads(images) ? kMostSlots : 1;
  while (static_cast<int64_t>(slots_.size()) < slots) {
    slots_.push_back(new_slot());
  }
  // The same number for each slot, and of sizes as even as can be.
  const int64_t needed = (images + slice_images_ - 1) / slice_images_;
  const int64_t slices = std::min(images, (needed + slots - 1) / slots * slots);
  for (int64_t number = 0; number < slices; ++number) {
    const int64_t first = number * images / slices;
    const int64_t last = (number + 1) * images / slices;
    const auto slot = static_cast<size_t>(number * slots / slices);
    slices_.push_back(new_slice(slot, first, last - first, images));
  }
  size_ = images;
  const int64_t classes = layout_.architecture.classes;
  logits_ = logits_memory_.as_strided({images, classes}, {classes, 1}, 0);
  losses_ = losses_memory_.narrow(0, 0, images);
}

Slice BatchSlices::new_slice(size_t slot, int64_t first, int64_t images, int64_t batch) const {
  const Architecture& a = layout_.architecture;
  const WorkerSlot& memory = slots_[slot];
  const Planes planes = image_planes(a);
  const auto rows = [&](const at::Tensor& flat, int64_t row) {
    return flat.as_strided({images, a.classes}, {a.classes, 1}, row * a.classes);
  };
  const auto per_image = [&](const at::Tensor& flat, int64_t k, int64_t from) {
    return flat.as_strided({images, k, a.units}, {k * a.units, a.units, 1}, from * k * a.units);
  };
  Slice slice;
  slice.slot = slot;
  slice.first = first;
  slice.images = images;
  slice.pixels = channels_last(images_memory_, first * planes.numel(), images, planes);
  slice.pixel_gradients = channels_last(image_gradients_memory_, first * planes.numel(), images, planes);
  slice.logits = {rows(logits_memory_, first), rows(logits_memory_, batch + first)};
  slice.logit_gradients = {rows(logit_gradients_memory_, first),
                           rows(logit_gradients_memory_, batch + first)};
  slice.losses = losses_memory_.narrow(0, first, images);
  slice.label_gradients = rows(label_gradients_memory_, first);
  for (size_t i = 0; i < layout_.blocks.size(); ++i) {
    const BlockLayout& block = layout_.blocks[i];
    Slice::Block views;
    views.z = dual_view(memory.blocks[i].z, images, block.z, Order::kValueFirst);
    views.out = dual_view(memory.blocks[i].out, images, block.out, Order::kValueFirst);
    views.dz = dual_view(memory.dz, images, block.z, Order::kTangentFirst);
    views.dout = dual_view(memory.dout, images, block.out, Order::kTangentFirst);
    if (block.settings.norm == kernels::Norm::kInstance) {
      views.stats2 = per_image(memory.blocks[i].stats, 2, 0);
      views.stats4 = per_image(memory.blocks[i].stats, 4, 0);
    }
    views.parameter_grads2 = per_image(blocks_[i].parameter_grads, 2, first);
    views.parameter_grads4 = per_image(blocks_[i].parameter_grads, 4, first);
    slice.blocks.push_back(std::move(views));
  }
  return slice;
}

at::Tensor BatchSlices::images() const {
  return channels_last(images_memory_, 0, size_, image_planes(layout_.architecture));
}

at::Tensor BatchSlices::image_gradients() const {
  return channels_last(image_gradients_memory_, 0, size_, image_planes(layout_.architecture));
}

at::Tensor BatchSlices::logit_gradients(bool tangent) const {
  const int64_t classes = layout_.architecture.classes;
  return logit_gradients_memory_.as_strided({size_, classes}, {classes, 1}, (tangent ? size_ : 0) * classes);
}

at::Tensor BatchSlices::label_gradients() const {
  const int64_t classes = layout_.architecture.classes;
  return label_gradients_memory_.as_strided({size_, classes}, {classes, 1}, 0);
}

at::Tensor BatchSlices::parameter_grads(size_t block, int64_t rows) const {
  const int64_t units = layout_.architecture.units;
  return blocks_[block].parameter_grads.as_strided({size_, rows, units}, {rows * units, units, 1}, 0);
}

at::Tensor BatchSlices::parameter_sums(size_t block, int64_t rows) const {
  return blocks_[block].sums.narrow(0, 0, rows);
}

}  // namespace pydistill::engine
