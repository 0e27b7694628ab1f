// Quantised weights from their order in memory (model/packed.py) to the panels of codes.h.
#include <stdint.h>
#include <string.h>

#define WIDE 32  // as in codes.h
#define SPAN 32

// The row of the weights that is row l of panel p, or −1. With `half`, 16 rows of gate and the same 16 of up.
static int64_t row_of(int64_t p, int64_t l, int64_t columns, int64_t half) {
    int64_t row = half ? p * (WIDE / 2) + l % (WIDE / 2) : p * WIDE + l;
    if (row >= (half ? half : columns)) return -1;
    return row + (half && l >= WIDE / 2 ? half : 0);
}

// Four nibbles to the low halves of four bytes
static uint32_t spread(uint32_t x) {
    x = (x | x << 8) & 0x00ff00ff;
    return (x | x << 4) & 0x0f0f0f0f;
}

// `values` [columns, k]: int8, or with 4 bits two neighbours to a byte, the first in its low half, each plus 8.
void lay_codes(const uint8_t *values, int64_t columns, int64_t k, int64_t bits, int64_t half, int64_t panels,
               uint32_t *out, int threads) {
    int64_t groups = (k + SPAN - 1) / SPAN, words = groups * SPAN / (bits == 8 ? 4 : 8), row_bytes = (k * bits + 7) / 8;
    uint32_t none = bits == 8 ? 0x80808080 : 0x88888888;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t p = 0; p < panels; p++)
        for (int64_t l = 0; l < WIDE; l++) {
            int64_t row = row_of(p, l, columns, half);
            uint32_t *to = out + p * words * WIDE + l;
            for (int64_t i = 0; i < words; i++) {
                uint32_t word = none;
                if (row >= 0 && i * 4 < row_bytes) {
                    int64_t left = row_bytes - i * 4;
                    word = bits == 8 ? 0 : none;
                    memcpy(&word, values + row * row_bytes + i * 4, left < 4 ? left : 4);
                    if (bits == 8) word ^= 0x80808080;
                    else word = spread(word & 0xffff) | spread(word >> 16) << 4;
                }
                to[i * WIDE] = word;
            }
        }
}
