// Fibers: stacks that are switched by hand. A switch saves what the calling convention says a function must keep; nothing
// else is alive across a call.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator {

struct Fiber {
    void* stack_pointer = nullptr;
    char* stack = nullptr;
    size_t stack_bytes = 0;
    // What the sanitizers remember of a stack that is not running.
    void* fake_stack = nullptr;
    void* tsan = nullptr;
};

// Makes `fiber` start with `entry` at the next switch to it. `entry` must never return.
void prepare(Fiber& fiber, void (*entry)());

// Leaves `from`, continues with `to`. With `last`, `from` will not be continued.
void switch_fiber(Fiber& from, Fiber& to, bool last);

// The first thing that a fiber's entry does: `from` is who switched to it.
void entered(Fiber& fiber, Fiber& from);

}  // namespace emulator
