// The model's elementwise passes for float32 on a CPU, each fused into one sweep over memory.
// Definitions: ops.py; what generation computes too is rows.h. Every function here is tested against its definition (tests/model/test_native.py).
// Results are the same for the same number of threads: loops are divided statically, partial sums added in thread order.
// Letters: n rows, d columns, f feed-forward width, H query heads, G key/value heads, K head size, R of it that turn, V vocabulary.
#include <omp.h>
#include <stdlib.h>
#include "rows.h"

#define SMALL 16384  // floats; below this a second thread costs more than it brings

// s = x + delta (delta may be NULL: then s is not written), y = s / rms(s) · w
void add_rms_norm_forward(const float *x, const float *delta, const float *w, float eps, int64_t n, int64_t d,
                          float *s, float *y, float *rstd, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n * d > SMALL)
    for (int64_t i = 0; i < n; i++) {
        const float *row = x + i * d;
        if (delta) {
            const float *add = delta + i * d;
            float *out = s + i * d;
#pragma omp simd
            for (int64_t j = 0; j < d; j++) out[j] = row[j] + add[j];
            row = out;
        }
        rstd[i] = normalise(row, w, eps, d, y + i * d);
    }
}

// dx = ds + J^T dy (ds may be NULL), dw = sum of dy · s · rstd; `part` holds threads × d floats
void add_rms_norm_backward(const float *dy, const float *ds, const float *s, const float *w, const float *rstd,
                           int64_t n, int64_t d, float *dx, float *dw, float *part, int threads) {
    memset(part, 0, sizeof(float) * threads * d);
#pragma omp parallel num_threads(threads)
    {
        float *mine = part + omp_get_thread_num() * d;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            const float *g = dy + i * d, *v = s + i * d;
            float r = rstd[i], dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t j = 0; j < d; j++) { mine[j] += g[j] * v[j] * r; dot += g[j] * w[j] * v[j]; }
            float c = dot * r * r * r / (float)d;
            float *out = dx + i * d;
            if (ds) {
                const float *t = ds + i * d;
#pragma omp simd
                for (int64_t j = 0; j < d; j++) out[j] = t[j] + g[j] * w[j] * r - v[j] * c;
            } else {
#pragma omp simd
                for (int64_t j = 0; j < d; j++) out[j] = g[j] * w[j] * r - v[j] * c;
            }
        }
    }
    for (int64_t j = 0; j < d; j++) {
        float sum = 0;
        for (int t = 0; t < threads; t++) sum += part[t * d + j];
        dw[j] = sum;
    }
}

// w may be NULL: then there is no norm, only the rotation
static void norm_rope_head(const float *x, const float *w, const float *cos, const float *sin, float eps, int64_t K,
                           int64_t R, float *out, float *rstd) {
    if (w) *rstd = normalise(x, w, eps, K, out);
    else memcpy(out, x, sizeof(float) * K);
    rotate(out, cos, sin, R / 2);
}

void qk_norm_rope_forward(const float *qkv, const float *qw, const float *kw, const float *cos, const float *sin,
                          float eps, int64_t n, int64_t H, int64_t G, int64_t K, int64_t R, float *q, float *k,
                          float *v, float *rstd, int threads) {
    int64_t row = (H + 2 * G) * K;
#pragma omp parallel for schedule(static) num_threads(threads) if (n * row > SMALL)
    for (int64_t i = 0; i < n; i++) {
        const float *x = qkv + i * row, *c = cos + i * (R / 2), *s = sin + i * (R / 2);
        for (int64_t h = 0; h < H; h++)
            norm_rope_head(x + h * K, qw, c, s, eps, K, R, q + (i * H + h) * K, rstd + i * (H + G) + h);
        for (int64_t h = 0; h < G; h++)
            norm_rope_head(x + (H + h) * K, kw, c, s, eps, K, R, k + (i * G + h) * K, rstd + i * (H + G) + H + h);
        memcpy(v + i * G * K, x + (H + G) * K, sizeof(float) * G * K);
    }
}

static void norm_rope_head_backward(const float *g, const float *x, const float *w, const float *cos,
                                    const float *sin, float r, int64_t K, int64_t R, float *dx, float *dw,
                                    float *tmp) {
    int64_t h = R / 2;
    float dot = 0;
    if (!w) {
#pragma omp simd
        for (int64_t j = 0; j < h; j++) {
            dx[j] = g[j] * cos[j] + g[j + h] * sin[j];
            dx[j + h] = g[j + h] * cos[j] - g[j] * sin[j];
        }
        for (int64_t j = R; j < K; j++) dx[j] = g[j];
        return;
    }
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < h; j++) {
        float a = g[j] * cos[j] + g[j + h] * sin[j], b = g[j + h] * cos[j] - g[j] * sin[j];
        dw[j] += a * x[j] * r;
        dw[j + h] += b * x[j + h] * r;
        a *= w[j];
        b *= w[j + h];
        tmp[j] = a;
        tmp[j + h] = b;
        dot += a * x[j] + b * x[j + h];
    }
    if (R < K) {
#pragma omp simd reduction(+ : dot)
        for (int64_t j = R; j < K; j++) {
            dw[j] += g[j] * x[j] * r;
            tmp[j] = g[j] * w[j];
            dot += tmp[j] * x[j];
        }
    }
    float c = dot * r * r * r / (float)K;
#pragma omp simd
    for (int64_t j = 0; j < K; j++) dx[j] = tmp[j] * r - x[j] * c;
}

// `part` holds threads × 3K floats: dqw, dkw and scratch of each thread
void qk_norm_rope_backward(const float *dq, const float *dk, const float *dv, const float *qkv, const float *qw,
                           const float *kw, const float *cos, const float *sin, const float *rstd, int64_t n,
                           int64_t H, int64_t G, int64_t K, int64_t R, float *dqkv, float *dqw, float *dkw, float *part,
                           int threads) {
    int64_t row = (H + 2 * G) * K;
    memset(part, 0, sizeof(float) * threads * 3 * K);
#pragma omp parallel num_threads(threads)
    {
        float *mine = part + omp_get_thread_num() * 3 * K;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++) {
            const float *x = qkv + i * row, *c = cos + i * (R / 2), *s = sin + i * (R / 2);
            const float *r = rstd + i * (H + G);
            float *out = dqkv + i * row;
            for (int64_t h = 0; h < H; h++)
                norm_rope_head_backward(dq + (i * H + h) * K, x + h * K, qw, c, s, r[h], K, R, out + h * K, mine,
                                        mine + 2 * K);
            for (int64_t h = 0; h < G; h++)
                norm_rope_head_backward(dk + (i * G + h) * K, x + (H + h) * K, kw, c, s, r[H + h], K, R,
                                        out + (H + h) * K, mine + K, mine + 2 * K);
            memcpy(out + (H + G) * K, dv + i * G * K, sizeof(float) * G * K);
        }
    }
    for (int64_t j = 0; j < K; j++) {
        dqw[j] = dkw[j] = 0;
        for (int t = 0; t < threads; t++) {
            dqw[j] += part[t * 3 * K + j];
            dkw[j] += part[t * 3 * K + K + j];
        }
    }
}

// h = weight · silu(gate) · up; rows of gu are [gate, up]; weight may be NULL (1)
void swiglu_forward(const float *gu, const float *weight, int64_t n, int64_t f, float *h, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n * f > SMALL)
    for (int64_t i = 0; i < n; i++) {
        const float *g = gu + i * 2 * f, *u = g + f;
        float *out = h + i * f, w = weight ? weight[i] : 1.0f, rest[3][LANES] = {0};
        int64_t j = 0, left = f % LANES;
        for (; j + LANES <= f; j += LANES) store(out + j, gated(load(g + j), load(u + j), all(w)));
        memcpy(rest[0], g + j, sizeof(float) * left);
        memcpy(rest[1], u + j, sizeof(float) * left);
        store(rest[2], gated(load(rest[0]), load(rest[1]), all(w)));
        memcpy(out + j, rest[2], sizeof(float) * left);
    }
}

void swiglu_backward(const float *dh, const float *gu, const float *weight, int64_t n, int64_t f, float *dgu,
                     float *dweight, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n * f > SMALL)
    for (int64_t i = 0; i < n; i++) {
        const float *g = gu + i * 2 * f, *u = g + f, *d = dh + i * f;
        float *dg = dgu + i * 2 * f, *du = dg + f, w = weight ? weight[i] : 1.0f, dw = 0;
#pragma omp simd reduction(+ : dw)
        for (int64_t j = 0; j < f; j++) {
            float sig = 1.0f / (1.0f + exp_f(-g[j])), act = g[j] * sig;
            dw += d[j] * act * u[j];
            float t = w * d[j];
            du[j] = t * act;
            dg[j] = t * u[j] * sig * (1.0f + g[j] * (1.0f - sig));
        }
        if (dweight) dweight[i] = dw;
    }
}

// Counting sort of the n·k assignments by expert: place[i] = row of assignment i, token[row] = its token, in order
void route(const int64_t *chosen, int64_t n, int64_t k, int64_t experts, int32_t *place, int32_t *token,
           int64_t *starts) {
    memset(starts, 0, sizeof(int64_t) * (experts + 1));
    for (int64_t i = 0; i < n * k; i++) starts[chosen[i] + 1]++;
    for (int64_t e = 0; e < experts; e++) starts[e + 1] += starts[e];
    int64_t *next = malloc(sizeof(int64_t) * experts);
    memcpy(next, starts, sizeof(int64_t) * experts);
    for (int64_t i = 0; i < n * k; i++) {
        int64_t row = next[chosen[i]]++;
        place[i] = (int32_t)row;
        token[row] = (int32_t)(i / k);
    }
    free(next);
}

void gather_rows(const float *x, const int32_t *index, int64_t m, int64_t d, float *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (m * d > SMALL)
    for (int64_t i = 0; i < m; i++) memcpy(out + i * d, x + (int64_t)index[i] * d, sizeof(float) * d);
}

// out[i] = sum over its k assignments of y[place[i, r]]
void combine_rows(const float *y, const int32_t *place, int64_t n, int64_t k, int64_t d, float *out, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n * d > SMALL)
    for (int64_t i = 0; i < n; i++) {
        float *o = out + i * d;
        memcpy(o, y + (int64_t)place[i * k] * d, sizeof(float) * d);
        for (int64_t r = 1; r < k; r++) {
            const float *v = y + (int64_t)place[i * k + r] * d;
#pragma omp simd
            for (int64_t j = 0; j < d; j++) o[j] += v[j];
        }
    }
}

// Softmax over the experts in place (rows of p), then each row's top_k experts and their weights
void choose_experts(float *p, int64_t n, int64_t experts, int64_t top_k, int64_t renormalise, int64_t *chosen,
                    float *weight, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n * experts > SMALL)
    for (int64_t i = 0; i < n; i++)
        choose(p + i * experts, experts, top_k, renormalise, chosen + i * top_k, weight + i * top_k);
}

// Σ softmax · (logit / temperature − top), given the sum of all odds
static double mean_below(const float *x, int64_t V, float temperature, float top, double total) {
    double sum = 0;
    for (int64_t i = 0; i < V; i += BLOCK) {
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t j = i; j < least(i + BLOCK, V); j++) {
            float weight = odds(x[j], temperature, top);
            part += weight > 0 ? weight * (x[j] / temperature - top) : 0;
        }
        sum += part;
    }
    return sum / total;
}

// loss[i] = −log softmax(logits[i] / temperature)[target[i]]; entropy[i], unless NULL, that of the whole distribution;
// with `grad` logits become the gradient of weight · loss
void softmax_cross_entropy(float *logits, const int64_t *target, const float *weight, float temperature, int64_t n,
                           int64_t V, float *loss, float *entropy, int grad, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n * V > SMALL)
    for (int64_t i = 0; i < n; i++) {
        float *row = logits + i * V, top = largest(row, 0, V) / temperature;
        double total = total_odds(row, V, temperature, top);
        loss[i] = -log_share(row, target[i], temperature, top, total);
        if (entropy) entropy[i] = (float)(log(total) - mean_below(row, V, temperature, top, total));
        if (grad) {
            float scale = (float)(weight[i] / temperature / total);
#pragma omp simd
            for (int64_t j = 0; j < V; j++) row[j] = scale * odds(row[j], temperature, top);
            row[target[i]] -= weight[i] / temperature;
        }
    }
}
