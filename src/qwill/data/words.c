// Chunks of a text and the words inside them, from a memo. What a chunk's words are is defined in affix_words.py: a chunk
// that the memo lacks is told to the caller, who adds it; the plainest ones (letters or digits with at most one mark
// before and one after) are cut here.
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

// Marks of a word: kind for the sentences (0 other, 1 ends one, 2 further punctuation), a space after it, white space.
enum { KIND = 3, SPACE_AFTER = 4, BLANK = 8 };
// Flags of a chunk: a special case of its own; the search for special cases over the words changes it.
enum { CASE = 1, CHANGES = 2 };

typedef struct {
    uint64_t hash;
    uint32_t chars, length, words, count, flags;
} Entry;

typedef struct {
    Entry *table;
    uint64_t mask, used;
    uint32_t *chars, n_chars, room_chars;
    uint32_t *words, n_words, room_words;  // end in the chunk · 4 + kind
    int plain;
    uint8_t blank[0x3001];
} Memo;

static inline uint64_t mixed(uint64_t h, uint32_t c) { return (h ^ c) * 0x9E3779B97F4A7C15ull; }
static inline uint64_t finish(uint64_t h) { return h ^ (h >> 29); }

static uint64_t hash_of(const uint32_t *chars, int64_t n) {
    uint64_t h = 1469598103934665603ull;
    for (int64_t i = 0; i < n; i++) h = mixed(h, chars[i]);
    return finish(h);
}

static Entry *find(const Memo *m, uint64_t hash, const uint32_t *chars, int64_t n) {
    for (uint64_t i = hash & m->mask;; i = (i + 1) & m->mask) {
        Entry *e = &m->table[i];
        if (!e->count) return NULL;
        if (e->hash == hash && e->length == n && !memcmp(m->chars + e->chars, chars, n * sizeof *chars)) return e;
    }
}

static inline int is_blank(const Memo *m, uint32_t c) { return c < 0x3001 && m->blank[c]; }

static void rebuild(Memo *m, uint64_t size) {
    Entry *old = m->table;
    uint64_t n = old ? m->mask + 1 : 0;
    m->table = calloc(size, sizeof(Entry));
    m->mask = size - 1;
    for (uint64_t k = 0; k < n; k++)
        if (old[k].count) {
            uint64_t i = old[k].hash & m->mask;
            while (m->table[i].count) i = (i + 1) & m->mask;
            m->table[i] = old[k];
        }
    free(old);
}

// `plain`: whether chunks that are plain by the tables of the English rule are plain by this one.
Memo *memo_new(const uint32_t *blanks, int64_t n, int64_t plain) {
    Memo *m = calloc(1, sizeof(Memo));
    m->plain = (int)plain;
    for (int64_t i = 0; i < n; i++) m->blank[blanks[i]] = 1;
    rebuild(m, 1 << 15);
    return m;
}

void memo_free(Memo *m) {
    free(m->table);
    free(m->chars);
    free(m->words);
    free(m);
}

// About the bytes that it takes.
int64_t memo_size(const Memo *m) {
    return (int64_t)((m->mask + 1) * sizeof(Entry)) + 4 * ((int64_t)m->room_chars + m->room_words);
}

static uint32_t *reserve(uint32_t **pool, uint32_t *used, uint32_t *room, uint32_t n) {
    if (*used + n > *room) {
        while (*used + n > *room) *room = *room ? 2 * *room : 1 << 16;
        *pool = realloc(*pool, *room * sizeof **pool);
    }
    *used += n;
    return *pool + *used - n;
}

static Entry *add(Memo *m, uint64_t hash, const uint32_t *chars, int64_t n, const uint32_t *words, int64_t count, uint32_t flags) {
    if (2 * ++m->used > m->mask) rebuild(m, 2 * (m->mask + 1));
    uint64_t i = hash & m->mask;
    while (m->table[i].count) i = (i + 1) & m->mask;
    Entry *e = &m->table[i];
    memcpy(reserve(&m->chars, &m->n_chars, &m->room_chars, n), chars, n * sizeof *chars);
    memcpy(reserve(&m->words, &m->n_words, &m->room_words, count), words, count * sizeof *words);
    *e = (Entry){hash, m->n_chars - (uint32_t)n, (uint32_t)n, m->n_words - (uint32_t)count, (uint32_t)count, flags};
    return e;
}

void memo_add(Memo *m, const uint32_t *chars, int64_t n, const uint32_t *words, int64_t count, int64_t flags) {
    uint64_t h = hash_of(chars, n);
    if (!find(m, h, chars, n)) add(m, h, chars, n, words, count, (uint32_t)flags);
}

static inline int is_letter(uint32_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
static inline int is_digit(uint32_t c) { return c >= '0' && c <= '9'; }
static inline int is_mark(uint32_t c) {
    return c == ',' || c == ';' || c == ':' || c == '!' || c == '?' || c == ')' || c == ']' || c == '"' || c == 0x201D;
}

// Length of the suffix of a plain chunk's rest; -1 where its tables would have to be asked.
static int64_t plain_suffix(const uint32_t *chars, int64_t low, int64_t high) {
    int64_t n = high - low;
    if (n <= 0) return 0;
    uint32_t last = chars[high - 1], before = n > 1 ? chars[high - 2] : 0, third = n > 2 ? chars[high - 3] : 0;
    if (is_mark(last)) return 1;
    if (is_digit(last)) return 0;
    if (is_letter(last)) {
        if ((last == 's' || last == 'S') && (before == '\'' || before == 0x2019)) return 2;
        for (int64_t i = low; i < high; i++)
            if (is_digit(chars[i])) return -1;  // perhaps a unit
        return 0;
    }
    if (last == '.' && n > 1) {
        int upper = before >= 'A' && before <= 'Z', lower = before >= 'a' && before <= 'z';
        if (lower || is_digit(before) || before == '%' || (is_mark(before) && before != ':' && before != ';')) return 1;
        return upper && third >= 'A' && third <= 'Z' ? 1 : -1;
    }
    return last == '%' && is_digit(before) ? 1 : -1;
}

// Whether two suffixes one after the other, by their last characters, are no part of a special case such as `):`.
static int plain_pair(uint32_t inner, uint32_t outer) {
    switch (inner) {
    case ')': case ']': return outer == ',' || outer == '.' || outer == '"' || outer == 0x201D;
    case '"': case 0x201D: return outer == ',' || outer == '.' || outer == ')' || outer == '?' || outer == '!';
    case '.': case ',': case '?': case '!': return outer == '"' || outer == 0x201D || (outer == ')' && inner != ',');
    case '%': return outer == ',' || outer == '.' || outer == ')';
    case 's': case 'S': return outer == ',' || outer == '.' || outer == '"' || outer == '?' || outer == '!';
    }
    return 0;
}

// The words of what is left of a plain chunk between its marks: letters, perhaps with hyphens inside; letters and digits
// that end in a digit; a number. 0 for anything else.
static int64_t plain_middle(const uint32_t *chars, int64_t low, int64_t high, uint32_t *words, int64_t most) {
    int letters = 1, mixed = 1, number = is_digit(chars[low]) && is_digit(chars[high - 1]), dots = 0;
    int64_t n = 0;
    for (int64_t i = low; i < high; i++) {
        uint32_t c = chars[i];
        int between = i > low && i + 1 < high;
        letters &= is_letter(c) || (c == '-' && between && is_letter(chars[i - 1]) && is_letter(chars[i + 1]));
        mixed &= is_letter(c) || is_digit(c);
        number &= is_digit(c) || ((c == '.' || c == ',') && between && is_digit(chars[i - 1]) && is_digit(chars[i + 1]));
        dots += c == '.';
    }
    if ((mixed && is_digit(chars[high - 1])) || (number && dots < 3)) {
        words[0] = (uint32_t)high << 2;
        return 1;
    }
    if (!letters) return 0;
    for (int64_t i = low; i < high; i++)
        if (chars[i] == '-') {
            if (n + 3 > most) return 0;
            words[n++] = (uint32_t)i << 2, words[n++] = (uint32_t)(i + 1) << 2 | 2;
        }
    words[n++] = (uint32_t)high << 2;
    return n;
}

static const Entry *special(const Memo *m, const uint32_t *chars, int64_t low, int64_t high) {
    const Entry *e = low < high ? find(m, hash_of(chars + low, high - low), chars + low, high - low) : NULL;
    return e && e->flags & CASE ? e : NULL;
}

// The entry of a plain chunk, cut as affix_words.cut_chunk does, with one mark before and two after at most; NULL for any
// other, and for those with a special case of several words: `Thered.` is There, d, `.`, and d and `.` are one again.
static Entry *plain(Memo *m, uint64_t hash, const uint32_t *chars, int64_t n) {
    uint32_t words[64], suffix[2];
    int64_t low = 0, high = n, count = 0, cut = 0;
    const Entry *found;
    for (;;) {
        if (low >= high) return NULL;
        if ((found = special(m, chars, low, high))) break;
        uint32_t first = chars[low];
        int64_t pre = first == '(' || first == '[' || first == '"' || first == 0x201C || first == '$';
        if ((pre && low) || !(pre || is_letter(first) || is_digit(first))) return NULL;
        if (pre && (found = special(m, chars, low + 1, high))) {
            low++;
            break;
        }
        int64_t after = plain_suffix(chars, low + pre, high);
        if (after < 0) return NULL;
        if (!pre && !after) break;
        if (after) {
            if (cut == 2 || (cut && !plain_pair(chars[high - 1], chars[suffix[0] - 1]))) return NULL;
            suffix[cut++] = (uint32_t)high;
            found = special(m, chars, low, high - after);
            high -= after;
            if (found) break;
        }
        low += pre;
    }
    if (found && found->count > 1) return NULL;
    if (low) words[count++] = (uint32_t)low << 2 | (chars[0] == '$' ? 0 : 2);
    if (found) words[count++] = ((uint32_t)high << 2) | (m->words[found->words] & KIND);
    else {
        int64_t inside = plain_middle(chars, low, high, words + count, 56);
        if (!inside) return NULL;
        if (inside > 1) {
            // The word before the first hyphen or after the last may make a special case with its mark: `A-z.`
            int64_t first = words[count] >> 2, last = words[count + inside - 2] >> 2;
            if (special(m, chars, 0, first) || (cut && special(m, chars, last, suffix[cut - 1]))) return NULL;
        }
        count += inside;
    }
    while (cut--) {
        uint32_t last = chars[suffix[cut] - 1];
        int kind = is_letter(last) ? 0 : last == '.' || last == '!' || last == '?' ? 1 : 2;
        words[count++] = suffix[cut] << 2 | kind;
    }
    return add(m, hash, chars, n, words, count, 0);
}

// The words of text[low:high] into starts, ends and marks (room for as many as there are characters). Returns their
// number, white space included. missing: pairs (start, end) of chunks that the memo lacks (at most `most` of them, -1 is
// returned if there is any, *n_missing their number). *changes: chunks that the last search for special cases changes.
static int64_t cut(Memo *m, const uint32_t *text, int64_t low, int64_t high, int32_t *starts, int32_t *ends, uint8_t *marks,
                   int64_t *missing, int64_t most, int64_t *n_missing, int64_t *changes) {
    int64_t n = 0, at = low;
    while (at < high) {
        int64_t start = at;
        if (is_blank(m, text[at])) {
            while (at < high && is_blank(m, text[at])) at++;
            if (start > low && text[start] == ' ') {
                if (n) marks[n - 1] |= SPACE_AFTER;
                start++;
            }
            if (start < at) starts[n] = (int32_t)start, ends[n] = (int32_t)at, marks[n++] = BLANK;
            continue;
        }
        uint64_t h = 1469598103934665603ull;
        while (at < high && !is_blank(m, text[at])) h = mixed(h, text[at++]);
        h = finish(h);
        Entry *e = find(m, h, text + start, at - start);
        if (!e && m->plain) e = plain(m, h, text + start, at - start);
        if (!e) {
            if (*n_missing < most) missing[2 * *n_missing] = start, missing[2 * *n_missing + 1] = at;
            ++*n_missing;
            continue;
        }
        *changes += (e->flags & CHANGES) != 0;
        int64_t from = start;
        for (const uint32_t *w = m->words + e->words, *stop = w + e->count; w < stop; w++) {
            starts[n] = (int32_t)from, from = start + (*w >> 2), ends[n] = (int32_t)from, marks[n++] = *w & KIND;
        }
    }
    return *n_missing ? -1 : n;
}

// Sentences of words with their marks, at least 1.
int64_t sentences(const uint8_t *marks, int64_t n) {
    int64_t count = 1;
    int ended = 0;
    for (int64_t i = 0; i < n; i++) {
        int kind = marks[i] & KIND;
        if (kind == 1) ended = 1;
        else if (ended && kind != 2) count++, ended = 0;
    }
    return count;
}

// The words of the pieces text[lows[i]:highs[i]], one after another. out: [words without white space, words with it,
// sentences summed over the pieces, missing chunks, chunks that the last search changes]. Only when nothing is missing
// and no chunk changes are starts and ends without white space.
void words_of(Memo *m, const uint32_t *text, const int64_t *lows, const int64_t *highs, int64_t pieces, int32_t *starts,
              int32_t *ends, uint8_t *marks, int64_t *missing, int64_t most, int64_t *out) {
    int64_t n = 0, counted = 0, lacking = 0, changes = 0;
    for (int64_t i = 0; i < pieces; i++) {
        int64_t got = cut(m, text, lows[i], highs[i], starts + n, ends + n, marks + n, missing, most, &lacking, &changes);
        if (got >= 0) counted += sentences(marks + n, got), n += got;
    }
    out[1] = n, out[2] = counted, out[3] = lacking, out[4] = changes;
    if (lacking || changes) return;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (!(marks[i] & BLANK)) starts[kept] = starts[i], ends[kept] = ends[i], marks[kept++] = marks[i];
    out[0] = kept;
}
