// A recording ends whatever happens in it, and what is told is the first thing that went wrong.
#include "../cuda/capture.h"

#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"

namespace {

using Words = std::vector<std::string>;

struct Noted {
  Words fails;  // the parts that throw their name
  Words done;

  void part(const std::string& name) {
    done.push_back(name);
    for (const std::string& each : fails) {
      if (each == name) {
        throw std::runtime_error(name);
      }
    }
  }
  void begin() { part("begin"); }
  void check() { part("check"); }
  void end() { part("end"); }
  void forget() { part("forget"); }
};

// What was done, and after it what was thrown.
Words recorded(const Words& fails) {
  Noted noted{fails, {}};
  try {
    pydistill::cuda::record(noted, [&] { noted.part("work"); });
  } catch (const std::runtime_error& error) {
    noted.done.push_back(std::string("threw ") + error.what());
  }
  return noted.done;
}

}  // namespace

int main() {
  CHECK((recorded({}) == Words{"begin", "check", "work", "end"}));
  CHECK((recorded({"begin"}) == Words{"begin", "threw begin"}));
  CHECK((recorded({"check"}) == Words{"begin", "check", "end", "threw check"}));
  CHECK((recorded({"work"}) == Words{"begin", "check", "work", "end", "threw work"}));
  CHECK((recorded({"work", "end"}) == Words{"begin", "check", "work", "end", "forget", "threw work"}));
  CHECK((recorded({"end"}) == Words{"begin", "check", "work", "end", "threw end"}));
  std::puts("capture: all checks hold");
  return 0;
}
