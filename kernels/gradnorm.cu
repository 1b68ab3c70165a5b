// The norm of all gradients, what kind of step that makes, and whether it is applied: without the host.
// Definition: src/ops/gradnorm and src/optim/guard.
//
// gradnorm_partial(grads, n, first, partial_sums, partial_bad)
//   For each chunk from chunk `first` on, as many as there are blocks: of CHUNK (16384) elements of grads f32 [n], as they are (scaled by the loss scale): the sum of squares in
//   a fixed order, and the first index of an element that is not finite (~0 if all are). Grid ceil(n / 16384), block 256.
//   Bytes: 4 n; the floor is bytes / bandwidth.
// gradnorm_finish(partial_sums, partial_bad, n_partials, lane_losses, lanes, state, record, lr, clip_norm, flags,
//                 min_scale, max_scale, growth_interval)
//   Grid 1, block 256. Adds the partial sums in f64 in a fixed order, the losses f64 [lanes] (a power of two, at most 256) in a
//   pairwise tree, decides, and writes `record` and `state` (step.cuh). clip_norm <= 0: no clipping. flags: 1 dynamic loss
//   scale, 2 stop at the first refused step. Latency only: a few kilobytes.
//
// gate: gradnorm_partial registers=40 wide
#include "taper.cuh"
#include "step.cuh"

#define CHUNK 16384u
#define THREADS 256
#define FLAG_DYNAMIC_SCALE 1u
#define FLAG_STOP 2u
#define NONE_BAD (~u64(0))

DEVICE u64 warp_first(u64 x) {
#pragma unroll
    for (u32 mask = WARP / 2; mask > 0; mask /= 2) {
        u64 other = u64(shfl_xor(u32(x >> 32), mask)) << 32 | shfl_xor(u32(x), mask);
        x = other < x ? other : x;
    }
    return x;
}

KERNEL(THREADS) gradnorm_partial(const float* grads, u64 n, u32 first, float* partial_sums, u64* partial_bad) {
    SHARED_ARRAY(float, scratch, WARP);
    SHARED_ARRAY(u64, scratch_bad, WARP);
    u32 chunk = first + blockIdx.x;
    u64 start = u64(chunk) * CHUNK, end = n - start < CHUNK ? n : start + CHUNK;
    // Four sums for each thread, so that no chain of additions is longer than a sixteenth of the chunk's share.
    float sums[4] = {};
    u64 bad = NONE_BAD;
    with_width(is_aligned16(grads) && (end - start) % 4 == 0, [&](bool wide) {
#pragma unroll 4
        for (u64 at = start + threadIdx.x * 4; at < end; at += THREADS * 4) {
            float x[4];
            load_values(x, grads + at, wide, valid_of<4>(at, end));
#pragma unroll
            for (int j = 0; j < 4; j++) {
                sums[j] += x[j] * x[j];
                if (!is_finite(x[j]) && at + j < bad) bad = at + j;
            }
        }
    });
    float sum = block_sum((sums[0] + sums[2]) + (sums[1] + sums[3]), scratch);
    bad = warp_first(bad);
    if (lane_id() == 0) scratch_bad[warp_id()] = bad;
    sync_threads();
    if (threadIdx.x == 0) {
        for (u32 w = 1; w < THREADS / WARP; w++) bad = scratch_bad[w] < bad ? scratch_bad[w] : bad;
        partial_sums[chunk] = sum;
        partial_bad[chunk] = bad;
    }
}
TAPER_KERNEL(gradnorm_partial, THREADS)

// What kind of step it is. `record` holds the norm and the first bad element, `state` the scale the step used.
DEVICE StepKind classify(const StepRecord& record, const StepState& state, bool overflow, float clip_norm, u32 flags,
                         float min_scale) {
    bool may_back_off = (flags & FLAG_DYNAMIC_SCALE) && state.loss_scale > min_scale;
    if (state.stopped) return STEP_STOPPED;
    double loss = record.loss_sum;
    // The exponent field is all ones in infinities and NaN: their difference with themselves is not zero.
    if (!(loss - loss == 0.0)) return STEP_LOSS_NONFINITE;
    if (record.first_bad != NONE_BAD) return may_back_off ? STEP_BACKOFF : STEP_NONFINITE;
    if (overflow) return may_back_off ? STEP_BACKOFF : STEP_OVERFLOW;
    return clip_norm > 0.0f && record.norm > clip_norm ? STEP_CLIPPED : STEP_FINITE;
}

DEVICE void decide(StepRecord& record, StepState& state, double sum_of_squares, double lr, float clip_norm,
                   u32 flags, float min_scale, float max_scale, u32 growth_interval) {
    record.loss_scale = state.loss_scale;
    float norm = float(sqrt(sum_of_squares)) / state.loss_scale;
    bool overflow = !is_finite(norm);
    record.norm = record.first_bad != NONE_BAD ? f32_of_bits(0x7fffffffu) : overflow ? INFINITY_F : norm;
    record.norm_clipped = record.norm;
    record.kind = classify(record, state, overflow, clip_norm, flags, min_scale);
    record.applied = record.kind == STEP_FINITE || record.kind == STEP_CLIPPED;
    float coefficient = 1.0f;
    if (record.kind == STEP_CLIPPED) {
        // The small number is that of PyTorch's clip_grad_norm_: its losses are the ones to reproduce.
        coefficient = clip_norm / (norm + 1e-6f);
        record.norm_clipped = clip_norm;
    }
    record.lr = lr;
    record.grad_scale = coefficient / state.loss_scale;
    if (record.applied) {
        state.updates++;
        state.good_steps++;
        if ((flags & FLAG_DYNAMIC_SCALE) && state.good_steps >= growth_interval) {
            state.loss_scale = 2.0f * state.loss_scale < max_scale ? 2.0f * state.loss_scale : max_scale;
            state.good_steps = 0;
        }
    } else if (record.kind == STEP_BACKOFF) {
        state.loss_scale = 0.5f * state.loss_scale > min_scale ? 0.5f * state.loss_scale : min_scale;
        state.good_steps = 0;
    } else if (flags & FLAG_STOP) {
        state.stopped = 1;
    }
    record.updates = state.updates;
}

KERNEL(THREADS)
gradnorm_finish(const float* partial_sums, const u64* partial_bad, u32 n_partials, const double* lane_losses, u32 lanes,
                StepState* state, StepRecord* record, double lr, float clip_norm, u32 flags,
                float min_scale, float max_scale, u32 growth_interval) {
    SHARED_ARRAY(double, sums, THREADS);
    SHARED_ARRAY(double, losses, THREADS);
    SHARED_ARRAY(u64, bads, THREADS);
    u32 thread = threadIdx.x;
    double sum = 0.0;
    u64 bad = NONE_BAD;
    for (u32 i = thread; i < n_partials; i += THREADS) {
        sum += double(partial_sums[i]);
        bad = partial_bad[i] < bad ? partial_bad[i] : bad;
    }
    sums[thread] = sum;
    bads[thread] = bad;
    losses[thread] = thread < lanes ? lane_losses[thread] : 0.0;
    sync_threads();
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        if (thread < half) {
            sums[thread] += sums[thread + half];
            bads[thread] = bads[thread + half] < bads[thread] ? bads[thread + half] : bads[thread];
        }
        sync_threads();
    }
    if (thread != 0) return;
    // Neighbours first: (l0 + l1) + (l2 + l3), as the lanes of several processes meet.
    for (u32 step = 1; step < lanes; step *= 2) {
        for (u32 i = 0; i + step < lanes; i += 2 * step) losses[i] += losses[i + step];
    }
    StepRecord now = {};
    now.loss_sum = losses[0];
    now.first_bad = bads[0];
    StepState next = *state;
    decide(now, next, sums[0], lr, clip_norm, flags, min_scale, max_scale, growth_interval);
    *state = next;
    *record = now;
}
TAPER_KERNEL(gradnorm_finish, THREADS)
