// A student: a network as a function of a flat parameter vector and a batch, with the two passes that
// trajectory matching asks of it. With l the mean softmax cross-entropy of the batch and H its second
// derivative in theta,
//
//   the gradient pass gives   g = dl/dtheta: one step of its training;
//   the adjoint pass gives    H lambda, and the derivatives of dl/dX and dl/dY along lambda: one step of the
//   way back.
//
// The adjoint pass goes forward with tangents and backward with tangents (forward over reverse); it keeps
// nothing between steps.
//
// A student owns the memory that its passes need, for batches up to a size told when it is made, and
// allocates none of it again. On a CPU a batch is worked on in slices of so many images that what a slice
// needs stays in the caches: the loss is a sum over images and the norm is each image's own, so only the
// weights' gradients are summed over slices. The slices depend on the network and the batch alone, never on
// the number of threads.
//
// Parameters, in order: of each block the weight, the bias, and with a norm its weight and bias; last the
// classifier's weight and bias. Before an instance norm the bias has gradient exactly 0, since the norm takes
// it out.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "../cpu/one_thread.h"
#include "architecture.h"
#include "linear_map.h"

namespace pydistill::engine {

// Who multiplies: loops of our own on a CPU, or ATen, which is what runs on a GPU.
enum class Products { kOwn, kAten };

class Student {
 public:
  using Pair = LinearMap::Pair;

  // slice_bytes: so much memory a slice may need; 0 leaves it to the device.
  Student(const Architecture& architecture, at::TensorOptions options, int64_t largest_batch,
          Products products, int64_t slice_bytes);

  int64_t parameters() const { return theta_.numel(); }

  // g at theta [P] for images [B, C, H, W] and labels ([B] int64, or rows [B, K]). The result is this
  // student's memory, [P], valid until its next pass; so are logits() [B, K] and losses() [B], each image's
  // share of the mean.
  const at::Tensor& gradient(const at::Tensor& theta, const at::Tensor& images, const at::Tensor& labels);

  // The logits alone, [B, K].
  const at::Tensor& classify(const at::Tensor& theta, const at::Tensor& images);

  struct Wanted {
    bool product;  // H lambda
    bool images;   // the derivative along lambda of dl/dX
    bool labels;   // of dl/dY, for rows
  };
  struct Adjoint {
    at::Tensor inner;    // <g, lambda>, []
    at::Tensor product;  // [P]
    at::Tensor images;   // [B, C, H, W]
    at::Tensor labels;   // [B, K]
  };
  // All at theta [P], along lambda [P]; what is not wanted is undefined. The results are this student's
  // memory, valid until its next pass.
  Adjoint adjoint(const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images,
                  const at::Tensor& labels, const Wanted& wanted);

  // The memory that a pass reads: whoever fills it saves the passes below a copy. Each is this student's,
  // valid until its next pass; lambda is read by the adjoint pass alone.
  struct Inputs {
    at::Tensor theta;   // [P]
    at::Tensor lambda;  // [P]
    at::Tensor images;  // [batch, C, H, W], channels-last
  };
  Inputs inputs(int64_t batch);
  // gradient() and adjoint() of what inputs() holds.
  const at::Tensor& gradient_of_inputs(const at::Tensor& labels);
  Adjoint adjoint_of_inputs(const at::Tensor& labels, const Wanted& wanted);

  // Drops what a pass that ended in an exception has left.
  void settle();

  const at::Tensor& logits() const { return logits_now_; }
  const at::Tensor& losses() const { return losses_now_; }

 private:
  // What a block makes of one image.
  struct Planes {
    int64_t channels;
    int64_t height;
    int64_t width;

    int64_t numbers() const { return channels * height * width; }
    // A value and its tangent for n images in `memory`, one behind the other: the value first, or in
    // gradients the tangent first, as LinearMap wants them. Undefined if the memory is.
    Pair views(const at::Tensor& memory, int64_t images, bool tangent_first) const;
  };

  struct Parameter {
    int64_t offset;
    std::vector<int64_t> shape;
    at::Tensor value;  // views of theta_, lambda_ and result_
    at::Tensor tangent;
    at::Tensor gradient;
  };

  struct Block {
    kernels::NormActPoolSettings settings;
    Parameter weight;
    Parameter bias;
    Parameter norm_weight;
    Parameter norm_bias;
    Planes z;
    Planes out;
    at::Tensor parameter_grads;  // [largest batch, 4, channels]
    at::Tensor sums;             // [4, channels]

    // What norm_act_pool calls weight and bias: without a norm its bias is that of the linear map.
    const Parameter& scale() const { return norm_weight; }
    const Parameter& shift() const { return settings.norm == kernels::Norm::kNone ? bias : norm_bias; }
  };

  // What working on a slice needs of its own. Two threads have a desk each and share a batch's slices, so
  // that neither waits for the other until the end.
  struct Desk {
    struct OfBlock {
      std::unique_ptr<LinearMap> map;
      at::Tensor z;      // memory of a pair
      at::Tensor out;    // memory of a pair
      at::Tensor stats;  // [images of a slice, 4, channels]
    };
    std::vector<OfBlock> blocks;
    std::unique_ptr<LinearMap> head;
    at::Tensor dz;  // memory of a pair, for the largest block
    at::Tensor dout;
  };

  // A slice's share of everything, as views.
  struct Slice {
    size_t desk;
    int64_t first;
    int64_t images;
    at::Tensor pixels;
    at::Tensor pixel_gradients;
    Pair logits;
    Pair logit_gradients;
    at::Tensor losses;
    at::Tensor label_gradients;
    struct OfBlock {
      Pair z;
      Pair out;
      Pair dz;
      Pair dout;
      at::Tensor stats2;  // without and with tangents
      at::Tensor stats4;
      at::Tensor parameter_grads2;
      at::Tensor parameter_grads4;
    };
    std::vector<OfBlock> blocks;
  };

  void add_parameter(Parameter& parameter, std::vector<int64_t> shape);
  void make_views();
  int64_t bytes_of_an_image() const;
  int64_t multiplications_of_an_image() const;
  cpu::OnOneThread as_many_threads_as_are_worth_it() const;
  void prepare(int64_t batch);
  void read(const at::Tensor& theta, const at::Tensor& lambda, const at::Tensor& images);
  void begin(bool with_tangents);
  void check_labels(const at::Tensor& labels, int64_t images) const;
  void drop_sums();
  Desk make_desk() const;
  template <typename Work>
  void on_slices(const Work& work);
  std::vector<at::Tensor> forward(Slice& slice);
  std::vector<Pair> forward_jvp(Slice& slice);
  void gradient_of(Slice& slice, const at::Tensor& labels);
  void adjoint_of(Slice& slice, const at::Tensor& labels, const Wanted& wanted);
  void finish(int row, int64_t rows);

  Architecture architecture_;
  at::TensorOptions options_;
  int64_t largest_batch_;
  int64_t slice_images_;
  Products products_;
  int64_t batch_ = 0;
  bool unfinished_ = false;  // a pass has begun and not ended

  std::vector<Block> blocks_;
  std::vector<ConvolutionShape> shapes_;  // of the blocks' maps
  Planes features_;                       // what the head reads
  std::vector<Desk> desks_;
  Parameter head_weight_;
  Parameter head_bias_;
  int64_t parameter_count_ = 0;

  at::Tensor theta_;   // [P]
  at::Tensor lambda_;  // [P]
  at::Tensor result_;  // [P]: g or H lambda
  at::Tensor images_;  // [largest batch, C, H, W], channels-last
  at::Tensor image_gradients_;
  at::Tensor logits_;  // [2, largest batch, K]
  at::Tensor logit_gradients_;
  at::Tensor losses_;           // [largest batch]
  at::Tensor label_gradients_;  // [largest batch, K]
  at::Tensor logits_now_;
  at::Tensor losses_now_;
  std::vector<Slice> slices_;
};

}  // namespace pydistill::engine
