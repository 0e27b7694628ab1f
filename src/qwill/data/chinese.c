// jieba 0.42.1's default cut (accurate mode with the hidden Markov model) over code points: the same blocks, the same sums
// of doubles in the same order, the same ties. The dictionary and the model's tables are jieba's own files.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NO_NODE 0xFFFFFFFFu
enum { FIRST = 0x4E00, LAST = 0x9FD5, HAN = LAST - FIRST + 1 };
enum { B, E, M, S };  // states in the order of their letters, which decides ties

typedef struct {
    uint64_t key;  // parent node << 21 | character; 0 is free
    uint32_t node;
} Edge;

typedef struct {
    Edge *edges;
    uint64_t mask, used;
    uint32_t nodes, room;
    uint64_t *frequency;  // of a node
    double *weight;       // log frequency − log total; NAN: no word
    double total, unknown;
    uint32_t root[0x10000];
    double start[4], move[4][4], emit[HAN][4];
    // work space for one block
    int64_t block_room;
    double *best;
    int32_t *next;
    uint8_t *from, *path;
} Jieba;

static uint64_t place(const Jieba *j, uint64_t key) {
    uint64_t i = (key * 0x9E3779B97F4A7C15ull >> 32) & j->mask;
    while (j->edges[i].key && j->edges[i].key != key) i = (i + 1) & j->mask;
    return i;
}

static inline uint32_t child(const Jieba *j, uint32_t node, uint32_t c) {
    if (node == 0 && c < 0x10000) return j->root[c];
    const Edge *e = &j->edges[place(j, (uint64_t)node << 21 | c)];
    return e->key ? e->node : NO_NODE;
}

static uint32_t grow(Jieba *j, uint32_t node, uint32_t c) {
    uint32_t known = child(j, node, c);
    if (known != NO_NODE) return known;
    if (j->nodes == j->room) {
        j->room *= 2;
        j->frequency = realloc(j->frequency, j->room * sizeof *j->frequency);
    }
    uint32_t new = j->nodes++;
    j->frequency[new] = 0;
    if (node == 0 && c < 0x10000) return j->root[c] = new;
    if (2 * ++j->used > j->mask) {
        Edge *old = j->edges;
        uint64_t n = j->mask + 1;
        j->mask = 2 * n - 1;
        j->edges = calloc(2 * n, sizeof(Edge));
        for (uint64_t i = 0; i < n; i++)
            if (old[i].key) j->edges[place(j, old[i].key)] = old[i];
        free(old);
    }
    j->edges[place(j, (uint64_t)node << 21 | c)] = (Edge){(uint64_t)node << 21 | c, new};
    return new;
}

static const uint8_t *decode(const uint8_t *p, uint32_t *c) {
    if (*p < 0x80) *c = *p, p += 1;
    else if (*p < 0xE0) *c = (p[0] & 31u) << 6 | (p[1] & 63), p += 2;
    else if (*p < 0xF0) *c = (p[0] & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63), p += 3;
    else *c = (p[0] & 7u) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63), p += 4;
    return p;
}

// dictionary: lines `word frequency tag` in valid UTF-8, ended by a line feed. start[4], move[16], emit[HAN · 4]: the
// logarithms of the model, states B E M S. NULL when a line has no frequency.
Jieba *jieba_new(const uint8_t *dictionary, int64_t size, const double *start, const double *move, const double *emit) {
    Jieba *j = calloc(1, sizeof *j);
    j->mask = (1 << 21) - 1, j->edges = calloc(j->mask + 1, sizeof(Edge));
    j->nodes = 1, j->room = 1 << 20, j->frequency = calloc(j->room, sizeof *j->frequency);
    memset(j->root, 0xFF, sizeof j->root);
    uint64_t total = 0;
    for (const uint8_t *p = dictionary, *stop = p + size; p < stop;) {
        uint32_t node = 0, c;
        while (p < stop && *p != ' ' && *p != '\n') p = decode(p, &c), node = grow(j, node, c);
        if (p >= stop || *p != ' ' || !node) return NULL;
        uint64_t n = 0;
        for (p++; p < stop && *p >= '0' && *p <= '9'; p++) n = 10 * n + (*p - '0');
        while (p < stop && *p != '\n') p++;
        p++;
        j->frequency[node] = n, total += n;
    }
    double log_total = log((double)total);
    j->weight = malloc(j->nodes * sizeof *j->weight);
    for (uint32_t i = 0; i < j->nodes; i++)
        j->weight[i] = j->frequency[i] ? log((double)j->frequency[i]) - log_total : NAN;
    j->unknown = log(1.0) - log_total;
    memcpy(j->start, start, sizeof j->start);
    memcpy(j->move, move, sizeof j->move);
    memcpy(j->emit, emit, sizeof j->emit);
    return j;
}

static inline int is_han(uint32_t c) { return c >= FIRST && c <= LAST; }
static inline int is_alnum(uint32_t c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static inline int in_block(uint32_t c) {
    return is_han(c) || is_alnum(c) || c == '+' || c == '#' || c == '&' || c == '.' || c == '_' || c == '%' || c == '-';
}

typedef struct {
    int32_t *starts, *ends;
    int64_t n;
} Words;

static inline void put(Words *w, int64_t low, int64_t high) { w->starts[w->n] = (int32_t)low, w->ends[w->n++] = (int32_t)high; }

// The model's words of text[low:high], all Han.
static void viterbi(Jieba *j, const uint32_t *text, int64_t low, int64_t high, Words *w) {
    static const uint8_t before[4][2] = {{E, S}, {B, M}, {B, M}, {E, S}};  // smaller letter first
    int64_t n = high - low;
    double v[4], new[4];
    for (int s = 0; s < 4; s++) v[s] = j->start[s] + j->emit[text[low] - FIRST][s];
    for (int64_t t = 1; t < n; t++) {
        const double *emit = j->emit[text[low + t] - FIRST];
        for (int s = 0; s < 4; s++) {
            int a = before[s][0], b = before[s][1];
            double x = v[a] + j->move[a][s] + emit[s], y = v[b] + j->move[b][s] + emit[s];
            new[s] = y >= x ? y : x;
            j->from[4 * t + s] = (uint8_t)(y >= x ? b : a);
        }
        memcpy(v, new, sizeof v);
    }
    int state = v[S] >= v[E] ? S : E;
    for (int64_t t = n - 1; t >= 0; t--) {
        j->path[t] = (uint8_t)state;
        if (t) state = j->from[4 * t + state];
    }
    int64_t begin = 0, next = 0;
    for (int64_t t = 0; t < n; t++) {
        if (j->path[t] == B) begin = t;
        else if (j->path[t] == E) put(w, low + begin, low + t + 1), next = t + 1;
        else if (j->path[t] == S) put(w, low + t, low + t + 1), next = t + 1;
    }
    if (next < n) put(w, low + next, high);
}

// finalseg.cut: Han by the model; in between, [a-zA-Z0-9]+(\.\d+)?%? and what stands between those.
static void recognise(Jieba *j, const uint32_t *text, int64_t low, int64_t high, Words *w) {
    for (int64_t at = low; at < high;) {
        int64_t start = at;
        if (is_han(text[at])) {
            while (at < high && is_han(text[at])) at++;
            viterbi(j, text, start, at, w);
        } else if (is_alnum(text[at])) {
            while (at < high && is_alnum(text[at])) at++;
            if (at + 1 < high && text[at] == '.' && text[at + 1] >= '0' && text[at + 1] <= '9')
                for (at++; at < high && text[at] >= '0' && text[at] <= '9';) at++;
            if (at < high && text[at] == '%') at++;
            put(w, start, at);
        } else {
            while (at < high && !is_han(text[at]) && !is_alnum(text[at])) at++;
            put(w, start, at);
        }
    }
}

// The single characters text[low:high] between longer words: the model's words, unless together they are a word of the
// dictionary, which then was less likely than they are apart.
static void flush(Jieba *j, const uint32_t *text, int64_t low, int64_t high, Words *w) {
    uint32_t node = 0;
    if (high - low > 1) {
        for (int64_t i = low; i < high && node != NO_NODE; i++) node = child(j, node, text[i]);
        if (node == NO_NODE || !j->frequency[node]) {
            recognise(j, text, low, high, w);
            return;
        }
    }
    for (int64_t i = low; i < high; i++) put(w, i, i + 1);
}

static void cut_block(Jieba *j, const uint32_t *text, int64_t low, int64_t high, Words *w) {
    int64_t n = high - low;
    if (n + 1 > j->block_room) {
        j->block_room = 2 * (n + 1);
        j->best = realloc(j->best, j->block_room * sizeof *j->best);
        j->next = realloc(j->next, j->block_room * sizeof *j->next);
        j->from = realloc(j->from, 4 * j->block_room);
        j->path = realloc(j->path, j->block_room);
    }
    j->best[n] = 0;
    for (int64_t i = n - 1; i >= 0; i--) {
        double best = 0;
        int64_t end = -1;
        uint32_t node = 0;
        for (int64_t k = i; k < n && (node = child(j, node, text[low + k])) != NO_NODE; k++) {
            if (!j->frequency[node]) continue;
            double x = j->weight[node] + j->best[k + 1];
            if (end < 0 || x >= best) best = x, end = k + 1;  // of equals the longer
        }
        if (end < 0) best = j->unknown + j->best[i + 1], end = i + 1;
        j->best[i] = best, j->next[i] = (int32_t)end;
    }
    int64_t singles = 0;
    for (int64_t i = 0; i < n; i = j->next[i]) {
        if (j->next[i] - i == 1) continue;
        flush(j, text, low + singles, low + i, w);
        put(w, low + i, low + j->next[i]);
        singles = j->next[i];
    }
    flush(j, text, low + singles, high, w);
}

// The words of text[0:n] (room for n of them) without white space; returns their number. `blank`: bit 1 marks white space
// in the class of a character.
int64_t jieba_cut(Jieba *j, const uint8_t *classes, const uint32_t *text, int64_t n, int32_t *starts, int32_t *ends) {
    Words w = {starts, ends, 0};
    for (int64_t at = 0; at < n;) {
        int64_t start = at;
        if (in_block(text[at])) {
            while (at < n && in_block(text[at])) at++;
            cut_block(j, text, start, at, &w);
        } else {
            if (!(classes[text[at]] & 1)) put(&w, at, at + 1);
            at++;
        }
    }
    return w.n;
}
