// The one header that every kernel includes.
//
// It is compiled three ways: by NVRTC at run time (no standard headers exist there, not even <cstdint>, and no
// cuda_bf16.h), by nvcc for the static checks, and by a C++ compiler with TAPER_EMULATOR, where every instruction that has
// no C++ spelling is carried out by tests/emulator. All inline PTX stands in these headers, so that a kernel is the same
// text in all three.
//
// Bands: types (bf16, f16, conversions) - memory (16-byte packs, shared addresses, cp.async) - mma (tensor cores,
// ldmatrix) - reduce (shuffles, warp and block sums in fixed order) - philox (dropout masks as a function).
#pragma once

#include "types.cuh"
#include "memory.cuh"
#include "mma.cuh"
#include "reduce.cuh"
#include "philox.cuh"
