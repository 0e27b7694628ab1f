// Matrix products of the model's training, forward and backward: float32 on a CPU.
// Definitions: ops.py. The forward ones sum as rows.h does, so that generation comes to the same bits.
// Results do not depend on the number of threads: every output element is one thread's work.
//
// A "group" is an expert with its rows [start[g], start[g+1]); a plain product has one group.
// Letters: n rows, k terms of a sum, c columns.
#include <omp.h>
#include "rows.h"

#define ROW_BLOCK 256   // rows a task: a · that many rows stays in the second cache
#define TERM_BLOCK 1024 // terms of a sum at a time where the order of sums is nobody else's business
#define SLICE (8 * ROWS) // columns a task of an outer product; with TERM_BLOCK rows they fill a quarter of the second cache
#define SOON 16          // rows ahead that are asked for where every row is another page
#define SMALL 1000000   // multiplications; below, waking a second thread costs more than it brings

int64_t panel_width(void) { return PANEL; }

// Weights of every group, element (column, i) at w[group · c · k + column · column_step + i · k_step], for `products`.
void pack_weights(const float *w, int64_t groups, int64_t c, int64_t k, int64_t column_step, int64_t k_step,
                  float *packed, int threads) {
    int64_t panels = panels_of(c);
#pragma omp parallel for schedule(static) num_threads(threads) if (groups * c * k > SMALL)
    for (int64_t t = 0; t < groups * panels; t++)
        pack_panel(w + t / panels * c * k, c, k, column_step, k_step, 0, t % panels, packed + t * k * PANEL);
}

// out[n, c] = a[n, k] · the weights of each row's group (+ bias). `split` allows the sum to be taken in blocks.
void products(const float *a, const int64_t *start, int64_t groups, int64_t k, const float *packed, int64_t c,
              const float *bias, int64_t split, float *out, int threads) {
    int64_t panels = panels_of(c), terms = split ? TERM_BLOCK : k;
#pragma omp parallel num_threads(threads) if (start[groups] * c * k > SMALL)
    {
        int64_t mine = omp_get_thread_num(), all = omp_get_num_threads(), task = 0;
        for (int64_t g = 0; g < groups; g++)
            for (int64_t first = start[g]; first < start[g + 1]; first += ROW_BLOCK)
                for (int64_t p = 0; p < panels; p++) {
                    if (task++ % all != mine) continue;
                    int64_t rows = least(ROW_BLOCK, start[g + 1] - first);
                    const float *weights = packed + (g * panels + p) * k * PANEL;
                    for (int64_t i = 0; i < k; i += terms) {
                        const float *block = weights + i * PANEL;
                        int64_t count = least(terms, k - i), further = i + count < k ? count : k * all - i;
                        panel((Rows){a + first * k + i, k, NULL}, rows, count, block, p, i ? NULL : bias, i > 0,
                              then_panel(block + further * PANEL, count, rows), out + first * c, c);
                    }
                }
    }
}

// The same of weights that are not packed (see pack_weights; k at most TERM_BLOCK): a panel is packed by the task that
// multiplies by it, so it never leaves the second cache. For experts, which have few rows each; many rows would want
// their own block to stay there.
void products_of(const float *a, const int64_t *start, int64_t groups, int64_t k, const float *w, int64_t column_step,
                 int64_t k_step, int64_t c, float *out, int threads) {
    int64_t panels = panels_of(c);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (start[groups] * c * k > SMALL)
    for (int64_t t = 0; t < groups * panels; t++) {
        int64_t g = t / panels, p = t % panels, rows = start[g + 1] - start[g];
        float weights[TERM_BLOCK * PANEL];
        if (rows == 0) continue;
        pack_panel(w + g * c * k, c, k, column_step, k_step, 0, p, weights);
        panel((Rows){a + start[g] * k, k, NULL}, rows, k, weights, p, NULL, 0, NOTHING, out + start[g] * c, c);
    }
}

// Rows of x[n, c] by group and panel, for `outer_products`: group g begins at start[g] · panels · PANEL. It reads them as
// they lie, since down a panel's columns every row is another page.
void pack_rows(const float *x, const int64_t *start, int64_t groups, int64_t c, float *packed, int threads) {
    int64_t panels = panels_of(c), wide = c / PANEL * PANEL;
#pragma omp parallel for schedule(static) num_threads(threads) if (start[groups] * c > SMALL)
    for (int64_t first = 0; first < start[groups]; first += ROWS)
        for (int64_t i = first, g = 0; i < least(first + ROWS, start[groups]); i++) {
            while (start[g + 1] <= i) g++;
            float *to = packed + (start[g] * panels + i - start[g]) * PANEL;
            for (int64_t p = 0, step = (start[g + 1] - start[g]) * PANEL; p < panels; p++)
                if (p * PANEL < wide) memcpy(to + p * step, x + i * c + p * PANEL, sizeof(float) * PANEL);
                else for (int64_t j = 0; j < PANEL; j++) to[p * step + j] = p * PANEL + j < c ? x[i * c + p * PANEL + j] : 0;
        }
}

// out[group][d, c] (+)= a[rows, d]ᵀ · x[rows, c] of each group's rows, x packed by `pack_rows`.
// A task takes SLICE columns of a: they are laid side by side first, since down a wide matrix every element of a column
// is another cache line and another page.
void outer_products(const float *a, const int64_t *start, int64_t groups, int64_t d, const float *packed, int64_t c,
                    int64_t add, float *out, int threads) {
    int64_t panels = panels_of(c), slices = (d + SLICE - 1) / SLICE;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (start[groups] * c * d > SMALL)
    for (int64_t t = 0; t < groups * slices; t++) {
        int64_t g = t / slices, r = t % slices * SLICE, n = start[g + 1] - start[g], wide = least(SLICE, d - r);
        const float *from = a + start[g] * d + r, *x = packed + start[g] * panels * PANEL;
        float *to = out + (g * d + r) * c, laid[SLICE * TERM_BLOCK];
        if (n == 0 && !add) memset(to, 0, sizeof(float) * wide * c);
        for (int64_t i = 0; i < n; i += TERM_BLOCK) {
            int64_t terms = least(TERM_BLOCK, n - i);
            for (int64_t k = 0; k < terms; k++) {
                for (int64_t j = 0; j < wide; j += LANES) __builtin_prefetch(from + (i + k + SOON) * d + j);
                for (int64_t j = 0; j < wide; j++)
                    laid[(j / ROWS * terms + k) * ROWS + j % ROWS] = from[(i + k) * d + j];
            }
            for (int64_t p = 0; p < panels; p++) {
                const float *panel = x + (p * n + i) * PANEL;
                Next next = then_panel(p + 1 < panels ? panel + n * PANEL : x + (i + terms) * PANEL, terms, wide);
                for (int64_t q = 0; q < wide; q += ROWS) {
                    const float *columns[ROWS];
                    vec sum[ROWS][2];
                    int64_t count = least(ROWS, wide - q), width = least(PANEL, c - p * PANEL);
                    for (int64_t j = 0; j < count; j++) columns[j] = laid + q * terms + j;
                    tile_with(count, columns, ROWS, terms, panel, part_of(&next, q / ROWS, terms), next.step, sum);
                    for (int64_t j = 0; j < count; j++) {
                        const float *value = (const float *)sum[j];
                        float *row = to + (q + j) * c + p * PANEL;
                        if (i || add) for (int64_t l = 0; l < width; l++) row[l] += value[l];
                        else memcpy(row, value, sizeof(float) * width);
                    }
                }
            }
        }
    }
}
