// GELU, y = x Phi(x), exact (erf) or by the tanh approximation, with the bias of the linear layer before it.
// Definition: src/ops/gelu/cpu.rs; both forms are written so that nothing cancels in the left tail.
//
// gelu_KIND_forward_T(out, x, bias, n, width): out [n] = gelu(x + bias[i % width]). Bytes: 2 n elements.
// gelu_KIND_backward_T(dx, dy, x, bias, n, width): dx = dy gelu'(x + bias[i % width]); dx may be dy. Bytes: 3 n elements.
// KIND is tanh or erf. `bias` [width] may be null. Grid ceil(n / (256 N)), block 256, with N elements in 16 bytes; the
// floor is bytes / bandwidth (about 20 instructions an element, far below the ridge).
//
// gate: gelu_* registers=48 wide
#include "taper.cuh"

// 2 sqrt(2/pi), the weight of the cube, 1 / sqrt(2 pi), 1 / sqrt(2).
#define GELU_SLOPE 1.595769f
#define GELU_CUBE 0.044715f
#define GELU_DENSITY 0.3989423f
#define GELU_SQRT_HALF 0.70710678f

// The tanh form: x sigmoid(2u), since (1 + tanh u) / 2 = sigmoid(2u).
template <class T> struct GeluTanh {
    // e^(-2u), held below 1e35 so that its product with the sigmoid stays a number.
    static DEVICE float decay(float x) {
        float v = GELU_SLOPE * (x + GELU_CUBE * (x * x * x));
        return exp_for<T>(v < -80.0f ? 80.0f : -v);
    }
    static DEVICE float value(float x) { return divide_for<T>(x, 1.0f + decay(x)); }
    static DEVICE float slope(float x) {
        float e = decay(x), s = divide_for<T>(1.0f, 1.0f + e);
        // 1 - s is e s, exactly where s is close to one.
        return s + x * s * (e * s) * (GELU_SLOPE * (1.0f + 3.0f * GELU_CUBE * (x * x)));
    }
};

// The exact form by erfc, whose exponential is also the density that the derivative needs.
template <class T> struct GeluErf {
    // e^(x^2) erfc(x) for x >= 0, the polynomial of src/math.rs: relative error below 4e-7.
    static DEVICE float erfcx(float x) {
        float t = divide_for<T>(1.0f, 1.0f + 0.5f * x);
        float p = -5.914936e-2f;
        p = p * t + 2.8496802e-1f;
        p = p * t + -4.8801553e-1f;
        p = p * t + 2.7900246e-1f;
        p = p * t + -2.7271612e-2f;
        p = p * t + 2.029609e-1f;
        p = p * t + 2.430343e-1f;
        p = p * t + 2.8238487e-1f;
        p = p * t + 2.8208587e-1f;
        return p * t;
    }
    // Phi(x), and e^(-x^2/2).
    static DEVICE float normal(float x, float& e) {
        float z = (x < 0.0f ? -x : x) * GELU_SQRT_HALF;
        e = exp_for<T>(-0.5f * (x * x));
        float tail = 0.5f * e * erfcx(z);
        return x < 0.0f ? tail : 1.0f - tail;
    }
    static DEVICE float value(float x) {
        float e;
        return x * normal(x, e);
    }
    static DEVICE float slope(float x) {
        float e, p = normal(x, e);
        return p + x * (GELU_DENSITY * e);
    }
};

// x + bias for the N elements from `at` on.
template <class T, int N>
DEVICE void gelu_input(float (&v)[N], const T* x, const T* bias, u64 at, u32 width, bool wide, u32 valid) {
    load_values(v, x + at, wide, valid);
    if (bias == nullptr) return;
    float b[N];
    u32 column = u32(at % width);
    if (wide && width % N == 0) {
        load_values(b, bias + column, true, N);
    } else {
#pragma unroll
        for (u32 j = 0; j < N; j++) b[j] = j < valid ? to_f32(bias[(column + j) % width]) : 0.0f;
    }
#pragma unroll
    for (int j = 0; j < N; j++) v[j] += b[j];
}

template <class T, class Kind> DEVICE void gelu_forward(T* out, const T* x, const T* bias, u64 n, u32 width) {
    constexpr int N = Pack<T>::N;
    u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    u32 valid = valid_of<N>(at, n);
    bool is_wide = valid == N && is_aligned16(out) && is_aligned16(x) && is_aligned16(bias);
    with_width(is_wide, [&](bool wide) {
        float v[N];
        gelu_input(v, x, bias, at, width, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = Kind::value(v[j]);
        store_values(out + at, v, wide, valid);
    });
}

template <class T, class Kind>
DEVICE void gelu_backward(T* dx, const T* dy, const T* x, const T* bias, u64 n, u32 width) {
    constexpr int N = Pack<T>::N;
    u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    u32 valid = valid_of<N>(at, n);
    bool is_wide = valid == N && is_aligned16(dx) && is_aligned16(dy) && is_aligned16(x) && is_aligned16(bias);
    with_width(is_wide, [&](bool wide) {
        float v[N], d[N];
        gelu_input(v, x, bias, at, width, wide, valid);
        load_values(d, dy + at, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) d[j] *= Kind::slope(v[j]);
        store_values(dx + at, d, wide, valid);
    });
}

#define KIND(T, name, kind, Kind)                                                                                      \
    KERNEL(256) gelu_##kind##_forward_##name(T* out, const T* x, const T* bias, u64 n, u32 width) {                    \
        gelu_forward<T, Kind<T>>(out, x, bias, n, width);                                                              \
    }                                                                                                                  \
    TAPER_KERNEL(gelu_##kind##_forward_##name, 256)                                                                    \
    KERNEL(256) gelu_##kind##_backward_##name(T* dx, const T* dy, const T* x, const T* bias, u64 n, u32 width) {       \
        gelu_backward<T, Kind<T>>(dx, dy, x, bias, n, width);                                                          \
    }                                                                                                                  \
    TAPER_KERNEL(gelu_##kind##_backward_##name, 256)
#define INSTANCES(T, name)                                                                                             \
    KIND(T, name, tanh, GeluTanh)                                                                                      \
    KIND(T, name, erf, GeluErf)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
