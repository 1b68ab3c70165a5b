// Layer normalization over rows of C elements, with the residual addition before it and the residual gradient after it.
// The maths is in norm.cuh. Definition: src/ops/layernorm/cpu.rs.
//
// layernorm_forward_T(out, sum, mean, rstd, x, add, weight, bias, eps, rows, width)
//   out [N, C] = norm(x + add) weight + bias, sum [N, C] = x + add rounded to T, mean and rstd f32 [N]. `add` may be null:
//   then `sum` is not written. `bias` may be null. `sum` may be x or add. Grid ceil(N / 4), block 128.
//   Bytes: 2 C (in) + 2 C (out) elements a row with the addition, C + C without; the floor is bytes / bandwidth.
// layernorm_backward_T(dx, partial, dy, x, weight, mean, rstd, residual, rows, width, rows_per_block)
//   dx [N, C] = the gradient of x, plus `residual` where it is not null; dx may be dy or residual. partial f32 [G, 2, C]
//   gets the sums for weight and bias of each of the G = ceil(N / rows_per_block) blocks; then
//   reduce_columns(dweight, partial, G, C, 2 C) and reduce_columns(dbias, partial + C, G, C, 2 C) add them.
//   Grid G, block: the packs of a row (C / 8, or C / 4 in f32) rounded up to 32, at most 512.
//   Bytes: 3 C (in) + C (out) elements a row, and 16 C / rows_per_block for the partial sums.
//
// gate: layernorm_forward_* registers=112 wide
// gate: layernorm_backward_* registers=128 wide
#include "norm.cuh"

#define INSTANCES(T, name)                                                                                             \
    KERNEL(128)                                                                                                        \
    layernorm_forward_##name(T* out, T* sum, float* mean, float* rstd, const T* x, const T* add, const T* weight,      \
                             const T* bias, float eps, u32 rows, u32 width) {                                          \
        norm_forward<T, true>(out, sum, mean, rstd, x, add, weight, bias, eps, rows, width);                           \
    }                                                                                                                  \
    TAPER_KERNEL(layernorm_forward_##name, 128)                                                                        \
    KERNEL(512)                                                                                                        \
    layernorm_backward_##name(T* dx, float* partial, const T* dy, const T* x, const T* weight, const float* mean,      \
                              const float* rstd, const T* residual, u32 rows, u32 width, u32 rows_per_block) {         \
        norm_backward<T, true>(dx, partial, dy, x, weight, mean, rstd, residual, rows, width, rows_per_block);         \
    }                                                                                                                  \
    TAPER_KERNEL(layernorm_backward_##name, 512)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
