// Inside the emulator: what a launch consists of.
#pragma once

#include <cstdarg>
#include <utility>
#include <vector>

#include "emulator.h"
#include "fiber.h"

namespace emulator {

constexpr uint32_t WARP_LANES = 32;
constexpr uint32_t MAX_THREADS = 1024;
// Of a block on sm_80; an H100 has more, and kernels must run on both.
constexpr uint32_t MAX_SHARED = 163 * 1024;
constexpr uint32_t MAX_STATIC_SHARED = 48 * 1024;
// Shared addresses start here, so that a forgotten base is noticed.
constexpr uint32_t SHARED_BASE = 1024;
constexpr uint32_t RED_ZONE = 256;
constexpr uint8_t RED = 0xc5;

enum class State : uint8_t { ready, collective, barrier, done };

struct Copy {
    uint8_t* target;
    const uint8_t* source;
    bool valid;
    uint32_t group;
};

struct SharedAccess {
    uint32_t address;
    uint16_t bytes;
    bool store;
};

struct Lane {
    Place place;
    Fiber fiber;
    State state;
    uint32_t index;
    // cp.async: copies not yet made, and the group now open.
    std::vector<Copy> copies;
    uint32_t group;
    // Accesses by shared address since the warp last met, for counting bank conflicts.
    std::vector<SharedAccess> accesses;
    // What it brings to the collective it waits in.
    uint64_t value;
    uint32_t operand, b0, b1;
    const uint32_t* a;
    float* d;
    uint32_t* r;
    uint8_t row[16];
};

struct Warp {
    Collective what;
    uint32_t arrived;
    uint32_t turn;
    char edge[2];
};

struct StaticShared {
    const void* key;
    uint32_t offset, bytes;
};

struct Counters {
    uint64_t blocks, barriers, collectives, mma, ldmatrix, cp_async, shared_accesses, bank_conflicts, global_accesses;
};

struct Range {
    uintptr_t start, end;
};

// One for every host thread that launches, so that launches of different threads do not meet.
struct Machine {
    const Kernel* kernel = nullptr;
    void** arguments = nullptr;
    Fiber scheduler;
    std::vector<Lane> lanes;
    std::vector<std::pair<char*, size_t>> stacks;
    std::vector<Warp> warps;
    std::vector<uint32_t> lane_order, warp_order;
    Lane* current = nullptr;
    uint32_t n_threads = 0, at_barrier = 0, barrier_turn = 0;
    char block_edge[2], start_edge, end_edge;
    uint32_t schedule = 0;

    // The window of shared memory: red zone, dynamic part, red zone, then static arrays, each with one behind it.
    uint8_t* window = nullptr;
    uint32_t dynamic_bytes = 0, static_start = 0, static_used = 0;
    std::vector<StaticShared> statics;

    std::vector<Range> allocations;
    uint64_t allocations_version = 0;
    Range recent[4];
    uint32_t next_recent = 0;

    Counters counters;
    bool failed = false;
    char error[1024];
};

extern __thread Machine* machine;

// Ends the launch with a text; the place is added. Called on a fiber.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));
// The same for the scheduler, which has no place.
void set_error(const char* format, ...) __attribute__((format(printf, 1, 2)));

const char* name_of(Collective what);

// Gives the processor to somebody else until the state is ready again.
void wait_as(State state);

// warp.cpp
void reset_warps(Machine& m);
void flush_accesses(Machine& m, uint32_t warp);

// memory.cpp
void prepare_window(Machine& m, uint32_t dynamic_bytes);
void reset_window(Machine& m);
bool check_window(Machine& m);
void snapshot_allocations(Machine& m);
void* ldmatrix_row(uint32_t address);

// Happens-before edges, for the race checker.
void release(void* edge);
void acquire(void* edge);

}  // namespace emulator
