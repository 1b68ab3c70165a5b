// Token and position embedding, and their gradients without atomics. Definition: src/ops/embedding/cpu.rs.
//
// embedding_forward_T(out, tokens, wte, wpe, rows, time, first_position, width, pasts, begins)
//   out [N, C] = wte[tokens[i]] + wpe[first_position + i % time]; `wpe` may be null. tokens u32 [N] are below the vocabulary.
//   Where `pasts` u32 [N / time] is not null, each sequence has its own first position there (past_of in reduce.cuh).
//   begins u32 [N], unless null: where in its sequence the document of row i begins, from which its position counts.
//   Grid ceil(N ceil(C / W) / 256), block 256, W elements in 16 bytes. Bytes: 2 C elements a row (3 C with positions, whose
//   rows stay in the caches), and 4 for the token.
//
// The gradient of a token's row is the sum over all its places. The host, which knows the tokens, sorts the places by
// (token, place) into `order` u32 [N] and cuts the run of each token into segments of at most SEGMENT (64) places, so that a
// frequent token keeps many blocks busy, not one. A token with one segment adds it to the gradient at once; the sums of
// longer runs go to scratch rows and are added in order by a second kernel. Everything has one owner and a fixed order.
// embedding_backward_tokens_T(dwte, scratch, dy, order, segments, width)
//   segments u32 [S, 3]: start and end in `order`, and the target: a token id, or 0x80000000 + a row of `scratch`.
//   An empty segment (start = end) does nothing: lists may be padded to a fixed grid. dwte f32 [V, C] is added to, scratch
//   f32 [.., C] is written. Grid S, block: ceil(C / W) rounded up to 32, at most 256.
//   Bytes: N C elements of dy, 8 C for each token that occurs, 4 C / 64 a place for scratch.
// embedding_backward_owners(dwte, scratch, owners, width)
//   owners u32 [O, 3]: token, first and one past the last scratch row; an empty range does nothing. Grid O, block 256.
// embedding_backward_positions_T(dwpe, dy, batch, time, width)
//   dwpe f32 [time, C] (from first_position on) += dy [B, time, C] summed over B in order. Grid ceil(time ceil(C / W) / 256),
//   block 256. Bytes: B T C elements of dy and 8 T C.
//
// gate: embedding_* registers=48 wide
#include "taper.cuh"

#define SCRATCH_TARGET 0x80000000u

template <class T>
DEVICE void embedding_forward(T* out, const u32* tokens, const T* wte, const T* wpe, u32 rows, u32 time,
                              u32 first_position, u32 width, const u32* pasts, const u32* begins) {
    constexpr int N = Pack<T>::N;
    u32 packs = (width + N - 1) / N, p = blockIdx.x * blockDim.x + threadIdx.x;
    u32 row = p / packs, column = p % packs * N;
    if (row >= rows) return;
    u32 valid = valid_of<N>(column, width);
    bool is_wide = width % N == 0 && is_aligned16(out) && is_aligned16(wte) && is_aligned16(wpe);
    with_width(is_wide, [&](bool wide) {
        float x[N], y[N];
        load_values(x, wte + u64(tokens[row]) * width + column, wide, valid);
        if (wpe != nullptr) {
            u32 position = position_of(pasts, begins, row, time, first_position);
            load_values(y, wpe + u64(position) * width + column, wide, valid);
#pragma unroll
            for (int j = 0; j < N; j++) x[j] += y[j];
        }
        store_values(out + u64(row) * width + column, x, wide, valid);
    });
}

template <class T>
DEVICE void embedding_backward_tokens(float* dwte, float* scratch, const T* dy, const u32* order, const u32* segments,
                                      u32 width) {
    constexpr int N = Pack<T>::N;
    u32 start = segments[3 * blockIdx.x], end = segments[3 * blockIdx.x + 1], target = segments[3 * blockIdx.x + 2];
    if (start >= end) return;
    bool whole = target < SCRATCH_TARGET;
    float* to = whole ? dwte + u64(target) * width : scratch + u64(target - SCRATCH_TARGET) * width;
    bool is_wide = width % N == 0 && is_aligned16(dy) && is_aligned16(dwte) && is_aligned16(scratch);
    with_width(is_wide, [&](bool wide) {
        for (u32 column = threadIdx.x * N; column < width; column += blockDim.x * N) {
            u32 valid = valid_of<N>(column, width);
            float sum[N] = {};
            // Four rows under way at once; their values are still added in order.
#pragma unroll 4
            for (u32 i = start; i < end; i++) {
                float x[N];
                load_values(x, dy + u64(order[i]) * width + column, wide, valid);
#pragma unroll
                for (int j = 0; j < N; j++) sum[j] += x[j];
            }
            if (whole) {
                float old[N];
                load_values(old, to + column, wide, valid);
#pragma unroll
                for (int j = 0; j < N; j++) sum[j] += old[j];
            }
            store_values(to + column, sum, wide, valid);
        }
    });
}

template <class T> DEVICE void embedding_backward_positions(float* dwpe, const T* dy, u32 batch, u32 time, u32 width) {
    constexpr int N = Pack<T>::N;
    u32 packs = (width + N - 1) / N, p = blockIdx.x * blockDim.x + threadIdx.x;
    u32 t = p / packs, column = p % packs * N;
    if (t >= time) return;
    u32 valid = valid_of<N>(column, width);
    bool is_wide = width % N == 0 && is_aligned16(dy) && is_aligned16(dwpe);
    with_width(is_wide, [&](bool wide) {
        float sum[N];
        load_values(sum, dwpe + u64(t) * width + column, wide, valid);
#pragma unroll 4
        for (u32 b = 0; b < batch; b++) {
            float x[N];
            load_values(x, dy + (u64(b) * time + t) * width + column, wide, valid);
#pragma unroll
            for (int j = 0; j < N; j++) sum[j] += x[j];
        }
        store_values(dwpe + u64(t) * width + column, sum, wide, valid);
    });
}

KERNEL(256) embedding_backward_owners(float* dwte, const float* scratch, const u32* owners, u32 width) {
    constexpr int N = 4;
    u32 first = owners[3 * blockIdx.x + 1], end = owners[3 * blockIdx.x + 2];
    if (first >= end) return;
    float* to = dwte + u64(owners[3 * blockIdx.x]) * width;
    bool is_wide = width % N == 0 && is_aligned16(dwte) && is_aligned16(scratch);
    with_width(is_wide, [&](bool wide) {
        for (u32 column = threadIdx.x * N; column < width; column += blockDim.x * N) {
            u32 valid = valid_of<N>(column, width);
            float sum[N];
            load_values(sum, to + column, wide, valid);
#pragma unroll 4
            for (u32 row = first; row < end; row++) {
                float x[N];
                load_values(x, scratch + u64(row) * width + column, wide, valid);
#pragma unroll
                for (int j = 0; j < N; j++) sum[j] += x[j];
            }
            store_values(to + column, sum, wide, valid);
        }
    });
}
TAPER_KERNEL(embedding_backward_owners, 256)

#define INSTANCES(T, name)                                                                                             \
    KERNEL(256)                                                                                                        \
    embedding_forward_##name(T* out, const u32* tokens, const T* wte, const T* wpe, u32 rows, u32 time,                \
                             u32 first_position, u32 width, const u32* pasts, const u32* begins) {                     \
        embedding_forward(out, tokens, wte, wpe, rows, time, first_position, width, pasts, begins);                    \
    }                                                                                                                  \
    TAPER_KERNEL(embedding_forward_##name, 256)                                                                        \
    KERNEL(256)                                                                                                        \
    embedding_backward_tokens_##name(float* dwte, float* scratch, const T* dy, const u32* order, const u32* segments,  \
                                     u32 width) {                                                                      \
        embedding_backward_tokens(dwte, scratch, dy, order, segments, width);                                          \
    }                                                                                                                  \
    TAPER_KERNEL(embedding_backward_tokens_##name, 256)                                                                \
    KERNEL(256)                                                                                                        \
    embedding_backward_positions_##name(float* dwpe, const T* dy, u32 batch, u32 time, u32 width) {                    \
        embedding_backward_positions(dwpe, dy, batch, time, width);                                                    \
    }                                                                                                                  \
    TAPER_KERNEL(embedding_backward_positions_##name, 256)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
