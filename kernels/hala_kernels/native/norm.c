/* RMS norm and LayerNorm of rows, with the residual added first and, for Gemma's sandwich, x normed
 * before that.
 *
 * x, residual, out, total: [rows, n], contiguous; weight, input_weight: [n]. All are bfloat16 or
 * all float32; residual (and with it total) and input_weight may be absent (NULL). Bytes: x and the
 * residual read, out and total written, once each; what later passes over a row read is still in
 * the first-level cache.
 *
 * y is rounded where transformers rounds it: the RMS norm before the weight is multiplied, the
 * others once, at the end. */
#include <math.h>

#include "simd.h"

enum { RMS, RMS_PLUS_ONE, LAYER };
enum { PARALLEL = 1 << 14 }; /* elements that are worth another thread */

/* The sum of a row's (value - mean)^2, or with `squared` 0 of its values. */
INLINE float sum_of(const void *row, int64_t n, float mean, int squared, int bf16) {
    vec parts[4] = {0}; /* additions that need not wait for each other */
    int64_t i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int k = 0; k < 4; k++) {
            vec value = load_vec(row, i + k * LANES, bf16) - mean;
            parts[k] += squared ? value * value : value;
        }
    for (; i + LANES <= n; i += LANES) {
        vec value = load_vec(row, i, bf16) - mean;
        parts[0] += squared ? value * value : value;
    }
    float sum = sum_vec((parts[0] + parts[1]) + (parts[2] + parts[3]));
    for (; i < n; i++) {
        float value = load(row, i, bf16) - mean;
        sum += squared ? value * value : value;
    }
    return sum;
}

/* The norm of a row, plus `residual` where there is one. A sum of squares beyond float32 gives
 * zeros; what overflowed may be infinite, so that is not left to a product with zero. */
INLINE void norm_row(const void *row, const void *weight, const void *residual, void *out,
                     int64_t n, float eps, int kind, int bf16) {
    float mean = kind == LAYER ? sum_of(row, n, 0, 0, bf16) / n : 0;
    mean = fabsf(mean) < INFINITY ? mean : 0;
    float inverse = 1 / sqrtf(sum_of(row, n, mean, 1, bf16) / n + eps);
    for (int64_t i = 0; i < n; i += LANES) {
        vec w = load_upto(weight, i, n, bf16);
        vec y = (load_upto(row, i, n, bf16) - mean) * inverse;
        y = kind == RMS ? rounded_vec(y, bf16) * w : y * (kind == RMS_PLUS_ONE ? w + 1 : w);
        if (inverse == 0)
            y = (vec){0};
        if (residual)
            y = rounded_vec(y, bf16) + load_upto(residual, i, n, bf16);
        store_upto(out, i, n, y, bf16);
    }
}

INLINE void add(const void *x, const void *residual, void *total, int64_t n, int bf16) {
    for (int64_t i = 0; i < n; i += LANES) {
        vec sum = load_upto(x, i, n, bf16) + load_upto(residual, i, n, bf16);
        store_upto(total, i, n, sum, bf16);
    }
}

INLINE void whole_row(const char *x, const char *residual, const void *weight,
                      const void *input_weight, char *out, char *total, int64_t r, int64_t n,
                      float eps, int kind, int bf16) {
    int64_t at = r * n * width_of(bf16);
    const void *row = x + at;
    if (residual) {
        if (input_weight)
            norm_row(row, input_weight, residual + at, total + at, n, eps, kind, bf16);
        else
            add(row, residual + at, total + at, n, bf16);
        row = total + at;
    }
    norm_row(row, weight, 0, out + at, n, eps, kind, bf16);
}

void hala_norm(const void *x, const void *residual, const void *weight, const void *input_weight,
               void *out, void *total, int64_t rows, int64_t n, float eps, int kind, int bf16) {
#define ROW(KIND, BF16)                                                                            \
    whole_row(x, residual, weight, input_weight, out, total, r, n, eps, KIND, BF16)
#pragma omp parallel for if (rows * n > PARALLEL)
    for (int64_t r = 0; r < rows; r++)
        if (kind == RMS)
            bf16 ? ROW(RMS, 1) : ROW(RMS, 0);
        else if (kind == RMS_PLUS_ONE)
            bf16 ? ROW(RMS_PLUS_ONE, 1) : ROW(RMS_PLUS_ONE, 0);
        else
            bf16 ? ROW(LAYER, 1) : ROW(LAYER, 0);
}
