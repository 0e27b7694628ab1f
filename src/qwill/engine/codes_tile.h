// One path of codes.h, made by including this file with PATH, TARGET (the processor's features) and WIDTH (bytes of a
// vector) defined: a tile of R rows and WIDE outputs.

#define NAME(x) JOIN(x, PATH)
#define LANES_OF (WIDTH / 4)
#define VECTORS (WIDE / LANES_OF)
#define AT_ONCE (WIDTH == 64 ? 2 : 1)  // vectors of a panel whose sums are in registers together

typedef float NAME(floats) __attribute__((vector_size(WIDTH), aligned(4), may_alias));
typedef int32_t NAME(ints) __attribute__((vector_size(WIDTH), aligned(4), may_alias));
typedef uint8_t NAME(bytes) __attribute__((vector_size(WIDTH), aligned(4), may_alias));

#if WIDTH == 64
TARGET ALWAYS NAME(ints) NAME(dot)(NAME(ints) sum, NAME(bytes) u, int32_t a, int few) {
    return (NAME(ints))_mm512_dpbusd_epi32((__m512i)sum, (__m512i)u, _mm512_set1_epi32(a));
}
TARGET ALWAYS NAME(floats) NAME(halves)(const uint16_t *p) {
    return (NAME(floats))_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
TARGET ALWAYS NAME(floats) NAME(wide)(const uint8_t *p) {
    return (NAME(floats))_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}
TARGET ALWAYS NAME(floats) NAME(fused)(NAME(floats) a, NAME(floats) b, NAME(floats) c) {
    return (NAME(floats))_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
#elif WIDTH == 32
// Sums of two products fit 16 bits only where codes have four: eight bits are taken in halves.
TARGET ALWAYS NAME(ints) NAME(dot)(NAME(ints) sum, NAME(bytes) u, int32_t a, int few) {
    __m256i activation = _mm256_set1_epi32(a), one = _mm256_set1_epi16(1), low = _mm256_set1_epi8(15);
    __m256i bottom = few ? (__m256i)u : _mm256_and_si256((__m256i)u, low);
    sum += (NAME(ints))_mm256_madd_epi16(_mm256_maddubs_epi16(bottom, activation), one);
    if (few) return sum;
    __m256i top = _mm256_and_si256(_mm256_srli_epi16((__m256i)u, 4), low);
    return sum + ((NAME(ints))_mm256_madd_epi16(_mm256_maddubs_epi16(top, activation), one) << 4);
}
TARGET ALWAYS NAME(floats) NAME(halves)(const uint16_t *p) {
    return (NAME(floats))_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
TARGET ALWAYS NAME(floats) NAME(wide)(const uint8_t *p) {
    return (NAME(floats))_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}
TARGET ALWAYS NAME(floats) NAME(fused)(NAME(floats) a, NAME(floats) b, NAME(floats) c) {
    return (NAME(floats))_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
#else
ALWAYS NAME(ints) NAME(dot)(NAME(ints) sum, NAME(bytes) u, int32_t a, int few) {
    int8_t four[4];
    memcpy(four, &a, 4);
    for (int i = 0; i < LANES_OF; i++)
        for (int j = 0; j < 4; j++) sum[i] += (int32_t)u[4 * i + j] * four[j];
    return sum;
}
ALWAYS NAME(floats) NAME(halves)(const uint16_t *p) {
    NAME(floats) out;
    for (int i = 0; i < LANES_OF; i++) out[i] = half_to_float(p[i]);
    return out;
}
ALWAYS NAME(floats) NAME(wide)(const uint8_t *p) {
    NAME(floats) out;
    for (int i = 0; i < LANES_OF; i++) out[i] = p[i];
    return out;
}
ALWAYS NAME(floats) NAME(fused)(NAME(floats) a, NAME(floats) b, NAME(floats) c) {
    for (int i = 0; i < LANES_OF; i++) c[i] = fmaf(a[i], b[i], c[i]);
    return c;
}
#endif

// LANES_OF scales (or minima), of number `at` on; `line`: base and step of these rows, WIDE apart
TARGET ALWAYS NAME(floats) NAME(scales)(const void *from, int64_t at, int64_t kind, const float *line) {
    if (kind == HALVES) return NAME(halves)((const uint16_t *)from + at);
    if (kind == FLOATS) return *(const NAME(floats) *)((const float *)from + at);
    // The product is exact: 8 bits by 16.
    return NAME(wide)((const uint8_t *)from + at) * *(const NAME(floats) *)(line + WIDE) + *(const NAME(floats) *)line;
}

TARGET ALWAYS void NAME(rows)(const int R, const int bits, const Codes *m, int64_t p, const int8_t *const *a,
                              float (*out)[WIDE]) {
    // Arrays of constant size stay in registers; of size R they are memory, a quarter slower.
    const int offset = m->minimum ? 0 : (bits == 8 ? 7 : 3);  // as a shift: 128 or 8
    const int64_t groups = m->groups, step = WIDE * 4, bytes = panel_bytes(m) / groups;
    const int64_t kind = m->kind;
    const float *line = m->lines + (kind == BYTES ? p * 4 * WIDE : 0);
    const uint8_t *codes = m->codes + p * panel_bytes(m);
    NAME(floats) total[MOST_ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) total[r][v] = (NAME(floats)){0};
    for (int64_t g = 0, left = m->per_scale, at = p * m->scales * WIDE; g < groups; g++, codes += bytes) {
        for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(codes + AHEAD + line);
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v += AT_ONCE) {
            NAME(ints) sum[MOST_ROWS][AT_ONCE];
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) {
                int32_t all = ((const int32_t *)(a[r] + groups * (SPAN + 4)))[g];
#pragma GCC unroll 2
                for (int w = 0; w < AT_ONCE; w++) sum[r][w] = (NAME(ints)){0} - (offset ? all << offset : 0);
            }
#pragma GCC unroll 8
            for (int s = 0; s < STEPS; s += bits == 8 ? 1 : 2) {
                NAME(bytes) low[AT_ONCE], high[AT_ONCE];
#pragma GCC unroll 2
                for (int w = 0; w < AT_ONCE; w++) {
                    low[w] = *(const NAME(bytes) *)(codes + (bits == 8 ? s : s / 2) * step + (v + w) * WIDTH);
                    if (bits == 4) {
                        // Shifts of 16 bits are what x86 has.
                        high[w] = (NAME(bytes))((NAME(ints))low[w] >> 4) & 15;
                        low[w] = low[w] & 15;
                    }
                }
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    int32_t word;
                    memcpy(&word, a[r] + g * SPAN + s * 4, 4);
#pragma GCC unroll 2
                    for (int w = 0; w < AT_ONCE; w++) sum[r][w] = NAME(dot)(sum[r][w], low[w], word, bits == 4);
                    if (bits == 8) continue;
                    memcpy(&word, a[r] + g * SPAN + s * 4 + 4, 4);
#pragma GCC unroll 2
                    for (int w = 0; w < AT_ONCE; w++) sum[r][w] = NAME(dot)(sum[r][w], high[w], word, 1);
                }
            }
#pragma GCC unroll 2
            for (int w = 0; w < AT_ONCE; w++) {
                NAME(floats) scale = NAME(scales)(m->scale, at + (v + w) * LANES_OF, kind, line + (v + w) * LANES_OF);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) {
                    float mine = ((const float *)(a[r] + groups * SPAN))[g];
                    NAME(floats) whole = __builtin_convertvector(sum[r][w], NAME(floats));
                    total[r][v + w] = NAME(fused)(whole, scale * mine, total[r][v + w]);
                }
                if (m->minimum) {
                    NAME(floats) minimum =
                        NAME(scales)(m->minimum, at + (v + w) * LANES_OF, kind, line + 2 * WIDE + (v + w) * LANES_OF);
#pragma GCC unroll 8
                    for (int r = 0; r < R; r++) {
                        float shift = ((const float *)(a[r] + groups * (SPAN + 8)))[g];
                        total[r][v + w] = NAME(fused)(minimum, shift - (NAME(floats)){0}, total[r][v + w]);
                    }
                }
            }
        }
        if (--left == 0) left = m->per_scale, at += WIDE;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; v++) *(NAME(floats) *)(out[r] + v * LANES_OF) = total[r][v];
}

#define CASE(R)                                                  \
    case R:                                                      \
        if (m->bits == 8) NAME(rows)(R, 8, m, p, a, out);        \
        else NAME(rows)(R, 4, m, p, a, out);                     \
        break;
TARGET static void NAME(tile)(int64_t rows, const Codes *m, int64_t p, const int8_t *const *a, float (*out)[WIDE]) {
    int64_t some = rows;
    switch (rows) {
        CASE(1)
#if WIDTH >= 32
        CASE(2)
        CASE(4)
#endif
#if WIDTH == 64
        CASE(3)
        CASE(5)
        CASE(6)
        CASE(7)
        CASE(8)
#else
    default: some = WIDTH == 16 ? 1 : rows > 4 ? 4 : 2;
#endif
    }
    if (some < rows) {
        NAME(tile)(some, m, p, a, out);
        NAME(tile)(rows - some, m, p, a + some, out + some);
    }
}

#undef CASE
#undef NAME
#undef LANES_OF
#undef VECTORS
#undef AT_ONCE
#undef PATH
#undef TARGET
#undef WIDTH
