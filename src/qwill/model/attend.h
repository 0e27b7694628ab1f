// Attention of query rows, whose keys and values lie in one piece (training) or in the pages of a cache (generation);
// float32 on a CPU. The sums run in the same order whatever the layout, so that both come to the same bits.
//
// Keys lie as [block of LANES positions][K][LANES], LANES positions side by side. A cache holds them, and values, as
// float32, as half floats, or as bytes with a scale for each position (computed with in float32 all the same).
//
// Letters: K head size, s a position.
#pragma once
#include "rows.h"
#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

enum { SINGLE, HALF, BYTE };  // how keys and values are held

typedef struct {
    const void *keys, *values;  // of one key head: position s is number place(s) there
    const float *key_scale, *value_scale;  // BYTE: of every place
    const int32_t *table;  // the pages of this sequence; NULL: one piece
    int64_t page, stride;  // positions of a page, and from one page to the next
    int64_t value_step;    // elements from one value to the next
} Kept;

INLINE int64_t place(const Kept *c, int64_t s) {
    return c->table ? (int64_t)c->table[s / c->page] * c->stride + s % c->page : s;
}

INLINE float from_half(uint16_t h) {
#if defined(__F16C__)
    return _cvtsh_ss(h);
#else
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
#endif
}

// To the nearest half, ties to even.
INLINE uint16_t to_half(float x) {
#if defined(__F16C__)
    return _cvtss_sh(x, 0);
#else
    uint32_t bits, sign;
    memcpy(&bits, &x, 4);
    sign = bits >> 16 & 0x8000;
    bits &= 0x7fffffff;
    if (bits >= 0x47800000) return (uint16_t)(sign | (bits > 0x7f800000 ? 0x7e00 : 0x7c00));
    if (bits < 0x38800000) {  // adding 0.5 leaves the rounded fraction in the lowest bits
        float small;
        memcpy(&small, &bits, 4);
        small += 0.5f;
        memcpy(&bits, &small, 4);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    return (uint16_t)(sign | ((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13));
#endif
}

// LANES elements from number i on
INLINE vec load_kept(const int kind, const void *p, int64_t i) {
    if (kind == SINGLE) return load((const float *)p + i);
    vec out;
    if (kind == HALF) {
        const uint16_t *h = (const uint16_t *)p + i;
#if defined(__AVX512F__)
        out = (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)h));
#elif defined(__AVX__) && defined(__F16C__)
        out = (vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)h));
#else
        for (int l = 0; l < LANES; l++) out[l] = from_half(h[l]);
#endif
        return out;
    }
#if defined(__AVX512F__)  // compilers take the generic form apart
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)((const int8_t *)p + i))));
#elif defined(__AVX2__)
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)((const int8_t *)p + i))));
#else
    typedef int8_t small __attribute__((vector_size(LANES), aligned(1), may_alias));
    return __builtin_convertvector(__builtin_convertvector(*(const small *)((const int8_t *)p + i), ivec), vec);
#endif
}

// Query heads that share one key head, of one token or of neighbouring ones: up to GROUP are done together, so that keys
// and values are read and widened once for them. What comes of one doesn't depend on the others, to the last bit.
typedef struct {
    const float *q[GROUP];
    float *out[GROUP];
    int64_t seen[GROUP];  // positions [0, seen); none less than the one before
} Queries;

// How many vectors of sums are in registers for each head: enough for the adders' latency, and no more than there are.
#define ABREAST(heads) (LANES == 16 || (heads) <= 2 ? 4 : 2)
#define MOST_ABREAST 4

// q·k / sqrt(K) of `blocks` times LANES positions from s on; sums run over K in order, whatever stands beside them
INLINE void score_blocks(const int heads, const int kind, const int blocks, const Queries *a, const Kept *c, int64_t K,
                         int64_t s, float *scores, int64_t capacity, vec best[GROUP]) {
    float scale = 1.0f / sqrtf((float)K);
    vec sum[GROUP][MOST_ABREAST];
    int64_t at[MOST_ABREAST];
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++) {
        at[b] = place(c, s + b * LANES);
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) sum[h][b] = all(0);
    }
    for (int64_t j = 0; j < K; j++) {
        vec key[MOST_ABREAST];
#pragma GCC unroll 4
        for (int b = 0; b < blocks; b++) key[b] = load_kept(kind, c->keys, at[b] * K + j * LANES);
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++)
#pragma GCC unroll 4
            for (int b = 0; b < blocks; b++) sum[h][b] += a->q[h][j] * key[b];
    }
#pragma GCC unroll 4
    for (int b = 0; b < blocks; b++)
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) {
            vec score = sum[h][b] * scale;
            if (kind == BYTE) score *= load(c->key_scale + at[b]);
            score = pick(below(a->seen[h] - s - b * LANES), score, all(-INFINITY));
            best[h] = pick(score > best[h], score, best[h]);
            store(scores + h * capacity + s + b * LANES, score);
        }
}

// Columns [j, j + vectors · LANES) of the weighted values; sums run over positions in order
INLINE void weigh_values(const int heads, const int kind, const int vectors, const float *scores, int64_t capacity,
                         const float *total, const Queries *a, const Kept *c, int64_t j) {
    vec sum[GROUP][MOST_ABREAST];
#pragma GCC unroll 4
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) sum[h][v] = all(0);
    int64_t by_all = a->seen[0], most = a->seen[heads - 1];
    for (int64_t first = 0; first < by_all; first += LANES) {
        int64_t at = place(c, first) * c->value_step + j, last = least(first + LANES, by_all);
        for (int64_t s = first; s < last; s++, at += c->value_step) {
            vec value[MOST_ABREAST];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) value[v] = load_kept(kind, c->values, at + v * LANES);
#pragma GCC unroll 4
            for (int h = 0; h < heads; h++) {
                float p = scores[h * capacity + s];
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++) sum[h][v] += p * value[v];
            }
        }
    }
    for (int64_t s = by_all; s < most; s++) {
        int64_t at = place(c, s) * c->value_step + j;
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++)
            if (s < a->seen[h])
#pragma GCC unroll 4
                for (int v = 0; v < vectors; v++)
                    sum[h][v] += scores[h * capacity + s] * load_kept(kind, c->values, at + v * LANES);
    }
#pragma GCC unroll 4
    for (int h = 0; h < heads; h++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) store(a->out[h] + j + v * LANES, sum[h][v] / total[h]);
}

// softmax(q·k / sqrt(K))·v
INLINE void attend_heads(const int heads, const int kind, const Queries *a, const Kept *c, int64_t K, float *scores,
                         int64_t capacity) {
    const int abreast = ABREAST(heads);
    vec best[GROUP];
    float total[GROUP];
#pragma GCC unroll 4
    for (int h = 0; h < heads; h++) best[h] = all(-INFINITY);
    int64_t s = 0, j = 0, most = a->seen[heads - 1];
    for (; most - s > (abreast - 1) * LANES; s += abreast * LANES)
        score_blocks(heads, kind, abreast, a, c, K, s, scores, capacity, best);
    for (; s < most; s += LANES) score_blocks(heads, kind, 1, a, c, K, s, scores, capacity, best);
    for (int h = 0; h < heads; h++) {
        float top = -INFINITY;
        for (int i = 0; i < LANES; i++) top = best[h][i] > top ? best[h][i] : top;
        vec sum = all(0);
        for (s = 0; s < a->seen[h]; s += LANES) {
            vec p = vexp(load(scores + h * capacity + s) - top);
            p = pick(below(a->seen[h] - s), p, all(0));
            sum += p;
            if (kind == BYTE) p *= load(c->value_scale + place(c, s));
            store(scores + h * capacity + s, p);
        }
        total[h] = add_up(sum);
    }
    for (; j + abreast * LANES <= K; j += abreast * LANES)
        weigh_values(heads, kind, abreast, scores, capacity, total, a, c, j);
    for (; j < K; j += LANES) weigh_values(heads, kind, 1, scores, capacity, total, a, c, j);
}

// `heads` query heads that share a key head, K floats apart, of each of `tokens` neighbouring tokens
typedef struct {
    int64_t heads, tokens;
    const float *q;
    int64_t q_step;  // floats from one token to the next
    float *out;
    int64_t out_step, seen;  // of the first token: positions [0, seen)
} Heads;

INLINE void attend(const int kind, const Heads *all_of, const Kept *c, int64_t K, float *scores, int64_t capacity) {
    for (int64_t first = 0, rows = all_of->heads * all_of->tokens; first < rows; first += GROUP) {
        Queries a;
        int64_t count = least(GROUP, rows - first);
        for (int64_t i = 0; i < count; i++) {
            int64_t token = (first + i) / all_of->heads, head = (first + i) % all_of->heads;
            a.q[i] = all_of->q + token * all_of->q_step + head * K;
            a.out[i] = all_of->out + token * all_of->out_step + head * K;
            a.seen[i] = all_of->seen + token;
        }
        switch (count) {
        case 1: attend_heads(1, kind, &a, c, K, scores, capacity); break;
        case 2: attend_heads(2, kind, &a, c, K, scores, capacity); break;
        case 3: attend_heads(3, kind, &a, c, K, scores, capacity); break;
        default: attend_heads(4, kind, &a, c, K, scores, capacity);
        }
    }
}
