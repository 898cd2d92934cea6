/* One block of keys of paged attention (attention.c): where its rows lie, the layout that products
 * want, and the softmax's step; in plain vectors. */
#pragma once

#include "exp.h"

enum { KEYS = 64, TILE = 128, WIDEST = 256, ROWS = 16 };
#ifdef __AVX512F__
enum { COLUMNS = 4 }; /* vectors of V at a time: as many as the registers hold the sums of */
#else
enum { COLUMNS = 2 };
#endif

static const float LOWEST = -1e30f; /* finite: of rows that saw nothing -inf would make NaN */

typedef struct {
    const char *q, *k, *v;
    char *out;
    const void *table, *bounds, *contexts; /* int64 where `wide`, else int32 */
    int64_t sequences, longest, heads, kv_heads, dim, page_size;
    int64_t q_stride, q_head_stride, table_stride, page_stride, row_stride, head_stride;
    int64_t window;       /* 0: none */
    float scale, softcap; /* softcap 0: none */
    int wide;
    int64_t group; /* query heads of a KV head */
    int64_t parts; /* tasks that the longest chunk's rows of a KV head make */
    int64_t heads_of_task, pitch; /* KV heads of a task, and rows that the scratch has for each */
} Call;

typedef struct { /* where a block's rows lie, of the first of the task's heads */
    const char *k[KEYS], *v[KEYS];
} Block;

typedef struct { /* of a thread */
    float sums[TILE * WIDEST];          /* [row, D]; a head's rows begin at multiples of `pitch` */
    uint32_t queries[TILE * WIDEST];    /* [row, words]; in bfloat16 two columns a word */
    uint32_t keys[WIDEST * KEYS];       /* [words, KEYS] */
    uint32_t values[WIDEST * KEYS / 2]; /* for tiles: [KEYS / 2, D], two rows a word */
    float scores[ROWS * KEYS];
    uint16_t weights[ROWS * KEYS];
    vec total[TILE];
    float peak[TILE + ROWS], decay[ROWS];
    int64_t position[TILE]; /* of the row's token */
    Block blocks[2];
    int current; /* which of the blocks is the one at work, or else the next */
} Scratch;

INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t up_to(int64_t n, int64_t multiple) {
    return (n + multiple - 1) / multiple * multiple;
}
INLINE int64_t number(const void *array, int64_t i, int wide) {
    return wide ? ((const int64_t *)array)[i] : ((const int32_t *)array)[i];
}

/* A block's rows that are to be read next: asked for little by little, or the requests would stand
 * in each other's way; all the task's heads of a row together, or there would be no long runs. */
typedef struct {
    const Block *block;
    int64_t bytes, part, parts; /* of a row; the next part of the KEYS rows; 0: nothing to fetch */
} Ahead;

INLINE void fetch_part(Ahead *a) {
    if (a->part == a->parts) return;
    int64_t i = KEYS * a->part / a->parts, stop = KEYS * ++a->part / a->parts;
    for (; i < stop; i++)
        for (int64_t at = 0; at < a->bytes; at += 64) {
            __builtin_prefetch(a->block->k[i] + at, 0, 2);
            __builtin_prefetch(a->block->v[i] + at, 0, 2);
        }
}

#ifdef __AVX512F__
/* Exchanges bit `b` of the lane with that of the row; over all bits, a transposition. */
#define FROM_LOW(l, b) ((l) & (b) ? (l) - (b) + LANES : (l))
#define FROM_HIGH(l, b) ((l) & (b) ? (l) + LANES : (l) + (b))
#define EACH(f, b)                                                                             \
    {f(0, b), f(1, b), f(2, b),  f(3, b),  f(4, b),  f(5, b),  f(6, b),  f(7, b),              \
     f(8, b), f(9, b), f(10, b), f(11, b), f(12, b), f(13, b), f(14, b), f(15, b)}
#define EXCHANGE(rows, b)                                                                      \
    do {                                                                                       \
        const vec_words low = EACH(FROM_LOW, b), high = EACH(FROM_HIGH, b);                        \
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) if (!(i & (b))) {             \
            vec_words x = rows[i], y = rows[i + (b)];                                              \
            rows[i] = __builtin_shuffle(x, y, low);                                            \
            rows[i + (b)] = __builtin_shuffle(x, y, high);                                     \
        }                                                                                      \
    } while (0)

/* K turned about, zeros beyond `count` words of a row. */
INLINE void turn_keys(Scratch *s, const Block *block, int64_t offset, int64_t count,
                      int64_t used, Ahead *ahead) {
    for (int64_t key = 0; key < used; key += LANES) {
        fetch_part(ahead);
        for (int64_t w = 0; w < count; w += LANES) {
            __mmask16 mask = count - w < LANES ? (1u << (count - w)) - 1 : 0xffff;
            vec_words rows[LANES];
            _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) {
                const char *row = block->k[key + i] + offset;
                rows[i] = (vec_words)_mm512_maskz_loadu_epi32(mask, row + 4 * w);
            }
            EXCHANGE(rows, 1);
            EXCHANGE(rows, 2);
            EXCHANGE(rows, 4);
            EXCHANGE(rows, 8);
            _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++)
                *(vec_words *)(s->keys + (w + i) * KEYS + key) = rows[i];
        }
    }
}
#else
INLINE void turn_keys(Scratch *s, const Block *block, int64_t offset, int64_t count,
                      int64_t used, Ahead *ahead) {
    for (int64_t key = 0; key < used; key++) {
        if (key % ROWS == 0) fetch_part(ahead);
        const char *row = block->k[key] + offset;
        for (int64_t w = 0; w < count; w++) memcpy(s->keys + w * KEYS + key, row + 4 * w, 4);
    }
}
#endif

/* sum + key * query, a word of each lane's key and of the query. */
INLINE vec add_products(vec sum, vec_words key, uint32_t query, int bf16) {
#ifdef __AVX512BF16__
    if (bf16) {
        __m512bh pairs = (__m512bh)_mm512_set1_epi32(query);
        return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)key, pairs);
    }
#endif
    vec_words q = query - (vec_words){0};
    if (!bf16) return sum + (vec)key * (vec)q;
    sum = sum + (vec)(key << 16) * (vec)(q << 16);
    return sum + (vec)(key & 0xffff0000u) * (vec)(q & 0xffff0000u);
}

/* Scores of `rows` rows, before scaling. */
INLINE void score_rows(Scratch *s, const uint32_t *queries, int64_t count, float *scores,
                       int64_t width, const int rows, int bf16) {
    for (int64_t key = 0; key < width; key += 2 * LANES) {
        vec sums[4][2] = {0};
        for (int64_t w = 0; w < count; w++) {
            const vec_words *k = (const vec_words *)(s->keys + w * KEYS + key);
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
                _Pragma("GCC unroll 2") for (int j = 0; j < 2; j++)
                    sums[r][j] = add_products(sums[r][j], k[j], queries[r * count + w], bf16);
        }
        _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
            _Pragma("GCC unroll 2") for (int j = 0; j < 2; j++)
                ((vec *)(scores + r * KEYS + key))[j] = sums[r][j];
    }
}

/* sums[row, column ...] of `rows` rows and `vecs` vectors, with the weighted V of keys from ...
 * to - 1. */
INLINE void add_columns(const Block *block, int64_t offset, float *sums, int64_t dim,
                        int64_t column, const float *weights, const float *decay, int64_t from,
                        int64_t to, const int rows, const int vecs, int bf16) {
    vec sum[4][COLUMNS];
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int j = 0; j < vecs; j++)
            sum[r][j] = ((vec *)(sums + r * dim + column))[j] * decay[r];
    for (int64_t key = from; key < to; key++)
        _Pragma("GCC unroll 4") for (int j = 0; j < vecs; j++) {
            vec v = load_vec(block->v[key] + offset, column + j * LANES, bf16);
            _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
                sum[r][j] = sum[r][j] + v * weights[r * KEYS + key];
        }
    _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++)
        _Pragma("GCC unroll 4") for (int j = 0; j < vecs; j++)
            ((vec *)(sums + r * dim + column))[j] = sum[r][j];
}

INLINE void add_rows(Scratch *s, const Block *block, int64_t offset, float *sums, int64_t dim,
                     int64_t row, int64_t from, int64_t to, const int rows, int bf16) {
    const float *weights = s->scores + row * KEYS, *decay = s->decay + row;
    int64_t column = 0;
    for (; column + COLUMNS * LANES <= dim; column += COLUMNS * LANES)
        add_columns(block, offset, sums, dim, column, weights, decay, from, to, rows, COLUMNS,
                    bf16);
    for (; column < dim; column += LANES)
        add_columns(block, offset, sums, dim, column, weights, decay, from, to, rows, 1, bf16);
}

/* A row's scores become -inf outside from ... to - 1, and those between are capped; returns the
 * largest. */
INLINE float mask(float *scores, int64_t width, int64_t from, int64_t to, float scale,
                  float softcap) {
    if (width % 32) __builtin_unreachable();
    const float inner = 2.0f * scale / softcap, outer = 2.0f * softcap;
    float most = -__builtin_inff();
    if (softcap)
#pragma omp simd aligned(scores : 64)
        for (int64_t j = 0; j < width; j++)
            scores[j] = softcap - outer / (1.0f + fast_exp(scores[j] * inner));
    if (from > 0 || to < width)
#pragma omp simd aligned(scores : 64)
        for (int j = 0; j < width; j++)
            scores[j] = j >= from && j < to ? scores[j] : -__builtin_inff();
#pragma omp simd aligned(scores : 64) reduction(max : most)
    for (int64_t j = 0; j < width; j++) most = scores[j] > most ? scores[j] : most;
    return most;
}

/* The softmax's step for `rows` rows from `row` on: their scores become weights. */
INLINE void weigh(const Call *c, Scratch *s, int64_t row, int64_t rows, int64_t start,
                  int64_t width) {
    const float scale = c->softcap ? 1.0f : c->scale; /* what is left of it after the cap */
    float *peak = s->peak + row, largest[ROWS] = {0};
    vec *total = s->total + row;
    for (int64_t r = 0; r < rows; r++) {
        int64_t to = s->position[row + r] + 1 - start, from = c->window ? to - c->window : 0;
        largest[r] = scale * mask(s->scores + r * KEYS, width, from, to, c->scale, c->softcap);
    }
#pragma omp simd
    for (int64_t r = 0; r < ROWS; r++) {
        largest[r] = largest[r] > peak[r] ? largest[r] : peak[r];
        s->decay[r] = fast_exp(peak[r] - largest[r]);
    }
    for (int64_t r = 0; r < rows; r++) {
        float *scores = s->scores + r * KEYS, most = largest[r];
        vec sum = {0};
#pragma omp simd aligned(scores : 64)
        for (int64_t j = 0; j < width; j++) scores[j] = fast_exp(scores[j] * scale - most);
        for (int64_t j = 0; j < width; j += LANES) sum += load_vec(scores, j, 0);
        total[r] = total[r] * s->decay[r] + sum;
        peak[r] = most;
    }
}
