/* Fingerprints of windows of a text: the inner loops of substrings.py, which defines them.

A text is n code points. The fingerprint of a run of code points c is sum of (c + 1) base^(places to its end) modulo
2^61 - 1 (Karp & Rabin 1987). */

#include <stdint.h>
#include <stdlib.h>

#define PRIME ((1ull << 61) - 1)

static inline uint64_t folded(unsigned __int128 x) {
    uint64_t sum = (uint64_t)(x & PRIME) + (uint64_t)(x >> 61);
    return sum >= PRIME ? sum - PRIME : sum;
}

static inline uint64_t times(uint64_t a, uint64_t b) { return folded((unsigned __int128)a * b); }

static inline uint64_t plus(uint64_t a, uint64_t b) { return a + b >= PRIME ? a + b - PRIME : a + b; }

static uint64_t power(uint64_t base, int64_t n) {
    uint64_t result = 1;
    for (; n; n >>= 1, base = times(base, base))
        if (n & 1) result = times(result, base);
    return result;
}

static inline uint64_t mix(uint64_t z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

/* The anchors of every `window` code points in a row: of the fingerprints of `size` code points in the window, mixed, the
least, and of equal ones the first. An entry for each run of windows with the same anchor: its mixed fingerprint, the
first and the last start of a window. Returns the number of entries, at most n - window + 1; -1 without memory. */
int64_t substring_anchors(const uint32_t *text, int64_t n, int64_t window, int64_t size, uint64_t base, uint64_t *value,
                          int64_t *first, int64_t *last) {
    if (n < window) return 0;
    int64_t width = window - size + 1, count = 0, head = 0, tail = 0, anchor = -1;
    uint64_t out = power(base, size), h = 0;
    /* A queue of places whose values rise, from the least of the window on. */
    uint64_t *values = malloc(sizeof(uint64_t) * width);
    int64_t *places = malloc(sizeof(int64_t) * width);
    if (!values || !places) {
        free(values);
        free(places);
        return -1;
    }
    for (int64_t i = 0; i < n; i++) {
        h = plus(times(h, base), text[i] + 1);
        if (i >= size) h = plus(h, PRIME - times(out, text[i - size] + 1));
        int64_t place = i - size + 1;
        if (place < 0) continue;
        uint64_t here = mix(h);
        if (head < tail && places[head % width] + width <= place) head++;
        while (head < tail && values[(tail - 1) % width] > here) tail--;
        values[tail % width] = here;
        places[tail % width] = place;
        tail++;
        int64_t start = i - window + 1;
        if (start < 0) continue;
        if (places[head % width] != anchor) {
            anchor = places[head % width];
            value[count] = values[head % width];
            first[count] = start;
            count++;
        }
        last[count - 1] = start;
    }
    free(values);
    free(places);
    return count;
}

/* Fingerprints under two bases of the windows of `size` code points that start in [first, last]. */
void substring_windows(const uint32_t *text, int64_t first, int64_t last, int64_t size, uint64_t base, uint64_t other,
                       uint64_t *one_out, uint64_t *other_out) {
    uint64_t out = power(base, size), other_power = power(other, size), h = 0, g = 0;
    for (int64_t i = first; i < last + size; i++) {
        h = plus(times(h, base), text[i] + 1);
        g = plus(times(g, other), text[i] + 1);
        if (i >= first + size) {
            h = plus(h, PRIME - times(out, text[i - size] + 1));
            g = plus(g, PRIME - times(other_power, text[i - size] + 1));
        }
        int64_t start = i - size + 1;
        if (start >= first) {
            one_out[start - first] = h;
            other_out[start - first] = g;
        }
    }
}
