// A student's flat vectors, and views of them as its parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "student_layout.h"

namespace pydistill::engine {

// A parameter in theta, in the direction lambda, and in the result; undefined if the student does not have
// it.
struct ParameterViews {
  at::Tensor value;
  at::Tensor tangent;
  at::Tensor gradient;
};

struct BlockParameters {
  ParameterViews weight;
  ParameterViews bias;
  ParameterViews norm_weight;
  ParameterViews norm_bias;

  // The weight and bias of norm_act_pool: without a norm its bias is that of the linear map.
  const ParameterViews& scale() const { return norm_weight; }
  const ParameterViews& shift() const { return norm_bias.value.defined() ? norm_bias : bias; }
};

struct StudentParameters {
  StudentParameters(const StudentLayout& layout, at::TensorOptions options);

  at::Tensor theta;   // [P]
  at::Tensor lambda;  // [P]
  at::Tensor result;  // [P]: g or H lambda
  std::vector<BlockParameters> blocks;
  ParameterViews head_weight;
  ParameterViews head_bias;
};

}  // namespace pydistill::engine
