// Work that is too little for more than one thread of the CPU.
#pragma once

#include <omp.h>

// MKL, inside PyTorch, has a number of threads of its own as soon as torch.set_num_threads was called; this
// sets it for the calling thread and returns what was set (0: nothing). Null where there is no MKL.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace pydistill::cpu {

// While it lives, and if it is `wanted`, parallel loops that its thread begins run on that thread alone,
// ATen's and its matrix products among them. A second thread gains nothing on little work, and where the
// machine is busy the first waits for it many times as long as the work takes.
class [[nodiscard]] OnOneThread {
 public:
  explicit OnOneThread(bool wanted) : before_(wanted ? omp_get_max_threads() : 1) {
    if (before_ > 1) {
      omp_set_num_threads(1);
      if (MKL_Set_Num_Threads_Local != nullptr) {
        mkl_before_ = MKL_Set_Num_Threads_Local(1);
      }
    }
  }
  ~OnOneThread() {
    if (before_ > 1) {
      omp_set_num_threads(before_);
      if (MKL_Set_Num_Threads_Local != nullptr) {
        MKL_Set_Num_Threads_Local(mkl_before_);
      }
    }
  }
  OnOneThread(const OnOneThread&) = delete;
  OnOneThread& operator=(const OnOneThread&) = delete;

 private:
  int before_;
  int mkl_before_ = 0;
};

}  // namespace pydistill::cpu
