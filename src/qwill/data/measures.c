// What the filter families measure (gopher_repetition.py, gopher_quality.py, c4.py, fineweb.py are the definitions), over a
// text of code points and the bounds of its words. Whole numbers come back; the caller divides.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Bits of a character's class, from Python's own str methods.
enum { SPACE = 1, LINE_END = 2, LETTER = 4, SYMBOL = 8, DIGIT = 16 };
#define CLASSES 0x110000

typedef struct {
    uint8_t *of;      // CLASSES bytes
    uint32_t *lower;  // the ASCII letter that a character's lower case is, or the character; up to LOWERED
} Characters;
#define LOWERED 0x2200

typedef struct {
    uint64_t hash;
    uint32_t stamp, count, first;
} Slot;

// Work space that grows and stays: one table for all counting, cleared by its stamp.
typedef struct {
    Slot *table;
    uint64_t mask;
    uint32_t stamp;
    uint64_t *power, *sums, *spaced;
    int64_t powers, room;
    int32_t *length;
} Work;

static const uint64_t PRIME = (1ull << 61) - 1, BASE = 0x1A2B3C4D5E6F7081ull % ((1ull << 61) - 1);

static inline uint64_t times(uint64_t a, uint64_t b) {
    __uint128_t p = (__uint128_t)a * b;
    uint64_t r = (uint64_t)(p & PRIME) + (uint64_t)(p >> 61);
    return r >= PRIME ? r - PRIME : r;
}
static inline uint64_t plus(uint64_t a, uint64_t b) {
    uint64_t r = a + b;
    return r >= PRIME ? r - PRIME : r;
}
static inline uint64_t minus(uint64_t a, uint64_t b) { return a >= b ? a - b : a + PRIME - b; }

Characters *characters_new(const uint8_t *classes, const uint32_t *lower) {
    Characters *c = malloc(sizeof *c);
    c->of = malloc(CLASSES);
    c->lower = malloc(LOWERED * sizeof *lower);
    memcpy(c->of, classes, CLASSES);
    memcpy(c->lower, lower, LOWERED * sizeof *lower);
    return c;
}

Work *work_new(void) { return calloc(1, sizeof(Work)); }

void work_free(Work *w) {
    free(w->table);
    free(w->power);
    free(w->sums);
    free(w->spaced);
    free(w->length);
    free(w);
}

int64_t work_size(const Work *w) {
    return (int64_t)((w->table ? w->mask + 1 : 0) * sizeof(Slot)) + 8 * w->powers + 20 * w->room;
}

static void begin(Work *w, int64_t items) {
    uint64_t size = w->table ? w->mask + 1 : 1 << 12;
    while (size < 2 * (uint64_t)items + 2) size *= 2;
    if (!w->table || size > w->mask + 1) {
        free(w->table);
        w->table = calloc(size, sizeof(Slot));
        w->mask = size - 1;
        w->stamp = 0;
    }
    if (!++w->stamp) {
        memset(w->table, 0, (w->mask + 1) * sizeof(Slot));
        w->stamp = 1;
    }
}

// The slot of a hash, new (count 0) or met before.
static inline Slot *slot(Work *w, uint64_t hash) {
    uint64_t i = (hash * 0x9E3779B97F4A7C15ull >> 20) & w->mask;
    while (w->table[i].stamp == w->stamp && w->table[i].hash != hash) i = (i + 1) & w->mask;
    Slot *s = &w->table[i];
    if (s->stamp != w->stamp) *s = (Slot){hash, w->stamp, 0, 0};
    return s;
}

static uint64_t hash_of(const uint32_t *text, int64_t n) {
    uint64_t h = 1469598103934665603ull;
    for (int64_t i = 0; i < n; i++) h = (h ^ text[i]) * 0x9E3779B97F4A7C15ull;
    return h ^ (h >> 31);
}

// One more part text[low:high]; adds to [number, characters] when it has occurred before. Parts are compared in full:
// `kept` holds their bounds, `*parts` their number.
static void repeated(Work *w, const uint32_t *text, int64_t low, int64_t high, int64_t *kept, int64_t *parts, int64_t *out) {
    uint64_t h = hash_of(text + low, high - low), step = 0;
    for (;; step++) {
        Slot *s = slot(w, h + step);
        if (!s->count) {
            s->count = 1, s->first = (uint32_t)*parts;
            kept[2 * *parts] = low, kept[2 * *parts + 1] = high, ++*parts;
            return;
        }
        int64_t a = kept[2 * s->first], b = kept[2 * s->first + 1];
        if (b - a == high - low && !memcmp(text + a, text + low, (high - low) * sizeof *text)) {
            out[0]++, out[1] += high - low;
            return;
        }
    }
}

static void strip(const Characters *c, const uint32_t *text, int64_t *low, int64_t *high) {
    while (*low < *high && c->of[text[*low]] & SPACE) ++*low;
    while (*low < *high && c->of[text[*high - 1]] & SPACE) --*high;
}

// Lines and paragraphs: out = [paragraphs, repeated, their characters, lines, repeated, their characters].
void repetition(Work *w, const Characters *c, const uint32_t *text, int64_t n, int64_t *kept, int64_t *out) {
    int64_t feeds = 0, parts = 0;
    for (int64_t i = 0; i < n; i++) feeds += text[i] == '\n';
    memset(out, 0, 6 * sizeof *out);
    begin(w, 2 * feeds + 4);
    int64_t low = 0, high = n, start, at;
    strip(c, text, &low, &high);
    for (start = at = low;; at++) {
        if (at < high && (text[at] != '\n' || at + 1 >= high || text[at + 1] != '\n')) continue;
        repeated(w, text, start, at, kept, &parts, out + 1);
        out[0]++;
        if (at >= high) break;
        while (at < high && text[at] == '\n') at++;
        start = at--;
    }
    begin(w, 2 * feeds + 4);
    parts = 0;
    for (start = at = 0;; at++) {
        if (at < n && text[at] != '\n') continue;
        repeated(w, text, start, at, kept, &parts, out + 4);
        out[3]++;
        if (at >= n) break;
        while (at < n && text[at] == '\n') at++;
        start = at--;
    }
}

static void prepare(Work *w, const uint32_t *text, const int32_t *starts, const int32_t *ends, int64_t words) {
    int64_t characters = 0;
    for (int64_t i = 0; i < words; i++) characters += ends[i] - starts[i] + 1;
    if (characters + 1 > w->powers) {
        int64_t room = 2 * (characters + 1);
        w->power = realloc(w->power, room * sizeof *w->power);
        if (!w->powers) w->power[0] = 1, w->powers = 1;
        for (int64_t i = w->powers; i < room; i++) w->power[i] = times(w->power[i - 1], BASE);
        w->powers = room;
    }
    if (words + 1 > w->room) {
        w->room = 2 * (words + 1);
        w->sums = realloc(w->sums, w->room * sizeof *w->sums);
        w->spaced = realloc(w->spaced, w->room * sizeof *w->spaced);
        w->length = realloc(w->length, w->room * sizeof *w->length);
    }
    uint64_t sum = 0, spaced = 0;
    w->sums[0] = w->spaced[0] = 0, w->length[0] = 0;
    for (int64_t i = 0; i < words; i++) {
        uint64_t h = 0;
        for (int32_t k = starts[i]; k < ends[i]; k++) h = plus(times(h, BASE), text[k] + 1ull);
        int32_t size = ends[i] - starts[i];
        sum = plus(times(sum, w->power[size]), h);
        spaced = plus(times(plus(times(spaced, w->power[size]), h), BASE), ' ' + 1ull);
        w->sums[i + 1] = sum, w->spaced[i + 1] = spaced, w->length[i + 1] = w->length[i] + size;
    }
}

// Top and duplicated n-grams: a number of characters for each n of tops and then of dups.
// n-grams are compared by a polynomial hash of their characters modulo 2^61 - 1.
void n_grams(Work *w, const uint32_t *text, const int32_t *starts, const int32_t *ends, int64_t words, const int64_t *tops,
             int64_t n_tops, const int64_t *dups, int64_t n_dups, int64_t *out) {
    prepare(w, text, starts, ends, words);
    for (int64_t t = 0; t < n_tops; t++) {
        int64_t n = tops[t], best = 0, most = 0;
        out[t] = 0;
        if (words < n) continue;
        begin(w, words);
        for (int64_t i = 0; i + n <= words; i++) {
            int64_t size = w->length[i + n] - w->length[i] + n;
            Slot *s = slot(w, minus(w->spaced[i + n], times(w->spaced[i], w->power[size])));
            if (!s->count++) s->first = (uint32_t)i;
            // Of equally frequent ones the first to occur counts, not the first to get there.
            if (s->count > most || (s->count == most && s->first < best)) most = s->count, best = s->first;
        }
        out[t] = most * (w->length[best + n] - w->length[best] + n - 1);
    }
    for (int64_t d = 0; d < n_dups; d++) {
        int64_t n = dups[d], characters = 0;
        begin(w, words);
        for (int64_t i = 0; i + n <= words;) {
            int64_t size = w->length[i + n] - w->length[i];
            Slot *s = slot(w, minus(w->sums[i + n], times(w->sums[i], w->power[size])));
            if (s->count) characters += size, i += n;
            else s->count = 1, i++;
        }
        out[n_tops + d] = characters;
    }
}

// The next line of str.splitlines at *at: its end, with *at after its line end. Call while *at < n.
static int64_t line_end(const Characters *c, const uint32_t *text, int64_t n, int64_t *at) {
    int64_t i = *at;
    while (i < n && !(c->of[text[i]] & LINE_END)) i++;
    *at = i + (i + 1 < n && text[i] == '\r' && text[i + 1] == '\n') + 1;
    return i;
}

// out = [words with more than punctuation, their characters, hashes, ellipses, lines, bullets, lines that end in an
// ellipsis, words with a letter, those among the words with more than punctuation, different stop words].
// `stops`: the stop words run together, `bounds` their n_stops + 1 ends, `seen` n_stops bytes of work space.
void quality(const Characters *c, const uint32_t *text, int64_t n, const int32_t *starts, const int32_t *ends, int64_t words,
             const uint32_t *stops, const int64_t *bounds, int64_t n_stops, uint8_t *seen, int64_t *out) {
    memset(out, 0, 10 * sizeof *out);
    memset(seen, 0, n_stops);
    for (int64_t i = 0; i < words; i++) {
        int real = 0, letter = 0;
        int64_t size = ends[i] - starts[i];
        for (int32_t k = starts[i]; k < ends[i]; k++) {
            uint8_t class = c->of[text[k]];
            real |= !(class & SYMBOL), letter |= class & LETTER;
        }
        out[0] += real, out[1] += real ? size : 0, out[7] += letter != 0, out[8] += real && letter;
        for (int64_t s = 0; s < n_stops; s++)
            if (bounds[s + 1] - bounds[s] == size && stops[bounds[s]] == text[starts[i]] && !seen[s] &&
                !memcmp(stops + bounds[s], text + starts[i], size * sizeof *text)) {
                seen[s] = 1, out[9]++;
                break;
            }
    }
    for (int64_t i = 0; i < n; i++) {
        out[2] += text[i] == '#';
        if (text[i] == 0x2026) out[3]++;
        else if (text[i] == '.' && i + 2 < n && text[i + 1] == '.' && text[i + 2] == '.') out[3]++, i += 2;
    }
    for (int64_t at = 0; at < n; out[4]++) {
        int64_t low = at, high = line_end(c, text, n, &at);
        strip(c, text, &low, &high);
        if (low == high) continue;
        out[5] += text[low] == 0x2022 || text[low] == '-';
        uint32_t last = text[high - 1];
        out[6] += last == 0x2026 || (last == '.' && high - low > 2 && text[high - 2] == '.' && text[high - 3] == '.');
    }
}

// out = [lines that are not blank, those that end in a terminal mark, short ones, repeated, their characters, feeds].
// `ending`: 1 for each character that is a terminal mark.
void lines_of(Work *w, const Characters *c, const uint32_t *text, int64_t n, const uint8_t *ending, int64_t length,
              int64_t *kept, int64_t *out) {
    int64_t feeds = 0, parts = 0;
    for (int64_t i = 0; i < n; i++) feeds += text[i] == '\n';
    memset(out, 0, 6 * sizeof *out);
    out[5] = feeds;
    begin(w, 2 * feeds + 4);
    for (int64_t start = 0, at = 0; at <= n; at++) {
        if (at < n && text[at] != '\n') continue;
        int64_t low = start, high = at;
        strip(c, text, &low, &high);
        if (low < high) {
            out[0]++, out[1] += ending[text[at - 1]], out[2] += at - start <= length;
            repeated(w, text, start, at, kept, &parts, out + 3);
        }
        start = at + 1;
    }
}

static int64_t citation(const Characters *c, const uint32_t *text, int64_t n) {
    static const char *const fixed[] = {"[edit]", "[citation needed]"};
    int64_t i = 1;
    while (i < n && c->of[text[i]] & DIGIT) i++;
    if (i < n && text[i] == ']') return i + 1;
    for (int f = 0; f < 2; f++) {
        int64_t size = (int64_t)strlen(fixed[f]);
        for (i = 0; i < size && i < n && text[i] == (uint32_t)fixed[f][i]; i++) {}
        if (i == size) return size;
    }
    return 0;
}

static int holds(const Characters *c, const uint32_t *text, int64_t n, const char *what) {
    int64_t size = (int64_t)strlen(what);
    for (int64_t i = 0; i + size <= n; i++) {
        int64_t k = 0;
        while (k < size && (text[i + k] < LOWERED ? c->lower[text[i + k]] : text[i + k]) == (uint32_t)what[k]) k++;
        if (k == size) return 1;
    }
    return 0;
}

// C4's lines. settings: [remove citations, need a terminal mark, fewest words, longest word, javascript, policy] with -1
// for a number that is off. kept: the lines kept, a line feed between; lows, highs: their bounds there. out: [first line
// with lorem ipsum, with a bracket, lines, kept, too long a word, no terminal mark, too few words, javascript, policy,
// start and end of the kept text when stripped].
void c4_lines(const Characters *c, const uint32_t *text, int64_t n, const int64_t *settings, uint32_t *kept, int64_t *lows,
              int64_t *highs, int64_t *out) {
    static const char *const policy[] = {"terms of use", "privacy policy", "cookie policy",
                                         "uses cookies", "use of cookies", "use cookies"};
    int64_t used = 0;
    memset(out, 0, 11 * sizeof *out);
    for (int64_t at = 0; at < n;) {
        int64_t low = at, high = line_end(c, text, n, &at), words = 0, longest = 0, size = 0;
        int64_t number = ++out[2];
        strip(c, text, &low, &high);
        for (int64_t i = low; i <= high; i++) {
            if (i < high && !(c->of[text[i]] & SPACE)) {
                words += !size++;
                if (size > longest) longest = size;
            } else size = 0;
        }
        if (settings[3] != -1 && longest > settings[3]) {
            out[4]++;
            continue;
        }
        int64_t begin = used + (out[3] > 0), end = begin;
        int brace = 0, l = 0, j = 0, p = 0;  // what could begin a phrase that is looked for
        for (int64_t i = low; i < high;) {
            int64_t skip = settings[0] && text[i] == '[' ? citation(c, text + i, high - i) : 0;
            if (skip) {
                i += skip;
                continue;
            }
            uint32_t x = text[i] < LOWERED ? c->lower[text[i]] : text[i];
            brace |= x == '{', l |= x == 'l', j |= x == 'j', p |= x == 'k' || x == 'p' || x == 'f';
            kept[end++] = text[i++];
        }
        const uint32_t *line = kept + begin;
        size = end - begin;
        if (settings[1]) {
            uint32_t last = size ? line[size - 1] : 0;
            int ended = last == '.' || last == '?' || last == '!' || last == '"' || last == '\'';
            int ellipsis = size > 2 && last == '.' && line[size - 2] == '.' && line[size - 3] == '.';
            if (!ended || ellipsis) {
                out[5]++;
                continue;
            }
        }
        if (words < settings[2]) {
            out[6]++;
            continue;
        }
        if (!out[0] && l && holds(c, line, size, "lorem ipsum")) out[0] = number;
        if (settings[4] && j && holds(c, line, size, "javascript")) {
            out[7]++;
            continue;
        }
        if (!out[1] && brace) out[1] = number;
        int told = 0;
        for (int k = 0; settings[5] && p && k < 6 && !told; k++) told = holds(c, line, size, policy[k]);
        if (told) {
            out[8]++;
            continue;
        }
        if (out[3]) kept[used] = '\n';
        lows[out[3]] = begin, highs[out[3]++] = used = end;
    }
    out[10] = used;
    strip(c, kept, &out[9], &out[10]);
}
