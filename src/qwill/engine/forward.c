// The model's forward pass for generation: float32 on a CPU, one call a step, so that no time goes to dispatch.
// Definition: qwill/model/transformer.py, against which tests/engine/test_executors.py holds every model type; the
// arithmetic of a row is model/rows.h, which training shares.
//
// Threads share out the tasks of a phase, and a phase is over when its tasks are done, not when every thread has come
// by: a thread that the system has put to sleep (a busy or stolen processor) is not waited for.
//
// A row's result never depends on the other rows of the batch, the number of slots or of threads: generation is
// reproducible bit for bit, batched or not.
//
// Letters: n token rows, m (token, expert) rows, D hidden, H query heads, G key/value heads, K head size, F feed-forward.
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include "rows.h"

#define FEW 4  // token rows a task, where a row is little work

typedef struct {
    int64_t layers, hidden, heads, kv_heads, head_dim, top_k, vocab, renormalise, capacity;  // capacity: a multiple of LANES
    const float *embedding, *norm, *head, *cos, *sin;  // head packed; cos, sin [capacity, K/2]
    float eps;
} Model;

typedef struct {
    int64_t experts, ff;  // experts 0: a dense layer, held as one expert that takes every token
    const float *norm1, *qkv, *qkv_bias, *q_norm, *k_norm, *out, *out_bias, *norm2, *router, *gate_up, *down;
    float *keys;    // [slots, G, capacity/LANES, K, LANES]: LANES positions side by side
    float *values;  // [slots, G, capacity, K]
} Layer;

typedef struct {
    float *x, *normed, *qkv, *attended, *router, *weight, *scale, *act, *expert_out, *scores;
    int64_t *chosen, *place, *token, *start;  // place[n, top_k] and token[m]: rows sorted by expert; start[experts + 1]
    struct Phase *phases;  // PHASES for every layer, and 2
} Work;

// Tasks handed out and tasks done, on a cache line of their own.
typedef struct Phase {
    _Alignas(64) atomic_long taken;
    atomic_long done;
} Phase;
enum { PHASES = 9 };

int64_t phase_bytes(int64_t layers) { return (layers * PHASES + 2) * (int64_t)sizeof(Phase); }
int64_t lanes(void) { return LANES; }

// Ask for large pages under fresh memory: weights and cache are streamed, and small pages cost about a tenth of that.
void use_large_pages(void *memory, int64_t bytes) {
#ifdef MADV_HUGEPAGE
    uintptr_t page = 1 << 21, first = ((uintptr_t)memory + page - 1) & ~(page - 1), end = (uintptr_t)memory + bytes;
    if (first + page <= end) madvise((void *)first, (end - first) & ~(page - 1), MADV_HUGEPAGE);
#endif
}

// Every thread walks through all phases in order: `for (i = take(p); i < total; i = another(p)) …; p = finish(p, total);`
INLINE int64_t take(Phase *p) { return atomic_fetch_add_explicit(&p->taken, 1, memory_order_relaxed); }

INLINE int64_t another(Phase *p) {
    atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
    return take(p);
}

INLINE Phase *finish(Phase *p, int64_t total) {
    for (int spins = 0; atomic_load_explicit(&p->done, memory_order_acquire) < total; spins++) {
        if (spins > 10000) sched_yield();
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
    return p + 1;
}

void pack(const float *w, int64_t columns, int64_t k, int64_t half, float *packed, int threads) {
    int64_t panels = half ? (half + LANES - 1) / LANES : (columns + PANEL - 1) / PANEL;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t p = 0; p < panels; p++) pack_panel(w, columns, k, k, 1, half, p, packed + p * k * PANEL);
}

// out[rows, columns] = a · packed (+ bias) (+ out), one phase
static Phase *project(Phase *phase, Rows a, int64_t rows, int64_t k, const float *packed, const float *bias, int add,
                      float *out, int64_t columns) {
    int64_t panels = (columns + PANEL - 1) / PANEL;
    for (int64_t p = take(phase); p < panels; p = another(phase)) 
        panel(a, rows, k, packed + p * k * PANEL, p, bias, add, out, columns);
    return finish(phase, panels);
}

// Normalise and turn one token's q and k heads where they lie, and append k and v to the token's slot.
static void append(const Model *m, const Layer *l, float *qkv, int64_t slot, int64_t position) {
    int64_t K = m->head_dim, H = m->heads, G = m->kv_heads;
    const float *cosine = m->cos + position * (K / 2), *sine = m->sin + position * (K / 2);
    for (int64_t h = 0; h < H + G; h++) {
        const float *w = h < H ? l->q_norm : l->k_norm;
        if (w) normalise(qkv + h * K, w, m->eps, K, qkv + h * K);
        rotate(qkv + h * K, cosine, sine, K / 2);
    }
    for (int64_t g = 0; g < G; g++) {
        float *keys = l->keys + (slot * G + g) * m->capacity * K + (position / LANES) * K * LANES + position % LANES;
        const float *k = qkv + (H + g) * K;
        for (int64_t j = 0; j < K; j++) keys[j * LANES] = k[j];
        memcpy(l->values + ((slot * G + g) * m->capacity + position) * K, qkv + (H + G + g) * K, K * sizeof(float));
    }
}

static void attend_to_slot(const Model *m, const Layer *l, const float *qkv, int64_t slot, int64_t position, int64_t g,
                           float *scores, float *out) {
    int64_t K = m->head_dim, shared = m->heads / m->kv_heads, place = (slot * m->kv_heads + g) * m->capacity * K;
    attend(shared, qkv + g * shared * K, l->keys + place, l->values + place, K, K, position + 1, scores, m->capacity,
           out + g * shared * K);
}

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

static void gate_up_panel(Rows a, int64_t rows, int64_t D, const float *packed, int64_t p, const float *weight, float *act,
                          int64_t stride) {
    for (int64_t r = 0; r < rows; r += ROWS) {
        const float *pointers[ROWS];
        vec sum[ROWS][2];
        int64_t count = point(a, r, rows, pointers);
        tile(count, pointers, D, packed + p * D * PANEL, sum);
        for (int64_t i = 0; i < count; i++)
            store(act + (r + i) * stride + p * LANES, gated(sum[i][0], sum[i][1], all(weight ? weight[r + i] : 1)));
    }
}

static void choose_experts(const Model *m, const Layer *l, Work *w, int64_t i) {
    int64_t D = m->hidden, experts = l->experts;
    for (int64_t p = 0; p < (experts + PANEL - 1) / PANEL; p++)
        panel((Rows){w->normed + i * D, D, NULL}, 1, D, l->router + p * D * PANEL, p, NULL, 0, w->router + i * experts, experts);
    choose(w->router + i * experts, experts, m->top_k, m->renormalise, w->chosen + i * m->top_k,
           w->weight + i * m->top_k);
}

// down(silu(gate·y) ⊙ up·y) of the dense layer, or of every token's experts, into expert_out; four phases
static Phase *feed_forward(Phase *phase, const Model *m, const Layer *l, Work *w, int64_t n) {
    int64_t D = m->hidden, F = l->ff, top_k = l->experts ? m->top_k : 1, experts = l->experts ? l->experts : 1;
    int64_t up_panels = (F + LANES - 1) / LANES, down_panels = (D + PANEL - 1) / PANEL, stride = up_panels * LANES;
    int64_t total = (n + FEW - 1) / FEW;
    for (int64_t t = take(phase); t < total; t = another(phase))
        for (int64_t i = t * FEW; i < least(n, (t + 1) * FEW); i++) {
            normalise(w->x + i * D, l->norm2, m->eps, D, w->normed + i * D);
            if (l->experts) choose_experts(m, l, w, i);
            else w->chosen[i] = 0;
        }
    phase = finish(phase, total);
    for (int64_t t = take(phase); t < 1; t = another(phase)) sort_by_expert(n, top_k, experts, w);
    phase = finish(phase, 1);
    total = experts * up_panels;
    for (int64_t t = take(phase); t < total; t = another(phase)) {
        int64_t e = t / up_panels, first = w->start[e];
        gate_up_panel((Rows){w->normed, D, w->token + first}, w->start[e + 1] - first, D,
                      l->gate_up + e * up_panels * D * PANEL, t % up_panels, l->experts ? w->scale + first : NULL,
                      w->act + first * stride, stride);
    }
    phase = finish(phase, total);
    total = experts * down_panels;
    for (int64_t t = take(phase); t < total; t = another(phase)) {
        int64_t e = t / down_panels, first = w->start[e];  // t is also the panel's place: e · down_panels + its number
        panel((Rows){w->act + first * stride, stride, NULL}, w->start[e + 1] - first, F,
              l->down + t * F * PANEL, t % down_panels, NULL, 0, w->expert_out + first * D, D);
    }
    return finish(phase, total);
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
static void walk(const Model *m, const Layer *layers, Work *w, int64_t n, const int64_t *tokens, const int64_t *slots,
                 const int64_t *positions, int64_t outputs, const int64_t *output_rows, float *logits, float *scores) {
    int64_t D = m->hidden, K = m->head_dim, H = m->heads, G = m->kv_heads, C = (H + 2 * G) * K;
    int64_t few = (n + FEW - 1) / FEW;
    Phase *phase = w->phases;
    for (int64_t t = take(phase); t < few; t = another(phase))
        for (int64_t i = t * FEW; i < least(n, (t + 1) * FEW); i++) {
            memcpy(w->x + i * D, m->embedding + tokens[i] * D, D * sizeof(float));
            normalise(w->x + i * D, layers->norm1, m->eps, D, w->normed + i * D);
        }
    phase = finish(phase, few);
    for (int64_t layer = 0; layer < m->layers; layer++) {
        const Layer *l = layers + layer;
        const float *next_norm = layer + 1 < m->layers ? l[1].norm1 : m->norm;
        phase = project(phase, (Rows){w->normed, D, NULL}, n, D, l->qkv, l->qkv_bias, 0, w->qkv, C);
        for (int64_t t = take(phase); t < few; t = another(phase))
            for (int64_t i = t * FEW; i < least(n, (t + 1) * FEW); i++)
                append(m, l, w->qkv + i * C, slots[i], positions[i]);
        phase = finish(phase, few);
        for (int64_t t = take(phase); t < n * G; t = another(phase)) {
            int64_t i = t / G;
            attend_to_slot(m, l, w->qkv + i * C, slots[i], positions[i], t % G, scores, w->attended + i * H * K);
        }
        phase = finish(phase, n * G);
        phase = project(phase, (Rows){w->attended, H * K, NULL}, n, H * K, l->out, l->out_bias, 1, w->x, D);
        phase = feed_forward(phase, m, l, w, n);
        for (int64_t t = take(phase); t < few; t = another(phase))
            for (int64_t i = t * FEW; i < least(n, (t + 1) * FEW); i++) {
                combine(w, D, l->experts ? m->top_k : 1, i);
                normalise(w->x + i * D, next_norm, m->eps, D, w->normed + i * D);
            }
        phase = finish(phase, few);
    }
    project(phase, (Rows){w->normed, D, output_rows}, outputs, D, m->head, NULL, 0, logits, m->vocab);
}

// Append n tokens to their slots and give the logits [outputs, V] after the rows named by `output_rows`.
void forward(const Model *m, const Layer *layers, Work *w, int64_t n, const int64_t *tokens, const int64_t *slots,
             const int64_t *positions, int64_t outputs, const int64_t *output_rows, float *logits, int threads) {
    memset(w->phases, 0, phase_bytes(m->layers));
#pragma omp parallel num_threads(threads)
    walk(m, layers, w, n, tokens, slots, positions, outputs, output_rows, logits,
         w->scores + omp_get_thread_num() * GROUP * m->capacity);
}
