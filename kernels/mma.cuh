// Tensor cores: mma.sync.m16n8k16 on bf16 and f16 with f32 sums, and the loads that feed it.
//
// Which element sits where (PTX ISA, "Matrix Fragments for mma.m16n8k16"), with g = lane / 4 and t = lane % 4:
//   A 16x16 (row, k):  a[0] (g, 2t..2t+1)   a[1] (g+8, 2t..)   a[2] (g, 2t+8..)   a[3] (g+8, 2t+8..)
//   B 16x8 (k, n):     b0   (2t..2t+1, g)   b1   (2t+8.., g)
//   D 16x8 (row, n):   d[0], d[1] (g, 2t..2t+1)   d[2], d[3] (g+8, 2t..2t+1)
// The lower column (of A, D) or row (of B) is in the low half of its register.
#pragma once

#include "types.cuh"

// d += a b.
template <class T> DEVICE void mma_m16n8k16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1);
template <> DEVICE void mma_m16n8k16<bf16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef TAPER_EMULATOR
    emulator::mma_bf16(d, a, b0, b1);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
template <> DEVICE void mma_m16n8k16<f16>(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#ifdef TAPER_EMULATOR
    emulator::mma_f16(d, a, b0, b1);
#else
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Loads four 8x8 matrices of 16-bit elements from shared memory. Lanes 8i..8i+7 give the addresses of the rows (16 bytes,
// aligned) of matrix i; register i of lane l gets the elements (l / 4, 2 (l % 4)) and the next one of matrix i.
DEVICE void ldmatrix_x4(u32& r0, u32& r1, u32& r2, u32& r3, u32 address) {
#ifdef TAPER_EMULATOR
    u32 r[4];
    emulator::ldmatrix(r, 4, false, address);
    r0 = r[0], r1 = r[1], r2 = r[2], r3 = r[3];
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
                 : "r"(address)
                 : "memory");
#endif
}

// The same with every matrix transposed: register i of lane l gets (2 (l % 4), l / 4) and (2 (l % 4) + 1, l / 4).
DEVICE void ldmatrix_x4_trans(u32& r0, u32& r1, u32& r2, u32& r3, u32 address) {
#ifdef TAPER_EMULATOR
    u32 r[4];
    emulator::ldmatrix(r, 4, true, address);
    r0 = r[0], r1 = r[1], r2 = r[2], r3 = r[3];
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r0), "=r"(r1), "=r"(r2), "=r"(r3)
                 : "r"(address)
                 : "memory");
#endif
}

// Two matrices: lanes 0 to 15 give the addresses.
DEVICE void ldmatrix_x2(u32& r0, u32& r1, u32 address) {
#ifdef TAPER_EMULATOR
    u32 r[4];
    emulator::ldmatrix(r, 2, false, address);
    r0 = r[0], r1 = r[1];
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r0), "=r"(r1)
                 : "r"(address)
                 : "memory");
#endif
}

DEVICE void ldmatrix_x2_trans(u32& r0, u32& r1, u32 address) {
#ifdef TAPER_EMULATOR
    u32 r[4];
    emulator::ldmatrix(r, 2, true, address);
    r0 = r[0], r1 = r[1];
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r0), "=r"(r1)
                 : "r"(address)
                 : "memory");
#endif
}
