/* Attention over paged K and V: decode (one query token a sequence) and packed prompt chunks.
 *
 *     out[t, h] = sum_j softmax_j(cap(scale q[t, h] . k[j, h / G])) v[j, h / G]
 *
 * over the positions j that the token sees: the last `window` up to its own. q and out
 * [T, Hq, D], caches [pages, page_size, Hkv, D], all float32 or bfloat16, read where they lie.
 * Position p of sequence s is row p % page_size of page table[s, p / page_size].
 * Bytes: decode reads the visible K and V once, for all G query heads of a KV head together.
 * FLOPs: 4 D Hq for each visible pair of query and key.
 *
 * A task is up to TILE rows, a row being a token and one of its heads: part of a chunk with the G
 * heads of one KV head, or a short one with those of several, whose K and V are then read together.
 * It goes through the context in blocks of KEYS positions that start at multiples of KEYS, with the
 * online softmax: a row keeps its largest score, the sum of its weights e^(score - largest), and
 * the so weighted sum of V. What a row does not see has weight 0 and changes no bit of it, and
 * a row's arithmetic does not depend on the rows beside it. So neither the batch, nor how a prompt
 * was chunked, nor the threads change a result; and a decode gives the bits of a prefill.
 *
 * A block's K is first turned about, into 32-bit words [D / 2 pairs (float32: D), KEYS]: products
 * with 16 keys are then one instruction without sums across lanes, and tile instructions (AMX) want
 * the same layout. These also want pairs of V's rows interleaved, and weights in bfloat16. */
#pragma GCC target("prefer-vector-width=512")
#include <omp.h>

#include "attention_block.h"
#include "attention_tiles.h"

/* `rows` rows of each of `heads` KV heads of a sequence: the query heads of tokens from
 * first_row / G on, at position `origin` + first_row / G. They see positions low ... end - 1. */
typedef struct {
    int64_t sequence, head, heads, first_token, first_row, rows, origin, low, end;
} Task; /* sequence -1: there is none */

/* The rows of the block that holds `position`. Those that the task does not see, which may not be
 * read, are one that it sees: their weights are 0. */
INLINE void find_rows(const Call *c, Block *block, const Task *t, int64_t position, int bf16) {
    const int64_t start = position / KEYS * KEYS;
    int64_t first = larger(start, t->low), stop = smaller(start + KEYS, t->end);
    int64_t entry = t->sequence * c->table_stride + first / c->page_size;
    int64_t in_page = first % c->page_size;
    int64_t page = number(c->table, entry, c->wide);
    for (int64_t p = first; p < stop; p++) {
        int64_t at = page * c->page_stride + in_page * c->row_stride + t->head * c->head_stride;
        block->k[p - start] = c->k + at * width_of(bf16);
        block->v[p - start] = c->v + at * width_of(bf16);
        if (++in_page == c->page_size && p + 1 < stop) {
            in_page = 0;
            page = number(c->table, ++entry, c->wide);
        }
    }
    for (int64_t i = 0; i < KEYS; i++)
        if (i < first - start || i >= stop - start) {
            block->k[i] = block->k[first - start];
            block->v[i] = block->v[first - start];
        }
}

/* `rows` rows of the scratch from `row` on, with the keys of a block. */
INLINE void visit(const Call *c, Scratch *s, const Block *block, int64_t offset, int64_t count,
                  int64_t row, int64_t rows, int64_t start, int bf16, int tiles) {
    const int64_t dim = c->dim, first = s->position[row], last = s->position[row + rows - 1];
    int64_t from = c->window ? larger(first - c->window + 1 - start, 0) : 0;
    int64_t to = smaller(last + 1 - start, KEYS);
    if (from >= to) return;
    int64_t width = up_to(to, 32), r = 0;
    if (tiles) {
        visit_tiles(c, s, count, row, rows, start, width);
        return;
    }
    const uint32_t *queries = s->queries + row * count;
    float *sums = s->sums + row * dim;
    for (; r + 4 <= rows; r += 4)
        score_rows(s, queries + r * count, count, s->scores + r * KEYS, width, 4, bf16);
    for (; r + 2 <= rows; r += 2)
        score_rows(s, queries + r * count, count, s->scores + r * KEYS, width, 2, bf16);
    for (; r < rows; r++)
        score_rows(s, queries + r * count, count, s->scores + r * KEYS, width, 1, bf16);
    weigh(c, s, row, rows, start, width);
    r = 0;
    for (; r + 4 <= rows; r += 4)
        add_rows(s, block, offset, sums + r * dim, dim, r, from, to, 4, bf16);
    for (; r + 2 <= rows; r += 2)
        add_rows(s, block, offset, sums + r * dim, dim, r, from, to, 2, bf16);
    for (; r < rows; r++)
        add_rows(s, block, offset, sums + r * dim, dim, r, from, to, 1, bf16);
}

/* Where row `row` of head `head` of a task lies in q, and in out. */
INLINE int64_t q_at(const Call *c, const Task *t, int64_t head, int64_t row) {
    row += t->first_row;
    return (t->first_token + row / c->group) * c->q_stride +
           ((t->head + head) * c->group + row % c->group) * c->q_head_stride;
}

INLINE int64_t out_at(const Call *c, const Task *t, int64_t head, int64_t row) {
    row += t->first_row;
    return ((t->first_token + row / c->group) * c->heads + (t->head + head) * c->group +
            row % c->group) * c->dim;
}

/* Task `index`. It sees nothing (low = end) where its chunk is shorter than the longest. */
INLINE Task task_at(const Call *c, int64_t index) {
    Task t = {.sequence = -1};
    const int64_t head_parts = (c->kv_heads + c->heads_of_task - 1) / c->heads_of_task;
    if (index >= c->parts * c->sequences * head_parts) return t;
    /* The last rows of chunks see the most: they go first. */
    t.first_row = (c->parts - 1 - index / (c->sequences * head_parts)) * TILE;
    t.sequence = index / head_parts % c->sequences;
    t.head = index % head_parts * c->heads_of_task;
    t.heads = smaller(c->heads_of_task, c->kv_heads - t.head);
    int64_t tokens = 1;
    t.first_token = t.sequence;
    if (c->bounds) {
        t.first_token = number(c->bounds, t.sequence, c->wide);
        tokens = number(c->bounds, t.sequence + 1, c->wide) - t.first_token;
    }
    t.rows = larger(smaller(tokens * c->group - t.first_row, TILE), 0);
    t.origin = number(c->contexts, t.sequence, c->wide) - tokens;
    if (t.rows == 0) return t;
    t.end = t.origin + (t.first_row + t.rows - 1) / c->group + 1;
    t.low = c->window ? larger(t.origin + t.first_row / c->group - c->window + 1, 0) : 0;
    return t;
}

/* Returns whether the scratch now knows the first block of `next`. */
INLINE int attend(const Call *c, Scratch *s, const Task *t, const Task *next, int bf16, int tiles) {
    const int64_t dim = c->dim, bytes = width_of(bf16);
    /* Words of a row; in tiles a multiple of 16. */
    const int64_t words = dim * bytes / 4, count = tiles ? up_to(words, 16) : words;
    for (int64_t head = 0; head < t->heads; head++)
        for (int64_t r = 0; r < c->pitch; r++) {
            int64_t row = head * c->pitch + r;
            uint32_t *query = s->queries + row * count;
            memset(query, 0, count * 4);
            if (r < t->rows) memcpy(query, c->q + q_at(c, t, head, r) * bytes, dim * bytes);
            s->position[row] = t->origin + (t->first_row + r) / c->group;
            s->peak[row] = LOWEST;
            s->total[row] = (vec){0};
        }
    memset(s->sums, 0, t->heads * c->pitch * dim * 4);
    int knows_next = 0;
    for (int64_t start = t->low / KEYS * KEYS; start < t->end; start += KEYS) {
        const Block *block = s->blocks + s->current;
        Block *following = s->blocks + (s->current ^= 1);
        const Task *after = start + KEYS < t->end ? t : next;
        knows_next = after->low < after->end;
        const int64_t position = after == t ? start + KEYS : after->low;
        if (knows_next) find_rows(c, following, after, position, bf16);
        int64_t used = smaller(up_to(t->end - start, 32), KEYS);
        Ahead ahead = {following, ((after->heads - 1) * c->head_stride + dim) * bytes, 0, 0};
        if (knows_next) ahead.parts = t->heads * used / ROWS * (tiles ? 2 : 1);
        for (int64_t head = 0; head < t->heads; head++) {
            int64_t offset = head * c->head_stride * bytes;
            turn_keys(s, block, offset, words, used, &ahead);
            if (tiles) {
                pair_values(s, block, offset, dim, used, &ahead);
            }
            for (int64_t r = 0; r < t->rows; r += ROWS)
                visit(c, s, block, offset, count, head * c->pitch + r, smaller(ROWS, t->rows - r),
                      start, bf16, tiles);
        }
    }
    for (int64_t head = 0; head < t->heads; head++)
        for (int64_t r = 0; r < t->rows; r++) {
            int64_t row = head * c->pitch + r, at = out_at(c, t, head, r);
            float total = sum_vec(s->total[row]), share = total > 0 ? 1.0f / total : 0.0f;
            for (int64_t d = 0; d < dim; d += LANES)
                store_vec(c->out, at + d, load_vec(s->sums, row * dim + d, 0) * share, bf16);
        }
    return knows_next;
}

/* A thread's share: task after task, of each the next known in time to fetch what it reads. */
INLINE void run(const Call *c, int64_t *taken, int bf16, int tiles) {
    Scratch scratch __attribute__((aligned(64)));
    scratch.current = 0;
    int known = 0;
    Task task = task_at(c, __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED));
    while (task.sequence >= 0) {
        Task next = task_at(c, __atomic_fetch_add(taken, 1, __ATOMIC_RELAXED));
        if (!known && task.low < task.end)
            find_rows(c, scratch.blocks + scratch.current, &task, task.low, bf16);
        known = attend(c, &scratch, &task, &next, bf16, tiles);
        task = next;
    }
}

/* D is a multiple of 16 up to 256. `bounds` [sequences + 1] of the packed chunks, or NULL where
 * each sequence has one token; `longest` chunk. `contexts` [sequences]: positions up to the last
 * token's. Strides in elements: of q its tokens' and heads', of the caches pages', rows', heads'.
 * `tiles`: where `hala_attention_has_tiles`, and only for bfloat16. */
void hala_attention(const void *q, const void *k, const void *v, void *out, const void *table,
                    const void *bounds, const void *contexts, int64_t sequences, int64_t longest,
                    int64_t heads, int64_t kv_heads, int64_t dim, int64_t page_size,
                    int64_t q_stride, int64_t q_head_stride, int64_t table_stride,
                    int64_t page_stride, int64_t row_stride, int64_t head_stride, int64_t window,
                    float scale, float softcap, int wide, int bf16, int tiles) {
    Call c = {q, k, v, out, table, bounds, contexts, sequences, longest, heads, kv_heads, dim,
              page_size, q_stride, q_head_stride, table_stride, page_stride, row_stride,
              head_stride, window, scale, softcap, wide, .group = heads / kv_heads};
    if (sequences == 0 || longest == 0) return;
    c.parts = (longest * c.group + TILE - 1) / TILE;
    c.pitch = smaller(longest * c.group, TILE);
    if (c.pitch > ROWS) c.pitch = up_to(c.pitch, ROWS);
    /* Heads of a sequence together, unless that leaves threads without a task. */
    c.heads_of_task = c.parts * sequences * kv_heads / (4 * omp_get_max_threads());
    c.heads_of_task = larger(1, smaller(c.heads_of_task, smaller(kv_heads, TILE / c.pitch)));
    int64_t taken = 0;
#pragma omp parallel if (c.parts * sequences * kv_heads > c.heads_of_task)
    {
        if (!bf16) {
            run(&c, &taken, 0, 0);
        } else if (!tiles) {
            run(&c, &taken, 1, 0);
        } else {
            configure_tiles(smaller(c.pitch, ROWS));
            run(&c, &taken, 1, 1);
            release_tiles();
        }
    }
}
