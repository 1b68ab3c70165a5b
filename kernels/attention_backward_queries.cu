// Attention, backward: gradients of queries, on tensor cores, deterministic, for heads of 64 and 128 in bf16 and f16.
// And delta = rowsum(dO * O), which both halves of the backward pass read, for any head and type.
//
// With P = exp(S - lse) recomputed from S = Q K^T / sqrt(D):  dS = P * (dO V^T - delta),  dQ = dS K / sqrt(D). One
// block owns a block of queries and walks the keys up to its diagonal, like the forward pass; scores are computed here
// a second time (the other half is attention_backward_keys), which costs 7 products instead of 5 and needs neither
// atomics nor a buffer of partial sums.
//
// Plan: 4 warps of MT * 16 queries (MT = 2 at D = 64, 1 at D = 128) with Q and dO in registers at D = 64; tiles of 32
// keys and values in two places each; one barrier a tile; loops without and with masks.
//
// Launch: attention_backward_queries_d{64,128}{,_dropout,_documents}_{bf16,f16}
//   grid   B * H * ceil(T / (64 MT))      block 128
//   shared (2 * 64 * MT + 4 * 32) * D * 2 bytes   (D = 64: 49152, D = 128: 65536; two blocks fit an SM)
//   arguments as those of attention_backward_keys, except
//     T* dqkv: the query columns are written;   u32 heads = B * H
// FLOPs: 3 T^2 D for each of B * H heads. Bytes: 2 B T (3H + 2K) D + 8 B H T.
//
// Launch: attention_delta_{f32,bf16,f16}
//   grid   ceil(B * T * H / 32)           block 256     no dynamic shared memory
//   arguments: float* delta [B, H, T]; const T* dout, const T* out [B, T, H * D]; u32 b; u32 t; u32 n_head; u32 d
// Eight lanes a row. Bytes: 2 B T H D sizeof(T) + 4 B H T, the floor is memory's. Where D * sizeof(T) is no multiple of
// 16, element by element.
//
// gate: attention_backward_queries_* registers=255 wide mma
// gate: attention_delta_* registers=40 wide

#include "attention.cuh"
#include "attention_only.cuh"

namespace attention {

template <class T, int D, bool DROPOUT, bool DOCUMENTS> struct BackwardQueries {
    static constexpr int MT = D == 64 ? 2 : 1, M = 64 * MT, N = 32, NT = N / 8;
    static constexpr bool A_IN_REGISTERS = D == 64 && !DROPOUT;
    static constexpr u32 Q_BYTES = Tile<M, D>::BYTES, KV_BYTES = Tile<N, D>::BYTES;

    float dq[MT][D / 8][4];
    u32 q[A_IN_REGISTERS ? MT : 1][D / 16][4];
    u32 dout[A_IN_REGISTERS ? MT : 1][D / 16][4];
    // lse in powers of two and delta of the rows of this lane.
    float shift[MT][2];
    float delta[MT][2];
    u32 q_rows, first_row, t;
    float scale_log2, mask_scale;
    LaneOffsets lanes;
    // With DOCUMENTS: where the document of each query of the sequence begins, and the block's last query.
    const u32* begins;
    u32 last_query;

    template <bool MASKED>
    DEVICE void step(u32 tile, u32 tiles, u32 stages, const TileCopy<T, N, D>& keys, u32 to_values,
                     const HeadMask& mask) {
        u32 first_key = tile * N;
        u32 here = stages + (tile & 1) * (2 * KV_BYTES), next = stages + (~tile & 1) * (2 * KV_BYTES);
        cp_async_wait<0>();
        sync_threads();
        if (tile + 1 < tiles) {
            keys.start(next, first_key + N, t);
            keys.start(next + KV_BYTES, first_key + N, t, to_values);
            cp_async_commit();
        }
        if (MASKED && first_key >= first_row + MT * 16) return;
        u32 g = lane_id() >> 2, column = 2 * (lane_id() & 3);
        float p[MT][NT][4], ds[MT][NT][4];
        if constexpr (A_IN_REGISTERS) {
            scores<T, N, D, MT, NT>(p, q, here + lanes.columns);
        } else {
            scores_from_shared<T, M, N, D, MT, NT>(p, q_rows, here + lanes.columns);
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
            // The first column that the rows g and g + 8 see.
            i32 begin[2] = {};
            if constexpr (MASKED && DOCUMENTS) {
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    u32 row = first_row + m * 16 + r * 8 + g;
                    begin[r] = i32(begins[row < last_query ? row : last_query]) - i32(first_key + column);
                }
            }
#pragma unroll
            for (int n = 0; n < NT; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int r = i >> 1, c = i & 1;
                    float x = fast_exp2(fmaf(p[m][n][i], scale_log2, -shift[m][r]));
                    if (MASKED && DOCUMENTS && n * 8 + c < begin[r]) x = 0.0f;
                    if (MASKED && i32(first_row + m * 16 + r * 8 + g) < i32(first_key + n * 8 + column + c)) x = 0.0f;
                    p[m][n][i] = x;
                }
            }
        }
        if constexpr (A_IN_REGISTERS) {
            scores<T, N, D, MT, NT>(ds, dout, here + KV_BYTES + lanes.columns);
        } else {
            scores_from_shared<T, M, N, D, MT, NT>(ds, q_rows + Q_BYTES, here + KV_BYTES + lanes.columns);
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int pair = 0; pair < NT / 2; pair++) {
                u32 kept = DROPOUT ? mask.query_rows(first_row + m * 16, first_key + pair * 16) : 0;
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    int j = i >> 2, r = (i >> 1) & 1, c = i & 1;
                    float& x = ds[m][2 * pair + j][2 * r + c];
                    if (DROPOUT) x = kept & (1u << (8 * (r + 2 * j) + c)) ? x * mask_scale : 0.0f;
                    x = p[m][2 * pair + j][2 * r + c] * (x - delta[m][r]);
                }
            }
        }
        u32 a[MT][NT / 2][4];
        to_rows<T>(a, ds);
        add_product<T, N, D>(dq, a, here + lanes.rows);
    }

    DEVICE void run(T* dqkv, const T* dout_rows, const T* qkv, const float* lse, const float* delta_rows, u32 tokens,
                    u32 n_head, u32 n_kv_head, u32 heads, u32 at_once, float scale, const u32* sequences,
                    const Mask& mask, const u32* document_begins) {
        DYNAMIC_SHARED(u8, shared);
        t = tokens;
        u32 q_tile = shared_address(shared), stages = q_tile + 2 * Q_BYTES;
        u32 blocks = (t + M - 1) / M;
        Place work = place(blockIdx.x, blocks, heads, at_once);
        u32 b = work.head / n_head, h = work.head - b * n_head;
        u32 first_query = (blocks - 1 - work.block) * M;
        u32 kv = h / (n_head / n_kv_head);

        u32 packed = (n_head + 2 * n_kv_head) * D, width = n_head * D;
        const T* sequence = qkv + u64(b) * t * packed;
        TileCopy<T, M, D>(sequence + h * D, packed).start(q_tile, first_query, t);
        TileCopy<T, M, D>(dout_rows + u64(b) * t * width + h * D, width).start(q_tile + Q_BYTES, first_query, t);
        TileCopy<T, N, D> keys(sequence + (n_head + kv) * D, packed);
        u32 to_values = n_kv_head * D;
        u32 seen = first_query + M < t ? first_query + M : t;
        u32 tiles = (seen + N - 1) / N, unmasked = first_query / N;
        // Tiles before `start` are seen by no query of the block, those before `all` not by all.
        u32 start = 0, all = 0;
        if constexpr (DOCUMENTS) {
            begins = document_begins + u64(b) * t;
            last_query = seen - 1;
            start = begins[first_query] / N;
            all = (begins[last_query] + N - 1) / N;
            if (all > unmasked) all = unmasked;
        }
        u32 stage = stages + (start & 1) * (2 * KV_BYTES);
        keys.start(stage, start * N, t);
        keys.start(stage + KV_BYTES, start * N, t, to_values);
        cp_async_commit();

        u32 warp_row = warp_id() * (MT * 16);
        first_row = first_query + warp_row;
        q_rows = q_tile + warp_row * ROW_BYTES + lanes.rows;
        scale_log2 = scale * LOG2_E;
        mask_scale = mask.scale;
        u64 row_base = u64(work.head) * t;
        float factor[MT][2];
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                u32 row = first_row + m * 16 + r * 8 + (lane_id() >> 2);
                // Rows beyond the last one get probabilities of 0.
                shift[m][r] = row < t ? lse[row_base + row] * LOG2_E : INFINITY_F;
                delta[m][r] = row < t ? delta_rows[row_base + row] : 0.0f;
                factor[m][r] = scale;
            }
        }
        clear(dq);
        if constexpr (A_IN_REGISTERS) {
            cp_async_wait<0>();
            sync_threads();
            load_rows<M, D, MT>(q, q_rows);
            load_rows<M, D, MT>(dout, q_rows + Q_BYTES);
        }
        HeadMask head_mask(mask, DROPOUT ? sequences[b] : 0, t, h);

        u32 tile = start;
        if constexpr (DOCUMENTS) {
            for (; tile < all; tile++) step<true>(tile, tiles, stages, keys, to_values, head_mask);
        }
        for (; tile < unmasked; tile++) step<false>(tile, tiles, stages, keys, to_values, head_mask);
        for (; tile < tiles; tile++) step<true>(tile, tiles, stages, keys, to_values, head_mask);

        work = place(opaque(blockIdx.x), blocks, heads, at_once);
        b = work.head / n_head, h = work.head - b * n_head;
        T* target = dqkv + (u64(b) * t + first_row) * packed + h * D;
        store_rows<T, M, D, MT>(dq, factor, q_tile, warp_row, target, packed, i32(t) - i32(first_row));
    }
};

// delta of one row, by eight lanes.
template <class T>
DEVICE void delta_of_row(float* delta, const T* dout, const T* out, u32 b, u32 t, u32 n_head, u32 d) {
    u64 row = u64(blockIdx.x) * (blockDim.x / 8) + threadIdx.x / 8;
    u32 lane = threadIdx.x % 8;
    bool exists = row < u64(b) * t * n_head;
    float sum = 0.0f;
    if (exists) {
        const T *x = dout + row * d, *y = out + row * d;
        if (d * sizeof(T) % 16 == 0) {
            for (u32 i = lane * Pack<T>::N; i < d; i += 8 * Pack<T>::N) {
                Pack<T> a = load16(x + i), c = load16(y + i);
#pragma unroll
                for (int j = 0; j < Pack<T>::N; j++) sum = fmaf(to_f32(a.v[j]), to_f32(c.v[j]), sum);
            }
        } else {
            for (u32 i = lane; i < d; i += 8) sum = fmaf(to_f32(x[i]), to_f32(y[i]), sum);
        }
    }
    sum += shfl_xor(sum, 4);
    sum += shfl_xor(sum, 2);
    sum += shfl_xor(sum, 1);
    if (exists && lane == 0) {
        u64 token = row / n_head;
        u32 h = u32(row - token * n_head), sequence = u32(token / t);
        delta[(u64(sequence) * n_head + h) * t + (token - u64(sequence) * t)] = sum;
    }
}

}  // namespace attention

#ifdef ATTENTION_PLAIN
#define BACKWARD_QUERIES(T, D)                                                                                         \
    KERNEL(128)                                                                                                        \
    attention_backward_queries_d##D##_##T(T* dqkv, const T* dout, const T* qkv, const float* lse, const float* delta,  \
                                          u32 t, u32 n_head, u32 n_kv_head, u32 heads, u32 at_once, float scale) {     \
        attention::BackwardQueries<T, D, false, false>().run(dqkv, dout, qkv, lse, delta, t, n_head, n_kv_head, heads, \
                                                             at_once, scale, nullptr, Mask(), nullptr);                \
    }                                                                                                                  \
    TAPER_KERNEL(attention_backward_queries_d##D##_##T, 128)
#else
#define BACKWARD_QUERIES(T, D)
#endif

#ifdef ATTENTION_DROPOUT
#define BACKWARD_QUERIES_DROPOUT(T, D)                                                                                 \
    KERNEL(128)                                                                                                        \
    attention_backward_queries_d##D##_dropout_##T(T* dqkv, const T* dout, const T* qkv, const float* lse,              \
                                                  const float* delta, u32 t, u32 n_head, u32 n_kv_head, u32 heads,     \
                                                  u32 at_once, float scale, const u32* sequences, MASK_PARAMETERS) {   \
        attention::BackwardQueries<T, D, true, false>().run(dqkv, dout, qkv, lse, delta, t, n_head, n_kv_head, heads,  \
                                                            at_once, scale, sequences, MASK_ARGUMENTS, nullptr);       \
    }                                                                                                                  \
    TAPER_KERNEL(attention_backward_queries_d##D##_dropout_##T, 128)
#else
#define BACKWARD_QUERIES_DROPOUT(T, D)
#endif

#ifdef ATTENTION_DOCUMENTS
#define BACKWARD_QUERIES_DOCUMENTS(T, D)                                                                               \
    KERNEL(128)                                                                                                        \
    attention_backward_queries_d##D##_documents_##T(T* dqkv, const T* dout, const T* qkv, const float* lse,            \
                                                    const float* delta, u32 t, u32 n_head, u32 n_kv_head, u32 heads,   \
                                                    u32 at_once, float scale, const u32* begins) {                     \
        attention::BackwardQueries<T, D, false, true>().run(dqkv, dout, qkv, lse, delta, t, n_head, n_kv_head, heads,  \
                                                            at_once, scale, nullptr, Mask(), begins);                  \
    }                                                                                                                  \
    TAPER_KERNEL(attention_backward_queries_d##D##_documents_##T, 128)
#else
#define BACKWARD_QUERIES_DOCUMENTS(T, D)
#endif

#define DELTA(T, name)                                                                                                 \
    KERNEL(256) attention_delta_##name(float* delta, const T* dout, const T* out, u32 b, u32 t, u32 n_head, u32 d) {   \
        attention::delta_of_row(delta, dout, out, b, t, n_head, d);                                                    \
    }                                                                                                                  \
    TAPER_KERNEL(attention_delta_##name, 256)

#if defined(ATTENTION_BF16) && defined(ATTENTION_D64)
BACKWARD_QUERIES(bf16, 64)
BACKWARD_QUERIES_DROPOUT(bf16, 64)
BACKWARD_QUERIES_DOCUMENTS(bf16, 64)
#endif
#if defined(ATTENTION_F16) && defined(ATTENTION_D64)
BACKWARD_QUERIES(f16, 64)
BACKWARD_QUERIES_DROPOUT(f16, 64)
BACKWARD_QUERIES_DOCUMENTS(f16, 64)
#endif
#if defined(ATTENTION_BF16) && defined(ATTENTION_D128)
BACKWARD_QUERIES(bf16, 128)
BACKWARD_QUERIES_DROPOUT(bf16, 128)
BACKWARD_QUERIES_DOCUMENTS(bf16, 128)
#endif
#if defined(ATTENTION_F16) && defined(ATTENTION_D128)
BACKWARD_QUERIES(f16, 128)
BACKWARD_QUERIES_DROPOUT(f16, 128)
BACKWARD_QUERIES_DOCUMENTS(f16, 128)
#endif
#ifdef ATTENTION_F32
DELTA(float, f32)
#endif
#ifdef ATTENTION_BF16
DELTA(bf16, bf16)
#endif
#ifdef ATTENTION_F16
DELTA(f16, f16)
#endif
