// See fiber.h.
#include "fiber.h"

#include <cstring>

// The emulator itself is never instrumented, or its own bookkeeping would be reported: the build says which sanitizer the
// kernels run under.
#ifdef TAPER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef TAPER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#if defined(__x86_64__)
asm(R"(
    .text
    .globl taper_switch_stack
    .hidden taper_switch_stack
    .type taper_switch_stack, @function
taper_switch_stack:
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
    .size taper_switch_stack, .-taper_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
    .text
    .globl taper_switch_stack
    .hidden taper_switch_stack
    .type taper_switch_stack, %function
taper_switch_stack:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size taper_switch_stack, .-taper_switch_stack
)");
#else
#error "the emulator switches stacks by hand: write taper_switch_stack for this processor"
#endif

extern "C" void taper_switch_stack(void** save, void* go_to);

namespace emulator {

void prepare(Fiber& fiber, void (*entry)()) {
#ifdef TAPER_ASAN
    // A fiber that was given up in the middle leaves its stack marked.
    __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
    fiber.fake_stack = nullptr;
#endif
#ifdef TAPER_TSAN
    if (fiber.tsan == nullptr) fiber.tsan = __tsan_create_fiber(0);
#endif
    char* top = fiber.stack + fiber.stack_bytes;
#if defined(__x86_64__)
    // Six registers, the address to return to, and one word so that the entry finds the stack as after a call.
    void** frame = reinterpret_cast<void**>(top) - 8;
    memset(frame, 0, 8 * sizeof(void*));
    frame[6] = reinterpret_cast<void*>(entry);
#else
    void** frame = reinterpret_cast<void**>(top - 160);
    memset(frame, 0, 160);
    frame[11] = reinterpret_cast<void*>(entry);
#endif
    fiber.stack_pointer = frame;
}

void switch_fiber(Fiber& from, Fiber& to, bool last) {
#ifdef TAPER_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &from.fake_stack, to.stack, to.stack_bytes);
#endif
#ifdef TAPER_TSAN
    // No happens-before edge: only barriers make one, or no race would ever be seen.
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
    (void)last;
    taper_switch_stack(&from.stack_pointer, to.stack_pointer);
    entered(from, to);
}

void entered(Fiber& fiber, Fiber& from) {
#ifdef TAPER_ASAN
    // The scheduler runs on the stack of the thread that launched; where that lies is learned on the way out of it.
    const void* bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(fiber.fake_stack, &bottom, &bytes);
    if (from.stack == nullptr) {
        from.stack = static_cast<char*>(const_cast<void*>(bottom));
        from.stack_bytes = bytes;
    }
#else
    (void)fiber, (void)from;
#endif
}

}  // namespace emulator
