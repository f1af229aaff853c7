// One block of the student without its convolution: out = pool(relu(v)), v = weight * u + bias,
// u = (z - mean) / sqrt(variance + eps) over each image and channel; without the norm v = z + bias.
// Forward, backward and the tangents of both; memory is channels-last.
//
// Below, x = z - mean and r = 1 / sqrt(variance + eps), so that v = scale * x + shift with scale = weight *
// r:
//   backward   dv = [v > 0] unpool(dout),   dbias = sum dv,   dweight = r sum dv x,
//              dz = scale * (dv - sum dv / M - x * r^2 sum dv x / M)
// and each tangent is the derivative of these lines, which Dual takes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "dual.h"
#include "moments.h"

namespace pydistill::kernels {

enum class Norm { kNone, kInstance };
enum class Pooling { kNone, kAverage, kMax };

struct NormActPoolSettings {
  Norm norm;
  Pooling pooling;
  double eps;
};

enum class NormActPoolPhase { kForward, kJvp, kBackward, kBackwardJvp };

// What the phases read and write; [0] holds values and [1] tangents, and what a phase has no use for is null.
// H' = H / 2 and W' = W / 2, rounded down, or H and W without pooling; k = 2, with tangents 4.
template <typename scalar_t>
struct NormActPoolArrays {
  int64_t channels;
  int64_t height;
  int64_t width;
  scalar_t eps;
  const scalar_t* z[2];         // [B, H, W, C]
  const scalar_t* weight[2];    // [C]; null without a norm
  const scalar_t* bias[2];      // [C]; may be null without a norm
  const scalar_t* grad_out[2];  // [B, H', W', C]
  scalar_t* out[2];             // [B, H', W', C]
  scalar_t* stats;              // [B, k, C]: mean and r, and their tangents; null without a norm
  scalar_t* grad_z[2];          // [B, H, W, C]
  scalar_t* parameter_grads;    // [B, k, C]: of weight and bias, and their tangents
};

// relu and pooling of one window: 2 x 2 pixels in row-major order, or one without pooling.
template <typename V, Pooling pooling>
struct ReluPool {
  static constexpr std::size_t kSide = pooling == Pooling::kNone ? 1 : 2;
  static constexpr std::size_t kPixels = kSide * kSide;
  using Mask = decltype(V() <= V());

  // A later number wins if it is larger or no number at all, as in PyTorch's max_pool2d.
  PYDISTILL_HOST_DEVICE static Mask wins(V later, V best) { return (later > best) | (later != later); }

  template <bool tangent>
  PYDISTILL_HOST_DEVICE static Dual<V, tangent> apply(const Dual<V, tangent> (&v)[kPixels]) {
    using D = Dual<V, tangent>;
    const D zero = D::constant(V(0));
    D pooled = choose(v[0].value <= V(0), zero, v[0]);
    for (std::size_t k = 1; k < kPixels; ++k) {
      const D positive = choose(v[k].value <= V(0), zero, v[k]);
      if constexpr (pooling == Pooling::kMax) {
        pooled = choose(wins(positive.value, pooled.value), positive, pooled);
      } else {
        pooled = pooled + positive;
      }
    }
    if constexpr (pooling == Pooling::kAverage) {
      pooled = scaled(pooled, V(0.25f));
    }
    return pooled;
  }

  template <bool tangent>
  PYDISTILL_HOST_DEVICE static void backward(const V (&v)[kPixels], Dual<V, tangent> grad,
                                             Dual<V, tangent> (&grad_v)[kPixels]) {
    using D = Dual<V, tangent>;
    const D zero = D::constant(V(0));
    if constexpr (pooling == Pooling::kMax) {
      Mask wins_over_earlier[kPixels];
      V best = v[0];
      for (std::size_t k = 1; k < kPixels; ++k) {
        wins_over_earlier[k] = wins(v[k], best);
        best = select(wins_over_earlier[k], v[k], best);
      }
      for (std::size_t k = kPixels - 1; k > 0; --k) {
        grad_v[k] = choose(wins_over_earlier[k], grad, zero);
        grad = choose(wins_over_earlier[k], zero, grad);
      }
      grad_v[0] = grad;
    } else {
      for (std::size_t k = 0; k < kPixels; ++k) {
        grad_v[k] = pooling == Pooling::kAverage ? scaled(grad, V(0.25f)) : grad;
      }
    }
    for (std::size_t k = 0; k < kPixels; ++k) {
      grad_v[k] = choose(v[k] <= V(0), zero, grad_v[k]);
    }
  }
};

// The arithmetic of all phases on the numbers that Access loads and stores at a time: one, or a vector of
// neighbouring channels. Access offers Scalar, Value, load(const Scalar*) and store(Scalar*, Value), and
// store_plane(Scalar*, Value) for the planes that a phase writes.
//
// An engine runs a plane (one image, one Value of channels) as
//   forward    combine moments_of(...) over all pixels -> normalise -> emit each window
//   backward   channel_of -> accumulate each window -> finish -> emit_backward each window, and
//              emit_unpooled each pixel that is in no window
// An offset is that of a window's first pixel in z and of its result in out, with the channel.
template <typename Access, Norm norm, Pooling pooling, bool tangent>
struct NormActPool {
  using Through = Access;
  using Scalar = typename Access::Scalar;
  using V = typename Access::Value;
  using D = Dual<V, tangent>;
  using Window = ReluPool<V, pooling>;
  static constexpr bool kInstance = norm == Norm::kInstance;
  static constexpr int64_t kSide = static_cast<int64_t>(Window::kSide);
  static constexpr std::size_t kPixels = Window::kPixels;
  static constexpr int64_t kRows = tangent ? 4 : 2;  // of stats and of parameter_grads

  NormActPoolArrays<Scalar> arrays;
  Access access;

  struct Channel {  // v = scale * (z - mean) + shift
    D mean;
    D scale;
    D shift;
  };
  struct Sums {  // over pixels
    D grad;      // dv
    D moment;    // dv * x

    PYDISTILL_HOST_DEVICE static Sums none() { return {D::constant(V(0)), D::constant(V(0))}; }
    PYDISTILL_HOST_DEVICE friend Sums operator+(const Sums& a, const Sums& b) {
      return {a.grad + b.grad, a.moment + b.moment};
    }
  };
  struct Projection {  // dz = scale * (dv - offset - slope * x)
    D offset;
    D slope;
  };

  PYDISTILL_HOST_DEVICE int64_t pixels() const { return arrays.height * arrays.width; }
  PYDISTILL_HOST_DEVICE int64_t windows_down() const { return arrays.height / kSide; }
  PYDISTILL_HOST_DEVICE int64_t windows_across() const { return arrays.width / kSide; }
  PYDISTILL_HOST_DEVICE int64_t pixel_offset(int64_t image, int64_t row, int64_t column,
                                             int64_t channel) const {
    return ((image * arrays.height + row) * arrays.width + column) * arrays.channels + channel;
  }
  PYDISTILL_HOST_DEVICE int64_t out_offset(int64_t image, int64_t row, int64_t column,
                                           int64_t channel) const {
    return ((image * windows_down() + row) * windows_across() + column) * arrays.channels + channel;
  }

  // Of the n pixels from this one on, in the order of memory.
  template <std::size_t n>
  PYDISTILL_HOST_DEVICE Moments<V, tangent> moments_of(int64_t offset) const {
    D z[n];
    for (std::size_t k = 0; k < n; ++k) {
      z[k] = load(arrays.z, offset + static_cast<int64_t>(k) * arrays.channels);
    }
    return Moments<V, tangent>::of(z);
  }

  // Of a pixel from the mean as it is so far.
  PYDISTILL_HOST_DEVICE D deviation(const Moments<V, tangent>& moments, int64_t offset) const {
    return load(arrays.z, offset) - moments.mean;
  }

  // From the moments of the whole plane; stores mean and r.
  PYDISTILL_HOST_DEVICE Channel normalise(int64_t image, int64_t channel,
                                          const Moments<V, tangent>& moments) const {
    const D mean = moments.mean - moments.excess;
    const D variance = scaled(moments.squares, per_pixel());
    const D root = reciprocal_root(variance + D::constant(V(arrays.eps)));
    store_rows(arrays.stats, image, channel, mean, root);
    return {mean, load(arrays.weight, channel) * root, load(arrays.bias, channel)};
  }

  // As normalise(), from what that stored; without a norm there is nothing to be stored.
  PYDISTILL_HOST_DEVICE Channel channel_of(int64_t image, int64_t channel) const {
    if constexpr (kInstance) {
      return {load_row(arrays.stats, image, channel, 0),
              load(arrays.weight, channel) * load_row(arrays.stats, image, channel, 1),
              load(arrays.bias, channel)};
    } else {
      const D shift = arrays.bias[0] == nullptr ? D::constant(V(0)) : load(arrays.bias, channel);
      return {D::constant(V(0)), D::constant(V(1)), shift};
    }
  }

  PYDISTILL_HOST_DEVICE void emit(const Channel& channel, int64_t offset, int64_t out) const {
    D v[kPixels];
    for (std::size_t k = 0; k < kPixels; ++k) {
      v[k] = activation(channel, centred(channel, offset_in_window(offset, k)));
    }
    store_plane(arrays.out, out, Window::apply(v));
  }

  // The window's share of the sums.
  PYDISTILL_HOST_DEVICE Sums accumulate(const Channel& channel, int64_t offset, int64_t out) const {
    D x[kPixels];
    D grad_v[kPixels];
    window_backward(channel, offset, out, x, grad_v);
    D grad = grad_v[0];
    D moment = grad_v[0] * x[0];
    for (std::size_t k = 1; k < kPixels; ++k) {
      grad = grad + grad_v[k];
      moment = moment + grad_v[k] * x[k];
    }
    return {grad, moment};
  }

  // From the sums over the whole plane; stores the gradients of the parameters.
  PYDISTILL_HOST_DEVICE Projection finish(int64_t image, int64_t channel, const Sums& sums) const {
    if constexpr (kInstance) {
      const D root = load_row(arrays.stats, image, channel, 1);
      const D grad_weight = root * sums.moment;
      store_rows(arrays.parameter_grads, image, channel, grad_weight, sums.grad);
      return {scaled(sums.grad, per_pixel()), scaled(root * grad_weight, per_pixel())};
    } else {
      const D zero = D::constant(V(0));
      store_rows(arrays.parameter_grads, image, channel, zero, sums.grad);
      return {zero, zero};
    }
  }

  PYDISTILL_HOST_DEVICE void emit_backward(const Channel& channel, const Projection& projection,
                                           int64_t offset, int64_t out) const {
    D x[kPixels];
    D grad_v[kPixels];
    window_backward(channel, offset, out, x, grad_v);
    for (std::size_t k = 0; k < kPixels; ++k) {
      store_plane(arrays.grad_z, offset_in_window(offset, k),
                  grad_of_z(channel, projection, grad_v[k], x[k]));
    }
  }

  PYDISTILL_HOST_DEVICE void emit_unpooled(const Channel& channel, const Projection& projection,
                                           int64_t offset) const {
    store_plane(arrays.grad_z, offset,
                grad_of_z(channel, projection, D::constant(V(0)), centred(channel, offset)));
  }

 private:
  PYDISTILL_HOST_DEVICE V per_pixel() const {
    return V(static_cast<Scalar>(1) / static_cast<Scalar>(pixels()));
  }
  PYDISTILL_HOST_DEVICE int64_t offset_in_window(int64_t offset, std::size_t k) const {
    const int64_t pixel = static_cast<int64_t>(k);
    return offset + ((pixel / kSide) * arrays.width + pixel % kSide) * arrays.channels;
  }

  PYDISTILL_HOST_DEVICE D load(const Scalar* const (&from)[2], int64_t offset) const {
    if constexpr (tangent) {
      return {access.load(from[0] + offset), access.load(from[1] + offset)};
    } else {
      return {access.load(from[0] + offset)};
    }
  }
  PYDISTILL_HOST_DEVICE void store_plane(Scalar* const (&to)[2], int64_t offset, const D& number) const {
    access.store_plane(to[0] + offset, number.value);
    if constexpr (tangent) {
      access.store_plane(to[1] + offset, number.tangent);
    }
  }
  // rows: [B, k, C]; the tangents of the rows 0 and 1 are the rows 2 and 3.
  PYDISTILL_HOST_DEVICE D load_row(const Scalar* rows, int64_t image, int64_t channel, int64_t row) const {
    const Scalar* const from = rows + (image * kRows + row) * arrays.channels + channel;
    if constexpr (tangent) {
      return {access.load(from), access.load(from + 2 * arrays.channels)};
    } else {
      return {access.load(from)};
    }
  }
  PYDISTILL_HOST_DEVICE void store_rows(Scalar* rows, int64_t image, int64_t channel, const D& first,
                                        const D& second) const {
    Scalar* const to = rows + image * kRows * arrays.channels + channel;
    access.store(to, first.value);
    access.store(to + arrays.channels, second.value);
    if constexpr (tangent) {
      access.store(to + 2 * arrays.channels, first.tangent);
      access.store(to + 3 * arrays.channels, second.tangent);
    }
  }

  PYDISTILL_HOST_DEVICE D centred(const Channel& channel, int64_t offset) const {
    const D z = load(arrays.z, offset);
    if constexpr (kInstance) {
      return z - channel.mean;
    } else {
      return z;
    }
  }
  PYDISTILL_HOST_DEVICE static D activation(const Channel& channel, const D& x) {
    if constexpr (kInstance) {
      return channel.scale * x + channel.shift;
    } else {
      return x + channel.shift;
    }
  }
  PYDISTILL_HOST_DEVICE void window_backward(const Channel& channel, int64_t offset, int64_t out,
                                             D (&x)[kPixels], D (&grad_v)[kPixels]) const {
    V v[kPixels];
    for (std::size_t k = 0; k < kPixels; ++k) {
      x[k] = centred(channel, offset_in_window(offset, k));
      v[k] = activation(channel, x[k]).value;
    }
    Window::backward(v, load(arrays.grad_out, out), grad_v);
  }
  PYDISTILL_HOST_DEVICE static D grad_of_z(const Channel& channel, const Projection& projection,
                                           const D& grad_v, const D& x) {
    if constexpr (kInstance) {
      return channel.scale * ((grad_v - projection.offset) - projection.slope * x);
    } else {
      return grad_v;
    }
  }
};

template <typename Access>
using ArraysOf = NormActPoolArrays<typename Access::Scalar>;

// Calls run.forward(op) or run.backward(op) with the NormActPool of these settings.
template <typename Access, Norm norm, Pooling pooling, typename Run>
typename Run::Result with_norm_act_pool(NormActPoolPhase phase, const ArraysOf<Access>& arrays,
                                        const Access& access, const Run& run) {
  using Plain = NormActPool<Access, norm, pooling, false>;
  using WithTangents = NormActPool<Access, norm, pooling, true>;
  switch (phase) {
    case NormActPoolPhase::kForward:
      return run.forward(Plain{arrays, access});
    case NormActPoolPhase::kJvp:
      return run.forward(WithTangents{arrays, access});
    case NormActPoolPhase::kBackward:
      return run.backward(Plain{arrays, access});
    case NormActPoolPhase::kBackwardJvp:
      break;
  }
  return run.backward(WithTangents{arrays, access});
}

template <typename Access, Norm norm, typename Run>
typename Run::Result with_norm_act_pool(NormActPoolPhase phase, Pooling pooling,
                                        const ArraysOf<Access>& arrays, const Access& access,
                                        const Run& run) {
  switch (pooling) {
    case Pooling::kAverage:
      return with_norm_act_pool<Access, norm, Pooling::kAverage>(phase, arrays, access, run);
    case Pooling::kMax:
      return with_norm_act_pool<Access, norm, Pooling::kMax>(phase, arrays, access, run);
    case Pooling::kNone:
      break;
  }
  return with_norm_act_pool<Access, norm, Pooling::kNone>(phase, arrays, access, run);
}

template <typename Access, typename Run>
typename Run::Result with_norm_act_pool(NormActPoolPhase phase, Norm norm, Pooling pooling,
                                        const ArraysOf<Access>& arrays, const Access& access,
                                        const Run& run) {
  return norm == Norm::kInstance
             ? with_norm_act_pool<Access, Norm::kInstance>(phase, pooling, arrays, access, run)
             : with_norm_act_pool<Access, Norm::kNone>(phase, pooling, arrays, access, run);
}

}  // namespace pydistill::kernels
