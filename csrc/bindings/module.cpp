// The Python module pydistill._C: the classes of the engine. pydistill/_C.pyi is its description for readers
// and type checkers; the functional ops are under torch.ops.pydistill (csrc/ops).
//
// The GIL is released while a constructor or a method runs. Errors of PyTorch's checks arrive as the Python
// exceptions that they stand for: TORCH_CHECK_VALUE as ValueError.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/version.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../cpu/isa.h"
#include "program.h"
#include "student.h"

namespace py = pybind11;

namespace pydistill::bindings {
namespace {

using engine::Architecture;
using engine::BatchTables;
using torch::wrap_pybind_function;
using torch::wrap_pybind_function_no_gil;

template <typename Enum>
using Names = std::vector<std::pair<const char*, Enum>>;

const Names<bool> kKinds = {{"convnet", true}, {"mlp", false}};
const Names<kernels::Norm> kNorms = {{"instance", kernels::Norm::kInstance}, {"none", kernels::Norm::kNone}};
const Names<kernels::Pooling> kPoolings = {{"average", kernels::Pooling::kAverage},
                                           {"max", kernels::Pooling::kMax},
                                           {"none", kernels::Pooling::kNone}};
const Names<engine::Convolutions> kConvolutions = {{"builtin", engine::Convolutions::kBuiltin},
                                                   {"aten", engine::Convolutions::kAten}};

template <typename Enum>
Enum value_of(const Names<Enum>& names, const std::string& name, const char* argument) {
  for (const auto& [known, value] : names) {
    if (name == known) {
      return value;
    }
  }
  TORCH_CHECK_VALUE(false, argument, " ", name, " is not known");
}

template <typename Enum>
std::string name_of(const Names<Enum>& names, Enum value) {
  for (const auto& [name, known] : names) {
    if (value == known) {
      return name;
    }
  }
  TORCH_INTERNAL_ASSERT(false);
}

Architecture make_architecture(const std::string& kind, int64_t channels, int64_t height, int64_t width,
                               int64_t classes, int64_t units, int64_t depth, const std::string& norm,
                               const std::string& pooling, double eps, int64_t first_padding) {
  const std::pair<const char*, int64_t> sizes[] = {{"channels", channels}, {"height", height},
                                                   {"width", width},       {"classes", classes},
                                                   {"units", units},       {"depth", depth}};
  for (const auto& [name, size] : sizes) {
    TORCH_CHECK_VALUE(size >= 1, "Architecture: ", name, " must be at least 1, not ", size);
  }
  TORCH_CHECK_VALUE(first_padding >= 0, "Architecture: first_padding must be at least 0, not ",
                    first_padding);
  TORCH_CHECK_VALUE(std::isfinite(eps) && eps >= 0, "Architecture: eps must be finite and at least 0, not ",
                    eps);
  return {value_of(kKinds, kind, "kind"),
          channels,
          height,
          width,
          classes,
          units,
          depth,
          value_of(kNorms, norm, "norm"),
          value_of(kPoolings, pooling, "pooling"),
          eps,
          first_padding};
}

// All fields in the order of the constructor: what equality, hash and repr go by.
py::tuple fields_of(const Architecture& a) {
  return py::make_tuple(name_of(kKinds, a.convolutional), a.channels, a.height, a.width, a.classes, a.units,
                        a.depth, name_of(kNorms, a.norm), name_of(kPoolings, a.pooling), a.eps,
                        a.first_padding);
}

void define_architecture(py::module_& module) {
  py::class_<Architecture>(module, "Architecture", "A network that the engine runs, and its images' shape.")
      .def(py::init(wrap_pybind_function(&make_architecture)), py::kw_only(), py::arg("kind"),
           py::arg("channels"), py::arg("height"), py::arg("width"), py::arg("classes"), py::arg("units"),
           py::arg("depth"), py::arg("norm") = "none", py::arg("pooling") = "none", py::arg("eps") = 0.0,
           py::arg("first_padding") = 0)
      .def_property_readonly("kind", [](const Architecture& a) { return name_of(kKinds, a.convolutional); })
      .def_readonly("channels", &Architecture::channels)
      .def_readonly("height", &Architecture::height)
      .def_readonly("width", &Architecture::width)
      .def_readonly("classes", &Architecture::classes)
      .def_readonly("units", &Architecture::units)
      .def_readonly("depth", &Architecture::depth)
      .def_property_readonly("norm", [](const Architecture& a) { return name_of(kNorms, a.norm); })
      .def_property_readonly("pooling", [](const Architecture& a) { return name_of(kPoolings, a.pooling); })
      .def_readonly("eps", &Architecture::eps)
      .def_readonly("first_padding", &Architecture::first_padding)
      .def("__eq__",
           [](const Architecture& self, const py::object& other) {
             return py::isinstance<Architecture>(other) &&
                    fields_of(self).equal(fields_of(other.cast<const Architecture&>()));
           })
      .def("__hash__", [](const Architecture& self) { return py::hash(fields_of(self)); })
      .def("__repr__", [](const Architecture& self) {
        return "Architecture" + py::repr(fields_of(self)).cast<std::string>();
      });
}

void define_student(py::module_& module) {
  py::class_<Student, std::shared_ptr<Student>>(
      module, "Student", "A network as a function of a flat parameter vector, with the memory of its passes.")
      .def(py::init(wrap_pybind_function_no_gil([](const Architecture& architecture, const at::Tensor& like,
                                                   int64_t largest_batch, const std::string& convolutions,
                                                   int64_t slice_bytes) {
             return std::make_shared<Student>(architecture, like, largest_batch,
                                              value_of(kConvolutions, convolutions, "convolutions"),
                                              slice_bytes);
           })),
           py::arg("architecture"), py::kw_only(), py::arg("like"), py::arg("largest_batch"),
           py::arg("convolutions") = "builtin", py::arg("slice_bytes") = 0)
      .def("parameters", &Student::parameters, "P, the number of parameters.")
      .def("gradient", wrap_pybind_function_no_gil(&Student::gradient), py::arg("theta"), py::arg("images"),
           py::arg("labels"), "(g [P], the images' shares of the mean loss [B], logits [B, K]) at theta [P].")
      .def("classify", wrap_pybind_function_no_gil(&Student::classify), py::arg("theta"), py::arg("images"),
           "The logits [B, K] at theta [P].")
      .def("adjoint", wrap_pybind_function_no_gil(&Student::adjoint), py::arg("theta"), py::arg("direction"),
           py::arg("images"), py::arg("labels"), py::arg("product") = true, py::arg("image_gradients") = true,
           py::arg("label_gradients") = false,
           "(<g, direction> [], H direction [P], and the derivatives along the direction of dl/dX [B, C, H, "
           "W] and dl/dY [B, K]); None for what was not asked for.");
}

void define_program(py::module_& module) {
  using Optional = std::optional<at::Tensor>;
  py::class_<BatchTables>(module, "BatchTables",
                          "Where the steps of one kind find their batches: row k is that of step k.")
      .def(py::init([](at::Tensor image_index, at::Tensor label_index, at::Tensor labels,
                       const Optional& label_gradients, const Optional& operations,
                       const Optional& parameters) {
             return BatchTables{std::move(image_index),
                                std::move(label_index),
                                std::move(labels),
                                label_gradients.value_or(at::Tensor()),
                                operations.value_or(at::Tensor()),
                                parameters.value_or(at::Tensor())};
           }),
           py::kw_only(), py::arg("image_index"), py::arg("label_index"), py::arg("labels"),
           py::arg("label_gradients") = py::none(), py::arg("operations") = py::none(),
           py::arg("parameters") = py::none())
      .def_readonly("image_index", &BatchTables::image_index, "[N, B] int64: rows of the images.")
      .def_readonly("label_index", &BatchTables::label_index, "[N, B] int64: rows of the labels.")
      .def_readonly("labels", &BatchTables::labels, "[n] int64, or [n, K].")
      .def_readonly("label_gradients", &BatchTables::label_gradients, "[n, K]; None for class numbers.")
      .def_readonly("operations", &BatchTables::operations, "[N, L] int64; None without augmentation.")
      .def_readonly("parameters", &BatchTables::parameters, "[N, B or 1, width]; None likewise.");

  py::class_<Program>(module, "Program",
                      "The steps of a student's training, forward and backward, by tables.")
      .def(py::init(wrap_pybind_function_no_gil(
               [](std::shared_ptr<Student> student, at::Tensor step, at::Tensor target, at::Tensor lr,
                  at::Tensor sums, at::Tensor images, at::Tensor image_gradients, at::Tensor adjoint,
                  at::Tensor lr_gradient, std::vector<BatchTables> batches,
                  std::vector<int64_t> batches_of_step, bool graphs, const Optional& weights) {
                 engine::ProgramTables tables;
                 tables.step = std::move(step);
                 tables.target = std::move(target);
                 tables.weights = weights.value_or(at::Tensor());
                 tables.lr = std::move(lr);
                 tables.sums = std::move(sums);
                 tables.images = std::move(images);
                 tables.image_gradients = std::move(image_gradients);
                 tables.adjoint = std::move(adjoint);
                 tables.lr_gradient = std::move(lr_gradient);
                 tables.batches = std::move(batches);
                 return std::make_unique<Program>(std::move(student), std::move(tables),
                                                  std::move(batches_of_step), graphs);
               })),
           py::arg("student"), py::kw_only(), py::arg("step"), py::arg("target"), py::arg("lr"),
           py::arg("sums"), py::arg("images"), py::arg("image_gradients"), py::arg("adjoint"),
           py::arg("lr_gradient"), py::arg("batches"), py::arg("batches_of_step"), py::arg("graphs"),
           py::arg("weights") = py::none())
      .def("set_points", wrap_pybind_function_no_gil(&Program::set_points), py::arg("points"),
           "Read and write theta_0, theta_1, ... in `points` [n, P]. Only the address is stored: the caller "
           "keeps the tensor alive until the last call that uses it has ended.")
      .def("train", wrap_pybind_function_no_gil(&Program::train), py::arg("first"), py::arg("last"),
           "Run the steps first ... last - 1 forward.")
      .def("go_back", wrap_pybind_function_no_gil(&Program::go_back), py::arg("last"), py::arg("first"),
           py::arg("outputs"),
           "Run the steps last - 1 ... first backward; outputs[k - first] says what step k computes.")
      .def(
          "counts",
          [](const Program& program) {
            const engine::Replayer::Counts& counts = program.replayer().counts();
            return py::make_tuple(counts.direct, counts.recorded, counts.replayed);
          },
          "How many steps ran directly, were recorded as a CUDA graph, and were replayed.")
      .def(
          "obstacle", [](const Program& program) { return program.replayer().obstacle(); },
          "Why a step was not recorded as a CUDA graph; empty if none failed.");
}

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

py::dict build_config() {
  py::dict config;
  config["torch_version"] = TORCH_VERSION;
  config["compiler"] = compiler();
  config["cxx_standard"] = __cplusplus;
#if defined(_OPENMP)
  config["openmp"] = true;
#else
  config["openmp"] = false;
#endif
  config["isa"] = cpu::isa_name(cpu::isa());
#if defined(PYDISTILL_WITH_CUDA)
  config["cuda"] = true;
  config["cuda_version"] = PYDISTILL_CUDA_VERSION;
  config["cuda_arch_list"] = PYDISTILL_CUDA_ARCH_LIST;
#else
  config["cuda"] = false;
  config["cuda_version"] = py::none();
  config["cuda_arch_list"] = py::none();
#endif
  return config;
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() = "The compiled part of pydistill: the engine's classes. Importing it registers the ops.";
  module.def("build_config", wrap_pybind_function(&build_config), "How this library was built.");
  define_architecture(module);
  define_student(module);
  define_program(module);
}

}  // namespace pydistill::bindings
