// The recipe of an augmented batch, and from the tensors that the launchers of augment take, for any device,
// to the pointers that its kernels take.
#pragma once

#include <ATen/core/Tensor.h>

#include "../kernels/augment.h"

namespace pydistill::tensors {

// What makes one batch out of the synthetic images. Tables, those with a dimension [N], hold one row for each
// step; `step` says which one is read. All but the images are contiguous.
struct AugmentRecipe {
  at::Tensor index;        // [B] or [N, B] int64; undefined: all n images in order (B = n)
  at::Tensor operations;   // [L] or [N, L] int64; undefined: none, the batch is just gathered
  at::Tensor parameters;   // [rows, width] or [N, rows, width], dtype of the images; rows = B or 1
  at::Tensor step;         // [] int64 on the device: which row of the tables; undefined: there are none
  bool linear = false;     // leave out what does not depend on the images (brightness): the derivative
  bool transpose = false;  // for `augment` alone: apply the transposes instead, place by place
};

template <typename T, typename Pointer>
kernels::Images<T> images(Pointer* data, const at::Tensor& of) {
  return {{data, of.stride(1), of.stride(2), of.stride(3)}, of.stride(0)};
}

// The row stride of a table; 0 for a tensor without the dimension [N].
inline int64_t table_step(const at::Tensor& table, int64_t dims_of_row) {
  return table.dim() > dims_of_row ? table.stride(0) : 0;
}

// from: what is read, to: what is written, both [*, C, H, W]; images: n; batch: B.
template <typename scalar_t>
kernels::AugmentArrays<scalar_t> augment_arrays(const at::Tensor& from, const AugmentRecipe& recipe,
                                                const at::Tensor& to, int64_t n, int64_t batch) {
  kernels::AugmentArrays<scalar_t> arrays{};
  arrays.from = images<const scalar_t>(from.const_data_ptr<scalar_t>(), from);
  arrays.to = images<scalar_t>(to.mutable_data_ptr<scalar_t>(), to);
  arrays.images = n;
  arrays.batch = batch;
  arrays.size = {from.size(1), from.size(2), from.size(3)};
  arrays.rows = 1;
  arrays.linear = recipe.linear;
  arrays.transpose = recipe.transpose;
  if (recipe.step.defined()) {
    arrays.step = recipe.step.const_data_ptr<int64_t>();
  }
  if (recipe.index.defined()) {
    arrays.index = recipe.index.const_data_ptr<int64_t>();
    arrays.index_step = table_step(recipe.index, 1);
  }
  if (recipe.operations.defined()) {
    arrays.operations = recipe.operations.const_data_ptr<int64_t>();
    arrays.operations_step = table_step(recipe.operations, 1);
    arrays.length = recipe.operations.size(-1);
    arrays.parameters = recipe.parameters.const_data_ptr<scalar_t>();
    arrays.parameters_step = table_step(recipe.parameters, 2);
    arrays.rows = recipe.parameters.size(-2);
    arrays.width = recipe.parameters.size(-1);
  }
  return arrays;
}

// images: [n, C, H, W], out: [B, C, H, W].
template <typename scalar_t>
kernels::AugmentArrays<scalar_t> augment_arrays(const at::Tensor& images, const AugmentRecipe& recipe,
                                                const at::Tensor& out) {
  return augment_arrays<scalar_t>(images, recipe, out, images.size(0), out.size(0));
}

// grad_out: [B, C, H, W], gradient: [n, C, H, W], factor: [] or [N] or undefined.
template <typename scalar_t>
kernels::AugmentArrays<scalar_t> augment_backward_arrays(const at::Tensor& grad_out,
                                                         const AugmentRecipe& recipe,
                                                         const at::Tensor& factor, bool negate,
                                                         const at::Tensor& gradient) {
  auto arrays = augment_arrays<scalar_t>(grad_out, recipe, gradient, gradient.size(0), grad_out.size(0));
  if (factor.defined()) {
    arrays.factor = factor.const_data_ptr<scalar_t>();
    arrays.factor_step = table_step(factor, 0);
  }
  arrays.negate = negate;
  return arrays;
}

}  // namespace pydistill::tensors
