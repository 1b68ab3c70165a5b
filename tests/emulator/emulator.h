// What a kernel sees of the emulator: CUDA's words, and the instructions of kernels/*.cuh as functions.
//
// Every CUDA thread is a fiber. A fiber runs until it needs others: at a barrier it waits for the block, at a shuffle, an
// mma or an ldmatrix for its warp. The last to come does the work for all. Whatever cannot continue is an error with the
// block, the warp and the thread in it: see emulator.cpp for what is noticed, and how.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

namespace emulator {

struct Index {
    uint32_t x, y, z;
};

// What a running thread knows of itself.
struct Place {
    Index thread, block, block_size, grid_size;
};

// __thread, not thread_local: no guard, no wrapper function, one load.
extern __thread const Place* place;

enum class Collective : uint32_t { shfl_xor, shfl_down, shfl, ballot, sync_warp, mma, ldmatrix };

// Collectives of a warp; all 32 lanes must come to the same one.
uint64_t exchange(Collective what, uint64_t value, uint32_t operand);
void sync_warp();
void mma_bf16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1);
void mma_f16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1);
void ldmatrix(uint32_t* r, uint32_t matrices, bool transposed, uint32_t address);

// The barrier of the block.
void sync_threads();

// Shared memory. Addresses are offsets in the block's window, from a base that is not zero.
void* dynamic_shared();
void* static_shared(const void* key, size_t bytes);
uint32_t shared_address(const void* p);
void* shared_access(uint32_t address, uint32_t bytes, bool store);
void cp_async(uint32_t address, const void* global, bool valid);
void cp_async_commit();
void cp_async_wait(uint32_t pending);

// A 16-byte access to global memory: aligned, and inside one live allocation.
void check_global(const void* p, uint32_t bytes, bool store);

inline uint32_t bits_of(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    return bits;
}

inline float f32_of_bits(uint32_t bits) {
    float x;
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

inline uint16_t f32_to_bf16(float x) {
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

extern const float* const f16_values;
inline float f16_to_f32(uint16_t bits) { return f16_values[bits]; }

inline uint16_t f32_to_f16(float x) {
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fff;
    if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        // Subnormal results: adding 0.5 puts the ulp of the sum at 2^-24, and the addition rounds to nearest even.
        return uint16_t(sign | (bits_of(f32_of_bits(magnitude) + 0.5f) - bits_of(0.5f)));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

inline float exp2(float x) {
    float y = exp2f(x);
    return y < 1.17549435e-38f ? 0.0f : y;
}
inline float log2(float x) { return log2f(x); }

template <class T> T shuffle(Collective what, T x, uint32_t operand) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    bits = uint32_t(exchange(what, bits, operand));
    __builtin_memcpy(&x, &bits, 4);
    return x;
}

inline uint32_t ballot(bool condition) { return uint32_t(exchange(Collective::ballot, condition, 0)); }

// Kernels enter themselves in a table when the library is loaded.
struct Kernel {
    const char* name;
    uint32_t max_threads;
    uint32_t n_args;
    const uint32_t* sizes;
    void (*call)(void** args);
};
void add_kernel(const Kernel& kernel);

template <class... Args> struct Entry {
    template <void (*function)(Args...), size_t... I> static void unpack(void** args, std::index_sequence<I...>) {
        function(*static_cast<Args*>(args[I])...);
    }
    template <void (*function)(Args...)> static void call(void** args) {
        unpack<function>(args, std::index_sequence_for<Args...>());
    }
    // The zero is for kernels without arguments.
    static constexpr uint32_t sizes[sizeof...(Args) + 1] = {uint32_t(sizeof(Args))..., 0};
};
template <class... Args> constexpr uint32_t Entry<Args...>::sizes[sizeof...(Args) + 1];

template <class... Args> Entry<Args...> entry_of(void (*)(Args...));

struct Register {
    Register(const char* name, uint32_t max_threads, uint32_t n_args, const uint32_t* sizes, void (*call)(void**)) {
        add_kernel(Kernel{name, max_threads, n_args, sizes, call});
    }
};
template <class... Args> constexpr uint32_t count_args(void (*)(Args...)) { return sizeof...(Args); }

}  // namespace emulator

#define threadIdx (emulator::place->thread)
#define blockIdx (emulator::place->block)
#define blockDim (emulator::place->block_size)
#define gridDim (emulator::place->grid_size)

// TAPER_KERNEL(name, max_threads) after the kernel's definition.
#define TAPER_KERNEL(name, max_threads)                                                                                \
    static const emulator::Register register_##name(#name, max_threads, emulator::count_args(&name),                   \
                                                    decltype(emulator::entry_of(&name))::sizes,                        \
                                                    &decltype(emulator::entry_of(&name))::template call<&name>);
