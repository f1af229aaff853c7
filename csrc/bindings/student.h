// The engine's student for callers outside the engine: arguments are checked, one pass runs at a time, and
// results are copies that belong to the caller. No Python here; module.cpp binds it.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <tuple>

#include "../engine/student.h"

namespace pydistill::bindings {

// Set-up of a call into the engine: autograd records nothing, autocast is off, and the tensor's device is the
// current one. With a mutex, calls run one at a time.
class EngineGuard {
 public:
  explicit EngineGuard(const at::Tensor& tensor) : device_(tensor.device()) {}
  EngineGuard(const at::Tensor& tensor, std::mutex& mutex) : device_(tensor.device()), lock_(mutex) {}

 private:
  at::AutoDispatchBelowADInplaceOrView below_autograd_;
  c10::impl::ExcludeDispatchKeyGuard no_autocast_{c10::autocast_dispatch_keyset};
  c10::DeviceGuard device_;
  std::unique_lock<std::mutex> lock_;
};

class Student {
 public:
  // The student computes in the dtype and on the device of `like`.
  Student(const engine::Architecture& architecture, const at::Tensor& like, int64_t largest_batch,
          engine::Convolutions convolutions, int64_t slice_bytes);

  int64_t parameters() const { return student_->parameters(); }

  // (<g, lambda> [], H lambda [P], and the derivatives along lambda of dl/dX [B, C, H, W] and of dl/dY
  // [B, K]); what was not asked for is undefined.
  std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> adjoint(
      const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images, const at::Tensor& labels,
      bool product, bool image_gradients, bool label_gradients);

  // (g [P], the images' shares of the mean loss [B], logits [B, K])
  std::tuple<at::Tensor, at::Tensor, at::Tensor> gradient(const at::Tensor& theta, const at::Tensor& images,
                                                          const at::Tensor& labels);

  at::Tensor classify(const at::Tensor& theta, const at::Tensor& images);

  const std::shared_ptr<engine::Student>& engine() const { return student_; }
  std::mutex& mutex() { return mutex_; }

 private:
  std::shared_ptr<engine::Student> student_;
  std::mutex mutex_;
};

}  // namespace pydistill::bindings
