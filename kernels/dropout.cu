// Dropout by a mask that is a function of the place: forward and backward are the same multiplication, and nothing is kept.
// Definition: src/ops/dropout/cpu.rs; the mask is random::Mask, bit for bit.
//
// dropout_apply_T(x, sequences, length, key0, key1, step, site, threshold, scale)
//   x [B, length] in place: element e of sequence b is multiplied by scale where the mask of (sequences[b], e) keeps it, else
//   by 0 (so a dropped NaN stays one). sequences u32 [B]. Grid (ceil(length / 2048), B), block 256: 8 elements, one Philox
//   block, a thread. Bytes: 2 length elements a sequence; the floor is bytes / bandwidth (Philox is 60 instructions for
//   8 elements).
//
// gate: dropout_* registers=32 wide
#include "taper.cuh"

template <class T> DEVICE void dropout_apply(T* x, const u32* sequences, u64 length, const Mask& mask) {
    constexpr int N = 8;
    u64 block = u64(blockIdx.x) * blockDim.x + threadIdx.x, at = block * N;
    if (at >= length) return;
    u32 valid = valid_of<N>(at, length);
    bool is_wide = valid == N && length % Pack<T>::N == 0 && is_aligned16(x);
    with_width(is_wide, [&](bool wide) {
        T* place = x + blockIdx.y * length + at;
        u32 kept = mask16(mask, sequences[blockIdx.y], block);
        float v[N];
        load_values(v, place, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] *= kept >> j & 1 ? mask.scale : 0.0f;
        store_values(place, v, wide, valid);
    });
}

#define INSTANCES(T, name)                                                                                             \
    KERNEL(256) dropout_apply_##name(T* x, const u32* sequences, u64 length, MASK_PARAMETERS) {                        \
        dropout_apply(x, sequences, length, MASK_ARGUMENTS);                                                           \
    }                                                                                                                  \
    TAPER_KERNEL(dropout_apply_##name, 256)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
