// Attention for any head size up to 256 in f32, bf16 and f16: forward and deterministic backward in plain f32
// arithmetic.
//
// The slow path of the GPU, and the exact one: f32 and tf32 training, heads that are not 64 or 128 wide, and prompts
// that continue a cache. The maths are those of attention_forward.cu and attention_backward_*.cu; every product is f32
// multiply-adds, nothing is rounded but what is written. Gradients need `delta` from attention_delta.
//
// Plan: 256 threads as 16 x 16. A tile is R * 16 rows, R = 4 or 2; thread (y, x) has the R rows from y R on and, of
// scores, the R columns from x R on, of results [rows, D], the columns x + 16 n. All tiles lie transposed in shared
// memory, [D][rows + 4], so that a thread reads its R numbers at once. R = 2 is for heads or devices where R = 4 needs
// more shared memory than a block may have.
//
// Launch: attention_generic_{forward,backward_keys,backward_queries}_{64,32}_{f32,bf16,f16}, TILE = 64 or 32
//   forward           grid B * H * ceil(TQ / TILE)   block 256   shared 4 * ((TILE + 4) * (2 * D4 + TILE)) bytes
//   backward_queries  grid B * H * ceil(TQ / TILE)   block 256   shared 4 * ((TILE + 4) * (4 * D4 + TILE)) bytes
//   backward_keys     grid B * K * ceil(TQ / TILE)   block 256   shared 4 * ((TILE + 4) * (4 * D4 + 2 * TILE)) bytes
//   where D4 is D rounded up to a multiple of 4. (forward_64 at D = 64: 52224; backward_keys_64 at D = 64: 104448;
//   backward_keys_32 at D = 256: 156672.)
//   arguments, forward
//     T* out [B, TQ, H * D]; float* lse [B, H, TQ] or null; const T* qkv [B, TQ, (H + 2K) * D], of which the queries
//     are read; const T* keys, const T* values: key 0 of key-value head 0 of sequence 0; u64 row, u64 head,
//     u64 sequence: the distance in elements from key to key, head to head, sequence to sequence; u32 tq: queries of a
//     sequence; u32 past: query i sees keys 0 ..= past + i; u32 n_head; u32 n_kv_head; u32 d; u32 heads = B * H;
//     float scale = 1 / sqrt(D); const u32* sequences [B], or null without dropout; u32 key0, key1, step, site,
//     threshold; float mask_scale; const u32* begins [B, TQ], or null: query i sees no key before begins[i], where its
//     document begins; it does not fall from one query to the next (no cache there: past = 0)
//     For packed rows: keys = qkv + H * D, values = qkv + (H + K) * D, row = (H + 2K) * D, head = D,
//     sequence = TQ * row, past = 0. For a cache [B, K, C, D]: row = D, head = C * D, sequence = K * C * D (no dropout
//     there).
//   arguments, backward
//     T* dqkv [B, T, (H + 2K) * D], of which the query or the key and value columns are written; const T* dout
//     [B, T, H * D]; const T* qkv; const float* lse, const float* delta [B, H, T]; u32 t; u32 n_head; u32 n_kv_head;
//     u32 d; u32 heads = B * H, or B * K for the keys; float scale; sequences, mask and begins as above
//
// FLOPs: 4, 8 and 6 T^2 D / 2 for each head, on the f32 units (19.5 TFLOP/s on an A100): the floor is theirs, and
// shared memory's: 2 loads of R numbers for R^2 multiply-adds.
//
// gate: attention_generic_* registers=255

#include "attention_only.cuh"
#include "taper.cuh"

namespace attention_generic {

constexpr u32 SIDE = 16;

// R numbers that lie together, aligned to their size.
template <int R> struct alignas(4 * R) Numbers {
    float v[R];
};

// Copies rows first .. first + TILE of a matrix [.., D], rows `stride` apart, transposed to `target` [D4][TILE + 4];
// rows from `limit` on and columns from D on become zero.
template <class T, int TILE>
DEVICE void load_transposed(float* target, const T* source, u64 stride, u32 first, u32 limit, u32 d) {
    u32 d4 = (d + 3) / 4 * 4;
    for (u32 i = threadIdx.x; i < TILE * d4; i += SIDE * SIDE) {
        u32 r = i / d4, c = i - r * d4;
        bool valid = first + r < limit && c < d;
        target[c * (TILE + 4) + r] = valid ? to_f32(source[(first + r) * stride + c]) : 0.0f;
    }
}

// s[i][j] = sum over c of a[c][y R + i] * b[c][x R + j].
template <int R> DEVICE void product(float (&s)[R][R], const float* a, const float* b, u32 d) {
    constexpr u32 STRIDE = SIDE * R + 4;
    u32 x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int j = 0; j < R; j++) s[i][j] = 0.0f;
    }
    for (u32 c = 0; c < d; c++) {
        Numbers<R> u = *reinterpret_cast<const Numbers<R>*>(a + c * STRIDE + y * R);
        Numbers<R> v = *reinterpret_cast<const Numbers<R>*>(b + c * STRIDE + x * R);
#pragma unroll
        for (int i = 0; i < R; i++) {
#pragma unroll
            for (int j = 0; j < R; j++) s[i][j] = fmaf(u.v[i], v.v[j], s[i][j]);
        }
    }
}

// Writes a thread's R x R numbers to p[column][row].
template <int R> DEVICE void spread(float* p, const float (&s)[R][R]) {
    constexpr u32 STRIDE = SIDE * R + 4;
    u32 x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int j = 0; j < R; j++) {
        Numbers<R> column;
#pragma unroll
        for (int i = 0; i < R; i++) column.v[i] = s[i][j];
        *reinterpret_cast<Numbers<R>*>(p + (x * R + j) * STRIDE + y * R) = column;
    }
}

// out[i][n] += sum over k of p[k][y R + i] * b[x + 16 n][k], for b as it lies in shared memory, [D][k]. Neighbours in x
// read neighbouring rows of b, whose stride of 4 (mod 32) makes that two accesses.
template <int R> DEVICE void accumulate(float (&out)[R][16], const float* p, const float* b, u32 d) {
    constexpr u32 STRIDE = SIDE * R + 4;
    u32 x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    for (u32 k = 0; k < SIDE * R; k++) {
        Numbers<R> u = *reinterpret_cast<const Numbers<R>*>(p + k * STRIDE + y * R);
#pragma unroll
        for (int n = 0; n < 16; n++) {
            u32 column = n * SIDE + x;
            if (u32(n) * SIDE >= d) break;
            float v = column < d ? b[column * STRIDE + k] : 0.0f;
#pragma unroll
            for (int i = 0; i < R; i++) out[i][n] = fmaf(u.v[i], v, out[i][n]);
        }
    }
}

template <int R> DEVICE void clear(float (&x)[R][16]) {
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int n = 0; n < 16; n++) x[i][n] = 0.0f;
    }
}

template <class T, int R>
DEVICE void store(T* target, u64 stride, const float (&x)[R][16], const float (&factor)[R], u32 first, u32 limit,
                  u32 d) {
    u32 lane = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < R; i++) {
        u32 row = first + y * R + i;
        if (row >= limit) continue;
#pragma unroll
        for (int n = 0; n < 16; n++) {
            u32 column = n * SIDE + lane;
            if (column < d) target[row * stride + column] = from_f32<T>(x[i][n] * factor[i]);
        }
    }
}

// 1 / (chance of keeping) or 0 for element (q, k) of a head; see attention/mod.rs for its number.
DEVICE float factor_of(const Mask& mask, u32 sequence, u32 h, u32 t, u32 query, u32 key) {
    u32 blocks = (t + 7) / 8;
    u32 kept = mask16(mask, sequence, (u64(h) * t + query) * blocks + key / 8);
    return kept >> (key & 7) & 1 ? mask.scale : 0.0f;
}

// The sum or the largest over the 16 threads of a row.
DEVICE float row_sum(float x) {
#pragma unroll
    for (u32 m = SIDE / 2; m > 0; m /= 2) x += shfl_xor(x, m);
    return x;
}
DEVICE float row_max(float x) {
#pragma unroll
    for (u32 m = SIDE / 2; m > 0; m /= 2) x = fmaxf(x, shfl_xor(x, m));
    return x;
}

template <class T, int R>
DEVICE void forward(T* out, float* lse, const T* qkv, const T* keys, const T* values, u64 row, u64 head, u64 sequence,
                    u32 tq, u32 past, u32 n_head, u32 n_kv_head, u32 d, u32 heads, float scale, const u32* sequences,
                    const Mask& mask, const u32* begins) {
    constexpr u32 TILE = SIDE * R, STRIDE = TILE + 4;
    DYNAMIC_SHARED(float, shared);
    u32 d4 = (d + 3) / 4 * 4;
    float *q = shared, *kv_tile = q + d4 * STRIDE, *p = kv_tile + d4 * STRIDE;
    u32 x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
    // The blocks with the most keys first.
    u32 blocks = (tq + TILE - 1) / TILE;
    u32 first_query = (blocks - 1 - blockIdx.x / heads) * TILE, place = blockIdx.x % heads;
    u32 b = place / n_head, h = place - b * n_head, kv = h / (n_head / n_kv_head);
    u64 packed = u64(n_head + 2 * n_kv_head) * d;
    keys += b * sequence + kv * head;
    values += b * sequence + kv * head;
    load_transposed<T, TILE>(q, qkv + u64(b) * tq * packed + h * d, packed, first_query, tq, d);

    float acc[R][16], largest[R], sum[R];
    clear(acc);
#pragma unroll
    for (int i = 0; i < R; i++) {
        largest[i] = -INFINITY_F;
        sum[i] = 0.0f;
    }
    u32 last_query = first_query + TILE < tq ? first_query + TILE : tq;
    u32 seen = past + last_query;
    // Before the document of the first query nobody sees anything.
    if (begins != nullptr) begins += u64(b) * tq;
    u32 start = begins == nullptr ? 0 : begins[first_query] / TILE * TILE;
    for (u32 first_key = start; first_key < seen; first_key += TILE) {
        sync_threads();
        load_transposed<T, TILE>(kv_tile, keys, row, first_key, seen, d);
        sync_threads();
        float s[R][R];
        product<R>(s, q, kv_tile, d);
#pragma unroll
        for (int i = 0; i < R; i++) {
            u32 query = first_query + y * R + i;
            u32 begin = begins == nullptr ? 0 : begins[query < tq ? query : tq - 1];
            float best = -INFINITY_F;
#pragma unroll
            for (int j = 0; j < R; j++) {
                u32 key = first_key + x * R + j;
                s[i][j] = key <= past + query && key >= begin ? s[i][j] * scale : -INFINITY_F;
                best = fmaxf(best, s[i][j]);
            }
            best = fmaxf(largest[i], row_max(best));
            // A row whose document begins in a later tile has no largest score yet: its exponentials are 0.
            bool waits = begins != nullptr && best == -INFINITY_F;
            float correction = waits ? 1.0f : expf(largest[i] - best), total = 0.0f;
            largest[i] = best;
#pragma unroll
            for (int j = 0; j < R; j++) {
                s[i][j] = waits ? 0.0f : expf(s[i][j] - best);
                total += s[i][j];
            }
            sum[i] = sum[i] * correction + row_sum(total);
#pragma unroll
            for (int n = 0; n < 16; n++) acc[i][n] *= correction;
            if (sequences != nullptr) {
#pragma unroll
                for (int j = 0; j < R; j++) {
                    s[i][j] *= factor_of(mask, sequences[b], h, tq, query, first_key + x * R + j);
                }
            }
        }
        spread<R>(p, s);
        sync_threads();
        load_transposed<T, TILE>(kv_tile, values, row, first_key, seen, d);
        sync_threads();
        accumulate<R>(acc, p, kv_tile, d);
    }
    float factor[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        factor[i] = 1.0f / sum[i];
        u32 query = first_query + y * R + i;
        if (lse != nullptr && x == 0 && query < tq) lse[u64(place) * tq + query] = largest[i] + logf(sum[i]);
    }
    store<T, R>(out + u64(b) * tq * n_head * d + h * d, u64(n_head) * d, acc, factor, first_query, tq, d);
}

// Probabilities in s and gradients of scores in ds (before the scale), from Q K^T and dO V^T, for the tile of queries
// from `first_query` on and keys from `first_key` on. With TRANSPOSED the tile has keys as rows.
template <int R, bool TRANSPOSED>
DEVICE void scores_back(float (&s)[R][R], float (&ds)[R][R], const float* lse, const float* delta, u32 t,
                        u32 first_query, u32 first_key, float scale, u32 h, const u32* sequence, const Mask& mask,
                        const u32* begins) {
    u32 x = threadIdx.x % SIDE, y = threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < R; i++) {
#pragma unroll
        for (int j = 0; j < R; j++) {
            u32 query = first_query + (TRANSPOSED ? x * R + j : y * R + i);
            u32 key = first_key + (TRANSPOSED ? y * R + i : x * R + j);
            if (query >= t || key > query || (begins != nullptr && key < begins[query])) {
                s[i][j] = ds[i][j] = 0.0f;
                continue;
            }
            float p = expf(s[i][j] * scale - lse[query]);
            float factor = sequence != nullptr ? factor_of(mask, *sequence, h, t, query, key) : 1.0f;
            ds[i][j] = p * (ds[i][j] * factor - delta[query]);
            s[i][j] = p * factor;
        }
    }
}

template <class T, int R>
DEVICE void backward_queries(T* dqkv, const T* dout, const T* qkv, const float* lse, const float* delta, u32 t,
                             u32 n_head, u32 n_kv_head, u32 d, u32 heads, float scale, const u32* sequences,
                             const Mask& mask, const u32* begins) {
    constexpr u32 TILE = SIDE * R, STRIDE = TILE + 4;
    DYNAMIC_SHARED(float, shared);
    u32 d4 = (d + 3) / 4 * 4;
    float *q = shared, *g = q + d4 * STRIDE, *k = g + d4 * STRIDE, *v = k + d4 * STRIDE, *p = v + d4 * STRIDE;
    u32 blocks = (t + TILE - 1) / TILE;
    u32 first_query = (blocks - 1 - blockIdx.x / heads) * TILE, place = blockIdx.x % heads;
    u32 b = place / n_head, h = place - b * n_head, kv = h / (n_head / n_kv_head);
    u64 packed = u64(n_head + 2 * n_kv_head) * d, width = u64(n_head) * d;
    const T* sequence = qkv + u64(b) * t * packed;
    load_transposed<T, TILE>(q, sequence + h * d, packed, first_query, t, d);
    load_transposed<T, TILE>(g, dout + u64(b) * t * width + h * d, width, first_query, t, d);
    lse += u64(place) * t;
    delta += u64(place) * t;

    float acc[R][16];
    clear(acc);
    u32 seen = first_query + TILE < t ? first_query + TILE : t;
    if (begins != nullptr) begins += u64(b) * t;
    u32 start = begins == nullptr ? 0 : begins[first_query] / TILE * TILE;
    for (u32 first_key = start; first_key < seen; first_key += TILE) {
        sync_threads();
        load_transposed<T, TILE>(k, sequence + u64(n_head + kv) * d, packed, first_key, t, d);
        load_transposed<T, TILE>(v, sequence + u64(n_head + n_kv_head + kv) * d, packed, first_key, t, d);
        sync_threads();
        float s[R][R], ds[R][R];
        product<R>(s, q, k, d);
        product<R>(ds, g, v, d);
        scores_back<R, false>(s, ds, lse, delta, t, first_query, first_key, scale, h,
                              sequences != nullptr ? sequences + b : nullptr, mask, begins);
        spread<R>(p, ds);
        sync_threads();
        accumulate<R>(acc, p, k, d);
    }
    float factor[R];
#pragma unroll
    for (int i = 0; i < R; i++) factor[i] = scale;
    store<T, R>(dqkv + u64(b) * t * packed + h * d, packed, acc, factor, first_query, t, d);
}

template <class T, int R>
DEVICE void backward_keys(T* dqkv, const T* dout, const T* qkv, const float* lse, const float* delta, u32 t, u32 n_head,
                          u32 n_kv_head, u32 d, u32 heads, float scale, const u32* sequences, const Mask& mask,
                          const u32* begins) {
    constexpr u32 TILE = SIDE * R, STRIDE = TILE + 4;
    DYNAMIC_SHARED(float, shared);
    u32 d4 = (d + 3) / 4 * 4;
    float *k = shared, *v = k + d4 * STRIDE, *q = v + d4 * STRIDE, *g = q + d4 * STRIDE;
    float *p = g + d4 * STRIDE, *dp = p + TILE * STRIDE;
    // Block 0 has the keys that most queries see.
    u32 first_key = blockIdx.x / heads * TILE, place = blockIdx.x % heads;
    u32 b = place / n_kv_head, kv = place - b * n_kv_head, group = n_head / n_kv_head;
    u64 packed = u64(n_head + 2 * n_kv_head) * d, width = u64(n_head) * d;
    const T* sequence = qkv + u64(b) * t * packed;
    load_transposed<T, TILE>(k, sequence + u64(n_head + kv) * d, packed, first_key, t, d);
    load_transposed<T, TILE>(v, sequence + u64(n_head + n_kv_head + kv) * d, packed, first_key, t, d);

    float dk[R][16], dv[R][16];
    clear(dk);
    clear(dv);
    if (begins != nullptr) begins += u64(b) * t;
    for (u32 h = kv * group; h < (kv + 1) * group; h++) {
        u64 rows = (u64(b) * n_head + h) * t;
        for (u32 first_query = first_key; first_query < t; first_query += TILE) {
            // From here on documents begin after these keys.
            if (begins != nullptr && begins[first_query] >= first_key + TILE) break;
            sync_threads();
            load_transposed<T, TILE>(q, sequence + h * d, packed, first_query, t, d);
            load_transposed<T, TILE>(g, dout + u64(b) * t * width + h * d, width, first_query, t, d);
            sync_threads();
            float s[R][R], ds[R][R];
            product<R>(s, k, q, d);
            product<R>(ds, v, g, d);
            scores_back<R, true>(s, ds, lse + rows, delta + rows, t, first_query, first_key, scale, h,
                                 sequences != nullptr ? sequences + b : nullptr, mask, begins);
            spread<R>(p, s);
            spread<R>(dp, ds);
            sync_threads();
            accumulate<R>(dv, p, g, d);
            accumulate<R>(dk, dp, q, d);
        }
    }
    float dk_factor[R], dv_factor[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        dk_factor[i] = scale;
        dv_factor[i] = 1.0f;
    }
    T* target = dqkv + u64(b) * t * packed + u64(n_head + kv) * d;
    store<T, R>(target, packed, dk, dk_factor, first_key, t, d);
    store<T, R>(target + u64(n_kv_head) * d, packed, dv, dv_factor, first_key, t, d);
}

}  // namespace attention_generic

#define FORWARD(T, R, suffix)                                                                                          \
    KERNEL(256)                                                                                                        \
    attention_generic_forward_##suffix(T* out, float* lse, const T* qkv, const T* keys, const T* values, u64 row,      \
                                       u64 head, u64 sequence, u32 tq, u32 past, u32 n_head, u32 n_kv_head, u32 d,     \
                                       u32 heads, float scale, const u32* sequences, MASK_PARAMETERS,                  \
                                       const u32* begins) {                                                            \
        attention_generic::forward<T, R>(out, lse, qkv, keys, values, row, head, sequence, tq, past, n_head,           \
                                         n_kv_head, d, heads, scale, sequences, MASK_ARGUMENTS, begins);               \
    }                                                                                                                  \
    TAPER_KERNEL(attention_generic_forward_##suffix, 256)

#define BACKWARD(T, R, what, suffix)                                                                                   \
    KERNEL(256)                                                                                                        \
    attention_generic_backward_##what##_##suffix(T* dqkv, const T* dout, const T* qkv, const float* lse,               \
                                                 const float* delta, u32 t, u32 n_head, u32 n_kv_head, u32 d,          \
                                                 u32 heads, float scale, const u32* sequences, MASK_PARAMETERS,        \
                                                 const u32* begins) {                                                  \
        attention_generic::backward_##what<T, R>(dqkv, dout, qkv, lse, delta, t, n_head, n_kv_head, d, heads, scale,   \
                                                 sequences, MASK_ARGUMENTS, begins);                                   \
    }                                                                                                                  \
    TAPER_KERNEL(attention_generic_backward_##what##_##suffix, 256)

#define ALL(T, R, suffix)                                                                                              \
    FORWARD(T, R, suffix)                                                                                              \
    BACKWARD(T, R, queries, suffix)                                                                                    \
    BACKWARD(T, R, keys, suffix)

#ifdef ATTENTION_TILE64
#ifdef ATTENTION_F32
ALL(float, 4, 64_f32)
#endif
#ifdef ATTENTION_BF16
ALL(bf16, 4, 64_bf16)
#endif
#ifdef ATTENTION_F16
ALL(f16, 4, 64_f16)
#endif
#endif
#ifdef ATTENTION_TILE32
#ifdef ATTENTION_F32
ALL(float, 2, 32_f32)
#endif
#ifdef ATTENTION_BF16
ALL(bf16, 2, 32_bf16)
#endif
#ifdef ATTENTION_F16
ALL(f16, 2, 32_f16)
#endif
#endif
