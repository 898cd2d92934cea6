/* The exponential function in a form that the compiler vectorises. */
#pragma once

#include "simd.h"

/* e^x to within 1 ulp. Below -86.9 (and at -inf) it is zero, not a number near the smallest normal
 * one; above 88.7 it is infinite; of NaN it is NaN.
 *
 * e^x = 2^n e^r with n = round(x / ln 2), |r| <= ln(2) / 2, and 2 e^r from a polynomial whose
 * relative error is 3e-9 (fitted for the smallest largest error). Twice e^r, half of 2^n: so the
 * exponent of 2^(n-1) stays in range up to the largest float. */
INLINE float fast_exp(float x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it leaves an integer in the low bits */
    x = x < -88.0f ? -88.0f : x;     /* comparisons that leave NaN as it is */
    x = x > 89.0f ? 89.0f : x;
    float shifted = x * 1.44269504f + magic;
    float n = shifted - magic;
    float r = x - n * 0.693145752f; /* ln 2 in two parts; n times the first is exact */
    r = r - n * 1.42860677e-06f;
    float q = 0.00276290808f;
    q = q * r + 0.0167374909f;
    q = q * r + 0.0833367780f;
    q = q * r + 0.333330423f;
    q = q * r + 0.999999881f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    int32_t exponent = (int32_t)(bits - 0x4b400000u) + 126;
    bits = (uint32_t)(exponent > 0 ? exponent : 0) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return (2.0f + (2.0f * r + r * r * q)) * scale;
}

INLINE vec fast_exp_vec(vec x) {
    float values[LANES];
    memcpy(values, &x, sizeof x);
#pragma omp simd
    for (int k = 0; k < LANES; k++)
        values[k] = fast_exp(values[k]);
    memcpy(&x, values, sizeof x);
    return x;
}
