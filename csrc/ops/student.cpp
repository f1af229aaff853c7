#include "student.h"

#include <ATen/ops/empty.h>

#include <initializer_list>
#include <utility>

#include "program.h"

namespace pydistill::ops {
namespace {

using engine::Architecture;

template <typename Kind>
Kind named(const std::string& name, std::initializer_list<std::pair<const char*, Kind>> kinds,
           const char* argument) {
  for (const auto& [known, kind] : kinds) {
    if (name == known) {
      return kind;
    }
  }
  TORCH_CHECK_VALUE(false, "Student: ", argument, " ", name, " is not known");
}

}  // namespace

Student::Student(const std::string& kind, const std::vector<int64_t>& sizes, const std::string& norm,
                 const std::string& pooling, double eps, const at::Tensor& like, int64_t largest_batch,
                 const std::string& products, int64_t slice_bytes) {
  TORCH_CHECK_VALUE(sizes.size() == 7, "Student: sizes must be seven numbers, not ", sizes.size());
  for (size_t each = 0; each < 6; ++each) {
    TORCH_CHECK_VALUE(sizes[each] >= 1, "Student: sizes must be at least 1, not ", sizes);
  }
  TORCH_CHECK_VALUE(sizes[6] >= 0, "Student: the padding must be at least 0, not ", sizes[6]);
  TORCH_CHECK_VALUE(largest_batch >= 1, "Student: the largest batch must be at least 1, not ", largest_batch);
  const Architecture architecture = {
      named<bool>(kind, {{"convnet", true}, {"mlp", false}}, "kind"),
      sizes[0],
      sizes[1],
      sizes[2],
      sizes[3],
      sizes[4],
      sizes[5],
      named<kernels::Norm>(norm, {{"instance", kernels::Norm::kInstance}, {"none", kernels::Norm::kNone}},
                           "norm"),
      named<kernels::Pooling>(pooling,
                              {{"average", kernels::Pooling::kAverage},
                               {"max", kernels::Pooling::kMax},
                               {"none", kernels::Pooling::kNone}},
                              "pooling"),
      eps,
      sizes[6]};
  const EngineGuard guard(like);
  student_ = std::make_shared<engine::Student>(
      architecture, like.options().requires_grad(c10::nullopt), largest_batch,
      named<engine::Products>(products, {{"own", engine::Products::kOwn}, {"aten", engine::Products::kAten}},
                              "products"),
      slice_bytes);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> Student::adjoint(
    const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images, const at::Tensor& labels,
    bool product_wanted, bool images_wanted, bool labels_wanted) {
  const EngineGuard guard(theta, mutex_);
  const auto found = student_->adjoint(theta, lambda, images, labels.contiguous(),
                                       {product_wanted, images_wanted, labels_wanted});
  const auto given = [&](const at::Tensor& value) {
    return value.defined() ? value.clone() : at::empty({0});
  };
  return {found.inner, given(found.product), given(found.images), given(found.labels)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> Student::gradient(const at::Tensor& theta,
                                                                 const at::Tensor& images,
                                                                 const at::Tensor& labels) {
  const EngineGuard guard(theta, mutex_);
  const at::Tensor found = student_->gradient(theta, images, labels.contiguous()).clone();
  return {found, student_->losses().clone(), student_->logits().clone()};
}

at::Tensor Student::classify(const at::Tensor& theta, const at::Tensor& images) {
  const EngineGuard guard(theta, mutex_);
  return student_->classify(theta, images).clone();
}

TORCH_LIBRARY_FRAGMENT(pydistill, library) {
  library.class_<Student>("Student")
      .def(torch::init<const std::string&, const std::vector<int64_t>&, const std::string&,
                       const std::string&, double, const at::Tensor&, int64_t, const std::string&, int64_t>())
      .def("parameters", &Student::parameters)
      .def("adjoint", &Student::adjoint)
      .def("gradient", &Student::gradient)
      .def("classify", &Student::classify);
  define_program(library);
}

}  // namespace pydistill::ops
