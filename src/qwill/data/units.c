// Hashes of the units of a text (units.split), straight from the text as it was written: unit_hashes.unit_hashes of its
// folded form, bit for bit.
#include <stdint.h>

enum { BETWEEN, WORD, SINGLE, APOSTROPHE };  // classes of unit_hashes.py
#define SLOW 0xFFFFFFFFu                     // of fold.py: a character that is not folded one for one

static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

// folded: the folded code point of each code point. classes: of folded ones. Room for n hashes. Returns their number, or -1
// when a character is SLOW.
int64_t hash_units(const uint32_t *text, int64_t n, const uint32_t *folded, const uint8_t *classes, uint64_t *hashes) {
    int64_t count = 0;
    uint64_t hash = 0, power = 1;
    int open = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t c = folded[text[i]];
        if (c == SLOW) return -1;
        uint8_t class = classes[c];
        if (class == APOSTROPHE) {
            uint32_t next = i + 1 < n ? folded[text[i + 1]] : SLOW;
            class = open && next != SLOW && classes[next] == WORD ? WORD : BETWEEN;
            c = '\'';
        }
        if (class == WORD) {
            hash += c * power, power *= 0x9E3779B97F4A7C15ull, open = 1;
            continue;
        }
        if (open) hashes[count++] = mix(hash), hash = 0, power = 1, open = 0;
        if (class == SINGLE) hashes[count++] = mix(c);
    }
    if (open) hashes[count++] = mix(hash);
    return count;
}
