// The bias of a linear layer. Definition: src/ops/linear/cpu.rs.
//
// bias_add_T(x, bias, rows, width): x [N, O] += bias [O] in every row, in place. Grid ceil(N ceil(O / W) / 256), block 256, W
//   elements in 16 bytes (fewer than 2^32 packs). Bytes: 2 N O elements.
// bias_gradient_T(partial, dy, rows, width, rows_per_block): partial f32 [G, O] = the column sums of each chunk of
//   rows_per_block rows of dy [N, O]; then reduce_columns(dbias, partial, G, O, O) adds them to the gradient.
//   Grid (ceil(O / (32 W)), G = ceil(N / rows_per_block)), block 256: a warp takes every eighth row, a lane one pack of
//   columns, and the warps meet in order. Bytes: N O elements and 8 G O. The floor is bytes / bandwidth.
//
// gate: bias_* registers=40 wide
#include "taper.cuh"

#define BIAS_WARPS 8

template <class T> DEVICE void bias_add(T* x, const T* bias, u32 rows, u32 width) {
    constexpr int N = Pack<T>::N;
    u32 packs = (width + N - 1) / N, p = blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = p / packs, column = p % packs * N;
    if (row >= rows) return;
    u32 valid = valid_of<N>(column, width);
    bool is_wide = width % N == 0 && is_aligned16(x) && is_aligned16(bias);
    with_width(is_wide, [&](bool wide) {
        float v[N], b[N];
        load_values(v, x + u64(row) * width + column, wide, valid);
        load_values(b, bias + column, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] += b[j];
        store_values(x + u64(row) * width + column, v, wide, valid);
    });
}

template <class T> DEVICE void bias_gradient(float* partial, const T* dy, u32 rows, u32 width, u32 rows_per_block) {
    constexpr int N = Pack<T>::N;
    SHARED_ARRAY(float, sums, BIAS_WARPS * WARP * N);
    u32 lane = lane_id(), warp = warp_id(), column = (blockIdx.x * WARP + lane) * N;
    u32 first = blockIdx.y * rows_per_block;
    u32 end = rows - first < rows_per_block ? rows : first + rows_per_block;
    u32 valid = valid_of<N>(column, width);
    float sum[N] = {};
    with_width(valid == N && width % N == 0 && is_aligned16(dy), [&](bool wide) {
#pragma unroll 4
        for (u32 row = first + warp; row < end; row += BIAS_WARPS) {
            float x[N];
            load_values(x, dy + u64(row) * width + column, wide, valid);
#pragma unroll
            for (int j = 0; j < N; j++) sum[j] += x[j];
        }
    });
    // Column j of all lanes side by side: no bank twice, for writing and for reading.
#pragma unroll
    for (int j = 0; j < N; j++) sums[(warp * N + j) * WARP + lane] = sum[j];
    sync_threads();
    for (u32 j = warp; j < N; j += BIAS_WARPS) {
        float total = 0.0f;
#pragma unroll
        for (u32 w = 0; w < BIAS_WARPS; w++) total += sums[(w * N + j) * WARP + lane];
        if (j < valid) partial[u64(blockIdx.y) * width + column + j] = total;
    }
}

#define INSTANCES(T, name)                                                                                             \
    KERNEL(256) bias_add_##name(T* x, const T* bias, u32 rows, u32 width) { bias_add(x, bias, rows, width); }          \
    TAPER_KERNEL(bias_add_##name, 256)                                                                                 \
    KERNEL(256) bias_gradient_##name(float* partial, const T* dy, u32 rows, u32 width, u32 rows_per_block) {           \
        bias_gradient(partial, dy, rows, width, rows_per_block);                                                       \
    }                                                                                                                  \
    TAPER_KERNEL(bias_gradient_##name, 256)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
