#include "graph.h"

#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGraphsC10Utils.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

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

}  // namespace

bool is_recording() {
  return c10::cuda::currentStreamCaptureStatusMayInitCtx() != c10::cuda::CaptureStatus::None;
}

Graph::Graph(const std::function<void()>& work, Graph* shares) {
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  // cuBLAS keeps a workspace for each stream. The graph must have one of its own, since it may run beside
  // what else is queued on the stream that it is recorded on.
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
