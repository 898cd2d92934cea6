/* Matrix products in bfloat16 with the processor's tile unit (AMX): y = x W^T.
 *
 *   x        [rows, K], its rows x_stride apart; K a multiple of 32
 *   packed   [panels, K / 32, 2, 16, 32]: W in panels of two tiles of 16 of its rows. A tile holds
 *            32 columns of W in pairs: element [i, 2 n + j] is column 2 i + j of row n. Rows and
 *            columns that W has not are zero. A panel is 32 rows of W, or, of a gate and an up
 *            matrix that are one on top of the other, 16 rows of each.
 *   y        [rows, N] contiguous; of a gated product N is the number of rows of the gate
 *
 * A sum over K runs in one order, in float32: a row's result depends on nothing but the row.
 * Moved: the packed weights once for each chunk of rows (`plan`), x once for each panel, from the
 * second-level cache. While a part of a panel is multiplied the next one is fetched. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "exp.h"
#include "simd.h"

#if defined(__AVX512F__) && defined(__linux__)
#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX __attribute__((target("amx-tile,amx-bf16,avx512f,avx512bw,avx512vl,avx512bf16")))

enum { PLAIN, GATED_SILU, GATED_GELU_TANH };

enum {
    TILE = 16,         /* rows of a tile */
    TILE_BYTES = 1024, /* 16 rows of 64 bytes */
    STEP = 32,         /* columns of W in a tile */
    STEP_BYTES = 2048, /* the two tiles of a panel at one step of K */
    BLOCK = 2 * TILE,  /* rows of x that are multiplied at a time */
};

/* Found by measuring on Sapphire Rapids, whose cores have caches of 48 KiB and 2 MiB. */
enum {
    CACHED = 1 << 20, /* bytes of x that should stay in the second-level cache, beside panels */
    SHARE = 1 << 20,  /* bytes of weights that a thread takes at a time */
    MANY = 256,       /* rows for which multiplying a panel takes as long as reading it */
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

typedef struct {
    const char *x, *packed;
    const uint16_t *bias, *residual;
    uint16_t *y;
    int64_t x_bytes, residual_stride; /* between rows */
    int64_t rows, columns, steps, panels;
    int form;
} Product;

/* How a product is cut: into units of `rows` of x times `panels`, each in parts of `part` steps. */
typedef struct {
    int64_t rows, panels, part;
} Cut;

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} TileShapes;

/* Tiles 0 to 3 hold sums, 4 and 5 x (16 of its `rows` rows, and the rest), 6 and 7 weights. */
AMX static void set_tiles(int64_t rows) {
    TileShapes shapes = {.palette = 1};
    for (int t = 0; t < 8; t++) {
        shapes.row_bytes[t] = 64;
        shapes.rows[t] = TILE;
    }
    shapes.rows[0] = shapes.rows[1] = shapes.rows[4] = (uint8_t)least(rows, TILE);
    shapes.rows[2] = shapes.rows[3] = shapes.rows[5] = (uint8_t)most(rows - TILE, 1);
    /* GCC 12's intrinsic does not say that it reads the whole structure. */
    __asm__ volatile("ldtilecfg %0" ::"m"(shapes));
}

AMX INLINE __m512 widened(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

AMX INLINE __m256i narrowed(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

/* 16 numbers of a bias from `start`, zero where there is none. */
AMX INLINE __m512 bias_at(const uint16_t *bias, int64_t start, __mmask16 there) {
    return bias ? widened(_mm256_maskz_loadu_epi16(there, bias + start)) : _mm512_setzero_ps();
}

/* act(gate), rounded. */
AMX INLINE __m512 activated(__m512 gate, int form) {
    float in[TILE], out[TILE];
    _mm512_storeu_ps(in, gate);
    for (int i = 0; i < TILE; i++) {
        float g = in[i];
        float s = form == GATED_SILU ? g : 1.5957691216057308f * (g + 0.044715f * g * g * g);
        out[i] = g / (1.0f + fast_exp(-s));
    }
    return widened(narrowed(_mm512_loadu_ps(out)));
}

/* Sums of a block of rows and a panel [rows, 2, 16] that are not rounded and written yet. They lie
 * as the tiles do: both tiles of the first 16 rows, then both of the others. */
typedef struct {
    const float *sums;
    int64_t row, rows, panel, done;
} Pending;

/* Rounds and writes the next `count` of the pending rows. */
AMX INLINE void finish_as(const Product *p, Pending *pending, int64_t count, int form) {
    int64_t width = form == PLAIN ? 2 * TILE : TILE, column = pending->panel * width;
    int64_t end = least(pending->done + count, pending->rows);
    int64_t left = p->columns - column;
    __mmask32 there = left >= width ? (width == 32 ? ~0u : 0xffffu) : (1u << left) - 1;
    int64_t second = form == PLAIN ? column + TILE : p->columns + column;
    __mmask16 there2 = form == PLAIN ? there >> 16 : there;
    __m512 bias1 = bias_at(p->bias, column, there), bias2 = bias_at(p->bias, second, there2);
    for (int64_t r = pending->done; r < end; r++) {
        const float *sum = pending->sums + (r / TILE * 2 * TILE + r % TILE) * TILE;
        __m512 a = _mm512_add_ps(_mm512_load_ps(sum), bias1);
        __m512 b = _mm512_add_ps(_mm512_load_ps(sum + TILE * TILE), bias2);
        uint16_t *y = p->y + (pending->row + r) * p->columns + column;
        if (form == PLAIN) {
            __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
            if (p->residual) {
                int64_t at = (pending->row + r) * p->residual_stride + column;
                __m512i added = _mm512_maskz_loadu_epi16(there, p->residual + at);
                a = _mm512_add_ps(
                    widened(_mm512_castsi512_si256(both)), widened(_mm512_castsi512_si256(added))
                );
                b = _mm512_add_ps(
                    widened(_mm512_extracti64x4_epi64(both, 1)),
                    widened(_mm512_extracti64x4_epi64(added, 1))
                );
                both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
            }
            _mm512_mask_storeu_epi16(y, there, both);
        } else {
            __m512 gate = activated(widened(narrowed(a)), form);
            __m512 up = widened(narrowed(b));
            _mm256_mask_storeu_epi16(y, there, narrowed(_mm512_mul_ps(gate, up)));
        }
    }
    pending->done = end;
}

AMX static __attribute__((noinline)) void finish(
    const Product *p, Pending *pending, int64_t count
) {
    switch (p->form) {
    case PLAIN: finish_as(p, pending, count, PLAIN); break;
    case GATED_SILU: finish_as(p, pending, count, GATED_SILU); break;
    default: finish_as(p, pending, count, GATED_GELU_TANH);
    }
}

/* Where a product stands: at x, the weights, and what is fetched next. */
typedef struct {
    const char *x, *w, *ahead;
} Place;

/* Adds `steps` steps to the sums, of one or two tiles of x, and moves on. Fetches `lines` lines of
 * 64 bytes a step into the second-level cache, and finishes `pace` rows a step of what is
 * pending, while the tile unit is busy. */
AMX INLINE Place multiply(
    const Product *p, Place at, int64_t steps, int64_t lines, Pending *pending, int64_t pace,
    int two
) {
    const char *lower = at.x + TILE * p->x_bytes;
    for (int64_t k = 0; k < steps; k++) {
        _tile_loadd(6, at.w, 64);
        _tile_loadd(4, at.x, p->x_bytes);
        for (int64_t i = 0; i < lines; i++) _mm_prefetch(at.ahead + i * 64, _MM_HINT_T1);
        _tile_loadd(7, at.w + TILE_BYTES, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (two) _tile_loadd(5, lower, p->x_bytes);
        _tile_dpbf16ps(1, 4, 7);
        if (two) {
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        if (pending->done < pending->rows) finish(p, pending, pace);
        at = (Place){at.x + 64, at.w + STEP_BYTES, at.ahead + lines * 64};
        lower += 64;
    }
    return at;
}

AMX INLINE void load_sums(const float *sums, int two) {
    _tile_loadd(0, sums, 64);
    _tile_loadd(1, sums + TILE * TILE, 64);
    if (two) {
        _tile_loadd(2, sums + 2 * TILE * TILE, 64);
        _tile_loadd(3, sums + 3 * TILE * TILE, 64);
    }
}

AMX INLINE void store_sums(float *sums, int two) {
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + TILE * TILE, 64);
    if (two) {
        _tile_stored(2, sums + 2 * TILE * TILE, 64);
        _tile_stored(3, sums + 3 * TILE * TILE, 64);
    }
}

/* A block of rows times a panel for `steps` steps; `fresh`: they are the first. */
AMX INLINE void block(
    const Product *p, Place at, int64_t steps, int fresh, float *sums, int64_t lines,
    Pending *pending, int two
) {
    int64_t pace = ceiling(BLOCK, steps);
    if (fresh) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        load_sums(sums, two);
    }
    if (lines == STEP_BYTES / 64) { /* each weight is used once: fetch only a little ahead */
        const char *next = at.ahead;
        int64_t last = least(steps, two ? 2 : 1);
        at.ahead = at.w + last * STEP_BYTES;
        at = multiply(p, at, steps - last, lines, pending, pace, two);
        at.ahead = next;
        steps = last;
    }
    multiply(p, at, steps, lines, pending, pace, two);
    store_sums(sums, two); /* by now nothing is pending: these may have been its sums */
}

/* Steps of a panel that stay in the first-level cache while rows of x pass through. Rows that lie
 * a multiple of 2 KiB apart displace one another in a part of it, others what is all over it. */
static int64_t held_steps(const Product *p) { return p->x_bytes % 2048 ? 12 : 16; }

/* A unit: rows [row, row + rows) times panels [panel, panel + panels). `sums` has room for each of
 * its blocks of rows, and in a product that is cut into parts for those of each panel. */
AMX static void unit(
    const Product *p, const Cut *cut, int64_t row, int64_t rows, int64_t panel, int64_t panels,
    float *sums, Pending *pending
) {
    int64_t blocks = ceiling(rows, BLOCK), lines = ceiling(STEP_BYTES / 64, blocks);
    int64_t slots = cut->part < p->steps ? blocks * panels : blocks;
    for (int64_t part = 0; part < p->steps; part += cut->part) {
        int64_t end = least(p->steps, part + cut->part);
        int64_t stride = blocks > 1 ? held_steps(p) : end - part;
        for (int64_t n = 0; n < panels; n++) {
            const char *w = p->packed + (panel + n) * p->steps * STEP_BYTES;
            const char *next = n + 1 < panels || end - part == p->steps
                ? w + (p->steps + part) * STEP_BYTES
                : w + (end - (panels - 1) * p->steps) * STEP_BYTES;
            for (int64_t step = part; step < end; step += stride) {
                int64_t steps = least(stride, end - step);
                const char *ahead = step + steps < end ? w + (step + steps) * STEP_BYTES : next;
                for (int64_t b = 0; b < blocks; b++) {
                    int64_t at = row + b * BLOCK, count = least(BLOCK, row + rows - at);
                    float *here = sums + (n * blocks + b) % slots * BLOCK * BLOCK;
                    Place place = {
                        p->x + at * p->x_bytes + step * 64, w + step * STEP_BYTES,
                        ahead + b * steps * lines * 64
                    };
                    if (blocks > 1 && count < BLOCK) set_tiles(count);
                    if (count > TILE)
                        block(p, place, steps, step == 0, here, lines, pending, 1);
                    else
                        block(p, place, steps, step == 0, here, lines, pending, 0);
                    if (blocks > 1 && count < BLOCK) set_tiles(BLOCK);
                    if (step + steps == p->steps)
                        *pending = (Pending){here, at, count, panel + n, 0};
                }
            }
        }
    }
}

/* x stays in the second-level cache while panels pass through it, in chunks of rows if it is large,
 * and of columns too if those would be of so few rows that panels are waited for. */
static Cut plan(const Product *p, int64_t threads) {
    int64_t row_bytes = p->steps * 64, panel_bytes = p->steps * STEP_BYTES;
    Cut cut = {p->rows, 1, p->steps};
    if (p->rows * row_bytes <= CACHED) {
        cut.panels = most(1, least(SHARE / panel_bytes, p->panels / (4 * threads)));
        return cut;
    }
    int64_t rows = CACHED / row_bytes / BLOCK * BLOCK;
    int parted = rows < MANY; /* too few for a panel that comes from memory */
    int64_t chunks = ceiling(p->rows, parted ? 3 * MANY / 2 : rows);
    cut.rows = ceiling(ceiling(p->rows, chunks), BLOCK) * BLOCK;
    if (parted) {
        cut.part = ceiling(p->steps, ceiling(cut.rows * row_bytes, CACHED));
        cut.panels = most(1, least(TILE, p->panels / threads));
    }
    return cut;
}

AMX static void work(const Product *p, const Cut *cut, int64_t *taken) {
    int64_t groups = ceiling(p->panels, cut->panels);
    int64_t units = groups * ceiling(p->rows, cut->rows);
    int64_t blocks = ceiling(cut->rows, BLOCK) * (cut->part < p->steps ? cut->panels : 1);
    float *sums = aligned_alloc(64, blocks * BLOCK * BLOCK * sizeof(float));
    Pending pending = {0};
    set_tiles(least(cut->rows, BLOCK));
    for (int64_t u; (u = __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED)) < units;) {
        int64_t row = u / groups * cut->rows, panel = u % groups * cut->panels;
        int64_t rows = least(cut->rows, p->rows - row);
        int64_t panels = least(cut->panels, p->panels - panel);
        if (rows < least(cut->rows, BLOCK)) set_tiles(rows);
        unit(p, cut, row, rows, panel, panels, sums, &pending);
    }
    finish(p, &pending, BLOCK);
    _tile_release();
    free(sums);
}

void hala_linear(
    const void *x, int64_t x_stride, const void *packed, const void *bias, const void *residual,
    int64_t residual_stride, void *y, int64_t rows, int64_t columns, int64_t K, int form
) {
    if (rows == 0) return;
    int64_t width = form == PLAIN ? 2 * TILE : TILE;
    Product p = {
        x, packed, bias, residual, y, x_stride * 2, residual_stride, rows, columns, K / STEP,
        ceiling(columns, width), form
    };
    int small = rows * columns * K < (1 << 20);
    Cut cut = plan(&p, small ? 1 : omp_get_max_threads());
    int64_t taken = 0;
#pragma omp parallel if (!small)
    work(&p, &cut, &taken);
}

/* 16 x 16 words of 32 bits, transposed. */
INLINE void transpose(__m512i *r) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
    }
}

/* w [N, K], its rows w_stride apart, into panels; `gated`: its upper half is the gate. */
void hala_linear_pack(
    const uint16_t *w, int64_t w_stride, uint16_t *packed, int64_t N, int64_t K, int gated
) {
    int64_t height = gated ? N / 2 : N, width = gated ? TILE : 2 * TILE;
    int64_t panels = ceiling(height, width), steps = ceiling(K, STEP);
#pragma omp parallel for schedule(dynamic, 4) if (panels > 8)
    for (int64_t panel = 0; panel < panels; panel++)
        for (int j = 0; j < 2; j++) {
            int64_t n = panel * width + (gated ? 0 : j * TILE);
            int64_t count = most(0, least(TILE, height - n));
            const uint16_t *from = w + (n + (gated ? j * height : 0)) * w_stride;
            for (int64_t step = 0; step < steps; step++) {
                __mmask32 there =
                    K - step * STEP >= STEP ? ~0u : (1u << (K - step * STEP)) - 1;
                __m512i rows[TILE];
                for (int i = 0; i < TILE; i++)
                    rows[i] = i < count
                        ? _mm512_maskz_loadu_epi16(there, from + i * w_stride + step * STEP)
                        : _mm512_setzero_si512();
                transpose(rows);
                uint16_t *to = packed + ((panel * steps + step) * 2 + j) * (TILE_BYTES / 2);
                for (int i = 0; i < TILE; i++) _mm512_storeu_si512(to + i * STEP, rows[i]);
            }
        }
}

/* Rows ids [count] of a packed matrix that is not gated, to y [count, K]. */
void hala_linear_rows(
    const uint32_t *packed, const int64_t *ids, uint16_t *y, int64_t count, int64_t K
) {
    int64_t steps = ceiling(K, STEP);
#pragma omp parallel for if (count > 8)
    for (int64_t t = 0; t < count; t++) {
        int64_t n = ids[t];
        const uint32_t *from = packed
            + (n / (2 * TILE) * steps * 2 + n / TILE % 2) * (TILE_BYTES / 4) + n % TILE;
        for (int64_t step = 0; step < steps; step++) {
            uint32_t row[TILE];
            for (int i = 0; i < TILE; i++) row[i] = from[step * (STEP_BYTES / 4) + i * TILE];
            int64_t left = K - step * STEP;
            memcpy(y + t * K + step * STEP, row, 2 * least(STEP, left));
        }
    }
}

/* Whether products run here: the processor has the tile unit and Linux lets the process use it. */
int hala_linear_available(void) {
    enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16")
        && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}

#else

int hala_linear_available(void) { return 0; }

#endif
