// A capture that began ends even if a part of it throws, and the first error is the one thrown.
#include "../cuda/capture.h"

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.h"

namespace {

using Names = std::vector<std::string>;

struct FakeCapture {
  Names failing;  // the parts that throw their name
  Names done;

  void part(const std::string& name) {
    done.push_back(name);
    if (std::find(failing.begin(), failing.end(), name) != failing.end()) {
      throw std::runtime_error(name);
    }
  }
  void begin() { part("begin"); }
  void check() { part("check"); }
  void end() { part("end"); }
  void forget() { part("forget"); }
};

// Returns the parts that were called, and then the error.
Names recorded(const Names& failing) {
  FakeCapture capture{failing, {}};
  try {
    pydistill::cuda::record(capture, [&] { capture.part("work"); });
  } catch (const std::runtime_error& error) {
    capture.done.push_back(std::string("threw ") + error.what());
  }
  return capture.done;
}

}  // namespace

int main() {
  CHECK((recorded({}) == Names{"begin", "check", "work", "end"}));
  CHECK((recorded({"begin"}) == Names{"begin", "threw begin"}));
  CHECK((recorded({"check"}) == Names{"begin", "check", "end", "threw check"}));
  CHECK((recorded({"work"}) == Names{"begin", "check", "work", "end", "threw work"}));
  CHECK((recorded({"work", "end"}) == Names{"begin", "check", "work", "end", "forget", "threw work"}));
  CHECK((recorded({"end"}) == Names{"begin", "check", "work", "end", "threw end"}));
  std::puts("capture: all checks hold");
  return 0;
}
