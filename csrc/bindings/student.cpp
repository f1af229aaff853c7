#include "student.h"

namespace pydistill::bindings {
namespace {

at::Tensor clone_if_defined(const at::Tensor& tensor) { return tensor.defined() ? tensor.clone() : tensor; }

}  // namespace

Student::Student(const engine::Architecture& architecture, const at::Tensor& like, int64_t largest_batch,
                 engine::Convolutions convolutions, int64_t slice_bytes) {
  TORCH_CHECK_VALUE(largest_batch >= 1, "Student: the largest batch must be at least 1, not ", largest_batch);
  const EngineGuard guard(like);
  student_ = std::make_shared<engine::Student>(architecture, like.options().requires_grad(c10::nullopt),
                                               largest_batch, convolutions, slice_bytes);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> Student::adjoint(
    const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images, const at::Tensor& labels,
    bool product, bool image_gradients, bool label_gradients) {
  const EngineGuard guard(theta, mutex_);
  const engine::Student::Adjoint result = student_->adjoint(theta, lambda, images, labels.contiguous(),
                                                            {product, image_gradients, label_gradients});
  return {result.inner, clone_if_defined(result.product), clone_if_defined(result.images),
          clone_if_defined(result.labels)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> Student::gradient(const at::Tensor& theta,
                                                                 const at::Tensor& images,
                                                                 const at::Tensor& labels) {
  const EngineGuard guard(theta, mutex_);
  const at::Tensor gradient = student_->gradient(theta, images, labels.contiguous()).clone();
  return {gradient, student_->losses().clone(), student_->logits().clone()};
}

at::Tensor Student::classify(const at::Tensor& theta, const at::Tensor& images) {
  const EngineGuard guard(theta, mutex_);
  return student_->classify(theta, images).clone();
}

}  // namespace pydistill::bindings
