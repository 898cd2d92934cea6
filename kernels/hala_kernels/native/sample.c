/* The index of the first of a row's largest values; of the first NaN, where there is one.
 *
 * logits: [rows, n] bfloat16 or float32, n > 0, its rows `stride` apart; out: [rows]. Bytes: the
 * logits read once. */
#include <math.h>

#include "simd.h"

enum { BLOCK = 1024 };       /* values of which only the largest is known until the end */
enum { PARALLEL = 1 << 15 }; /* elements that are worth another thread */

/* The largest of values i to end; NaN if any of them is. */
INLINE float largest_of(const void *row, int64_t i, int64_t end, int bf16) {
    vec_words nan = {0}, larger;
    vec largest = (vec){0} - INFINITY;
    for (; i + LANES <= end; i += LANES) {
        vec value = load_vec(row, i, bf16);
        nan |= (vec_words)(value != value);
        larger = (vec_words)(value > largest);
        largest = (vec)((larger & (vec_words)value) | (~larger & (vec_words)largest));
    }
    float result = -INFINITY;
    for (int k = 0; k < LANES; k++)
        result = nan[k] ? NAN : largest[k] > result ? largest[k] : result;
    for (; i < end; i++) {
        float value = load(row, i, bf16);
        result = value > result || value != value ? value : result;
    }
    return result;
}

INLINE int64_t first_largest(const void *row, int64_t n, int bf16) {
    float largest = -INFINITY;
    int64_t block = 0;
    for (int64_t i = 0; i < n && largest == largest; i += BLOCK) {
        float here = largest_of(row, i, i + BLOCK < n ? i + BLOCK : n, bf16);
        if (here > largest || here != here) {
            largest = here;
            block = i;
        }
    }
    for (int64_t i = block;; i++) {
        float value = load(row, i, bf16);
        if (value == largest || (value != value && largest != largest))
            return i;
    }
}

void hala_argmax(const char *logits, int64_t *out, int64_t rows, int64_t n, int64_t stride,
                 int bf16) {
#pragma omp parallel for if (rows > 1 && rows * n > PARALLEL)
    for (int64_t r = 0; r < rows; r++) {
        const char *row = logits + r * stride * width_of(bf16);
        out[r] = bf16 ? first_largest(row, n, 1) : first_largest(row, n, 0);
    }
}
