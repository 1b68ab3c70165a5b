// What an optimizer step keeps on the device, so that the host need not wait for it: the same bytes as their repr(C) twins
// in Rust. gradnorm_finish writes them, the classifier and the rules of optimizers read them.
#pragma once

#include "types.cuh"

// One for a run.
struct StepState {
    float loss_scale;  // of fp16; 1 in other precisions
    u32 good_steps;    // applied steps since the scale last changed
    u32 updates;       // updates applied so far
    u32 stopped;       // a step was refused, and the policy was to stop: nothing is applied any more
};

// One for each optimizer step, in a ring that the host drains.
struct StepRecord {
    double loss_sum;          // the token losses of the step, unscaled
    u64 first_bad;            // flat index of the first gradient element that is not finite, or ~0
    double lr;                // learning rate
    float norm;               // L2 norm of the unscaled gradients before clipping; inf on overflow, NaN for bad elements
    float norm_clipped;       // and after; the same where nothing was clipped
    u32 kind;                 // StepKind
    u32 applied;              // 1 if the update is made
    float grad_scale;         // what gradients are multiplied with: clip coefficient / loss scale
    float loss_scale;         // the scale that this step used
    u32 updates;              // updates applied after this step
    u32 unused;
};

static_assert(sizeof(StepState) == 16 && sizeof(StepRecord) == 56, "the layout that the host knows");

enum StepKind : u32 {
    STEP_FINITE = 0,
    STEP_CLIPPED = 1,
    STEP_OVERFLOW = 2,         // all elements are finite, the sum of their squares is not
    STEP_NONFINITE = 3,        // some element is not
    STEP_LOSS_NONFINITE = 4,
    STEP_BACKOFF = 5,          // fp16: an overflow that a smaller loss scale may cure
    STEP_STOPPED = 6,
};
