// How this library was built, as JSON: the op pydistill::build_config. There is no Python module here and no
// Python.h: the library is loaded with torch.ops.load_library, and what it offers are its ops.
#include <torch/library.h>
#include <torch/version.h>

#include <string>

#include "../cpu/isa.h"

namespace pydistill::ops {
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

std::string quoted(const std::string& text) { return "\"" + text + "\""; }

std::string build_config() {
#if defined(_OPENMP)
  const std::string openmp = "true";
#else
  const std::string openmp = "false";
#endif
#if defined(PYDISTILL_WITH_CUDA)
  const std::string cuda = "true";
  const std::string cuda_version = quoted(PYDISTILL_CUDA_VERSION);
  const std::string cuda_arch_list = quoted(PYDISTILL_CUDA_ARCH_LIST);
#else
  const std::string cuda = "false";
  const std::string cuda_version = "null";
  const std::string cuda_arch_list = "null";
#endif
  return "{\"torch_version\": " + quoted(TORCH_VERSION) + ", \"compiler\": " + quoted(compiler()) +
         ", \"cxx_standard\": " + std::to_string(__cplusplus) + ", \"openmp\": " + openmp +
         ", \"isa\": " + quoted(cpu::isa_name(cpu::isa())) + ", \"cuda\": " + cuda +
         ", \"cuda_version\": " + cuda_version + ", \"cuda_arch_list\": " + cuda_arch_list + "}";
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(pydistill, library) { library.def("build_config() -> str", &build_config); }

}  // namespace pydistill::ops
