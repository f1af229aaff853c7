#include "student.h"

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros.h>
#include <c10/util/accumulate.h>

#include <algorithm>

#include "kernels.h"

namespace pydistill::engine {
namespace {

using kernels::Norm;
using kernels::NormActPoolSettings;
using kernels::Pooling;

// What a slice of a batch may need of a CPU's caches: between 12 and 24 MB the time hardly differs at batch
// 100, and at batch 10 the least is best.
constexpr int64_t kSliceBytesOnCpu = 12 << 20;

// So many threads have a desk each; with more of them, or one, the slices are worked on in turn, all threads
// together.
constexpr int64_t kDesks = 2;

// Multiplications of a forward pass of the whole batch, from which on it is worth more than one thread.
constexpr int64_t kWorthThreads = 16'000'000;

int64_t pooled(int64_t side, Pooling pooling) { return pooling == Pooling::kNone ? side : side / 2; }

// A view of numbers [count] from `offset` on as [n, channels, height, width], channels-last.
at::Tensor channels_last(const at::Tensor& numbers, int64_t offset, int64_t images, int64_t channels,
                         int64_t height, int64_t width) {
  return numbers.as_strided({images, channels, height, width},
                            {height * width * channels, 1, width * channels, channels}, offset);
}

}  // namespace

Student::Pair Student::Planes::views(const at::Tensor& memory, int64_t images, bool tangent_first) const {
  if (!memory.defined()) {
    return {};
  }
  const int64_t size = images * numbers();
  return {channels_last(memory, tangent_first ? size : 0, images, channels, height, width),
          channels_last(memory, tangent_first ? 0 : size, images, channels, height, width)};
}

Student::Student(const Architecture& architecture, at::TensorOptions options, int64_t largest_batch,
                 Products products, int64_t slice_bytes)
    : architecture_(architecture), options_(options), largest_batch_(largest_batch), products_(products) {
  const Architecture& a = architecture_;
  const int64_t hidden = a.convolutional ? a.depth : a.depth - 1;
  int64_t channels = a.channels;
  int64_t height = a.height;
  int64_t width = a.width;
  blocks_.resize(static_cast<size_t>(hidden));
  for (Block& block : blocks_) {
    block.settings = {a.convolutional ? a.norm : Norm::kNone, a.convolutional ? a.pooling : Pooling::kNone,
                      a.eps};
    if (a.convolutional) {
      const bool first = shapes_.empty();
      const ConvolutionShape shape = {channels, a.units, height, width, first ? a.first_padding : 1,
                                      0,        first};
      shapes_.push_back(shape);
      add_parameter(block.weight, {a.units, channels, 3, 3});
      height = shape.output_height();
      width = shape.output_width();
    } else {
      add_parameter(block.weight, {a.units, channels * height * width});
      shapes_.push_back({channels, a.units, height, width, 0, 0, false});
      height = width = 1;
    }
    add_parameter(block.bias, {a.units});
    if (block.settings.norm == Norm::kInstance) {
      add_parameter(block.norm_weight, {a.units});
      add_parameter(block.norm_bias, {a.units});
    }
    block.z = {a.units, height, width};
    height = pooled(height, block.settings.pooling);
    width = pooled(width, block.settings.pooling);
    block.out = {a.units, height, width};
    channels = a.units;
  }
  features_ = {channels, height, width};
  add_parameter(head_weight_, {a.classes, features_.numbers()});
  add_parameter(head_bias_, {a.classes});
  make_views();

  const bool on_cpu = options_.device().is_cpu();
  const int64_t budget = slice_bytes > 0 ? slice_bytes : on_cpu ? kSliceBytesOnCpu : INT64_MAX;
  slice_images_ = std::clamp<int64_t>(budget / bytes_of_an_image(), 1, largest_batch_);
  for (Block& block : blocks_) {
    block.parameter_grads = at::empty({largest_batch_ * 4 * a.units}, options_);
    block.sums = at::empty({4, a.units}, options_);
  }
  desks_.push_back(make_desk());
  images_ = at::empty({largest_batch_ * a.channels * a.height * a.width}, options_);
  image_gradients_ = at::empty_like(images_);
  logits_ = at::empty({2 * largest_batch_ * a.classes}, options_);
  logit_gradients_ = at::empty_like(logits_);
  losses_ = at::empty({largest_batch_}, options_);
  label_gradients_ = at::empty({largest_batch_ * a.classes}, options_);
}

// A first desk, or one more, whose maps multiply by the weights that the first one's read.
Student::Desk Student::make_desk() const {
  const bool first = desks_.empty();
  const bool own = products_ == Products::kOwn && options_.device().is_cpu();
  const auto pair = [&](int64_t numbers) { return at::empty({2 * slice_images_ * numbers}, options_); };
  Desk desk;
  int64_t largest_z = 0;
  int64_t largest_out = 0;
  for (size_t each = 0; each < blocks_.size(); ++each) {
    const Block& block = blocks_[each];
    ConvolutionShape shape = shapes_[each];
    shape.images = slice_images_;
    Desk::OfBlock made;
    if (!first) {
      made.map = desks_.front().blocks[each].map->sibling();
    } else if (!architecture_.convolutional) {
      made.map = dense(shape.inputs, shape.height * shape.width, shape.outputs, options_);
    } else {
      made.map = own ? cpu_convolution(shape, options_) : aten_convolution(shape, options_);
    }
    made.z = made.map->writes_into() ? pair(block.z.numbers()) : at::Tensor();
    made.out = pair(block.out.numbers());
    made.stats = at::empty({slice_images_ * 4 * architecture_.units}, options_);
    largest_z = std::max(largest_z, block.z.numbers());
    largest_out = std::max(largest_out, block.out.numbers());
    desk.blocks.push_back(std::move(made));
  }
  desk.dz = pair(largest_z);
  desk.dout = pair(largest_out);
  desk.head =
      first ? dense(features_.channels, features_.height * features_.width, architecture_.classes, options_)
            : desks_.front().head->sibling();
  return desk;
}

void Student::add_parameter(Parameter& parameter, std::vector<int64_t> shape) {
  parameter.offset = parameter_count_;
  parameter_count_ += c10::multiply_integers(shape);
  parameter.shape = std::move(shape);
}

void Student::make_views() {
  theta_ = at::zeros({parameter_count_}, options_);
  lambda_ = at::zeros({parameter_count_}, options_);
  result_ = at::zeros({parameter_count_}, options_);
  const auto view = [&](Parameter& parameter) {
    if (parameter.shape.empty()) {
      return;
    }
    const int64_t size = c10::multiply_integers(parameter.shape);
    parameter.value = theta_.narrow(0, parameter.offset, size).view(parameter.shape);
    parameter.tangent = lambda_.narrow(0, parameter.offset, size).view(parameter.shape);
    parameter.gradient = result_.narrow(0, parameter.offset, size).view(parameter.shape);
  };
  for (Block& block : blocks_) {
    for (Parameter* parameter : {&block.weight, &block.bias, &block.norm_weight, &block.norm_bias}) {
      view(*parameter);
    }
  }
  view(head_weight_);
  view(head_bias_);
}

// What the adjoint pass touches for one image: values, tangents and gradients of every block, and the spectra
// of its convolutions (four numbers for each of their inputs and outputs).
int64_t Student::bytes_of_an_image() const {
  int64_t numbers = architecture_.channels * architecture_.height * architecture_.width;
  if (architecture_.convolutional) {
    numbers += 9 * architecture_.channels * blocks_.front().z.height * blocks_.front().z.width;
  }
  int64_t largest = 0;
  for (const Block& block : blocks_) {
    const int64_t z = block.z.numbers();
    const int64_t out = block.out.numbers();
    const bool spectra = architecture_.convolutional && &block != &blocks_.front();
    numbers += 2 * z + 2 * out + (spectra ? 8 * z : 0);
    largest = std::max(largest, 2 * z + (spectra ? 8 * z : 0));
  }
  return (numbers + largest) * static_cast<int64_t>(options_.dtype().itemsize());
}

// Cuts a batch into slices and makes the views that each works on.
void Student::prepare(int64_t batch) {
  TORCH_CHECK_VALUE(batch >= 1 && batch <= largest_batch_, "a batch has ", batch,
                    " images; this student takes 1 to ", largest_batch_);
  if (batch == batch_) {
    return;
  }
  const Architecture& a = architecture_;
  slices_.clear();
  batch_ = 0;  // until the views are complete
  const bool own = products_ == Products::kOwn && options_.device().is_cpu();
  const int64_t desks = own && multiplications_of_an_image() * batch >= kWorthThreads ? kDesks : 1;
  while (static_cast<int64_t>(desks_.size()) < desks) {
    desks_.push_back(make_desk());
  }
  // As many for each desk, and of as even a size as can be.
  const int64_t needed = (batch + slice_images_ - 1) / slice_images_;
  const int64_t slices = std::min(batch, (needed + desks - 1) / desks * desks);
  for (int64_t number = 0; number < slices; ++number) {
    Slice slice;
    slice.desk = static_cast<size_t>(number * desks / slices);
    Desk& desk = desks_[slice.desk];
    slice.first = number * batch / slices;
    slice.images = (number + 1) * batch / slices - slice.first;
    const int64_t n = slice.images;
    const int64_t pixels = a.channels * a.height * a.width;
    slice.pixels = channels_last(images_, slice.first * pixels, n, a.channels, a.height, a.width);
    slice.pixel_gradients =
        channels_last(image_gradients_, slice.first * pixels, n, a.channels, a.height, a.width);
    const auto rows = [&](const at::Tensor& numbers, int64_t which) {
      return numbers.as_strided({n, a.classes}, {a.classes, 1}, (which * batch + slice.first) * a.classes);
    };
    slice.logits = {rows(logits_, 0), rows(logits_, 1)};
    slice.logit_gradients = {rows(logit_gradients_, 0), rows(logit_gradients_, 1)};
    slice.losses = losses_.narrow(0, slice.first, n);
    slice.label_gradients = rows(label_gradients_, 0);
    for (size_t each = 0; each < blocks_.size(); ++each) {
      const Block& block = blocks_[each];
      const Desk::OfBlock& own = desk.blocks[each];
      Slice::OfBlock views;
      views.z = block.z.views(own.z, n, false);
      views.out = block.out.views(own.out, n, false);
      views.dz = block.z.views(desk.dz, n, true);
      views.dout = block.out.views(desk.dout, n, true);
      const auto per_image = [&](const at::Tensor& numbers, int64_t k, int64_t from) {
        return numbers.as_strided({n, k, a.units}, {k * a.units, a.units, 1}, from * k * a.units);
      };
      if (block.settings.norm == Norm::kInstance) {
        views.stats2 = per_image(own.stats, 2, 0);
        views.stats4 = per_image(own.stats, 4, 0);
      }
      views.parameter_grads2 = per_image(block.parameter_grads, 2, slice.first);
      views.parameter_grads4 = per_image(block.parameter_grads, 4, slice.first);
      slice.blocks.push_back(std::move(views));
    }
    slices_.push_back(std::move(slice));
  }
  batch_ = batch;
  logits_now_ = logits_.as_strided({batch, a.classes}, {a.classes, 1}, 0);
  losses_now_ = losses_.narrow(0, 0, batch);
}

void Student::read(const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images) {
  const Architecture& a = architecture_;
  TORCH_CHECK_VALUE(images.dim() == 4 && images.size(1) == a.channels && images.size(2) == a.height &&
                        images.size(3) == a.width,
                    "images have shape ", images.sizes(), "; this student takes [B, ", a.channels, ", ",
                    a.height, ", ", a.width, "]");
  for (const at::Tensor* point : {&theta, &lambda}) {
    TORCH_CHECK_VALUE(!point->defined() || (point->dim() == 1 && point->numel() == parameter_count_),
                      "parameters have shape ", point->sizes(), "; this student has [", parameter_count_,
                      "]");
  }
  for (const at::Tensor* given : {&theta, &lambda, &images}) {
    TORCH_CHECK_VALUE(
        !given->defined() || (given->dtype() == options_.dtype() && given->device() == theta_.device()),
        "a tensor is ", given->dtype(), " on ", given->device(), "; this student computes in ",
        options_.dtype(), " on ", theta_.device());
  }
  const Inputs memory = inputs(images.size(0));
  memory.theta.copy_(theta);
  if (lambda.defined()) {
    memory.lambda.copy_(lambda);
  }
  memory.images.copy_(images);
}

Student::Inputs Student::inputs(int64_t batch) {
  prepare(batch);
  const Architecture& a = architecture_;
  return {theta_, lambda_, channels_last(images_, 0, batch, a.channels, a.height, a.width)};
}

void Student::settle() {
  if (unfinished_) {
    drop_sums();
    unfinished_ = false;
  }
}

// Begins a pass over what the inputs hold.
void Student::begin(bool with_tangents) {
  settle();
  unfinished_ = true;
  const Desk& desk = desks_.front();
  for (size_t each = 0; each < blocks_.size(); ++each) {
    const Parameter& weight = blocks_[each].weight;
    desk.blocks[each].map->read_weights(weight.value, with_tangents ? weight.tangent : at::Tensor());
  }
  desk.head->read_weights(head_weight_.value, with_tangents ? head_weight_.tangent : at::Tensor());
}

// Forgets the weight gradients of a pass that ended in an exception (a GPU without memory, say).
void Student::drop_sums() {
  for (const Desk& desk : desks_) {
    for (size_t each = 0; each < blocks_.size(); ++each) {
      desk.blocks[each].map->take_weight_gradient(blocks_[each].weight.gradient);
    }
    desk.head->take_weight_gradient(head_weight_.gradient);
  }
}

int64_t Student::multiplications_of_an_image() const {
  int64_t sum = features_.numbers() * architecture_.classes;
  for (size_t each = 0; each < blocks_.size(); ++each) {
    const Planes& z = blocks_[each].z;
    sum += z.height * z.width * c10::multiply_integers(blocks_[each].weight.shape);
  }
  return sum;
}

// Held while a pass over the batch goes on. Before, since ATen sets the number of threads of every thread
// that begins its first loop, once in PyTorch's libraries and once in this one.
cpu::OnOneThread Student::as_many_threads_as_are_worth_it() const {
  at::internal::lazy_init_num_threads();
  const bool little = multiplications_of_an_image() * batch_ < kWorthThreads;
  return cpu::OnOneThread(options_.device().is_cpu() && at::get_num_threads() > 1 && little);
}

// Calls work(slice) for each slice; those of one desk in order.
template <typename Work>
void Student::on_slices(const Work& work) {
  const auto desks = static_cast<int64_t>(slices_.back().desk) + 1;
  if (desks > 1 && at::get_num_threads() > 1 && at::get_num_threads() <= desks && !at::in_parallel_region()) {
    at::parallel_for(0, desks, 1, [&](int64_t first, int64_t last) {
      const at::AutoDispatchBelowADInplaceOrView below_autograd;  // the other threads' states are their own
      for (Slice& slice : slices_) {
        const auto desk = static_cast<int64_t>(slice.desk);
        if (desk >= first && desk < last) {
          work(slice);
        }
      }
    });
    return;
  }
  for (Slice& slice : slices_) {
    work(slice);
  }
}

std::vector<at::Tensor> Student::forward(Slice& slice) {
  const Desk& desk = desks_[slice.desk];
  std::vector<at::Tensor> z;
  at::Tensor x = slice.pixels;
  for (size_t each = 0; each < blocks_.size(); ++each) {
    const Block& block = blocks_[each];
    const Slice::OfBlock& views = slice.blocks[each];
    z.push_back(desk.blocks[each].map->forward(x, views.z.value));
    PYDISTILL_ON_DEVICE_OF(x, norm_act_pool, block.settings, z.back(), block.scale().value,
                           block.shift().value, views.out.value, views.stats2);
    x = views.out.value;
  }
  desk.head->forward(x, slice.logits.value);
  slice.logits.value.add_(head_bias_.value);
  return z;
}

std::vector<LinearMap::Pair> Student::forward_jvp(Slice& slice) {
  const Desk& desk = desks_[slice.desk];
  std::vector<Pair> z;
  Pair x = {slice.pixels, {}};
  for (size_t each = 0; each < blocks_.size(); ++each) {
    const Block& block = blocks_[each];
    const Slice::OfBlock& views = slice.blocks[each];
    z.push_back(desk.blocks[each].map->forward_jvp(x, views.z));
    PYDISTILL_ON_DEVICE_OF(x.value, norm_act_pool_jvp, block.settings, z.back().value, z.back().tangent,
                           block.scale().value, block.scale().tangent, block.shift().value,
                           block.shift().tangent, views.out.value, views.out.tangent, views.stats4);
    x = views.out;
  }
  desk.head->forward_jvp(x, slice.logits);
  slice.logits.value.add_(head_bias_.value);
  slice.logits.tangent.add_(head_bias_.tangent);
  return z;
}

// Writes what the slices have added up into the result: of `rows` rows of a block's sums the one for the
// weight, and the next for the bias.
void Student::finish(int row, int64_t rows) {
  const auto take = [&](const auto& map_of, const at::Tensor& gradient) {
    for (size_t desk = 1; desk <= slices_.back().desk; ++desk) {
      at::Tensor others = map_of(desks_[desk]).sum();
      map_of(desks_.front()).sum().add_(others);
      others.zero_();
    }
    map_of(desks_.front()).take_weight_gradient(gradient);
  };
  const int64_t units = architecture_.units;
  for (size_t each = 0; each < blocks_.size(); ++each) {
    const Block& block = blocks_[each];
    take([&](const Desk& desk) -> LinearMap& { return *desk.blocks[each].map; }, block.weight.gradient);
    const at::Tensor of_images =
        block.parameter_grads.as_strided({batch_, rows, units}, {rows * units, units, 1}, 0);
    const at::Tensor sums = block.sums.narrow(0, 0, rows);
    PYDISTILL_ON_DEVICE_OF(sums, sum_images, of_images, sums);
    if (block.settings.norm == Norm::kInstance) {
      block.norm_weight.gradient.copy_(sums.select(0, row));
    }
    block.shift().gradient.copy_(sums.select(0, row + 1));
  }
  take([](const Desk& desk) -> LinearMap& { return *desk.head; }, head_weight_.gradient);
  const at::Tensor logit_gradients =
      logit_gradients_.as_strided({batch_, architecture_.classes}, {architecture_.classes, 1},
                                  (row > 0 ? batch_ : 0) * architecture_.classes);
  at::Tensor of_bias = head_bias_.gradient;
  at::sum_out(of_bias, logit_gradients, {0});
}

void Student::check_labels(const at::Tensor& labels, int64_t images) const {
  const bool hard = labels.dim() == 1 && labels.scalar_type() == at::kLong;
  const bool soft =
      labels.dim() == 2 && labels.size(1) == architecture_.classes && labels.dtype() == options_.dtype();
  TORCH_CHECK_VALUE((hard || soft) && labels.size(0) == images && labels.device() == theta_.device(),
                    "labels are ", labels.dtype(), " ", labels.sizes(), " on ", labels.device(),
                    "; this student takes int64 [", images, "] or rows [", images, ", ",
                    architecture_.classes, "] of ", options_.dtype(), " on ", theta_.device());
}

const at::Tensor& Student::gradient(const at::Tensor& theta, const at::Tensor& images,
                                    const at::Tensor& labels) {
  check_labels(labels, images.size(0));
  read(theta, {}, images);
  return gradient_of_inputs(labels);
}

const at::Tensor& Student::gradient_of_inputs(const at::Tensor& labels) {
  check_labels(labels, batch_);
  const cpu::OnOneThread threads = as_many_threads_as_are_worth_it();
  begin(false);
  on_slices([&](Slice& slice) { gradient_of(slice, labels); });
  finish(0, 2);
  unfinished_ = false;
  return result_;
}

void Student::gradient_of(Slice& slice, const at::Tensor& labels) {
  const Desk& desk = desks_[slice.desk];
  const double scale = 1.0 / static_cast<double>(batch_);
  const std::vector<at::Tensor> z = forward(slice);
  PYDISTILL_ON_DEVICE_OF(slice.losses, softmax_xent_backward, slice.logits.value,
                         labels.narrow(0, slice.first, slice.images), scale, slice.losses,
                         slice.logit_gradients.value, at::Tensor());
  desk.head->add_weight_gradient(blocks_.empty() ? slice.pixels : slice.blocks.back().out.value,
                                 slice.logit_gradients.value);
  at::Tensor dout;
  if (!blocks_.empty()) {
    dout = desk.head->input_gradient(slice.logit_gradients.value, slice.blocks.back().dout.value);
  }
  for (size_t each = blocks_.size(); each-- > 0;) {
    const Block& block = blocks_[each];
    const Slice::OfBlock& views = slice.blocks[each];
    LinearMap& map = *desk.blocks[each].map;
    PYDISTILL_ON_DEVICE_OF(dout, norm_act_pool_backward, block.settings, dout, z[each], block.scale().value,
                           block.shift().value, views.stats2, views.dz.value, views.parameter_grads2);
    const bool first = each == 0;
    map.add_weight_gradient(first ? slice.pixels : slice.blocks[each - 1].out.value, views.dz.value);
    if (!first) {
      dout = map.input_gradient(views.dz.value, slice.blocks[each - 1].dout.value);
    }
  }
}

const at::Tensor& Student::classify(const at::Tensor& theta, const at::Tensor& images) {
  read(theta, {}, images);
  const cpu::OnOneThread threads = as_many_threads_as_are_worth_it();
  begin(false);
  on_slices([&](Slice& slice) { forward(slice); });
  unfinished_ = false;
  return logits_now_;
}

Student::Adjoint Student::adjoint(const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images,
                                  const at::Tensor& labels, const Wanted& wanted) {
  check_labels(labels, images.size(0));
  read(theta, lambda, images);
  return adjoint_of_inputs(labels, wanted);
}

Student::Adjoint Student::adjoint_of_inputs(const at::Tensor& labels, const Wanted& wanted) {
  check_labels(labels, batch_);
  const cpu::OnOneThread threads = as_many_threads_as_are_worth_it();
  begin(true);
  on_slices([&](Slice& slice) { adjoint_of(slice, labels, wanted); });
  Adjoint found;
  found.inner = losses_now_.sum();
  if (wanted.product) {
    finish(2, 4);
    found.product = result_;
  }
  unfinished_ = false;
  const Architecture& a = architecture_;
  if (wanted.images) {
    found.images = channels_last(image_gradients_, 0, batch_, a.channels, a.height, a.width);
  }
  if (wanted.labels) {
    found.labels = label_gradients_.as_strided({batch_, a.classes}, {a.classes, 1}, 0);
  }
  return found;
}

void Student::adjoint_of(Slice& slice, const at::Tensor& labels, const Wanted& wanted) {
  const Desk& desk = desks_[slice.desk];
  const double scale = 1.0 / static_cast<double>(batch_);
  const std::vector<Pair> z = forward_jvp(slice);
  PYDISTILL_ON_DEVICE_OF(slice.losses, softmax_xent_backward_jvp, slice.logits.value, slice.logits.tangent,
                         labels.narrow(0, slice.first, slice.images), scale, slice.losses,
                         slice.logit_gradients.value, slice.logit_gradients.tangent,
                         wanted.labels ? slice.label_gradients : at::Tensor());
  if (!wanted.product && !wanted.images) {
    return;
  }
  if (wanted.product) {
    desk.head->add_weight_gradient_jvp(blocks_.empty() ? Pair{slice.pixels, {}} : slice.blocks.back().out,
                                       slice.logit_gradients);
  }
  Pair dout;
  if (!blocks_.empty()) {
    dout = desk.head->input_gradient_jvp(slice.logit_gradients, slice.blocks.back().dout);
  } else if (wanted.images) {
    desk.head->input_gradient_jvp(slice.logit_gradients, {{}, slice.pixel_gradients});
  }
  for (size_t each = blocks_.size(); each-- > 0;) {
    const Block& block = blocks_[each];
    const Slice::OfBlock& views = slice.blocks[each];
    LinearMap& map = *desk.blocks[each].map;
    PYDISTILL_ON_DEVICE_OF(dout.value, norm_act_pool_backward_jvp, block.settings, dout.value, dout.tangent,
                           z[each].value, z[each].tangent, block.scale().value, block.scale().tangent,
                           block.shift().value, block.shift().tangent, views.stats4, views.dz.value,
                           views.dz.tangent, views.parameter_grads4);
    const bool first = each == 0;
    if (wanted.product) {
      map.add_weight_gradient_jvp(first ? Pair{slice.pixels, {}} : slice.blocks[each - 1].out, views.dz);
    }
    if (!first) {
      dout = map.input_gradient_jvp(views.dz, slice.blocks[each - 1].dout);
    } else if (wanted.images) {
      const Pair found = map.input_gradient_jvp(views.dz, {{}, slice.pixel_gradients});
      if (!found.tangent.is_same(slice.pixel_gradients)) {
        slice.pixel_gradients.copy_(found.tangent);
      }
    }
  }
}

}  // namespace pydistill::engine
