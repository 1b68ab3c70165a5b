// Attention, backward: gradients of keys and values, on tensor cores, deterministic, for heads of 64 and 128 in bf16
// and f16.
//
// With P = exp(S - lse) recomputed from S = Q K^T / sqrt(D), and delta = rowsum(dO * O) from attention_delta:
//     dV = P^T dO      dS = P * (dO V^T - delta)      dK = dS^T Q / sqrt(D)
// (with dropout, P times its factors stands for P in dV, and the factors times dO V^T for dO V^T). One block owns 64 *
// MT keys of one key-value head and walks all query heads of its group and all queries from its diagonal on, in order:
// no atomics, no scratch, the same bits every time. It works on transposes, S^T = K Q^T and dP^T = V dO^T, so that P^T
// and dS^T are already in the registers that the second products take as A.
//
// Plan: 4 warps of MT * 16 keys, MT = 2 at D = 64 without dropout and documents, else 1; K and V in shared memory, read as A; tiles
// of 32 rows of Q and of dO in two places each, the next pair loaded while this one is used, one barrier a pair; lse
// and delta of their queries next to them. A loop step with masks over the diagonal, then one without. Queries beyond T
// have lse = inf, so that their probabilities are 0.
//
// Launch: attention_backward_keys_d{64,128}{,_dropout,_documents}_{bf16,f16}
//   grid   B * K * ceil(T / (64 MT))      block 128
//   shared (2 * 64 * MT + 4 * 32) * D * 2 + 512 bytes   (D = 64: 49664, with dropout or documents 33280; D = 128:
//          66048; two blocks fit an SM)
//   arguments
//     T* dqkv [B, T, (H + 2K) * D], of which the key and value columns are written; const T* dout [B, T, H * D];
//     const T* qkv [B, T, (H + 2K) * D]; const float* lse, const float* delta [B, H, T]; u32 t; u32 n_head;
//     u32 n_kv_head; u32 heads = B * K; u32 at_once: heads worked on together (any value gives the same bits);
//     float scale = 1 / sqrt(D);
//     only with _dropout: const u32* sequences [B]; u32 key0, key1, step, site, threshold; float mask_scale, the fields
//     of random::Mask; only with _documents: const u32* begins [B, T]: query i sees no key before begins[i], where its
//     document begins. It does not fall from one query to the next.
// All pointers to T are multiples of 16 bytes. B * T * H * D > 0.
//
// FLOPs: 4 T^2 D for each of B * H heads (4 products, half of each masked). Bytes: 2 B T (2H + 4K) D + 8 B H T. The
// floor is the tensor cores'.
//
// gate: attention_backward_keys_* registers=255 wide mma

#include "attention.cuh"
#include "attention_only.cuh"

namespace attention {

template <class T, int D, bool DROPOUT, bool DOCUMENTS> struct BackwardKeys {
    static constexpr int MT = D == 64 && !DROPOUT && !DOCUMENTS ? 2 : 1, N = 64 * MT, M = 32, NT = M / 8;
    static constexpr u32 KEY_BYTES = Tile<N, D>::BYTES, QUERY_BYTES = Tile<M, D>::BYTES;
    // A stage holds a tile of Q, one of dO, and lse and delta.
    static constexpr u32 STAGE = 2 * QUERY_BYTES + 2 * M * 4;

    float dk[MT][D / 8][4];
    float dv[MT][D / 8][4];
    u32 k_rows, first_row, t;
    float scale_log2, mask_scale;
    LaneOffsets lanes;
    // With DOCUMENTS: where the document of each query of the sequence begins.
    const u32* begins;

    // One tile of queries, `first_query` on, in the stage at `stage`.
    template <bool MASKED> DEVICE void step(u32 stage, u32 first_query, const HeadMask& mask) {
        // Keys wait for nobody in the tiles that see nothing of them.
        if (MASKED && first_query + M <= first_row) return;
        u32 g = lane_id() >> 2, column = 2 * (lane_id() & 3);
        u32 rows_of = stage + 2 * QUERY_BYTES + 4 * column;
        float p[MT][NT][4];
        scores_from_shared<T, N, M, D, MT, NT>(p, k_rows, stage + lanes.columns);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float shift[2];
            ld_shared_f32x2(rows_of + n * 32, shift[0], shift[1]);
            // The first key that each of the two queries sees.
            i32 begin[2] = {};
            if constexpr (MASKED && DOCUMENTS) {
#pragma unroll
                for (int c = 0; c < 2; c++) {
                    u32 query = first_query + n * 8 + column + c;
                    begin[c] = i32(begins[query < t ? query : t - 1]);
                }
            }
#pragma unroll
            for (int m = 0; m < MT; m++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int r = i >> 1, c = i & 1;
                    float x = fast_exp2(fmaf(p[m][n][i], scale_log2, -shift[c]));
                    // A query sees the keys up to itself.
                    if (MASKED && i32(first_query + n * 8 + column + c) < i32(first_row + m * 16 + r * 8 + g)) x = 0.0f;
                    if (MASKED && DOCUMENTS && i32(first_row + m * 16 + r * 8 + g) < begin[c]) x = 0.0f;
                    p[m][n][i] = x;
                }
            }
        }
        float ds[MT][NT][4];
        scores_from_shared<T, N, M, D, MT, NT>(ds, k_rows + KEY_BYTES, stage + QUERY_BYTES + lanes.columns);
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int pair = 0; pair < NT / 2; pair++) {
                u32 kept[2];
                if (DROPOUT) mask.key_rows(kept, first_row + m * 16, first_query + pair * 16);
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    int n = 2 * pair + j;
                    float delta[2];
                    ld_shared_f32x2(rows_of + M * 4 + n * 32, delta[0], delta[1]);
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        int r = i >> 1, c = i & 1;
                        float& x = ds[m][n][i];
                        if (DROPOUT) {
                            bool keep = kept[j] & (1u << (8 * (r + 2 * c)));
                            x = p[m][n][i] * ((keep ? x * mask_scale : 0.0f) - delta[c]);
                            p[m][n][i] = keep ? p[m][n][i] : 0.0f;
                        } else {
                            x = p[m][n][i] * (x - delta[c]);
                        }
                    }
                }
            }
        }
        u32 a[MT][NT / 2][4];
        to_rows<T>(a, p);
        add_product<T, M, D>(dv, a, stage + QUERY_BYTES + lanes.rows);
        to_rows<T>(a, ds);
        add_product<T, M, D>(dk, a, stage + lanes.rows);
    }

    DEVICE void run(T* dqkv, const T* dout, const T* qkv, const float* lse, const float* delta, u32 tokens, u32 n_head,
                    u32 n_kv_head, u32 heads, u32 at_once, float scale, const u32* sequences, const Mask& mask,
                    const u32* document_begins) {
        DYNAMIC_SHARED(u8, shared);
        t = tokens;
        u32 k_tile = shared_address(shared), stages = k_tile + 2 * KEY_BYTES;
        Place work = place(blockIdx.x, (t + N - 1) / N, heads, at_once);
        u32 b = work.head / n_kv_head, kv = work.head - b * n_kv_head;
        u32 first_key = work.block * N;
        u32 group = n_head / n_kv_head;

        u32 packed = (n_head + 2 * n_kv_head) * D, width = n_head * D;
        const T* sequence = qkv + u64(b) * t * packed;
        {
            TileCopy<T, N, D> keys(sequence + (n_head + kv) * D, packed);
            keys.start(k_tile, first_key, t);
            keys.start(k_tile + KEY_BYTES, first_key, t, n_kv_head * D);
        }
        TileCopy<T, M, D> queries(sequence + kv * group * D, packed);
        TileCopy<T, M, D> gradients(dout + u64(b) * t * width + kv * group * D, width);
        // Thread i < M brings lse of query i of a tile, thread M + i its delta.
        u32 head = b * n_head + kv * group;

        // Tiles before the diagonal see none of these keys.
        u32 first_tile = first_key / M, tiles = (t + M - 1) / M;
        if constexpr (DOCUMENTS) {
            begins = document_begins + u64(b) * t;
            // Nor do tiles whose documents all begin after them: the first such, by halves.
            u32 low = first_tile + 1, high = tiles;
            while (low < high) {
                u32 middle = (low + high) / 2;
                if (begins[middle * M] >= first_key + N) {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            tiles = low;
        }
        u32 steps = (tiles - first_tile) * group;
        u32 tile = first_tile;
        float next_row = row_value(lse, delta, head, tile * M);
        u32 stage = stages + (steps & 1) * STAGE;
        queries.start(stage, tile * M, t);
        gradients.start(stage + QUERY_BYTES, tile * M, t);
        cp_async_commit();
        if (threadIdx.x < 2 * M) st_shared_f32(stage + 2 * QUERY_BYTES + threadIdx.x * 4, next_row);

        u32 warp_row = warp_id() * (MT * 16);
        first_row = first_key + warp_row;
        k_rows = k_tile + warp_row * ROW_BYTES + lanes.rows;
        scale_log2 = scale * LOG2_E;
        mask_scale = mask.scale;
        clear(dk);
        clear(dv);
        HeadMask head_mask(mask, DROPOUT ? sequences[b] : 0, t, kv * group);

        for (u32 left = steps; left > 0; left--) {
            u32 here = stages + (left & 1) * STAGE, next = stages + (~left & 1) * STAGE;
            u32 first_query = tile * M;
            cp_async_wait<0>();
            sync_threads();
            // The tile after this one, perhaps the first of the next head.
            bool more = left > 1, turn = ++tile == tiles;
            if (turn) {
                tile = first_tile;
                queries.source += D;
                gradients.source += D;
                head++;
            }
            if (more) {
                queries.start(next, tile * M, t);
                gradients.start(next + QUERY_BYTES, tile * M, t);
                cp_async_commit();
                next_row = row_value(lse, delta, head, tile * M);
            }
            bool masked = first_query < first_key + N;
            if constexpr (DOCUMENTS) {
                u32 last = first_query + M < t ? first_query + M - 1 : t - 1;
                masked |= begins[last] > first_key;
            }
            if (masked) {
                step<true>(here, first_query, head_mask);
            } else {
                step<false>(here, first_query, head_mask);
            }
            if (more && threadIdx.x < 2 * M) st_shared_f32(next + 2 * QUERY_BYTES + threadIdx.x * 4, next_row);
            if (turn) head_mask.first += t;
        }

        float dk_factor[MT][2], dv_factor[MT][2];
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                dk_factor[m][r] = scale;
                dv_factor[m][r] = DROPOUT ? mask_scale : 1.0f;
            }
        }
        work = place(opaque(blockIdx.x), (t + N - 1) / N, heads, at_once);
        b = work.head / n_kv_head, kv = work.head - b * n_kv_head;
        T* target = dqkv + (u64(b) * t + first_row) * packed + (n_head + kv) * D;
        i32 valid = i32(t) - i32(first_row);
        store_rows<T, N, D, MT>(dk, dk_factor, k_tile, warp_row, target, packed, valid);
        store_rows<T, N, D, MT>(dv, dv_factor, k_tile + KEY_BYTES, warp_row, target + n_kv_head * D, packed, valid);
    }

    // lse in powers of two, or delta, of a query of the tile at `first`; what makes a probability 0 beyond the last
    // one.
    DEVICE float row_value(const float* lse, const float* delta, u32 head, u32 first) const {
        bool is_delta = threadIdx.x >= M;
        u32 row = first + threadIdx.x % M;
        if (threadIdx.x >= 2 * M || row >= t) return is_delta ? 0.0f : INFINITY_F;
        float x = (is_delta ? delta : lse)[u64(head) * t + row];
        return is_delta ? x : x * LOG2_E;
    }
};

}  // namespace attention

#ifdef ATTENTION_PLAIN
#define BACKWARD_KEYS(T, D)                                                                                            \
    KERNEL(128)                                                                                                        \
    attention_backward_keys_d##D##_##T(T* dqkv, const T* dout, const T* qkv, const float* lse, const float* delta,     \
                                       u32 t, u32 n_head, u32 n_kv_head, u32 heads, u32 at_once, float scale) {        \
        attention::BackwardKeys<T, D, false, false>().run(dqkv, dout, qkv, lse, delta, t, n_head, n_kv_head, heads,    \
                                                          at_once, scale, nullptr, Mask(), nullptr);                   \
    }                                                                                                                  \
    TAPER_KERNEL(attention_backward_keys_d##D##_##T, 128)
#else
#define BACKWARD_KEYS(T, D)
#endif

#ifdef ATTENTION_DROPOUT
#define BACKWARD_KEYS_DROPOUT(T, D)                                                                                    \
    KERNEL(128)                                                                                                        \
    attention_backward_keys_d##D##_dropout_##T(T* dqkv, const T* dout, const T* qkv, const float* lse,                 \
                                               const float* delta, u32 t, u32 n_head, u32 n_kv_head, u32 heads,        \
                                               u32 at_once, float scale, const u32* sequences, MASK_PARAMETERS) {      \
        attention::BackwardKeys<T, D, true, false>().run(dqkv, dout, qkv, lse, delta, t, n_head, n_kv_head, heads,     \
                                                         at_once, scale, sequences, MASK_ARGUMENTS, nullptr);          \
    }                                                                                                                  \
    TAPER_KERNEL(attention_backward_keys_d##D##_dropout_##T, 128)
#else
#define BACKWARD_KEYS_DROPOUT(T, D)
#endif

#ifdef ATTENTION_DOCUMENTS
#define BACKWARD_KEYS_DOCUMENTS(T, D)                                                                                  \
    KERNEL(128)                                                                                                        \
    attention_backward_keys_d##D##_documents_##T(T* dqkv, const T* dout, const T* qkv, const float* lse,               \
                                                 const float* delta, u32 t, u32 n_head, u32 n_kv_head, u32 heads,      \
                                                 u32 at_once, float scale, const u32* begins) {                        \
        attention::BackwardKeys<T, D, false, true>().run(dqkv, dout, qkv, lse, delta, t, n_head, n_kv_head, heads,     \
                                                         at_once, scale, nullptr, Mask(), begins);                     \
    }                                                                                                                  \
    TAPER_KERNEL(attention_backward_keys_d##D##_documents_##T, 128)
#else
#define BACKWARD_KEYS_DOCUMENTS(T, D)
#endif

#if defined(ATTENTION_BF16) && defined(ATTENTION_D64)
BACKWARD_KEYS(bf16, 64)
BACKWARD_KEYS_DROPOUT(bf16, 64)
BACKWARD_KEYS_DOCUMENTS(bf16, 64)
#endif
#if defined(ATTENTION_F16) && defined(ATTENTION_D64)
BACKWARD_KEYS(f16, 64)
BACKWARD_KEYS_DROPOUT(f16, 64)
BACKWARD_KEYS_DOCUMENTS(f16, 64)
#endif
#if defined(ATTENTION_BF16) && defined(ATTENTION_D128)
BACKWARD_KEYS(bf16, 128)
BACKWARD_KEYS_DROPOUT(bf16, 128)
BACKWARD_KEYS_DOCUMENTS(bf16, 128)
#endif
#if defined(ATTENTION_F16) && defined(ATTENTION_D128)
BACKWARD_KEYS(f16, 128)
BACKWARD_KEYS_DROPOUT(f16, 128)
BACKWARD_KEYS_DOCUMENTS(f16, 128)
#endif
