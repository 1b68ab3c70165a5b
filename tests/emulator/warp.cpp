// Collectives of a warp: the last lane to come does the work for all 32.
#include <cstdlib>
#include <cstring>

#include "machine.h"

#ifdef TAPER_TSAN
extern "C" void __tsan_read_range(void* p, unsigned long bytes);
#endif

namespace emulator {

const char* name_of(Collective what) {
    switch (what) {
        case Collective::shfl_xor: return "waits at shfl_xor";
        case Collective::shfl_down: return "waits at shfl_down";
        case Collective::shfl: return "waits at shfl";
        case Collective::ballot: return "waits at ballot";
        case Collective::sync_warp: return "waits at sync_warp";
        case Collective::mma: return "waits at mma";
        case Collective::ldmatrix: return "waits at ldmatrix";
    }
    return "waits";
}

// All values of f16, since converting one by one costs more than the product it is for.
static const float* make_f16_values() {
    float* values = static_cast<float*>(malloc(65536 * sizeof(float)));
    for (uint32_t bits = 0; bits < 65536; bits++) {
        uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ffu;
        float magnitude = exponent == 31  ? f32_of_bits(0x7f800000u | fraction << 13)
                          : exponent == 0 ? float(fraction) * f32_of_bits(0x33800000u)
                                          : f32_of_bits((exponent + 112) << 23 | fraction << 13);
        values[bits] = f32_of_bits(bits_of(magnitude) | sign);
    }
    return values;
}

const float* const f16_values = make_f16_values();

void reset_warps(Machine& m) {
    for (Warp& warp : m.warps) warp.arrived = warp.turn = 0;
}

static void complete_shuffle(Warp& warp, Lane* lanes) {
    uint64_t values[WARP_LANES];
    uint32_t votes = 0;
    for (uint32_t i = 0; i < WARP_LANES; i++) {
        values[i] = lanes[i].value;
        votes |= uint32_t(lanes[i].value != 0) << i;
    }
    for (uint32_t i = 0; i < WARP_LANES; i++) {
        uint32_t operand = lanes[i].operand;
        switch (warp.what) {
            case Collective::shfl_xor: lanes[i].value = values[(i ^ operand) % WARP_LANES]; break;
            case Collective::shfl_down: lanes[i].value = values[i + operand < WARP_LANES ? i + operand : i]; break;
            case Collective::shfl: lanes[i].value = values[operand % WARP_LANES]; break;
            default: lanes[i].value = votes; break;
        }
    }
}

template <bool is_bf16> static float half_value(uint32_t bits) {
    return is_bf16 ? f32_of_bits(bits << 16) : f16_values[bits];
}

// Which element sits where: see kernels/mma.cuh. Products are exact in f32; the sum of sixteen is made in f32, in order,
// and then added to d: the hardware's order and rounding are its own.
template <bool is_bf16> static void complete_mma(Lane* lanes) {
    float a[16][16], b[16][8], d[16][8];
    for (uint32_t lane = 0; lane < WARP_LANES; lane++) {
        uint32_t g = lane / 4, t = lane % 4;
        const Lane& from = lanes[lane];
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t shift = 16 * half, k = 2 * t + half;
            a[g][k] = half_value<is_bf16>(from.a[0] >> shift & 0xffff);
            a[g + 8][k] = half_value<is_bf16>(from.a[1] >> shift & 0xffff);
            a[g][k + 8] = half_value<is_bf16>(from.a[2] >> shift & 0xffff);
            a[g + 8][k + 8] = half_value<is_bf16>(from.a[3] >> shift & 0xffff);
            b[k][g] = half_value<is_bf16>(from.b0 >> shift & 0xffff);
            b[k + 8][g] = half_value<is_bf16>(from.b1 >> shift & 0xffff);
        }
    }
    for (uint32_t i = 0; i < 16; i++) {
        float sums[8] = {};
        for (uint32_t k = 0; k < 16; k++) {
            for (uint32_t j = 0; j < 8; j++) sums[j] += a[i][k] * b[k][j];
        }
        for (uint32_t j = 0; j < 8; j++) d[i][j] = sums[j];
    }
    for (uint32_t lane = 0; lane < WARP_LANES; lane++) {
        uint32_t g = lane / 4, t = lane % 4;
        float* to = lanes[lane].d;
        to[0] += d[g][2 * t], to[1] += d[g][2 * t + 1];
        to[2] += d[g + 8][2 * t], to[3] += d[g + 8][2 * t + 1];
    }
}

static uint32_t element(const Lane* lanes, uint32_t matrix, uint32_t row, uint32_t column) {
    const uint8_t* bytes = lanes[8 * matrix + row].row + 2 * column;
    return bytes[0] | uint32_t(bytes[1]) << 8;
}

// Rows of eight lanes go through shared memory together: without a conflict each lies in banks of its own. A row that is
// read twice costs once.
static uint32_t phase_conflicts(const uint32_t* addresses, uint32_t n) {
    uint32_t most = 1, used[8] = {};
    for (uint32_t i = 0; i < n; i++) {
        bool again = false;
        for (uint32_t j = 0; j < i; j++) again |= addresses[j] == addresses[i];
        if (again) continue;
        uint32_t count = ++used[addresses[i] / 16 % 8];
        if (count > most) most = count;
    }
    return most - 1;
}

static void complete_ldmatrix(Machine& m, Lane* lanes) {
    uint32_t matrices = lanes[0].operand & 7;
    bool transposed = lanes[0].operand & 8;
    for (uint32_t matrix = 0; matrix < matrices; matrix++) {
        uint32_t addresses[8];
        for (uint32_t i = 0; i < 8; i++) addresses[i] = lanes[8 * matrix + i].b0;
        m.counters.bank_conflicts += phase_conflicts(addresses, 8);
        for (uint32_t lane = 0; lane < WARP_LANES; lane++) {
            uint32_t g = lane / 4, t = lane % 4;
            lanes[lane].r[matrix] = transposed
                                        ? element(lanes, matrix, 2 * t, g) | element(lanes, matrix, 2 * t + 1, g) << 16
                                        : element(lanes, matrix, g, 2 * t) | element(lanes, matrix, g, 2 * t + 1) << 16;
        }
    }
}

// The current lane comes to a collective with what it has stored in itself.
static void meet(Collective what) {
    Machine& m = *machine;
    Lane& lane = *m.current;
    uint32_t index = lane.index / WARP_LANES;
    Warp& warp = m.warps[index];
    Lane* lanes = &m.lanes[index * WARP_LANES];
    uint32_t turn = warp.turn;
    if (warp.arrived == 0) warp.what = what;
    if (warp.what != what) {
        fault("divergent collective: this lane comes to a collective (%s) for which another %s", name_of(what) + 9,
              name_of(warp.what));
    }
    bool same_shape = what == Collective::mma || what == Collective::ldmatrix;
    for (uint32_t i = 0; i < WARP_LANES && same_shape; i++) {
        if ((warp.arrived >> i & 1) && lanes[i].operand != lane.operand) {
            fault("divergent collective: lanes of one warp at different kinds of %s", name_of(what) + 9);
        }
    }
    // Only sync_warp orders memory.
    if (what == Collective::sync_warp) release(&warp.edge[turn % 2]);
    warp.arrived |= 1u << (lane.index % WARP_LANES);
    if (warp.arrived != 0xffffffffu) {
        wait_as(State::collective);
    } else {
        m.counters.collectives++;
        switch (what) {
            case Collective::sync_warp: break;
            case Collective::mma:
                m.counters.mma++;
                if (lane.operand) complete_mma<true>(lanes);
                else complete_mma<false>(lanes);
                break;
            case Collective::ldmatrix:
                m.counters.ldmatrix++;
                complete_ldmatrix(m, lanes);
                break;
            default: complete_shuffle(warp, lanes);
        }
        warp.arrived = 0;
        warp.turn++;
        for (uint32_t i = 0; i < WARP_LANES; i++) {
            if (lanes[i].state == State::collective) lanes[i].state = State::ready;
        }
        flush_accesses(m, index);
    }
    if (what == Collective::sync_warp) acquire(&warp.edge[turn % 2]);
}

uint64_t exchange(Collective what, uint64_t value, uint32_t operand) {
    Lane& lane = *machine->current;
    lane.value = value;
    lane.operand = operand;
    meet(what);
    return lane.value;
}

void sync_warp() { meet(Collective::sync_warp); }

static void mma(float* d, const uint32_t* a, uint32_t b0, uint32_t b1, bool is_bf16) {
    Lane& lane = *machine->current;
    lane.d = d, lane.a = a, lane.b0 = b0, lane.b1 = b1;
    lane.operand = is_bf16;
    meet(Collective::mma);
}

void mma_bf16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) { mma(d, a, b0, b1, true); }
void mma_f16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) { mma(d, a, b0, b1, false); }

void ldmatrix(uint32_t* r, uint32_t matrices, bool transposed, uint32_t address) {
    Lane& lane = *machine->current;
    if (lane.index % WARP_LANES < 8 * matrices) {
        // A lane reads its row when it comes: what others have not written by then was not ordered before.
        uint8_t* row = static_cast<uint8_t*>(ldmatrix_row(address));
#ifdef TAPER_TSAN
        __tsan_read_range(row, 16);
#endif
        for (int i = 0; i < 16; i++) lane.row[i] = reinterpret_cast<volatile uint8_t*>(row)[i];
    }
    lane.r = r;
    lane.b0 = address;
    lane.operand = matrices | uint32_t(transposed) << 3;
    meet(Collective::ldmatrix);
}

// The n-th accesses of all lanes since they last met are one instruction, if of one kind. Four bytes: all lanes in one
// phase over 32 banks; 16 bytes: eight lanes in a phase.
void flush_accesses(Machine& m, uint32_t index) {
    Lane* lanes = &m.lanes[index * WARP_LANES];
    size_t longest = 0;
    for (uint32_t i = 0; i < WARP_LANES; i++) {
        if (lanes[i].accesses.size() > longest) longest = lanes[i].accesses.size();
    }
    for (size_t n = 0; n < longest; n++) {
        uint32_t words[WARP_LANES], n_words = 0, phase[8], n_phase = 0;
        for (uint32_t i = 0; i < WARP_LANES; i++) {
            if (n < lanes[i].accesses.size()) {
                const SharedAccess& access = lanes[i].accesses[n];
                if (access.bytes == 16) phase[n_phase++] = access.address;
                else words[n_words++] = access.address / 4;
            }
            if (i % 8 == 7 && n_phase > 0) {
                m.counters.bank_conflicts += phase_conflicts(phase, n_phase);
                n_phase = 0;
            }
        }
        uint32_t most = 1, used[32] = {};
        for (uint32_t i = 0; i < n_words; i++) {
            bool again = false;
            for (uint32_t j = 0; j < i; j++) again |= words[j] == words[i];
            if (again) continue;
            uint32_t count = ++used[words[i] % 32];
            if (count > most) most = count;
        }
        m.counters.bank_conflicts += most - 1;
    }
    for (uint32_t i = 0; i < WARP_LANES; i++) lanes[i].accesses.clear();
}

}  // namespace emulator
