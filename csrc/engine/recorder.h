// Records the work that is queued on a device, to queue it again in one call.
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

  // Whether the current stream is being recorded.
  virtual bool is_recording() const = 0;

  // Records the work without running it. Its allocations come from the recording's memory, or from that of
  // `shares`; recordings that share memory must not run at the same time. Throws what the work throws, and if
  // it cannot be recorded.
  virtual std::shared_ptr<Recording> record(const std::function<void()>& work,
                                            const std::shared_ptr<Recording>& shares) = 0;
};

}  // namespace pydistill::engine
