// Number types, their conversions, and the fast approximations of the special function unit.
#pragma once

#ifdef TAPER_EMULATOR
#include "emulator.h"
#else
// A kernel is found by its own name; only the emulator needs to be told of it, and of the most threads it is made for.
#define TAPER_KERNEL(...)
#endif

#define DEVICE __device__ __forceinline__
// The head of a kernel for blocks of at most `threads` threads.
#define KERNEL(threads) extern "C" __global__ void __launch_bounds__(threads)

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

// 16-bit floats are bits to us: the tensor cores and the conversions below are all that looks inside.
struct bf16 {
    u16 bits;
};
struct f16 {
    u16 bits;
};

DEVICE u32 bits_of(float x) {
#ifdef TAPER_EMULATOR
    return emulator::bits_of(x);
#else
    return __float_as_uint(x);
#endif
}

DEVICE float f32_of_bits(u32 bits) {
#ifdef TAPER_EMULATOR
    return emulator::f32_of_bits(bits);
#else
    return __uint_as_float(bits);
#endif
}

#define INFINITY_F (f32_of_bits(0x7f800000u))

DEVICE bool is_finite(float x) { return (bits_of(x) & 0x7f800000u) != 0x7f800000u; }
DEVICE bool is_nan(float x) { return (bits_of(x) & 0x7fffffffu) > 0x7f800000u; }

DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(bf16 x) { return f32_of_bits(u32(x.bits) << 16); }
DEVICE float to_f32(f16 x) {
#ifdef TAPER_EMULATOR
    return emulator::f16_to_f32(x.bits);
#else
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#endif
}

// Round to nearest, ties to even; a NaN becomes 0x7fff.
template <class T> DEVICE T from_f32(float x);
template <> DEVICE float from_f32<float>(float x) { return x; }
template <> DEVICE bf16 from_f32<bf16>(float x) {
    bf16 y;
#ifdef TAPER_EMULATOR
    y.bits = emulator::f32_to_bf16(x);
#else
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#endif
    return y;
}
template <> DEVICE f16 from_f32<f16>(float x) {
    f16 y;
#ifdef TAPER_EMULATOR
    y.bits = emulator::f32_to_f16(x);
#else
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#endif
    return y;
}

// Two 16-bit numbers in one register, `lo` in the low half: one instruction instead of two conversions and a merge.
template <class T> DEVICE u32 pack2(float lo, float hi);
template <> DEVICE u32 pack2<bf16>(float lo, float hi) {
#ifdef TAPER_EMULATOR
    return u32(emulator::f32_to_bf16(hi)) << 16 | emulator::f32_to_bf16(lo);
#else
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
#endif
}
template <> DEVICE u32 pack2<f16>(float lo, float hi) {
#ifdef TAPER_EMULATOR
    return u32(emulator::f32_to_f16(hi)) << 16 | emulator::f32_to_f16(lo);
#else
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(hi), "f"(lo));
    return y;
#endif
}

template <class T> DEVICE void unpack2(u32 pair, float& lo, float& hi) {
    T low, high;
    low.bits = u16(pair);
    high.bits = u16(pair >> 16);
    lo = to_f32(low);
    hi = to_f32(high);
}
template <> DEVICE void unpack2<bf16>(u32 pair, float& lo, float& hi) {
    lo = f32_of_bits(pair << 16);
    hi = f32_of_bits(pair & 0xffff0000u);
}

// 2^x by the special function unit: relative error below 2^-22, subnormals are zero; 2^-inf is 0.
DEVICE float fast_exp2(float x) {
#ifdef TAPER_EMULATOR
    return emulator::exp2(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

// e^x; relative error about 2^-22 (1 + |x|).
DEVICE float fast_exp(float x) { return fast_exp2(x * LOG2_E); }

// e^x as good as the number type that it is for: f32 results get the library's two units in the last place.
template <class T> DEVICE float exp_for(float x) { return fast_exp(x); }
template <> DEVICE float exp_for<float>(float x) { return expf(x); }

// ln x; absolute error below 2^-22 around 1, relative elsewhere.
DEVICE float fast_log(float x) {
#ifdef TAPER_EMULATOR
    return emulator::log2(x) * LN_2;
#else
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y * LN_2;
#endif
}

// 1 / x, within 1 unit in the last place; 1 / subnormal is infinite.
DEVICE float fast_reciprocal(float x) {
#ifdef TAPER_EMULATOR
    return 1.0f / x;
#else
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

// a / b as good as the number type that it is for: f32 results are divided, others multiplied by an approximate inverse.
template <class T> DEVICE float divide_for(float a, float b) { return a * fast_reciprocal(b); }
template <> DEVICE float divide_for<float>(float a, float b) { return a / b; }

// The larger, or NaN if either is one: fmaxf would hide it.
DEVICE float max_nan(float x, float y) {
#ifdef TAPER_EMULATOR
    return is_nan(x) || x > y ? x : y;
#else
    float z;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
#endif
}

// `x`, of which the compiler forgets what it knows: what follows from it is computed where it is used, instead of being kept
// in registers from an earlier place.
DEVICE u32 opaque(u32 x) {
#ifndef TAPER_EMULATOR
    asm volatile("" : "+r"(x));
#endif
    return x;
}
