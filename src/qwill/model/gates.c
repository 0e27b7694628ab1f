// What surrounds the gated delta rule: the causal convolution with SiLU before it and the gated norm after it, forward
// and backward; float32 on a CPU. Definitions: delta.py.
// Results are the same for the same number of threads: tasks are dealt in turn, partial sums added in thread order.
// Letters: C channels, W filter width, H heads, V head size; filters are transposed, [W][C], the latest input's last.
#include <omp.h>
#include <stdlib.h>
#include "rows.h"

#define TOKENS 32     // of a task: its inputs stay in the cache while channels go by
#define CHANNELS 256  // at a time
#define SMALL 16384   // floats; below this a second thread costs more than it brings

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_f(-x)); }

// The input of a channel block `back` tokens before token t of the sequence that begins at `first`: an earlier token's,
// from the state, or nothing (NULL)
INLINE const float *input(const float *x, const float *state, int64_t first, int64_t t, int64_t back, int64_t past,
                          int64_t C, int64_t x_step) {
    if (t >= back) return x + (first + t - back) * x_step;
    return state ? state + (past + t - back) * C : NULL;
}

// z[0, width) of token t: the convolution before SiLU, for channels from c on
INLINE void convolve(const float *x, const float *state, const float *filter, int64_t first, int64_t t, int64_t W,
                     int64_t C, int64_t x_step, int64_t c, int64_t width, float *z) {
    memset(z, 0, sizeof(float) * width);
    for (int64_t back = 0; back < W; back++) {
        const float *from = input(x, state, first, t, back, W - 1, C, x_step), *w = filter + (W - 1 - back) * C + c;
        if (!from) break;
#pragma omp simd
        for (int64_t j = 0; j < width; j++) z[j] += w[j] * from[c + j];
    }
}

// y[N, C] of x[N, C] (tokens x_step apart); state[R, W − 1, C], before each sequence, may be NULL
void conv_silu_forward(const float *x, const float *filter, const int32_t *borders, const float *state,
                       int64_t sequences, int64_t W, int64_t C, int64_t x_step, float *y, int threads) {
#pragma omp parallel num_threads(threads) if (borders[sequences] * C > SMALL)
    {
        int64_t mine = omp_get_thread_num(), all = omp_get_num_threads(), task = 0;
        for (int64_t s = 0; s < sequences; s++)
            for (int64_t start = borders[s]; start < borders[s + 1]; start += TOKENS) {
                if (task++ % all != mine) continue;
                for (int64_t c = 0; c < C; c += CHANNELS)
                    for (int64_t n = start; n < least(start + TOKENS, borders[s + 1]); n++) {
                        int64_t width = least(CHANNELS, C - c);
                        float *out = y + n * C + c;
                        convolve(x, state ? state + s * (W - 1) * C : NULL, filter, borders[s], n - borders[s], W, C,
                                 x_step, c, width, out);
#pragma omp simd
                        for (int64_t j = 0; j < width; j++) out[j] *= sigmoid(out[j]);
                    }
            }
    }
}

// d_x[N, C], d_filter[W][C] and, unless NULL, d_state[R, W − 1, C]; `part` holds threads × W·C floats
void conv_silu_backward(const float *x, const float *filter, const int32_t *borders, const float *state,
                        const float *d_y, int64_t sequences, int64_t W, int64_t C, int64_t x_step, float *d_x,
                        float *d_filter, float *d_state, float *part, int threads) {
    memset(part, 0, sizeof(float) * threads * W * C);
    if (d_state) memset(d_state, 0, sizeof(float) * sequences * (W - 1) * C);
#pragma omp parallel num_threads(threads) if (borders[sequences] * C > SMALL)
    {
        int64_t mine = omp_get_thread_num(), all = omp_get_num_threads(), task = 0;
        float *d_z = malloc(sizeof(float) * (TOKENS + W - 1) * CHANNELS), *sums = part + mine * W * C;
        for (int64_t s = 0; s < sequences; s++)
            for (int64_t start = borders[s]; start < borders[s + 1]; start += TOKENS) {
                if (task++ % all != mine) continue;
                const float *past = state ? state + s * (W - 1) * C : NULL;
                int64_t stop = least(start + TOKENS, borders[s + 1]), seen = least(stop + W - 1, borders[s + 1]);
                for (int64_t c = 0; c < C; c += CHANNELS) {
                    int64_t width = least(CHANNELS, C - c);
                    // The tokens after this task's see its inputs too, so their d_z is made here once more.
                    for (int64_t n = start; n < seen; n++) {
                        float *d = d_z + (n - start) * CHANNELS;
                        const float *d_out = d_y + n * C + c;
                        convolve(x, past, filter, borders[s], n - borders[s], W, C, x_step, c, width, d);
#pragma omp simd
                        for (int64_t j = 0; j < width; j++) {
                            float sig = sigmoid(d[j]);
                            d[j] = d_out[j] * sig * (1.0f + d[j] * (1.0f - sig));
                        }
                    }
                    for (int64_t n = start; n < stop; n++) {
                        float *out = d_x + n * C + c;
                        memset(out, 0, sizeof(float) * width);
                        for (int64_t ahead = 0; ahead < W && n + ahead < seen; ahead++) {
                            const float *d = d_z + (n + ahead - start) * CHANNELS, *w = filter + (W - 1 - ahead) * C + c;
#pragma omp simd
                            for (int64_t j = 0; j < width; j++) out[j] += w[j] * d[j];
                        }
                    }
                    for (int64_t back = 0; back < W; back++) {
                        const float *w = filter + (W - 1 - back) * C + c;
                        float *sum = sums + (W - 1 - back) * C + c;
                        for (int64_t n = start; n < stop; n++) {
                            int64_t t = n - borders[s];
                            const float *d = d_z + (n - start) * CHANNELS;
                            const float *from = input(x, past, borders[s], t, back, W - 1, C, x_step);
                            if (!from) continue;
#pragma omp simd
                            for (int64_t j = 0; j < width; j++) sum[j] += d[j] * from[c + j];
                            if (t >= back || !d_state) continue;
                            float *out = d_state + (s * (W - 1) + W - 1 + t - back) * C + c;
                            // Only a sequence's first W − 1 tokens come here, all of one task.
#pragma omp simd
                            for (int64_t j = 0; j < width; j++) out[j] += d[j] * w[j];
                        }
                    }
                }
            }
        free(d_z);
    }
    for (int64_t j = 0; j < W * C; j++) {
        d_filter[j] = 0;
        for (int t = 0; t < threads; t++) d_filter[j] += part[t * W * C + j];
    }
}

// y = o / rms(o) · w · silu(z), rows of V; z's tokens, of H rows each, are z_step apart
void gated_norm_forward(const float *o, const float *z, const float *w, float eps, int64_t n, int64_t H, int64_t V,
                        int64_t z_step, float *y, float *rstd, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (n * H * V > SMALL)
    for (int64_t i = 0; i < n * H; i++) {
        const float *gate = z + i / H * z_step + i % H * V;
        float *out = y + i * V;
        rstd[i] = normalise(o + i * V, w, eps, V, out);
#pragma omp simd
        for (int64_t j = 0; j < V; j++) out[j] *= gate[j] * sigmoid(gate[j]);
    }
}

// `part` holds threads × 2V floats
void gated_norm_backward(const float *d_y, const float *o, const float *z, const float *w, const float *rstd, int64_t n,
                         int64_t H, int64_t V, int64_t z_step, float *d_o, float *d_z, float *d_w, float *part,
                         int threads) {
    memset(part, 0, sizeof(float) * threads * 2 * V);
#pragma omp parallel num_threads(threads) if (n * H * V > SMALL)
    {
        float *sums = part + omp_get_thread_num() * 2 * V, *d_normed = sums + V;
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n * H; i++) {
            const float *x = o + i * V, *gate = z + i / H * z_step + i % H * V, *d = d_y + i * V;
            float r = rstd[i], dot = 0;
#pragma omp simd reduction(+ : dot)
            for (int64_t j = 0; j < V; j++) {
                float sig = sigmoid(gate[j]), act = gate[j] * sig, normed = x[j] * r;
                sums[j] += d[j] * normed * act;
                d_z[i * V + j] = d[j] * normed * w[j] * sig * (1.0f + gate[j] * (1.0f - sig));
                d_normed[j] = d[j] * w[j] * act;
                dot += d_normed[j] * normed;
            }
#pragma omp simd
            for (int64_t j = 0; j < V; j++) d_o[i * V + j] = r * (d_normed[j] - x[j] * r * dot / (float)V);
        }
    }
    for (int64_t j = 0; j < V; j++) {
        d_w[j] = 0;
        for (int t = 0; t < threads; t++) d_w[j] += part[t * 2 * V + j];
    }
}
