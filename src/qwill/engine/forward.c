// The model's forward pass for generation: float32 on a CPU, one call a step, so that no time goes to dispatch.
// Definition: qwill/model/transformer.py, against which tests/engine/test_native.py holds every model type.
//
// Threads share out the tasks of a phase, and a phase is over when its tasks are done, not when every thread has come
// by: a thread that the system has put to sleep (a busy or stolen processor) is not waited for.
//
// A row's result never depends on the other rows of the batch: every sum runs over the same terms in the same order
// whatever the number of rows, slots or threads. That makes generation reproducible bit for bit, batched or not.
//
// Letters: n token rows, m (token, expert) rows, D hidden, H query heads, G key/value heads, K head size, F feed-forward.
#include <math.h>
#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

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
#define GROUP 4            // query heads that share a pass over the keys
#define FEW 4              // token rows a task, where a row is little work
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

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
    float *x, *normed, *qkv, *attended, *router, *weight, *act, *expert_out, *scores;
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

INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec v) { *(vec *)p = v; }
INLINE vec pick(ivec mask, vec a, vec b) { return (vec)((mask & (ivec)a) | (~mask & (ivec)b)); }

INLINE float add_up(vec v) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

// exp by 2^n · P(r), |r| <= ln2/2; relative error < 2e-7 (as model/kernels.c)
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

// Weights [columns, k] row by row -> [panel][k][PANEL], zeros beyond the last column. `half` > 0 puts LANES columns of
// the first half beside the same columns of the second half (gate and up), so that one tile holds both.
void pack(const float *w, int64_t columns, int64_t k, int64_t half, float *packed, int threads) {
    int64_t wide = half ? half : columns, step = half ? LANES : PANEL, panels = (wide + step - 1) / step;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t p = 0; p < panels; p++)
        for (int l = 0; l < PANEL; l++) {
            int64_t column = p * step + (half ? l % LANES : l);
            const float *source = w + (column + (half && l >= LANES ? half : 0)) * k;
            float *target = packed + p * k * PANEL + l;
            for (int64_t i = 0; i < k; i++) target[i * PANEL] = column < wide ? source[i] : 0;
        }
}

INLINE void tile_of(const int rows, const float *const *a, int64_t k, const float *b, vec sum[ROWS][2]) {
    vec c[ROWS][2];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) c[r][0] = c[r][1] = all(0);
    for (int64_t i = 0; i < k; i++) {
        vec b0 = load(b + i * PANEL), b1 = load(b + i * PANEL + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            c[r][0] += a[r][i] * b0;
            c[r][1] += a[r][i] * b1;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) sum[r][0] = c[r][0], sum[r][1] = c[r][1];
}

// rows (at most ROWS) of a · one panel of weights
static void tile(int64_t rows, const float *const *a, int64_t k, const float *b, vec sum[ROWS][2]) {
    switch (rows) {
    case 1: tile_of(1, a, k, b, sum); break;
    case 2: tile_of(2, a, k, b, sum); break;
    case 3: tile_of(3, a, k, b, sum); break;
    case 4: tile_of(4, a, k, b, sum); break;
    case 5: tile_of(5, a, k, b, sum); break;
    case 6: tile_of(6, a, k, b, sum); break;
#if ROWS == 8
    case 7: tile_of(7, a, k, b, sum); break;
    case 8: tile_of(8, a, k, b, sum); break;
#endif
    }
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

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

// One panel of out[rows, columns] = a · packed (+ bias) (+ out)
static void panel(Rows a, int64_t rows, int64_t k, const float *packed, int64_t p, const float *bias, int add,
                  float *out, int64_t columns) {
    int64_t first = p * PANEL, width = least(PANEL, columns - first);
    for (int64_t r = 0; r < rows; r += ROWS) {
        const float *pointers[ROWS];
        vec sum[ROWS][2];
        int64_t count = point(a, r, rows, pointers);
        tile(count, pointers, k, packed + p * k * PANEL, sum);
        for (int64_t i = 0; i < count; i++) {
            const float *value = (const float *)sum[i];
            float *to = out + (r + i) * columns + first;
            if (width == PANEL && !bias && !add) memcpy(to, value, sizeof sum[i]);
            else for (int64_t j = 0; j < width; j++)
                to[j] = value[j] + (bias ? bias[first + j] : 0) + (add ? to[j] : 0);
        }
    }
}

// out[rows, columns] = a · packed (+ bias) (+ out), one phase
static Phase *project(Phase *phase, Rows a, int64_t rows, int64_t k, const float *packed, const float *bias, int add,
                      float *out, int64_t columns) {
    int64_t panels = (columns + PANEL - 1) / PANEL;
    for (int64_t p = take(phase); p < panels; p = another(phase)) panel(a, rows, k, packed, p, bias, add, out, columns);
    return finish(phase, panels);
}

INLINE float inverse_rms(const float *x, int64_t d, float eps) {
    float sum = 0;
    vec lanes_sum = all(0);
    int64_t j = 0;
    for (; j + LANES <= d; j += LANES) lanes_sum += load(x + j) * load(x + j);
    for (; j < d; j++) sum += x[j] * x[j];
    return 1.0f / sqrtf((sum + add_up(lanes_sum)) / (float)d + eps);
}

static void normalise(const float *x, const float *w, float eps, int64_t d, float *y) {
    float r = inverse_rms(x, d, eps);
    int64_t j = 0;
    for (; j + LANES <= d; j += LANES) store(y + j, load(x + j) * r * load(w + j));
    for (; j < d; j++) y[j] = x[j] * r * w[j];
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

// softmax(q·k / sqrt(K))·v of `heads` query heads that share one key head, over positions [0, seen)
INLINE void attend_heads(const int heads, const float *q, const float *keys, const float *values, int64_t K, int64_t seen,
                         float *scores, int64_t capacity, float *out) {
    float scale = 1.0f / sqrtf((float)K);
    vec best[GROUP];
    float total[GROUP];
#pragma GCC unroll 4
    for (int h = 0; h < heads; h++) best[h] = all(-INFINITY);
    for (int64_t s = 0; s < seen; s += LANES) {
        vec c[GROUP];
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) c[h] = all(0);
        const float *block = keys + s * K;
        for (int64_t j = 0; j < K; j++) {
            vec key = load(block + j * LANES);
#pragma GCC unroll 4
            for (int h = 0; h < heads; h++) c[h] += q[h * K + j] * key;
        }
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) {
            c[h] *= scale;
            for (int64_t i = seen - s; i < LANES; i++) c[h][i] = -INFINITY;
            best[h] = pick(c[h] > best[h], c[h], best[h]);
            store(scores + h * capacity + s, c[h]);
        }
    }
    for (int h = 0; h < heads; h++) {
        float top = -INFINITY;
        for (int i = 0; i < LANES; i++) top = best[h][i] > top ? best[h][i] : top;
        vec sum = all(0);
        for (int64_t s = 0; s < seen; s += LANES) {
            vec p = vexp(load(scores + h * capacity + s) - top);
            for (int64_t i = seen - s; i < LANES; i++) p[i] = 0;
            sum += p;
            store(scores + h * capacity + s, p);
        }
        total[h] = add_up(sum);
    }
    for (int64_t j = 0; j < K; j += PANEL) {
        int two = j + LANES < K;
        vec c[GROUP][2];
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) c[h][0] = c[h][1] = all(0);
        for (int64_t s = 0; s < seen; s++) {
            const float *value = values + s * K + j;
            vec v0 = load(value), v1 = two ? load(value + LANES) : v0;
#pragma GCC unroll 4
            for (int h = 0; h < heads; h++) {
                float p = scores[h * capacity + s];
                c[h][0] += p * v0;
                c[h][1] += p * v1;
            }
        }
#pragma GCC unroll 4
        for (int h = 0; h < heads; h++) {
            store(out + h * K + j, c[h][0] / total[h]);
            if (two) store(out + h * K + j + LANES, c[h][1] / total[h]);
        }
    }
}

static void attend(const Model *m, const Layer *l, const float *qkv, int64_t slot, int64_t position, int64_t g,
                   float *scores, float *out) {
    int64_t K = m->head_dim, shared = m->heads / m->kv_heads, C = m->capacity;
    const float *keys = l->keys + (slot * m->kv_heads + g) * C * K;
    const float *values = l->values + (slot * m->kv_heads + g) * C * K;
    for (int64_t h = 0; h < shared; h += GROUP) {
        const float *q = qkv + (g * shared + h) * K;
        float *to = out + (g * shared + h) * K;
        switch (least(GROUP, shared - h)) {
        case 1: attend_heads(1, q, keys, values, K, position + 1, scores, C, to); break;
        case 2: attend_heads(2, q, keys, values, K, position + 1, scores, C, to); break;
        case 3: attend_heads(3, q, keys, values, K, position + 1, scores, C, to); break;
        default: attend_heads(4, q, keys, values, K, position + 1, scores, C, to);
        }
    }
}

// softmax over the experts in place, the top_k largest (the lower number first among equals) and their weights
static void route(const Model *m, int64_t experts, float *p, int64_t *chosen, float *weight) {
    float top = p[0], sum = 0, kept = 0;
    for (int64_t e = 1; e < experts; e++) top = p[e] > top ? p[e] : top;
    for (int64_t e = 0; e < experts; e++) sum += p[e] = expf(p[e] - top);
    for (int64_t i = 0; i < m->top_k; i++) {
        int64_t best = 0;
        for (int64_t e = 1; e < experts; e++) best = p[e] > p[best] ? e : best;
        chosen[i] = best;
        weight[i] = p[best] / sum;
        kept += weight[i];
        p[best] = -1;
    }
    for (int64_t i = 0; i < m->top_k && m->renormalise; i++) weight[i] /= kept;
}

// Sort the (token, expert) pairs by expert, tokens in order within each.
static void sort_by_expert(int64_t n, int64_t top_k, int64_t experts, Work *w) {
    memset(w->start, 0, (experts + 1) * sizeof(int64_t));
    for (int64_t i = 0; i < n * top_k; i++) w->start[w->chosen[i] + 1]++;
    for (int64_t e = 0; e < experts; e++) w->start[e + 1] += w->start[e];
    for (int64_t i = 0; i < n * top_k; i++) {
        w->place[i] = w->start[w->chosen[i]]++;
        w->token[w->place[i]] = i / top_k;
    }
    for (int64_t e = experts; e > 0; e--) w->start[e] = w->start[e - 1];
    w->start[0] = 0;
}

static void gate_up_panel(Rows a, int64_t rows, int64_t D, const float *packed, int64_t p, float *act, int64_t stride) {
    for (int64_t r = 0; r < rows; r += ROWS) {
        const float *pointers[ROWS];
        vec sum[ROWS][2];
        int64_t count = point(a, r, rows, pointers);
        tile(count, pointers, D, packed + p * D * PANEL, sum);
        for (int64_t i = 0; i < count; i++)
            store(act + (r + i) * stride + p * LANES, sum[i][0] / (1.0f + vexp(-sum[i][0])) * sum[i][1]);
    }
}

static void choose_experts(const Model *m, const Layer *l, Work *w, int64_t i) {
    int64_t D = m->hidden, experts = l->experts;
    for (int64_t p = 0; p < (experts + PANEL - 1) / PANEL; p++)
        panel((Rows){w->normed + i * D, D, NULL}, 1, D, l->router, p, NULL, 0, w->router + i * experts, experts);
    route(m, experts, w->router + i * experts, w->chosen + i * m->top_k, w->weight + i * m->top_k);
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
                      l->gate_up + e * up_panels * D * PANEL, t % up_panels, w->act + first * stride, stride);
    }
    phase = finish(phase, total);
    total = experts * down_panels;
    for (int64_t t = take(phase); t < total; t = another(phase)) {
        int64_t e = t / down_panels, first = w->start[e];
        panel((Rows){w->act + first * stride, stride, NULL}, w->start[e + 1] - first, F,
              l->down + e * down_panels * F * PANEL, t % down_panels, NULL, 0, w->expert_out + first * D, D);
    }
    return finish(phase, total);
}

// x += what the experts of token i gave, weighted
static void combine(const Layer *l, const Work *w, int64_t D, int64_t top_k, int64_t i) {
    for (int64_t c = i * top_k; c < (i + 1) * top_k; c++) {
        const float *y = w->expert_out + w->place[c] * D;
        float weight = l->experts ? w->weight[c] : 1, *x = w->x + i * D;
        for (int64_t j = 0; j < D; j++) x[j] += weight * y[j];
    }
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
            attend(m, l, w->qkv + i * C, slots[i], positions[i], t % G, scores, w->attended + i * H * K);
        }
        phase = finish(phase, n * G);
        phase = project(phase, (Rows){w->attended, H * K, NULL}, n, H * K, l->out, l->out_bias, 1, w->x, D);
        phase = feed_forward(phase, m, l, w, n);
        for (int64_t t = take(phase); t < few; t = another(phase))
            for (int64_t i = t * FEW; i < least(n, (t + 1) * FEW); i++) {
                combine(l, w, D, l->experts ? m->top_k : 1, i);
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
