// The engine's student as torch.classes.pydistill.Student: state that is kept between calls, which an op
// cannot have. pydistill/engine/student.py makes them.
#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/custom_class.h>

#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "../engine/student.h"

namespace pydistill::ops {

// The engine's passes are values: nothing is recorded by autograd, and they run on the arguments' device;
// with a mutex, one at a time.
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

class Student : public torch::CustomClassHolder {
 public:
  // sizes: channels, height, width of the images, classes, units, depth, padding of the first convolution
  Student(const std::string& kind, const std::vector<int64_t>& sizes, const std::string& norm,
          const std::string& pooling, double eps, const at::Tensor& like, int64_t largest_batch,
          const std::string& products, int64_t slice_bytes);

  int64_t parameters() const { return student_->parameters(); }

  // (inner [], and what was asked for, else an empty tensor: product [P], images [B, C, H, W], labels [B, K])
  std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> adjoint(
      const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images, const at::Tensor& labels,
      bool product_wanted, bool images_wanted, bool labels_wanted);

  // (g [P], each image's share of the mean loss [B], logits [B, K])
  std::tuple<at::Tensor, at::Tensor, at::Tensor> gradient(const at::Tensor& theta, const at::Tensor& images,
                                                          const at::Tensor& labels);

  at::Tensor classify(const at::Tensor& theta, const at::Tensor& images);

  const std::shared_ptr<engine::Student>& engine() const { return student_; }
  std::mutex& mutex() { return mutex_; }

 private:
  std::shared_ptr<engine::Student> student_;
  std::mutex mutex_;
};

}  // namespace pydistill::ops
