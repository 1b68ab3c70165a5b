// What the attention kernels share: where heads lie, tiles in swizzled shared memory, fragments, and the causal walk.
//
// Legend: B sequences, T tokens, H query heads, K key-value heads (K divides H; query head h uses key-value head h / (H
// / K)), D the size of a head. Packed rows are [B, T, (H + 2K) * D]: query heads, key heads, value heads. Outputs are
// [B, T, H * D], the log-sum-exp of the scores (natural logarithm, scores times 1/sqrt(D)) and `delta` [B, H, T] in
// f32.
//
// A tile in shared memory has rows of 128 bytes, 64 elements; a head of 128 takes two panels of such rows, one after
// the other. The 16-byte chunk c of row r lies at chunk c ^ (r & 7): eight rows at one chunk (ldmatrix) and eight
// chunks of one row (16-byte copies) both touch all 32 banks once. For a tile that starts at a multiple of 128, the
// address of the chunk 2k + hi of a row is that of chunk hi, xor k << 5; and 16 rows further is plus 2048, an
// immediate.
#pragma once

#include "taper.cuh"

namespace attention {

// Blocks of the tensor-core kernels: 4 warps.
constexpr int THREADS = 128;

constexpr u32 ROW_BYTES = 128;
// 16 rows of a panel: from one fragment to the next.
constexpr u32 STEP_BYTES = 16 * ROW_BYTES;

template <int ROWS, int D> struct Tile {
    static constexpr u32 PANEL = ROWS * ROW_BYTES;
    static constexpr u32 BYTES = PANEL * (D / 64);
};

// Which piece of work a block has: `block` of `blocks` rows of queries or keys, and `head` of all B * H (or B * K)
// heads.
struct Place {
    u32 block, head;
};

// The order of work in a one-dimensional grid of heads * blocks: `at_once` heads together, so that what their blocks
// share stays in the second-level cache; among those, block 0 of every head, then block 1 of every head. Callers give
// block 0 the longest rows: long blocks first leaves the short ones to fill the end. `id` is blockIdx.x; kernels ask
// again at their end, with opaque(blockIdx.x), because registers are too dear in between to keep the answer.
DEVICE Place place(u32 id, u32 blocks, u32 heads, u32 at_once) {
    u32 group = id / (at_once * blocks);
    u32 rest = id - group * at_once * blocks;
    u32 width = heads - group * at_once;
    if (width > at_once) width = at_once;
    return Place{rest / width, group * at_once + rest % width};
}

// Copies tiles of ROWS rows of D elements from global to shared memory, 16 bytes a thread and step.
template <class T, int ROWS, int D> struct TileCopy {
    static constexpr u32 CHUNKS = D / 8;
    static constexpr u32 STEP = THREADS / CHUNKS;
    const T* source;
    u32 stride;
    u32 offset;
    u32 row;

    // Row 0 of the matrix starts at `base`; rows are `stride` elements apart.
    DEVICE TileCopy(const T* base, u32 row_stride) {
        u32 chunk = threadIdx.x % CHUNKS;
        row = threadIdx.x / CHUNKS;
        stride = row_stride;
        source = base + u64(row) * stride + chunk * 8;
        offset = chunk / 8 * Tile<ROWS, D>::PANEL + row * ROW_BYTES + (((chunk ^ row) & 7) << 4);
    }

    // Starts the copy of rows first .. first + ROWS to the tile at `target`; rows from `limit` on become zero. `shift`
    // elements on lies another matrix of the same rows: values next to keys.
    DEVICE void start(u32 target, u32 first, u32 limit, u32 shift = 0) const {
        const T* p = source + u64(first) * stride + shift;
        if (first + ROWS <= limit) {
#pragma unroll
            for (u32 i = 0; i < ROWS / STEP; i++) {
                cp_async_16(target + offset + i * STEP * ROW_BYTES, p, true);
                p += u64(STEP) * stride;
            }
        } else {
#pragma unroll
            for (u32 i = 0; i < ROWS / STEP; i++) {
                bool valid = first + row + i * STEP < limit;
                cp_async_16(target + offset + i * STEP * ROW_BYTES, p, valid);
                p += u64(STEP) * stride;
            }
        }
    }
};

// The part of an address that a lane adds for ldmatrix.
struct LaneOffsets {
    // Rows of a tile as rows of A [16 rows, 16 k], or the tile transposed, [16 k, 16 columns], as B.
    u32 rows;
    // Rows of a tile as columns of B: B[k, n] = tile[n, k], two n-tiles of 8.
    u32 columns;

    DEVICE LaneOffsets() {
        u32 lane = lane_id();
        u32 r = lane & 15;
        rows = r * ROW_BYTES + (((lane >> 4) ^ (r & 7)) << 4);
        u32 c = (lane & 7) + (lane >> 4 << 3);
        columns = c * ROW_BYTES + ((((lane >> 3) & 1) ^ (c & 7)) << 4);
    }
};

// The address of the 16 columns number `k` of a tile of ROWS rows, from a lane's address in the tile.
template <int ROWS, int D> DEVICE u32 at_columns(u32 address, int k) {
    return (address ^ ((k & 3) << 5)) + (k >> 2) * Tile<ROWS, D>::PANEL;
}

template <int M, int N> DEVICE void clear(float (&x)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; m++) {
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) x[m][n][i] = 0.0f;
        }
    }
}

// Reads all fragments of MT * 16 rows of a tile, as A.
template <int ROWS, int D, int MT> DEVICE void load_rows(u32 (&a)[MT][D / 16][4], u32 address) {
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            u32 at = at_columns<ROWS, D>(address, k) + m * STEP_BYTES;
            ldmatrix_x4(a[m][k][0], a[m][k][1], a[m][k][2], a[m][k][3], at);
        }
    }
}

// s = A tile^T for A in registers: the scores of MT * 16 rows with the NT * 8 rows of the tile at `columns`.
template <class T, int ROWS, int D, int MT, int NT>
DEVICE void scores(float (&s)[MT][NT][4], const u32 (&a)[MT][D / 16][4], u32 columns) {
    clear(s);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        u32 at = at_columns<ROWS, D>(columns, k);
#pragma unroll
        for (int n = 0; n < NT / 2; n++) {
            u32 b[4];
            ldmatrix_x4(b[0], b[1], b[2], b[3], at + n * STEP_BYTES);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_m16n8k16<T>(s[m][2 * n], a[m][k], b[0], b[1]);
                mma_m16n8k16<T>(s[m][2 * n + 1], a[m][k], b[2], b[3]);
            }
        }
    }
}

// The same with A read from a tile of A_ROWS rows at `rows` on the way: where registers are short.
template <class T, int A_ROWS, int ROWS, int D, int MT, int NT>
DEVICE void scores_from_shared(float (&s)[MT][NT][4], u32 rows, u32 columns) {
    clear(s);
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        u32 a[MT][4];
#pragma unroll
        for (int m = 0; m < MT; m++) {
            u32 at = at_columns<A_ROWS, D>(rows, k) + m * STEP_BYTES;
            ldmatrix_x4(a[m][0], a[m][1], a[m][2], a[m][3], at);
        }
        u32 at = at_columns<ROWS, D>(columns, k);
#pragma unroll
        for (int n = 0; n < NT / 2; n++) {
            u32 b[4];
            ldmatrix_x4(b[0], b[1], b[2], b[3], at + n * STEP_BYTES);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_m16n8k16<T>(s[m][2 * n], a[m], b[0], b[1]);
                mma_m16n8k16<T>(s[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// P [MT * 16, NT * 8] in the layout of a product, as fragments of A for the next one: two neighbouring n-tiles are one
// fragment. Register 2 j + r of fragment k has row r and the n-tile 2 k + j.
template <class T, int MT, int NT> DEVICE void to_rows(u32 (&a)[MT][NT / 2][4], const float (&p)[MT][NT][4]) {
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int k = 0; k < NT / 2; k++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&x)[4] = p[m][2 * k + (i >> 1)];
                a[m][k][i] = pack2<T>(x[2 * (i & 1)], x[2 * (i & 1) + 1]);
            }
        }
    }
}

// out += A tile for A [MT * 16, KT * 16] and the KT * 16 rows of the tile at `rows`.
template <class T, int ROWS, int D, int MT, int KT>
DEVICE void add_product(float (&out)[MT][D / 8][4], const u32 (&a)[MT][KT][4], u32 rows) {
#pragma unroll
    for (int k = 0; k < KT; k++) {
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            u32 b[4];
            ldmatrix_x4_trans(b[0], b[1], b[2], b[3], at_columns<ROWS, D>(rows, n) + k * STEP_BYTES);
#pragma unroll
            for (int m = 0; m < MT; m++) {
                mma_m16n8k16<T>(out[m][2 * n], a[m][k], b[0], b[1]);
                mma_m16n8k16<T>(out[m][2 * n + 1], a[m][k], b[2], b[3]);
            }
        }
    }
}

// Writes MT * 16 rows of results to global memory, 16 bytes a lane, by way of the rows of a tile that belong to this
// warp and are no longer needed. `tile` is the tile, `first` the warp's first row in it; `target` is the element of
// that row and column 0 in global memory, rows `stride` apart; the first `valid` rows are written.
template <class T, int ROWS, int D, int MT>
DEVICE void store_rows(const float (&x)[MT][D / 8][4], float (&factor)[MT][2], u32 tile, u32 first, T* target,
                       u32 stride, i32 valid) {
    u32 lane = lane_id();
    u32 g = lane >> 2, t = lane & 3;
    sync_warp();
#pragma unroll
    for (int m = 0; m < MT; m++) {
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            u32 at = tile + n / 8 * Tile<ROWS, D>::PANEL + (first + m * 16 + g) * ROW_BYTES;
            at += (((n ^ g) & 7) << 4) + t * 4;
            st_shared_u32(at, pack2<T>(x[m][n][0] * factor[m][0], x[m][n][1] * factor[m][0]));
            st_shared_u32(at + 8 * ROW_BYTES, pack2<T>(x[m][n][2] * factor[m][1], x[m][n][3] * factor[m][1]));
        }
    }
    sync_warp();
    constexpr u32 CHUNKS = D / 8;
    u32 chunk = lane % CHUNKS;
#pragma unroll
    for (u32 i = 0; i < MT * 16 * CHUNKS / WARP; i++) {
        u32 row = i * (WARP / CHUNKS) + lane / CHUNKS;
        u32 at = tile + chunk / 8 * Tile<ROWS, D>::PANEL + (first + row) * ROW_BYTES + (((chunk ^ row) & 7) << 4);
        if (i32(row) < valid) store16_from_shared(target + u64(row) * stride + chunk * 8, at);
    }
}

// The dropout mask of one head of one sequence: element (q, k) is element (h * T + q) * T8 + k of the sequence, T8
// being T rounded up to a multiple of 8. One Philox block holds eight keys of a query. All functions give 0 and 1 bits.
struct HeadMask {
    Mask mask;
    u32 sequence;
    // Blocks of eight keys in a row of T8, and the row of query 0 of this head: h * T.
    u32 blocks, first;

    DEVICE HeadMask(const Mask& m, u32 sequence_index, u32 t, u32 h) : mask(m), sequence(sequence_index) {
        blocks = (t + 7) / 8;
        first = h * t;
    }

    DEVICE u32 eight(u32 query, u32 key) const { return mask16(mask, sequence, u64(first + query) * blocks + key / 8); }

    // For a product's layout with 16 queries as rows and 16 keys as columns (two n-tiles): each lane draws one block of
    // eight, a quad shares its four. Bit 8 (r + 2 j) + c stands for row g + 8 r, column 8 j + 2 t + c.
    DEVICE u32 query_rows(u32 first_query, u32 first_key) const {
        u32 lane = lane_id();
        u32 g = lane >> 2, t = lane & 3;
        u32 kept = eight(first_query + g + 8 * (t & 1), first_key + 8 * (t >> 1)) << (8 * t);
        kept |= shfl_xor(kept, 1);
        kept |= shfl_xor(kept, 2);
        return kept >> (2 * t);
    }

    // For a product's layout with 16 keys as rows and 16 queries as columns: lanes 8 t .. 8 t + 8 draw what lanes of
    // column t need. Bit 8 (r + 2 c) of word j stands for row g + 8 r, column 8 j + 2 t + c.
    DEVICE void key_rows(u32 (&kept)[2], u32 first_key, u32 first_query) const {
        u32 lane = lane_id();
        u32 g = lane >> 2, t = lane & 3;
        u32 r = lane & 1, c = (lane >> 1) & 1, j = (lane >> 2) & 1;
        u32 four = eight(first_query + 8 * j + 2 * (lane >> 3) + c, first_key + 8 * r) << (8 * (lane & 3));
        four |= shfl_xor(four, 1);
        four |= shfl_xor(four, 2);
        kept[0] = shfl(four, 8 * t) >> g;
        kept[1] = shfl(four, 8 * t + 4) >> g;
    }
};

}  // namespace attention
