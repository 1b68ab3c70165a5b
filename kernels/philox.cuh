// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) and the dropout masks made of it:
// the same bits as src/random.rs, so that a mask is a function of its place and is never stored.
#pragma once

#include "types.cuh"

// 128 random bits for a counter under a key; `counter` becomes the result.
DEVICE void philox(u32 (&counter)[4], u32 key0, u32 key1) {
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 p0 = u64(0xD2511F53u) * counter[0];
        u64 p1 = u64(0xCD9E8D57u) * counter[2];
        counter[0] = u32(p1 >> 32) ^ counter[1] ^ key0;
        counter[2] = u32(p0 >> 32) ^ counter[3] ^ key1;
        counter[1] = u32(p1);
        counter[3] = u32(p0);
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
}

// A dropout mask: the fields of random::Mask. Kernels take it as six scalar arguments in this order.
struct Mask {
    u32 key0, key1, step, site, threshold;
    float scale;
};
#define MASK_PARAMETERS u32 key0, u32 key1, u32 step, u32 site, u32 threshold, float mask_scale
#define MASK_ARGUMENTS (Mask{key0, key1, step, site, threshold, mask_scale})

// Which of the elements 8 * block .. 8 * block + 8 of a sequence are kept: bit i stands for element i. One Philox block
// serves eight elements with 16-bit thresholds.
DEVICE u32 mask16(const Mask& mask, u32 sequence, u64 block) {
    u32 bits[4] = {u32(block), sequence, mask.step, mask.site | (u32(block >> 32) & 0xffffu)};
    philox(bits, mask.key0, mask.key1);
    u32 kept = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        u32 half = (bits[i / 2] >> (16 * (i % 2))) & 0xffffu;
        kept |= u32(half >= mask.threshold) << i;
    }
    return kept;
}
