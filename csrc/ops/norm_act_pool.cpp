#include "../cpu/norm_act_pool.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <string_view>
#include <tuple>

#if defined(PYDISTILL_WITH_CUDA)
#include "../cuda/norm_act_pool.h"
#endif

namespace pydistill::ops {
namespace {

using kernels::Norm;
using kernels::NormActPoolSettings;
using kernels::Pooling;
using OptionalTensor = std::optional<at::Tensor>;

NormActPoolSettings settings_of(const char* op, std::string_view norm, std::string_view pooling, double eps) {
  TORCH_CHECK_VALUE(norm == "instance" || norm == "none", op, ": norm=", norm,
                    " is not one of instance, none");
  TORCH_CHECK_VALUE(pooling == "average" || pooling == "max" || pooling == "none", op, ": pooling=", pooling,
                    " is not one of average, max, none");
  TORCH_CHECK_VALUE(std::isfinite(eps) && eps >= 0, op, ": eps is ", eps,
                    "; it must be finite and not negative");
  return {norm == "instance" ? Norm::kInstance : Norm::kNone,
          pooling == "average" ? Pooling::kAverage
          : pooling == "max"   ? Pooling::kMax
                               : Pooling::kNone,
          eps};
}

void check_like_z(const char* op, const at::Tensor& value, const char* name, at::IntArrayRef shape,
                  const at::Tensor& z) {
  TORCH_CHECK_VALUE(value.sizes() == shape, op, ": ", name, " has shape ", value.sizes(),
                    " where z has shape ", z.sizes(), "; it must be ", shape);
  TORCH_CHECK_VALUE(value.scalar_type() == z.scalar_type(), op, ": ", name, " is ", value.scalar_type(),
                    " where z is ", z.scalar_type());
  TORCH_CHECK_VALUE(value.device() == z.device(), op, ": ", name, " is on ", value.device(),
                    " where z is on ", z.device());
}

void check_z(const char* op, const at::Tensor& z) {
  TORCH_CHECK_VALUE(z.scalar_type() == at::kFloat || z.scalar_type() == at::kDouble, op, ": z is ",
                    z.scalar_type(), "; it must be float32 or float64");
  TORCH_CHECK_VALUE(z.dim() == 4 && z.size(1) > 0 && z.size(2) > 0 && z.size(3) > 0, op, ": z has shape ",
                    z.sizes(), "; it must be [B, C, H, W] with C, H and W of at least 1");
}

// weight or bias, contiguous; undefined if it is absent, which only norm=none allows.
at::Tensor parameter(const char* op, const NormActPoolSettings& settings, const OptionalTensor& value,
                     const char* name, const at::Tensor& z) {
  if (!value.has_value()) {
    TORCH_CHECK_VALUE(settings.norm == Norm::kNone, op, ": ", name, " is missing; norm=instance needs it");
    return {};
  }
  check_like_z(op, *value, name, {z.size(1)}, z);
  return value->contiguous();
}

struct Parameters {
  at::Tensor weight;
  at::Tensor bias;
};

Parameters parameters(const char* op, const NormActPoolSettings& settings, const OptionalTensor& weight,
                      const OptionalTensor& bias, const at::Tensor& z) {
  TORCH_CHECK_VALUE(settings.norm == Norm::kInstance || !weight.has_value(), op,
                    ": weight is given; norm=none has none");
  return {parameter(op, settings, weight, "weight", z), parameter(op, settings, bias, "bias", z)};
}

Parameters tangents(const char* op, const Parameters& values, const OptionalTensor& weight,
                    const OptionalTensor& bias, const at::Tensor& z) {
  TORCH_CHECK_VALUE(values.weight.defined() == weight.has_value(), op,
                    ": weight and weight_tangent must both be given or neither");
  TORCH_CHECK_VALUE(values.bias.defined() == bias.has_value(), op,
                    ": bias and bias_tangent must both be given or neither");
  Parameters result;
  if (weight.has_value()) {
    check_like_z(op, *weight, "weight_tangent", {z.size(1)}, z);
    result.weight = weight->contiguous();
  }
  if (bias.has_value()) {
    check_like_z(op, *bias, "bias_tangent", {z.size(1)}, z);
    result.bias = bias->contiguous();
  }
  return result;
}

at::Tensor channels_last(const at::Tensor& planes) {
  return planes.contiguous(at::MemoryFormat::ChannelsLast);
}

at::Tensor new_planes(const at::Tensor& z, at::IntArrayRef shape) {
  return at::empty(shape, z.options(), at::MemoryFormat::ChannelsLast);
}

std::vector<int64_t> out_shape(const NormActPoolSettings& settings, const at::Tensor& z) {
  const int64_t side = settings.pooling == Pooling::kNone ? 1 : 2;
  return {z.size(0), z.size(1), z.size(2) / side, z.size(3) / side};
}

// Without a norm the statistics have no rows, and the launchers get an undefined tensor.
at::Tensor new_stats(const NormActPoolSettings& settings, const at::Tensor& z, int64_t rows) {
  return at::empty({z.size(0), settings.norm == Norm::kNone ? 0 : rows, z.size(1)}, z.options());
}

at::Tensor stats_for_launcher(const NormActPoolSettings& settings, const at::Tensor& stats) {
  return settings.norm == Norm::kNone ? at::Tensor() : stats.contiguous();
}

void check_stats(const char* op, const NormActPoolSettings& settings, const at::Tensor& stats,
                 const at::Tensor& z, int64_t rows) {
  check_like_z(op, stats, "stats", {z.size(0), settings.norm == Norm::kNone ? 0 : rows, z.size(1)}, z);
}

// The launchers of one kind of device.
struct Cpu {
  static constexpr auto forward = &cpu::norm_act_pool;
  static constexpr auto backward = &cpu::norm_act_pool_backward;
  static constexpr auto jvp = &cpu::norm_act_pool_jvp;
  static constexpr auto backward_jvp = &cpu::norm_act_pool_backward_jvp;
  static constexpr auto sum_images = &cpu::sum_images;
};
#if defined(PYDISTILL_WITH_CUDA)
struct Cuda {
  static constexpr auto forward = &cuda::norm_act_pool;
  static constexpr auto backward = &cuda::norm_act_pool_backward;
  static constexpr auto jvp = &cuda::norm_act_pool_jvp;
  static constexpr auto backward_jvp = &cuda::norm_act_pool_backward_jvp;
  static constexpr auto sum_images = &cuda::sum_images;
};
#endif

template <typename Device>
at::Tensor sum_of_images(const at::Tensor& parameter_grads) {
  const at::Tensor sums =
      at::empty({parameter_grads.size(1), parameter_grads.size(2)}, parameter_grads.options());
  Device::sum_images(parameter_grads, sums);
  return sums;
}

template <typename Device>
std::tuple<at::Tensor, at::Tensor> forward(const at::Tensor& z, const OptionalTensor& weight,
                                           const OptionalTensor& bias, std::string_view norm,
                                           std::string_view pooling, double eps) {
  const char* const op = "norm_act_pool";
  const NormActPoolSettings settings = settings_of(op, norm, pooling, eps);
  check_z(op, z);
  const Parameters values = parameters(op, settings, weight, bias, z);
  const at::Tensor out = new_planes(z, out_shape(settings, z));
  const at::Tensor stats = new_stats(settings, z, 2);
  Device::forward(settings, channels_last(z), values.weight, values.bias, out,
                  stats_for_launcher(settings, stats));
  return {out, stats};
}

template <typename Device>
std::tuple<at::Tensor, at::Tensor> backward(const at::Tensor& grad_out, const at::Tensor& z,
                                            const OptionalTensor& weight, const OptionalTensor& bias,
                                            const at::Tensor& stats, std::string_view norm,
                                            std::string_view pooling, double eps) {
  const char* const op = "norm_act_pool_backward";
  const NormActPoolSettings settings = settings_of(op, norm, pooling, eps);
  check_z(op, z);
  check_like_z(op, grad_out, "grad_out", out_shape(settings, z), z);
  check_stats(op, settings, stats, z, 2);
  const Parameters values = parameters(op, settings, weight, bias, z);
  const at::Tensor grad_z = new_planes(z, z.sizes());
  const at::Tensor parameter_grads = at::empty({z.size(0), 2, z.size(1)}, z.options());
  Device::backward(settings, channels_last(grad_out), channels_last(z), values.weight, values.bias,
                   stats_for_launcher(settings, stats), grad_z, parameter_grads);
  return {grad_z, sum_of_images<Device>(parameter_grads)};
}

template <typename Device>
std::tuple<at::Tensor, at::Tensor, at::Tensor> jvp(const at::Tensor& z, const at::Tensor& z_tangent,
                                                   const OptionalTensor& weight,
                                                   const OptionalTensor& weight_tangent,
                                                   const OptionalTensor& bias,
                                                   const OptionalTensor& bias_tangent, std::string_view norm,
                                                   std::string_view pooling, double eps) {
  const char* const op = "norm_act_pool_jvp";
  const NormActPoolSettings settings = settings_of(op, norm, pooling, eps);
  check_z(op, z);
  check_like_z(op, z_tangent, "z_tangent", z.sizes(), z);
  const Parameters values = parameters(op, settings, weight, bias, z);
  const Parameters tangent = tangents(op, values, weight_tangent, bias_tangent, z);
  const at::Tensor out = new_planes(z, out_shape(settings, z));
  const at::Tensor out_tangent = new_planes(z, out_shape(settings, z));
  const at::Tensor stats = new_stats(settings, z, 4);
  Device::jvp(settings, channels_last(z), channels_last(z_tangent), values.weight, tangent.weight,
              values.bias, tangent.bias, out, out_tangent, stats_for_launcher(settings, stats));
  return {out, out_tangent, stats};
}

template <typename Device>
std::tuple<at::Tensor, at::Tensor, at::Tensor> backward_jvp(
    const at::Tensor& grad_out, const at::Tensor& grad_out_tangent, const at::Tensor& z,
    const at::Tensor& z_tangent, const OptionalTensor& weight, const OptionalTensor& weight_tangent,
    const OptionalTensor& bias, const OptionalTensor& bias_tangent, const at::Tensor& stats,
    std::string_view norm, std::string_view pooling, double eps) {
  const char* const op = "norm_act_pool_backward_jvp";
  const NormActPoolSettings settings = settings_of(op, norm, pooling, eps);
  check_z(op, z);
  check_like_z(op, z_tangent, "z_tangent", z.sizes(), z);
  check_like_z(op, grad_out, "grad_out", out_shape(settings, z), z);
  check_like_z(op, grad_out_tangent, "grad_out_tangent", out_shape(settings, z), z);
  check_stats(op, settings, stats, z, 4);
  const Parameters values = parameters(op, settings, weight, bias, z);
  const Parameters tangent = tangents(op, values, weight_tangent, bias_tangent, z);
  const at::Tensor grad_z = new_planes(z, z.sizes());
  const at::Tensor grad_z_tangent = new_planes(z, z.sizes());
  const at::Tensor parameter_grads = at::empty({z.size(0), 4, z.size(1)}, z.options());
  Device::backward_jvp(settings, channels_last(grad_out), channels_last(grad_out_tangent), channels_last(z),
                       channels_last(z_tangent), values.weight, tangent.weight, values.bias, tangent.bias,
                       stats_for_launcher(settings, stats), grad_z, grad_z_tangent, parameter_grads);
  return {grad_z, grad_z_tangent, sum_of_images<Device>(parameter_grads)};
}

template <typename Device>
void register_all(torch::Library& library) {
  library.impl("norm_act_pool", &forward<Device>);
  library.impl("norm_act_pool_backward", &backward<Device>);
  library.impl("norm_act_pool_jvp", &jvp<Device>);
  library.impl("norm_act_pool_backward_jvp", &backward_jvp<Device>);
}

}  // namespace

// stats: [B, k, C], k = 0 without a norm; parameter_grads: [k, C], the rows of weight and bias and then their
// tangents, summed over the images.
TORCH_LIBRARY_FRAGMENT(pydistill, library) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};
  library.def(
      "norm_act_pool(Tensor z, Tensor? weight, Tensor? bias, str norm, str pooling, float eps) -> (Tensor "
      "out, Tensor stats)",
      tags);
  library.def(
      "norm_act_pool_backward(Tensor grad_out, Tensor z, Tensor? weight, Tensor? bias, Tensor stats, str "
      "norm, str pooling, float eps) -> (Tensor grad_z, Tensor parameter_grads)",
      tags);
  library.def(
      "norm_act_pool_jvp(Tensor z, Tensor z_tangent, Tensor? weight, Tensor? weight_tangent, Tensor? bias, "
      "Tensor? bias_tangent, str norm, str pooling, float eps) -> (Tensor out, Tensor out_tangent, Tensor "
      "stats)",
      tags);
  library.def(
      "norm_act_pool_backward_jvp(Tensor grad_out, Tensor grad_out_tangent, Tensor z, Tensor z_tangent, "
      "Tensor? weight, Tensor? weight_tangent, Tensor? bias, Tensor? bias_tangent, Tensor stats, str norm, "
      "str pooling, float eps) -> (Tensor grad_z, Tensor grad_z_tangent, Tensor parameter_grads)",
      tags);
}

TORCH_LIBRARY_IMPL(pydistill, CPU, library) { register_all<Cpu>(library); }

#if defined(PYDISTILL_WITH_CUDA)
TORCH_LIBRARY_IMPL(pydistill, CUDA, library) { register_all<Cuda>(library); }
#endif

}  // namespace pydistill::ops
