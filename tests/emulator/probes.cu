// Kernels that show single instructions at work, for the emulator's own tests.
#include "taper.cuh"

// d [32][4] += a [32][4] b [32][2]: one mma of one warp, registers as they are.
template <class T> DEVICE void one_mma(const u32* a, const u32* b, float* d) {
    u32 lane = lane_id(), fa[4];
    float fd[4];
    for (u32 i = 0; i < 4; i++) fa[i] = a[4 * lane + i], fd[i] = d[4 * lane + i];
    mma_m16n8k16<T>(fd, fa, b[2 * lane], b[2 * lane + 1]);
    for (u32 i = 0; i < 4; i++) d[4 * lane + i] = fd[i];
}
KERNEL(32) probe_mma_bf16(const u32* a, const u32* b, float* d) { one_mma<bf16>(a, b, d); }
TAPER_KERNEL(probe_mma_bf16, 32)
KERNEL(32) probe_mma_f16(const u32* a, const u32* b, float* d) { one_mma<f16>(a, b, d); }
TAPER_KERNEL(probe_mma_f16, 32)

// y [4 ways][32 lanes][4 registers] from 32 rows of 16 bytes: x4, x4 transposed, x2, x2 transposed.
KERNEL(32) probe_ldmatrix(const u32* rows, u32* y) {
    DYNAMIC_SHARED(u8, shared);
    u32 lane = lane_id(), base = shared_address(shared);
    for (u32 i = 0; i < 4; i++) st_shared_u32(base + 16 * lane + 4 * i, rows[4 * lane + i]);
    sync_warp();
    u32 r[4][4] = {};
    ldmatrix_x4(r[0][0], r[0][1], r[0][2], r[0][3], base + 16 * lane);
    ldmatrix_x4_trans(r[1][0], r[1][1], r[1][2], r[1][3], base + 16 * lane);
    ldmatrix_x2(r[2][0], r[2][1], base + 16 * lane);
    ldmatrix_x2_trans(r[3][0], r[3][1], base + 16 * lane);
    for (u32 way = 0; way < 4; way++) {
        for (u32 i = 0; i < 4; i++) y[(way * 32 + lane) * 4 + i] = r[way][i];
    }
}
TAPER_KERNEL(probe_ldmatrix, 32)

// Conversions of x [n]: bf16 and f16 bits, and both back again; pairs packed with their neighbours.
KERNEL(32) probe_convert(const float* x, u16* to_bf16, u16* to_f16, float* back, u32* pairs, u32 n) {
    for (u32 i = threadIdx.x; i < n; i += 32) {
        bf16 b = from_f32<bf16>(x[i]);
        f16 h = from_f32<f16>(x[i]);
        to_bf16[i] = b.bits;
        to_f16[i] = h.bits;
        back[2 * i] = to_f32(b);
        back[2 * i + 1] = to_f32(h);
        float next = x[(i + 1) % n];
        pairs[2 * i] = pack2<bf16>(x[i], next);
        pairs[2 * i + 1] = pack2<f16>(x[i], next);
    }
}
TAPER_KERNEL(probe_convert, 32)

// Sums and maxima of x [blocks][threads] by warp and by block, y [4][blocks][threads]; votes [blocks][threads].
KERNEL(1024) probe_reduce(const float* x, float* y, u32* votes) {
    SHARED_ARRAY(float, scratch, 32);
    u32 i = blockIdx.x * blockDim.x + threadIdx.x, n = gridDim.x * blockDim.x;
    float value = x[i];
    y[i] = warp_sum(value);
    y[n + i] = warp_max(value);
    y[2 * n + i] = block_sum(value, scratch);
    y[3 * n + i] = block_max(value, scratch);
    votes[i] = warp_ballot(value > 0.0f);
}
TAPER_KERNEL(probe_reduce, 1024)

// y [4][32] from x [32]: the shuffles.
KERNEL(32) probe_shuffle(const u32* x, u32* y) {
    u32 lane = lane_id(), value = x[lane];
    y[lane] = shfl_xor(value, 5);
    y[32 + lane] = shfl_down(value, 3);
    y[64 + lane] = shfl(value, 7);
    y[96 + lane] = warp_min(value);
}
TAPER_KERNEL(probe_shuffle, 32)

// bits [n][4]: Philox of counter (i, 1, 2, 3); kept [n]: the mask's blocks.
KERNEL(32) probe_philox(u32* bits, u32* kept, u32 sequence, MASK_PARAMETERS, u32 n) {
    for (u32 i = threadIdx.x; i < n; i += 32) {
        u32 counter[4] = {i, 1, 2, 3};
        philox(counter, key0, key1);
        for (u32 j = 0; j < 4; j++) bits[4 * i + j] = counter[j];
        kept[i] = mask16(MASK_ARGUMENTS, sequence, i);
    }
}
TAPER_KERNEL(probe_philox, 32)

// Copies x [n] in two groups of cp.async with zero-filled tails: y [64] floats.
KERNEL(32) probe_cp_async(const float* x, float* y, u32 n) {
    DYNAMIC_SHARED(float, shared);
    u32 lane = lane_id();
    for (u32 part = 0; part < 2; part++) {
        u32 i = part * 32 + lane;
        if (lane < 8) cp_async_16(shared_address(shared + part * 32 + 4 * lane), x + part * 32 + 4 * lane, part * 32 + 4 * lane < n);
        cp_async_commit();
        y[i] = 0.0f;
    }
    cp_async_wait<1>();
    sync_threads();
    y[lane] = shared[lane];
    y[64 + lane] = shared[32 + lane];
    sync_threads();
    cp_async_wait<0>();
    sync_threads();
    y[32 + lane] = shared[32 + lane];
}
TAPER_KERNEL(probe_cp_async, 32)

// exp2, exp, log and 1/x of x [n], y [n][4].
KERNEL(32) probe_fast(const float* x, float* y, u32 n) {
    for (u32 i = threadIdx.x; i < n; i += 32) {
        y[4 * i] = fast_exp2(x[i]);
        y[4 * i + 1] = fast_exp(x[i]);
        y[4 * i + 2] = fast_log(x[i]);
        y[4 * i + 3] = fast_reciprocal(x[i]);
    }
}
TAPER_KERNEL(probe_fast, 32)
