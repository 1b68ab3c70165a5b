// Layer and RMS normalization, shared by layernorm.cu and rmsnorm.cu.
//
// With g = dy w and n = (x - mean) rstd (RMS: n = x rstd):
//   forward   y = n w + b                                     (RMS: no b)
//   backward  dx = rstd (g - mean(g) - n mean(g n)) [+ r]     (RMS: without mean(g)),  dw = sum dy n,  db = sum dy
//
// Forward: a warp for a row, the row in registers, so that the variance is taken in a second pass without reading again.
// Backward: a block for a chunk of rows. A thread owns the same columns in every row, so that the sums for dw and db stay
// in its registers; four rows are under way at once and share one barrier. The sums of a chunk go to `partial`, which
// reduce_columns adds to the gradient: two stages in a fixed order, no atomics.
#pragma once

#include "taper.cuh"

// Packs of a row that a lane keeps: rows of up to 2048 16-bit or 1024 32-bit elements are read once.
#define NORM_CACHE 8
// Rows under way at once in the backward.
#define NORM_ROWS 4

// x, or x + add rounded to T and left in `sum`.
template <class T>
DEVICE Bits16 norm_input(T* sum, const T* x, const T* add, u64 at, bool wide, u32 valid) {
    Bits16 input = load_part(x + at, wide, valid);
    if (add == nullptr) return input;
    float a[Pack<T>::N], b[Pack<T>::N];
    unpack<T>(input, a);
    load_values(b, add + at, wide, valid);
#pragma unroll
    for (int j = 0; j < Pack<T>::N; j++) a[j] += b[j];
    store_values(sum + at, a, wide, valid);
    return pack<T>(a);
}

template <class T, bool CENTERED>
DEVICE void norm_forward(T* out, T* sum, float* mean, float* rstd, const T* x, const T* add, const T* weight,
                         const T* bias, float eps, u32 rows, u32 width) {
    constexpr int N = Pack<T>::N;
    u32 row = blockIdx.x * (blockDim.x / WARP) + warp_id(), lane = lane_id();
    if (row >= rows) return;
    u32 packs = (width + N - 1) / N;
    u64 start = u64(row) * width;
    bool wide = width % N == 0 && is_aligned16(x) && is_aligned16(out) && is_aligned16(weight) && is_aligned16(add) &&
                is_aligned16(sum) && is_aligned16(bias);
    // What a second look at a pack beyond the cache reads.
    const T* again = add == nullptr ? x : sum;

    Bits16 cache[NORM_CACHE] = {};
    float total = 0.0f;
    // The first pass sums x, or x^2 where nothing is to be centered.
    auto first_pass = [&](const Bits16& bits) {
        float v[N];
        unpack<T>(bits, v);
#pragma unroll
        for (int j = 0; j < N; j++) total += CENTERED ? v[j] : v[j] * v[j];
    };
#pragma unroll
    for (u32 i = 0; i < NORM_CACHE; i++) {
        u32 p = i * WARP + lane;
        if (p < packs) {
            cache[i] = norm_input(sum, x, add, start + p * N, wide, valid_of<N>(p * N, width));
            first_pass(cache[i]);
        }
    }
    for (u32 p = NORM_CACHE * WARP + lane; p < packs; p += WARP) {
        first_pass(norm_input(sum, x, add, start + p * N, wide, valid_of<N>(p * N, width)));
    }
    float m = CENTERED ? warp_sum(total) / float(width) : 0.0f;
    if (CENTERED) {
        total = 0.0f;
        auto second_pass = [&](const Bits16& bits, u32 valid) {
            float v[N];
            unpack<T>(bits, v);
#pragma unroll
            for (int j = 0; j < N; j++) total += u32(j) < valid ? (v[j] - m) * (v[j] - m) : 0.0f;
        };
#pragma unroll
        for (u32 i = 0; i < NORM_CACHE; i++) {
            u32 p = i * WARP + lane;
            forget(cache[i]);
            if (p < packs) second_pass(cache[i], wide ? N : valid_of<N>(p * N, width));
        }
        for (u32 p = NORM_CACHE * WARP + lane; p < packs; p += WARP) {
            u32 valid = valid_of<N>(p * N, width);
            second_pass(load_part(again + start + p * N, wide, valid), valid);
        }
    }
    float r = 1.0f / sqrtf(warp_sum(total) / float(width) + eps);
    if (lane == 0) {
        if (CENTERED) mean[row] = m;
        rstd[row] = r;
    }
    auto write = [&](const Bits16& bits, u32 p) {
        u32 valid = valid_of<N>(p * N, width);
        float v[N], w[N], b[N];
        unpack<T>(bits, v);
        load_values(w, weight + p * N, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = (v[j] - m) * r * w[j];
        if (CENTERED && bias != nullptr) {
            load_values(b, bias + p * N, wide, valid);
#pragma unroll
            for (int j = 0; j < N; j++) v[j] += b[j];
        }
        store_values(out + start + p * N, v, wide, valid);
    };
#pragma unroll
    for (u32 i = 0; i < NORM_CACHE; i++) {
        u32 p = i * WARP + lane;
        forget(cache[i]);
        if (p < packs) write(cache[i], p);
    }
    for (u32 p = NORM_CACHE * WARP + lane; p < packs; p += WARP) {
        write(load_part(again + start + p * N, wide, valid_of<N>(p * N, width)), p);
    }
}

// Sums of K values over the block, in every thread. `scratch` is K * 32 floats that nobody else uses before the next
// barrier: callers take turns between two.
template <int K> DEVICE void norm_block_sums(float (&x)[K], float* scratch) {
    u32 warps = blockDim.x / WARP, lane = lane_id();
#pragma unroll
    for (int k = 0; k < K; k++) x[k] = warp_sum(x[k]);
    if (warps == 1) return;
    if (lane == 0) {
#pragma unroll
        for (int k = 0; k < K; k++) scratch[k * WARP + warp_id()] = x[k];
    }
    sync_threads();
#pragma unroll
    for (int k = 0; k < K; k++) x[k] = warp_sum(lane < warps ? scratch[k * WARP + lane] : 0.0f);
}

// The columns beyond what the block's threads own in registers, one element at a time; rows so wide are rare.
template <class T, bool CENTERED> struct NormWide {
    const T *dy, *x, *weight, *residual;
    T* dx;
    float *sum_w, *sum_b;
    u32 first, width;

    DEVICE void add_sums(u64 start, float mean, float rstd, float& sum_gn, float& sum_g) const {
        for (u32 column = first + threadIdx.x; column < width; column += blockDim.x) {
            float g = to_f32(dy[start + column]) * to_f32(weight[column]);
            sum_gn += g * ((to_f32(x[start + column]) - mean) * rstd);
            sum_g += g;
        }
    }

    // The sums for the weight and the bias grow in place, in memory of this block alone.
    DEVICE void write(u64 start, float mean, float rstd, float mean_gn, float mean_g, bool first_row) const {
        for (u32 column = first + threadIdx.x; column < width; column += blockDim.x) {
            float d = to_f32(dy[start + column]), n = (to_f32(x[start + column]) - mean) * rstd;
            sum_w[column] = (first_row ? 0.0f : sum_w[column]) + d * n;
            if (CENTERED) sum_b[column] = (first_row ? 0.0f : sum_b[column]) + d;
            float y = rstd * (d * to_f32(weight[column]) - mean_g - n * mean_gn);
            if (residual != nullptr) y += to_f32(residual[start + column]);
            dx[start + column] = from_f32<T>(y);
        }
    }
};

template <class T, bool CENTERED>
DEVICE void norm_backward(T* dx, float* partial, const T* dy, const T* x, const T* weight, const float* mean,
                          const float* rstd, const T* residual, u32 rows, u32 width, u32 rows_per_block) {
    constexpr int N = Pack<T>::N;
    // RMS needs no sum of g.
    constexpr int SUMS = CENTERED ? 2 * NORM_ROWS : NORM_ROWS;
    SHARED_ARRAY(float, scratch, 2 * SUMS * WARP);
    u32 column = threadIdx.x * N, valid = valid_of<N>(column, width), turn = 0;
    bool wide = valid == N && width % N == 0 && is_aligned16(dx) && is_aligned16(dy) && is_aligned16(x) &&
                is_aligned16(weight) && is_aligned16(residual);
    u32 first = blockIdx.x * rows_per_block;
    u32 end = rows - first < rows_per_block ? rows : first + rows_per_block;
    float* sum_w = partial + u64(blockIdx.x) * (CENTERED ? 2 : 1) * width;
    float* sum_b = sum_w + width;
    NormWide<T, CENTERED> beyond = {dy, x, weight, residual, dx, sum_w, sum_b, blockDim.x * N, width};
    float dw[N] = {}, db[N] = {};
    Bits16 own_weight = load_part(weight + column, wide, valid);

    for (u32 group = first; group < end; group += NORM_ROWS, turn ^= 1) {
        Bits16 own_dy[NORM_ROWS], own_x[NORM_ROWS];
        float sums[SUMS] = {}, m[NORM_ROWS], r[NORM_ROWS];
#pragma unroll
        for (u32 i = 0; i < NORM_ROWS; i++) {
            // A row that is not there is read as the last one, and counts for nothing.
            u32 row = group + i < end ? group + i : end - 1;
            own_dy[i] = load_part(dy + u64(row) * width + column, wide, valid);
            own_x[i] = load_part(x + u64(row) * width + column, wide, valid);
            m[i] = CENTERED ? mean[row] : 0.0f;
            r[i] = rstd[row];
        }
#pragma unroll
        for (u32 i = 0; i < NORM_ROWS; i++) {
            float d[N], v[N], w[N], sum_gn = 0.0f, sum_g = 0.0f;
            unpack<T>(own_dy[i], d);
            unpack<T>(own_x[i], v);
            unpack<T>(own_weight, w);
#pragma unroll
            for (int j = 0; j < N; j++) {
                float g = d[j] * w[j];
                // Columns that are not there have a weight of zero.
                sum_gn += g * ((v[j] - m[i]) * r[i]);
                sum_g += g;
            }
            if (beyond.first < width && group + i < end) beyond.add_sums(u64(group + i) * width, m[i], r[i], sum_gn, sum_g);
            sums[i] = sum_gn;
            if (CENTERED) sums[SUMS - NORM_ROWS + i] = sum_g;
            forget(own_dy[i]);
            forget(own_x[i]);
            forget(own_weight);
        }
        norm_block_sums(sums, scratch + turn * SUMS * WARP);
#pragma unroll
        for (u32 i = 0; i < NORM_ROWS; i++) {
            if (group + i >= end) continue;
            u64 start = u64(group + i) * width;
            float mean_gn = sums[i] / float(width), mean_g = CENTERED ? sums[SUMS - NORM_ROWS + i] / float(width) : 0.0f;
            float d[N], v[N], w[N];
            unpack<T>(own_dy[i], d);
            unpack<T>(own_x[i], v);
            unpack<T>(own_weight, w);
#pragma unroll
            for (int j = 0; j < N; j++) {
                float n = (v[j] - m[i]) * r[i];
                dw[j] += d[j] * n;
                if (CENTERED) db[j] += d[j];
                d[j] = r[i] * (d[j] * w[j] - mean_g - n * mean_gn);
            }
            if (residual != nullptr) {
                load_values(v, residual + start + column, wide, valid);
#pragma unroll
                for (int j = 0; j < N; j++) d[j] += v[j];
            }
            store_values(dx + start + column, d, wide, valid);
            if (beyond.first < width) beyond.write(start, m[i], r[i], mean_gn, mean_g, group + i == first);
        }
    }
    // Rows of odd pairs of packs break the alignment of the second half.
    bool wide_sums = wide && is_aligned16(sum_w);
    store_values(sum_w + column, dw, wide_sums, valid);
    if (CENTERED) store_values(sum_b + column, db, wide_sums && is_aligned16(sum_b), valid);
}
