// The emulator's memory: allocations with red zones, the window of shared memory, asynchronous copies.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

#include "machine.h"

#ifdef TAPER_ASAN
#include <sanitizer/asan_interface.h>
#endif
#ifdef TAPER_TSAN
extern "C" void __tsan_read_range(void* p, unsigned long bytes);
extern "C" void __tsan_write_range(void* p, unsigned long bytes);
#endif

namespace emulator {

// Device memory.

struct Allocation {
    size_t bytes;
    void* raw;
};

static std::mutex lock;
static std::map<uintptr_t, Allocation> live;
static uint64_t version = 1;

// Red zones are marked for the address checker too, so that it names the very access. (Its macros do nothing here, because
// this file is not instrumented.)
static void mark(const void* p, size_t bytes, bool forbidden) {
#ifdef TAPER_ASAN
    if (forbidden) __asan_poison_memory_region(p, bytes);
    else __asan_unpoison_memory_region(p, bytes);
#endif
    (void)p, (void)bytes, (void)forbidden;
}

static void paint(uint8_t* p, size_t bytes) {
    mark(p, bytes, false);
    // By hand: the address checker looks at what memset touches, even from here.
    for (size_t i = 0; i < bytes; i++) p[i] = RED;
    mark(p, bytes, true);
}

// The first byte of a red zone that was painted over, or -1.
static long damage(const uint8_t* p, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (p[i] != RED) return long(i);
    }
    return -1;
}

void snapshot_allocations(Machine& m) {
    std::lock_guard<std::mutex> guard(lock);
    if (m.allocations_version == version) return;
    m.allocations.clear();
    for (const auto& one : live) m.allocations.push_back(Range{one.first, one.first + one.second.bytes});
    for (Range& range : m.recent) range = Range{0, 0};
    m.allocations_version = version;
}

void check_global(const void* p, uint32_t bytes, bool store) {
    Machine& m = *machine;
    m.counters.global_accesses++;
    uintptr_t start = uintptr_t(p);
    const char* what = store ? "store" : "load";
    if (start % bytes != 0) fault("misaligned %s of %u bytes at address %p", what, bytes, p);
    for (const Range& range : m.recent) {
        if (start >= range.start && start + bytes <= range.end) return;
    }
    size_t low = 0, high = m.allocations.size();
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (m.allocations[middle].start <= start) low = middle + 1;
        else high = middle;
    }
    if (low == 0 || start >= m.allocations[low - 1].end + RED_ZONE) {
        fault("out of bounds: %s of %u bytes at address %p, which is in no allocation", what, bytes, p);
    }
    const Range& range = m.allocations[low - 1];
    if (start + bytes > range.end) {
        fault("out of bounds: %s of %u bytes at offset %zu of an allocation of %zu", what, bytes, size_t(start - range.start),
              size_t(range.end - range.start));
    }
    m.recent[m.next_recent++ % 4] = range;
}

// Shared memory.

void prepare_window(Machine& m, uint32_t dynamic_bytes) {
    const size_t size = MAX_SHARED + MAX_STATIC_SHARED * 2 + 8 * RED_ZONE;
    if (m.window == nullptr) m.window = static_cast<uint8_t*>(aligned_alloc(1024, (size + 1023) / 1024 * 1024));
    // The last launch had its red zones elsewhere.
    mark(m.window, size, false);
    m.dynamic_bytes = dynamic_bytes;
    // The dynamic part starts on 1024 bytes, the red zone before it included in the first.
    m.static_start = 1024 + (dynamic_bytes + RED_ZONE + 127) / 128 * 128;
    m.statics.clear();
    m.static_used = 0;
    paint(m.window, 1024);
    paint(m.window + 1024 + dynamic_bytes, m.static_start - 1024 - dynamic_bytes);
}

void reset_window(Machine& m) {
    // 0xff in every byte is a NaN in f32, bf16 and f16, and a large integer.
    memset(m.window + 1024, 0xff, m.dynamic_bytes);
    for (const StaticShared& one : m.statics) memset(m.window + one.offset, 0xff, one.bytes);
}

bool check_window(Machine& m) {
    long at = damage(m.window, 1024);
    if (at >= 0) set_error("out of bounds: shared memory was written %ld bytes before its start", 1024 - at);
    at = damage(m.window + 1024 + m.dynamic_bytes, m.static_start - 1024 - m.dynamic_bytes);
    if (at >= 0) {
        set_error("out of bounds: shared memory was written %ld bytes behind the %u dynamic bytes", at, m.dynamic_bytes);
    }
    for (const StaticShared& one : m.statics) {
        at = damage(m.window + one.offset + one.bytes, RED_ZONE);
        if (at >= 0) set_error("out of bounds: a shared array of %u bytes was written %ld behind", one.bytes, at);
    }
    return !m.failed;
}

void* dynamic_shared() { return machine->window + 1024; }

void* static_shared(const void* key, size_t bytes) {
    Machine& m = *machine;
    for (const StaticShared& one : m.statics) {
        if (one.key == key) return m.window + one.offset;
    }
    uint32_t room = uint32_t((bytes + 127) / 128 * 128);
    m.static_used += room;
    if (m.static_used > MAX_STATIC_SHARED || m.static_used + m.dynamic_bytes > MAX_SHARED) {
        fault("too much shared memory: %u static bytes next to %u dynamic ones", m.static_used, m.dynamic_bytes);
    }
    uint32_t offset = m.static_start;
    if (!m.statics.empty()) offset = m.statics.back().offset + (m.statics.back().bytes + RED_ZONE + 127) / 128 * 128;
    m.statics.push_back(StaticShared{key, offset, uint32_t(bytes)});
    mark(m.window + offset, bytes, false);
    memset(m.window + offset, 0xff, bytes);
    paint(m.window + offset + bytes, RED_ZONE);
    return m.window + offset;
}

uint32_t shared_address(const void* p) {
    Machine& m = *machine;
    const uint8_t* byte = static_cast<const uint8_t*>(p);
    uint32_t end = m.statics.empty() ? m.static_start : m.statics.back().offset + m.statics.back().bytes + RED_ZONE;
    if (byte < m.window + 1024 || byte >= m.window + end) fault("shared_address of %p, which is not shared memory", p);
    return uint32_t(byte - m.window) - 1024 + SHARED_BASE;
}

static uint8_t* shared_place(uint32_t address, uint32_t bytes, const char* what) {
    Machine& m = *machine;
    if (address % bytes != 0) fault("misaligned %s of %u bytes at shared address %u", what, bytes, address);
    uint32_t offset = address - SHARED_BASE + 1024;
    if (address >= SHARED_BASE && offset + bytes <= 1024 + m.dynamic_bytes) return m.window + offset;
    for (const StaticShared& one : m.statics) {
        if (offset >= one.offset && offset + bytes <= one.offset + one.bytes) return m.window + offset;
    }
    fault("out of bounds: %s of %u bytes at offset %d of %u dynamic shared bytes", what, bytes,
          int(address - SHARED_BASE), m.dynamic_bytes);
}

void* shared_access(uint32_t address, uint32_t bytes, bool store) {
    uint8_t* p = shared_place(address, bytes, store ? "shared store" : "shared load");
    machine->counters.shared_accesses++;
    machine->current->accesses.push_back(SharedAccess{address, uint16_t(bytes), store});
    return p;
}

void* ldmatrix_row(uint32_t address) { return shared_place(address, 16, "ldmatrix row"); }

// Asynchronous copies: made as late as a kernel allows, when a wait demands their group. Until then the target is NaN.

void cp_async(uint32_t address, const void* global, bool valid) {
    Machine& m = *machine;
    Lane& lane = *m.current;
    m.counters.cp_async++;
    uint8_t* target = static_cast<uint8_t*>(shared_place(address, 16, "cp.async"));
    if (uintptr_t(global) % 16 != 0) fault("misaligned cp.async from address %p", global);
    if (valid) check_global(global, 16, false);
    lane.accesses.push_back(SharedAccess{address, 16, true});
#ifdef TAPER_TSAN
    __tsan_write_range(target, 16);
#endif
    for (int i = 0; i < 16; i++) reinterpret_cast<volatile uint8_t*>(target)[i] = 0xff;
    lane.copies.push_back(Copy{target, static_cast<const uint8_t*>(global), valid, lane.group});
}

void cp_async_commit() { machine->current->group++; }

void cp_async_wait(uint32_t pending) {
    Lane& lane = *machine->current;
    size_t kept = 0;
    for (const Copy& copy : lane.copies) {
        if (copy.group + pending >= lane.group) {
            lane.copies[kept++] = copy;
            continue;
        }
#ifdef TAPER_TSAN
        if (copy.valid) __tsan_read_range(const_cast<uint8_t*>(copy.source), 16);
        __tsan_write_range(copy.target, 16);
#endif
        for (int i = 0; i < 16; i++) {
            reinterpret_cast<volatile uint8_t*>(copy.target)[i] = copy.valid ? copy.source[i] : 0;
        }
    }
    lane.copies.resize(kept);
}

}  // namespace emulator

using namespace emulator;

// `bytes` of device memory, aligned to 256, NaN in every byte, with red zones before and behind. Null without memory.
extern "C" void* taper_emulator_alloc(size_t bytes) {
    void* raw = nullptr;
    if (posix_memalign(&raw, 256, bytes + 2 * RED_ZONE + 256) != 0) return nullptr;
    uint8_t* start = static_cast<uint8_t*>(raw) + RED_ZONE;
    memset(start, 0xff, bytes);
    paint(start - RED_ZONE, RED_ZONE);
    paint(start + bytes, RED_ZONE);
    std::lock_guard<std::mutex> guard(lock);
    live[uintptr_t(start)] = Allocation{bytes, raw};
    version++;
    return start;
}

extern "C" void taper_emulator_free(void* p) {
    std::lock_guard<std::mutex> guard(lock);
    auto found = live.find(uintptr_t(p));
    if (found == live.end()) return;
    mark(found->second.raw, found->second.bytes + 2 * RED_ZONE + 256, false);
    free(found->second.raw);
    live.erase(found);
    version++;
}

// Whether all red zones are whole: 0, or 1 with the place in `error`.
extern "C" int taper_emulator_check(char* error, size_t error_len) {
    std::lock_guard<std::mutex> guard(lock);
    for (const auto& one : live) {
        const uint8_t* start = reinterpret_cast<const uint8_t*>(one.first);
        size_t bytes = one.second.bytes;
        long before = damage(start - RED_ZONE, RED_ZONE), behind = damage(start + bytes, RED_ZONE);
        if (before < 0 && behind < 0) continue;
        if (before >= 0) {
            snprintf(error, error_len, "out of bounds: written %ld bytes before an allocation of %zu bytes",
                     long(RED_ZONE) - before, bytes);
        } else {
            snprintf(error, error_len, "out of bounds: written %ld bytes behind an allocation of %zu bytes", behind, bytes);
        }
        return 1;
    }
    return 0;
}
