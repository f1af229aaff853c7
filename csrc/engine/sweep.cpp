#include "sweep.h"

#include <ATen/ops/index_select.h>

#include "kernels.h"

namespace pydistill::engine {

at::Tensor Recipe::rows(int64_t source, int64_t step) const {
  const at::Tensor& all = sources[static_cast<size_t>(source)];
  const at::Tensor& index_of_step = index[static_cast<size_t>(step)];
  return index_of_step.numel() == 0 ? all : at::index_select(all, 0, index_of_step);
}

void train_step(Student& student, const at::Tensor& theta, const at::Tensor& images, const at::Tensor& labels,
                const at::Tensor& lr, const at::Tensor& target, const at::Tensor& theta_next,
                const at::Tensor& sums) {
  const at::Tensor& gradient = student.gradient(theta, images, labels);
  PYDISTILL_ON_DEVICE_OF(theta, sgd_step, theta, gradient, lr, target, theta_next, sums);
}

void train(Student& student, const Recipe& recipe, const at::Tensor& lr, const at::Tensor& target,
           const at::Tensor& points, const at::Tensor& sums, int64_t first, int64_t last) {
  for (int64_t step = first; step < last; ++step) {
    const auto at_step = static_cast<size_t>(step);
    train_step(student, points.select(0, step), recipe.rows(recipe.images[at_step], step),
               recipe.rows(recipe.labels[at_step], step).contiguous(), lr.select(0, step), target,
               points.select(0, step + 1), sums.select(0, step + 1));
  }
}

void move_adjoint(const at::Tensor& lambda, const at::Tensor& product, const at::Tensor& lr) {
  PYDISTILL_ON_DEVICE_OF(lambda, adjoint_step, lambda, product, at::Tensor(), lr, lambda, at::Tensor());
}

void sweep(Student& student, const Recipe& recipe, const at::Tensor& lr, const at::Tensor& points,
           int64_t first, int64_t last, const SweepWanted& wanted, const at::Tensor& lambda,
           const at::Tensor& lr_gradient, const std::vector<at::Tensor>& gradients) {
  for (int64_t step = last; step-- > first;) {
    const auto at_step = static_cast<size_t>(step);
    const auto images = static_cast<size_t>(recipe.images[at_step]);
    const auto labels = static_cast<size_t>(recipe.labels[at_step]);
    const Student::Wanted now = {wanted.exact && (step > 0 || wanted.start), wanted.of_source[images],
                                 wanted.of_source[labels]};
    if (!now.product && !now.images && !now.labels && !wanted.lr) {
      continue;
    }
    const at::Tensor rate = lr.select(0, step);
    const Student::Adjoint found =
        student.adjoint(points.select(0, step), lambda, recipe.rows(recipe.images[at_step], step),
                        recipe.rows(recipe.labels[at_step], step).contiguous(), now);
    if (wanted.lr) {
      lr_gradient.select(0, step).sub_(found.inner);
    }
    const auto add = [&](size_t source, const at::Tensor& derivative) {
      at::Tensor gradient = gradients[source];
      const at::Tensor share = derivative.mul(rate);
      const at::Tensor& index = recipe.index[at_step];
      if (index.numel() == 0) {
        gradient.sub_(share);
      } else {
        gradient.index_add_(0, index, share, -1);
      }
    };
    if (now.images) {
      add(images, found.images);
    }
    if (now.labels) {
      add(labels, found.labels);
    }
    if (now.product) {
      move_adjoint(lambda, found.product, rate);
    }
  }
}

}  // namespace pydistill::engine
