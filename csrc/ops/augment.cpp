#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"  // torch's own
#include <ATen/EmptyTensor.h>
#include <torch/csrc/autograd/custom_function.h>
#pragma GCC diagnostic pop
#include <torch/library.h>

#include <optional>
#include <utility>

#include "../cpu/augment.h"
#include "../cpu/kept_memory.h"
#if defined(PYDISTILL_WITH_CUDA)
#include "../cuda/augment.h"
#endif

namespace pydistill::ops {
namespace {

using tensors::AugmentRecipe;

void check_device(const at::Tensor& value, const char* name, const at::Tensor& images) {
  TORCH_CHECK_VALUE(value.device() == images.device(), "augment: ", name, " is on ", value.device(),
                    " where images is on ", images.device());
}

// On a GPU nobody looks at the numbers: the kernels turn the images of wrong ones into NaN.
void check_numbers(const at::Tensor& operations, const at::Tensor& parameters, const at::Tensor& index,
                   int64_t count) {
  const int64_t* number = operations.const_data_ptr<int64_t>();
  int64_t width = 0;
  for (int64_t k = 0; k < operations.numel() && number[k] != -1; ++k) {
    const int64_t columns = kernels::augmentation_columns(number[k]);
    TORCH_CHECK_VALUE(columns > 0, "augment: operations[", k, "] is ", number[k],
                      "; an operation is a number from 0 to 5, and -1 ends the list");
    width += columns;
  }
  TORCH_CHECK_VALUE(width <= parameters.size(1), "augment: parameters has shape ", parameters.sizes(),
                    " where the operations need ", width, " columns");
  if (index.defined()) {
    const int64_t* source = index.const_data_ptr<int64_t>();
    for (int64_t j = 0; j < index.numel(); ++j) {
      TORCH_CHECK_VALUE(0 <= source[j] && source[j] < count, "augment: index[", j, "] is ", source[j],
                        " where there are ", count, " images");
    }
  }
}

// images: [*, C, H, W], of which the recipe makes `batch`; count: n.
AugmentRecipe checked_recipe(const at::Tensor& images, const at::Tensor& operations,
                             const at::Tensor& parameters, const std::optional<at::Tensor>& index,
                             int64_t batch, int64_t count) {
  TORCH_CHECK_VALUE(images.scalar_type() == at::kFloat || images.scalar_type() == at::kDouble,
                    "augment: images is ", images.scalar_type(), "; it must be float32 or float64");
  TORCH_CHECK_VALUE(images.dim() == 4, "augment: images has shape ", images.sizes(),
                    "; it must be [n, C, H, W]");
  TORCH_CHECK_VALUE(operations.scalar_type() == at::kLong && operations.dim() == 1, "augment: operations is ",
                    operations.scalar_type(), " of shape ", operations.sizes(), "; it must be int64 [L]");
  TORCH_CHECK_VALUE(parameters.scalar_type() == images.scalar_type(), "augment: parameters is ",
                    parameters.scalar_type(), " where images is ", images.scalar_type());
  TORCH_CHECK_VALUE(parameters.dim() == 2 && (parameters.size(0) == 1 || parameters.size(0) == batch),
                    "augment: parameters has shape ", parameters.sizes(), " for a batch of ", batch,
                    " images; it must be [B, width], or [1, width] for one set that all share");
  check_device(operations, "operations", images);
  check_device(parameters, "parameters", images);
  AugmentRecipe recipe;
  if (index.has_value()) {
    TORCH_CHECK_VALUE(index->scalar_type() == at::kLong && index->dim() == 1, "augment: index is ",
                      index->scalar_type(), " of shape ", index->sizes(), "; it must be int64 [B]");
    check_device(*index, "index", images);
    recipe.index = index->contiguous();
  }
  recipe.operations = operations.contiguous();
  recipe.parameters = parameters.contiguous();
  if (images.is_cpu()) {
    check_numbers(recipe.operations, recipe.parameters, recipe.index, count);
  }
  return recipe;
}

// Channels-last if `like` is that and no other order.
at::Tensor empty_images(int64_t count, const at::Tensor& like) {
  const bool channels_last = like.is_contiguous(at::MemoryFormat::ChannelsLast) && !like.is_contiguous();
  const auto order = channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous;
  const int64_t sizes[] = {count, like.size(1), like.size(2), like.size(3)};
  if (like.is_cpu()) {
    return at::detail::empty_generic(sizes, cpu::kept_memory(), c10::DispatchKeySet(c10::DispatchKey::CPU),
                                     like.scalar_type(), order);
  }
  return at::empty(sizes, like.options(), order);
}

using Launcher = void (*)(const at::Tensor& images, const AugmentRecipe& recipe, const at::Tensor& out);

template <Launcher launch>
at::Tensor augment(const at::Tensor& images, const at::Tensor& operations, const at::Tensor& parameters,
                   const std::optional<at::Tensor>& index, bool linear) {
  const int64_t count = images.dim() == 4 ? images.size(0) : 0;
  const int64_t batch = index.has_value() ? index->numel() : count;
  AugmentRecipe recipe = checked_recipe(images, operations, parameters, index, batch, count);
  recipe.linear = linear;
  const at::Tensor out = empty_images(batch, images);
  launch(images, recipe, out);
  return out;
}

using BackwardLauncher = void (*)(const at::Tensor& grad_out, const AugmentRecipe& recipe,
                                  const at::Tensor& factor, bool negate, const at::Tensor& gradient);

template <Launcher launch_forward, BackwardLauncher launch>
at::Tensor augment_backward(const at::Tensor& grad_out, const at::Tensor& operations,
                            const at::Tensor& parameters, const std::optional<at::Tensor>& index,
                            int64_t count) {
  const int64_t batch = grad_out.dim() == 4 ? grad_out.size(0) : 0;
  AugmentRecipe recipe = checked_recipe(grad_out, operations, parameters, index, batch, count);
  TORCH_CHECK_VALUE(index.has_value() ? index->numel() == batch : count == batch, "augment: grad_out holds ",
                    batch, " images where the batch has ", index.has_value() ? index->numel() : count);
  const at::Tensor gradient = empty_images(count, grad_out);
  if (index.has_value()) {
    launch(grad_out, recipe, /*factor=*/at::Tensor(), /*negate=*/false, gradient.zero_());
  } else {  // each image has one place: there is nothing to add up
    recipe.transpose = true;
    launch_forward(grad_out, recipe, gradient);
  }
  return gradient;
}

at::Tensor call_augment(const at::Tensor& images, const at::Tensor& operations, const at::Tensor& parameters,
                        const std::optional<at::Tensor>& index, bool linear) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("pydistill::augment", "")
                             .typed<decltype(call_augment)>();
  return op.call(images, operations, parameters, index, linear);
}

at::Tensor call_augment_backward(const at::Tensor& grad_out, const at::Tensor& operations,
                                 const at::Tensor& parameters, const std::optional<at::Tensor>& index,
                                 c10::SymInt count) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("pydistill::augment_backward", "")
                             .typed<decltype(call_augment_backward)>();
  return op.call(grad_out, operations, parameters, index, std::move(count));
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The operations, the parameters and the index that a derivative applies again.
void save_recipe(AutogradContext* context, const at::Tensor& operations, const at::Tensor& parameters,
                 const std::optional<at::Tensor>& index) {
  context->save_for_backward({operations, parameters, index.value_or(at::Tensor())});
}

struct SavedRecipe {
  at::Tensor operations;
  at::Tensor parameters;
  std::optional<at::Tensor> index;

  explicit SavedRecipe(AutogradContext* context) {
    TORCH_CHECK(!context->needs_input_grad(2),
                "augment gives no derivative in parameters; pydistill.reference.augment does");
    const variable_list saved = context->get_saved_variables();
    operations = saved[0];
    parameters = saved[1];
    if (saved[2].defined()) {
      index = saved[2];
    }
  }
};

// The op is linear in the images but for what `linear` leaves out, so its derivative is its transpose, whose
// own derivative is the op again.
struct Augment : torch::autograd::Function<Augment> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& images, const at::Tensor& operations,
                            const at::Tensor& parameters, const std::optional<at::Tensor>& index,
                            bool linear) {
    save_recipe(context, operations, parameters, index);
    context->saved_data["images"] = images.sym_size(0);
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_augment(images, operations, parameters, index, linear);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grad_out) {
    const SavedRecipe saved(context);
    return {call_augment_backward(grad_out[0], saved.operations, saved.parameters, saved.index,
                                  context->saved_data["images"].toSymInt()),
            {},
            {},
            {},
            {}};
  }
};

struct AugmentBackward : torch::autograd::Function<AugmentBackward> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& grad_out,
                            const at::Tensor& operations, const at::Tensor& parameters,
                            const std::optional<at::Tensor>& index, c10::SymInt count) {
    save_recipe(context, operations, parameters, index);
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_augment_backward(grad_out, operations, parameters, index, std::move(count));
  }
  static variable_list backward(AutogradContext* context, const variable_list& grad) {
    const SavedRecipe saved(context);
    return {call_augment(grad[0], saved.operations, saved.parameters, saved.index, /*linear=*/true),
            {},
            {},
            {},
            {}};
  }
};

bool has_gradient(const at::Tensor& images, const at::Tensor& parameters) {
  return at::GradMode::is_enabled() && (images.requires_grad() || parameters.requires_grad());
}

at::Tensor augment_with_gradient(const at::Tensor& images, const at::Tensor& operations,
                                 const at::Tensor& parameters, const std::optional<at::Tensor>& index,
                                 bool linear) {
  if (has_gradient(images, parameters)) {
    return Augment::apply(images, operations, parameters, index, linear);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return call_augment(images, operations, parameters, index, linear);
}

at::Tensor augment_backward_with_gradient(const at::Tensor& grad_out, const at::Tensor& operations,
                                          const at::Tensor& parameters,
                                          const std::optional<at::Tensor>& index, c10::SymInt count) {
  if (has_gradient(grad_out, parameters)) {
    return AugmentBackward::apply(grad_out, operations, parameters, index, std::move(count));
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return call_augment_backward(grad_out, operations, parameters, index, std::move(count));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pydistill, library) {
  library.def(
      "augment(Tensor images, Tensor operations, Tensor parameters, Tensor? index, bool linear) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  library.def(
      "augment_backward(Tensor grad_out, Tensor operations, Tensor parameters, Tensor? index, SymInt images) "
      "-> Tensor",
      {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(pydistill, CPU, library) {
  library.impl("augment", &augment<&cpu::augment>);
  library.impl("augment_backward", &augment_backward<&cpu::augment, &cpu::augment_backward>);
}

TORCH_LIBRARY_IMPL(pydistill, Autograd, library) {
  library.impl("augment", &augment_with_gradient);
  library.impl("augment_backward", &augment_backward_with_gradient);
}

#if defined(PYDISTILL_WITH_CUDA)
TORCH_LIBRARY_IMPL(pydistill, CUDA, library) {
  library.impl("augment", &augment<&cuda::augment>);
  library.impl("augment_backward", &augment_backward<&cuda::augment, &cuda::augment_backward>);
}
#endif

}  // namespace pydistill::ops
