// Runs bodies of work that read what they need from memory that stays in place. Where there is a recorder, as
// on a GPU, a body that has run before is recorded the next time and replayed from then on; elsewhere it is
// run each time. No torch here: csrc/tests/replayer_test.cpp.
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
