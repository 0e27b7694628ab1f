// What adapters add to a product: scale·B(A·x) for the rows that have one (model/lora.py), in float32.
//
// A·x of all rows is made first (`lower`), B times it where the product's own panel is made (`raise_panels`, and for gate
// and up `raise_tile`). Neighbouring rows of the same adapter and expert are one tile; a row's result is the same alone.
#include "phases.h"

enum { QKV, OUT, ROUTER, GATE_UP, DOWN, PRODUCTS };

typedef struct {
    int64_t rank;        // 0: nothing is added
    const float *a, *b;  // panels of A [rank, k] and of scale·B [columns, rank], one after the other for all experts
} LowRank;

typedef struct {
    const LowRank *updates;  // of this product; PRODUCTS apart for the next adapter
    const int64_t *adapter;  // of each token, −1: none
    const int64_t *token;    // of each row, NULL: the same number
    float *h;                // [rows, stride], A·x
    int64_t stride;          // whole vectors
} Added;

INLINE const LowRank *update_of(const Added *d, int64_t row) {
    int64_t adapter = d->adapter[d->token ? d->token[row] : row];
    return adapter < 0 || !d->updates[adapter * PRODUCTS].rank ? NULL : d->updates + adapter * PRODUCTS;
}

// How many of `rows` rows from `row` on have the same update
INLINE int64_t run_of(const Added *d, int64_t row, int64_t rows, const LowRank **update) {
    int64_t count = 1;
    *update = update_of(d, row);
    while (count < rows && update_of(d, row + count) == *update) count++;
    return count;
}

// h of `rows` rows of expert e, which begin with `row`; x[k] lies in `a`, from its beginning on. Summed in order, as the
// trainer does: a policy with an adapter is then the same in rollouts and training, to the last bit.
static void lower(const Added *d, int64_t e, int64_t row, int64_t rows, int64_t k, Rows a) {
    const LowRank *u;
    for (int64_t r = 0, count; r < rows; r += count) {
        const float *x[ROWS];
        vec sum[ROWS][2];
        count = run_of(d, row + r, least(ROWS, rows - r), &u);
        if (!u) continue;
        point(a, r, r + count, x);
        for (int64_t p = 0, panels = panels_of(u->rank); p < panels; p++) {
            int wide = u->rank - p * PANEL > LANES;  // h has whole vectors, and not always two
            tile(count, x, k, u->a + (e * panels + p) * k * PANEL, sum);
            for (int64_t i = 0; i < count; i++) {
                float *h = d->h + (row + r + i) * d->stride + p * PANEL;
                store(h, sum[i][0]);
                if (wide) store(h + LANES, sum[i][1]);
            }
        }
    }
}

// A·x of every row; rows from start[e] to start[e + 1] are of expert e
static Phase *lower_rows(Phase *phase, const Added *d, Rows a, int64_t rows, int64_t k, const int64_t *start) {
    int64_t tasks = d ? (rows + ROWS - 1) / ROWS : 0;
    for (int64_t t = d ? take(phase) : 0; t < tasks; t = another(phase))
        for (int64_t r = t * ROWS, end = least(rows, r + ROWS), e = 0, count; r < end; r += count) {
            while (start && start[e + 1] <= r) e++;
            count = start ? least(end, start[e + 1]) - r : end - r;
            Rows from = {a.data + (a.index ? 0 : r * a.stride), a.stride, a.index ? a.index + r : NULL};
            lower(d, e, r, count, k, from);
        }
    return finish(phase, tasks);
}

// out[rows, columns] += B·h in panels [p, end), for rows that begin with `row` and are of expert e
static void raise_panels(const Added *d, int64_t e, int64_t row, int64_t rows, int64_t p, int64_t end, float *out,
                         int64_t columns) {
    const LowRank *u;
    for (int64_t r = 0, count; r < rows; r += count) {
        count = run_of(d, row + r, rows - r, &u);
        if (!u) continue;
        for (int64_t i = 0, few; i < count; i += few) {
            const float *pointers[ROWS];
            vec sum[ROWS][2];
            few = point((Rows){d->h + (row + r) * d->stride, d->stride, NULL}, i, count, pointers);
            for (int64_t q = p; q < end; q++) {
                tile(few, pointers, u->rank, u->b + (e * panels_of(columns) + q) * u->rank * PANEL, sum);
                for (int64_t j = 0; j < few; j++) {
                    float *to = out + (r + i + j) * columns + q * PANEL, *more = (float *)sum[j];
                    if ((q + 1) * PANEL <= columns) {
                        store(to, load(to) + sum[j][0]);
                        store(to + LANES, load(to + LANES) + sum[j][1]);
                    } else for (int64_t c = 0; c < columns - q * PANEL; c++) to[c] += more[c];
                }
            }
        }
    }
}

// sum += B·h in panel p of LANES gates beside LANES ups, F of each, for at most ROWS rows
static void raise_tile(const Added *d, int64_t e, int64_t row, int64_t rows, int64_t p, int64_t F, vec (*sum)[2]) {
    int64_t panels = (F + LANES - 1) / LANES;
    const LowRank *u;
    for (int64_t r = 0, count; r < rows; r += count) {
        const float *pointers[ROWS];
        vec more[ROWS][2];
        count = run_of(d, row + r, rows - r, &u);
        if (!u || p >= panels) continue;
        point((Rows){d->h + (row + r) * d->stride, d->stride, NULL}, 0, count, pointers);
        tile(count, pointers, u->rank, u->b + (e * panels + p) * u->rank * PANEL, more);
        for (int64_t i = 0; i < count; i++) sum[r + i][0] += more[i][0], sum[r + i][1] += more[i][1];
    }
}
