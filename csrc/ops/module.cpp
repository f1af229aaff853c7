// The Python module pydistill._C. Importing it registers the ops under torch.ops.pydistill (each op's own
// file does that); the module itself only says how it was built. pybind11 is the copy that torch ships.
#include <pybind11/pybind11.h>
#include <torch/version.h>

#include <string>

namespace {

std::string compiler() {
#if defined(__clang__)
  return "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__) + "." +
         std::to_string(__clang_patchlevel__);
#elif defined(__GNUC__)
  return "gcc " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__) + "." +
         std::to_string(__GNUC_PATCHLEVEL__);
#else
  return "unknown";
#endif
}

pybind11::dict build_config() {
  pybind11::dict config;
  config["torch_version"] = TORCH_VERSION;
  config["compiler"] = compiler();
  config["cxx_standard"] = static_cast<long>(__cplusplus);
#if defined(_OPENMP)
  config["openmp"] = true;
#else
  config["openmp"] = false;
#endif
#if defined(PYDISTILL_WITH_CUDA)
  config["cuda"] = true;
  config["cuda_version"] = PYDISTILL_CUDA_VERSION;
  config["cuda_arch_list"] = PYDISTILL_CUDA_ARCH_LIST;
#else
  config["cuda"] = false;
  config["cuda_version"] = pybind11::none();
  config["cuda_arch_list"] = pybind11::none();
#endif
  return config;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "Compiled ops of pydistill; importing it registers them under torch.ops.pydistill.";
  module.def("build_config", &build_config, "How this extension was built, as a dict.");
}
