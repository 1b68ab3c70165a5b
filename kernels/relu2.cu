// Squared ReLU, y = max(x, 0)^2. Definition: src/ops/relu2/cpu.rs. A NaN stays one.
//
// relu2_forward_T(out, x, n): bytes 2 n elements.
// relu2_backward_T(dx, dy, x, n): dx = dy 2 max(x, 0); dx may be dy. Bytes 3 n elements.
// Grid ceil(n / (256 N)), block 256, with N elements in 16 bytes; the floor is bytes / bandwidth.
//
// gate: relu2_* registers=32 wide
#include "taper.cuh"

DEVICE float relu(float x) { return x < 0.0f ? 0.0f : x; }

template <class T> DEVICE void relu2_forward(T* out, const T* x, u64 n) {
    constexpr int N = Pack<T>::N;
    u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    u32 valid = valid_of<N>(at, n);
    bool is_wide = valid == N && is_aligned16(out) && is_aligned16(x);
    with_width(is_wide, [&](bool wide) {
        float v[N];
        load_values(v, x + at, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = relu(v[j]) * relu(v[j]);
        store_values(out + at, v, wide, valid);
    });
}

template <class T> DEVICE void relu2_backward(T* dx, const T* dy, const T* x, u64 n) {
    constexpr int N = Pack<T>::N;
    u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    u32 valid = valid_of<N>(at, n);
    bool is_wide = valid == N && is_aligned16(dx) && is_aligned16(dy) && is_aligned16(x);
    with_width(is_wide, [&](bool wide) {
        float v[N], d[N];
        load_values(v, x + at, wide, valid);
        load_values(d, dy + at, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) d[j] *= 2.0f * relu(v[j]);
        store_values(dx + at, d, wide, valid);
    });
}

#define INSTANCES(T, name)                                                                                             \
    KERNEL(256) relu2_forward_##name(T* out, const T* x, u64 n) { relu2_forward(out, x, n); }                          \
    TAPER_KERNEL(relu2_forward_##name, 256)                                                                            \
    KERNEL(256) relu2_backward_##name(T* dx, const T* dy, const T* x, u64 n) { relu2_backward(dx, dy, x, n); }         \
    TAPER_KERNEL(relu2_backward_##name, 256)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
