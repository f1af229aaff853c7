// The order of a capture: begin, queue the work, end; or discard, if the work fails. No CUDA here:
// csrc/tests/capture_test.cpp.
#pragma once

namespace pydistill::cuda {

// capture offers
//   begin()       throws if it cannot; nothing is recorded then
//   check()       throws if what has begun must not go on
//   end()         throws if what was queued cannot be recorded
//   forget()      the error that giving up leaves behind
// Throws what the first of them, or the work, throws; what has begun has then ended.
template <typename Capture, typename Work>
void record(Capture& capture, const Work& work) {
  capture.begin();
  try {
    capture.check();
    work();
  } catch (...) {
    try {
      capture.end();
    } catch (...) {  // as it does where the work broke it: the reason is the work's
      capture.forget();
    }
    throw;
  }
  capture.end();
}

}  // namespace pydistill::cuda
