// Products of rows with quantised matrices: weights of 8 or 4 bits, activations of 8, both in groups of 32 along a row.
//
//     out[c] = sum over groups g of  scale[c,g] · a_scale[g] · Σ_j (u[c,j] − offset) · a[j]     (offset 128 or 8)
//     or, with minima,               … Σ_j u[c,j] · a[j]  +  minimum[c,g] · a_shift[g],         a_shift = a_scale · Σ_j a[j]
//
// u are unsigned codes, a signed ones. The inner sums are whole numbers; the outer ones run over g in order, with one
// fused multiply-add each. So every path below (codes_tile.h: AVX-512 VNNI, AVX2, plain C; chosen at run time) and the
// NumPy model in tests/engine/test_codes.py come to the same bits, whatever the number of rows.
//
// Weights lie in panels of WIDE outputs: [panel][group][step][WIDE][4], four neighbours of a row in a word of 32 bits;
// with 4 bits a byte holds the code of one step in its low half and that of the next in its high half. Scales and
// minima lie as [panel][scale][WIDE], as floats, half floats or bytes.
//
// Letters: R rows of a tile, g groups, c outputs, k inputs.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#define WIDE 32   // outputs of a panel
#define SPAN 32   // inputs of a group of activations
#define AHEAD 6144  // bytes of codes that are asked for beforehand; the processor alone is late once rows give it work
#define STEPS (SPAN / 4)
#define MOST_ROWS 8  // rows a tile: weights are unpacked once for all of them
#define ALWAYS static inline __attribute__((always_inline))

typedef struct {
    int64_t columns, k, groups, bits, kind, per_scale, scales;  // kind: how scales and minima are held; `scales` in a row
    const uint8_t *codes;
    const void *scale, *minimum;  // minimum may be NULL
    const float *lines;           // BYTES: [panel][4][WIDE], base and step of a row's scales and of its minima
} Codes;

enum { FLOATS, HALVES, BYTES };  // a byte b of a row stands for base + b · step, which float32 rounds once

// A row of activations is one piece of memory: codes [groups·SPAN], then scale, sum, shift, [groups] each.
ALWAYS int64_t row_size(int64_t k) { return (k + SPAN - 1) / SPAN * (SPAN + 12); }
ALWAYS int64_t code_panels(const Codes *m) { return (m->columns + WIDE - 1) / WIDE; }
ALWAYS int64_t panel_bytes(const Codes *m) { return m->groups * SPAN * WIDE * m->bits / 8; }

ALWAYS float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13, bits;
    float out;
    if (rest >= 0x0f800000) bits = sign | 0x7f800000 | (rest & 0x007fffff);
    else if (rest >= 0x00800000) bits = sign | (rest + 0x38000000);
    else {
        float small = (float)(h & 0x3ff) * 0x1p-24f;
        memcpy(&bits, &small, 4);
        bits |= sign;
    }
    memcpy(&out, &bits, 4);
    return out;
}

// A group x[SPAN] to codes: scale = largest / 127, code = x · (127 / largest) to the nearest, halves to even. Of what is
// not finite comes a scale that isn't, and so a product that is NaN.
ALWAYS void quantise_group(const float *x, int8_t *codes, float *scale, int32_t *sum, float *shift) {
    int32_t bits[SPAN], top = 0, total = 0;
    memcpy(bits, x, sizeof bits);
    for (int j = 0; j < SPAN; j++) top = (bits[j] & 0x7fffffff) > top ? bits[j] & 0x7fffffff : top;  // as floats order
    float largest, inverse;
    memcpy(&largest, &top, 4);
    int none = largest <= 1e-30f;
    inverse = none ? 0 : 127.0f / largest;
    for (int j = 0; j < SPAN; j++) {
        int8_t code = (int8_t)(int32_t)__builtin_rintf(x[j] * inverse);
        codes[j] = code;
        total += code;
    }
    *scale = none ? 0 : largest / 127.0f;
    *sum = total;
    *shift = *scale * (float)total;
}

// Groups [first, first + count) of x[k]
static void quantise_groups(const float *x, int64_t k, int64_t first, int64_t count, int8_t *row) {
    int64_t groups = (k + SPAN - 1) / SPAN;
    float *scale = (float *)(row + groups * SPAN), *shift = scale + 2 * groups;
    int32_t *sum = (int32_t *)(scale + groups);
    for (int64_t g = first; g < first + count; g++) {
        float part[SPAN] = {0};
        const float *from = x + g * SPAN;
        if (k - g * SPAN < SPAN) from = memcpy(part, from, sizeof(float) * (k - g * SPAN));
        quantise_group(from, row + g * SPAN, scale + g, sum + g, shift + g);
    }
}

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)

// ---- plain C
#define PATH plain
#define TARGET
#define WIDTH 16
#include "codes_tile.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define PATH avx2
#define TARGET __attribute__((target("avx2,fma,f16c")))
#define WIDTH 32
#include "codes_tile.h"
#define PATH avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,f16c,fma")))
#define WIDTH 64
#include "codes_tile.h"
#endif

typedef void Tile(int64_t rows, const Codes *m, int64_t p, const int8_t *const *a, float (*out)[WIDE]);
static Tile *const tiles[] = {
    tile_plain,
#if defined(__x86_64__)
    tile_avx2, tile_avx512,
#endif
};
static Tile *code_tile = tile_plain;

// The best path that this processor has, but none above `most`: 0 plain C, 1 AVX2, 2 AVX-512 VNNI. Returns which.
int choose_path(int most) {
    int path = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) path = 1;
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) path = 2;
#endif
    path = path > most ? most : path;
    code_tile = tiles[path];
    return path;
}
