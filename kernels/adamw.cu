// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) over the flat arena: one pass.
// Definition: src/ops/adamw/cpu.rs.
//
// adamw_update_T(p, g, m, v, compute, decays, n, record, beta1, beta2, one_minus_beta1, one_minus_beta2, eps)
//   f32 [n]: master weights p, gradients g, moments m and v. T [n]: the compute copy that p is rounded to; it may be null.
//   decays u8 [ceil(n / 16)]: whether the granule of 16 elements belongs to a parameter that decays (parameters start on
//   multiples of 16). The rest comes from `record` (step.cuh), which gradnorm_finish wrote: if it says that nothing is to be
//   applied, nothing is touched.
//   Grid ceil(n / 2048), block 256: 8 elements a thread. Bytes: 28 n, and 2 n for a 16-bit compute copy; the floor is bytes /
//   bandwidth.
//
// gate: adamw_* registers=64 wide
#include "taper.cuh"
#include "step.cuh"

template <class T>
DEVICE void adamw_update(float* p, const float* g, float* m, float* v, T* compute, const u8* decays, u64 n,
                         const StepRecord* record, float beta1, float beta2, float one_minus_beta1,
                         float one_minus_beta2, float eps) {
    constexpr int N = 8;
    if (!record->applied) return;
    u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (at >= n) return;
    u32 valid = valid_of<N>(at, n);
    bool is_wide = valid == N && is_aligned16(p) && is_aligned16(g) && is_aligned16(m) && is_aligned16(v) &&
                is_aligned16(compute);
    with_width(is_wide, [&](bool wide) {
        float grad_scale = record->grad_scale, step_size = record->step_size;
        float sqrt_correction2 = record->sqrt_correction2, keep = decays[at / 16] ? record->keep : 1.0f;
        float ps[N], gs[N], ms[N], vs[N];
        load_values(ps, p + at, wide, valid);
        load_values(gs, g + at, wide, valid);
        load_values(ms, m + at, wide, valid);
        load_values(vs, v + at, wide, valid);
#pragma unroll
        for (int j = 0; j < N; j++) {
            float grad = gs[j] * grad_scale;
            ms[j] = beta1 * ms[j] + one_minus_beta1 * grad;
            vs[j] = beta2 * vs[j] + one_minus_beta2 * (grad * grad);
            float denominator = sqrtf(vs[j]) / sqrt_correction2 + eps;
            ps[j] = ps[j] * keep - step_size * (ms[j] / denominator);
        }
        store_values(p + at, ps, wide, valid);
        store_values(m + at, ms, wide, valid);
        store_values(v + at, vs, wide, valid);
        if (compute != nullptr) store_values(compute + at, ps, wide, valid);
    });
}

#define INSTANCES(T, name)                                                                                             \
    KERNEL(256)                                                                                                        \
    adamw_update_##name(float* p, const float* g, float* m, float* v, T* compute, const u8* decays, u64 n,             \
                        const StepRecord* record, float beta1, float beta2, float one_minus_beta1,                     \
                        float one_minus_beta2, float eps) {                                                            \
        adamw_update(p, g, m, v, compute, decays, n, record, beta1, beta2, one_minus_beta1, one_minus_beta2, eps);     \
    }                                                                                                                  \
    TAPER_KERNEL(adamw_update_##name, 256)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
