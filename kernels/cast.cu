// Conversions between f32 and the 16-bit types, to nearest even.
//
// cast_f32_to_T(out, x, n) and cast_T_to_f32(out, x, n), T = bf16 or f16; cast_bf16_to_f16 and cast_f16_to_bf16 the same way.
// Grid ceil(n / 2048), block 256: 8 elements a thread. Bytes: 6 n (4 n between 16-bit types); the floor is bytes / bandwidth.
//
// gate: cast_* registers=32 wide
#include "taper.cuh"

template <class To, class From> DEVICE void cast(To* out, const From* x, u64 n) {
    constexpr int N = 8;
    u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    u32 valid = valid_of<N>(at, n);
    bool is_wide = valid == N && is_aligned16(out) && is_aligned16(x);
    with_width(is_wide, [&](bool wide) {
        float v[N];
        load_values(v, x + at, wide, valid);
        store_values(out + at, v, wide, valid);
    });
}

#define INSTANCE(To, to, From, from)                                                                                   \
    KERNEL(256) cast_##from##_to_##to(To* out, const From* x, u64 n) { cast(out, x, n); }                              \
    TAPER_KERNEL(cast_##from##_to_##to, 256)

INSTANCE(bf16, bf16, float, f32)
INSTANCE(f16, f16, float, f32)
INSTANCE(float, f32, bf16, bf16)
INSTANCE(float, f32, f16, f16)
INSTANCE(f16, f16, bf16, bf16)
INSTANCE(bf16, bf16, f16, f16)
