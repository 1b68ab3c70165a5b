// Sums whose order never changes.
//
// reduce_add_T(sum, term, n): sum [n] += term. Grid ceil(n / (256 N)), block 256, N elements in 16 bytes. Bytes 3 n elements.
// reduce_add_scaled_f32(sum, term, scale, n): sum [n] += scale term, the same way.
// reduce_sum_losses(losses, weights, n, slot): slot f64 += the sum of losses f32 [n], each times its weight where `weights` f32 [n]
//   is not null. Grid 1, block 1024. Bytes 4 n, or 8 n (latency only).
// reduce_columns(out, partial, rows, columns, stride): out f32 [columns] += the sum over `rows` of partial f32 [rows, stride],
//   first `columns` of each row. Grid ceil(columns / 32), block 1024: warp w adds rows w, w + 32, ..., and the warps meet in
//   order. Bytes: 4 rows columns; the second stage of the gradients of biases and norms.
//
// gate: reduce_add_* registers=40 wide
#include "taper.cuh"

template <class T> DEVICE void reduce_add(T* sum, const T* term, float scale, u64 n) {
    constexpr int N = Pack<T>::N;
    u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    u32 valid = valid_of<N>(at, n);
    bool is_wide = valid == N && is_aligned16(sum) && is_aligned16(term);
    with_width(is_wide, [&](bool wide) {
        float x[N], y[N];
        load_values(x, sum + at, wide, valid);
        load_values(y, term + at, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) x[j] += scale * y[j];
        store_values(sum + at, x, wide, valid);
    });
}

#define INSTANCES(T, name)                                                                                             \
    KERNEL(256) reduce_add_##name(T* sum, const T* term, u64 n) { reduce_add(sum, term, 1.0f, n); }                    \
    TAPER_KERNEL(reduce_add_##name, 256)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)

KERNEL(256) reduce_add_scaled_f32(float* sum, const float* term, float scale, u64 n) {
    reduce_add(sum, term, scale, n);
}
TAPER_KERNEL(reduce_add_scaled_f32, 256)

KERNEL(1024) reduce_sum_losses(const float* losses, const float* weights, u64 n, double* slot) {
    SHARED_ARRAY(double, sums, 1024);
    double sum = 0.0;
#pragma unroll 4
    for (u64 i = threadIdx.x; i < n; i += blockDim.x) {
        double loss = double(losses[i]);
        sum += weights == nullptr ? loss : double(weights[i]) * loss;
    }
    sums[threadIdx.x] = sum;
    sync_threads();
    for (u32 half = 512; half > 0; half /= 2) {
        if (threadIdx.x < half && threadIdx.x + half < blockDim.x) sums[threadIdx.x] += sums[threadIdx.x + half];
        sync_threads();
    }
    if (threadIdx.x == 0) *slot += sums[0];
}
TAPER_KERNEL(reduce_sum_losses, 1024)

KERNEL(1024) reduce_columns(float* out, const float* partial, u32 rows, u32 columns, u32 stride) {
    // One more than the warp in a row, so that reading a column meets no bank twice.
    SHARED_ARRAY(float, sums, WARP * (WARP + 1));
    u32 lane = lane_id(), warp = warp_id(), warps = blockDim.x / WARP, column = blockIdx.x * WARP + lane;
    float sum = 0.0f;
    if (column < columns) {
#pragma unroll 4
        for (u32 row = warp; row < rows; row += warps) sum += partial[u64(row) * stride + column];
    }
    sums[warp * (WARP + 1) + lane] = sum;
    sync_threads();
    // Warp w finishes the columns w, w + warps, ...: lane l brings the sum of warp l.
    for (u32 i = warp; i < WARP; i += warps) {
        float total = warp_sum(lane < warps ? sums[lane * (WARP + 1) + i] : 0.0f);
        if (lane == 0 && blockIdx.x * WARP + i < columns) out[blockIdx.x * WARP + i] += total;
    }
}
TAPER_KERNEL(reduce_columns, 1024)
