/* Norms of the heads of q and k, rotary embedding, and the write of K and V to the paged cache.
 *
 * q [T, Hq, D], k and v [T, Hkv, D], out [T, Hq, D] contiguous, caches [slots, Hkv, D]; all
 * bfloat16 or all float32, the columns of a head adjacent. cos and sin [T, D / 2] float32, both
 * NULL where nothing rotates. Bytes: q, k, v and the two table rows of a token read, q, k, v
 * written, once each.
 *
 * In bfloat16 a head is rounded where transformers rounds it: what is normed, that times the
 * weight, and what is rotated. */
#include <math.h>

#include "simd.h"

enum { WIDEST = 256, PARALLEL = 1 << 14 /* elements that are worth another thread */ };

#if LANES == 16
static const vec_words EVEN = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
static const vec_words LOW = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
#else
static const vec_words EVEN = {0, 2, 4, 6, 8, 10, 12, 14};
static const vec_words LOW = {0, 8, 1, 9, 2, 10, 3, 11};
#endif

/* One head [dim] to `to`; `weight` NULL: not normed. */
INLINE void move_head(const void *from, void *to, int64_t dim, const void *weight, float eps,
                      const float *cos, const float *sin, int interleaved, int bf16) {
    float held[WIDEST + LANES];
    const int64_t half = dim / 2;
    vec squares = {0};
    for (int64_t d = 0; d < dim; d += LANES) {
        vec x = load_upto(from, d, dim, bf16);
        squares += x * x;
        store_vec(held, d, x, 0);
    }
    if (weight) {
        /* A sum beyond float32 gives zeros. */
        float inverse = 1.0f / sqrtf(sum_vec(squares) / dim + eps);
        for (int64_t d = 0; d < dim; d += LANES) {
            vec x = rounded_vec(load_vec(held, d, 0) * inverse, bf16);
            store_vec(held, d, rounded_vec(x * load_upto(weight, d, dim, bf16), bf16), 0);
        }
    }
    for (int64_t i = 0; cos && i < half; i += LANES) {
        vec a, b, c = load_upto(cos, i, half, 0), s = load_upto(sin, i, half, 0);
        if (interleaved) {
            vec first = load_upto(held, 2 * i, dim, 0);
            vec second = load_upto(held, 2 * i + LANES, dim, 0);
            a = __builtin_shuffle(first, second, EVEN);
            b = __builtin_shuffle(first, second, EVEN + 1);
        } else {
            a = load_vec(held, i, 0);
            b = load_vec(held, half + i, 0);
        }
        vec rotated_a = a * c - b * s, rotated_b = b * c + a * s;
        if (interleaved) {
            store_upto(held, 2 * i, dim, __builtin_shuffle(rotated_a, rotated_b, LOW), 0);
            store_upto(held, 2 * i + LANES, dim,
                       __builtin_shuffle(rotated_a, rotated_b, LOW + LANES / 2), 0);
        } else {
            store_upto(held, i, half, rotated_a, 0);
            store_upto(held, half + i, dim, rotated_b, 0);
        }
    }
    for (int64_t d = 0; d < dim; d += LANES)
        store_upto(to, d, dim, load_vec(held, d, 0), bf16);
}

typedef struct {
    const char *q, *k, *v, *q_weight, *k_weight;
    const float *cos, *sin;
    char *out, *k_cache, *v_cache;
    const void *slots; /* int64 where `wide`, else int32 */
    int64_t tokens, heads, kv_heads, dim;
    int64_t q_stride, q_head_stride, k_stride, k_head_stride, v_stride, v_head_stride;
    int64_t k_slot_stride, k_slot_head_stride, v_slot_stride, v_slot_head_stride;
    float eps;
    int interleaved, wide;
} Call;

INLINE void move_token(const Call *c, int64_t t, int interleaved, int bf16) {
    const int64_t bytes = width_of(bf16), dim = c->dim;
    const float *cos = c->cos ? c->cos + t * (dim / 2) : NULL;
    const float *sin = c->cos ? c->sin + t * (dim / 2) : NULL;
    for (int64_t h = 0; h < c->heads; h++)
        move_head(c->q + (t * c->q_stride + h * c->q_head_stride) * bytes,
                  c->out + (t * c->heads + h) * dim * bytes, dim, c->q_weight, c->eps, cos, sin,
                  interleaved, bf16);
    const int64_t slot = c->wide ? ((const int64_t *)c->slots)[t] : ((const int32_t *)c->slots)[t];
    if (slot < 0)
        return;
    for (int64_t h = 0; h < c->kv_heads; h++) {
        move_head(c->k + (t * c->k_stride + h * c->k_head_stride) * bytes,
                  c->k_cache + (slot * c->k_slot_stride + h * c->k_slot_head_stride) * bytes, dim,
                  c->k_weight, c->eps, cos, sin, interleaved, bf16);
        memcpy(c->v_cache + (slot * c->v_slot_stride + h * c->v_slot_head_stride) * bytes,
               c->v + (t * c->v_stride + h * c->v_head_stride) * bytes, dim * bytes);
    }
}

/* Strides in elements: of q, k and v their tokens' and heads', of the caches their slots' and
 * heads'. A token of a negative slot is not written to the caches. */
void hala_rope_cache(const void *q, const void *k, const void *v, const void *q_weight,
                     const void *k_weight, const void *cos, const void *sin, void *out,
                     void *k_cache, void *v_cache, const void *slots, int64_t tokens,
                     int64_t heads, int64_t kv_heads, int64_t dim, int64_t q_stride,
                     int64_t q_head_stride, int64_t k_stride, int64_t k_head_stride,
                     int64_t v_stride, int64_t v_head_stride, int64_t k_slot_stride,
                     int64_t k_slot_head_stride, int64_t v_slot_stride, int64_t v_slot_head_stride,
                     float eps, int interleaved, int wide, int bf16) {
    const Call c = {q, k, v, q_weight, k_weight, cos, sin, out, k_cache, v_cache, slots, tokens,
                    heads, kv_heads, dim, q_stride, q_head_stride, k_stride, k_head_stride,
                    v_stride, v_head_stride, k_slot_stride, k_slot_head_stride, v_slot_stride,
                    v_slot_head_stride, eps, interleaved, wide};
#pragma omp parallel for if (tokens * (heads + kv_heads) * dim > PARALLEL)
    for (int64_t t = 0; t < tokens; t++) {
        if (bf16)
            interleaved ? move_token(&c, t, 1, 1) : move_token(&c, t, 0, 1);
        else
            interleaved ? move_token(&c, t, 1, 0) : move_token(&c, t, 0, 0);
    }
}
