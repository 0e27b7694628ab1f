// Four bits with a scale and a minimum for each group of 32 weights: the arithmetic of fitted.py and byte_scales.py,
// operation by operation and in their order, so that both come to the same bits. LANES groups lie side by side, one a lane.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif
#include "attend.h"

#define SIZE 32
#define TOP 15
#define SPREAD 1e-5f
#define MAGIC 12582912.0f  // 1.5 · 2^23: what is added to it is rounded to an integer, ties to even

static const double RANGES[] = {1.0, 0.94, 0.88, 0.82, 0.76, 0.7};

// The nearest half, as a float.
INLINE vec rounded_half(vec x) {
    ivec bits = (ivec)x, sign = bits & INT32_MIN, size = bits & INT32_MAX;
    vec small = ((vec)size + 0.5f) - 0.5f;  // below 2^-14 halves are 2^-24 apart, as floats are from 0.5 on
    ivec wide = (size + 0xfff + (size >> 13 & 1)) & ~0x1fff;
    wide = (ivec)pick(wide > 0x477fe000, all(INFINITY), (vec)wide);  // 65504
    wide = (ivec)pick(size < 0x38800000, small, (vec)wide);
    return pick(size > 0x7f800000, x, (vec)(wide | sign));
}

INLINE vec code_of(vec x, vec start, vec inverse) {
    vec q = ((x - start) * inverse + MAGIC) - MAGIC;
    q = pick(q > 0.0f, q, all(0));  // what is no number, too
    return pick(q < (float)TOP, q, all(TOP));
}

// Neighbours, then the sums of neighbours, and so on.
INLINE vec sum_of(const vec *t) {
    vec sum[SIZE / 2];
    for (int i = 0; i < SIZE / 2; i++) sum[i] = t[2 * i] + t[2 * i + 1];
    for (int n = SIZE / 4; n; n /= 2)
        for (int i = 0; i < n; i++) sum[i] = sum[2 * i] + sum[2 * i + 1];
    return sum[0];
}

INLINE void side_by_side(const float *w, vec *x) {
    for (int i = 0; i < SIZE; i++)
        for (int l = 0; l < LANES; l++) x[i][l] = w[l * SIZE + i];
}

// Two codes a byte
INLINE void store_codes(const vec *x, vec start, vec inverse, uint8_t *values) {
    for (int i = 0; i < SIZE; i += 2) {
        vec pair = code_of(x[i], start, inverse) + 16.0f * code_of(x[i + 1], start, inverse);
        ivec bytes = __builtin_convertvector(pair, ivec);
        for (int l = 0; l < LANES; l++) values[(l * SIZE + i) / 2] = (uint8_t)bytes[l];
    }
}

// What an error at each weight counts
INLINE void importance(const vec *x, vec *counts) {
    for (int i = 0; i < SIZE; i++) counts[i] = (vec)((ivec)x[i] & INT32_MAX);
    vec mean = sum_of(counts) / (float)SIZE;
    for (int i = 0; i < SIZE; i++) counts[i] += mean;
}

static void fit(const float *w, uint8_t *values, uint16_t *scales, uint16_t *minima) {
    vec x[SIZE], q[SIZE], counts[SIZE], term[SIZE];
    side_by_side(w, x);
    importance(x, counts);
    for (int i = 0; i < SIZE; i++) term[i] = counts[i] * x[i];
    vec low = x[0], high = x[0], all_counts = sum_of(counts), total = sum_of(term);
    for (int i = 1; i < SIZE; i++) {
        low = pick(x[i] < low, x[i], low);
        high = pick(x[i] > high, x[i], high);
    }
    vec best = all(INFINITY), scale = all(0), minimum = all(0);
    vec best_start = all(INFINITY), best_inverse = all(1);  // of the best codes; at first those are all 0
    for (int r = 0; r < (int)(sizeof RANGES / sizeof *RANGES); r++) {
        vec step = rounded_half((high - low) * (float)(RANGES[r] / TOP));
        vec start = (high + low) / 2.0f - step * (TOP / 2.0f);
        for (int turn = 0; turn < 2; turn++) {
            vec was = start, inverse = 1.0f / pick(step > 1e-30f, step, all(1e-30f)), weighed[SIZE];
            for (int i = 0; i < SIZE; i++) {
                q[i] = code_of(x[i], start, inverse);
                weighed[i] = counts[i] * q[i];
            }
            vec sum_q = sum_of(weighed);
            for (int i = 0; i < SIZE; i++) term[i] = weighed[i] * q[i];
            vec whole = all_counts * sum_of(term), spread = whole - sum_q * sum_q;
            for (int i = 0; i < SIZE; i++) term[i] = weighed[i] * x[i];
            vec slope = (all_counts * sum_of(term) - sum_q * total) / spread;
            step = rounded_half(pick(spread > whole * SPREAD, slope, step));
            start = rounded_half((total - step * sum_q) / pick(all_counts > 1e-30f, all_counts, all(1e-30f)));
            for (int i = 0; i < SIZE; i++) {
                vec e = q[i] * step + start - x[i];
                term[i] = counts[i] * (e * e);
            }
            vec error = sum_of(term);
            ivec better = error < best;
            best = pick(better, error, best);
            scale = pick(better, step, scale);
            minimum = pick(better, start, minimum);
            best_start = pick(better, was, best_start);
            best_inverse = pick(better, inverse, best_inverse);
        }
    }
    store_codes(x, best_start, best_inverse, values);
    for (int l = 0; l < LANES; l++) {
        scales[l] = to_half(scale[l]);
        minima[l] = to_half(minimum[l]);
    }
}

// weights [groups · 32] → two codes a byte, and the bits of a half each
void fit_minima(const float *w, int64_t groups, uint8_t *values, uint16_t *scales, uint16_t *minima, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (groups > 4096)
    for (int64_t g = 0; g < groups; g += LANES) {
        if (g + LANES <= groups) {
            fit(w + g * SIZE, values + g * SIZE / 2, scales + g, minima + g);
            continue;
        }
        float rest[LANES * SIZE] = {0};
        uint8_t codes[LANES * SIZE / 2];
        uint16_t scale[LANES], minimum[LANES];
        int64_t left = groups - g;
        memcpy(rest, w + g * SIZE, left * SIZE * sizeof(float));
        fit(rest, codes, scale, minimum);
        memcpy(values + g * SIZE / 2, codes, left * SIZE / 2);
        memcpy(scales + g, scale, left * 2);
        memcpy(minima + g, minimum, left * 2);
    }
}

// ---- scales and minima as bytes: byte_scales.py

// The byte moved, unless it is an end of its row
INLINE vec moved(const uint8_t *bytes, int by, vec base, vec step) {
    vec out;
    for (int l = 0; l < LANES; l++) {
        int b = bytes[l];
        out[l] = (float)(b == 0 || b == 255 ? b : b + by < 1 ? 1 : b + by > 254 ? 254 : b + by);
    }
    return out * step + base;
}

static void refit(const float *w, const uint8_t *scale_bytes, const uint8_t *minimum_bytes, const vec line[4],
                  uint8_t *values, float *scales, float *minima) {
    static const int moves[] = {0, -1, 1};
    vec x[SIZE], counts[SIZE], term[SIZE], best = all(INFINITY), scale = all(0), minimum = all(0);
    vec best_start = all(INFINITY);  // of the best codes; at first those are all 0
    side_by_side(w, x);
    importance(x, counts);
    for (int up = 0; up < 3; up++)
        for (int aside = 0; aside < 3; aside++) {
            vec step = moved(scale_bytes, moves[up], line[0], line[1]);
            vec start = moved(minimum_bytes, moves[aside], line[2], line[3]);
            vec inverse = 1.0f / pick(step > 1e-30f, step, all(1e-30f));
            for (int i = 0; i < SIZE; i++) {
                vec e = code_of(x[i], start, inverse) * step + start - x[i];
                term[i] = counts[i] * (e * e);
            }
            vec error = sum_of(term);
            ivec better = error < best;
            best = pick(better, error, best);
            scale = pick(better, step, scale);
            minimum = pick(better, start, minimum);
            best_start = pick(better, start, best_start);
        }
    vec inverse = 1.0f / pick(scale > 1e-30f, scale, all(1e-30f));
    store_codes(x, best_start, inverse, values);
    memcpy(scales, &scale, sizeof scale);
    memcpy(minima, &minimum, sizeof minimum);
}

// weights [rows, groups · 32] and bytes with base and step of each row → two codes a byte, and the scales and
// minima that were taken
void round_scales(const float *w, int64_t rows, int64_t groups, const uint8_t *scale_bytes, const float *scale_base,
                  const float *scale_step, const uint8_t *minimum_bytes, const float *minimum_base,
                  const float *minimum_step, uint8_t *values, float *scales, float *minima, int threads) {
    int64_t total = rows * groups;
#pragma omp parallel for schedule(static) num_threads(threads) if (total > 4096)
    for (int64_t g = 0; g < total; g += LANES) {
        float rest[LANES * SIZE] = {0}, scale[LANES], minimum[LANES];
        uint8_t codes[LANES * SIZE / 2], bytes[2][LANES] = {{0}};
        int64_t left = least(LANES, total - g);
        vec line[4] = {all(0), all(0), all(0), all(0)};
        for (int64_t l = 0; l < left; l++) {
            int64_t row = (g + l) / groups;
            line[0][l] = scale_base[row], line[1][l] = scale_step[row];
            line[2][l] = minimum_base[row], line[3][l] = minimum_step[row];
        }
        memcpy(rest, w + g * SIZE, left * SIZE * sizeof(float));
        memcpy(bytes[0], scale_bytes + g, left);
        memcpy(bytes[1], minimum_bytes + g, left);
        refit(rest, bytes[0], bytes[1], line, codes, scale, minimum);
        memcpy(values + g * SIZE / 2, codes, left * SIZE / 2);
        memcpy(scales + g, scale, left * sizeof(float));
        memcpy(minima + g, minimum, left * sizeof(float));
    }
}
