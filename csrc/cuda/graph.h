// Work on a GPU, recorded once as a CUDA graph and replayed on any stream.
#pragma once

#include <ATen/cuda/CUDAGraph.h>

#include <functional>

namespace pydistill::cuda {

// Whether the current stream is being recorded.
bool is_recording();

class Graph {
 public:
  // Records what `work` queues on the current stream of the current device, on a stream of its own, without
  // running it. What it allocates comes from memory of the graph's own, or from that of `shares`: graphs that
  // share memory must not run at the same time. Throws what the work throws, and if it cannot be recorded.
  Graph(const std::function<void()>& work, Graph* shares);

  // Queues it on the current stream.
  void replay() { graph_.replay(); }

 private:
  at::cuda::CUDAGraph graph_;
};

}  // namespace pydistill::cuda
