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

// Rows whose packs are aligned, N values at a time.
template <class T, bool CENTERED>
DEVICE void norm_forward_wide(T* out, T* sum, const T* x, const T* add, const T* weight, const T* bias, float eps,
                              u32 width, float& mean, float& rstd) {
    constexpr int N = Pack<T>::N;
    u32 lane = lane_id(), packs = width / N;
    // Beyond the cache a pack is looked at again where it is now in memory.
    const T* again = add == nullptr ? x : sum;
    Bits16 cache[NORM_CACHE];

    // All loads of the row are under way before the first is waited for.
#pragma unroll
    for (u32 i = 0; i < NORM_CACHE; i++) {
        if (i * WARP + lane < packs) cache[i] = load_bits(x + (i * WARP + lane) * N);
    }
    auto add_pack = [&](const Bits16& bits, const Bits16& more, u32 p) {
        float v[N], w[N];
        unpack<T>(bits, v);
        unpack<T>(more, w);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] += w[j];
        Bits16 rounded = pack<T>(v);
        store_bits(sum + p * N, rounded);
        return rounded;
    };
    if (add != nullptr) {
        Bits16 more[NORM_CACHE];
#pragma unroll
        for (u32 i = 0; i < NORM_CACHE; i++) {
            if (i * WARP + lane < packs) more[i] = load_bits(add + (i * WARP + lane) * N);
        }
#pragma unroll
        for (u32 i = 0; i < NORM_CACHE; i++) {
            if (i * WARP + lane < packs) cache[i] = add_pack(cache[i], more[i], i * WARP + lane);
        }
        for (u32 p = NORM_CACHE * WARP + lane; p < packs; p += WARP) {
            add_pack(load_bits(x + p * N), load_bits(add + p * N), p);
        }
    }

    float total = 0.0f;
    mean = 0.0f;
    if (CENTERED) {
        auto add_value = [&](const Bits16& bits) {
            float v[N];
            unpack<T>(bits, v);
#pragma unroll
            for (int j = 0; j < N; j++) total += v[j];
        };
#pragma unroll
        for (u32 i = 0; i < NORM_CACHE; i++) {
            if (i * WARP + lane < packs) add_value(cache[i]);
        }
        for (u32 p = NORM_CACHE * WARP + lane; p < packs; p += WARP) add_value(load_bits(again + p * N));
        mean = warp_sum(total) / float(width);
        total = 0.0f;
    }
    auto add_square = [&](const Bits16& bits) {
        float v[N];
        unpack<T>(bits, v);
#pragma unroll
        for (int j = 0; j < N; j++) total += (v[j] - mean) * (v[j] - mean);
    };
#pragma unroll
    for (u32 i = 0; i < NORM_CACHE; i++) {
        forget(cache[i]);
        if (i * WARP + lane < packs) add_square(cache[i]);
    }
    for (u32 p = NORM_CACHE * WARP + lane; p < packs; p += WARP) add_square(load_bits(again + p * N));
    rstd = 1.0f / sqrtf(warp_sum(total) / float(width) + eps);
    auto write = [&](const Bits16& bits, u32 p) {
        float v[N], w[N], b[N] = {};
        unpack<T>(bits, v);
        unpack<T>(load_bits(weight + p * N), w);
        if (bias != nullptr) unpack<T>(load_bits(bias + p * N), b);
#pragma unroll
        for (int j = 0; j < N; j++) v[j] = (v[j] - mean) * rstd * w[j] + b[j];
        store_bits(out + p * N, pack<T>(v));
    };
#pragma unroll
    for (u32 i = 0; i < NORM_CACHE; i++) {
        forget(cache[i]);
        if (i * WARP + lane < packs) write(cache[i], i * WARP + lane);
    }
    for (u32 p = NORM_CACHE * WARP + lane; p < packs; p += WARP) write(load_bits(again + p * N), p);
}

// Any other row, one value at a time.
template <class T, bool CENTERED>
DEVICE void norm_forward_narrow(T* out, T* sum, const T* x, const T* add, const T* weight, const T* bias, float eps,
                                u32 width, float& mean, float& rstd) {
    const T* input = add == nullptr ? x : sum;
    float total = 0.0f;
    for (u32 i = lane_id(); i < width; i += WARP) {
        if (add != nullptr) sum[i] = from_f32<T>(to_f32(x[i]) + to_f32(add[i]));
        total += to_f32(input[i]);
    }
    mean = CENTERED ? warp_sum(total) / float(width) : 0.0f;
    total = 0.0f;
    for (u32 i = lane_id(); i < width; i += WARP) total += (to_f32(input[i]) - mean) * (to_f32(input[i]) - mean);
    rstd = 1.0f / sqrtf(warp_sum(total) / float(width) + eps);
    for (u32 i = lane_id(); i < width; i += WARP) {
        float y = (to_f32(input[i]) - mean) * rstd * to_f32(weight[i]);
        out[i] = from_f32<T>(bias == nullptr ? y : y + to_f32(bias[i]));
    }
}

template <class T, bool CENTERED>
DEVICE void norm_forward(T* out, T* sum, float* mean, float* rstd, const T* x, const T* add, const T* weight,
                         const T* bias, float eps, u32 rows, u32 width) {
    u32 row = blockIdx.x * (blockDim.x / WARP) + warp_id();
    if (row >= rows) return;
    u64 start = u64(row) * width;
    bool wide = width % Pack<T>::N == 0 && is_aligned16(x) && is_aligned16(out) && is_aligned16(weight) &&
                is_aligned16(add) && is_aligned16(sum) && is_aligned16(bias);
    // A null pointer stays one.
    const T* add_row = add == nullptr ? add : add + start;
    T* sum_row = add == nullptr ? sum : sum + start;
    float m, r;
    if (wide) {
        norm_forward_wide<T, CENTERED>(out + start, sum_row, x + start, add_row, weight, bias, eps, width, m, r);
    } else {
        norm_forward_narrow<T, CENTERED>(out + start, sum_row, x + start, add_row, weight, bias, eps, width, m, r);
    }
    if (lane_id() == 0) {
        if (CENTERED) mean[row] = m;
        rstd[row] = r;
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

// The columns that no thread owns in registers, one element at a time: those beyond the block's packs, and all of rows that
// are not aligned. Both are rare.
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
    u32 column = threadIdx.x * N, turn = 0;
    bool wide = width % N == 0 && is_aligned16(dx) && is_aligned16(dy) && is_aligned16(x) && is_aligned16(weight) &&
                is_aligned16(residual);
    bool own = wide && column < width;
    u32 first = blockIdx.x * rows_per_block;
    u32 end = rows - first < rows_per_block ? rows : first + rows_per_block;
    float* sum_w = partial + u64(blockIdx.x) * (CENTERED ? 2 : 1) * width;
    float* sum_b = sum_w + width;
    NormWide<T, CENTERED> beyond = {dy, x, weight, residual, dx, sum_w, sum_b, wide ? blockDim.x * N : 0, width};
    float dw[N] = {}, db[N] = {};
    Bits16 own_weight = {};
    if (own) own_weight = load_bits(weight + column);

    for (u32 group = first; group < end; group += NORM_ROWS, turn ^= 1) {
        Bits16 own_dy[NORM_ROWS] = {}, own_x[NORM_ROWS] = {}, own_residual[NORM_ROWS] = {};
        float sums[SUMS] = {}, m[NORM_ROWS], r[NORM_ROWS];
#pragma unroll
        for (u32 i = 0; i < NORM_ROWS; i++) {
            // A row that is not there is read as the last one, and counts for nothing.
            u32 row = group + i < end ? group + i : end - 1;
            if (own) own_dy[i] = load_bits(dy + u64(row) * width + column);
            if (own) own_x[i] = load_bits(x + u64(row) * width + column);
            m[i] = CENTERED ? mean[row] : 0.0f;
            r[i] = rstd[row];
            if (own && residual != nullptr) own_residual[i] = load_bits(residual + u64(row) * width + column);
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
            unpack<T>(own_residual[i], v);
#pragma unroll
            for (int j = 0; j < N; j++) d[j] += v[j];
            if (own) store_bits(dx + start + column, pack<T>(d));
            if (beyond.first < width) beyond.write(start, m[i], r[i], mean_gn, mean_g, group + i == first);
        }
    }
    if (own) {
        // The partial sums may start off 16 bytes only where a row has an odd number of 16-bit packs of four.
        store_values(sum_w + column, dw, is_aligned16(sum_w), N);
        if (CENTERED) store_values(sum_b + column, db, is_aligned16(sum_b), N);
    }
}
