// Softmax and cross-entropy over rows of logits, the gradient in place of the logits. Definition: src/ops/classifier/cpu.rs.
//
// classifier_loss_T(losses, logits, targets, vocabulary, stride)
//   losses f32 [R] = logsumexp(row) - row[target], in nats; 0 for the target IGNORE (0xffffffff). logits [R, stride]: the
//   columns from `vocabulary` on are padding and are not looked at.
// classifier_gradient_T(losses, logits, targets, vocabulary, stride, weights, scale, state)
//   The same, and the logits become (softmax - onehot) scale, times state->loss_scale where `state` is not null, and times
//   weights f32 [R] where they are not null (the losses are without them); padding and ignored rows become 0.
// Grid R, block 1024 (any multiple of 32 works; small vocabularies want fewer). One block for a row: every thread keeps a
// running maximum and sum (online softmax), which meet once. The second pass goes through the row backwards, so that what
// was read last, and is still in the caches, comes first.
// Bytes: 1 V element a row for the loss; 2 V (read once from memory, written once) with the gradient; the second read comes
// from the second-level cache (two rows of 100 KB for each multiprocessor). The floor is bytes / bandwidth.
//
// gate: classifier_* registers=32 wide
#include "taper.cuh"
#include "step.cuh"

#define IGNORE_TARGET 0xffffffffu

// A maximum and the sum of exp(x - maximum) below it; the pairs of two sets meet by `join`.
struct Softmax {
    float max, sum;
};

template <class T> DEVICE void join(Softmax& a, Softmax b) {
    float max = max_nan(a.max, b.max);
    // Nothing seen yet: exp(-inf - -inf) would be NaN.
    float left = a.max == -INFINITY_F ? 0.0f : a.sum * exp_for<T>(a.max - max);
    float right = b.max == -INFINITY_F ? 0.0f : b.sum * exp_for<T>(b.max - max);
    a.max = max;
    a.sum = left + right;
}

template <class T> DEVICE void warp_join(Softmax& x) {
#pragma unroll
    for (u32 mask = WARP / 2; mask > 0; mask /= 2) {
        Softmax other = {shfl_xor(x.max, mask), shfl_xor(x.sum, mask)};
        // Both sides of a pair must join in one order, or their sums could differ in the last bit.
        Softmax low = lane_id() & mask ? other : x, high = lane_id() & mask ? x : other;
        join<T>(low, high);
        x = low;
    }
}

template <class T, bool GRADIENT>
DEVICE void classifier(float* losses, T* logits, const u32* targets, u32 vocabulary, u32 stride, float scale) {
    constexpr int N = Pack<T>::N;
    SHARED_ARRAY(Softmax, warps, WARP);
    T* row = logits + u64(blockIdx.x) * stride;
    u32 target = targets[blockIdx.x], packs = (vocabulary + N - 1) / N, all_packs = (stride + N - 1) / N;
    bool wide_rows = stride % N == 0 && is_aligned16(logits);
    if (target == IGNORE_TARGET) {
        if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
        float zeros[N] = {};
        for (u32 p = threadIdx.x; GRADIENT && p < all_packs; p += blockDim.x) {
            store_values(row + p * N, zeros, wide_rows, valid_of<N>(p * N, stride));
        }
        return;
    }

    Softmax own = {-INFINITY_F, 0.0f};
    for (u32 p = threadIdx.x; p < packs; p += blockDim.x) {
        u32 valid = valid_of<N>(p * N, vocabulary);
        float x[N];
        load_values(x, row + p * N, wide_rows, valid);
        if (valid < N) {
#pragma unroll
            for (u32 j = 0; j < N; j++) x[j] = j < valid ? x[j] : -INFINITY_F;
        }
        float max = own.max;
#pragma unroll
        for (int j = 0; j < N; j++) max = max_nan(max, x[j]);
        if (max == -INFINITY_F) continue;
        float sum = own.max == -INFINITY_F ? 0.0f : own.sum * exp_for<T>(own.max - max);
#pragma unroll
        for (int j = 0; j < N; j++) sum += exp_for<T>(x[j] - max);
        own.max = max;
        own.sum = sum;
    }
    warp_join<T>(own);
    if (lane_id() == 0) warps[warp_id()] = own;
    float label = to_f32(row[target]);
    // Also keeps the label safe from the gradient that is about to overwrite it.
    sync_threads();
    Softmax total = {-INFINITY_F, 0.0f};
    if (lane_id() < blockDim.x / WARP) total = warps[lane_id()];
    warp_join<T>(total);
    if (threadIdx.x == 0) losses[blockIdx.x] = total.max + logf(total.sum) - label;
    if (!GRADIENT) return;

    float factor = scale / total.sum;
    // From the last pack of this thread back to its first.
    u32 last = threadIdx.x < all_packs ? threadIdx.x + (all_packs - 1 - threadIdx.x) / blockDim.x * blockDim.x : 0;
    for (u32 p = last; p < all_packs && threadIdx.x < all_packs; p -= blockDim.x) {
        u32 valid = valid_of<N>(p * N, vocabulary);
        float x[N];
        load_values(x, row + p * N, wide_rows, valid_of<N>(p * N, stride));
#pragma unroll
        for (u32 j = 0; j < N; j++) {
            float y = exp_for<T>(x[j] - total.max) * factor;
            if (p * N + j == target) y -= scale;
            x[j] = j < valid ? y : 0.0f;
        }
        store_values(row + p * N, x, wide_rows, valid_of<N>(p * N, stride));
    }
}

#define INSTANCES(T, name)                                                                                             \
    KERNEL(1024)                                                                                                       \
    classifier_loss_##name(float* losses, const T* logits, const u32* targets, u32 vocabulary, u32 stride) {           \
        classifier<T, false>(losses, const_cast<T*>(logits), targets, vocabulary, stride, 0.0f);                       \
    }                                                                                                                  \
    TAPER_KERNEL(classifier_loss_##name, 1024)                                                                         \
    KERNEL(1024)                                                                                                       \
    classifier_gradient_##name(float* losses, T* logits, const u32* targets, u32 vocabulary, u32 stride,               \
                               const float* weights, float scale, const StepState* state) {                            \
        float of_row = scale * (state == nullptr ? 1.0f : state->loss_scale);                                          \
        if (weights != nullptr) of_row *= weights[blockIdx.x];                                                         \
        classifier<T, true>(losses, logits, targets, vocabulary, stride, of_row);                                      \
    }                                                                                                                  \
    TAPER_KERNEL(classifier_gradient_##name, 1024)

INSTANCES(float, f32)
INSTANCES(bf16, bf16)
INSTANCES(f16, f16)
