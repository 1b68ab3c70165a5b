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

// The same 16 bytes as four registers: two 16-bit numbers stay in one register, where a Pack spreads them over two.
struct alignas(16) Bits16 {
    u32 w[4];
};

DEVICE Bits16 load_bits(const void* p) {
#ifdef TAPER_EMULATOR
    emulator::check_global(p, 16, false);
    return *reinterpret_cast<const Bits16*>(p);
#else
    uint4 raw = *reinterpret_cast<const uint4*>(p);
    return Bits16{{raw.x, raw.y, raw.z, raw.w}};
#endif
}

DEVICE void store_bits(void* p, const Bits16& bits) {
#ifdef TAPER_EMULATOR
    emulator::check_global(p, 16, true);
    *reinterpret_cast<Bits16*>(p) = bits;
#else
    *reinterpret_cast<uint4*>(p) = make_uint4(bits.w[0], bits.w[1], bits.w[2], bits.w[3]);
#endif
}

// Makes the compiler forget what it has computed from these bits: it unpacks them again where they are used again, instead
// of keeping twice as many registers.
DEVICE void forget(Bits16& bits) {
#ifdef TAPER_EMULATOR
    (void)bits;
#else
    asm volatile("" : "+r"(bits.w[0]), "+r"(bits.w[1]), "+r"(bits.w[2]), "+r"(bits.w[3]));
#endif
}

// The values in f32, and back.
template <class T> struct Unpack {
    static constexpr int N = 8;
    static DEVICE void get(const Bits16& bits, float* x) {
#pragma unroll
        for (int i = 0; i < 4; i++) unpack2<T>(bits.w[i], x[2 * i], x[2 * i + 1]);
    }
    static DEVICE Bits16 put(const float* x) {
        Bits16 bits;
#pragma unroll
        for (int i = 0; i < 4; i++) bits.w[i] = pack2<T>(x[2 * i], x[2 * i + 1]);
        return bits;
    }
};
template <> struct Unpack<float> {
    static constexpr int N = 4;
    static DEVICE void get(const Bits16& bits, float* x) {
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] = f32_of_bits(bits.w[i]);
    }
    static DEVICE Bits16 put(const float* x) {
        Bits16 bits;
#pragma unroll
        for (int i = 0; i < 4; i++) bits.w[i] = bits_of(x[i]);
        return bits;
    }
};

template <class T> DEVICE void unpack(const Bits16& bits, float (&x)[Pack<T>::N]) { Unpack<T>::get(bits, x); }
template <class T> DEVICE Bits16 pack(const float (&x)[Pack<T>::N]) { return Unpack<T>::put(x); }

// `N` values from `p` on, in f32. Where `wide`, by 16-byte loads; else the first `valid` one by one, and the rest are zero.
// So one kernel serves any shape: only tails, and rows that break the alignment, take the slow way.
template <class T, int N> DEVICE void load_values(float (&x)[N], const T* p, bool wide, u32 valid) {
    constexpr int M = Pack<T>::N;
    static_assert(N % M == 0, "whole packs");
    if (wide) {
#pragma unroll
        for (int i = 0; i < N; i += M) Unpack<T>::get(load_bits(p + i), x + i);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) x[i] = u32(i) < valid ? to_f32(p[i]) : 0.0f;
    }
}

template <class T, int N> DEVICE void store_values(T* p, const float (&x)[N], bool wide, u32 valid) {
    constexpr int M = Pack<T>::N;
    static_assert(N % M == 0, "whole packs");
    if (wide) {
#pragma unroll
        for (int i = 0; i < N; i += M) store_bits(p + i, Unpack<T>::put(x + i));
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) {
            if (u32(i) < valid) p[i] = from_f32<T>(x[i]);
        }
    }
}

// Runs `body(wide)`, written out once for each answer, so that the fast way has no branch between its loads and all of them
// are under way at once. (A template over the answer would need a generic lambda, which NVRTC takes for a host function.)
template <class F> DEVICE void with_width(bool wide, F body) {
    if (wide) body(true);
    else body(false);
}

// How many of the `N` elements from `first` on lie before `end`.
template <int N> DEVICE u32 valid_of(u64 first, u64 end) {
    return first >= end ? 0u : end - first < u64(N) ? u32(end - first) : u32(N);
}

// The dynamic shared memory of the block, aligned to 128 bytes, as `type* name`.
// SHARED_ARRAY declares a static array in shared memory; its size counts next to the dynamic bytes.
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

// Copies 16 bytes from shared to global memory. In one piece of PTX, because the compiler takes the store of what such a
// load gave apart into four.
DEVICE void store16_from_shared(void* global, u32 address) {
#ifdef TAPER_EMULATOR
    store_bits(global, *reinterpret_cast<const Bits16*>(emulator::shared_access(address, 16, false)));
#else
    asm volatile("{\n\t.reg .b32 w<4>;\n\t"
                 "ld.shared.v4.b32 {w0, w1, w2, w3}, [%1];\n\t"
                 "st.global.v4.b32 [%0], {w0, w1, w2, w3};\n\t}" ::"l"(__cvta_generic_to_global(global)),
                 "r"(address)
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
