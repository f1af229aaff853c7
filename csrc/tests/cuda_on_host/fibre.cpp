#include "fibre.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#if !defined(CUDA_ON_HOST_UCONTEXT)
// swapcontext() also saves the mask of signals, by a call of the kernel: this takes a twentieth of its time.
extern "C" void cuda_on_host_switch(void** from, void* to);
asm(R"(
.text
.globl cuda_on_host_switch
.hidden cuda_on_host_switch
.type cuda_on_host_switch,@function
cuda_on_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cuda_on_host_switch,.-cuda_on_host_switch
)");
#endif

namespace cuda_on_host {

void Fibre::start(void (*run)()) {
  if (stack_ == nullptr) {
    void* const memory =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    constexpr size_t kPage = 4096;  // at the end that a stack grows to, so that too deep a call is a fault
    if (memory == MAP_FAILED || mprotect(memory, kPage, PROT_NONE) != 0) {
      std::perror("cuda_on_host: the stack of a thread");
      std::abort();
    }
    stack_ = static_cast<char*>(memory);
  }
#if defined(CUDA_ON_HOST_UCONTEXT)
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack_;
  context_.uc_stack.ss_size = kStackBytes;
  context_.uc_link = nullptr;
  makecontext(&context_, run, 0);
#else
  // What the switch pops: six registers and the address of run(); above it, as after a call, the place that
  // leaves the stack 8 bytes off a multiple of 16.
  void** top = reinterpret_cast<void**>(stack_ + kStackBytes) - 1;
  *top = nullptr;
  *--top = reinterpret_cast<void*>(run);
  for (int saved = 0; saved < 6; ++saved) {
    *--top = nullptr;
  }
  stack_pointer_ = top;
#endif
}

void Fibre::switch_to(Fibre& to) {
#if defined(CUDA_ON_HOST_UCONTEXT)
  swapcontext(&context_, &to.context_);
#else
  cuda_on_host_switch(&stack_pointer_, to.stack_pointer_);
#endif
}

}  // namespace cuda_on_host
