// Attention, forward, on tensor cores: out = softmax(Q K^T / sqrt(D)) V, causal, for heads of 64 and 128 in bf16 and
// f16.
//
// The method is FlashAttention-2 (Dao 2023): a block of queries walks the blocks of keys up to its diagonal and keeps,
// for every row, a reference score, the sum of exponentials and the weighted values so far, all in f32 registers.
// Exponentials are powers of two, with 1/sqrt(D) and log2(e) folded into one multiply-add. The accumulated values are
// brought to a new reference only when scores have outgrown the old one by 2^8 (FlashAttention-4 skips rescaling
// likewise).
//
// Plan: M = 128 queries (32 rows a warp, 4 warps; M = 64 at D = 128 with dropout) by N = 64 keys at D = 64, 32 at D =
// 128. Q lies in shared memory (and in registers at D = 64 without dropout); K and V tiles have two places each and the
// next pair is loaded while this one is used: one barrier a pair. A loop without masks to the diagonal, one with masks
// over the diagonal; a warp skips tiles it sees nothing of. 32 rows a warp let one ldmatrix feed four mma: with 16,
// shared memory would be as busy as the tensor cores.
//
// Launch: attention_forward_d{64,128}{,_dropout,_documents}_{bf16,f16}
//   grid   B * H * ceil(T / M)            block 128
//   shared (M + 4 * N) * D * 2 bytes      (D = 64: 49152; D = 128: 65536, with dropout 49152; two blocks fit an SM)
//   arguments
//     T* out [B, T, H * D]; float* lse [B, H, T]; const T* qkv [B, T, (H + 2K) * D]; u32 t; u32 n_head; u32 n_kv_head;
//     u32 heads = B * H; u32 at_once: heads worked on together, 1 ..= heads (those whose K and V fill a part of the
//     second-level cache; any value gives the same bits); float scale = 1 / sqrt(D);
//     only with _dropout: const u32* sequences [B]; u32 key0, key1, step, site, threshold; float mask_scale, the fields
//     of random::Mask; only with _documents: const u32* begins [B, T]: query i sees no key before begins[i], where its
//     document begins. It does not fall from one query to the next; tiles before the block's first are skipped.
// All pointers are multiples of 16 bytes. B * T * H * D > 0.
//
// FLOPs: 2 T^2 D for each of B * H heads (4 T^2 D, half of it masked). Bytes: 2 B T (2H + 2K) D + 4 B H T. At T = 1024
// and D = 64 that is about 250 FLOP a byte, above the ridge of an A100 (156) and of an H100 (295 at its peak; about 240
// at measured rates): the floor is the tensor cores'.
//
// gate: attention_forward_* registers=255 wide mma

#include "attention.cuh"
#include "attention_only.cuh"

namespace attention {

// The reference of a row, to which its exponentials are relative, is an earlier largest score until a score exceeds it
// by a factor of 2^HEADROOM: then nothing overflows (2^8 fits bf16 and f16 alike), and what was accumulated is brought
// to a new reference once or twice in a walk instead of at every tile.
constexpr float HEADROOM = 8.0f;

template <class T, int D, bool DROPOUT, bool DOCUMENTS> struct Forward {
    static constexpr int MT = D == 128 && DROPOUT ? 1 : 2, M = 64 * MT, N = D == 64 ? 64 : 32, NT = N / 8;
    static constexpr bool Q_IN_REGISTERS = D == 64 && !DROPOUT;
    static constexpr u32 Q_BYTES = Tile<M, D>::BYTES, KV_BYTES = Tile<N, D>::BYTES;

    // What a warp has so far of its MT * 16 rows, relative to the reference score of each row; `sum` is a lane's share.
    float o[MT][D / 8][4];
    float reference[MT][2];
    float sum[MT][2];
    u32 q[Q_IN_REGISTERS ? MT : 1][D / 16][4];
    u32 q_rows;
    float scale_log2;
    LaneOffsets lanes;
    // With DOCUMENTS: where the document of each query of the sequence begins, and the last query.
    const u32* begins;
    u32 last_query;

    // Scores of the tile of keys at `tile` to probabilities, and what was accumulated to the new references.
    // `first_row` is this warp's first query, `first_key` the tile's first key.
    template <bool MASKED> DEVICE void softmax(float (&s)[MT][NT][4], u32 tile, u32 first_row, u32 first_key) {
        if constexpr (Q_IN_REGISTERS) {
            scores<T, N, D, MT, NT>(s, q, tile + lanes.columns);
        } else {
            scores_from_shared<T, M, N, D, MT, NT>(s, q_rows, tile + lanes.columns);
        }
        u32 g = lane_id() >> 2, t = lane_id() & 3;
        float best[MT][2];
        bool outgrown = false;
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                // Columns of this row up to `last` (less this lane's own offset) are seen.
                i32 last = i32(first_row + m * 16 + r * 8 + g) - i32(first_key + 2 * t);
                // And with DOCUMENTS, columns from `begin` on.
                i32 begin = 0;
                if constexpr (MASKED && DOCUMENTS) {
                    u32 row = first_row + m * 16 + r * 8 + g;
                    begin = i32(begins[row < last_query ? row : last_query]) - i32(first_key + 2 * t);
                }
                float x = reference[m][r];
#pragma unroll
                for (int n = 0; n < NT; n++) {
#pragma unroll
                    for (int c = 0; c < 2; c++) {
                        float& score = s[m][n][2 * r + c];
                        if (MASKED && n * 8 + c > last) score = -INFINITY_F;
                        if (MASKED && DOCUMENTS && n * 8 + c < begin) score = -INFINITY_F;
                        x = fmaxf(x, score);
                    }
                }
                x = fmaxf(x, shfl_xor(x, 1));
                x = fmaxf(x, shfl_xor(x, 2));
                best[m][r] = x;
                outgrown |= (x - reference[m][r]) * scale_log2 > HEADROOM;
            }
        }
        if (warp_any(outgrown)) {
#pragma unroll
            for (int m = 0; m < MT; m++) {
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    // Each row decides for itself: its bits do not depend on other rows, so not on later tokens. The
                    // correction of a row that keeps its reference is 2^0, exactly 1.
                    float old = reference[m][r];
                    if ((best[m][r] - old) * scale_log2 > HEADROOM) reference[m][r] = best[m][r];
                    float correction = fast_exp2((old - reference[m][r]) * scale_log2);
                    // A row whose document begins in a later tile has no reference yet.
                    if (DOCUMENTS && old == reference[m][r]) correction = 1.0f;
                    sum[m][r] *= correction;
#pragma unroll
                    for (int n = 0; n < D / 8; n++) {
                        o[m][n][2 * r] *= correction;
                        o[m][n][2 * r + 1] *= correction;
                    }
                }
            }
        }
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                // A reference of -inf or inf means that the scores were infinite or NaN: the row becomes NaN.
                float shift = reference[m][r] * scale_log2;
                if (DOCUMENTS && reference[m][r] == -INFINITY_F) shift = 0.0f;
#pragma unroll
                for (int n = 0; n < NT; n++) {
#pragma unroll
                    for (int c = 0; c < 2; c++) {
                        float& x = s[m][n][2 * r + c];
                        x = fast_exp2(fmaf(x, scale_log2, -shift));
                        sum[m][r] += x;
                    }
                }
            }
        }
    }

    // Probabilities that the mask drops become 0; the others are scaled once, at the end.
    DEVICE void drop_out(float (&s)[MT][NT][4], const HeadMask& mask, u32 first_row, u32 first_key) {
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int pair = 0; pair < NT / 2; pair++) {
                u32 kept = mask.query_rows(first_row + m * 16, first_key + pair * 16);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    int j = i >> 2, r = (i >> 1) & 1, c = i & 1;
                    if (!(kept & (1u << (8 * (r + 2 * j) + c)))) s[m][2 * pair + j][2 * r + c] = 0.0f;
                }
            }
        }
    }

    DEVICE void run(T* out, float* lse, const T* qkv, u32 t, u32 n_head, u32 n_kv_head, u32 heads, u32 at_once,
                    float scale, const u32* sequences, const Mask& mask, const u32* document_begins) {
        DYNAMIC_SHARED(u8, shared);
        u32 q_tile = shared_address(shared);
        u32 blocks = (t + M - 1) / M;
        Place work = place(blockIdx.x, blocks, heads, at_once);
        u32 b = work.head / n_head, h = work.head - b * n_head;
        u32 first_query = (blocks - 1 - work.block) * M;
        u32 kv = h / (n_head / n_kv_head);

        u32 packed = (n_head + 2 * n_kv_head) * D;
        const T* sequence = qkv + u64(b) * t * packed;
        TileCopy<T, M, D> queries(sequence + h * D, packed);
        TileCopy<T, N, D> keys(sequence + (n_head + kv) * D, packed);
        u32 to_values = n_kv_head * D;

        u32 seen = first_query + M < t ? first_query + M : t;
        u32 tiles = (seen + N - 1) / N;
        u32 unmasked = first_query / N;
        // Tiles before `start` are seen by no query of the block, those before `all` not by all.
        u32 start = 0, all = 0;
        if constexpr (DOCUMENTS) {
            begins = document_begins + u64(b) * t;
            last_query = seen - 1;
            start = begins[first_query] / N;
            all = (begins[last_query] + N - 1) / N;
            if (all > unmasked) all = unmasked;
        }
        queries.start(q_tile, first_query, t);
        u32 stages = q_tile + Q_BYTES;
        u32 stage = stages + (start & 1) * (2 * KV_BYTES);
        keys.start(stage, start * N, t);
        keys.start(stage + KV_BYTES, start * N, t, to_values);
        cp_async_commit();

        u32 warp_row = warp_id() * (MT * 16);
        u32 first_row = first_query + warp_row;
        q_rows = q_tile + warp_row * ROW_BYTES + lanes.rows;
        scale_log2 = scale * LOG2_E;
        clear(o);
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                reference[m][r] = -INFINITY_F;
                sum[m][r] = 0.0f;
            }
        }
        HeadMask head_mask(mask, DROPOUT ? sequences[b] : 0, t, h);

        if constexpr (Q_IN_REGISTERS) {
            cp_async_wait<0>();
            sync_threads();
            load_rows<M, D, MT>(q, q_rows);
        }
        u32 tile = start;
        if constexpr (DOCUMENTS) {
            for (; tile < all; tile++) step<true>(tile, tiles, t, stages, keys, to_values, first_row, head_mask);
        }
        for (; tile < unmasked; tile++) {
            step<false>(tile, tiles, t, stages, keys, to_values, first_row, head_mask);
        }
        for (; tile < tiles; tile++) {
            step<true>(tile, tiles, t, stages, keys, to_values, first_row, head_mask);
        }

        work = place(opaque(blockIdx.x), blocks, heads, at_once);
        b = work.head / n_head, h = work.head - b * n_head;
        u32 lane = lane_id();
        float factor[MT][2];
#pragma unroll
        for (int m = 0; m < MT; m++) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                float total = sum[m][r];
                total += shfl_xor(total, 1);
                total += shfl_xor(total, 2);
                u32 row = first_row + m * 16 + r * 8 + (lane >> 2);
                if ((lane & 3) == 0 && row < t) {
                    lse[u64(work.head) * t + row] = fmaf(reference[m][r], scale, logf(total));
                }
                factor[m][r] = (DROPOUT ? mask.scale : 1.0f) / total;
            }
        }
        u32 width = n_head * D;
        T* target = out + (u64(b) * t + first_row) * width + h * D;
        store_rows<T, M, D, MT>(o, factor, q_tile, warp_row, target, width, i32(t) - i32(first_row));
    }

    // One tile of keys and of values.
    template <bool MASKED>
    DEVICE void step(u32 tile, u32 tiles, u32 t, u32 stages, const TileCopy<T, N, D>& keys, u32 to_values,
                     u32 first_row, const HeadMask& mask) {
        u32 first_key = tile * N;
        u32 here = stages + (tile & 1) * (2 * KV_BYTES), next = stages + (~tile & 1) * (2 * KV_BYTES);
        cp_async_wait<0>();
        sync_threads();
        if (tile + 1 < tiles) {
            keys.start(next, first_key + N, t);
            keys.start(next + KV_BYTES, first_key + N, t, to_values);
            cp_async_commit();
        }
        // Rows wait for nobody in the tiles they see nothing of; barriers and copies continue.
        if (MASKED && first_key >= first_row + MT * 16) return;
        float s[MT][NT][4];
        softmax<MASKED>(s, here, first_row, first_key);
        if (DROPOUT) drop_out(s, mask, first_row, first_key);
        u32 p[MT][NT / 2][4];
        to_rows<T>(p, s);
        add_product<T, N, D>(o, p, here + KV_BYTES + lanes.rows);
    }
};

}  // namespace attention

#ifdef ATTENTION_PLAIN
#define FORWARD(T, D)                                                                                                  \
    KERNEL(128)                                                                                                        \
    attention_forward_d##D##_##T(T* out, float* lse, const T* qkv, u32 t, u32 n_head, u32 n_kv_head, u32 heads,        \
                                 u32 at_once, float scale) {                                                           \
        attention::Forward<T, D, false, false>().run(out, lse, qkv, t, n_head, n_kv_head, heads, at_once, scale,       \
                                                     nullptr, Mask(), nullptr);                                        \
    }                                                                                                                  \
    TAPER_KERNEL(attention_forward_d##D##_##T, 128)
#else
#define FORWARD(T, D)
#endif

#ifdef ATTENTION_DROPOUT
#define FORWARD_DROPOUT(T, D)                                                                                          \
    KERNEL(128)                                                                                                        \
    attention_forward_d##D##_dropout_##T(T* out, float* lse, const T* qkv, u32 t, u32 n_head, u32 n_kv_head,           \
                                         u32 heads, u32 at_once, float scale, const u32* sequences, MASK_PARAMETERS) { \
        attention::Forward<T, D, true, false>().run(out, lse, qkv, t, n_head, n_kv_head, heads, at_once, scale,        \
                                                    sequences, MASK_ARGUMENTS, nullptr);                               \
    }                                                                                                                  \
    TAPER_KERNEL(attention_forward_d##D##_dropout_##T, 128)
#else
#define FORWARD_DROPOUT(T, D)
#endif

#ifdef ATTENTION_DOCUMENTS
#define FORWARD_DOCUMENTS(T, D)                                                                                        \
    KERNEL(128)                                                                                                        \
    attention_forward_d##D##_documents_##T(T* out, float* lse, const T* qkv, u32 t, u32 n_head, u32 n_kv_head,         \
                                           u32 heads, u32 at_once, float scale, const u32* begins) {                   \
        attention::Forward<T, D, false, true>().run(out, lse, qkv, t, n_head, n_kv_head, heads, at_once, scale,        \
                                                    nullptr, Mask(), begins);                                          \
    }                                                                                                                  \
    TAPER_KERNEL(attention_forward_d##D##_documents_##T, 128)
#else
#define FORWARD_DOCUMENTS(T, D)
#endif

#if defined(ATTENTION_BF16) && defined(ATTENTION_D64)
FORWARD(bf16, 64)
FORWARD_DROPOUT(bf16, 64)
FORWARD_DOCUMENTS(bf16, 64)
#endif
#if defined(ATTENTION_F16) && defined(ATTENTION_D64)
FORWARD(f16, 64)
FORWARD_DROPOUT(f16, 64)
FORWARD_DOCUMENTS(f16, 64)
#endif
#if defined(ATTENTION_BF16) && defined(ATTENTION_D128)
FORWARD(bf16, 128)
FORWARD_DROPOUT(bf16, 128)
FORWARD_DOCUMENTS(bf16, 128)
#endif
#if defined(ATTENTION_F16) && defined(ATTENTION_D128)
FORWARD(f16, 128)
FORWARD_DROPOUT(f16, 128)
FORWARD_DOCUMENTS(f16, 128)
#endif
