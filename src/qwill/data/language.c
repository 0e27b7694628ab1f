/* Naive Bayes over byte n-grams, as py3langid scores them: for each text, the log-posteriors of `labels` languages.
 *
 * An automaton walks the bytes; a state may stand for a feature, and a feature that occurs c times adds
 * log(1 + c) times its row of weights. Sums are in double precision, in the order of first occurrence. */
#include <stdint.h>
#include <string.h>

void score_texts(
    const uint8_t *bytes, const int64_t *starts, int64_t texts,                       /* text i: starts[i] .. starts[i + 1] */
    const uint32_t *next, const uint16_t *row, const int32_t *feature,                /* of a state */
    const float *weights, const double *prior, const double *log1p_of, int64_t labels, /* weights[features][labels] */
    int32_t *count, int32_t *seen,                                                    /* of features: zeros; scratch */
    double *scores, uint8_t *known)                                                   /* [texts][labels]; any feature? */
{
    for (int64_t t = 0; t < texts; t++) {
        uint32_t state = 0;
        int64_t found = 0;
        for (int64_t i = starts[t]; i < starts[t + 1]; i++) {
            state = next[((uint32_t)row[state] << 8) + bytes[i]];
            const int32_t f = feature[state];
            if (f >= 0 && count[f]++ == 0)
                seen[found++] = f;
        }
        double *out = scores + t * labels;
        memcpy(out, prior, labels * sizeof *out);
        for (int64_t k = 0; k < found; k++) {
            const float *w = weights + seen[k] * labels;
            const double c = log1p_of[count[seen[k]]];
            count[seen[k]] = 0;
            for (int64_t l = 0; l < labels; l++)
                out[l] += c * w[l];
        }
        known[t] = found > 0;
    }
}
