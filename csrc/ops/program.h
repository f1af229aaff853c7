#pragma once

#include <torch/library.h>

namespace pydistill::ops {

// Registers torch.classes.pydistill.Program; the Student that it takes must be registered before.
void define_program(torch::Library& library);

}  // namespace pydistill::ops
