// The gated delta rule forward, token by token, and backward, in chunks: float32 on a CPU. Definition: delta.py.
// Training and generation go through the same function for each token, so a token's output is the same to the last bit
// however a sequence was cut. A panel of V columns goes through a whole chunk at a time: its part of the state stays in
// the first cache. A (sequence, key head) is one thread's work: results do not depend on the number of threads.
// The forward pass keeps δ and every fourth state; the backward pass makes the rest again, chunk by chunk.
// Letters as in chunk.h; N tokens.
#include <omp.h>
#include <stdlib.h>
#include "chunk.h"

#define EVERY 4        // chunks from one kept state to the next
#define SMALL 1000000  // multiplications; below, waking a second thread costs more than it brings

int64_t delta_tokens_per_state(void) { return CHUNK * EVERY; }

static float *allocate(int64_t count) { return aligned_alloc(64, sizeof(float) * ((count + 15) / 16 * 16)); }

INLINE void read_row(float k, const float *row, vec seen[2]) {
    seen[0] += k * load(row);
    seen[1] += k * load(row + LANES);
}

INLINE void write_row(float k, float q, float alpha, const vec delta[2], const float *before, float *after, vec o[2]) {
    for (int l = 0; l < 2; l++) {
        vec row = alpha * load(before + l * LANES) + k * delta[l];
        store(after + l * LANES, row);
        o[l] += q * row;
    }
}

// One token in one panel: δ = β·(v − α·Sᵀk), S ← α·S + k·δᵀ, o = Sᵀq. Rows of S are `step` apart before and `to_step`
// after (which may be in place), v may be delta. Four sums of each, added at the end: a single one would wait for itself.
ONCE void token(const float *k, const float *q, int64_t K, float alpha, float beta, const float *v, const float *before,
                int64_t step, float *after, int64_t to_step, float *delta, float *out) {
    vec seen[4][2], o[4][2], change[2];
    for (int t = 0; t < 4; t++) seen[t][0] = seen[t][1] = o[t][0] = o[t][1] = all(0);
    int64_t i = 0;
    for (; i + 4 <= K; i += 4)
        for (int t = 0; t < 4; t++) read_row(k[i + t], before + (i + t) * step, seen[t]);
    for (; i < K; i++) read_row(k[i], before + i * step, seen[0]);
    for (int l = 0; l < 2; l++) {
        change[l] = beta * (load(v + l * LANES) - alpha * ((seen[0][l] + seen[1][l]) + (seen[2][l] + seen[3][l])));
        store(delta + l * LANES, change[l]);
    }
    for (i = 0; i + 4 <= K; i += 4)
        for (int t = 0; t < 4; t++)
            write_row(k[i + t], q[i + t], alpha, change, before + (i + t) * step, after + (i + t) * to_step, o[t]);
    for (; i < K; i++) write_row(k[i], q[i], alpha, change, before + i * step, after + i * to_step, o[0]);
    for (int l = 0; l < 2; l++) store(out + l * LANES, (o[0][l] + o[1][l]) + (o[2][l] + o[3][l]));
}

INLINE float fade(float g) { return g < -87.0f ? 0 : exp_f(g); }

// out[N, H, V] and, each unless NULL, δ[N, H, V] and the state at every fourth chunk's start (sequence r's from
// kept_first[r] on) for the backward pass, and the last state[R, H, K, V]
void gated_delta_forward(const float *q, const float *k, const float *v, const float *g, const float *beta,
                         const float *first_state, const int32_t *borders, const int64_t *kept_first,
                         int64_t sequences, int64_t G, int64_t H, int64_t K, int64_t V, int64_t q_step, int64_t k_step,
                         int64_t v_step, float *out, float *delta, float *kept, float *last_state, int threads) {
    Sizes z = {G, H, K, V, q_step, k_step, v_step};
    int64_t shared = H / G, size = K * up(V);
#pragma omp parallel num_threads(threads) if (borders[sequences] * H * K * V > SMALL)
    {
        float *space = allocate(chunk_space(z) + shared * size), *rest = space;
        Chunk c = new_chunk(z, &rest);
        float *states = take(&rest, shared * size);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < sequences * G; task++) {
            int64_t s = task / G, group = task % G;
            for (int64_t e = 0; e < shared; e++) {
                int64_t place = (s * H + group * shared + e) * K * V;
                if (first_state) to_panels(first_state + place, V, K, V, NULL, K, states + e * size);
                else memset(states + e * size, 0, sizeof(float) * size);
            }
            for (int64_t n = borders[s]; n < borders[s + 1]; n += CHUNK) {
                int64_t number = (n - borders[s]) / CHUNK;
                c.rows = least(CHUNK, borders[s + 1] - n);
                normalise_keys(&c, z, q + n * q_step + group * K, k + n * k_step + group * K);
                for (int64_t e = 0; e < shared; e++) {
                    int64_t h = group * shared + e, row = n * H + h;
                    float *state = states + e * size, alpha[CHUNK], o[PANEL];
                    if (kept && number % EVERY == 0)
                        memcpy(kept + ((kept_first[s] + number / EVERY) * H + h) * size, state, sizeof(float) * size);
                    for (int64_t r = 0; r < c.rows; r++) alpha[r] = fade(g[row + r * H]);
                    to_panels(v + n * v_step + h * V, v_step, c.rows, V, NULL, CHUNK, c.delta);
                    for (int64_t p = 0; p < panels_of(V); p++)
                        for (int64_t r = 0; r < c.rows; r++) {
                            float *of_panel = state + p * K * PANEL, *change = c.delta + (p * CHUNK + r) * PANEL;
                            token(c.k + r * up(K), c.q + r * up(K), K, alpha[r], beta[row + r * H], change, of_panel,
                                  PANEL, of_panel, PANEL, change, o);
                            memcpy(out + (row + r * H) * V + p * PANEL, o, sizeof(float) * least(PANEL, V - p * PANEL));
                        }
                    if (delta) from_panels(c.delta, CHUNK, c.rows, V, NULL, delta + row * V, H * V);
                }
            }
            for (int64_t e = 0; e < shared && last_state; e++)
                from_panels(states + e * size, K, K, V, NULL, last_state + (s * H + group * shared + e) * K * V, V);
        }
        free(space);
    }
}

// ---- backward

typedef struct {
    float *d_out, *d_right;          // panels of V columns: dO, and d of β·(V − e^γ·K·S)
    float *d_right_rows;             // [CHUNK][up(V)]
    float *delta_columns;            // δᵀ in panels
    float *key_rows, *query_rows;    // panels of K columns
    float *d_attention, *d_system;   // [CHUNK][CHUNK] of one value head
    float *d_qk, *d_kk;              // [CHUNK][CHUNK], summed over value heads
    float *d_q, *d_k, *product;      // [CHUNK][up(K)]
    float *turned, *d_turned;        // Sᵀ and dSᵀ in panels
    float *d_beta, *d_since, *d_until;  // of β, γ and the decay until the end (the last two of their logarithms)
} Back;

static int64_t back_space(Sizes z) {
    return CHUNK * (4 * up(z.V) + 5 * up(z.K) + 4 * CHUNK + 3 + 8) + 2 * z.V * up(z.K) + 256;
}

static Back new_back(Sizes z, float **space) {
    Back b;
    b.d_out = take(space, CHUNK * up(z.V)), b.d_right = take(space, CHUNK * up(z.V));
    b.d_right_rows = take(space, CHUNK * up(z.V)), b.delta_columns = take(space, CHUNK * z.V);
    b.key_rows = take(space, CHUNK * up(z.K)), b.query_rows = take(space, CHUNK * up(z.K));
    b.d_q = take(space, CHUNK * up(z.K)), b.d_k = take(space, CHUNK * up(z.K));
    b.product = take(space, CHUNK * up(z.K));
    b.d_attention = take(space, CHUNK * CHUNK), b.d_system = take(space, CHUNK * CHUNK);
    b.d_qk = take(space, CHUNK * CHUNK), b.d_kk = take(space, CHUNK * CHUNK);
    b.turned = take(space, z.V * up(z.K)), b.d_turned = take(space, z.V * up(z.K));
    b.d_beta = take(space, CHUNK), b.d_since = take(space, CHUNK), b.d_until = take(space, CHUNK);
    return b;
}

// From d of the triangles (in d_attention and d_system) to d_qk, d_kk, d_beta; d_attention becomes dD.
static void triangles_backward(Chunk *c, Back *b) {
    for (int64_t i = 0; i < c->rows; i++) {
        float beta = c->beta[i], d_beta = 0;
        int64_t at = i * CHUNK;
#pragma omp simd reduction(+ : d_beta)
        for (int64_t j = 0; j < i; j++) {
            float a = b->d_attention[at + j] * c->fade[at + j], m = -b->d_system[at + j] * c->fade[at + j];
            b->d_qk[at + j] += a;
            b->d_kk[at + j] += beta * m;
            d_beta += m * c->kk[at + j];
            b->d_attention[at + j] = a * c->qk[at + j] + beta * m * c->kk[at + j];
        }
        b->d_qk[at + i] += b->d_attention[at + i];
        b->d_beta[i] += d_beta;
    }
}

// d of log decays: D_ij, γ_i and the decay until the end are sums of them
static void decays_backward(Chunk *c, Back *b, float d_all, float *d_g, int64_t step) {
    float below[CHUNK] = {0}, until[CHUNK], since = d_all, sum = 0;
    for (int64_t j = 0; j < c->rows; j++) {
        until[j] = sum;
        sum += b->d_until[j];
    }
    for (int64_t l = c->rows - 1; l >= 0; l--) {
        float d = 0;
#pragma omp simd reduction(+ : d)
        for (int64_t j = 0; j < l; j++) {
            below[j] += b->d_attention[l * CHUNK + j];
            d += below[j];
        }
        since += b->d_since[l];
        d_g[l * step] = d + since + until[l];
    }
}

// One value head of one chunk: d_v, d_g, d_beta, its share of d_q, d_k, d_qk and d_kk; d_state moves to its start.
static void head_backward(Chunk *c, Back *b, Sizes z, const float *v, const float *delta, const float *d_out,
                          const float *state, float *d_state, float *d_v, float *d_g, float *d_beta) {
    int64_t rows = c->rows, K = z.K, V = z.V, wide = up(K), row = z.H * V;
    to_panels(d_out, row, rows, V, NULL, CHUNK, b->d_out);
    transpose(delta, row, rows, V, b->delta_columns);
    transpose_state(state, K, V, b->turned);
    transpose_state(d_state, K, V, b->d_turned);
    times(WHOLE, rows, K, up(V), c->k, wide, 1, d_state, K, c->until, 0, b->d_right, PANEL, CHUNK * PANEL);
    times(TERMS_FROM_ROW, rows, rows, up(V), c->attention, 1, CHUNK, b->d_out, CHUNK, NULL, 1, b->d_right, PANEL,
          CHUNK * PANEL);
    solve_transposed(c->system, rows, b->d_right, V);
    from_panels(b->d_right, CHUNK, rows, V, NULL, b->d_right_rows, up(V));
    from_panels(b->d_right, CHUNK, rows, V, c->beta, d_v, row);
    times(LOWER, rows, V, CHUNK, d_out, row, 1, b->delta_columns, V, NULL, 0, b->d_attention, CHUNK, PANEL);
    times(LOWER, rows, V, CHUNK, b->d_right_rows, up(V), 1, b->delta_columns, V, NULL, 0, b->d_system, CHUNK, PANEL);

    times(WHOLE, rows, V, wide, d_out, row, 1, b->turned, V, c->since, 0, b->product, wide, PANEL);
    for (int64_t r = 0; r < rows; r++) {
        b->d_since[r] = dot(c->q + r * wide, b->product + r * wide, K);
        add_scaled(1, b->product + r * wide, K, b->d_q + r * wide);
    }
    times(WHOLE, rows, V, wide, b->d_right_rows, up(V), 1, b->turned, V, c->since, 0, b->product, wide, PANEL);
    for (int64_t r = 0; r < rows; r++) {
        float seen = dot(c->k + r * wide, b->product + r * wide, K);
        b->d_since[r] -= c->beta[r] * seen;
        b->d_beta[r] = dot(b->d_right_rows + r * up(V), v + r * z.v_step, V) - seen;
        add_scaled(-c->beta[r], b->product + r * wide, K, b->d_k + r * wide);
    }
    times(WHOLE, rows, V, wide, delta, row, 1, b->d_turned, V, c->until, 0, b->product, wide, PANEL);
    for (int64_t r = 0; r < rows; r++) {
        b->d_until[r] = dot(c->k + r * wide, b->product + r * wide, K);
        add_scaled(1, b->product + r * wide, K, b->d_k + r * wide);
    }
    triangles_backward(c, b);
    decays_backward(c, b, c->all * dot(state, d_state, K * up(V)), d_g, z.H);
    for (int64_t r = 0; r < rows; r++) d_beta[r * z.H] = b->d_beta[r];

    memset(c->scaled, 0, sizeof(float) * rows * wide);
    for (int64_t r = 0; r < rows; r++) add_scaled(c->since[r], c->q + r * wide, K, c->scaled + r * wide);
    times(WHOLE, K, rows, up(V), c->scaled, 1, wide, b->d_out, CHUNK, NULL, c->all, d_state, PANEL, K * PANEL);
    memset(c->scaled, 0, sizeof(float) * rows * wide);
    for (int64_t r = 0; r < rows; r++) add_scaled(c->minus[r], c->k + r * wide, K, c->scaled + r * wide);
    times(WHOLE, K, rows, up(V), c->scaled, 1, wide, b->d_right, CHUNK, NULL, 1, d_state, PANEL, K * PANEL);
}

// through x·length·scale, length = 1/|x|: d_x = length · (scale · d − y · (y·d) / scale) with y what came out
static void normalise_backward(const float *y, const float *d, const float *length, int64_t rows, int64_t K,
                               float scale, float *d_x, int64_t step) {
    for (int64_t r = 0; r < rows; r++) {
        const float *out = y + r * up(K), *gradient = d + r * up(K);
        float along = dot(out, gradient, K) / scale;
#pragma omp simd
        for (int64_t j = 0; j < K; j++) d_x[r * step + j] = length[r] * (scale * gradient[j] - along * out[j]);
    }
}

// What a key head's value heads have summed up, to d_q and d_k
static void keys_backward(Chunk *c, Back *b, Sizes z, float *d_q, float *d_k) {
    int64_t rows = c->rows, wide = up(z.K), step = z.G * z.K;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < i; j++) b->d_kk[j * CHUNK + i] = b->d_kk[i * CHUNK + j];
    times(TERMS_TO_ROW, rows, rows, wide, b->d_qk, CHUNK, 1, b->key_rows, CHUNK, NULL, 1, b->d_q, wide, PANEL);
    times(TERMS_FROM_ROW, rows, rows, wide, b->d_qk, 1, CHUNK, b->query_rows, CHUNK, NULL, 1, b->d_k, wide, PANEL);
    times(WHOLE, rows, rows, wide, b->d_kk, CHUNK, 1, b->key_rows, CHUNK, NULL, 1, b->d_k, wide, PANEL);
    normalise_backward(c->q, b->d_q, c->q_length, rows, z.K, 1.0f / sqrtf((float)z.K), d_q, step);
    normalise_backward(c->k, b->d_k, c->k_length, rows, z.K, 1, d_k, step);
}

// All gradients; d_last and d_first (of the states) may be NULL.
void gated_delta_backward(const float *q, const float *k, const float *v, const float *g, const float *beta,
                          const int32_t *borders, const int64_t *kept_first, int64_t sequences, int64_t G, int64_t H,
                          int64_t K, int64_t V, int64_t q_step, int64_t k_step, int64_t v_step, const float *delta,
                          const float *kept, const float *d_out, const float *d_last, float *d_q, float *d_k,
                          float *d_v, float *d_g, float *d_beta, float *d_first, int threads) {
    Sizes z = {G, H, K, V, q_step, k_step, v_step};
    int64_t shared = H / G, size = K * up(V), wide = up(K);
#pragma omp parallel num_threads(threads) if (borders[sequences] * H * K * V > SMALL)
    {
        int64_t count = chunk_space(z) + back_space(z) + (EVERY + 1) * (shared * size + 16);
        float *space = aligned_alloc(64, sizeof(float) * ((count + 15) / 16 * 16)), *rest = space;
        Chunk c = new_chunk(z, &rest);
        Back b = new_back(z, &rest);
        float *states = take(&rest, EVERY * shared * size), *d_states = take(&rest, shared * size);
#pragma omp for schedule(dynamic, 1)
        for (int64_t task = 0; task < sequences * G; task++) {
            int64_t s = task / G, group = task % G, chunks = (borders[s + 1] - borders[s] + CHUNK - 1) / CHUNK;
            for (int64_t e = 0; e < shared; e++) {
                int64_t place = (s * H + group * shared + e) * K * V;
                if (d_last) to_panels(d_last + place, V, K, V, NULL, K, d_states + e * size);
                else memset(d_states + e * size, 0, sizeof(float) * size);
            }
            for (int64_t number = chunks - 1; number >= 0; number--) {
                int64_t n = borders[s] + number * CHUNK;
                // Chunks from one kept state on are gone through forwards once, to have the states between.
                if (number == chunks - 1 || number % EVERY == EVERY - 1)
                    for (int64_t t = number / EVERY * EVERY; t <= number; t++) {
                        int64_t at = borders[s] + t * CHUNK;
                        c.rows = CHUNK;
                        if (t < number) normalise_rows(k + at * k_step + group * K, k_step, CHUNK, K, 1, c.k, c.k_length);
                        for (int64_t e = 0; e < shared; e++) {
                            int64_t h = group * shared + e, row = at * H + h;
                            const float *first = kept + ((kept_first[s] + t / EVERY) * H + h) * size;
                            float *state = states + (t % EVERY * shared + e) * size, *next = state + shared * size;
                            if (t % EVERY == 0) memcpy(state, first, sizeof(float) * size);
                            if (t == number) continue;
                            load_decays(&c, z, g + row, beta + row);
                            to_panels(delta + row * V, H * V, CHUNK, V, NULL, CHUNK, c.delta);
                            memcpy(next, state, sizeof(float) * size);
                            advance(&c, z, next);
                        }
                    }
                c.rows = least(CHUNK, borders[s + 1] - n);
                load_keys(&c, z, q + n * q_step + group * K, k + n * k_step + group * K);
                to_panels(c.k, wide, c.rows, K, NULL, CHUNK, b.key_rows);
                to_panels(c.q, wide, c.rows, K, NULL, CHUNK, b.query_rows);
                memset(b.d_qk, 0, sizeof(float) * CHUNK * CHUNK);
                memset(b.d_kk, 0, sizeof(float) * CHUNK * CHUNK);
                memset(b.d_q, 0, sizeof(float) * CHUNK * wide);
                memset(b.d_k, 0, sizeof(float) * CHUNK * wide);
                for (int64_t e = 0; e < shared; e++) {
                    int64_t h = group * shared + e, row = n * H + h;
                    load_decays(&c, z, g + row, beta + row);
                    load_triangles(&c);
                    head_backward(&c, &b, z, v + n * v_step + h * V, delta + row * V, d_out + row * V,
                                  states + (number % EVERY * shared + e) * size, d_states + e * size, d_v + row * V,
                                  d_g + row, d_beta + row);
                }
                keys_backward(&c, &b, z, d_q + (n * G + group) * K, d_k + (n * G + group) * K);
            }
            for (int64_t e = 0; e < shared && d_first; e++)
                from_panels(d_states + e * size, K, K, V, NULL, d_first + (s * H + group * shared + e) * K * V, V);
        }
        free(space);
    }
}

// ---- one token of each sequence

// new_state may be state itself, and state NULL: zeros
void gated_delta_step(const float *q, const float *k, const float *v, const float *g, const float *beta,
                      const float *state, int64_t sequences, int64_t G, int64_t H, int64_t K, int64_t V, int64_t q_step,
                      int64_t k_step, int64_t v_step, float *out, float *new_state, int threads) {
    int64_t shared = H / G;
#pragma omp parallel num_threads(threads) if (sequences * H * K * V > SMALL)
    {
        float *key = allocate(2 * up(K) + K * PANEL), *query = key + up(K), *padded = query + up(K);
        float unused, change[PANEL], o[PANEL], none[PANEL] = {0};
#pragma omp for schedule(static)
        for (int64_t t = 0; t < sequences * H; t++) {
            int64_t s = t / H, h = t % H;
            normalise_rows(k + s * k_step + h / shared * K, 0, 1, K, 1, key, &unused);
            normalise_rows(q + s * q_step + h / shared * K, 0, 1, K, 1.0f / sqrtf((float)K), query, &unused);
            for (int64_t p = 0; p < panels_of(V); p++) {
                int64_t width = least(PANEL, V - p * PANEL), at = t * K * V + p * PANEL, step = V;
                const float *before = state ? state + at : none;
                float *after = new_state + at;
                memcpy(change, v + s * v_step + h * V + p * PANEL, sizeof(float) * width);
                if (width < PANEL) {
                    memset(change + width, 0, sizeof(float) * (PANEL - width));
                    if (state) to_panels(before, V, K, width, NULL, K, padded), before = padded;
                    after = padded, step = PANEL;
                }
                token(key, query, K, fade(g[t]), beta[t], change, before, state ? step : 0, after, step, change, o);
                memcpy(out + t * V + p * PANEL, o, sizeof(float) * width);
                if (width < PANEL) from_panels(padded, K, K, width, NULL, new_state + at, V);
            }
        }
        free(key);
    }
}
