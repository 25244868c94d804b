/* Softmax attention over a band, backward. With p = exp(s - total) and delta = dy . y of a query:
 * dv_j = sum_i p_ij dy_i;  ds_ij = p_ij (dy_i . v_j - delta_i);  dq_i = scale sum_j ds_ij k_j;
 * dk_j = scale sum_i ds_ij q_i. A task owns the keys of one head, and adds to their gradients in the order of the queries.
 */

#define add_to_keys NAME(add_to_keys)
#define window_backward NAME(window_backward)
#define window_head_backward NAME(window_head_backward)

/* to[key] += sum over the queries of a block of weights[query][key] x[query], for every key that the block reads. */
INLINE void add_to_keys(const Window *w, const Band *b, const float *weights, const float *x, float *to,
                        int64_t to_time) {
    const int64_t D = w->width, groups = (b->count + 3) / 4 * 4;
    int64_t low = 0, high = 0;
    for (int64_t column = 0; column < b->stride; column += 4) { /* four keys, and the queries that computed them */
        while (low < groups && band_columns(w, b, low).high <= column) low += 4;
        while (high < groups && band_columns(w, b, high).low <= column) high += 4;
        const int64_t key = b->base + column, left = w->length - key;
        if (low >= high || left <= 0) continue;
        const float *from = weights + low * b->stride + column;
        if (left >= 4) {
            product(4, D, high - low, from, 1, b->stride, x + low * D, D, to + key * to_time, to_time, 1);
            continue;
        }
        float part[4 * 512];
        product(4, D, high - low, from, 1, b->stride, x + low * D, D, part, D, 0);
        for (int64_t i = 0; i < left; i++)
            for (int64_t d = 0; d < D; d++) to[(key + i) * to_time + d] += part[i * D + d];
    }
}

static void window_head_backward(const Window *w, const WindowGrads *g, int64_t row, int64_t kv, float *scratch) {
    int64_t stride;
    const int64_t D = w->width, L = w->length, blocks = band_sizes(w, &stride), share = w->heads / w->kv_heads;
    float *keys = scratch, *values = keys + blocks * BLOCK * D, *q = values + blocks * BLOCK * D, *dy = q + BLOCK * D;
    float *scores = dy + BLOCK * D, *slopes = scores + BLOCK * stride, *out = slopes + BLOCK * stride;
    const float *k = w->k + row * w->k_row + kv * w->k_head, *v = w->v + row * w->v_row + kv * w->v_head;
    float *dk = g->k + row * g->k_row + kv * g->k_head, *dv = g->v + row * g->v_row + kv * g->v_head;
    int64_t turned_keys = 0, turned_values = 0;
    for (int64_t t = 0; t < L; t++) {
        memset(dk + t * g->k_time, 0, sizeof(float) * D);
        memset(dv + t * g->v_time, 0, sizeof(float) * D);
    }
    for (int64_t first = 0; first < L; first += BLOCK) {
        const Band b = band_block(w, first);
        turned_keys = turn_keys(w, &b, k, w->k_time, blocks, turned_keys, keys);
        turned_values = turn_keys(w, &b, v, w->v_time, blocks, turned_values, values);
        for (int64_t head = kv * share; head < (kv + 1) * share; head++) {
            load_queries(w, &b, w->q + row * w->q_row + head * w->q_head, w->q_time, w->scale, q);
            load_queries(w, &b, g->y + row * g->y_row + head * g->y_head, g->y_time, 1, dy);
            band_scores(w, &b, q, keys, blocks, scores);
            band_scores(w, &b, dy, values, blocks, slopes);
            for (int64_t group = 0; group < b.count; group += 4) {
                const Columns c = band_columns(w, &b, group);
                for (int64_t i = group; i < group + 4; i++) {
                    float *s = scores + i * b.stride, *ds = slopes + i * b.stride, delta = 0, all = 0;
                    if (i < b.count) {
                        const float *y = w->y + row * w->y_row + head * w->y_head + (first + i) * w->y_time;
                        vf dot = {};
                        for (int64_t d = 0; d < D; d += W) dot += load(y + d) * load(dy + i * D + d);
                        delta = total(dot);
                        all = w->sums[row * w->sums_row + head * w->sums_head + (first + i) * w->sums_time];
                    }
                    clear_outside(w, &b, &c, i, -INFINITY, s);
                    for (int64_t j = c.low; j < c.high; j += W) store(s + j, exponential(load(s + j) - all));
                    clear_outside(w, &b, &c, i, 0, s);
                    for (int64_t j = c.low; j < c.high; j += W) store(ds + j, load(s + j) * (load(ds + j) - delta));
                }
                product(4, D, c.to - c.from, slopes + group * b.stride + c.from - b.base, b.stride, 1,
                        k + c.from * w->k_time, w->k_time, out, D, 0);
                for (int64_t i = 0; i < 4 && group + i < b.count; i++) {
                    float *dq = g->q + row * g->q_row + head * g->q_head + (first + group + i) * g->q_time;
                    for (int64_t d = 0; d < D; d += W) store(dq + d, load(out + i * D + d) * w->scale);
                }
            }
            add_to_keys(w, &b, slopes, q, dk, g->k_time); /* q holds the scale */
            add_to_keys(w, &b, scores, dy, dv, g->v_time);
        }
    }
}

static int window_backward(const Window *w, const WindowGrads *g) {
    int64_t stride, failed = 0;
    const int64_t blocks = band_sizes(w, &stride), D = w->width;
#pragma omp parallel num_threads((int)w->threads) if (w->threads > 1) reduction(+ : failed)
    {
        float *scratch =
            malloc(sizeof(float) * (2 * blocks * BLOCK * D + 2 * BLOCK * D + 2 * BLOCK * stride + 4 * D));
        failed += scratch == NULL;
#pragma omp for collapse(2) schedule(static)
        for (int64_t row = 0; row < w->rows; row++)
            for (int64_t kv = 0; kv < w->kv_heads; kv++)
                if (scratch) window_head_backward(w, g, row, kv, scratch);
        free(scratch);
    }
    return failed != 0;
}
