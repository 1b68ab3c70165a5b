// Rotary positions on the query and key heads of packed rows, in place. Definition: src/ops/rope/cpu.rs.
//
// rope_rotate_T(qkv, cos, sin, rows, time, rotated_heads, packed, head_dim, first_position, direction, pasts, begins)
//   qkv [B T, packed]: the first `rotated_heads` (H + K) heads of `head_dim` elements of row i are turned by the angles of
//   position first_position + i % time, from cos and sin f32 [positions, head_dim / 2]. With x and y the halves of a head:
//   x' = x cos - y sin, y' = y cos + x sin; `direction` (1 or -1) multiplies sin, and -1 is both the inverse and the
//   gradient. Where `pasts` u32 [B] is not null, each sequence has its own first position there (past_of in reduce.cuh).
//   begins u32 [rows], unless null: where in its sequence the document of row i begins, from which its position counts.
//   Grid ceil(rows rotated_heads ceil(head_dim / 2 / N) / 256), block 256, N elements in 16 bytes.
//   Bytes: 2 (H + K) D elements a row; the tables (8 bytes for a pair) stay in the caches. The floor is bytes / bandwidth.
//
// gate: rope_* registers=64 wide
#include "taper.cuh"

template <class T>
DEVICE void rope_rotate(T* qkv, const float* cos, const float* sin, u32 rows, u32 time, u32 rotated_heads, u32 packed,
                        u32 head_dim, u32 first_position, float direction, const u32* pasts, const u32* begins) {
    constexpr int N = Pack<T>::N;
    u32 half = head_dim / 2, packs = (half + N - 1) / N;
    u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x;
    u32 in_row = rotated_heads * packs, row = u32(i / in_row), rest = u32(i % in_row);
    if (row >= rows) return;
    u32 head = rest / packs, column = rest % packs * N;
    u32 valid = valid_of<N>(column, half);
    bool is_wide = half % N == 0 && packed % N == 0 && is_aligned16(qkv) && is_aligned16(cos) && is_aligned16(sin);
    with_width(is_wide, [&](bool wide) {
        T* first = qkv + u64(row) * packed + head * head_dim + column;
        u32 position = position_of(pasts, begins, row, time, first_position);
        u64 angle = u64(position) * half + column;
        float x[N], y[N], c[N], s[N];
        load_values(x, first, wide, valid);
        load_values(y, first + half, wide, valid);
        load_values(c, cos + angle, wide, valid);
        load_values(s, sin + angle, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) {
            float turned = direction * s[j], old = x[j];
            x[j] = old * c[j] - y[j] * turned;
            y[j] = y[j] * c[j] + old * turned;
        }
        store_values(first, x, wide, valid);
        store_values(first + half, y, wide, valid);
    });
}

#define INSTANCES(T, name)                                                                                             \
    KERNEL(256)                                                                                                        \
    rope_rotate_##name(T* qkv, const float* cos, const float* sin, u32 rows, u32 time, u32 rotated_heads, u32 packed,  \
                       u32 head_dim, u32 first_position, float direction, const u32* pasts, const u32* begins) {       \
        rope_rotate(qkv, cos, sin, rows, time, rotated_heads, packed, head_dim, first_position, direction, pasts,      \
                    begins);                                                                                           \
    }                                                                                                                  \
    TAPER_KERNEL(rope_rotate_##name, 256)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
