/* MinHash signatures: the inner loops of minhash.py, which defines them.

Every function takes documents one after another: document d owns the entries offsets[d] to offsets[d + 1]. */

#include <stdint.h>
#include <string.h>

#define PRIME ((1ull << 61) - 1)
#define LANES 16 /* hash functions that share a pass over the shingles, their least values in registers */
#define BLOCK 512 /* shingles hashed ahead: they stay in the first cache */

static const uint64_t P1 = 0x9E3779B185EBCA87ull, P2 = 0xC2B2AE3D27D4EB4Full, P3 = 0x165667B19E3779F9ull;
static const uint64_t P4 = 0x85EBCA77C2B2AE63ull, P5 = 0x27D4EB2F165667C5ull;

static inline uint64_t rotated(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }

static inline uint64_t word64(const uint8_t *p) {
    uint64_t x;
    memcpy(&x, p, 8);
    return x; /* little endian, as every processor that Qwill's kernels are compiled for */
}

static inline uint32_t word32(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

static inline uint64_t round64(uint64_t sum, uint64_t input) { return rotated(sum + input * P2, 31) * P1; }

static inline uint64_t merge64(uint64_t sum, uint64_t part) { return (sum ^ round64(0, part)) * P1 + P4; }

/* XXH64 with seed 0 (Collet, the xxHash specification 0.1.1). */
static uint64_t xxh64(const uint8_t *p, int64_t length) {
    const uint8_t *end = p + length;
    uint64_t h;
    if (length >= 32) {
        uint64_t v1 = P1 + P2, v2 = P2, v3 = 0, v4 = 0 - P1;
        for (; end - p >= 32; p += 32) {
            v1 = round64(v1, word64(p));
            v2 = round64(v2, word64(p + 8));
            v3 = round64(v3, word64(p + 16));
            v4 = round64(v4, word64(p + 24));
        }
        h = rotated(v1, 1) + rotated(v2, 7) + rotated(v3, 12) + rotated(v4, 18);
        h = merge64(merge64(merge64(merge64(h, v1), v2), v3), v4);
    } else {
        h = P5;
    }
    h += (uint64_t)length;
    for (; end - p >= 8; p += 8) h = rotated(h ^ round64(0, word64(p)), 27) * P1 + P4;
    if (end - p >= 4) {
        h = rotated(h ^ word32(p) * P1, 23) * P2 + P3;
        p += 4;
    }
    for (; p < end; p++) h = rotated(h ^ *p * P5, 11) * P1;
    h = (h ^ h >> 33) * P2;
    h = (h ^ h >> 29) * P3;
    return h ^ h >> 32;
}

/* A text of n code points simplified: each becomes table[c], or one of these. Returns the length, or -1 where a
character is not one for one, so that the text has to be simplified otherwise. */
enum { DROPPED = 0x110000, SPACE, DIGIT, OTHERWISE };

static int is_decimal_mark(uint32_t c) {
    return c == '.' || c == ',' || c == 0x60C || c == 0x66B || (c >= 0x2396 && c <= 0x2398);
}

int64_t minhash_simplify(const uint32_t *text, int64_t n, const uint32_t *table, uint32_t *out) {
    int64_t length = 0, first = 0, i = 0;
    int spaced = 0; /* a mark between two spaces goes after they could have become one */
    while (i < n) {
        uint32_t to = table[text[i]];
        if (to == OTHERWISE) return -1;
        if (to == DIGIT) {
            while (i < n && table[text[i]] == DIGIT) i++;
            if (i + 1 < n && is_decimal_mark(text[i]) && table[text[i + 1]] == DIGIT)
                for (i++; i < n && table[text[i]] == DIGIT;) i++;
            out[length++] = '0';
            spaced = 0;
            continue;
        }
        i++;
        if (to == SPACE) {
            if (!spaced) out[length++] = ' ';
            spaced = 1;
        } else {
            if (to != DROPPED) out[length++] = to;
            spaced = 0;
        }
    }
    while (length && out[length - 1] == ' ') length--;
    while (first < length && out[first] == ' ') first++;
    memmove(out, out + first, sizeof *out * (length - first));
    return length - first;
}

static inline uint8_t *utf8(uint32_t c, uint8_t *out) {
    if (c < 0x80) {
        *out++ = c;
    } else if (c < 0x800) {
        *out++ = 0xC0 | c >> 6;
        *out++ = 0x80 | (c & 63);
    } else if (c < 0x10000) {
        *out++ = 0xE0 | c >> 12;
        *out++ = 0x80 | (c >> 6 & 63);
        *out++ = 0x80 | (c & 63);
    } else {
        *out++ = 0xF0 | c >> 18;
        *out++ = 0x80 | (c >> 12 & 63);
        *out++ = 0x80 | (c >> 6 & 63);
        *out++ = 0x80 | (c & 63);
    }
    return out;
}

/* Hashes of the n-grams of words, joined by a space, as UTF-8: word w is points[starts[w] .. ends[w]). `text` has room
for 4 bytes a character and one a word, `begin` and `end` for a place a word; `out` takes the n-grams of all documents
one after another. */
void minhash_ngrams(const uint32_t *points, const int64_t *starts, const int64_t *ends, const int64_t *offsets,
                    int64_t documents, int64_t n, uint8_t *text, int64_t *begin, int64_t *end, uint64_t *out) {
    for (int64_t d = 0; d < documents; d++) {
        uint8_t *at = text; /* a document's text over the one before, which stays in the cache */
        int64_t words = offsets[d + 1] - offsets[d];
        for (int64_t w = 0; w < words; w++) {
            begin[w] = at - text;
            for (int64_t i = starts[offsets[d] + w]; i < ends[offsets[d] + w]; i++) at = utf8(points[i], at);
            end[w] = at - text;
            *at++ = ' ';
        }
        for (int64_t w = 0; w + n <= words; w++) *out++ = xxh64(text + begin[w], end[w + n - 1] - begin[w]);
    }
}

/* The least of (x a + b mod 2^64) mod (2^61 - 1) over a document's shingles x, for each of `count` pairs (a, b). */
void minhash_exact(const uint64_t *shingles, const int64_t *offsets, int64_t documents, const uint64_t *a,
                   const uint64_t *b, int64_t count, uint64_t *out) {
    for (int64_t d = 0; d < documents; d++, out += count)
        for (int64_t k = 0; k < count; k += LANES) {
            uint64_t least[LANES], times[LANES] = {0}, plus[LANES] = {0};
            int64_t lanes = count - k < LANES ? count - k : LANES;
            memcpy(times, a + k, 8 * lanes);
            memcpy(plus, b + k, 8 * lanes);
            for (int j = 0; j < LANES; j++) least[j] = UINT64_MAX;
            for (int64_t s = offsets[d]; s < offsets[d + 1]; s++)
                for (int j = 0; j < LANES; j++) {
                    uint64_t v = shingles[s] * times[j] + plus[j];
                    uint64_t r = (v & PRIME) + (v >> 61); /* below 2^61 + 7: at most one prime too many */
                    uint64_t less = r - PRIME;            /* wraps to something large where r is small enough */
                    r = less < r ? less : r;
                    least[j] = r < least[j] ? r : least[j];
                }
            memcpy(out + k, least, 8 * lanes);
        }
}

static inline uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

/* One hash a word of the values of its letters (values[0x110000]), 0 where none has one; digits in a row count once. */
void minhash_words(const uint32_t *points, const int64_t *starts, const int64_t *ends, int64_t words,
                   const uint64_t *values, uint64_t *out) {
    uint64_t digit = values['0'];
    for (int64_t w = 0; w < words; w++) {
        uint64_t h = 0, last = 0;
        for (int64_t i = starts[w]; i < ends[w]; i++) {
            uint64_t value = values[points[i]];
            if (!value || (value == digit && last == digit)) continue;
            h = (h ^ value) * 0x9E3779B97F4A7C15ull;
            last = value;
        }
        out[w] = last ? mix(h) | 1 : 0;
    }
}

/* The least of x a + b mod 2^32 over a document's shingles, x being the upper half of the hash of n word hashes. */
void minhash_fast(const uint64_t *words, const int64_t *offsets, int64_t documents, int64_t n, const uint32_t *a,
                  const uint32_t *b, int64_t count, uint32_t *out) {
    uint32_t shingles[BLOCK];
    for (int64_t d = 0; d < documents; d++, out += count) {
        int64_t last = offsets[d + 1] - n + 1;
        memset(out, 0xFF, 4 * count);
        for (int64_t first = offsets[d]; first < last; first += BLOCK) {
            int64_t size = last - first < BLOCK ? last - first : BLOCK;
            for (int64_t s = 0; s < size; s++) {
                uint64_t h = words[first + s];
                for (int64_t j = 1; j < n; j++) h = h * 0x9E3779B97F4A7C15ull + words[first + s + j];
                shingles[s] = (uint32_t)(mix(h) >> 32);
            }
            for (int64_t k = 0; k < count; k += LANES) {
                uint32_t least[LANES], times[LANES] = {0}, plus[LANES] = {0};
                int64_t lanes = count - k < LANES ? count - k : LANES;
                memset(least, 0xFF, sizeof least);
                memcpy(least, out + k, 4 * lanes);
                memcpy(times, a + k, 4 * lanes);
                memcpy(plus, b + k, 4 * lanes);
                for (int64_t s = 0; s < size; s++)
                    for (int j = 0; j < LANES; j++) {
                        uint32_t v = shingles[s] * times[j] + plus[j];
                        least[j] = v < least[j] ? v : least[j];
                    }
                memcpy(out + k, least, 4 * lanes);
            }
        }
    }
}
