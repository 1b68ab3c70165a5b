// Residual addition. Definition: src/ops/residual/cpu.rs.
//
// residual_forward_T(out, a, b, n): out [n] = a + b; out may be either. Grid ceil(n / (256 N)), block 256, with N = 4
// elements of f32 or 8 of bf16 and f16 in 16 bytes. Bytes: 3 n elements; the floor is bytes / bandwidth. The gradient
// passes through unchanged, and sums of gradients are reduce_add_T.
//
// gate: residual_* registers=32 wide
#include "taper.cuh"

template <class T> DEVICE void residual_forward(T* out, const T* a, const T* b, u64 n) {
    constexpr int N = Pack<T>::N;
    u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    u32 valid = valid_of<N>(at, n);
    bool is_wide = valid == N && is_aligned16(out) && is_aligned16(a) && is_aligned16(b);
    with_width(is_wide, [&](bool wide) {
        float x[N], y[N];
        load_values(x, a + at, wide, valid);
        load_values(y, b + at, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) x[j] += y[j];
        store_values(out + at, x, wide, valid);
    });
}

#define INSTANCES(T, name)                                                                                             \
    KERNEL(256) residual_forward_##name(T* out, const T* a, const T* b, u64 n) { residual_forward(out, a, b, n); }     \
    TAPER_KERNEL(residual_forward_##name, 256)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
