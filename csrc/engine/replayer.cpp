#include "replayer.h"

#include <exception>

namespace pydistill::engine {
namespace {

// The message alone: in PyTorch's errors the lines after it are a backtrace.
std::string first_line_of(const std::string& message) { return message.substr(0, message.find('\n')); }

}  // namespace

void Replayer::run(const std::vector<int64_t>& key, const std::function<void()>& body) {
  Body& known = bodies_[key];
  if (!replay(known, body)) {
    body();
    ++counts_.direct;
  }
  ++known.runs;
}

// Returns whether the body was replayed. Recording waits for the second run: by then the libraries have
// chosen their algorithms and loaded their kernels, which they cannot do during recording.
bool Replayer::replay(Body& body, const std::function<void()>& work) {
  if (recorder_ == nullptr) {
    return false;
  }
  if (recorder_->is_recording()) {  // the caller's graph, of which the work becomes a part
    obstacle_ = "the current stream is being recorded already";
    return false;
  }
  if (body.runs == 0 || body.failed) {
    return false;
  }
  if (body.recording == nullptr) {
    try {
      body.recording = recorder_->record(work, first_);
    } catch (const std::exception& error) {
      obstacle_ = "recording failed: " + first_line_of(error.what());
      body.failed = true;
      return false;
    }
    ++counts_.recorded;
    if (first_ == nullptr) {
      first_ = body.recording;
    }
  }
  body.recording->replay();
  ++counts_.replayed;
  return true;
}

}  // namespace pydistill::engine
