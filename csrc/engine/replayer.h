// Runs bodies of work that read what they need from memory that stays in place. On a GPU a body that has run
// before is recorded as a CUDA graph the next time and replayed from then on; on a CPU it is run each time.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace pydistill::cuda {
class Graph;
}

namespace pydistill::engine {

class Replayer {
 public:
  // graphs: whether to record any.
  Replayer(c10::Device device, bool graphs) : graphs_(graphs && device.is_cuda()) {}

  // Queues the body on the device's current stream. Bodies of one key queue the same work, and what they
  // allocate is free again when they end.
  void run(const std::vector<int64_t>& key, const std::function<void()>& body);

  // How often a body was run as it is, recorded, replayed.
  struct Counts {
    int64_t direct;
    int64_t recorded;
    int64_t replayed;
  };
  const Counts& counts() const { return counts_; }

  // Why a body was run as it is where it should have been recorded; empty if none was.
  const std::string& obstacle() const { return obstacle_; }

 private:
  struct Body {
    int64_t runs = 0;
    bool failed = false;  // to be recorded: it is not tried again
    std::shared_ptr<cuda::Graph> graph;
  };

  bool replay(Body& body, const std::function<void()>& work);

  bool graphs_;
  Counts counts_ = {};
  std::string obstacle_;
  std::map<std::vector<int64_t>, Body> bodies_;
  std::shared_ptr<cuda::Graph> first_;  // whose memory the other graphs share
};

}  // namespace pydistill::engine
