// Warps and blocks: shuffles, and sums whose order never changes.
#pragma once

#include "memory.cuh"

#define WARP 32

// Tokens that stand before the new ones in sequence `b` of a batch: the same for all, or each its own where `pasts` u32 [B] is
// not null. ABSENT marks a sequence that has no new token: its row is computed with the rest, and means nothing.
#define ABSENT 0xffffffffu
DEVICE u32 past_of(const u32* pasts, u32 b, u32 past) { return pasts == nullptr ? past : pasts[b]; }

// The position of row `row` of sequences of `time` new tokens: counted from the sequence's first one, or, where `begins` u32
// [rows] is not null, from where the row's document begins in its sequence.
DEVICE u32 position_of(const u32* pasts, const u32* begins, u32 row, u32 time, u32 past) {
    u32 first = past_of(pasts, row / time, past);
    if (first == ABSENT) return 0;
    return first + row % time - (begins == nullptr ? 0 : begins[row]);
}

// The place of a thread in a one-dimensional block. Blocks are multiples of whole warps.
DEVICE u32 lane_id() { return threadIdx.x % WARP; }
DEVICE u32 warp_id() { return threadIdx.x / WARP; }

// Shuffles of 32-bit values among all 32 lanes; they order no memory.
template <class T> DEVICE T shfl_xor(T x, u32 mask) {
    static_assert(sizeof(T) == 4, "shuffles move 32 bits");
#ifdef TAPER_EMULATOR
    return emulator::shuffle(emulator::Collective::shfl_xor, x, mask);
#else
    return __shfl_xor_sync(0xffffffffu, x, mask);
#endif
}

// The value of lane + delta; the last `delta` lanes keep their own.
template <class T> DEVICE T shfl_down(T x, u32 delta) {
    static_assert(sizeof(T) == 4, "shuffles move 32 bits");
#ifdef TAPER_EMULATOR
    return emulator::shuffle(emulator::Collective::shfl_down, x, delta);
#else
    return __shfl_down_sync(0xffffffffu, x, delta);
#endif
}

// The value of one lane.
template <class T> DEVICE T shfl(T x, u32 lane) {
    static_assert(sizeof(T) == 4, "shuffles move 32 bits");
#ifdef TAPER_EMULATOR
    return emulator::shuffle(emulator::Collective::shfl, x, lane);
#else
    return __shfl_sync(0xffffffffu, x, lane);
#endif
}

// One bit for each lane: whether its condition holds.
DEVICE u32 warp_ballot(bool condition) {
#ifdef TAPER_EMULATOR
    return emulator::ballot(condition);
#else
    return __ballot_sync(0xffffffffu, condition);
#endif
}

// Whether the condition holds in any lane.
DEVICE bool warp_any(bool condition) {
#ifdef TAPER_EMULATOR
    return emulator::ballot(condition) != 0;
#else
    return __any_sync(0xffffffffu, condition);
#endif
}

// The sum over the warp, in every lane: a butterfly, so that all lanes add in the same tree and get the same bits.
DEVICE float warp_sum(float x) {
#pragma unroll
    for (u32 mask = WARP / 2; mask > 0; mask /= 2) x += shfl_xor(x, mask);
    return x;
}

// The largest over the warp, in every lane; NaN if any is one.
DEVICE float warp_max(float x) {
#pragma unroll
    for (u32 mask = WARP / 2; mask > 0; mask /= 2) x = max_nan(x, shfl_xor(x, mask));
    return x;
}

DEVICE u32 warp_min(u32 x) {
#pragma unroll
    for (u32 mask = WARP / 2; mask > 0; mask /= 2) {
        u32 other = shfl_xor(x, mask);
        x = other < x ? other : x;
    }
    return x;
}

// The sum over the block, in every thread: warps first, then the warps' sums in the same tree. `scratch` is 32 floats of
// shared memory, free again when the function returns. Every thread of the block calls it.
DEVICE float block_sum(float x, float* scratch) {
    x = warp_sum(x);
    if (lane_id() == 0) scratch[warp_id()] = x;
    sync_threads();
    float y = lane_id() < blockDim.x / WARP ? scratch[lane_id()] : 0.0f;
    sync_threads();
    return warp_sum(y);
}

// The largest over the block, as block_sum.
DEVICE float block_max(float x, float* scratch) {
    x = warp_max(x);
    if (lane_id() == 0) scratch[warp_id()] = x;
    sync_threads();
    float y = lane_id() < blockDim.x / WARP ? scratch[lane_id()] : -INFINITY_F;
    sync_threads();
    return warp_max(y);
}
