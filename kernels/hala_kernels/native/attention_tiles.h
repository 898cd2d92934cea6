/* The products of a block of paged attention (attention.c) by tile instructions (AMX), in bfloat16.
 * Eight tiles of up to 16 rows of 64 bytes: left [rows, 32 bfloat16], right [16 pairs of what the
 * product sums over, 16 columns], sums [rows, 16 float32]. */
#pragma once

#include "attention_block.h"

#ifdef __AVX512BF16__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TILES __attribute__((target("amx-tile,amx-bf16")))

/* 1 where the processor has AMX for bfloat16 and the system lets this process use it. */
int hala_attention_has_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18, AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (~d & (AMX_BF16 | AMX_TILE))) return 0;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0;
}

/* Tiles 0 to 3 are sums, 4 what stands on the left, both of `rows` rows; 5 and 6 on the right. */
TILES static void configure_tiles(int rows) {
    struct {
        uint8_t palette, start_row, zeros[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config __attribute__((aligned(64))) = {.palette = 1};
    for (int i = 0; i < 7; i++) {
        config.row_bytes[i] = 64;
        config.rows[i] = i < 5 ? rows : 16;
    }
    __asm__ volatile("" ::"r"(&config) : "memory"); /* GCC 12 knows of 8 bytes that this reads */
    _tile_loadconfig(&config);
}

TILES static void release_tiles(void) { _tile_release(); }

/* Pairs of V's rows, interleaved. */
INLINE void pair_values(Scratch *s, const Block *block, int64_t offset, int64_t dim,
                        int64_t used, Ahead *ahead) {
    static const uint16_t first[32] __attribute__((aligned(64))) = {
        0, 32, 1, 33, 2, 34, 3, 35, 4, 36, 5, 37, 6, 38, 7, 39,
        8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
    const __m512i low = _mm512_load_si512(first);
    const __m512i high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
    for (int64_t key = 0; key < used; key += 2) {
        if (key % ROWS == 0) fetch_part(ahead);
        for (int64_t column = 0; column < dim; column += 32) {
            __mmask32 mask = dim - column < 32 ? 0xffff : 0xffffffff;
            __m512i x = _mm512_maskz_loadu_epi16(mask, block->v[key] + offset + 2 * column);
            __m512i y = _mm512_maskz_loadu_epi16(mask, block->v[key + 1] + offset + 2 * column);
            uint32_t *to = s->values + key / 2 * dim + column;
            _mm512_storeu_si512(to, _mm512_permutex2var_epi16(x, low, y));
            if (mask == 0xffffffff)
                _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(x, high, y));
        }
    }
}

/* Scores of ROWS rows with `width` keys. */
TILES static void score_tiles(Scratch *s, const uint32_t *queries, int64_t count, int64_t width) {
    __asm__ volatile("" ::: "memory"); /* the tile loads do not tell the compiler that they read */
    for (int64_t key = 0; key < width; key += 32) {
        const uint32_t *keys = s->keys + key;
        _tile_zero(0);
        _tile_zero(1);
        for (int64_t w = 0; w < count; w += 16) {
            _tile_loadd(4, queries + w, count * 4);
            _tile_loadd(5, keys + w * KEYS, KEYS * 4);
            _tile_loadd(6, keys + w * KEYS + 16, KEYS * 4);
            _tile_dpbf16ps(0, 4, 5);
            _tile_dpbf16ps(1, 4, 6);
        }
        _tile_stored(0, s->scores + key, KEYS * 4);
        _tile_stored(1, s->scores + key + 16, KEYS * 4);
    }
}

/* Weights x V of 32 keys, to sums tile `n`. */
#define ADD_TILE(n, right)                                               \
    do {                                                                 \
        _tile_loadd(right, values + 16 * n, dim * 4);                    \
        _tile_dpbf16ps(n, 4, right);                                     \
    } while (0)

/* sums [ROWS, D] with the weighted V of `width` keys. */
TILES static void add_tiles(Scratch *s, float *sums, int64_t dim, int64_t width) {
    __asm__ volatile("" ::: "memory");
    int64_t column = 0;
    for (; column + 64 <= dim; column += 64) {
        _tile_loadd(0, sums + column, dim * 4);
        _tile_loadd(1, sums + column + 16, dim * 4);
        _tile_loadd(2, sums + column + 32, dim * 4);
        _tile_loadd(3, sums + column + 48, dim * 4);
        for (int64_t key = 0; key < width; key += 32) {
            const uint32_t *values = s->values + key / 2 * dim + column;
            _tile_loadd(4, s->weights + key, KEYS * 2);
            ADD_TILE(0, 5);
            ADD_TILE(1, 6);
            ADD_TILE(2, 5);
            ADD_TILE(3, 6);
        }
        _tile_stored(0, sums + column, dim * 4);
        _tile_stored(1, sums + column + 16, dim * 4);
        _tile_stored(2, sums + column + 32, dim * 4);
        _tile_stored(3, sums + column + 48, dim * 4);
    }
    for (; column < dim; column += 16) {
        _tile_loadd(0, sums + column, dim * 4);
        for (int64_t key = 0; key < width; key += 32) {
            const uint32_t *values = s->values + key / 2 * dim + column;
            _tile_loadd(4, s->weights + key, KEYS * 2);
            ADD_TILE(0, 5);
        }
        _tile_stored(0, sums + column, dim * 4);
    }
}

/* Weights in bfloat16, and sums scaled for the largest score of now. */
INLINE void narrow_weights(Scratch *s, float *sums, int64_t dim, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t key = 0; key < width; key += 32) {
            const float *weights = s->scores + r * KEYS + key;
            __m512bh narrow =
                _mm512_cvtne2ps_pbh(_mm512_load_ps(weights + 16), _mm512_load_ps(weights));
            _mm512_store_si512(s->weights + r * KEYS + key, (__m512i)narrow);
        }
        vec *row = (vec *)(sums + r * dim);
        if (s->decay[r] != 1.0f)
            for (int64_t i = 0; i < dim / LANES; i++) row[i] *= s->decay[r];
    }
}

INLINE void visit_tiles(const Call *c, Scratch *s, int64_t count, int64_t row, int64_t rows,
                        int64_t start, int64_t width) {
    float *sums = s->sums + row * c->dim;
    score_tiles(s, s->queries + row * count, count, width);
    weigh(c, s, row, rows, start, width);
    narrow_weights(s, sums, c->dim, rows, width);
    add_tiles(s, sums, c->dim, width);
}
#else
int hala_attention_has_tiles(void) { return 0; }
static void configure_tiles(int rows) { (void)rows; }
static void release_tiles(void) {}
#define pair_values(...)
#define visit_tiles(...)
#endif
