// SwiGLU, y = silu(gate) up, on rows [gate, up] of 2 M elements. Definition: src/ops/swiglu/cpu.rs.
//
// swiglu_forward_T(out, x, rows, m): out [N, M] from x [N, 2 M]. Bytes: 3 N M elements.
// swiglu_backward_T(dx, dy, x, rows, m): dx [N, 2 M]; it may be x. Bytes: 5 N M elements.
// Grid ceil(N ceil(M / W) / 256), block 256, with W elements in 16 bytes (fewer than 2^32 packs); the floor is bytes /
// bandwidth.
//
// gate: swiglu_* registers=64 wide
#include "taper.cuh"

// e^-x, held below 1e35 so that its product with the sigmoid stays a number.
template <class T> DEVICE float swiglu_decay(float x) { return exp_for<T>(x < -80.0f ? 80.0f : -x); }

template <class T> DEVICE void swiglu_forward(T* out, const T* x, u32 rows, u32 m) {
    constexpr int N = Pack<T>::N;
    u32 packs = (m + N - 1) / N, p = blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = p / packs, column = p % packs * N;
    if (row >= rows) return;
    u32 valid = valid_of<N>(column, m);
    bool is_wide = m % N == 0 && is_aligned16(out) && is_aligned16(x);
    with_width(is_wide, [&](bool wide) {
        float gate[N], up[N];
        load_values(gate, x + u64(row) * 2 * m + column, wide, valid);
        load_values(up, x + u64(row) * 2 * m + m + column, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) up[j] *= divide_for<T>(gate[j], 1.0f + swiglu_decay<T>(gate[j]));
        store_values(out + u64(row) * m + column, up, wide, valid);
    });
}

template <class T> DEVICE void swiglu_backward(T* dx, const T* dy, const T* x, u32 rows, u32 m) {
    constexpr int N = Pack<T>::N;
    u32 packs = (m + N - 1) / N, p = blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = p / packs, column = p % packs * N;
    if (row >= rows) return;
    u32 valid = valid_of<N>(column, m);
    bool is_wide = m % N == 0 && is_aligned16(dx) && is_aligned16(dy) && is_aligned16(x);
    with_width(is_wide, [&](bool wide) {
        u64 at = u64(row) * 2 * m + column;
        float gate[N], up[N], d[N];
        load_values(gate, x + at, wide, valid);
        load_values(up, x + at + m, wide, valid);
        load_values(d, dy + u64(row) * m + column, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) {
            float g = gate[j], e = swiglu_decay<T>(g), s = divide_for<T>(1.0f, 1.0f + e);
            // 1 - s is e s, without cancellation.
            gate[j] = d[j] * up[j] * (s + g * s * (e * s));
            up[j] = d[j] * (g * s);
        }
        store_values(dx + at, gate, wide, valid);
        store_values(dx + at + m, up, wide, valid);
    });
}

#define INSTANCES(T, name)                                                                                             \
    KERNEL(256) swiglu_forward_##name(T* out, const T* x, u32 rows, u32 m) { swiglu_forward(out, x, rows, m); }        \
    TAPER_KERNEL(swiglu_forward_##name, 256)                                                                           \
    KERNEL(256) swiglu_backward_##name(T* dx, const T* dy, const T* x, u32 rows, u32 m) {                              \
        swiglu_backward(dx, dy, x, rows, m);                                                                           \
    }                                                                                                                  \
    TAPER_KERNEL(swiglu_backward_##name, 256)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
