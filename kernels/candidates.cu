// What a sampler needs of a row of logits, instead of the row: the largest logits, and the sums of the softmax.
// Definition: src/ops/candidates/cpu.rs.
//
// candidates_select(heads, ids, values, logits, inverse_temperatures, vocabulary, stride, wanted, capacity)
//   logits f32 [N, stride], of which the first `vocabulary` count. Strip i of a row are its elements i, i + 1024, ...; `least`
//   is the largest number that at least `wanted` strips have an element of (-infinity where there are fewer strips). All
//   elements >= least are the candidates: at least the `wanted` largest are among them. heads [N] gets
//     f64 sum = sum of exp(x - max), f64 tempered = sum of exp((x - max) inverse_temperature), f32 max, f32 least, u32 count, u32 0;
//   ids u32 and values f32 [N, capacity] get the first `capacity` candidates, strip by strip. A NaN anywhere makes `max` NaN.
// Grid N, block 1024. A row is read five times: once from memory, then from the second-level cache. Bytes: 4 V a row; what
// goes to the host is at most 32 + 8 capacity bytes instead of 4 V.
//
// gate: candidates_* registers=48
#include "taper.cuh"

#define THREADS 1024

struct CandidateHead {
    double sum, tempered;
    float max, least;
    u32 count, zero;
};

// Order of numbers as order of integers; 0 is below all of them.
DEVICE u32 order_of(float x) {
    u32 bits = bits_of(x);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DEVICE float number_of(u32 order) { return f32_of_bits(order & 0x80000000u ? order ^ 0x80000000u : ~order); }

// The sum over the block in a fixed tree, in every thread.
DEVICE double block_sum_f64(double x, double* scratch) {
    scratch[threadIdx.x] = x;
    for (u32 half = THREADS / 2; half > 0; half /= 2) {
        sync_threads();
        if (threadIdx.x < half) scratch[threadIdx.x] += scratch[threadIdx.x + half];
    }
    sync_threads();
    double total = scratch[0];
    sync_threads();
    return total;
}

// A thread's part of the sum of exp((x - max) factor).
DEVICE double exponentials(const float* row, u32 vocabulary, float max, float factor) {
    double sum = 0.0;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < vocabulary; i += THREADS) {
        sum += exp((double(row[i]) - double(max)) * double(factor));
    }
    return sum;
}

KERNEL(1024)
candidates_select(CandidateHead* heads, u32* ids, float* values, const float* logits, const float* inverse_temperatures,
                  u32 vocabulary, u32 stride, u32 wanted, u32 capacity) {
    SHARED_ARRAY(float, scratch, WARP);
    SHARED_ARRAY(double, sums, THREADS);
    SHARED_ARRAY(u32, places, THREADS);
    const float* row = logits + u64(blockIdx.x) * stride;
    float best = -INFINITY_F;
    for (u32 i = threadIdx.x; i < vocabulary; i += THREADS) best = max_nan(best, row[i]);
    float max = block_max(best, scratch);

    // The threshold, bit by bit: the largest that enough strips reach.
    u32 order = threadIdx.x < vocabulary ? order_of(best) : 0, threshold = 0;
    for (u32 bit = 0x80000000u; bit > 0; bit /= 2) {
        float reached = block_sum(order >= (threshold | bit) ? 1.0f : 0.0f, scratch);
        if (reached >= float(wanted)) threshold |= bit;
    }

    double sum = block_sum_f64(exponentials(row, vocabulary, max, 1.0f), sums);
    double tempered = block_sum_f64(exponentials(row, vocabulary, max, inverse_temperatures[blockIdx.x]), sums);
    u32 own = 0;
    for (u32 i = threadIdx.x; i < vocabulary; i += THREADS) own += order_of(row[i]) >= threshold ? 1 : 0;

    // Where each strip's candidates go: the counts before it.
    places[threadIdx.x] = own;
    for (u32 step = 1; step < THREADS; step *= 2) {
        sync_threads();
        u32 before = threadIdx.x >= step ? places[threadIdx.x - step] : 0;
        sync_threads();
        places[threadIdx.x] += before;
    }
    sync_threads();
    u32 place = places[threadIdx.x] - own;
    for (u32 i = threadIdx.x; i < vocabulary && own > 0; i += THREADS) {
        if (order_of(row[i]) < threshold) continue;
        if (place < capacity) {
            ids[u64(blockIdx.x) * capacity + place] = i;
            values[u64(blockIdx.x) * capacity + place] = row[i];
        }
        place++;
    }
    if (threadIdx.x == 0) {
        heads[blockIdx.x] = {sum, tempered, max, threshold == 0 ? -INFINITY_F : number_of(threshold), places[THREADS - 1], 0};
    }
}
TAPER_KERNEL(candidates_select, 1024)
