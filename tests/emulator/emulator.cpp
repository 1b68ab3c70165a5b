// The scheduler of the emulator, and its C interface.
//
// Noticed, each with kernel, block, warp and thread: lanes of a warp at different collectives; a barrier that some thread
// never reaches; threads that wait for each other in a circle; addresses that are not aligned or not inside a live
// allocation; writes beyond shared or global arrays (by red zones); too many threads, too much shared memory, arguments
// that do not fit the kernel. Shared memory is NaN when a block starts, and device memory when it is allocated, so that what
// was never written shows. Not modelled: rounding inside the tensor core, the special function unit's last bits,
// occupancy, time, weak memory between blocks.
//
// Blocks run one after the other. Which warp and lane goes first is a choice that right kernels do not depend on: see
// taper_emulator_schedule.
#include "emulator.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "machine.h"

#ifdef TAPER_ASAN
#include <sanitizer/asan_interface.h>
#endif
#ifdef TAPER_TSAN
#include <sanitizer/tsan_interface.h>
#endif

namespace emulator {

__thread const Place* place;
__thread Machine* machine;

// Functions, so that they exist before the first kernel registers itself.
static std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> table;
    return table;
}

void add_kernel(const Kernel& kernel) { kernels()[kernel.name] = kernel; }

void release(void* edge) {
#ifdef TAPER_TSAN
    __tsan_release(edge);
#endif
    (void)edge;
}

void acquire(void* edge) {
#ifdef TAPER_TSAN
    __tsan_acquire(edge);
#endif
    (void)edge;
}

static void describe(char* text, size_t size, const Lane& lane) {
    const Place& p = lane.place;
    snprintf(text, size, "block (%u, %u, %u), warp %u, thread (%u, %u, %u)", p.block.x, p.block.y, p.block.z,
             lane.index / WARP_LANES, p.thread.x, p.thread.y, p.thread.z);
}

static void write_error(const char* where, const char* format, va_list arguments) {
    Machine& m = *machine;
    if (m.failed) return;
    m.failed = true;
    char text[640];
    vsnprintf(text, sizeof text, format, arguments);
    snprintf(m.error, sizeof m.error, "%s: %s%s%s", m.kernel ? m.kernel->name : "launch", text, *where ? " at " : "",
             where);
}

void fault(const char* format, ...) {
    Machine& m = *machine;
    char where[160];
    describe(where, sizeof where, *m.current);
    va_list arguments;
    va_start(arguments, format);
    write_error(where, format, arguments);
    va_end(arguments);
    // The fiber is given up where it stands.
    m.current->state = State::done;
    switch_fiber(m.current->fiber, m.scheduler, false);
    __builtin_unreachable();
}

void set_error(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_error("", format, arguments);
    va_end(arguments);
}

void wait_as(State state) {
    Machine& m = *machine;
    Lane& lane = *m.current;
    lane.state = state;
    switch_fiber(lane.fiber, m.scheduler, false);
}

static void fiber_main() {
    Machine& m = *machine;
    Lane& lane = *m.current;
    entered(lane.fiber, m.scheduler);
    acquire(&m.start_edge);
    m.kernel->call(m.arguments);
    release(&m.end_edge);
    lane.state = State::done;
    switch_fiber(lane.fiber, m.scheduler, true);
}

void sync_threads() {
    Machine& m = *machine;
    m.counters.barriers++;
    uint32_t turn = m.barrier_turn;
    // Two edges in turn: with one, a thread that leaves late would also see what others did after the barrier.
    release(&m.block_edge[turn % 2]);
    if (++m.at_barrier < m.n_threads) {
        wait_as(State::barrier);
    } else {
        m.at_barrier = 0;
        m.barrier_turn++;
        for (uint32_t i = 0; i < m.n_threads; i++) {
            if (m.lanes[i].state == State::barrier) m.lanes[i].state = State::ready;
        }
        for (uint32_t w = 0; w < m.warps.size(); w++) flush_accesses(m, w);
    }
    acquire(&m.block_edge[turn % 2]);
}

// What a lane waits for, in words.
static const char* wait_of(const Machine& m, const Lane& lane) {
    switch (lane.state) {
        case State::barrier: return "waits at sync_threads";
        case State::collective: return name_of(m.warps[lane.index / WARP_LANES].what);
        case State::done: return "has ended";
        default: return "could continue";
    }
}

// Nobody can continue. Two threads that wait for different things explain why; best two of one warp.
static void explain_standstill(Machine& m) {
    const Lane* one = nullptr;
    const Lane* other = nullptr;
    bool warp_divergence = false;
    for (uint32_t i = 0; i < m.n_threads && !warp_divergence; i++) {
        const Lane& lane = m.lanes[i];
        if (lane.state != State::collective) continue;
        uint32_t first = i / WARP_LANES * WARP_LANES;
        for (uint32_t j = first; j < first + WARP_LANES; j++) {
            if (m.lanes[j].state == State::collective) continue;
            one = &lane, other = &m.lanes[j], warp_divergence = true;
            break;
        }
    }
    for (uint32_t i = 0; i < m.n_threads && one == nullptr; i++) {
        if (m.lanes[i].state == State::barrier) one = &m.lanes[i];
    }
    for (uint32_t i = 0; i < m.n_threads && other == nullptr; i++) {
        if (m.lanes[i].state != one->state) other = &m.lanes[i];
    }
    char here[160], there[160];
    describe(here, sizeof here, *one);
    describe(there, sizeof there, *other);
    const char* kind = warp_divergence                 ? "divergent collective"
                       : other->state == State::done ? "divergent barrier"
                                                       : "deadlock";
    if (warp_divergence && other->state == State::barrier) kind = "divergent collective and deadlock";
    set_error("%s: %s: %s; %s: %s", kind, here, wait_of(m, *one), there, wait_of(m, *other));
}

static bool run_warp(Machine& m, uint32_t warp) {
    bool moved = false;
    // A lane that completes a collective makes lanes ready that were already passed: so go round until nobody is.
    for (bool again = true; again && !m.failed;) {
        again = false;
        for (uint32_t i : m.lane_order) {
            Lane& lane = m.lanes[warp * WARP_LANES + i];
            if (lane.state != State::ready) continue;
            m.current = &lane;
            place = &lane.place;
            switch_fiber(m.scheduler, lane.fiber, false);
            moved = again = true;
            if (m.failed) break;
        }
    }
    return moved;
}

static void run_block(Machine& m, Index block) {
    m.counters.blocks++;
    m.at_barrier = 0;
    reset_window(m);
    reset_warps(m);
    for (uint32_t i = 0; i < m.n_threads; i++) {
        Lane& lane = m.lanes[i];
        lane.place.block = block;
        lane.state = State::ready;
        lane.copies.clear();
        lane.accesses.clear();
        lane.group = 0;
        prepare(lane.fiber, fiber_main);
    }
    release(&m.start_edge);
    for (;;) {
        bool moved = false;
        for (uint32_t warp : m.warp_order) {
            moved |= run_warp(m, warp);
            if (m.failed) return;
        }
        if (moved) continue;
        uint32_t done = 0;
        for (uint32_t i = 0; i < m.n_threads; i++) done += m.lanes[i].state == State::done;
        if (done < m.n_threads) explain_standstill(m);
        break;
    }
    acquire(&m.end_edge);
    if (m.failed) return;
    for (uint32_t w = 0; w < m.warps.size(); w++) flush_accesses(m, w);
    check_window(m);
}

static void order(std::vector<uint32_t>& places, uint32_t n, uint32_t schedule) {
    places.resize(n);
    for (uint32_t i = 0; i < n; i++) places[i] = schedule == 0 ? n - 1 - i : i;
    // A linear congruential generator is random enough to change an order.
    uint32_t state = schedule * 2654435761u + 1;
    for (uint32_t i = n; schedule > 1 && i > 1; i--) {
        state = state * 1664525u + 1013904223u;
        std::swap(places[i - 1], places[(state >> 8) % i]);
    }
}

static void make_stacks(Machine& m, uint32_t n) {
#if defined(TAPER_ASAN) || defined(TAPER_TSAN)
    const size_t bytes = 256 << 10;
#else
    const size_t bytes = 64 << 10;
#endif
    // Lanes hold fibers whose addresses are in use: the vector grows between launches only.
    size_t page = size_t(sysconf(_SC_PAGESIZE)), have = m.lanes.size();
    if (have >= n) return;
    m.lanes.resize(n);
    char* memory = static_cast<char*>(mmap(nullptr, (n - have) * (bytes + page), PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory == MAP_FAILED) {
        m.lanes.resize(have);
        set_error("no memory for the stacks of %u threads", n);
        return;
    }
    m.stacks.push_back({memory, (n - have) * (bytes + page)});
    for (size_t i = have; i < n; i++) {
        // A page that may not be touched lies below every stack.
        char* low = memory + (i - have) * (bytes + page);
        mprotect(low, page, PROT_NONE);
        m.lanes[i].fiber.stack = low + page;
        m.lanes[i].fiber.stack_bytes = bytes;
    }
}

static void check_launch(Machine& m, const Index& grid, const Index& block, uint32_t shared, uint32_t n_args,
                         const uint32_t* sizes) {
    const Kernel& k = *m.kernel;
    uint64_t threads = uint64_t(block.x) * block.y * block.z;
    if (n_args != k.n_args) set_error("%u arguments given, the kernel takes %u", n_args, k.n_args);
    for (uint32_t i = 0; i < n_args && !m.failed; i++) {
        if (sizes[i] != k.sizes[i]) {
            set_error("argument %u has %u bytes, the kernel takes %u", i, sizes[i], k.sizes[i]);
        }
    }
    if (threads == 0 || threads > k.max_threads || threads > MAX_THREADS || block.z > 64) {
        set_error("a block of (%u, %u, %u) threads; the kernel is made for 1 to %u", block.x, block.y, block.z,
                  k.max_threads);
    }
    if (threads % WARP_LANES != 0) set_error("a block of %u threads is not a multiple of 32", unsigned(threads));
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        set_error("a grid of (%u, %u, %u) blocks", grid.x, grid.y, grid.z);
    }
    if (shared > MAX_SHARED) {
        set_error("%u bytes of dynamic shared memory; a block of sm_80 has %u", shared, MAX_SHARED);
    }
}

static void launch(Machine& m, Index grid, Index block, uint32_t shared) {
    m.n_threads = block.x * block.y * block.z;
    make_stacks(m, m.n_threads);
    if (m.failed) return;
    m.warps.assign(m.n_threads / WARP_LANES, Warp{});
    order(m.lane_order, WARP_LANES, m.schedule);
    order(m.warp_order, m.n_threads / WARP_LANES, m.schedule);
    for (uint32_t i = 0; i < m.n_threads; i++) {
        m.lanes[i].index = i;
        m.lanes[i].place.thread = Index{i % block.x, i / block.x % block.y, i / block.x / block.y};
        m.lanes[i].place.block_size = block;
        m.lanes[i].place.grid_size = grid;
    }
#ifdef TAPER_TSAN
    m.scheduler.tsan = __tsan_get_current_fiber();
#endif
    prepare_window(m, shared);
    snapshot_allocations(m);
    for (uint32_t z = 0; z < grid.z; z++) {
        for (uint32_t y = 0; y < grid.y; y++) {
            for (uint32_t x = 0; x < grid.x && !m.failed; x++) run_block(m, Index{x, y, z});
        }
    }
}

// The end of a host thread that has launched: a process may map only so many pieces of memory, and a thread of tests has two
// for each stack.
static void leave(void* own) {
    Machine* m = static_cast<Machine*>(own);
#ifdef TAPER_TSAN
    for (Lane& lane : m->lanes) {
        if (lane.fiber.tsan != nullptr) __tsan_destroy_fiber(lane.fiber.tsan);
    }
#endif
    for (const auto& [memory, bytes] : m->stacks) {
#ifdef TAPER_ASAN
        // A fiber that was left in the middle has marks there, and the addresses come back.
        __asan_unpoison_memory_region(memory, bytes);
#endif
        munmap(memory, bytes);
    }
    free(m->window);
    delete m;
    machine = nullptr;
}

static Machine& own_machine() {
    static const pthread_key_t at_end = [] {
        pthread_key_t key;
        pthread_key_create(&key, leave);
        return key;
    }();
    if (machine == nullptr) {
        machine = new Machine();
        pthread_setspecific(at_end, machine);
    }
    return *machine;
}

}  // namespace emulator

using namespace emulator;

// Runs `kernel` to its end. Returns 0, or 1 with what went wrong in `error`. `args` are pointers to the arguments, of
// `arg_sizes` bytes each.
extern "C" int taper_emulator_launch(const char* kernel, const uint32_t grid[3], const uint32_t block[3],
                                     uint32_t shared_bytes, void** args, uint32_t n_args, const uint32_t* arg_sizes,
                                     char* error, size_t error_len) {
    Machine& m = own_machine();
    m.failed = false;
    m.error[0] = 0;
    m.counters = Counters{};
    m.arguments = args;
    auto found = kernels().find(kernel);
    m.kernel = found == kernels().end() ? nullptr : &found->second;
    Index g{grid[0], grid[1], grid[2]}, b{block[0], block[1], block[2]};
    if (m.kernel == nullptr) {
        set_error("there is no kernel \"%s\"", kernel);
    } else {
        check_launch(m, g, b, shared_bytes, n_args, arg_sizes);
    }
    if (!m.failed) launch(m, g, b, shared_bytes);
    if (error != nullptr && error_len > 0) snprintf(error, error_len, "%s", m.error);
    return m.failed;
}

// Which thread goes first in the calling host thread's launches: 0 the last one (the default: what the first threads
// prepare for others without a barrier is then not there yet), 1 the first one, others an order shuffled by that number.
extern "C" void taper_emulator_schedule(uint32_t schedule) { own_machine().schedule = schedule; }

// A count of the calling host thread's last launch; ~0 for a name that is none.
extern "C" uint64_t taper_emulator_counter(const char* name) {
    const Counters& c = own_machine().counters;
    const struct {
        const char* name;
        uint64_t value;
    } all[] = {{"blocks", c.blocks},
               {"barriers", c.barriers},
               {"collectives", c.collectives},
               {"mma", c.mma},
               {"ldmatrix", c.ldmatrix},
               {"cp_async", c.cp_async},
               {"shared_accesses", c.shared_accesses},
               {"bank_conflicts", c.bank_conflicts},
               {"global_accesses", c.global_accesses}};
    for (const auto& counter : all) {
        if (strcmp(counter.name, name) == 0) return counter.value;
    }
    return ~uint64_t(0);
}

// The names of all kernels, one a line; the length that would be needed.
extern "C" size_t taper_emulator_kernels(char* names, size_t size) {
    std::string text;
    for (const auto& kernel : kernels()) text += kernel.first + "\n";
    if (size > 0) snprintf(names, size, "%s", text.c_str());
    return text.size() + 1;
}
