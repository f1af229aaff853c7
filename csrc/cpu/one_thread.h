// Work that is too little for more than one thread of the CPU.
#pragma once

#include <omp.h>

namespace pydistill::cpu {

// While it lives, and if it is `wanted`, parallel loops that its thread begins run on that thread alone,
// ATen's and its matrix products among them. A second thread gains nothing on little work, and where the
// machine is busy the first waits for it many times as long as the work takes.
class OnOneThread {
 public:
  explicit OnOneThread(bool wanted) : before_(wanted ? omp_get_max_threads() : 1) {
    if (before_ > 1) {
      omp_set_num_threads(1);
    }
  }
  ~OnOneThread() {
    if (before_ > 1) {
      omp_set_num_threads(before_);
    }
  }
  OnOneThread(const OnOneThread&) = delete;
  OnOneThread& operator=(const OnOneThread&) = delete;

 private:
  int before_;
};

}  // namespace pydistill::cpu
