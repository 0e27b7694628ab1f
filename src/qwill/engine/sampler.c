// Drawing tokens from the whole distribution: float32 logits on a CPU, in one pass for the sums and one block more.
// Definition: sampler.py (`_draw`), against which tests/engine/test_sampler.py holds it.
// Rows are independent of each other and of the number of threads, to the last bit.
#include <omp.h>
#include "rows.h"

#define LARGE 200000  // logits; below, waking a second thread costs more than it brings

// The token whose share of [0, total) holds `target`; sums[b] is the weight of block b.
static int64_t find(const float *x, int64_t limit, const double *sums, float temperature, float top, double target) {
    int64_t b = 0, last = (limit - 1) / BLOCK;
    double below = 0;
    while (b < last && below + sums[b] <= target) below += sums[b++];
    int64_t chosen = b * BLOCK, end = chosen + BLOCK < limit ? chosen + BLOCK : limit;
    // Rounding can leave the target just behind the block's last weight: then that token is the one.
    for (int64_t i = chosen; i < end && below <= target; i++) {
        float w = odds(x[i], temperature, top);
        if (w > 0) chosen = i;
        below += w;
    }
    return chosen;
}

static void draw_row(const float *x, int64_t vocab, int64_t limit, float temperature, double uniform, int64_t *token,
                     float *logprob, float *sampled) {
    int64_t chosen = 0;
    double sums[(limit + BLOCK - 1) / BLOCK], total = 0;
    float highest = largest(x, 0, limit), top = highest / temperature, all = top;
    for (int64_t i = 0; i < limit; i += BLOCK)
        total += sums[i / BLOCK] = sum_of_odds(x, i, least(i + BLOCK, limit), temperature, top);
    if (uniform < 0)
        while (chosen < limit - 1 && x[chosen] != highest) chosen++;
    else
        chosen = find(x, limit, sums, temperature, top, uniform * total);
    *token = chosen;
    *sampled = uniform < 0 ? 0 : log_share(x, chosen, temperature, top, total);
    if (limit < vocab) {
        float beyond = largest(x, limit, vocab) / temperature;
        all = beyond > top ? beyond : top;
        total = total_odds(x, vocab, temperature, all);
    }
    *logprob = log_share(x, chosen, temperature, all, total);
}

// One token a row among the first `limit` ids, by one uniform number a row (below 0: the likeliest token);
// log-probabilities as in `Sampled`.
void draw(const float *logits, int64_t rows, int64_t vocab, int64_t limit, float temperature, const double *uniforms,
          int64_t *tokens, float *logprobs, float *sampled, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (rows * vocab > LARGE)
    for (int64_t r = 0; r < rows; r++)
        draw_row(logits + r * vocab, vocab, limit, temperature, uniforms[r], tokens + r, logprobs + r, sampled + r);
}
