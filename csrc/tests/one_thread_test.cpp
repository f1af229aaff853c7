// Work on one thread, and the number of threads of other work during and after it.
#include "../cpu/one_thread.h"

#include <omp.h>

#include "check.h"

namespace {

using pydistill::cpu::OnOneThread;

int threads_of_a_loop() {
  int threads = 0;
#pragma omp parallel
  {
#pragma omp single
    threads = omp_get_num_threads();
  }
  return threads;
}

void loops_run_on_one_thread() {
  {
    const OnOneThread one(true);
    CHECK(omp_get_max_threads() == 1);
    CHECK(threads_of_a_loop() == 1);
    {
      const OnOneThread within(true);
      CHECK(threads_of_a_loop() == 1);
    }
    CHECK(threads_of_a_loop() == 1);
  }
  CHECK(omp_get_max_threads() == 3);
  CHECK(threads_of_a_loop() == 3);
}

void false_changes_nothing() {
  const OnOneThread as_many(false);
  CHECK(threads_of_a_loop() == 3);
}

void other_threads_are_not_changed() {
  int others = 0;
#pragma omp parallel num_threads(2)
  {
    const OnOneThread one(omp_get_thread_num() == 0);
#pragma omp barrier
    if (omp_get_thread_num() == 1) {
      others = omp_get_max_threads();
    }
#pragma omp barrier
  }
  CHECK(others == 3);
}

}  // namespace

int main() {
  omp_set_dynamic(0);
  omp_set_num_threads(3);
  loops_run_on_one_thread();
  false_changes_nothing();
  other_threads_are_not_changed();
  return 0;
}
