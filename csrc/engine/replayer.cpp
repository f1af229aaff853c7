#include "replayer.h"

#include <exception>

namespace pydistill::engine {
namespace {

// What comes after it in an error of PyTorch's is where it was raised.
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

// A body is recorded the second time: by then the libraries have chosen their algorithms and loaded their
// kernels, which they cannot do while it is recorded.
bool Replayer::replay(Body& body, const std::function<void()>& work) {
  if (recorder_ == nullptr) {
    return false;
  }
  if (recorder_->is_recording()) {  // the caller's own graph, which the work becomes a part of
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
