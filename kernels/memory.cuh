// Memory: 16-byte packs of global memory, shared memory by 32-bit address, asynchronous copies.
#pragma once

#include "types.cuh"

// 16 bytes of `T`: the widest access of one thread.
template <class T> struct alignas(16) Pack {
    static constexpr int N = 16 / sizeof(T);
    T v[N];
};

#ifndef TAPER_EMULATOR
// A struct of shorts would be copied in pieces; through uint4 it is one 128-bit access.
template <class T> union PackBits {
    uint4 raw;
    Pack<T> pack;
};
#endif

// Whether `p` may be read 16 bytes at a time.
DEVICE bool is_aligned16(const void* p) { return (reinterpret_cast<u64>(p) & 15) == 0; }

template <class T> DEVICE Pack<T> load16(const T* p) {
#ifdef TAPER_EMULATOR
    emulator::check_global(p, 16, false);
    return *reinterpret_cast<const Pack<T>*>(p);
#else
    PackBits<T> bits;
    bits.raw = *reinterpret_cast<const uint4*>(p);
    return bits.pack;
#endif
}

// For what is read once and should not push other things out of the caches.
template <class T> DEVICE Pack<T> load16_streaming(const T* p) {
#ifdef TAPER_EMULATOR
    return load16(p);
#else
    PackBits<T> bits;
    bits.raw = __ldcs(reinterpret_cast<const uint4*>(p));
    return bits.pack;
#endif
}

template <class T> DEVICE void store16(T* p, Pack<T> value) {
#ifdef TAPER_EMULATOR
    emulator::check_global(p, 16, true);
    *reinterpret_cast<Pack<T>*>(p) = value;
#else
    PackBits<T> bits;
    bits.pack = value;
    *reinterpret_cast<uint4*>(p) = bits.raw;
#endif
}

// For what is written now and read much later.
template <class T> DEVICE void store16_streaming(T* p, Pack<T> value) {
#ifdef TAPER_EMULATOR
    store16(p, value);
#else
    PackBits<T> bits;
    bits.pack = value;
    __stcs(reinterpret_cast<uint4*>(p), bits.raw);
#endif
}

// The dynamic shared memory of the block, aligned to 128 bytes, as `type* name`.
// SHARED_ARRAY declares a static array in shared memory; its size counts beside the dynamic bytes.
#ifdef TAPER_EMULATOR
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emulator::dynamic_shared())
#define SHARED_ARRAY(type, name, count)                                                                                \
    static const char name##_key = 0;                                                                                  \
    type* name = reinterpret_cast<type*>(emulator::static_shared(&name##_key, sizeof(type) * (count)))
#else
extern __shared__ __align__(128) u8 taper_dynamic_shared[];
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(taper_dynamic_shared)
#define SHARED_ARRAY(type, name, count) __shared__ __align__(16) type name[count]
#endif

// The 32-bit address of a place in shared memory: half the registers of a pointer, and what the instructions want.
DEVICE u32 shared_address(const void* p) {
#ifdef TAPER_EMULATOR
    return emulator::shared_address(p);
#else
    return u32(__cvta_generic_to_shared(p));
#endif
}

DEVICE u32 ld_shared_u32(u32 address) {
#ifdef TAPER_EMULATOR
    return *reinterpret_cast<const u32*>(emulator::shared_access(address, 4, false));
#else
    u32 x;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
    return x;
#endif
}

DEVICE void st_shared_u32(u32 address, u32 x) {
#ifdef TAPER_EMULATOR
    *reinterpret_cast<u32*>(emulator::shared_access(address, 4, true)) = x;
#else
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
#endif
}

DEVICE float ld_shared_f32(u32 address) { return f32_of_bits(ld_shared_u32(address)); }
DEVICE void st_shared_f32(u32 address, float x) { st_shared_u32(address, bits_of(x)); }

// Two neighbours; the address is a multiple of 8.
DEVICE void ld_shared_f32x2(u32 address, float& x, float& y) {
#ifdef TAPER_EMULATOR
    const float* p = reinterpret_cast<const float*>(emulator::shared_access(address, 8, false));
    x = p[0], y = p[1];
#else
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x), "=f"(y) : "r"(address) : "memory");
#endif
}

// 16 bytes of shared memory; the address is a multiple of 16.
template <class T> DEVICE Pack<T> ld_shared_16(u32 address) {
#ifdef TAPER_EMULATOR
    return *reinterpret_cast<const Pack<T>*>(emulator::shared_access(address, 16, false));
#else
    PackBits<T> bits;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(bits.raw.x), "=r"(bits.raw.y), "=r"(bits.raw.z), "=r"(bits.raw.w)
                 : "r"(address)
                 : "memory");
    return bits.pack;
#endif
}

template <class T> DEVICE void st_shared_16(u32 address, Pack<T> value) {
#ifdef TAPER_EMULATOR
    *reinterpret_cast<Pack<T>*>(emulator::shared_access(address, 16, true)) = value;
#else
    PackBits<T> bits;
    bits.pack = value;
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(bits.raw.x), "r"(bits.raw.y),
                 "r"(bits.raw.z), "r"(bits.raw.w)
                 : "memory");
#endif
}

// Starts a copy of 16 bytes from global to shared memory, past the registers and the first-level cache. Where `valid` is
// false the target becomes zero and nothing is read, so that tails need no branch; `global` must still be aligned.
DEVICE void cp_async_16(u32 address, const void* global, bool valid = true) {
#ifdef TAPER_EMULATOR
    emulator::cp_async(address, global, valid);
#else
    i32 bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global), "r"(bytes) : "memory");
#endif
}

// Closes a group of copies.
DEVICE void cp_async_commit() {
#ifdef TAPER_EMULATOR
    emulator::cp_async_commit();
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the `N` newest groups of this thread are under way. Other threads' copies need a barrier as well.
template <int N> DEVICE void cp_async_wait() {
#ifdef TAPER_EMULATOR
    emulator::cp_async_wait(N);
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// The barrier of the block.
DEVICE void sync_threads() {
#ifdef TAPER_EMULATOR
    emulator::sync_threads();
#else
    __syncthreads();
#endif
}

// The barrier of the warp: orders its memory accesses.
DEVICE void sync_warp() {
#ifdef TAPER_EMULATOR
    emulator::sync_warp();
#else
    __syncwarp();
#endif
}
