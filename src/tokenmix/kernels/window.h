/* Softmax attention over a band, forward: BLOCK queries at a time, four of them in a product.
 *
 * Scores of a block lie in rows of `stride` columns; column 0 is key `base`. Every group of four queries has its own
 * first and last column, so that little but the band is computed. Keys are kept transposed, a block of BLOCK keys at a
 * time, in a ring that holds those the band still reads.
 */

#define Band NAME(Band)
#define Columns NAME(Columns)
#define band_sizes NAME(band_sizes)
#define band_block NAME(band_block)
#define band_columns NAME(band_columns)
#define band_scores NAME(band_scores)
#define load_queries NAME(load_queries)
#define turn_keys NAME(turn_keys)
#define clear_outside NAME(clear_outside)
#define row_keys NAME(row_keys)
#define window_forward NAME(window_forward)
#define window_head NAME(window_head)

#ifndef BLOCK
#define BLOCK 64
#endif

/* A block of queries: `count` from `first` on; keys from `base`, in `stride` columns. */
typedef struct {
    int64_t first, count, base, stride;
} Band;

/* Columns that a group of four queries computes [low, high), whole vectors; keys that it reads, [from, to). */
typedef struct {
    int64_t low, high, from, to;
} Columns;

/* Blocks in a ring of transposed keys, and the most columns of a block of queries. */
INLINE int64_t band_sizes(const Window *w, int64_t *stride) {
    const int64_t blocks = (w->window + BLOCK - 2) / BLOCK + 1 + (w->causal ? 0 : (w->window + BLOCK - 2) / BLOCK);
    *stride = (blocks + 1) * BLOCK;
    return blocks + 1;
}

INLINE Band band_block(const Window *w, int64_t first) {
    Band b = {.first = first, .count = w->length - first < BLOCK ? w->length - first : BLOCK};
    const int64_t low = first - w->window + 1 > 0 ? first - w->window + 1 : 0;
    int64_t high = first + b.count + (w->causal ? 0 : w->window - 1);
    if (high > w->length) high = w->length;
    b.base = low / BLOCK * BLOCK;
    b.stride = (high - b.base + BLOCK - 1) / BLOCK * BLOCK;
    return b;
}

INLINE void row_keys(const Window *w, int64_t query, int64_t *from, int64_t *to) {
    *from = query - w->window + 1 > 0 ? query - w->window + 1 : 0;
    *to = query + (w->causal ? 1 : w->window);
    if (*to > w->length) *to = w->length;
}

INLINE Columns band_columns(const Window *w, const Band *b, int64_t group) {
    Columns c;
    int64_t unused, last = b->first + group + 3 < w->length ? b->first + group + 3 : w->length - 1;
    row_keys(w, b->first + group, &c.from, &unused);
    row_keys(w, last, &unused, &c.to);
    c.low = (c.from - b->base) / W * W;
    c.high = (c.to - b->base + W - 1) / W * W;
    return c;
}

/* Rows of a block into (BLOCK, width), zero behind the last one. */
INLINE void load_queries(const Window *w, const Band *b, const float *from, int64_t stride, float scale, float *to) {
    for (int64_t t = 0; t < BLOCK; t++)
        for (int64_t d = 0; d < w->width; d += W)
            store(to + t * w->width + d, t < b->count ? load(from + (b->first + t) * stride + d) * scale : (vf){});
}

/* Brings the blocks of keys that `b` reads, and that were not yet turned, into the ring; `done` of them were. */
INLINE int64_t turn_keys(const Window *w, const Band *b, const float *x, int64_t stride, int64_t blocks, int64_t done,
                         float *ring) {
    const int64_t D = w->width, last = (b->base + b->stride) / BLOCK;
    if (done < b->base / BLOCK) done = b->base / BLOCK;
    for (; done < last; done++) {
        float *to = ring + done % blocks * BLOCK * D;
        const int64_t first = done * BLOCK, count = w->length - first < BLOCK ? w->length - first : BLOCK;
        const int64_t whole = count > 0 ? count / 4 * 4 : 0;
        if (count < BLOCK) memset(to, 0, sizeof(float) * BLOCK * D);
        transpose(whole, D, x + first * stride, stride, to, BLOCK);
        for (int64_t t = whole; t < count; t++)
            for (int64_t d = 0; d < D; d++) to[d * BLOCK + t] = x[(first + t) * stride + d];
    }
    return done;
}

/* rows . keys for every group of four rows, (BLOCK, stride): keys from the ring. */
INLINE void band_scores(const Window *w, const Band *b, const float *rows, const float *ring, int64_t blocks,
                        float *scores) {
    for (int64_t group = 0; group < b->count; group += 4) {
        const Columns c = band_columns(w, b, group);
        for (int64_t low = c.low; low < c.high;) {
            const int64_t key = b->base + low, end = (low / BLOCK + 1) * BLOCK, high = end < c.high ? end : c.high;
            product(4, high - low, w->width, rows + group * w->width, w->width, 1,
                    ring + key / BLOCK % blocks * BLOCK * w->width + key % BLOCK, BLOCK, scores + group * b->stride + low,
                    b->stride, 0);
            low = high;
        }
    }
}

/* Fills what a row computes but does not read; rows behind the last query read nothing. */
INLINE void clear_outside(const Window *w, const Band *b, const Columns *c, int64_t row, float value, float *scores) {
    int64_t from, to;
    row_keys(w, b->first + row, &from, &to);
    if (row >= b->count) from = to = b->base + c->low;
    for (int64_t i = c->low; i < from - b->base; i++) scores[i] = value;
    for (int64_t i = to - b->base; i < c->high; i++) scores[i] = value;
}

static void window_head(const Window *w, int64_t row, int64_t kv, float *scratch) {
    int64_t stride;
    const int64_t D = w->width, blocks = band_sizes(w, &stride), share = w->heads / w->kv_heads;
    float *ring = scratch, *q = ring + blocks * BLOCK * D, *scores = q + BLOCK * D, *out = scores + BLOCK * stride;
    const float *k = w->k + row * w->k_row + kv * w->k_head, *v = w->v + row * w->v_row + kv * w->v_head;
    int64_t turned = 0;
    for (int64_t first = 0; first < w->length; first += BLOCK) {
        const Band b = band_block(w, first);
        turned = turn_keys(w, &b, k, w->k_time, blocks, turned, ring);
        for (int64_t head = kv * share; head < (kv + 1) * share; head++) {
            load_queries(w, &b, w->q + row * w->q_row + head * w->q_head, w->q_time, w->scale, q);
            band_scores(w, &b, q, ring, blocks, scores);
            for (int64_t group = 0; group < b.count; group += 4) {
                const Columns c = band_columns(w, &b, group);
                float factor[4];
                for (int64_t i = 0; i < 4; i++) {
                    float *s = scores + (group + i) * b.stride;
                    clear_outside(w, &b, &c, group + i, -INFINITY, s);
                    vf most = splat(-INFINITY), sum = {};
                    for (int64_t j = c.low; j < c.high; j += W) most = vmax(load(s + j), most);
                    float lanes[W], top = -INFINITY;
                    store(lanes, most);
                    for (int j = 0; j < W; j++) top = lanes[j] > top ? lanes[j] : top;
                    for (int64_t j = c.low; j < c.high; j += W) store(s + j, exponential(load(s + j) - top));
                    clear_outside(w, &b, &c, group + i, 0, s);
                    for (int64_t j = c.low; j < c.high; j += W) sum += load(s + j);
                    const float all = total(sum);
                    factor[i] = 1 / all;
                    if (group + i < b.count)
                        w->sums[row * w->sums_row + head * w->sums_head + (first + group + i) * w->sums_time] =
                            top + logf(all);
                }
                product(4, D, c.to - c.from, scores + group * b.stride + c.from - b.base, b.stride, 1,
                        v + c.from * w->v_time, w->v_time, out, D, 0);
                for (int64_t i = 0; i < 4 && group + i < b.count; i++) {
                    float *y = w->y + row * w->y_row + head * w->y_head + (first + group + i) * w->y_time;
                    for (int64_t d = 0; d < D; d += W) store(y + d, load(out + i * D + d) * factor[i]);
                }
            }
        }
    }
}

static int window_forward(const Window *w) {
    int64_t stride, failed = 0;
    const int64_t blocks = band_sizes(w, &stride), D = w->width;
#pragma omp parallel num_threads((int)w->threads) if (w->threads > 1) reduction(+ : failed)
    {
        float *scratch = malloc(sizeof(float) * (blocks * BLOCK * D + BLOCK * D + BLOCK * stride + 4 * D));
        failed += scratch == NULL;
#pragma omp for collapse(2) schedule(static)
        for (int64_t row = 0; row < w->rows; row++)
            for (int64_t kv = 0; kv < w->kv_heads; kv++)
                if (scratch) window_head(w, row, kv, scratch);
        free(scratch);
    }
    return failed != 0;
}
