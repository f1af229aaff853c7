// The recorder of a device.
#pragma once

#include <c10/core/Device.h>

#include <memory>

#include "recorder.h"
#if defined(PYDISTILL_WITH_CUDA)
#include "../cuda/graph.h"
#endif

namespace pydistill::engine {

#if defined(PYDISTILL_WITH_CUDA)

// A CUDA graph.
class GraphRecording final : public Recording {
 public:
  GraphRecording(const std::function<void()>& work, cuda::Graph* shares) : graph(work, shares) {}
  void replay() override { graph.replay(); }

  cuda::Graph graph;
};

class GraphRecorder final : public Recorder {
 public:
  bool is_recording() const override { return cuda::is_recording(); }
  std::shared_ptr<Recording> record(const std::function<void()>& work,
                                    const std::shared_ptr<Recording>& shares) override {
    auto* const first = static_cast<GraphRecording*>(shares.get());
    return std::make_shared<GraphRecording>(work, first == nullptr ? nullptr : &first->graph);
  }
};

#endif

// Null if work is not to be recorded, or cannot be.
inline std::unique_ptr<Recorder> recorder_of([[maybe_unused]] c10::Device device,
                                             [[maybe_unused]] bool graphs) {
#if defined(PYDISTILL_WITH_CUDA)
  if (graphs && device.is_cuda()) {
    return std::make_unique<GraphRecorder>();
  }
#endif
  return nullptr;
}

}  // namespace pydistill::engine
