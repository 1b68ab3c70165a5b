// Kernels with faults that the emulator must notice, and small right ones next to them. Never part of the product.
#include "taper.cuh"

// y[i] = x[i], through a pack.
KERNEL(1024) fault_none(const float* x, float* y, u32 n) {
    u32 i = (blockIdx.x * blockDim.x + threadIdx.x) * Pack<float>::N;
    if (i + Pack<float>::N <= n) store16(y + i, load16(x + i));
}
TAPER_KERNEL(fault_none, 1024)

// Copies 16 bytes a thread through shared memory; thread i stores what thread `partner` of the block has brought.
template <bool waits, bool barrier> DEVICE void copy_through_shared(const float* x, float* y) {
    DYNAMIC_SHARED(float, shared);
    u32 i = threadIdx.x, partner = blockDim.x - 1 - i;
    cp_async_16(shared_address(shared + 4 * i), x + 4 * i);
    cp_async_commit();
    if (waits) cp_async_wait<0>();
    if (barrier) sync_threads();
    for (u32 j = 0; j < 4; j++) y[4 * partner + j] = shared[4 * partner + j];
}
KERNEL(256) fault_copy_right(const float* x, float* y) { copy_through_shared<true, true>(x, y); }
TAPER_KERNEL(fault_copy_right, 256)
KERNEL(256) fault_no_wait(const float* x, float* y) { copy_through_shared<false, true>(x, y); }
TAPER_KERNEL(fault_no_wait, 256)
KERNEL(256) fault_no_barrier(const float* x, float* y) { copy_through_shared<true, false>(x, y); }
TAPER_KERNEL(fault_no_barrier, 256)

// The first lane of a warp leaves a number for the others.
template <bool sync> DEVICE void leave_number(float* y) {
    SHARED_ARRAY(float, number, 32);
    if (lane_id() == 0) number[warp_id()] = float(warp_id() + 1);
    if (sync) sync_warp();
    y[threadIdx.x] = number[warp_id()];
}
KERNEL(256) fault_sync_warp_right(float* y) { leave_number<true>(y); }
TAPER_KERNEL(fault_sync_warp_right, 256)
KERNEL(256) fault_no_sync_warp(float* y) { leave_number<false>(y); }
TAPER_KERNEL(fault_no_sync_warp, 256)

// Half a warp does not come to the barrier.
KERNEL(256) fault_divergent_barrier(float* y) {
    if (threadIdx.x >= 16) sync_threads();
    y[threadIdx.x] = 1.0f;
}
TAPER_KERNEL(fault_divergent_barrier, 256)

// Half a warp does not come to the shuffle.
KERNEL(256) fault_divergent_shuffle(float* y) {
    float x = float(threadIdx.x);
    if (threadIdx.x % 32 < 16) x = shfl_xor(x, 1);
    y[threadIdx.x] = x;
}
TAPER_KERNEL(fault_divergent_shuffle, 256)

// Half a warp shuffles, the other half votes.
KERNEL(256) fault_mixed_collectives(float* y) {
    float x = float(threadIdx.x);
    if (threadIdx.x % 32 < 16) x = shfl_xor(x, 1);
    else x = float(warp_ballot(true));
    y[threadIdx.x] = x;
}
TAPER_KERNEL(fault_mixed_collectives, 256)

// Half a warp waits for the block, the other half for the warp.
KERNEL(256) fault_deadlock(float* y) {
    if (threadIdx.x % 32 < 16) sync_threads();
    else sync_warp();
    y[threadIdx.x] = 1.0f;
}
TAPER_KERNEL(fault_deadlock, 256)

// An 8x8 tile of each warp in rows of `stride` bytes: rows of 128 bytes lie in the same banks unless they are swizzled.
template <bool swizzled> DEVICE void read_tile(u32* y) {
    DYNAMIC_SHARED(u8, shared);
    u32 base = shared_address(shared);
    for (u32 i = threadIdx.x; i < 32 * 32; i += 32) st_shared_u32(base + 4 * i, i);
    sync_threads();
    u32 row = lane_id(), column = swizzled ? row % 8 : 0, r[4];
    ldmatrix_x4(r[0], r[1], r[2], r[3], base + row * 128 + column * 16);
    for (u32 i = 0; i < 4; i++) y[4 * threadIdx.x + i] = r[i];
}
KERNEL(32) fault_swizzled(u32* y) { read_tile<true>(y); }
TAPER_KERNEL(fault_swizzled, 32)
KERNEL(32) fault_bank_conflicts(u32* y) { read_tile<false>(y); }
TAPER_KERNEL(fault_bank_conflicts, 32)

// Every lane reads a word of the same bank.
KERNEL(32) fault_bank_conflicts_words(u32* y) {
    DYNAMIC_SHARED(u8, shared);
    st_shared_u32(shared_address(shared) + 128 * threadIdx.x, threadIdx.x);
    y[threadIdx.x] = 0;
}
TAPER_KERNEL(fault_bank_conflicts_words, 32)

// A pack at x + offset: misaligned, or behind the end, as the test will have it.
KERNEL(32) fault_load16(const float* x, float* y, u32 offset) {
    if (threadIdx.x == 0) store16(y, load16(x + offset));
}
TAPER_KERNEL(fault_load16, 32)

// A plain store at y + offset.
KERNEL(32) fault_store(float* y, u32 offset) {
    if (threadIdx.x == 0) y[offset] = 1.0f;
}
TAPER_KERNEL(fault_store, 32)

// A plain store in shared memory at `offset` bytes.
KERNEL(32) fault_store_shared(u32 offset) {
    DYNAMIC_SHARED(u8, shared);
    if (threadIdx.x == 0) shared[offset] = 1;
}
TAPER_KERNEL(fault_store_shared, 32)

// A store by shared address at `offset` bytes.
KERNEL(32) fault_store_address(u32 offset) {
    DYNAMIC_SHARED(u8, shared);
    if (threadIdx.x == 0) st_shared_u32(shared_address(shared) + offset, 1);
}
TAPER_KERNEL(fault_store_address, 32)

// Reads rows for ldmatrix, and the target of a copy, at an address that is no multiple of 16.
KERNEL(32) fault_ldmatrix_misaligned(u32* y) {
    DYNAMIC_SHARED(u8, shared);
    u32 r0, r1;
    ldmatrix_x2(r0, r1, shared_address(shared) + 8 * lane_id());
    y[threadIdx.x] = r0 + r1;
}
TAPER_KERNEL(fault_ldmatrix_misaligned, 32)
KERNEL(32) fault_cp_async_misaligned(const float* x) {
    DYNAMIC_SHARED(u8, shared);
    cp_async_16(shared_address(shared) + 8 * lane_id(), x);
}
TAPER_KERNEL(fault_cp_async_misaligned, 32)

// The last element is forgotten.
KERNEL(32) fault_unwritten(float* y, u32 n) {
    for (u32 i = threadIdx.x; i + 1 < n; i += 32) y[i] = 0.0f;
}
TAPER_KERNEL(fault_unwritten, 32)

// 40 KiB of static shared memory.
KERNEL(32) fault_static_shared(float* y) {
    SHARED_ARRAY(float, big, 10240);
    big[threadIdx.x] = 1.0f;
    y[threadIdx.x] = big[threadIdx.x];
}
TAPER_KERNEL(fault_static_shared, 32)
