// AdamW (Loshchilov and Hutter, "Decoupled weight decay regularization", 2019) over the flat arena: one pass.
// Definition: src/ops/adamw/cpu.rs.
//
// adamw_factors(record, factors, beta1, beta2, weight_decay)
//   What is the same for all elements, of the learning rate and the number of the update in `record` (step.cuh), which
//   gradnorm_finish wrote: bias corrections and decay, in double. Grid 1, block 32, one thread of it works. Latency only.
// adamw_update_T(p, g, m, v, compute, decays, n, factors, beta1, beta2, one_minus_beta1, one_minus_beta2, eps)
//   f32 [n]: master weights p, gradients g, moments m and v. T [n]: the compute copy that p is rounded to; it may be null.
//   decays u8 [ceil(n / 16)]: whether the granule of 16 elements belongs to a parameter that decays (parameters start on
//   multiples of 16). If the factors say that nothing is to be applied, nothing is touched.
//   Grid ceil(n / 2048), block 256: 8 elements a thread. Bytes: 28 n, and 2 n for a 16-bit compute copy; the floor is bytes /
//   bandwidth.
//
// gate: adamw_update_* registers=64 wide
#include "taper.cuh"
#include "step.cuh"

// Five words: src/ops/adamw/cuda.rs makes room for them.
struct AdamWFactors {
    float step_size;          // lr / (1 - beta1^t)
    float sqrt_correction2;   // sqrt(1 - beta2^t)
    float keep;               // 1 - lr weight_decay, for parameters that decay
    float grad_scale;         // what gradients are multiplied with
    u32 applied;              // 1 if the update is made
};

// x^n by repeated squaring, as src/math.rs has it.
DEVICE double power(double x, u32 n) {
    double result = 1.0;
    for (; n > 0; n >>= 1) {
        if (n & 1) result *= x;
        x *= x;
    }
    return result;
}

KERNEL(32)
adamw_factors(const StepRecord* record, AdamWFactors* factors, double beta1, double beta2, double weight_decay) {
    if (threadIdx.x != 0) return;
    u32 t = record->updates;
    double lr = record->lr;
    factors->step_size = float(lr / (1.0 - power(beta1, t)));
    factors->sqrt_correction2 = float(sqrt(1.0 - power(beta2, t)));
    factors->keep = float(1.0 - lr * weight_decay);
    factors->grad_scale = record->grad_scale;
    factors->applied = record->applied;
}
TAPER_KERNEL(adamw_factors, 32)

template <class T>
DEVICE void adamw_update(float* p, const float* g, float* m, float* v, T* compute, const u8* decays, u64 n,
                         const AdamWFactors* factors, float beta1, float beta2, float one_minus_beta1,
                         float one_minus_beta2, float eps) {
    constexpr int N = 8;
    if (!factors->applied) return;
    u64 at = (u64(blockIdx.x) * blockDim.x + threadIdx.x) * N;
    if (at >= n) return;
    u32 valid = valid_of<N>(at, n);
    bool is_wide = valid == N && is_aligned16(p) && is_aligned16(g) && is_aligned16(m) && is_aligned16(v) &&
                is_aligned16(compute);
    with_width(is_wide, [&](bool wide) {
        float grad_scale = factors->grad_scale, step_size = factors->step_size;
        float sqrt_correction2 = factors->sqrt_correction2, keep = decays[at / 16] ? factors->keep : 1.0f;
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
                        const AdamWFactors* factors, float beta1, float beta2, float one_minus_beta1,                     \
                        float one_minus_beta2, float eps) {                                                            \
        adamw_update(p, g, m, v, compute, decays, n, factors, beta1, beta2, one_minus_beta1, one_minus_beta2, eps);     \
    }                                                                                                                  \
    TAPER_KERNEL(adamw_update_##name, 256)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
