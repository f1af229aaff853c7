// The order of a capture: begin, queue the work, end; or discard, if the work fails. No CUDA here:
// csrc/tests/capture_test.cpp.
#pragma once

namespace pydistill::cuda {

// capture offers
//   begin()       begins a capture, or throws
//   check()       throws if the capture must not go on
//   end()         ends the capture; throws if the queued work cannot be recorded
//   forget()      clears the error that a discarded capture leaves behind
// Throws the first error; a capture that began has then ended.
template <typename Capture, typename Work>
void record(Capture& capture, const Work& work) {
  capture.begin();
  try {
    capture.check();
    work();
  } catch (...) {
    try {
      capture.end();
    } catch (...) {  // the work broke the capture, and its error is the reason
      capture.forget();
    }
    throw;
  }
  capture.end();
}

}  // namespace pydistill::cuda
