// Attention of one new token over the cache of keys and values, and the writing of that cache, in f32, bf16 and f16.
//
// out = softmax(q K^T / sqrt(D)) V for one query of each head: reading the cache is the work. The cache is cut into
// splits of `split` keys; attention_decode computes, for each split and each head, the largest score, the sum of
// exponentials and the weighted values; attention_decode_combine adds the splits up in order. A block serves all query
// heads of one key-value head, so that its keys and values come from memory once. The arithmetic is f32, and the order
// of every sum is fixed: the same bits every time, for a given `split`.
//
// Launch: attention_kv_append_{f32,bf16,f16}      writes new keys and values to the cache
//   grid   B * T                           block 128    no dynamic shared memory
//   arguments: T* keys, T* values [B, K, C, D]; const T* qkv [B, T, (H + 2K) * D]; u32 t; u32 past; u32 capacity = C;
//     u32 n_head; u32 n_kv_head; u32 d; const u32* pasts.   Positions past .. past + T are written; past + T <= C.
//   Here and below, where `pasts` u32 [B] is not null each sequence has its own `past` there (past_of in reduce.cuh): those
//   that are ABSENT write nothing, and their output is 0.
//   Bytes: 8 B T K D sizeof(T).
//
// Launch: attention_decode_{f32,bf16,f16}         past + 1 keys, the newest one already appended
//   grid   (splits, K, B), splits = ceil((past + 1) / split)      block 128
//   shared 4 * (G * (D + split) + 128 * 8) bytes, G = H / K       (GPT-2, split 256: 5376)
//   arguments: float* partial [B, H, splits, D + 2]; const T* qkv [B, 1, (H + 2K) * D]; const T* keys, const T* values
//     [B, K, C, D]; u32 past; u32 capacity = C; u32 split: any multiple of 4 whose shared bytes fit; u32 n_head;
//     u32 n_kv_head; u32 d: at most 256; float scale = 1 / sqrt(D); const u32* pasts. Splits beyond a sequence's keys are
//     not computed: the grid may be that of the longest sequence, or of a longer one.
//   Bytes: 2 B K (past + 1) D sizeof(T) and 4 B H splits (D + 2): the floor is memory's. FLOPs: 4 B H (past + 1) D.
//
// Launch: attention_decode_combine_{f32,bf16,f16}
//   grid   B * H                           block 128    no dynamic shared memory
//   arguments: T* out [B, 1, H * D]; const float* partial [B, H, splits, D + 2]; u32 splits; u32 d; u32 split; u32 n_head;
//     const u32* pasts
//
// gate: attention_kv_append_* registers=40 wide
// gate: attention_decode_* registers=64 wide
// gate: attention_decode_combine_* registers=40

#include "attention_only.cuh"
#include "taper.cuh"

namespace attention_decode {

constexpr u32 THREADS = 128;

// Elements that a thread reads at once: 16 bytes, or one where rows are not made of whole 16 bytes.
template <class T> DEVICE u32 width_of(u32 d) { return d % Pack<T>::N == 0 ? Pack<T>::N : 1; }

template <class T> DEVICE void append(T* keys, T* values, const T* qkv, u32 t, u32 past, u32 capacity, u32 n_head,
                                      u32 n_kv_head, u32 d, const u32* pasts) {
    u32 b = blockIdx.x / t, row = blockIdx.x - b * t;
    past = past_of(pasts, b, past);
    if (past == ABSENT) return;
    u32 width = width_of<T>(d), chunks = d / width;
    const T* source = qkv + u64(blockIdx.x) * ((n_head + 2 * n_kv_head) * d) + n_head * d;
    for (u32 i = threadIdx.x; i < 2 * n_kv_head * chunks; i += THREADS) {
        u32 head = i / chunks, c = (i - head * chunks) * width;
        bool value = head >= n_kv_head;
        u32 kv = value ? head - n_kv_head : head;
        T* target = (value ? values : keys) + ((u64(b) * n_kv_head + kv) * capacity + past + row) * d + c;
        if (width == 1) {
            *target = source[head * d + c];
        } else {
            store16(target, load16(source + head * d + c));
        }
    }
}

// Keys that eight lanes take at once: as many loads under way.
constexpr int KEYS = 4;

// The part of q k for KEYS keys that a lane has: elements first, first + step, .. (whole packs). Keys from `limit` on
// give 0.
template <class T>
DEVICE void dot(float (&sum)[KEYS], const float* q, const T* keys, u32 key, u32 stride, u32 limit, u32 first, u32 step,
                u32 d, u32 width) {
#pragma unroll
    for (int j = 0; j < KEYS; j++) sum[j] = 0.0f;
    for (u32 i = first; i < d; i += step) {
        if (width == 1) {
#pragma unroll
            for (int j = 0; j < KEYS; j++) {
                u32 row = key + j * stride;
                if (row < limit) sum[j] = fmaf(q[i], to_f32(keys[u64(row) * d + i]), sum[j]);
            }
        } else {
            Pack<T> packs[KEYS];
#pragma unroll
            for (int j = 0; j < KEYS; j++) {
                u32 row = key + j * stride;
                packs[j] = load16(keys + u64(row < limit ? row : 0) * d + i);
            }
#pragma unroll
            for (int j = 0; j < KEYS; j++) {
#pragma unroll
                for (int e = 0; e < Pack<T>::N; e++) sum[j] = fmaf(q[i + e], to_f32(packs[j].v[e]), sum[j]);
            }
        }
    }
}

template <class T>
DEVICE void decode(float* partial, const T* qkv, const T* keys, const T* values, u32 past, u32 capacity, u32 split,
                   u32 n_head, u32 n_kv_head, u32 d, float scale, const u32* pasts) {
    DYNAMIC_SHARED(float, shared);
    u32 group = n_head / n_kv_head, kv = blockIdx.y, b = blockIdx.z, splits = gridDim.x;
    float *q = shared, *p = q + group * d, *sums = p + group * split;
    u32 first = blockIdx.x * split, keys_of = past_of(pasts, b, past) + 1;
    // Nothing here, or no token at all (ABSENT + 1 is 0). The whole block agrees: no barrier is left waiting.
    if (first >= keys_of) return;
    u32 n = keys_of - first < split ? keys_of - first : split;
    u64 cache = ((u64(b) * n_kv_head + kv) * capacity + first) * d;
    keys += cache;
    values += cache;
    const T* queries = qkv + u64(b) * ((n_head + 2 * n_kv_head) * d) + kv * group * d;
    for (u32 i = threadIdx.x; i < group * d; i += THREADS) q[i] = to_f32(queries[i]);
    sync_threads();

    // Scores: eight lanes a key, so that they read 128 bytes of a row together; keys of a group of heads stay in the
    // first-level cache for the heads after the first.
    u32 lane = threadIdx.x % 8, width = width_of<T>(d);
    constexpr u32 TEAMS = THREADS / 8;
    for (u32 start = 0; start < n; start += TEAMS * KEYS) {
        u32 key = start + threadIdx.x / 8;
        for (u32 h = 0; h < group; h++) {
            float score[KEYS];
            dot(score, q + h * d, keys, key, TEAMS, n, lane * width, 8 * width, d, width);
#pragma unroll
            for (int j = 0; j < KEYS; j++) {
                score[j] += shfl_xor(score[j], 4);
                score[j] += shfl_xor(score[j], 2);
                score[j] += shfl_xor(score[j], 1);
                u32 row = key + j * TEAMS;
                if (lane == 0 && row < n) p[h * split + row] = score[j] * scale;
            }
        }
    }
    sync_threads();

    // Softmax of the split: one warp a head.
    u64 out = (u64(b) * n_head + kv * group) * splits + blockIdx.x;
    for (u32 h = warp_id(); h < group; h += THREADS / WARP) {
        float* row = p + h * split;
        float best = -INFINITY_F, total = 0.0f;
        for (u32 key = lane_id(); key < n; key += WARP) best = fmaxf(best, row[key]);
        best = warp_max(best);
        for (u32 key = lane_id(); key < n; key += WARP) {
            float e = expf(row[key] - best);
            row[key] = e;
            total += e;
        }
        total = warp_sum(total);
        if (lane_id() == 0) {
            float* target = partial + (out + u64(h) * splits) * (d + 2);
            target[d] = best;
            target[d + 1] = total;
        }
    }
    sync_threads();

    // Weighted values: `columns` threads across a row, and as many rows at once as there are threads for; then the
    // rows' sums are added up in order.
    u32 columns = d / width, rows = THREADS / columns;
    if (columns > THREADS) columns = THREADS, rows = 1;
    u32 row = threadIdx.x / columns, column = threadIdx.x - row * columns;
    for (u32 h = 0; h < group; h++) {
        float* target = partial + (out + u64(h) * splits) * (d + 2);
        // More than one pass only where D > 128 and rows are not made of whole 16 bytes.
        for (u32 c = column; c * width < d; c += columns) {
            float acc[Pack<T>::N];
#pragma unroll
            for (int j = 0; j < Pack<T>::N; j++) acc[j] = 0.0f;
            if (row < rows) {
#pragma unroll 4
                for (u32 key = row; key < n; key += rows) {
                    float weight = p[h * split + key];
                    const T* v = values + u64(key) * d + c * width;
                    if (width == 1) {
                        acc[0] = fmaf(weight, to_f32(*v), acc[0]);
                    } else {
                        Pack<T> pack = load16(v);
#pragma unroll
                        for (int j = 0; j < Pack<T>::N; j++) acc[j] = fmaf(weight, to_f32(pack.v[j]), acc[j]);
                    }
                }
            }
            if (rows == 1) {
#pragma unroll
                for (int j = 0; j < Pack<T>::N; j++) {
                    if (row == 0 && u32(j) < width) target[c * width + j] = acc[j];
                }
                continue;
            }
#pragma unroll
            for (int j = 0; j < Pack<T>::N; j++) {
                if (row < rows && u32(j) < width) sums[row * d + c * width + j] = acc[j];
            }
        }
        if (rows > 1) {
            sync_threads();
            for (u32 c = threadIdx.x; c < d; c += THREADS) {
                float sum = 0.0f;
                for (u32 r = 0; r < rows; r++) sum += sums[r * d + c];
                target[c] = sum;
            }
            sync_threads();
        }
    }
}

template <class T>
DEVICE void combine(T* out, const float* partial, u32 splits, u32 d, u32 split, u32 n_head, const u32* pasts) {
    partial += u64(blockIdx.x) * splits * (d + 2);
    if (pasts != nullptr) {
        u32 past = pasts[blockIdx.x / n_head];
        if (past == ABSENT) {
            for (u32 c = threadIdx.x; c < d; c += THREADS) out[u64(blockIdx.x) * d + c] = from_f32<T>(0.0f);
            return;
        }
        splits = past / split + 1;
    }
    float best = -INFINITY_F, total = 0.0f;
    for (u32 s = 0; s < splits; s++) best = max_nan(best, partial[u64(s) * (d + 2) + d]);
    for (u32 s = 0; s < splits; s++) {
        const float* one = partial + u64(s) * (d + 2);
        total = fmaf(expf(one[d] - best), one[d + 1], total);
    }
    for (u32 c = threadIdx.x; c < d; c += THREADS) {
        float sum = 0.0f;
        for (u32 s = 0; s < splits; s++) {
            const float* one = partial + u64(s) * (d + 2);
            sum = fmaf(expf(one[d] - best), one[c], sum);
        }
        out[u64(blockIdx.x) * d + c] = from_f32<T>(sum / total);
    }
}

}  // namespace attention_decode

#define DECODE(T, suffix)                                                                                              \
    KERNEL(128)                                                                                                        \
    attention_kv_append_##suffix(T* keys, T* values, const T* qkv, u32 t, u32 past, u32 capacity, u32 n_head,          \
                                 u32 n_kv_head, u32 d, const u32* pasts) {                                             \
        attention_decode::append(keys, values, qkv, t, past, capacity, n_head, n_kv_head, d, pasts);                   \
    }                                                                                                                  \
    TAPER_KERNEL(attention_kv_append_##suffix, 128)                                                                    \
    KERNEL(128)                                                                                                        \
    attention_decode_##suffix(float* partial, const T* qkv, const T* keys, const T* values, u32 past, u32 capacity,    \
                              u32 split, u32 n_head, u32 n_kv_head, u32 d, float scale, const u32* pasts) {            \
        attention_decode::decode(partial, qkv, keys, values, past, capacity, split, n_head, n_kv_head, d, scale,       \
                                 pasts);                                                                               \
    }                                                                                                                  \
    TAPER_KERNEL(attention_decode_##suffix, 128)                                                                       \
    KERNEL(128)                                                                                                        \
    attention_decode_combine_##suffix(T* out, const float* partial, u32 splits, u32 d, u32 split, u32 n_head,          \
                                      const u32* pasts) {                                                              \
        attention_decode::combine(out, partial, splits, d, split, n_head, pasts);                                      \
    }                                                                                                                  \
    TAPER_KERNEL(attention_decode_combine_##suffix, 128)

#ifdef ATTENTION_F32
DECODE(float, f32)
#endif
#ifdef ATTENTION_BF16
DECODE(bf16, bf16)
#endif
#ifdef ATTENTION_F16
DECODE(f16, f16)
#endif
