// Block formats of GGML to float32, a copy of the definitions in ggml_blocks.py. Every product of a half, a six- or
// eight-bit scale and a few-bit value is exact in float32 (but Q6_K's, rounded once), so both give the same bits.

#include <stdint.h>
#include <string.h>

static inline float half(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, 2);
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = (uint32_t)(h & 0x7fff) << 13, bits;
    if (rest >= 0x0f800000) {
        bits = sign | 0x7f800000 | (rest & 0x007fffff);
        if (rest & 0x007fffff) bits |= 0x00400000;  // quiet, as NumPy and the processor make it
    } else if (rest >= 0x00800000) {
        bits = sign | (rest + 0x38000000);
    } else {
        float small = (float)(h & 0x3ff) * 0x1p-24f;
        memcpy(&bits, &small, 4);
        bits |= sign;
    }
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

static void q8_0(const uint8_t *b, float *y) {
    float d = half(b);
    const int8_t *q = (const int8_t *)(b + 2);
    for (int j = 0; j < 32; j++) y[j] = (float)q[j] * d;
}

static void q4_0(const uint8_t *b, float *y) {
    float d = half(b);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)((b[2 + j] & 15) - 8) * d;
        y[j + 16] = (float)((b[2 + j] >> 4) - 8) * d;
    }
}

static void q4_1(const uint8_t *b, float *y) {
    float d = half(b), m = half(b + 2);
    for (int j = 0; j < 16; j++) {
        y[j] = (float)(b[4 + j] & 15) * d + m;
        y[j + 16] = (float)(b[4 + j] >> 4) * d + m;
    }
}

static void q4_k(const uint8_t *b, float *y) {
    float d = half(b), m = half(b + 2);
    const uint8_t *s = b + 4, *q = b + 16;
    for (int g = 0; g < 8; g++) {
        int scale, least;
        if (g < 4) {
            scale = s[g] & 63;
            least = s[g + 4] & 63;
        } else {
            scale = (s[g + 4] & 15) | (s[g - 4] >> 6 << 4);
            least = (s[g + 4] >> 4) | (s[g] >> 6 << 4);
        }
        float ds = (float)scale * d, dm = (float)least * m;
        int shift = 4 * (g & 1);
        for (int j = 0; j < 32; j++) y[32 * g + j] = (float)(q[32 * (g / 2) + j] >> shift & 15) * ds - dm;
    }
}

static void q6_k(const uint8_t *b, float *y) {
    float d = half(b + 208);
    const uint8_t *low = b, *high = b + 128;
    const int8_t *s = (const int8_t *)(b + 192);
    for (int n = 0; n < 2; n++)
        for (int part = 0; part < 4; part++)
            for (int l = 0; l < 32; l++) {
                int q = (low[64 * n + 32 * (part & 1) + l] >> 4 * (part / 2) & 15) | (high[32 * n + l] >> 2 * part & 3) << 4;
                y[128 * n + 32 * part + l] = (float)(q - 32) * ((float)s[8 * n + 2 * part + l / 16] * d);
            }
}

// Blocks are read from `from`, one after the other; `to` gets their weights.
#define EACH(name, bytes, weights)                                                       \
    void dequantize_##name(const uint8_t *from, float *to, int64_t blocks, int threads) { \
        _Pragma("omp parallel for num_threads(threads) schedule(static) if (blocks > 4096)") \
        for (int64_t i = 0; i < blocks; i++) name(from + i * bytes, to + i * weights);   \
    }

EACH(q8_0, 34, 32)
EACH(q4_0, 18, 32)
EACH(q4_1, 20, 32)
EACH(q4_k, 144, 256)
EACH(q6_k, 210, 256)

// Blocks of Q8_0, Q4_0 and Q4_1 taken apart: codes as in packed.py, scales and minima (halves) in arrays of their own
static void open_nibbles(const uint8_t *q, uint8_t *to) {
    for (int j = 0; j < 8; j++) {  // a byte of GGML holds codes j and j + 16, one of ours two neighbours
        to[j] = (q[2 * j] & 15) | (uint8_t)(q[2 * j + 1] << 4);
        to[8 + j] = q[2 * j] >> 4 | (q[2 * j + 1] & 0xf0);
    }
}

void take_apart(const uint8_t *from, int64_t bits, int64_t minima, uint8_t *values, uint8_t *scale, uint8_t *minimum,
                int64_t blocks, int threads) {
    int64_t header = minima ? 4 : 2, size = 4 * bits;
#pragma omp parallel for num_threads(threads) schedule(static) if (blocks > 4096)
    for (int64_t i = 0; i < blocks; i++) {
        const uint8_t *b = from + i * (header + size);
        memcpy(scale + 2 * i, b, 2);
        if (minima) memcpy(minimum + 2 * i, b + 2, 2);
        if (bits == 8) memcpy(values + i * size, b + header, size);
        else open_nibbles(b + header, values + i * size);
    }
}
