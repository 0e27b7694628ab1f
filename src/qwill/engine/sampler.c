// Drawing tokens from the whole distribution: float32 logits on a CPU, in one pass for the sums and one block more.
// Definition: sampler.py (`_draw`), against which tests/engine/test_sampler.py holds it. With a bit mask only the ids
// whose bits are set can be drawn: blocks without any are passed over.
// Rows are independent of each other and of the number of threads, to the last bit.
#include <omp.h>
#include "rows.h"

#define LARGE 200000  // logits; below, waking a second thread costs more than it brings

// Where `target` falls among the weights of the blocks; `below`: the weight before that block.
static int64_t find_block(int64_t last, const double *sums, double target, double *below) {
    int64_t b = 0;
    for (*below = 0; b < last && *below + sums[b] <= target; b++) *below += sums[b];
    return b;
}

// The place in a block whose share holds `target`. Rounding can leave the target just behind the last weight: then that
// one is it.
static int64_t find_inside(const float *x, int64_t count, float temperature, float top, double below, double target) {
    int64_t chosen = 0;
    for (int64_t i = 0; i < count && below <= target; i++) {
        float w = odds(x[i], temperature, top);
        if (w > 0) chosen = i;
        below += w;
    }
    return chosen;
}

// The token whose share of [0, total) holds `target`; sums[b] is the weight of block b.
static int64_t find(const float *x, int64_t limit, const double *sums, float temperature, float top, double target) {
    double below;
    int64_t from = BLOCK * find_block((limit - 1) / BLOCK, sums, target, &below);
    return from + find_inside(x + from, least(BLOCK, limit - from), temperature, top, below, target);
}

// The greatest logit / temperature of the whole vocabulary, and the sum of all odds below it.
typedef struct { double top, total; } Whole;

static Whole whole_of(const float *x, int64_t vocab, float temperature) {
    float top = largest(x, 0, vocab) / temperature;
    return (Whole){top, total_odds(x, vocab, temperature, top)};
}

static Whole draw_row(const float *x, int64_t vocab, int64_t limit, float temperature, double uniform, int64_t *token,
                      float *logprob, float *sampled) {
    int64_t chosen = 0, shared = limit / BLOCK;
    double sums[(limit + BLOCK - 1) / BLOCK], total = 0;
    float highest = largest(x, 0, limit), top = highest / temperature;
    for (int64_t i = 0; i < limit; i += BLOCK)
        total += sums[i / BLOCK] = sum_of_odds(x, i, least(i + BLOCK, limit), temperature, top);
    if (uniform < 0)
        while (chosen < limit - 1 && x[chosen] != highest) chosen++;
    else
        chosen = find(x, limit, sums, temperature, top, uniform * total);
    *token = chosen;
    *sampled = uniform < 0 ? 0 : log_share(x, chosen, temperature, top, total);
    Whole whole = {top, total};
    if (limit < vocab && largest(x, limit, vocab) / temperature > top)
        whole = whole_of(x, vocab, temperature);
    else if (limit < vocab) {  // the same blocks, but for those with ids that are never drawn
        whole.total = 0;
        for (int64_t b = 0; b < shared; b++) whole.total += sums[b];
        for (int64_t i = shared * BLOCK; i < vocab; i += BLOCK)
            whole.total += sum_of_odds(x, i, least(i + BLOCK, vocab), temperature, top);
    }
    *logprob = log_share(x, chosen, temperature, whole.top, whole.total);
    return whole;
}

INLINE int may(const uint32_t *allowed, int64_t i) { return allowed[i >> 5] >> (i & 31) & 1; }

// Whether a block has a token that is allowed.
INLINE int any(const uint32_t *allowed, int64_t from, int64_t to) {
    uint32_t bits = 0;
    for (int64_t w = from / 32; w <= (to - 1) / 32; w++) bits |= allowed[w];
    return bits != 0;
}

// A block's logits, minus infinity where they aren't allowed. A word at a time: most have all bits or none.
INLINE void keep(const float *x, int64_t from, int64_t to, const uint32_t *allowed, float *kept) {
    for (int64_t i = from; i < to; i += 32) {
        uint32_t bits = allowed[i / 32];
        int64_t count = least(32, to - i);
        float *out = kept + (i - from);
        if (bits == UINT32_MAX && count == 32) memcpy(out, x + i, 32 * sizeof(float));
        else {
            if (count < 32) bits &= (1u << count) - 1;
            for (int64_t j = 0; j < count; j++) out[j] = -INFINITY;
            for (; bits; bits &= bits - 1) out[__builtin_ctz(bits)] = x[i + __builtin_ctz(bits)];
        }
    }
}

static void draw_allowed(const float *x, Whole whole, int64_t limit, const uint32_t *allowed, float temperature,
                         double uniform, int64_t *token, float *logprob, float *sampled) {
    float kept[BLOCK], highest = -INFINITY;
    int64_t chosen = 0, blocks = (limit + BLOCK - 1) / BLOCK;
    for (int64_t i = 0; i < limit; i += BLOCK) {
        int64_t end = least(i + BLOCK, limit);
        if (!any(allowed, i, end)) continue;
        keep(x, i, end, allowed, kept);
        float here = largest(kept, 0, end - i);
        if (here > highest) highest = here, chosen = i;
    }
    if (uniform < 0) {
        while (chosen < limit - 1 && !(may(allowed, chosen) && x[chosen] == highest)) chosen++;
        *sampled = 0;
    } else {
        double sums[blocks], total = 0, below;
        float top = highest / temperature;
        for (int64_t i = 0; i < limit; i += BLOCK) {
            int64_t end = least(i + BLOCK, limit);
            sums[i / BLOCK] = 0;
            if (!any(allowed, i, end)) continue;
            keep(x, i, end, allowed, kept);
            total += sums[i / BLOCK] = sum_of_odds(kept, 0, end - i, temperature, top);
        }
        int64_t from = BLOCK * find_block(blocks - 1, sums, uniform * total, &below), end = least(from + BLOCK, limit);
        keep(x, from, end, allowed, kept);
        chosen = from + find_inside(kept, end - from, temperature, top, below, uniform * total);
        *sampled = log_share(x, chosen, temperature, top, total);
    }
    *token = chosen;
    *logprob = log_share(x, chosen, temperature, whole.top, whole.total);
}

// One token a row among the first `limit` ids, and of these among those that `allowed` (unless null, `words` a row) has
// bits for, by one uniform number a row (below 0: the likeliest token); log-probabilities as in `Sampled`. `wholes` are
// kept for `draw_again`.
void draw(const float *logits, int64_t rows, int64_t vocab, int64_t limit, const uint32_t *allowed, int64_t words,
          float temperature, const double *uniforms, int64_t *tokens, float *logprobs, float *sampled, Whole *wholes,
          int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (rows * vocab > LARGE)
    for (int64_t r = 0; r < rows; r++) {
        const float *x = logits + r * vocab;
        if (allowed) {
            wholes[r] = whole_of(x, vocab, temperature);
            draw_allowed(x, wholes[r], limit, allowed + r * words, temperature, uniforms[r], tokens + r, logprobs + r,
                         sampled + r);
        } else
            wholes[r] = draw_row(x, vocab, limit, temperature, uniforms[r], tokens + r, logprobs + r, sampled + r);
    }
}

// Draws `count` of the rows once more, now under masks: mask and number i are those of row places[i].
void draw_again(const float *logits, const int64_t *places, int64_t count, int64_t vocab, int64_t limit,
                const uint32_t *allowed, int64_t words, float temperature, const double *uniforms, int64_t *tokens,
                float *logprobs, float *sampled, const Whole *wholes, int threads) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (count * vocab > LARGE)
    for (int64_t i = 0; i < count; i++) {
        int64_t r = places[i];
        draw_allowed(logits + r * vocab, wholes[r], limit, allowed + i * words, temperature, uniforms[i], tokens + r,
                     logprobs + r, sampled + r);
    }
}
