#include "student_parameters.h"

#include <ATen/ops/zeros.h>
#include <c10/util/accumulate.h>

namespace pydistill::engine {

StudentParameters::StudentParameters(const StudentLayout& layout, at::TensorOptions options)
    : theta(at::zeros({layout.parameter_count}, options)),
      lambda(at::zeros({layout.parameter_count}, options)),
      result(at::zeros({layout.parameter_count}, options)) {
  const auto views = [&](const ParameterLayout& parameter) -> ParameterViews {
    if (parameter.shape.empty()) {
      return {};
    }
    const auto view = [&](const at::Tensor& flat) {
      return flat.narrow(0, parameter.offset, c10::multiply_integers(parameter.shape)).view(parameter.shape);
    };
    return {view(theta), view(lambda), view(result)};
  };
  for (const BlockLayout& block : layout.blocks) {
    blocks.push_back(
        {views(block.weight), views(block.bias), views(block.norm_weight), views(block.norm_bias)});
  }
  head_weight = views(layout.head_weight);
  head_bias = views(layout.head_bias);
}

}  // namespace pydistill::engine
