// Causal attention inside packed sequences, for training and over a cache: float32 on a CPU. Definitions: ops.py, cache.py.
// The forward passes attend as generation does (attend.h) and come to the same bits; the backward pass makes
// the whole triangle of one head and is matrix products. A (sequence, key head) is one thread's work.
// Letters: T length of a sequence, H query heads, G key/value heads, K head size.
#include <omp.h>
#include <stdlib.h>
#include "attend.h"

#define SMALL 1000000  // multiplications; below, waking a second thread costs more than it brings

// Keys of one sequence and key head as `attend` wants them: [block][K][LANES], zeros beyond the last position
static void block_keys(const float *k, int64_t step, int64_t length, int64_t K, float *blocks) {
    for (int64_t s = 0; s < length; s += LANES)
        for (int64_t j = 0; j < K; j++)
            for (int64_t i = 0; i < LANES; i++)
                blocks[s * K + j * LANES + i] = s + i < length ? k[(s + i) * step + j] : 0;
}

// out[n, H, K] of q[n, H, K], k and v[n, G, K]; `longest` is the longest sequence
void attention_forward(const float *q, const float *k, const float *v, const int32_t *borders, int64_t sequences,
                       int64_t longest, int64_t H, int64_t G, int64_t K, float *out, int threads) {
    int64_t capacity = (longest + LANES - 1) / LANES * LANES, shared = H / G;
#pragma omp parallel num_threads(threads) if (borders[sequences] * H * K * longest > SMALL)
    {
        float *blocks = malloc(sizeof(float) * capacity * (K + GROUP)), *scores = blocks + capacity * K;
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < sequences * G; t++) {
            int64_t first = borders[t / G], length = borders[t / G + 1] - first, g = t % G;
            block_keys(k + (first * G + g) * K, G * K, length, K, blocks);
            Kept kept = {.keys = blocks, .values = v + (first * G + g) * K, .value_step = G * K};
            for (int64_t i = 0; i < length; i += GROUP) {
                int64_t row = ((first + i) * H + g * shared) * K;
                Heads a = {shared, least(GROUP, length - i), q + row, H * K, out + row, H * K, i + 1};
                attend(SINGLE, &a, &kept, K, scores, capacity);
            }
        }
        free(blocks);
    }
}

// out[n, H, K] of q[n, H, K], the last tokens of sequences whose keys and values k and v[R, S, G, K] were cached; a
// sequence's last token sees `seen` of them
void attention_cached(const float *q, const float *k, const float *v, const int32_t *borders, const int64_t *seen,
                      int64_t sequences, int64_t S, int64_t H, int64_t G, int64_t K, float *out, int threads) {
    int64_t capacity = (S + LANES - 1) / LANES * LANES, shared = H / G;
#pragma omp parallel num_threads(threads) if (borders[sequences] * H * K * S > SMALL)
    {
        float *blocks = malloc(sizeof(float) * capacity * (K + GROUP)), *scores = blocks + capacity * K;
#pragma omp for schedule(dynamic, 1)
        for (int64_t t = 0; t < sequences * G; t++) {
            int64_t r = t / G, g = t % G, first = (r * S * G + g) * K;
            block_keys(k + first, G * K, seen[r], K, blocks);
            Kept kept = {.keys = blocks, .values = v + first, .value_step = G * K};
            for (int64_t i = borders[r]; i < borders[r + 1]; i += GROUP) {
                int64_t row = (i * H + g * shared) * K, last = borders[r + 1] - 1;
                Heads a = {shared, least(GROUP, last + 1 - i), q + row, H * K, out + row, H * K, seen[r] - (last - i)};
                attend(SINGLE, &a, &kept, K, scores, capacity);
            }
        }
        free(blocks);
    }
}

// scores and d_shares of one query, [0, seen) of `width` floats each, become its shares and d_scores; zeros beyond
static void softmax_backward(float *scores, float *d_shares, int64_t seen, int64_t width, float scale) {
    float top = -INFINITY, sum = 0, dot = 0;
    for (int64_t s = seen; s < width; s++) scores[s] = -INFINITY, d_shares[s] = 0;
#pragma omp simd reduction(max : top)
    for (int64_t s = 0; s < seen; s++) top = scores[s] > top ? scores[s] : top;
#pragma omp simd reduction(+ : sum)
    for (int64_t s = 0; s < width; s++) {
        float x = (scores[s] - top) * scale;
        scores[s] = x < -87.0f ? 0 : exp_f(x);
        sum += scores[s];
    }
#pragma omp simd reduction(+ : dot)
    for (int64_t s = 0; s < width; s++) {
        scores[s] /= sum;
        dot += scores[s] * d_shares[s];
    }
#pragma omp simd
    for (int64_t s = 0; s < width; s++) d_shares[s] = scores[s] * (d_shares[s] - dot) * scale;
}

typedef struct {
    float *shares, *d_scores;             // [T][width], width a multiple of PANEL
    float *keys, *values;                 // panels of T columns
    float *key_rows, *query_rows, *d_rows;  // panels of K columns
    int64_t width;
} Triangle;

static void pack_all(const float *x, int64_t columns, int64_t k, int64_t column_step, int64_t k_step, float *packed) {
    for (int64_t p = 0; p < panels_of(columns); p++)
        pack_panel(x, columns, k, column_step, k_step, 0, p, packed + p * k * PANEL);
}

// rows [first, first + count) of out (row_step apart) (+)= the rows a · packed, `terms` of a sum from `from` on
static void multiply(int64_t count, const float *const *a, int64_t step, int64_t from, int64_t terms, int64_t T,
                     const float *packed, int64_t columns, int add, float *out, int64_t row_step) {
    for (int64_t p = 0; p < panels_of(columns); p++) {
        vec sum[ROWS][2];
        int64_t width = least(PANEL, columns - p * PANEL);
        tile_apart(count, a, step, terms, packed + (p * T + from) * PANEL, sum);
        for (int64_t i = 0; i < count; i++) {
            const float *value = (const float *)sum[i];
            float *to = out + i * row_step + p * PANEL;
            if (add) for (int64_t j = 0; j < width; j++) to[j] += value[j];
            else memcpy(to, value, sizeof(float) * width);
        }
    }
}

// One query head: fills the triangle and d_q, and adds to d_k and d_v (or sets them, `add` 0). Steps are in floats.
static void head_backward(Triangle t, const float *q, const float *d_out, int64_t T, int64_t K, int64_t step,
                          int64_t kv_step, int add, float *d_q, float *d_k, float *d_v) {
    float scale = 1.0f / sqrtf((float)K);
    pack_all(q, K, T, 1, step, t.query_rows);
    pack_all(d_out, K, T, 1, step, t.d_rows);
    for (int64_t r = 0; r < T; r += ROWS) {
        int64_t count = least(ROWS, T - r), panels = panels_of(r + count);
        const float *queries[ROWS], *gradients[ROWS], *rows[ROWS];
        for (int64_t i = 0; i < count; i++) {
            queries[i] = q + (r + i) * step;
            gradients[i] = d_out + (r + i) * step;
            rows[i] = t.d_scores + (r + i) * t.width;
        }
        for (int64_t p = 0; p < panels; p++) {
            vec score[ROWS][2], d_share[ROWS][2];
            tile(count, queries, K, t.keys + p * K * PANEL, score);
            tile(count, gradients, K, t.values + p * K * PANEL, d_share);
            for (int64_t i = 0; i < count; i++) {
                memcpy(t.shares + (r + i) * t.width + p * PANEL, score[i], sizeof score[i]);
                memcpy(t.d_scores + (r + i) * t.width + p * PANEL, d_share[i], sizeof d_share[i]);
            }
        }
        for (int64_t i = 0; i < count; i++)
            softmax_backward(t.shares + (r + i) * t.width, t.d_scores + (r + i) * t.width, r + i + 1, panels * PANEL, scale);
        multiply(count, rows, 1, 0, r + count, T, t.key_rows, K, 0, d_q + r * step, step);
    }
    for (int64_t s = 0; s < T; s += ROWS) {
        int64_t count = least(ROWS, T - s);
        const float *shares[ROWS], *d_scores[ROWS];
        for (int64_t i = 0; i < count; i++) {
            shares[i] = t.shares + s * t.width + s + i;
            d_scores[i] = t.d_scores + s * t.width + s + i;
        }
        multiply(count, d_scores, t.width, s, T - s, T, t.query_rows, K, add, d_k + s * kv_step, kv_step);
        multiply(count, shares, t.width, s, T - s, T, t.d_rows, K, add, d_v + s * kv_step, kv_step);
    }
}

void attention_backward(const float *q, const float *k, const float *v, const float *d_out, const int32_t *borders,
                        int64_t sequences, int64_t longest, int64_t H, int64_t G, int64_t K, float *d_q, float *d_k,
                        float *d_v, int threads) {
    int64_t width = panels_of(longest) * PANEL, wide = panels_of(K) * PANEL, shared = H / G;
#pragma omp parallel num_threads(threads) if (borders[sequences] * H * K * longest > SMALL)
    {
        Triangle t = {.width = width};
        float *space = malloc(sizeof(float) * (2 * width * width + 2 * width * K + 3 * wide * width));
        t.shares = space, t.d_scores = t.shares + width * width;
        t.keys = t.d_scores + width * width, t.values = t.keys + width * K;
        t.key_rows = t.values + width * K, t.query_rows = t.key_rows + wide * width;
        t.d_rows = t.query_rows + wide * width;
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < sequences * G; task++) {
            int64_t first = borders[task / G], T = borders[task / G + 1] - first, g = task % G;
            int64_t kv = (first * G + g) * K;
            pack_all(k + kv, T, K, G * K, 1, t.keys);
            pack_all(v + kv, T, K, G * K, 1, t.values);
            pack_all(k + kv, K, T, 1, G * K, t.key_rows);
            for (int64_t h = 0; h < shared; h++) {
                int64_t place = (first * H + g * shared + h) * K;
                head_backward(t, q + place, d_out + place, T, K, H * K, G * K, h > 0, d_q + place, d_k + kv, d_v + kv);
            }
        }
        free(space);
    }
}
