// A stack of its own for each thread of a block: switched to and from by the program, so that one thread of
// the host runs them in any order.
#pragma once

#include <cstddef>
#include <cstdint>

#if !defined(__x86_64__) && !defined(CUDA_ON_HOST_UCONTEXT)
#define CUDA_ON_HOST_UCONTEXT
#endif
#if defined(CUDA_ON_HOST_UCONTEXT)
#include <ucontext.h>
#endif

namespace cuda_on_host {

class Fibre {
 public:
  // The next switch to it calls run(), which must not return.
  void start(void (*run)());
  // Continues `to`, and this one when something switches to it again.
  void switch_to(Fibre& to);
  bool has_on_stack(uintptr_t address) const {
    const auto begin = reinterpret_cast<uintptr_t>(stack_);
    return address >= begin && address < begin + kStackBytes;
  }

 private:
  static constexpr size_t kStackBytes = size_t{128} << 10;
  char* stack_ = nullptr;
#if defined(CUDA_ON_HOST_UCONTEXT)
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif
};

}  // namespace cuda_on_host
