// When the engine's replayer runs, records and replays a body, with a recorder that notes what it is asked.
#include "../engine/replayer.h"

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"

namespace {

using pydistill::engine::Recorder;
using pydistill::engine::Recording;
using pydistill::engine::Replayer;

struct Noted {
  std::vector<std::string> done;
  bool is_recording = false;
  bool fails = false;
};

// Does the work when it is replayed.
struct NotedRecording final : Recording {
  NotedRecording(Noted& to, const std::function<void()>& of) : noted(to), work(of) {}
  void replay() override {
    noted.done.push_back("replay");
    work();
  }
  Noted& noted;
  std::function<void()> work;
};

struct NotedRecorder final : Recorder {
  explicit NotedRecorder(Noted& to) : noted(to) {}
  bool is_recording() const override { return noted.is_recording; }
  std::shared_ptr<Recording> record(const std::function<void()>& work,
                                    const std::shared_ptr<Recording>& shares) override {
    noted.done.push_back(shares == nullptr ? "record" : "record, shared");
    if (noted.fails) {
      throw std::runtime_error("operation not permitted\nraised from somewhere");
    }
    return std::make_shared<NotedRecording>(noted, work);
  }
  Noted& noted;
};

struct Bodies {
  Noted noted;
  Replayer replayer;
  std::vector<int> ran;

  explicit Bodies(bool records) : replayer(records ? std::make_unique<NotedRecorder>(noted) : nullptr) {}
  void run(int body) {
    replayer.run({body}, [this, body] { ran.push_back(body); });
  }
  bool counted(int64_t direct, int64_t recorded, int64_t replayed) const {
    const Replayer::Counts& counts = replayer.counts();
    return counts.direct == direct && counts.recorded == recorded && counts.replayed == replayed;
  }
};

using Words = std::vector<std::string>;

void a_body_is_run_then_recorded_then_replayed() {
  Bodies bodies(true);
  for (const int body : {7, 7, 8, 7, 8, 8}) {
    bodies.run(body);
  }
  CHECK((bodies.ran == std::vector<int>{7, 7, 8, 7, 8, 8}));  // once each time, whatever was done
  CHECK((bodies.noted.done == Words{"record", "replay", "replay", "record, shared", "replay", "replay"}));
  CHECK(bodies.counted(2, 2, 4));
  CHECK(bodies.replayer.obstacle().empty());
}

void a_recording_that_fails_is_not_tried_again_and_the_work_is_done() {
  Bodies bodies(true);
  bodies.noted.fails = true;
  for (int k = 0; k < 4; ++k) {
    bodies.run(7);
  }
  CHECK(bodies.ran.size() == 4);
  CHECK(bodies.noted.done == Words{"record"});
  CHECK(bodies.counted(4, 0, 0));
  CHECK(bodies.replayer.obstacle() == "recording failed: operation not permitted");
  bodies.noted.fails = false;
  bodies.run(8);
  bodies.run(8);
  CHECK((bodies.noted.done == Words{"record", "record", "replay"}));
}

void inside_a_recording_of_the_caller_s_the_work_is_a_part_of_it() {
  Bodies bodies(true);
  bodies.noted.is_recording = true;
  bodies.run(7);
  bodies.run(7);
  CHECK(bodies.noted.done.empty());
  CHECK(bodies.replayer.obstacle() == "the current stream is being recorded already");
  bodies.noted.is_recording = false;
  bodies.run(7);
  CHECK((bodies.noted.done == Words{"record", "replay"}));
  CHECK(bodies.counted(2, 1, 1));
}

void without_a_recorder_a_body_is_run_each_time() {
  Bodies bodies(false);
  for (int k = 0; k < 3; ++k) {
    bodies.run(7);
  }
  CHECK(bodies.ran.size() == 3);
  CHECK(bodies.counted(3, 0, 0));
}

}  // namespace

int main() {
  a_body_is_run_then_recorded_then_replayed();
  a_recording_that_fails_is_not_tried_again_and_the_work_is_done();
  inside_a_recording_of_the_caller_s_the_work_is_a_part_of_it();
  without_a_recorder_a_body_is_run_each_time();
  std::puts("replayer: all checks hold");
  return 0;
}
