#include "graph.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "capture.h"

namespace at::cuda {
// As in ATen/cuda/CUDAContextLight.h, which wants headers that a bare toolkit lacks.
TORCH_CUDA_CPP_API void clearCublasWorkspaces();
}  // namespace at::cuda

namespace pydistill::cuda {
namespace {

// Of the current device: recordings alone are queued on it, so no other work is caught up in one.
c10::cuda::CUDAStream recording_stream() {
  static std::map<c10::DeviceIndex, cudaStream_t> streams;
  const c10::DeviceIndex device = c10::cuda::current_device();
  cudaStream_t& stream = streams[device];
  if (stream == nullptr) {
    C10_CUDA_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  }
  return c10::cuda::getStreamFromExternal(stream, device);
}

// Whether memory is now given out by this pool of PyTorch's allocator, which is being recorded to.
bool allocates_from(c10::MempoolId_t pool) {
  namespace allocator = c10::cuda::CUDACachingAllocator;
  if (allocator::name() != "native") {  // others know no pools but those of graphs
    return true;
  }
  const c10::DataPtr probe = allocator::get()->allocate(1);
  const auto* const address = static_cast<const char*>(probe.get());
  for (const auto& segment : allocator::snapshot(pool).segments) {
    const auto* const begin = reinterpret_cast<const char*>(segment.address);
    if (begin <= address && address < begin + segment.total_size) {
      return true;
    }
  }
  return false;
}

struct Capture {
  at::cuda::CUDAGraph& graph;
  c10::MempoolId_t memory;  // of another graph, or {0, 0} for memory of its own

  void begin() const { graph.capture_begin(memory, cudaStreamCaptureModeThreadLocal); }
  void check() const {
    TORCH_CHECK(
        allocates_from(graph.pool()),
        "memory comes from a pool of the caller's (torch.cuda.use_mem_pool), which others take from as well; "
        "match outside it, or set PYDISTILL_CUDA_GRAPHS=0");
  }
  void end() const { graph.capture_end(); }
  void forget() const { static_cast<void>(cudaGetLastError()); }
};

}  // namespace

bool is_recording() {
  return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
}

Graph::Graph(const std::function<void()>& work, Graph* shares) {
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const c10::cuda::CUDAStreamGuard guard(recording_stream());
  // Where PyTorch keeps cuBLAS's workspaces for each stream (some versions do), the graph would share one
  // with other graphs: it must have one of its own.
  at::cuda::clearCublasWorkspaces();
  const Capture capture{graph_, shares == nullptr ? c10::MempoolId_t{0, 0} : shares->graph_.pool()};
  try {
    record(capture, work);
  } catch (...) {
    at::cuda::clearCublasWorkspaces();
    throw;
  }
  at::cuda::clearCublasWorkspaces();
}

}  // namespace pydistill::cuda
