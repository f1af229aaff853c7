// The engine's student as torch.classes.pydistill.Student: state that is kept between calls, which an op
// cannot have. pydistill/matching/fused.py checks its arguments and says what they mean.
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/custom_class.h>

#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "../engine/student.h"
#include "../engine/sweep.h"

namespace pydistill::ops {
namespace {

using engine::Architecture;
using engine::Recipe;

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

class Student : public torch::CustomClassHolder {
 public:
  // sizes: channels, height, width of the images, classes, units, depth, padding of the first convolution
  Student(const std::string& kind, const std::vector<int64_t>& sizes, const std::string& norm,
          const std::string& pooling, double eps, const at::Tensor& like, int64_t largest_batch,
          const std::string& products, int64_t slice_bytes) {
    TORCH_CHECK_VALUE(sizes.size() == 7, "Student: sizes must be seven numbers, not ", sizes.size());
    for (size_t each = 0; each < 6; ++each) {
      TORCH_CHECK_VALUE(sizes[each] >= 1, "Student: sizes must be at least 1, not ", sizes);
    }
    TORCH_CHECK_VALUE(sizes[6] >= 0, "Student: the padding must be at least 0, not ", sizes[6]);
    TORCH_CHECK_VALUE(largest_batch >= 1, "Student: the largest batch must be at least 1, not ",
                      largest_batch);
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
    const Guard guard(like);
    student_ = std::make_unique<engine::Student>(
        architecture, like.options().requires_grad(c10::nullopt), largest_batch,
        named<engine::Products>(
            products, {{"own", engine::Products::kOwn}, {"aten", engine::Products::kAten}}, "products"),
        slice_bytes);
  }

  int64_t parameters() { return student_->parameters(); }

  void train(const at::Tensor& points, const at::Tensor& sums, const at::Tensor& target, const at::Tensor& lr,
             std::vector<at::Tensor> sources, std::vector<int64_t> images, std::vector<int64_t> labels,
             std::vector<at::Tensor> index, int64_t first, int64_t last) {
    const Guard guard(points, mutex_);
    const Recipe recipe = {std::move(sources), std::move(images), std::move(labels), std::move(index)};
    engine::train(*student_, recipe, lr, target, points, sums, first, last);
  }

  void train_step(const at::Tensor& points, const at::Tensor& sums, const at::Tensor& target,
                  const at::Tensor& lr, int64_t step, const at::Tensor& images, const at::Tensor& labels) {
    const Guard guard(points, mutex_);
    engine::train_step(*student_, points.select(0, step), images, labels.contiguous(), lr.select(0, step),
                       target, points.select(0, step + 1), sums.select(0, step + 1));
  }

  void sweep(const at::Tensor& points, int64_t first, int64_t last, const at::Tensor& lr,
             std::vector<at::Tensor> sources, std::vector<int64_t> images, std::vector<int64_t> labels,
             std::vector<at::Tensor> index, bool exact, bool start_wanted, const at::Tensor& adjoint,
             const at::Tensor& lr_gradient, const std::vector<at::Tensor>& gradients) {
    const Guard guard(points, mutex_);
    const Recipe recipe = {std::move(sources), std::move(images), std::move(labels), std::move(index)};
    engine::SweepWanted wanted = {exact, start_wanted, lr_gradient.numel() > 0, {}};
    for (const at::Tensor& gradient : gradients) {
      wanted.of_source.push_back(gradient.numel() > 0);
    }
    engine::sweep(*student_, recipe, lr, points, first, last, wanted, adjoint, lr_gradient, gradients);
  }

  // (inner [], and what was asked for, else an empty tensor: product [P], images [B, C, H, W], labels [B, K])
  std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> adjoint(
      const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images, const at::Tensor& labels,
      bool product_wanted, bool images_wanted, bool labels_wanted) {
    const Guard guard(theta, mutex_);
    const auto found = student_->adjoint(theta, lambda, images, labels.contiguous(),
                                         {product_wanted, images_wanted, labels_wanted});
    const auto given = [&](const at::Tensor& value) {
      return value.defined() ? value.clone() : at::empty({0});
    };
    return {found.inner, given(found.product), given(found.images), given(found.labels)};
  }

  // (g [P], each image's share of the mean loss [B], logits [B, K])
  std::tuple<at::Tensor, at::Tensor, at::Tensor> gradient(const at::Tensor& theta, const at::Tensor& images,
                                                          const at::Tensor& labels) {
    const Guard guard(theta, mutex_);
    const at::Tensor found = student_->gradient(theta, images, labels.contiguous()).clone();
    return {found, student_->losses().clone(), student_->logits().clone()};
  }

  at::Tensor classify(const at::Tensor& theta, const at::Tensor& images) {
    const Guard guard(theta, mutex_);
    return student_->classify(theta, images).clone();
  }

 private:
  // The engine's passes are values: nothing is recorded, and they run on the arguments' device, one at a
  // time.
  class Guard {
   public:
    explicit Guard(const at::Tensor& tensor) : device_(tensor.device()) {}
    Guard(const at::Tensor& tensor, std::mutex& mutex) : device_(tensor.device()), lock_(mutex) {}

   private:
    at::AutoDispatchBelowADInplaceOrView below_autograd_;
    c10::impl::ExcludeDispatchKeyGuard no_autocast_{c10::autocast_dispatch_keyset};
    c10::DeviceGuard device_;
    std::unique_lock<std::mutex> lock_;
  };

  std::unique_ptr<engine::Student> student_;
  std::mutex mutex_;
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(pydistill, library) {
  library.class_<Student>("Student")
      .def(torch::init<const std::string&, const std::vector<int64_t>&, const std::string&,
                       const std::string&, double, const at::Tensor&, int64_t, const std::string&, int64_t>())
      .def("parameters", &Student::parameters)
      .def("train", &Student::train)
      .def("train_step", &Student::train_step)
      .def("sweep", &Student::sweep)
      .def("adjoint", &Student::adjoint)
      .def("gradient", &Student::gradient)
      .def("classify", &Student::classify);
}

}  // namespace pydistill::ops
