#pragma once

#include <ATen/core/Tensor.h>

#include "../tensors/augment.h"

namespace pydistill::cuda {

// out[j] <- the images that the recipe names, augmented.
// images: [n, C, H, W], out: [B, C, H, W], in any order in memory, one dtype (float or double); all on one
// GPU. Queued on that device's current stream; no tensor is read back.
void augment(const at::Tensor& images, const tensors::AugmentRecipe& recipe, const at::Tensor& out);

// gradient[i] += factor * the sum, over all j that image i went to, of the transpose of the augmentation of
// grad_out[j]; negate subtracts it.
// grad_out: [B, C, H, W], gradient: [n, C, H, W], in any order in memory; factor: [], or [N] of which `step`
// names one, or undefined for 1; one dtype (float or double); all on one GPU. Queued on its current stream.
void augment_backward(const at::Tensor& grad_out, const tensors::AugmentRecipe& recipe,
                      const at::Tensor& factor, bool negate, const at::Tensor& gradient);

}  // namespace pydistill::cuda
