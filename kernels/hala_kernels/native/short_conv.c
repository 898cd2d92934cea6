/* LFM2's gated short convolution: y_t = C_t * (sum over the taps of w * u + bias) with u = B * x.
 *
 * bcx: [tokens, 3n] B, C, x of each token, its rows `stride` apart; weight: [taps, n], the oldest
 * tap first, its rows `tap_stride` apart; bias: [n] or absent (NULL); out: [tokens, n], contiguous.
 * Tokens starts[s] to starts[s + 1] are sequence s. states: [slots, taps - 1, n] of two strides,
 * the last columns of u before this step: slots[s] is that of sequence s; a negative one counts as
 * zeros and is not written. All values are bfloat16 or all float32. Bytes: 3n read and n written a
 * token, and each state in and out.
 *
 * u is rounded as its state holds it, the sum before C is multiplied; sums are float32. */
#include "simd.h"

enum { BLOCK = 256 };        /* columns that one thread takes through a whole sequence */
enum { CHUNK = 16 };         /* tokens that are read before the next columns of the first of them */
enum { PARALLEL = 1 << 13 }; /* elements that are worth another thread */

typedef struct {
    const char *bcx, *weight, *bias;
    char *states, *out;
    const int64_t *slots, *starts;
    int64_t n, stride, tap_stride, slot_stride, state_stride;
} Conv;

/* u of a token, at columns i. */
INLINE vec product(const Conv *c, int64_t token, int64_t i, int64_t end, int bf16) {
    const char *b = c->bcx + token * c->stride * width_of(bf16);
    const char *x = b + 2 * c->n * width_of(bf16);
    return rounded_vec(load_upto(b, i, end, bf16) * load_upto(x, i, end, bf16), bf16);
}

/* Columns i of a sequence's tokens `from` to `to`, counted from its first, which is row `start`;
 * `state` is NULL for zeros, and is rewritten with the `last` tokens. u[back] is that of the token
 * `back` before. */
INLINE void conv_columns(const Conv *c, int64_t start, int64_t from, int64_t to, int last,
                         char *state, int64_t i, int64_t end, int taps, int bf16) {
    int64_t width = width_of(bf16), state_row = c->state_stride * width;
    vec weight[4], u[4], bias = {0};
#pragma GCC unroll 4
    for (int tap = 0; tap < taps; tap++)
        weight[tap] = load_upto(c->weight + tap * c->tap_stride * width, i, end, bf16);
    if (c->bias)
        bias = load_upto(c->bias, i, end, bf16);
#pragma GCC unroll 4
    for (int back = 1; back < taps; back++)
        if (from >= back)
            u[back] = product(c, start + from - back, i, end, bf16);
        else if (state)
            u[back] = load_upto(state + (taps - 1 - (back - from)) * state_row, i, end, bf16);
        else
            u[back] = (vec){0};
    for (int64_t t = start + from; t < start + to; t++) {
        u[0] = product(c, t, i, end, bf16);
        vec sum = u[0] * weight[taps - 1];
#pragma GCC unroll 4
        for (int back = taps - 1; back > 0; back--)
            sum += u[back] * weight[taps - 1 - back];
        vec gate = load_upto(c->bcx + (t * c->stride + c->n) * width, i, end, bf16);
        store_upto(c->out + t * c->n * width, i, end, gate * rounded_vec(sum + bias, bf16), bf16);
#pragma GCC unroll 4
        for (int back = taps - 1; back > 0; back--)
            u[back] = u[back - 1];
    }
    if (!last || !state)
        return;
#pragma GCC unroll 4
    for (int back = 1; back < taps; back++)
        store_upto(state + (taps - 1 - back) * state_row, i, end, u[back], bf16);
}

/* Columns `first` to `end` of sequence s, CHUNK tokens at a time. */
INLINE void conv_block(const Conv *c, int64_t s, int64_t first, int64_t end, int taps, int bf16) {
    int64_t start = c->starts[s], tokens = c->starts[s + 1] - start, slot = c->slots[s];
    char *state = slot < 0 ? 0 : c->states + slot * c->slot_stride * width_of(bf16);
    for (int64_t from = 0; from < tokens; from += CHUNK) {
        int last = from + CHUNK >= tokens;
        int64_t to = last ? tokens : from + CHUNK, i = first;
        for (; i + LANES <= end; i += LANES)
            conv_columns(c, start, from, to, last, state, i, i + LANES, taps, bf16);
        if (i < end)
            conv_columns(c, start, from, to, last, state, i, end, taps, bf16);
    }
}

void hala_short_conv(const void *bcx, const void *weight, const void *bias, void *states,
                     const int64_t *slots, const int64_t *starts, void *out, int64_t sequences,
                     int64_t n, int64_t stride, int64_t tap_stride, int64_t slot_stride,
                     int64_t state_stride, int taps, int bf16) {
    Conv c = {bcx, weight, bias, states, out, slots, starts, n, stride, tap_stride, slot_stride,
              state_stride};
    int64_t blocks = (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for if (starts[sequences] * n > PARALLEL)
    for (int64_t task = 0; task < sequences * blocks; task++) {
        int64_t s = task / blocks, first = task % blocks * BLOCK;
        int64_t end = first + BLOCK < n ? first + BLOCK : n;
        if (taps == 2)
            bf16 ? conv_block(&c, s, first, end, 2, 1) : conv_block(&c, s, first, end, 2, 0);
        else if (taps == 3)
            bf16 ? conv_block(&c, s, first, end, 3, 1) : conv_block(&c, s, first, end, 3, 0);
        else
            bf16 ? conv_block(&c, s, first, end, 4, 1) : conv_block(&c, s, first, end, 4, 0);
    }
}
