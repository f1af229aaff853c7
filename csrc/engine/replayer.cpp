#include "replayer.h"

#if defined(PYDISTILL_WITH_CUDA)
#include <exception>

#include "../cuda/graph.h"
#endif

namespace pydistill::engine {

void Replayer::run(const std::vector<int64_t>& key, const std::function<void()>& body) {
  Body& known = bodies_[key];
  if (!replay(known, body)) {
    body();
    ++counts_.direct;
  }
  ++known.runs;
}

#if defined(PYDISTILL_WITH_CUDA)

// A body is recorded the second time: by then the libraries have chosen their algorithms and loaded their
// kernels, which they cannot do while it is recorded.
bool Replayer::replay(Body& body, const std::function<void()>& work) {
  if (!graphs_) {
    return false;
  }
  if (cuda::is_recording()) {  // the caller's own graph, which the work becomes a part of
    obstacle_ = "the current stream is being recorded already";
    return false;
  }
  if (body.runs == 0 || body.failed) {
    return false;
  }
  if (body.graph == nullptr) {
    try {
      body.graph = std::make_shared<cuda::Graph>(work, first_.get());
    } catch (const std::exception& error) {
      obstacle_ = std::string("recording failed: ") + error.what();
      body.failed = true;
      return false;
    }
    ++counts_.recorded;
    if (first_ == nullptr) {
      first_ = body.graph;
    }
  }
  body.graph->replay();
  ++counts_.replayed;
  return true;
}

#else

bool Replayer::replay(Body& /*body*/, const std::function<void()>& /*work*/) { return false; }

#endif

}  // namespace pydistill::engine
