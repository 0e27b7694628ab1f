// The model's forward pass for generation on a CPU, one call a pass over a mixed batch, so that no time goes to
// dispatch: float32 weights or quantised ones, keys and values in the pages of a cache.
// Definition: qwill/model/transformer.py, against which tests/engine/test_native.py holds every model type. Arithmetic of
// float32: model/rows.h and attend.h, which training shares; of quantised weights: codes.h; of adapters: low_rank.h. How
// threads share a pass: phases.h.
//
// A row's result never depends on the other rows of the batch, its place in the cache or the number of threads:
// generation is reproducible bit for bit, batched or not.
//
// Letters: n token rows, m (token, expert) rows, D hidden, H query heads, G key/value heads, K head size, F feed-forward.
#include <omp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "attend.h"
#include "codes.h"
#include "low_rank.h"

#define BEGINNING 16384  // bytes of keys, and of values
#define FEW 4  // token rows a task, where a row is little work

typedef struct {
    Codes codes;          // used where `packed` is NULL
    const float *packed;  // panels of float32; or, with `plain`, rows as they lie in the model, [experts, columns, k]
    const float *bias;
    int64_t columns, k, plain;
} Matrix;

typedef struct {
    int64_t layers, hidden, heads, kv_heads, head_dim, top_k, renormalise;
    int64_t block, kind;  // positions of a page, a multiple of LANES; how keys and values are held
    const float *embedding, *norm, *cos, *sin;  // cos, sin [positions, K/2]
    Matrix head;
    float eps;
} Model;

typedef struct {
    int64_t experts;  // 0: a dense layer, held as one expert that takes every token
    const float *norm1, *q_norm, *k_norm, *norm2;
    Matrix qkv, out, router, gate_up, down;
    const LowRank *updates;          // [adapters, PRODUCTS]
    void *keys, *values;             // [pages, G, block / LANES, K, LANES] and [pages, G, block, K]
    float *key_scale, *value_scale;  // [pages, G, block], for BYTE
} Layer;

typedef struct {
    float *x, *normed, *qkv, *attended, *router, *weight, *scale, *act, *expert_out, *scores, *low;
    int8_t *normed_codes, *attended_codes, *act_codes;
    int64_t *chosen, *place, *token, *start;  // place[n, top_k] and token[m]: rows sorted by expert; start[experts + 1]
    struct Phase *phases;  // PHASES for every layer, and 2
    int64_t capacity;      // positions that the scores of one query have room for
    int64_t rank;          // most of an adapter, in whole vectors; `low` is [n · top_k, rank]
} Work;

typedef struct {
    int64_t n, sequences, width, outputs;
    const int64_t *tokens, *positions, *sequence, *output_rows;  // sequence[n]: the row of `tables` it belongs to
    const int32_t *tables;  // [sequences, width]
    float *logits;          // [outputs, V]
    int64_t *experts;       // [sparse layers, n, top_k], or NULL
    const int64_t *adapter; // [n], or NULL where no row has one
} Pass;

enum { PHASES = 14 };

INLINE int64_t phases_of(int64_t layers) { return layers * PHASES + 2; }
int64_t phase_bytes(int64_t layers, int64_t threads) {
    return phases_of(layers) * (int64_t)(sizeof(Phase) + threads * sizeof(atomic_long));
}
int64_t lanes(void) { return LANES; }
int64_t code_row_bytes(int64_t k) { return row_size(k); }

// Ask for large pages under fresh memory: weights and cache are streamed, and small pages cost about a tenth of that.
void use_large_pages(void *memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t page = 1 << 21, first = ((uintptr_t)memory + page - 1) & ~(page - 1), end = (uintptr_t)memory + bytes;
    if (first + page <= end) madvise((void *)first, (end - first) & ~(page - 1), MADV_HUGEPAGE);
#endif
}

void pack(const float *w, int64_t columns, int64_t k, int64_t half, float *packed, int threads) {
    int64_t panels = half ? (half + LANES - 1) / LANES : (columns + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t p = 0; p < panels; p++) pack_panel(w, columns, k, k, 1, half, p, packed + p * k * PANEL);
}

// ---- products

// Rows that a matrix is multiplied with, as floats or as codes: one after the other, or those that `index` names.
typedef struct {
    const float *x;
    int64_t stride;
    const int8_t *codes;
    const int64_t *index;
} Input;

INLINE int64_t point_to_codes(Input a, int64_t first, int64_t rows, int64_t k, const int8_t **pointers) {
    int64_t count = least(MOST_ROWS, rows - first), size = row_size(k);
    for (int64_t r = 0; r < count; r++) pointers[r] = a.codes + (a.index ? a.index[first + r] : first + r) * size;
    return count;
}

// The rows from `first` on
INLINE Input behind(Input a, int64_t first, int64_t k) {
    if (a.index) a.index += first;
    else a.x += first * a.stride, a.codes = a.codes ? a.codes + first * row_size(k) : NULL;
    return a;
}

INLINE int64_t panels_in(const Matrix *m) {
    return m->packed ? (m->columns + PANEL - 1) / PANEL : (m->columns + WIDE - 1) / WIDE;
}

// Panel p of expert e's floats: where it lies, or laid out just now in this thread's own room. `half` as in pack_panel.
static const float *floats_of(const Matrix *m, int64_t e, int64_t p, int64_t panels, int64_t half) {
    static _Thread_local float *room;
    static _Thread_local int64_t size;
    if (!m->plain) return m->packed + (e * panels + p) * m->k * PANEL;
    if (size < m->k * PANEL) {
        free(room);
        size = m->k * PANEL;
        room = malloc(sizeof(float) * size);
    }
    pack_panel(m->packed + e * m->columns * m->k, m->columns, m->k, m->k, 1, half, p, room);
    return room;
}

// What comes after that panel
INLINE Next floats_after(const Matrix *m, int64_t e, int64_t p, int64_t panels, int64_t half, int64_t rows) {
    const float *expert = m->packed + e * m->columns * m->k;
    if (m->plain && half) {
        const float *gate = expert + (p + 1) * LANES * m->k;
        return then(gate, gate + half * m->k, m->k, rows);
    }
    if (m->plain) return then_panel(expert + (p + 1) * PANEL * m->k, m->k, rows);
    return then_panel(m->packed + (e * panels + p + 1) * m->k * PANEL, m->k, rows);
}

// Panel p of out[rows, columns] = a · weights (+ bias) (+ out), of expert e
static void base_panel(const Matrix *m, int64_t e, int64_t p, Input a, int64_t rows, int add, float *out) {
    int64_t columns = m->columns, panels = panels_in(m), at = e * panels + p;
    if (m->packed && rows) {
        const float *weights = floats_of(m, e, p, panels, 0);
        Next next = floats_after(m, e, p, panels, 0, rows);
        panel((Rows){a.x, a.stride, a.index}, rows, m->k, weights, p, m->bias, add, next, out, columns);
    }
    if (m->packed) return;
    int64_t first = p * WIDE, width = least(WIDE, columns - first);
    for (int64_t r = 0; r < rows; r += MOST_ROWS) {
        const int8_t *pointers[MOST_ROWS];
        float sum[MOST_ROWS][WIDE];
        int64_t count = point_to_codes(a, r, rows, m->k, pointers);
        code_tile(count, &m->codes, at, pointers, sum);
        for (int64_t i = 0; i < count; i++) {
            float *to = out + (r + i) * columns + first;
            for (int64_t j = 0; j < width; j++)
                to[j] = sum[i][j] + (m->bias ? m->bias[first + j] : 0) + (add ? to[j] : 0);
        }
    }
}

// The same with what adapters add; the rows begin with number `row`. What is in `out` is added to the sum of both, as
// training adds the residual stream, so that no rounding differs.
static void matrix_panel(const Matrix *m, int64_t e, int64_t p, Input a, int64_t rows, int add, float *out, const Added *d,
                         int64_t row) {
    int64_t columns = m->columns, wide = m->packed ? 1 : WIDE / PANEL, end = least(panels_of(columns), (p + 1) * wide);
    int64_t first = p * wide * PANEL, width = least(columns, end * PANEL) - first;
    enum { SOME = 8 * ROWS };
    float before[SOME * (WIDE > PANEL ? WIDE : PANEL)];
    if (!d || !add) {
        base_panel(m, e, p, a, rows, add, out);
        if (d) raise_panels(d, e, row, rows, p * wide, end, out, columns);
        return;
    }
    for (int64_t r = 0; r < rows; r += SOME) {
        int64_t count = least(SOME, rows - r);
        float *to = out + r * columns;
        for (int64_t i = 0; i < count; i++) memcpy(before + i * width, to + i * columns + first, sizeof(float) * width);
        base_panel(m, e, p, behind(a, r, m->k), count, 0, to);
        raise_panels(d, e, row + r, count, p * wide, end, to, columns);
        for (int64_t i = 0; i < count; i++)
            for (int64_t j = 0; j < width; j++) to[i * columns + first + j] += before[i * width + j];
    }
}

static Phase *project(Phase *phase, Team *team, const Matrix *m, Input a, int64_t rows, int add, float *out,
                      const Added *d) {
    int64_t panels = panels_in(m);
    for (int64_t p = take_near(team, phase, panels); p < panels; p = another_near(team, phase, panels))
        matrix_panel(m, 0, p, a, rows, add, out, d, 0);
    return finish_near(team, phase, panels);
}

// What adapters add to a product of this layer; NULL if no row has one.
INLINE const Added *added(const Layer *l, const Pass *s, const Work *w, int product, const int64_t *token, Added *d) {
    *d = (Added){l->updates + product, s->adapter, token, w->low, w->rank};
    return s->adapter ? d : NULL;
}

// Normalise row i of x, and make its codes where the next matrix wants them.
static void normalise_row(const Model *m, Work *w, const float *weight, const Matrix *next, int64_t i) {
    int64_t D = m->hidden;
    float *y = w->normed + i * D;
    normalise(w->x + i * D, weight, m->eps, D, y);
    if (!next->packed) quantise_groups(y, D, 0, next->codes.groups, w->normed_codes + i * row_size(D));
}

// ---- attention

// x[K] as it is kept, from element `at` on, `step` apart; returns the scale of BYTE.
static float keep(int64_t kind, const float *x, int64_t K, void *to, int64_t at, int64_t step) {
    if (kind == SINGLE) {
        float *p = (float *)to + at;
        for (int64_t j = 0; j < K; j++) p[j * step] = x[j];
    } else if (kind == HALF) {
        uint16_t *p = (uint16_t *)to + at;
        for (int64_t j = 0; j < K; j++) p[j * step] = to_half(x[j]);
    } else {
        int8_t *p = (int8_t *)to + at;
        float largest = 0;
        for (int64_t j = 0; j < K; j++) largest = fabsf(x[j]) > largest ? fabsf(x[j]) : largest;
        float inverse = largest > 1e-30f ? 127.0f / largest : 0;
        for (int64_t j = 0; j < K; j++) p[j * step] = (int8_t)(int32_t)__builtin_rintf(x[j] * inverse);
        return largest / 127.0f;
    }
    return 0;
}

INLINE const int32_t *table_of(const Pass *s, int64_t i) { return s->tables + s->sequence[i] * s->width; }

// Normalise and turn the query heads and the key of key head g where they lie, and append key and value.
static void append(const Model *m, const Layer *l, const Pass *s, float *qkv, int64_t i, int64_t g) {
    int64_t K = m->head_dim, H = m->heads, G = m->kv_heads, shared = H / G, position = s->positions[i];
    const float *cosine = m->cos + position * (K / 2), *sine = m->sin + position * (K / 2);
    for (int64_t h = 0; h <= shared; h++) {
        float *x = qkv + (h < shared ? g * shared + h : H + g) * K;
        const float *w = h < shared ? l->q_norm : l->k_norm;
        if (w) normalise(x, w, m->eps, K, x);
        rotate(x, cosine, sine, K / 2);
    }
    int64_t at = (table_of(s, i)[position / m->block] * G + g) * m->block + position % m->block, lane = at % LANES;
    float k_scale = keep(m->kind, qkv + (H + g) * K, K, l->keys, (at - lane) * K + lane, LANES);
    float v_scale = keep(m->kind, qkv + (H + G + g) * K, K, l->values, at * K, 1);
    if (m->kind == BYTE) l->key_scale[at] = k_scale, l->value_scale[at] = v_scale;
}

INLINE int follows(const Pass *s, int64_t i) {
    return s->sequence[i] == s->sequence[i - 1] && s->positions[i] == s->positions[i - 1] + 1;
}

// How many tokens from row i on are neighbours that one task attends from: at most FEW; 0 if the task before has row i.
static int64_t neighbours(const Pass *s, int64_t i) {
    if (i % FEW && follows(s, i)) return 0;
    int64_t end = i + 1;
    while (end < s->n && end % FEW && follows(s, end)) end++;
    return end - i;
}

// Ask for the beginning of what this thread will attend to, while weights are streamed: to meet it cold, page by page, takes
// three times as long as to attend.
static void ask_for_kept(const Model *m, const Layer *l, const Pass *s, const Team *team) {
    int64_t G = m->kv_heads, size = m->block * m->head_dim * (4 >> m->kind), total = s->n * G;
    if (s->n > FEW) return;  // with more to do, waiting and computing overlap by themselves
    for (int64_t t = share_start(total, team->thread, team); t < share_start(total, team->thread + 1, team); t++) {
        const int32_t *table = table_of(s, t / G);
        for (int64_t page = 0; page * m->block <= s->positions[t / G] && page * size < BEGINNING; page++)
            for (int64_t line = 0, at = (table[page] * G + t % G) * size; line < size; line += 64) {
                __builtin_prefetch((char *)l->keys + at + line);
                __builtin_prefetch((char *)l->values + at + line);
            }
    }
}

// What the heads that share key head g see from `tokens` rows from i on
static void attend_from(const Model *m, const Layer *l, const Pass *s, Work *w, int64_t i, int64_t tokens, int64_t g,
                        float *scores) {
    int64_t K = m->head_dim, H = m->heads, G = m->kv_heads, shared = H / G, C = (H + 2 * G) * K, size = 4 >> m->kind;
    int64_t from = g * m->block;
    Kept kept = {(char *)l->keys + from * K * size, (char *)l->values + from * K * size, l->key_scale + from,
                 l->value_scale + from, table_of(s, i), m->block, G * m->block, K};
    Heads a = {shared, tokens, w->qkv + i * C + g * shared * K, C, w->attended + (i * H + g * shared) * K, H * K, s->positions[i] + 1};
    if (m->kind == SINGLE) attend(SINGLE, &a, &kept, K, scores, w->capacity);
    else if (m->kind == HALF) attend(HALF, &a, &kept, K, scores, w->capacity);
    else attend(BYTE, &a, &kept, K, scores, w->capacity);
    if (!l->out.packed && shared * K % SPAN == 0)
        for (int64_t t = i; t < i + tokens; t++)
            quantise_groups(w->attended + t * H * K, H * K, g * shared * K / SPAN, shared * K / SPAN,
                            w->attended_codes + t * row_size(H * K));
}

// Three phases
static Phase *attention(Phase *phase, Team *team, const Model *m, const Layer *l, const Pass *s, Work *w, float *scores) {
    int64_t K = m->head_dim, H = m->heads, G = m->kv_heads, C = (H + 2 * G) * K, n = s->n;
    int64_t few = (n * G + FEW - 1) / FEW, alone = n == 1;  // one token sees nothing that another task writes
    for (int64_t t = alone ? few : take(phase); t < few; t = another(phase))
        for (int64_t j = t * FEW; j < least(n * G, (t + 1) * FEW); j++) append(m, l, s, w->qkv + j / G * C, j / G, j % G);
    phase = finish(phase, alone ? 0 : few);
    for (int64_t t = take_near(team, phase, n * G); t < n * G; t = another_near(team, phase, n * G)) {
        int64_t tokens = neighbours(s, t / G);
        if (alone) append(m, l, s, w->qkv, 0, t);
        if (tokens) attend_from(m, l, s, w, t / G, tokens, t % G, scores);
    }
    phase = finish_near(team, phase, n * G);
    int64_t odd = !l->out.packed && H / G * K % SPAN ? n : 0;
    for (int64_t i = odd ? take(phase) : 0; i < odd; i = another(phase))
        quantise_groups(w->attended + i * H * K, H * K, 0, l->out.codes.groups, w->attended_codes + i * row_size(H * K));
    return finish(phase, odd);
}

// ---- feed-forward

// Sort the (token, expert) pairs by expert, tokens in order within each.
static void sort_by_expert(int64_t n, int64_t top_k, int64_t experts, Work *w) {
    memset(w->start, 0, (experts + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < n * top_k; i++) w->start[w->chosen[i] + 1]++;
    for (int64_t e = 0; e < experts; e++) w->start[e + 1] += w->start[e];
    for (int64_t i = 0; i < n * top_k; i++) {
        w->place[i] = w->start[w->chosen[i]]++;
        w->token[w->place[i]] = i / top_k;
        w->scale[w->place[i]] = w->weight[i];
    }
    for (int64_t e = experts; e > 0; e--) w->start[e] = w->start[e - 1];
    w->start[0] = 0;
}

static void gate_up_panel(Rows a, int64_t rows, int64_t D, const float *panel, Next next, int64_t p, const float *weight,
                          float *act, int64_t stride, const Added *d, int64_t e, int64_t row, int64_t F) {
    for (int64_t r = 0; r < rows; r += ROWS) {
        const float *pointers[ROWS];
        vec sum[ROWS][2];
        int64_t count = point(a, r, rows, pointers);
        tile_then(r / ROWS, count, pointers, D, panel, &next, sum);
        if (d) raise_tile(d, e, row + r, count, p, F, sum);
        for (int64_t i = 0; i < count; i++)
            store(act + (r + i) * stride + p * LANES, gated(sum[i][0], sum[i][1], all(weight ? weight[r + i] : 1)));
    }
}

// Panels `at` and at + 1 of gate and up, WIDE outputs of each: columns [first, first + WIDE) of act
static void gate_up_codes(const Codes *m, int64_t at, Input a, int64_t rows, int64_t first, const float *weight, float *act,
                          int64_t stride, const Added *d, int64_t e, int64_t row, int64_t F) {
    for (int64_t r = 0; r < rows; r += MOST_ROWS) {
        const int8_t *pointers[MOST_ROWS];
        float sum[2][MOST_ROWS][WIDE];
        int64_t count = point_to_codes(a, r, rows, m->k, pointers);
        for (int64_t half = 0; half < 2; half++) {
            code_tile(count, m, at + half, pointers, sum[half]);
            for (int64_t i = 0; i < count; i++) {
                vec scale = all(weight ? weight[r + i] : 1);
                float *to = act + (r + i) * stride + first + half * WIDE / 2, *gate = sum[half][i], *up = gate + WIDE / 2;
                for (int64_t j = 0; j < WIDE / 2; j += LANES) {
                    vec both[1][2] = {{load(gate + j), load(up + j)}};
                    if (d) raise_tile(d, e, row + r + i, 1, (first + half * WIDE / 2 + j) / LANES, F, both);
                    store(to + j, gated(both[0][0], both[0][1], scale));
                }
            }
        }
    }
}

static void choose_experts(const Model *m, const Layer *l, const Pass *s, Work *w, int64_t i) {
    int64_t D = m->hidden, experts = l->experts;
    Added kept;
    const Added *d = added(l, s, w, ROUTER, NULL, &kept);
    if (d) lower(d, 0, i, 1, D, (Rows){w->normed + i * D, D, NULL});
    for (int64_t p = 0; p < panels_in(&l->router); p++)
        matrix_panel(&l->router, 0, p, (Input){w->normed + i * D, D, NULL, NULL}, 1, 0, w->router + i * experts, d, i);
    choose(w->router + i * experts, experts, m->top_k, m->renormalise, w->chosen + i * m->top_k,
           w->weight + i * m->top_k);
}

// down(silu(gate·y) ⊙ up·y) of the dense layer, or of every token's experts, into expert_out; six phases
static Phase *feed_forward(Phase *phase, Team *team, const Model *m, const Layer *l, const Pass *s, Work *w, int64_t n) {
    int64_t D = m->hidden, F = l->down.k, top_k = l->experts ? m->top_k : 1, experts = l->experts ? l->experts : 1;
    int64_t few = (n + FEW - 1) / FEW, wide = l->gate_up.packed ? LANES : WIDE, up_panels = (F + wide - 1) / wide;
    int64_t stride = (F + WIDE - 1) / WIDE * WIDE;
    for (int64_t t = take(phase); t < few; t = another(phase))
        for (int64_t i = t * FEW; i < least(n, (t + 1) * FEW); i++) {
            normalise_row(m, w, l->norm2, &l->gate_up, i);
            if (l->experts) choose_experts(m, l, s, w, i);
        }
    phase = finish(phase, few);
    for (int64_t t = l->experts ? take(phase) : 1; t < 1; t = another(phase)) sort_by_expert(n, top_k, experts, w);
    phase = finish(phase, l->experts ? 1 : 0);
    const int64_t *token = l->experts ? w->token : NULL, *start = l->experts ? w->start : NULL;
    Added kept;
    const Added *d = added(l, s, w, GATE_UP, token, &kept);
    phase = lower_rows(phase, d, (Rows){w->normed, D, token}, n * top_k, D, start);
    int64_t total = experts * up_panels;
    for (int64_t t = take_near(team, phase, total); t < total; t = another_near(team, phase, total)) {
        int64_t e = t / up_panels, p = t % up_panels, first = l->experts ? w->start[e] : 0;
        int64_t rows = l->experts ? w->start[e + 1] - first : n;
        const int64_t *index = l->experts ? w->token + first : NULL;
        const float *weight = l->experts ? w->scale + first : NULL;
        float *act = w->act + first * stride;
        if (l->gate_up.packed && rows) {
            const float *panel = floats_of(&l->gate_up, e, p, up_panels, F);
            Next next = floats_after(&l->gate_up, e, p, up_panels, F, rows);
            gate_up_panel((Rows){w->normed, D, index}, rows, D, panel, next, p, weight, act, stride, d, e, first, F);
        } else if (!l->gate_up.packed)
            gate_up_codes(&l->gate_up.codes, 2 * t, (Input){NULL, 0, w->normed_codes, index}, rows, p * WIDE, weight, act,
                          stride, d, e, first, F);
        if (!l->down.packed && wide == WIDE)
            for (int64_t r = 0; r < rows; r++)
                quantise_groups(act + r * stride, F, p, 1, w->act_codes + (first + r) * row_size(F));
    }
    phase = finish_near(team, phase, total);
    d = added(l, s, w, DOWN, token, &kept);
    phase = lower_rows(phase, d, (Rows){w->act, stride, NULL}, n * top_k, F, start);
    int64_t down_panels = panels_in(&l->down);
    total = experts * down_panels;
    for (int64_t t = take_near(team, phase, total); t < total; t = another_near(team, phase, total)) {
        int64_t e = t / down_panels, first = l->experts ? w->start[e] : 0;
        int64_t rows = l->experts ? w->start[e + 1] - first : n;
        Input a = {w->act + first * stride, stride, w->act_codes + first * row_size(F), NULL};
        float *out = (l->experts ? w->expert_out : w->x) + first * D;
        matrix_panel(&l->down, e, t % down_panels, a, rows, !l->experts, out, d, first);
    }
    return finish_near(team, phase, total);
}

// x += what the experts of token i gave
static void combine(const Work *w, int64_t D, int64_t top_k, int64_t i) {
    float *x = w->x + i * D, *y = w->expert_out + w->place[i * top_k] * D;
    for (int64_t c = i * top_k + 1; c < (i + 1) * top_k; c++) {
        const float *other = w->expert_out + w->place[c] * D;
        for (int64_t j = 0; j < D; j++) y[j] += other[j];
    }
    for (int64_t j = 0; j < D; j++) x[j] += y[j];
}

// What one thread does for a whole pass.
static void walk(const Model *m, const Layer *layers, Work *work, const Pass *s, float *scores) {
    int64_t D = m->hidden, HK = m->heads * m->head_dim, n = s->n, few = (n + FEW - 1) / FEW, sparse = 0;
    Work mine = *work, *w = &mine;
    Phase *phase = w->phases;
    int64_t phases = phases_of(m->layers);
    Team team = {phase, (atomic_long *)(phase + phases), phases, omp_get_thread_num(), omp_get_num_threads(), 0};
    for (int64_t t = take(phase); t < few; t = another(phase))
        for (int64_t i = t * FEW; i < least(n, (t + 1) * FEW); i++) {
            memcpy(w->x + i * D, m->embedding + s->tokens[i] * D, D * sizeof(float));
            normalise_row(m, w, layers->norm1, &layers->qkv, i);
        }
    phase = finish(phase, few);
    for (const Layer *l = layers, *last = layers + m->layers - 1; l <= last; l++) {
        const float *next_norm = l < last ? l[1].norm1 : m->norm;
        const Matrix *next = l < last ? &l[1].qkv : &m->head;
        if (l->experts && s->experts) w->chosen = s->experts + sparse++ * n * m->top_k;
        Added kept;
        const Added *d = added(l, s, w, QKV, NULL, &kept);
        phase = lower_rows(phase, d, (Rows){w->normed, D, NULL}, n, D, NULL);
        ask_for_kept(m, l, s, &team);
        phase = project(phase, &team, &l->qkv, (Input){w->normed, D, w->normed_codes, NULL}, n, 0, w->qkv, d);
        phase = attention(phase, &team, m, l, s, w, scores);
        d = added(l, s, w, OUT, NULL, &kept);
        phase = lower_rows(phase, d, (Rows){w->attended, HK, NULL}, n, HK, NULL);
        phase = project(phase, &team, &l->out, (Input){w->attended, HK, w->attended_codes, NULL}, n, 1, w->x, d);
        phase = feed_forward(phase, &team, m, l, s, w, n);
        for (int64_t t = take(phase); t < few; t = another(phase))
            for (int64_t i = t * FEW; i < least(n, (t + 1) * FEW); i++) {
                if (l->experts) combine(w, D, m->top_k, i);
                normalise_row(m, w, next_norm, next, i);
            }
        phase = finish(phase, few);
    }
    project(phase, &team, &m->head, (Input){w->normed, D, w->normed_codes, s->output_rows}, s->outputs, 0, s->logits, NULL);
}

// Append the pass's tokens to their sequences and give the logits [outputs, V] after the rows named by `output_rows`.
void forward(const Model *m, const Layer *layers, Work *w, const Pass *s, int threads) {
    memset(w->phases, 0, phase_bytes(m->layers, threads));
#pragma omp parallel num_threads(threads)
    walk(m, layers, w, s, w->scores + omp_get_thread_num() * GROUP * w->capacity);
}

// For tests: codes of rows of x, and the product of such rows with a quantised matrix.
void quantise_rows(const float *x, int64_t rows, int64_t k, int8_t *out) {
    for (int64_t r = 0; r < rows; r++) quantise_groups(x + r * k, k, 0, (k + SPAN - 1) / SPAN, out + r * row_size(k));
}

void multiply_codes(const Matrix *m, const int8_t *a, int64_t rows, float *out) {
    for (int64_t p = 0; p < panels_in(m); p++) base_panel(m, 0, p, (Input){NULL, 0, a, NULL}, rows, 0, out);
}
