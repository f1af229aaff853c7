// Runs bodies of work whose inputs lie at fixed addresses. With a recorder, as on a GPU, a body runs directly
// the first time, is recorded the second time and replayed from then on; without one it always runs directly.
// No torch here, for csrc/tests/replayer_test.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "recorder.h"

namespace pydistill::engine {

class Replayer {
 public:
  explicit Replayer(std::unique_ptr<Recorder> recorder) : recorder_(std::move(recorder)) {}

  // Queues the body on the device's current stream. Bodies with the same key must queue the same work, and
  // free what they allocate.
  void run(const std::vector<int64_t>& key, const std::function<void()>& body);

  // How many times a body ran directly, was recorded, was replayed.
  struct Counts {
    int64_t direct;
    int64_t recorded;
    int64_t replayed;
  };
  const Counts& counts() const { return counts_; }

  // Why a body ran directly that should have been recorded; empty if none did.
  const std::string& obstacle() const { return obstacle_; }

 private:
  struct Body {
    int64_t runs = 0;
    bool failed = false;  // recording it failed, and is not tried again
    std::shared_ptr<Recording> recording;
  };

  bool replay(Body& body, const std::function<void()>& work);

  std::unique_ptr<Recorder> recorder_;
  Counts counts_ = {};
  std::string obstacle_;
  std::map<std::vector<int64_t>, Body> bodies_;
  std::shared_ptr<Recording> first_;  // whose memory the others share
};

}  // namespace pydistill::engine
