// One chunk of the gated delta rule: its normalised keys and queries, and for the backward pass small matrix products,
// decays and triangles. Used by delta.c.
// Letters: G key heads, H value heads, K key size, V value size; a "panel" is PANEL columns of a matrix, rows on end.
#pragma once
#include "rows.h"

#define CHUNK 64   // tokens; a multiple of PANEL
#define EPS 1e-6f  // of the L2 norm

typedef struct {
    int64_t G, H, K, V, q_step, k_step, v_step;  // steps from token to token, in floats
} Sizes;

INLINE int64_t up(int64_t n) { return panels_of(n) * PANEL; }

// ---- small matrices

// One copy: more of them, made for each caller, compile longer, run no quicker and may round otherwise.
#if defined(__clang__)
#define ONCE __attribute__((noinline)) static
#else
#define ONCE __attribute__((noinline, noclone)) static
#endif

typedef enum { WHOLE, TERMS_TO_ROW, TERMS_FROM_ROW, LOWER } Part;  // of a product with or into a lower triangle

// out[r] = keep · out[r] + scale[r] · Σ_i a[r · row + i · step] · b[i], b in panels `depth` rows long
ONCE void times(Part part, int64_t rows, int64_t terms, int64_t columns, const float *a, int64_t row, int64_t step,
                const float *b, int64_t depth, const float *scale, float keep, float *out, int64_t out_row,
                int64_t out_panel) {
    for (int64_t p = 0; p < panels_of(columns); p++) {
        int64_t width = least(PANEL, columns - p * PANEL);
        for (int64_t r = 0; r < rows; r += ROWS) {
            int64_t count = least(ROWS, rows - r);
            int64_t from = part == TERMS_FROM_ROW ? r : 0, to = part == TERMS_TO_ROW ? least(terms, r + count) : terms;
            if (part == LOWER && p * PANEL >= r + count) continue;
            const float *pointers[ROWS];
            vec sum[ROWS][2];
            for (int64_t i = 0; i < count; i++) pointers[i] = a + (r + i) * row + from * step;
            if (step == 1) tile(count, pointers, to - from, b + (p * depth + from) * PANEL, sum);
            else tile_apart(count, pointers, step, to - from, b + (p * depth + from) * PANEL, sum);
            for (int64_t i = 0; i < count; i++) {
                float *target = out + (r + i) * out_row + p * out_panel;
                if (scale) sum[i][0] *= scale[r + i], sum[i][1] *= scale[r + i];
                if (width < PANEL) {
                    const float *value = (const float *)sum[i];
                    for (int64_t j = 0; j < width; j++) target[j] = value[j] + (keep ? keep * target[j] : 0);
                    continue;
                }
                if (keep) {
                    sum[i][0] += keep * load(target);
                    sum[i][1] += keep * load(target + LANES);
                }
                store(target, sum[i][0]);
                store(target + LANES, sum[i][1]);
            }
        }
    }
}

// x ← (I + mᵀ)⁻¹·x; m strictly lower with rows of CHUNK, x in panels of CHUNK rows
ONCE void solve_transposed(const float *m, int64_t rows, float *x, int64_t columns) {
    int64_t blocks = (rows + ROWS - 1) / ROWS;
    for (int64_t p = 0; p < panels_of(columns); p++) {
        float *b = x + p * CHUNK * PANEL;
        for (int64_t r = (blocks - 1) * ROWS; r >= 0; r -= ROWS) {
            int64_t count = least(ROWS, rows - r), from = r + count;
            const float *pointers[ROWS];
            vec sum[ROWS][2];
            for (int64_t i = 0; i < count; i++) pointers[i] = m + from * CHUNK + r + i;
            tile_apart(count, pointers, CHUNK, rows - from, b + from * PANEL, sum);
            for (int64_t i = count - 1; i >= 0; i--) {
                float *target = b + (r + i) * PANEL;
                vec x0 = load(target) - sum[i][0], x1 = load(target + LANES) - sum[i][1];
                for (int64_t j = i + 1; j < count; j++) {
                    float f = m[(r + j) * CHUNK + r + i];
                    x0 -= f * load(b + (r + j) * PANEL);
                    x1 -= f * load(b + (r + j) * PANEL + LANES);
                }
                store(target, x0);
                store(target + LANES, x1);
            }
        }
    }
}

// rows of x as panels of `depth` rows, each row times its factor (NULL: 1); zeros beyond the last column
static void to_panels(const float *x, int64_t step, int64_t rows, int64_t columns, const float *factor, int64_t depth,
                      float *panels) {
    for (int64_t p = 0; p < panels_of(columns); p++)
        for (int64_t r = 0; r < rows; r++) {
            const float *from = x + r * step + p * PANEL;
            float *to = panels + (p * depth + r) * PANEL, f = factor ? factor[r] : 1;
            int64_t width = least(PANEL, columns - p * PANEL);
            for (int64_t j = 0; j < width; j++) to[j] = from[j] * f;
            for (int64_t j = width; j < PANEL; j++) to[j] = 0;
        }
}

static void from_panels(const float *panels, int64_t depth, int64_t rows, int64_t columns, const float *factor,
                        float *x, int64_t step) {
    for (int64_t p = 0; p < panels_of(columns); p++)
        for (int64_t r = 0; r < rows; r++) {
            const float *from = panels + (p * depth + r) * PANEL;
            float *to = x + r * step + p * PANEL, f = factor ? factor[r] : 1;
            int64_t width = least(PANEL, columns - p * PANEL);
            for (int64_t j = 0; j < width; j++) to[j] = from[j] * f;
        }
}

// xᵀ in panels: column r of it is row r of x (rows `step` apart, `terms` long); zeros beyond the last row
static void transpose(const float *x, int64_t step, int64_t rows, int64_t terms, float *panels) {
    for (int64_t p = 0; p < panels_of(rows); p++) pack_panel(x, rows, terms, step, 1, 0, p, panels + p * terms * PANEL);
}

// Sᵀ in panels of K columns and V rows, of S in panels of V columns and K rows
static void transpose_state(const float *state, int64_t K, int64_t V, float *turned) {
    for (int64_t p = 0; p < panels_of(K); p++)
        for (int64_t v = 0; v < V; v++) {
            const float *from = state + (v / PANEL * K + p * PANEL) * PANEL + v % PANEL;
            float *to = turned + (p * V + v) * PANEL;
            int64_t width = least(PANEL, K - p * PANEL);
            for (int64_t j = 0; j < width; j++) to[j] = from[j * PANEL];
            for (int64_t j = width; j < PANEL; j++) to[j] = 0;
        }
}

static float dot(const float *a, const float *b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) sum += a[j] * b[j];
    return sum;
}

static void add_scaled(float f, const float *x, int64_t n, float *y) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) y[j] += f * x[j];
}

// ---- one chunk

typedef struct {
    int64_t rows;
    float *q, *k, *scaled;           // [CHUNK][up(K)]; q and k of length 1, q times K^-0.5
    float *q_length, *k_length;      // what they were multiplied by
    float *qk, *kk;                  // [CHUNK][CHUNK], lower triangles of Q·Kᵀ and K·Kᵀ
    float *columns;                  // Kᵀ in panels
    float *fade, *attention, *system;  // [CHUNK][CHUNK] of one value head: e^D, tril(QKᵀ·e^D), M
    float *beta, *since, *until, *minus;  // β; decay since the chunk's start, until its end; −β·since
    float *delta;                    // panels of V columns
    float all;                       // the decay of the whole chunk
} Chunk;

static float *take(float **space, int64_t count) {
    float *mine = *space;
    *space += (count + 15) / 16 * 16;
    return mine;
}

static int64_t chunk_space(Sizes z) { return CHUNK * (4 * up(z.K) + up(z.V) + 5 * CHUNK + 6 + 8) + 256; }

static Chunk new_chunk(Sizes z, float **space) {
    Chunk c = {0};
    c.q = take(space, CHUNK * up(z.K)), c.k = take(space, CHUNK * up(z.K)), c.scaled = take(space, CHUNK * up(z.K));
    c.columns = take(space, CHUNK * z.K), c.delta = take(space, CHUNK * up(z.V));
    c.qk = take(space, CHUNK * CHUNK), c.kk = take(space, CHUNK * CHUNK), c.fade = take(space, CHUNK * CHUNK);
    c.attention = take(space, CHUNK * CHUNK), c.system = take(space, CHUNK * CHUNK);
    c.q_length = take(space, CHUNK), c.k_length = take(space, CHUNK), c.beta = take(space, CHUNK);
    c.since = take(space, CHUNK), c.until = take(space, CHUNK), c.minus = take(space, CHUNK);
    return c;
}

ONCE void normalise_rows(const float *x, int64_t step, int64_t rows, int64_t K, float scale, float *y,
                           float *length) {
    memset(y, 0, sizeof(float) * rows * up(K));
    for (int64_t r = 0; r < rows; r++) {
        length[r] = 1.0f / sqrtf(dot(x + r * step, x + r * step, K) + EPS);
        add_scaled(length[r] * scale, x + r * step, K, y + r * up(K));
    }
}

static void normalise_keys(Chunk *c, Sizes z, const float *q, const float *k) {
    normalise_rows(q, z.q_step, c->rows, z.K, 1.0f / sqrtf((float)z.K), c->q, c->q_length);
    normalise_rows(k, z.k_step, c->rows, z.K, 1, c->k, c->k_length);
}

static void load_keys(Chunk *c, Sizes z, const float *q, const float *k) {
    int64_t wide = up(z.K);
    normalise_keys(c, z, q, k);
    transpose(c->k, wide, c->rows, z.K, c->columns);
    times(LOWER, c->rows, z.K, CHUNK, c->k, wide, 1, c->columns, z.K, NULL, 0, c->kk, CHUNK, PANEL);
    times(LOWER, c->rows, z.K, CHUNK, c->q, wide, 1, c->columns, z.K, NULL, 0, c->qk, CHUNK, PANEL);
}

INLINE vec vfade(vec x) { return pick(x < all(-87.0f), all(0), vexp(x)); }

// Decays of a value head; g and beta are H floats apart.
static void load_decays(Chunk *c, Sizes z, const float *g, const float *beta) {
    float sum[CHUNK] = {0}, total = 0, lane[CHUNK];
    for (int64_t i = 0; i < CHUNK; i++) lane[i] = (float)i;
    for (int64_t i = 0; i < c->rows; i++) {
        c->beta[i] = beta[i * z.H];
        total += g[i * z.H];
        c->since[i] = total < -87.0f ? 0 : exp_f(total);
        c->minus[i] = -c->beta[i] * c->since[i];
        for (int64_t j = 0; j < CHUNK; j += LANES) {
            // Sums over j < l ≤ i, not differences of sums from the start, which cancel where one decay is strong.
            vec d = pick(load(lane + j) < all((float)i), load(sum + j) + g[i * z.H], all(0));
            store(sum + j, d);
            store(c->fade + i * CHUNK + j, pick(load(lane + j) <= all((float)i), vfade(d), all(0)));
        }
    }
    memcpy(c->until, c->fade + (c->rows - 1) * CHUNK, sizeof(float) * CHUNK);
    c->all = c->since[c->rows - 1];
}

// tril(QKᵀ·e^D) and M of a value head
static void load_triangles(Chunk *c) {
    for (int64_t i = 0; i < c->rows; i++) {
        int64_t at = i * CHUNK;
        for (int64_t j = 0; j < CHUNK; j++) {
            c->attention[at + j] = j <= i ? c->qk[at + j] * c->fade[at + j] : 0;
            c->system[at + j] = j < i ? c->kk[at + j] * c->fade[at + j] * c->beta[i] : 0;
        }
    }
}

// S ← e^γ·S + (until·K)ᵀ·δ
static void advance(Chunk *c, Sizes z, float *state) {
    int64_t wide = up(z.K);
    memset(c->scaled, 0, sizeof(float) * c->rows * wide);
    for (int64_t r = 0; r < c->rows; r++) add_scaled(c->until[r], c->k + r * wide, z.K, c->scaled + r * wide);
    times(WHOLE, z.K, c->rows, up(z.V), c->scaled, 1, wide, c->delta, CHUNK, NULL, c->all, state, PANEL, z.K * PANEL);
}
