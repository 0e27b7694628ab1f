// The arithmetic of one row: matrix products, norms, rotation, attention, routing, log-probabilities; float32 on a CPU.
//
// Training (kernels.c) and generation (engine/forward.c, engine/sampler.c) share it, so that a token's log-probability is
// the same to the last bit in both: every sum runs over the same terms in the same order, whatever the other rows of
// the batch, the number of threads, or who asks.
//
// Letters: D hidden, K head size, E experts, V vocabulary.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#define ROWS 8  // rows a tile: 2·8 accumulators keep the multiply-add units busy and fit the 32 registers
#elif defined(__AVX__)
#define LANES 8
#define ROWS 6  // 12 accumulators, 2 weights and a broadcast in 16 registers
#else
#define LANES 4
#define ROWS 6
#endif
#define PANEL (2 * LANES)  // output columns a tile; weights are stored [panel][k][PANEL]
#define AT_ONCE 4          // elements of its sums that a tile takes in one turn
#define GROUP 4            // query heads that share a pass over the keys
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec pick(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

#ifdef __clang__  // lanes of a, then of b, by number
INLINE vec PICK_FROM(vec a, vec b, ivec from) {
    vec out;
    for (int l = 0; l < LANES; l++) out[l] = from[l] < LANES ? a[from[l]] : b[from[l] - LANES];
    return out;
}
#else
#define PICK_FROM(a, b, from) __builtin_shuffle(a, b, from)
#endif

// All bits of the first `count` lanes
INLINE ivec below(int64_t count) {
    ivec lane;
    for (int l = 0; l < LANES; l++) lane[l] = l;
    return lane < (int32_t)(count < LANES ? count : LANES);
}

INLINE float add_up(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

// exp by 2^n · P(r), |r| <= ln2/2, degree-6 minimax polynomial; relative error < 2e-7. Vectorises, unlike libm's.
INLINE vec vexp(vec x) {
    x = pick(x > all(-87.0f), x, all(-87.0f));
    x = pick(x < all(88.0f), x, all(88.0f));
    vec n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    vec r = (x - n * 0.693145751953125f) - n * 1.428606820309417e-6f;
    vec p = all(1.3981999507e-3f);
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r * r + r) + 1.0f;
    return p * (vec)((__builtin_convertvector(n, ivec) + 127) << 23);
}

INLINE float exp_f(float x) {
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

// ---- matrix products: a tile of ROWS rows and PANEL columns, summed over k in order

INLINE int64_t panels_of(int64_t columns) { return (columns + PANEL - 1) / PANEL; }

// Columns of LANES rows become rows: every round puts the elements of rows i and i + LANES / 2 in turn.
INLINE void turn(vec x[LANES]) {
    for (int round = 1; round < LANES; round *= 2) {
        vec y[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            ivec from;
            for (int l = 0; l < LANES; l++) from[l] = l / 2 + i % 2 * (LANES / 2) + l % 2 * LANES;
            y[i] = PICK_FROM(x[i / 2], x[i / 2 + LANES / 2], from);
        }
        for (int i = 0; i < LANES; i++) x[i] = y[i];
    }
}

// LANES columns of weights whose k elements lie side by side, into their lanes of a panel
INLINE void pack_lanes(const float *w, int64_t k, int64_t column_step, float *packed) {
    int64_t i = 0;
    for (; i + LANES <= k; i += LANES) {
        vec x[LANES];
        for (int l = 0; l < LANES; l++) x[l] = load(w + l * column_step + i);
        turn(x);
        for (int r = 0; r < LANES; r++) store(packed + (i + r) * PANEL, x[r]);
    }
    for (; i < k; i++)
        for (int l = 0; l < LANES; l++) packed[i * PANEL + l] = w[l * column_step + i];
}

// One panel of weights for `tile`: element (column, i) lies at w[column · column_step + i · k_step]; zeros beyond the last
// column. `half` > 0 puts LANES columns of the first half beside the same columns of the second (gate and up).
INLINE void pack_panel(const float *w, int64_t columns, int64_t k, int64_t column_step, int64_t k_step, int64_t half,
                       int64_t p, float *packed) {
    int64_t wide = half ? half : columns, step = half ? LANES : PANEL;
    if (column_step == 1 && !half && (p + 1) * PANEL <= columns) {
        for (int64_t i = 0; i < k; i++) memcpy(packed + i * PANEL, w + p * PANEL + i * k_step, sizeof(float) * PANEL);
        return;
    }
    for (int l = 0; l < PANEL; l++) {
        int64_t column = p * step + (half ? l % LANES : l);
        if (k_step == 1 && l % LANES == 0 && column + LANES <= wide) {
            pack_lanes(w + (column + (half && l ? half : 0)) * column_step, k, column_step, packed + l);
            l += LANES - 1;
            continue;
        }
        const float *source = w + (column + (half && l >= LANES ? half : 0)) * column_step;
        float *target = packed + l;
        if (column < wide) for (int64_t i = 0; i < k; i++) target[i * PANEL] = source[i * k_step];
        else for (int64_t i = 0; i < k; i++) target[i * PANEL] = 0;
    }
}

// What the tiles multiply by next: as long as a panel, and where two matrices share that, in two halves. Weights come from
// memory: a processor foresees where a stream goes on, but not that the panel which tile after tile goes over will be
// followed by another one. So every tile asks for its part.
typedef struct {
    const char *halves[2];
    int64_t half, step;  // bytes; `step` is how far a tile comes with AT_ONCE elements of its sums
} Next;
#define NOTHING ((Next){{NULL, NULL}, 0, 0})

INLINE Next then(const float *first, const float *second, int64_t k, int64_t rows) {
    int64_t bytes = sizeof(float) * LANES, tiles = (rows + ROWS - 1) / ROWS;
    return (Next){{(const char *)first, (const char *)second}, k * bytes, (AT_ONCE * 2 * bytes + tiles - 1) / tiles};
}

INLINE Next then_panel(const float *panel, int64_t k, int64_t rows) { return then(panel, panel + k * LANES, k, rows); }

// Where tile number t begins to ask
INLINE const char *part_of(const Next *next, int64_t t, int64_t k) {
    int64_t at = t * (k / AT_ONCE) * next->step;
    return at < next->half ? next->halves[0] + at : next->halves[1] + (at - next->half);
}

// c += one element of each row, `at` from its beginning, · the panel's row for it
INLINE void add_element(const int rows, const float *const *a, int64_t at, const float *b, vec c[ROWS][2]) {
    vec b0 = load(b), b1 = load(b + LANES);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        c[r][0] += a[r][at] * b0;
        c[r][1] += a[r][at] * b1;
    }
}

INLINE void tile_of(const int rows, const float *const *a, const int64_t step, int64_t k, const float *b,
                    const char *next, int64_t next_step, vec sum[ROWS][2]) {
    vec c[ROWS][2];
    int64_t i = 0;
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) c[r][0] = c[r][1] = all(0);
    for (; i + AT_ONCE <= k; i += AT_ONCE, next += next_step) {
        if (next) __builtin_prefetch(next, 0, 2);
#pragma GCC unroll 4
        for (int j = 0; j < AT_ONCE; j++) add_element(rows, a, (i + j) * step, b + (i + j) * PANEL, c);
    }
    for (; i < k; i++) add_element(rows, a, i * step, b + i * PANEL, c);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sum[r][0] = c[r][0], sum[r][1] = c[r][1];
}

INLINE void tile_with(int64_t rows, const float *const *a, const int64_t step, int64_t k, const float *b,
                      const char *next, int64_t next_step, vec sum[ROWS][2]) {
    switch (rows) {
    case 1: tile_of(1, a, step, k, b, next, next_step, sum); break;
    case 2: tile_of(2, a, step, k, b, next, next_step, sum); break;
    case 3: tile_of(3, a, step, k, b, next, next_step, sum); break;
    case 4: tile_of(4, a, step, k, b, next, next_step, sum); break;
    case 5: tile_of(5, a, step, k, b, next, next_step, sum); break;
    case 6: tile_of(6, a, step, k, b, next, next_step, sum); break;
#if ROWS == 8
    case 7: tile_of(7, a, step, k, b, next, next_step, sum); break;
    case 8: tile_of(8, a, step, k, b, next, next_step, sum); break;
#endif
    }
}

// rows (at most ROWS) of a · one panel of weights; the elements of a row lie `step` apart
INLINE void tile_apart(int64_t rows, const float *const *a, const int64_t step, int64_t k, const float *b,
                       vec sum[ROWS][2]) {
    tile_with(rows, a, step, k, b, NULL, 0, sum);
}

static void tile(int64_t rows, const float *const *a, int64_t k, const float *b, vec sum[ROWS][2]) {
    tile_apart(rows, a, 1, k, b, sum);
}

// The same, number t of those that have the panel, and asks for what comes next
static void tile_then(int64_t t, int64_t rows, const float *const *a, int64_t k, const float *b, const Next *next,
                      vec sum[ROWS][2]) {
    tile_with(rows, a, 1, k, b, part_of(next, t, k), next->step, sum);
}

// Rows of a matrix: `stride` apart, either one after the other or those that `index` names.
typedef struct {
    const float *data;
    int64_t stride;
    const int64_t *index;
} Rows;

INLINE int64_t point(Rows a, int64_t first, int64_t rows, const float **pointers) {
    int64_t count = least(ROWS, rows - first);
    for (int64_t r = 0; r < count; r++)
        pointers[r] = a.data + (a.index ? a.index[first + r] : first + r) * a.stride;
    return count;
}

// Panel p of out[rows, columns] = a · weights (+ bias) (+ out); `weights` are those of that panel
static void panel(Rows a, int64_t rows, int64_t k, const float *weights, int64_t p, const float *bias, int add,
                  Next next, float *out, int64_t columns) {
    int64_t first = p * PANEL, width = least(PANEL, columns - first);
    for (int64_t r = 0; r < rows; r += ROWS) {
        const float *pointers[ROWS];
        vec sum[ROWS][2];
        int64_t count = point(a, r, rows, pointers);
        tile_then(r / ROWS, count, pointers, k, weights, &next, sum);
        for (int64_t i = 0; i < count; i++) {
            const float *value = (const float *)sum[i];
            float *to = out + (r + i) * columns + first;
            if (width == PANEL && !bias && !add) memcpy(to, value, sizeof sum[i]);
            else for (int64_t j = 0; j < width; j++)
                to[j] = value[j] + (bias ? bias[first + j] : 0) + (add ? to[j] : 0);
        }
    }
}

// ---- norms and rotation

INLINE float inverse_rms(const float *x, int64_t d, float eps) {
    float sum = 0;
    vec lanes_sum = all(0);
    int64_t j = 0;
    for (; j + LANES <= d; j += LANES) lanes_sum += load(x + j) * load(x + j);
    for (; j < d; j++) sum += x[j] * x[j];
    return 1.0f / sqrtf((sum + add_up(lanes_sum)) / (float)d + eps);
}

// y = x / rms(x) · w; returns 1 / rms(x)
static float normalise(const float *x, const float *w, float eps, int64_t d, float *y) {
    float r = inverse_rms(x, d, eps);
    int64_t j = 0;
    for (; j + LANES <= d; j += LANES) store(y + j, load(x + j) * r * load(w + j));
    for (; j < d; j++) y[j] = x[j] * r * w[j];
    return r;
}

static void rotate(float *x, const float *cosine, const float *sine, int64_t half) {
    int64_t j = 0;
    for (; j + LANES <= half; j += LANES) {
        vec a = load(x + j), b = load(x + half + j), c = load(cosine + j), s = load(sine + j);
        store(x + j, a * c - b * s);
        store(x + half + j, b * c + a * s);
    }
    for (; j < half; j++) {
        float a = x[j], b = x[half + j];
        x[j] = a * cosine[j] - b * sine[j];
        x[half + j] = b * cosine[j] + a * sine[j];
    }
}

// ---- routing

// softmax over the experts in place; then the top_k largest (the lower number first among equals) and their weights
INLINE void choose(float *p, int64_t experts, int64_t top_k, int64_t renormalise, int64_t *chosen, float *weight) {
    float top = p[0], sum = 0, kept = 0;
    for (int64_t e = 1; e < experts; e++) top = p[e] > top ? p[e] : top;
    for (int64_t e = 0; e < experts; e++) sum += p[e] = expf(p[e] - top);
    for (int64_t e = 0; e < experts; e++) p[e] /= sum;
    for (int64_t i = 0; i < top_k; i++) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; e++) {
            int taken = 0;
            for (int64_t j = 0; j < i; j++) taken |= chosen[j] == e;
            if (!taken && (best < 0 || p[e] > p[best])) best = e;
        }
        chosen[i] = best;
        weight[i] = p[best];
        kept += p[best];
    }
    for (int64_t i = 0; i < top_k && renormalise; i++) weight[i] /= kept;
}

// weight · silu(gate) · up
INLINE vec gated(vec gate, vec up, vec weight) { return weight * gate / (1.0f + vexp(-gate)) * up; }

// ---- log-probabilities

#define BLOCK 256  // of a sum over the vocabulary: float inside a block, double over the blocks

INLINE float largest(const float *x, int64_t from, int64_t to) {
    float top = -INFINITY;
#pragma omp simd reduction(max : top)
    for (int64_t i = from; i < to; i++) top = x[i] > top ? x[i] : top;
    return top;
}

// exp(logit / temperature − top); what cannot happen (a logit of minus infinity) weighs nothing at all
INLINE float odds(float logit, float temperature, float top) {
    float x = logit / temperature - top;
    return x < -87.0f ? 0 : exp_f(x);
}

static double sum_of_odds(const float *x, int64_t from, int64_t to, float temperature, float top) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = from; i < to; i++) sum += odds(x[i], temperature, top);
    return sum;
}

// log softmax(x / temperature)[i] for the whole vocabulary, given the sum of all odds
INLINE float log_share(const float *x, int64_t i, float temperature, float top, double total) {
    return (float)(x[i] / temperature - top - log(total));
}

static double total_odds(const float *x, int64_t vocab, float temperature, float top) {
    double total = 0;
    for (int64_t i = 0; i < vocab; i += BLOCK)
        total += sum_of_odds(x, i, least(i + BLOCK, vocab), temperature, top);
    return total;
}
