#include "cuda_emulator/fiber.h"

#include <sys/mman.h>

#include <new>

namespace spindle::emulator {

Fiber::Fiber() {
  void* data = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  stack_ = static_cast<std::byte*>(data);
}

Fiber::~Fiber() { munmap(stack_, kStackBytes); }

#if defined(__x86_64__)

// swap(from, to): keeps what a callee has to keep on the stack, notes its top in *from and goes on
// from `to`. (swapcontext asks the system for signal masks, which would be most of the emulator's
// time.)
extern "C" void spindle_emulator_swap(void** from, void* to);
asm(R"(
.text
.type spindle_emulator_swap, @function
spindle_emulator_swap:
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
.size spindle_emulator_swap, .-spindle_emulator_swap
)");

void Fiber::prepare(void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack_ + kStackBytes);
  top[-2] = reinterpret_cast<void*>(
      entry);  // where `ret` goes; the stack is then aligned as after a call
  top[-1] = nullptr;
  for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
  own_ = top - 8;
}

void Fiber::resume() { spindle_emulator_swap(&scheduler_, own_); }
void Fiber::yield() { spindle_emulator_swap(&own_, scheduler_); }

#else

void Fiber::prepare(void (*entry)()) {
  getcontext(&own_);
  own_.uc_stack.ss_sp = stack_;
  own_.uc_stack.ss_size = kStackBytes;
  own_.uc_link = nullptr;
  makecontext(&own_, entry, 0);
}

void Fiber::resume() { swapcontext(&scheduler_, &own_); }
void Fiber::yield() { swapcontext(&own_, &scheduler_); }

#endif

}  // namespace spindle::emulator
