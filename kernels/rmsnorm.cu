// RMS normalization over rows of C elements, with the residual addition before it and the residual gradient after it.
// The maths is in norm.cuh. Definition: src/ops/rmsnorm/cpu.rs.
//
// rmsnorm_forward_T(out, sum, rstd, x, add, weight, eps, rows, width)
//   As layernorm_forward_T without mean and bias. Grid ceil(N / 4), block 128.
//   Bytes: 2 C (in) + 2 C (out) elements a row with the addition, C + C without; the floor is bytes / bandwidth.
// rmsnorm_backward_T(dx, partial, dy, x, weight, rstd, residual, rows, width, rows_per_block)
//   As layernorm_backward_T; partial f32 [G, C], then reduce_columns(dweight, partial, G, C, C).
//   Grid G, block: the packs of a row rounded up to 32, at most 512.
//   Bytes: 3 C (in) + C (out) elements a row, and 8 C / rows_per_block for the partial sums.
//
// gate: rmsnorm_forward_* registers=112 wide
// gate: rmsnorm_backward_* registers=128 wide
#include "norm.cuh"

#define INSTANCES(T, name)                                                                                             \
    KERNEL(128)                                                                                                        \
    rmsnorm_forward_##name(T* out, T* sum, float* rstd, const T* x, const T* add, const T* weight, float eps,          \
                           u32 rows, u32 width) {                                                                      \
        norm_forward<T, false>(out, sum, nullptr, rstd, x, add, weight, nullptr, eps, rows, width);                    \
    }                                                                                                                  \
    TAPER_KERNEL(rmsnorm_forward_##name, 128)                                                                          \
    KERNEL(512)                                                                                                        \
    rmsnorm_backward_##name(T* dx, float* partial, const T* dy, const T* x, const T* weight, const float* rstd,        \
                            const T* residual, u32 rows, u32 width, u32 rows_per_block) {                              \
        norm_backward<T, false>(dx, partial, dy, x, weight, nullptr, rstd, residual, rows, width, rows_per_block);     \
    }                                                                                                                  \
    TAPER_KERNEL(rmsnorm_backward_##name, 512)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
