// Calls the launcher of cpu/ or of cuda/, by the device of a tensor.
#pragma once

#include "../cpu/augment.h"
#include "../cpu/norm_act_pool.h"
#include "../cpu/softmax_xent.h"
#include "../cpu/steps.h"
#if defined(PYDISTILL_WITH_CUDA)
#include "../cuda/augment.h"
#include "../cuda/norm_act_pool.h"
#include "../cuda/softmax_xent.h"
#include "../cuda/steps.h"
#endif

#include <utility>

namespace pydistill::engine {

// Calls `on_cpu` or `on_cuda`, by the device of `tensor`, with the other arguments.
template <typename Function, typename... Rest>
void on_device_of(const at::Tensor& tensor, Function* on_cpu, [[maybe_unused]] Function* on_cuda,
                  Rest&&... arguments) {
#if defined(PYDISTILL_WITH_CUDA)
  if (tensor.is_cuda()) {
    on_cuda(std::forward<Rest>(arguments)...);
    return;
  }
#endif
  TORCH_CHECK_NOT_IMPLEMENTED(tensor.is_cpu(), "pydistill was built without kernels for ", tensor.device());
  on_cpu(std::forward<Rest>(arguments)...);
}

#if defined(PYDISTILL_WITH_CUDA)
#define PYDISTILL_ON_DEVICE_OF(tensor, name, ...) on_device_of(tensor, &cpu::name, &cuda::name, __VA_ARGS__)
#else
#define PYDISTILL_ON_DEVICE_OF(tensor, name, ...) on_device_of(tensor, &cpu::name, &cpu::name, __VA_ARGS__)
#endif

}  // namespace pydistill::engine
