/* Gated activations: out = act(gate) * up, where a row of the input is gate then up.
 *
 * gate_up: [rows, 2n], its rows `stride` apart; out: [rows, n], contiguous; both bfloat16 or both
 * float32. Bytes: 2n read and n written a row. act(gate) is rounded before it is multiplied, as
 * torch does in two operations. */
#include "exp.h"

enum { SILU, GELU_TANH };
enum { PARALLEL = 1 << 14 }; /* elements that are worth another thread */

/* x sigmoid(x), or x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)). */
INLINE vec activated(vec x, int kind) {
    vec inner = kind == SILU ? x : (x + x * x * x * 0.044715f) * 1.59576912f;
    return x / (1 + fast_exp_vec(-inner));
}

INLINE void gated_row(const char *gate, char *out, int64_t n, int kind, int bf16) {
    const char *up = gate + n * width_of(bf16);
    for (int64_t i = 0; i < n; i += LANES) {
        vec y = rounded_vec(activated(load_upto(gate, i, n, bf16), kind), bf16);
        store_upto(out, i, n, y * load_upto(up, i, n, bf16), bf16);
    }
}

void hala_gated(const char *gate_up, char *out, int64_t rows, int64_t n, int64_t stride, int kind,
                int bf16) {
#pragma omp parallel for if (rows > 1 && rows * n > PARALLEL)
    for (int64_t r = 0; r < rows; r++) {
        const char *gate = gate_up + r * stride * width_of(bf16);
        char *to = out + r * n * width_of(bf16);
        if (kind == SILU)
            bf16 ? gated_row(gate, to, n, SILU, 1) : gated_row(gate, to, n, SILU, 0);
        else
            bf16 ? gated_row(gate, to, n, GELU_TANH, 1) : gated_row(gate, to, n, GELU_TANH, 0);
    }
}
