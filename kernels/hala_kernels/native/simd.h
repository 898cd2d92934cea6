/* bfloat16 in plain C, in forms that the compiler vectorises. */
#pragma once

#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* The value of a bfloat16. */
INLINE float from_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* To the nearest bfloat16, ties to even; NaN stays NaN. */
INLINE uint16_t to_bf16(float value) {
    uint32_t wide;
    memcpy(&wide, &value, sizeof wide);
    uint32_t rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    return value == value ? (uint16_t)rounded : 0x7fc0;
}

/* Element i of an array of bfloat16 (`bf16` 1) or float32 (0). `bf16` is a constant to the compiler
 * where the caller is inlined; not beyond a parallel loop, whose body becomes a function of its own
 * before that. So the choice of the dtype stands inside such a loop. */
INLINE float load(const void *array, int64_t i, int bf16) {
    return bf16 ? from_bf16(((const uint16_t *)array)[i]) : ((const float *)array)[i];
}

INLINE void store(void *array, int64_t i, float value, int bf16) {
    if (bf16)
        ((uint16_t *)array)[i] = to_bf16(value);
    else
        ((float *)array)[i] = value;
}

/* `value` as the array's type would hold it. */
INLINE float rounded(float value, int bf16) { return bf16 ? from_bf16(to_bf16(value)) : value; }

/* Bytes of an element. */
INLINE int64_t width_of(int bf16) { return bf16 ? 2 : 4; }

/* Vectors of floats, for sums: the compiler may cut a loop differently from call to call (by the
 * alignment of an address), and a sum must always be added up in the same order. */
#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
typedef float vec __attribute__((vector_size(4 * LANES)));
typedef uint32_t vec_words __attribute__((vector_size(4 * LANES)));
typedef uint16_t vec_halves __attribute__((vector_size(2 * LANES)));

/* Elements i to i + LANES. */
INLINE vec load_vec(const void *array, int64_t i, int bf16) {
    vec values;
    if (!bf16) {
        memcpy(&values, (const float *)array + i, sizeof values);
        return values;
    }
    vec_halves bits;
    memcpy(&bits, (const uint16_t *)array + i, sizeof bits);
#ifdef __AVX512F__
    vec_words wide = (vec_words)_mm512_cvtepu16_epi32((__m256i)bits) << 16;
#else
    vec_words wide = __builtin_convertvector(bits, vec_words) << 16;
#endif
    memcpy(&values, &wide, sizeof values);
    return values;
}

/* Where the processor has the instruction, magnitudes below 1.2e-38 become zero. */
INLINE vec_halves to_bf16_vec(vec values) {
#ifdef __AVX512BF16__
    return (vec_halves)_mm512_cvtneps_pbh((__m512)values);
#else
    vec_words wide, nan = (vec_words)(values != values);
    memcpy(&wide, &values, sizeof wide);
    wide = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
    wide = (nan & 0x7fc0) | (~nan & wide);
    return __builtin_convertvector(wide, vec_halves);
#endif
}

INLINE void store_vec(void *array, int64_t i, vec values, int bf16) {
    if (!bf16) {
        memcpy((float *)array + i, &values, sizeof values);
        return;
    }
    vec_halves bits = to_bf16_vec(values);
    memcpy((uint16_t *)array + i, &bits, sizeof bits);
}

INLINE vec rounded_vec(vec values, int bf16) {
    if (!bf16)
        return values;
    vec_halves bits = to_bf16_vec(values);
    return load_vec(&bits, 0, 1);
}

/* Elements i to n, fewer than LANES, and zeros. Not inlined: it would crowd the loop that ends with
 * it. */
#define COLD static __attribute__((noinline, cold, unused))

COLD vec load_part(const void *array, int64_t i, int64_t n, int bf16) {
    float values[LANES] = {0};
    for (int64_t k = 0; i + k < n; k++)
        values[k] = load(array, i + k, bf16);
    return load_vec(values, 0, 0);
}

COLD void store_part(void *array, int64_t i, int64_t n, vec values, int bf16) {
    for (int64_t k = 0; i + k < n; k++)
        store(array, i + k, values[k], bf16);
}

/* Elements i to i + LANES of an array that ends at n: what lies beyond counts as zero, and is not
 * written. */
INLINE vec load_upto(const void *array, int64_t i, int64_t n, int bf16) {
    return i + LANES <= n ? load_vec(array, i, bf16) : load_part(array, i, n, bf16);
}

INLINE void store_upto(void *array, int64_t i, int64_t n, vec values, int bf16) {
    if (i + LANES <= n)
        store_vec(array, i, values, bf16);
    else
        store_part(array, i, n, values, bf16);
}

INLINE float sum_vec(vec values) {
    float sum = 0;
    for (int k = 0; k < LANES; k++)
        sum += values[k];
    return sum;
}
