// What records work that a device is given, so that it can be given the same work again at once.
#pragma once

#include <functional>
#include <memory>

namespace pydistill::engine {

class Recording {
 public:
  virtual ~Recording() = default;

  // Queues the work on the current stream.
  virtual void replay() = 0;
};

class Recorder {
 public:
  virtual ~Recorder() = default;

  // Whether the caller is recording what is queued now.
  virtual bool is_recording() const = 0;

  // The work, which is not done. What it allocates is the recording's own, or shared with another one; those
  // that share must not run at the same time. Throws what the work throws, and if it cannot be recorded.
  virtual std::shared_ptr<Recording> record(const std::function<void()>& work,
                                            const std::shared_ptr<Recording>& shares) = 0;
};

}  // namespace pydistill::engine
