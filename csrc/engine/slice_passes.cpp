#include "slice_passes.h"

#include "kernels.h"

namespace pydistill::engine {

SlicePasses::SlicePasses(const StudentLayout& layout, const StudentParameters& parameters, const Slice& slice,
                         const WorkerSlot& slot, int64_t batch)
    : layout_(layout),
      parameters_(parameters),
      slice_(slice),
      slot_(slot),
      scale_(1.0 / static_cast<double>(batch)) {}

at::Tensor SlicePasses::labels_of_slice(const at::Tensor& labels) const {
  return labels.narrow(0, slice_.first, slice_.images);
}

std::vector<at::Tensor> SlicePasses::forward() const {
  std::vector<at::Tensor> z;
  at::Tensor x = slice_.pixels;
  for (size_t i = 0; i < layout_.blocks.size(); ++i) {
    const BlockParameters& block = parameters_.blocks[i];
    const Slice::Block& views = slice_.blocks[i];
    z.push_back(slot_.blocks[i].map->forward(x, views.z.value));
    PYDISTILL_ON_DEVICE_OF(x, norm_act_pool, layout_.blocks[i].settings, z.back(), block.scale().value,
                           block.shift().value, views.out.value, views.stats2);
    x = views.out.value;
  }
  slot_.head->forward(x, slice_.logits.value);
  slice_.logits.value.add_(parameters_.head_bias.value);
  return z;
}

std::vector<DualTensor> SlicePasses::forward_jvp() const {
  std::vector<DualTensor> z;
  DualTensor x = {slice_.pixels, {}};
  for (size_t i = 0; i < layout_.blocks.size(); ++i) {
    const BlockParameters& block = parameters_.blocks[i];
    const Slice::Block& views = slice_.blocks[i];
    z.push_back(slot_.blocks[i].map->forward_jvp(x, views.z));
    PYDISTILL_ON_DEVICE_OF(x.value, norm_act_pool_jvp, layout_.blocks[i].settings, z.back().value,
                           z.back().tangent, block.scale().value, block.scale().tangent, block.shift().value,
                           block.shift().tangent, views.out.value, views.out.tangent, views.stats4);
    x = views.out;
  }
  slot_.head->forward_jvp(x, slice_.logits);
  slice_.logits.value.add_(parameters_.head_bias.value);
  slice_.logits.tangent.add_(parameters_.head_bias.tangent);
  return z;
}

void SlicePasses::gradient(const at::Tensor& labels) const {
  const std::vector<at::Tensor> z = forward();
  PYDISTILL_ON_DEVICE_OF(slice_.losses, softmax_xent_backward, slice_.logits.value, labels_of_slice(labels),
                         scale_, slice_.losses, slice_.logit_gradients.value, at::Tensor());
  const bool has_blocks = !slice_.blocks.empty();
  slot_.head->add_weight_gradient(has_blocks ? slice_.blocks.back().out.value : slice_.pixels,
                                  slice_.logit_gradients.value);
  at::Tensor dout;
  if (has_blocks) {
    dout = slot_.head->input_gradient(slice_.logit_gradients.value, slice_.blocks.back().dout.value);
  }
  for (size_t i = slice_.blocks.size(); i-- > 0;) {
    const BlockParameters& block = parameters_.blocks[i];
    const Slice::Block& views = slice_.blocks[i];
    LinearMap& map = *slot_.blocks[i].map;
    PYDISTILL_ON_DEVICE_OF(dout, norm_act_pool_backward, layout_.blocks[i].settings, dout, z[i],
                           block.scale().value, block.shift().value, views.stats2, views.dz.value,
                           views.parameter_grads2);
    const bool first = i == 0;
    map.add_weight_gradient(first ? slice_.pixels : slice_.blocks[i - 1].out.value, views.dz.value);
    if (!first) {
      dout = map.input_gradient(views.dz.value, slice_.blocks[i - 1].dout.value);
    }
  }
}

void SlicePasses::adjoint(const at::Tensor& labels, const AdjointOutputs& outputs) const {
  const std::vector<DualTensor> z = forward_jvp();
  PYDISTILL_ON_DEVICE_OF(slice_.losses, softmax_xent_backward_jvp, slice_.logits.value, slice_.logits.tangent,
                         labels_of_slice(labels), scale_, slice_.losses, slice_.logit_gradients.value,
                         slice_.logit_gradients.tangent,
                         outputs.labels ? slice_.label_gradients : at::Tensor());
  if (!outputs.product && !outputs.images) {
    return;
  }
  const bool has_blocks = !slice_.blocks.empty();
  if (outputs.product) {
    slot_.head->add_weight_gradient_jvp(has_blocks ? slice_.blocks.back().out : DualTensor{slice_.pixels, {}},
                                        slice_.logit_gradients);
  }
  DualTensor dout;
  if (has_blocks) {
    dout = slot_.head->input_gradient_jvp(slice_.logit_gradients, slice_.blocks.back().dout);
  } else if (outputs.images) {
    slot_.head->input_gradient_jvp(slice_.logit_gradients, {{}, slice_.pixel_gradients});
  }
  for (size_t i = slice_.blocks.size(); i-- > 0;) {
    const BlockParameters& block = parameters_.blocks[i];
    const Slice::Block& views = slice_.blocks[i];
    LinearMap& map = *slot_.blocks[i].map;
    PYDISTILL_ON_DEVICE_OF(dout.value, norm_act_pool_backward_jvp, layout_.blocks[i].settings, dout.value,
                           dout.tangent, z[i].value, z[i].tangent, block.scale().value, block.scale().tangent,
                           block.shift().value, block.shift().tangent, views.stats4, views.dz.value,
                           views.dz.tangent, views.parameter_grads4);
    const bool first = i == 0;
    if (outputs.product) {
      map.add_weight_gradient_jvp(first ? DualTensor{slice_.pixels, {}} : slice_.blocks[i - 1].out, views.dz);
    }
    if (!first) {
      dout = map.input_gradient_jvp(views.dz, slice_.blocks[i - 1].dout);
    } else if (outputs.images) {
      const DualTensor gradient = map.input_gradient_jvp(views.dz, {{}, slice_.pixel_gradients});
      if (!gradient.tangent.is_same(slice_.pixel_gradients)) {
        slice_.pixel_gradients.copy_(gradient.tangent);
      }
    }
  }
}

}  // namespace pydistill::engine
