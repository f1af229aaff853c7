// Work on one thread where there is MKL, which a stand-in plays.
#include <omp.h>

#include <utility>

#include "../cpu/one_thread.h"
#include "check.h"

namespace {

thread_local int mkl_threads = 0;  // 0: none were set

}  // namespace

extern "C" int MKL_Set_Num_Threads_Local(int threads) { return std::exchange(mkl_threads, threads); }

namespace {

using pydistill::cpu::OnOneThread;

void one_thread_is_set_and_reset(int before) {
  mkl_threads = before;
  {
    const OnOneThread one(true);
    CHECK(mkl_threads == 1);
    {
      const OnOneThread within(true);
      CHECK(mkl_threads == 1);
    }
    CHECK(mkl_threads == 1);
  }
  CHECK(mkl_threads == before);
  CHECK(omp_get_max_threads() == 3);
}

void false_changes_nothing() {
  mkl_threads = 2;
  const OnOneThread as_many(false);
  CHECK(mkl_threads == 2);
}

}  // namespace

int main() {
  omp_set_dynamic(0);
  omp_set_num_threads(3);
  for (const int before : {0, 2, 3}) {
    one_thread_is_set_and_reset(before);
  }
  false_changes_nothing();
  CHECK(mkl_threads == 2);
  return 0;
}
