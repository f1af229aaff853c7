#include "graph.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

namespace at::cuda {
// As in ATen/cuda/CUDAContextLight.h, which wants headers that a bare toolkit lacks.
TORCH_CUDA_CPP_API void clearCublasWorkspaces();
}  // namespace at::cuda

namespace pydistill::cuda {
namespace {

// Ends a recording that failed, and forgets the error that this leaves.
void abandon(at::cuda::CUDAGraph& graph) {
  try {
    graph.capture_end();
  } catch (const c10::Error&) {
    static_cast<void>(cudaGetLastError());
  }
}

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
  const c10::MempoolId_t memory = shares == nullptr ? c10::MempoolId_t{0, 0} : shares->graph_.pool();
  graph_.capture_begin(memory, cudaStreamCaptureModeThreadLocal);
  try {
    work();
  } catch (...) {
    abandon(graph_);
    at::cuda::clearCublasWorkspaces();
    throw;
  }
  graph_.capture_end();
  at::cuda::clearCublasWorkspaces();
}

}  // namespace pydistill::cuda
