// Run work that is too small for several threads on one.
#pragma once

#include <omp.h>

// MKL, inside PyTorch, has a separate number of threads once torch.set_num_threads was called. This sets it
// for the calling thread and returns the value before (0: not set). Null in a PyTorch without MKL.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace pydistill::cpu {

// While an active one lives, parallel loops that its thread begins run on that thread alone, ATen's and its
// matrix products included. On little work a second thread gains nothing, and on a busy machine the first
// waits for it many times as long as the work takes.
class [[nodiscard]] OnOneThread {
 public:
  explicit OnOneThread(bool active) : before_(active ? omp_get_max_threads() : 1) {
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
