// Drawing tokens from the whole distribution: float32 logits on a CPU, in one pass for the sums and one block more.
// Definition: sampler.py (`_draw`), against which tests/engine/test_sampler.py holds it.
// Rows are independent of each other and of the number of threads, to the last bit.
#include <math.h>
#include <stdint.h>
#include <omp.h>

#define BLOCK 256
#define LARGE 200000  // logits; below, waking a second thread costs more than it brings

// exp by 2^n · P(r), |r| <= ln2/2; relative error < 2e-7 (as model/kernels.c). Vectorises, unlike libm's.
static inline float exp_f(float x) {
    x = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
    float n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    float r = (x - n * 0.693145751953125f) - n * 1.428606820309417e-6f;
    float p = 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r * r + r) + 1.0f;
    union { int32_t i; float f; } scale;
    scale.i = ((int32_t)n + 127) << 23;
    return p * scale.f;
}

// What cannot happen (a logit of minus infinity) weighs nothing at all.
static inline float weight(float logit, float temperature, float top) {
    float x = logit / temperature - top;
    return x < -87.0f ? 0 : exp_f(x);
}

static float largest(const float *x, int64_t from, int64_t to) {
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = from; i < to; i++) top = x[i] > top ? x[i] : top;
    return top;
}

static double sum_of(const float *x, int64_t from, int64_t to, float temperature, float top) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = from; i < to; i++) sum += weight(x[i], temperature, top);
    return sum;
}

// The token whose share of [0, total) holds `target`; sums[b] is the weight of block b.
static int64_t find(const float *x, int64_t limit, const double *sums, float temperature, float top, double target) {
    int64_t b = 0, last = (limit - 1) / BLOCK;
    double below = 0;
    while (b < last && below + sums[b] <= target) below += sums[b++];
    int64_t chosen = b * BLOCK, end = chosen + BLOCK < limit ? chosen + BLOCK : limit;
    // Rounding can leave the target just behind the block's last weight: then that token is the one.
    for (int64_t i = chosen; i < end && below <= target; i++) {
        float w = weight(x[i], temperature, top);
        if (w > 0) chosen = i;
        below += w;
    }
    return chosen;
}

static void draw_row(const float *x, int64_t vocab, int64_t limit, float temperature, double uniform, int64_t *token,
                     float *logprob, float *sampled) {
    int64_t chosen = 0;
    double sums[(limit + BLOCK - 1) / BLOCK], total = 0, spare = 0;
    float highest = largest(x, 0, limit), top = highest / temperature, all = top;
    for (int64_t i = 0; i < limit; i += BLOCK) {
        sums[i / BLOCK] = sum_of(x, i, i + BLOCK < limit ? i + BLOCK : limit, temperature, top);
        total += sums[i / BLOCK];
    }
    if (uniform < 0)
        while (chosen < limit - 1 && x[chosen] != highest) chosen++;
    else
        chosen = find(x, limit, sums, temperature, top, uniform * total);
    if (limit < vocab) {
        float beyond = largest(x, limit, vocab) / temperature;
        all = beyond > top ? beyond : top;
        spare = sum_of(x, limit, vocab, temperature, all);
    }
    *token = chosen;
    *sampled = uniform < 0 ? 0 : (float)(x[chosen] / temperature - top - log(total));
    *logprob = (float)(x[chosen] / temperature - all - log(total * exp((double)top - all) + spare));
}

// One token a row among the first `limit` ids, by one uniform number a row (below 0: the likeliest token);
// log-probabilities as in `Sampled`.
void draw(const float *logits, int64_t rows, int64_t vocab, int64_t limit, float temperature, const double *uniforms,
          int64_t *tokens, float *logprobs, float *sampled, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (rows * vocab > LARGE)
    for (int64_t r = 0; r < rows; r++)
        draw_row(logits + r * vocab, vocab, limit, temperature, uniforms[r], tokens + r, logprobs + r, sampled + r);
}
