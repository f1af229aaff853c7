#include "student.h"

#include <ATen/Parallel.h>
#include <ATen/ops/sum.h>

#include "kernels.h"

namespace pydistill::engine {

Student::Student(const Architecture& architecture, at::TensorOptions options, int64_t largest_batch,
                 Convolutions convolutions, int64_t slice_bytes)
    : options_(options),
      layout_(architecture),
      parameters_(layout_, options),
      slices_(layout_, options, largest_batch, convolutions, slice_bytes) {}

void Student::check_labels(const at::Tensor& labels, int64_t images) const {
  const int64_t classes = layout_.architecture.classes;
  const bool hard = labels.dim() == 1 && labels.scalar_type() == at::kLong;
  const bool soft = labels.dim() == 2 && labels.size(1) == classes && labels.dtype() == options_.dtype();
  const at::Device device = parameters_.theta.device();
  TORCH_CHECK_VALUE((hard || soft) && labels.size(0) == images && labels.device() == device, "labels are ",
                    labels.dtype(), " ", labels.sizes(), " on ", labels.device(),
                    "; this student takes int64 [", images, "] or rows [", images, ", ", classes, "] of ",
                    options_.dtype(), " on ", device);
}

void Student::copy_to_inputs(const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images) {
  const Architecture& a = layout_.architecture;
  TORCH_CHECK_VALUE(images.dim() == 4 && images.size(1) == a.channels && images.size(2) == a.height &&
                        images.size(3) == a.width,
                    "images have shape ", images.sizes(), "; this student takes [B, ", a.channels, ", ",
                    a.height, ", ", a.width, "]");
  for (const at::Tensor* vector : {&theta, &lambda}) {
    TORCH_CHECK_VALUE(!vector->defined() || (vector->dim() == 1 && vector->numel() == parameters()),
                      "parameters have shape ", vector->sizes(), "; this student has [", parameters(), "]");
  }
  const at::Device device = parameters_.theta.device();
  for (const at::Tensor* tensor : {&theta, &lambda, &images}) {
    TORCH_CHECK_VALUE(
        !tensor->defined() || (tensor->dtype() == options_.dtype() && tensor->device() == device),
        "a tensor is ", tensor->dtype(), " on ", tensor->device(), "; this student computes in ",
        options_.dtype(), " on ", device);
  }
  const Inputs memory = inputs(images.size(0));
  memory.theta.copy_(theta);
  if (lambda.defined()) {
    memory.lambda.copy_(lambda);
  }
  memory.images.copy_(images);
}

Student::Inputs Student::inputs(int64_t batch) {
  slices_.set_size(batch);
  return {parameters_.theta, parameters_.lambda, slices_.images()};
}

const at::Tensor& Student::gradient(const at::Tensor& theta, const at::Tensor& images,
                                    const at::Tensor& labels) {
  check_labels(labels, images.size(0));
  copy_to_inputs(theta, {}, images);
  return gradient_of_inputs(labels);
}

const at::Tensor& Student::gradient_of_inputs(const at::Tensor& labels) {
  check_labels(labels, slices_.size());
  const cpu::OnOneThread threads = one_thread_if_small();
  begin_pass(false);
  slices_.for_each([&](const Slice& slice, const WorkerSlot& slot) {
    SlicePasses(layout_, parameters_, slice, slot, slices_.size()).gradient(labels);
  });
  write_parameter_gradient(false);
  in_pass_ = false;
  return parameters_.result;
}

const at::Tensor& Student::classify(const at::Tensor& theta, const at::Tensor& images) {
  copy_to_inputs(theta, {}, images);
  const cpu::OnOneThread threads = one_thread_if_small();
  begin_pass(false);
  slices_.for_each([&](const Slice& slice, const WorkerSlot& slot) {
    SlicePasses(layout_, parameters_, slice, slot, slices_.size()).classify();
  });
  in_pass_ = false;
  return slices_.logits();
}

Student::Adjoint Student::adjoint(const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images,
                                  const at::Tensor& labels, const AdjointOutputs& outputs) {
  check_labels(labels, images.size(0));
  copy_to_inputs(theta, lambda, images);
  return adjoint_of_inputs(labels, outputs);
}

Student::Adjoint Student::adjoint_of_inputs(const at::Tensor& labels, const AdjointOutputs& outputs) {
  check_labels(labels, slices_.size());
  const cpu::OnOneThread threads = one_thread_if_small();
  begin_pass(true);
  slices_.for_each([&](const Slice& slice, const WorkerSlot& slot) {
    SlicePasses(layout_, parameters_, slice, slot, slices_.size()).adjoint(labels, outputs);
  });
  Adjoint result;
  result.inner = slices_.losses().sum();
  if (outputs.product) {
    write_parameter_gradient(true);
    result.product = parameters_.result;
  }
  in_pass_ = false;
  if (outputs.images) {
    result.images = slices_.image_gradients();
  }
  if (outputs.labels) {
    result.labels = slices_.label_gradients();
  }
  return result;
}

void Student::begin_pass(bool with_tangents) {
  discard_unfinished_pass();
  in_pass_ = true;
  const auto read = [&](LinearMap& map, const ParameterViews& weight) {
    map.read_weights(weight.value, with_tangents ? weight.tangent : at::Tensor());
  };
  const WorkerSlot& slot = slices_.slots().front();  // whose weights the others share
  for (size_t i = 0; i < slot.blocks.size(); ++i) {
    read(*slot.blocks[i].map, parameters_.blocks[i].weight);
  }
  read(*slot.head, parameters_.head_weight);
}

void Student::discard_unfinished_pass() {
  if (!in_pass_) {
    return;
  }
  for (const WorkerSlot& slot : slices_.slots()) {
    for (size_t i = 0; i < slot.blocks.size(); ++i) {
      slot.blocks[i].map->flush_weight_gradient(parameters_.blocks[i].weight.gradient);
    }
    slot.head->flush_weight_gradient(parameters_.head_weight.gradient);
  }
  in_pass_ = false;
}

// Writes g, or its tangent H lambda, from what the slices have added up.
void Student::write_parameter_gradient(bool tangent) {
  const int64_t rows = tangent ? 4 : 2;  // of parameter_grads: weight and bias, and with tangents theirs
  const int64_t row = tangent ? 2 : 0;
  const std::vector<WorkerSlot>& slots = slices_.slots();
  const auto write_weight = [&](const auto& map_of, const ParameterViews& weight) {
    for (size_t slot = 1; slot < slices_.slots_in_use(); ++slot) {
      at::Tensor sum = map_of(slots[slot]).weight_gradient_sum();
      map_of(slots.front()).weight_gradient_sum().add_(sum);
      sum.zero_();
    }
    map_of(slots.front()).flush_weight_gradient(weight.gradient);
  };
  for (size_t i = 0; i < parameters_.blocks.size(); ++i) {
    const BlockParameters& block = parameters_.blocks[i];
    write_weight([&](const WorkerSlot& slot) -> LinearMap& { return *slot.blocks[i].map; }, block.weight);
    const at::Tensor sums = slices_.parameter_sums(i, rows);
    PYDISTILL_ON_DEVICE_OF(sums, sum_images, slices_.parameter_grads(i, rows), sums);
    if (block.scale().value.defined()) {
      block.scale().gradient.copy_(sums.select(0, row));
    }
    block.shift().gradient.copy_(sums.select(0, row + 1));
  }
  write_weight([](const WorkerSlot& slot) -> LinearMap& { return *slot.head; }, parameters_.head_weight);
  at::Tensor bias = parameters_.head_bias.gradient;
  at::sum_out(bias, slices_.logit_gradients(tangent), {0});
}

// ATen sets its number of threads when a thread begins its first loop, in PyTorch's libraries and in this
// one: that has to happen before the number is read.
cpu::OnOneThread Student::one_thread_if_small() const {
  at::internal::lazy_init_num_threads();
  return cpu::OnOneThread(options_.device().is_cpu() && at::get_num_threads() > 1 &&
                          !layout_.gains_from_threads(slices_.size()));
}

}  // namespace pydistill::engine
