/* Attention of one query a row and head over cached keys: keys and values are read once, in blocks.
 *
 * Heads that share a key head are read together. The softmax runs along with its maximum: m = max s_j,
 * y = sum_j exp(s_j - m) v_j / sum_j exp(s_j - m).
 */

#define read_head NAME(read_head)
#define read_cache NAME(read_cache)

enum { NAME(KEYS) = 64 };
#define KEYS NAME(KEYS)

static void read_head(const Cache *c, int64_t row, int64_t head, float *sum) {
    const int64_t D = c->width, low = c->low ? c->low[row] : 0, high = c->high ? c->high[row] : c->keys;
    const int64_t kv = head / (c->heads / c->kv_heads);
    const float *q = c->q + row * c->q_row + head * c->q_head;
    const float *k = c->k + row * c->k_row + kv * c->k_head, *v = c->v + row * c->v_row + kv * c->v_head;
    float *y = c->y + (row * c->heads + head) * D, most = -INFINITY, weight = 0, score[KEYS];
    memset(sum, 0, sizeof(float) * D);
    for (int64_t from = low; from < high; from += KEYS) {
        const int64_t count = high - from < KEYS ? high - from : KEYS;
        float highest = -INFINITY;
        for (int64_t j = 0; j < count; j += 4) {
            const float *key[4];
            vf dot[4] = {};
            for (int i = 0; i < 4; i++) key[i] = k + (from + (j + i < count ? j + i : j)) * c->k_time;
            int64_t d = 0;
            for (; d + W <= D; d += W)
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) dot[i] += load(q + d) * load(key[i] + d);
            if (d < D)
                for (int i = 0; i < 4; i++) dot[i] += load_some(q + d, D - d) * load_some(key[i] + d, D - d);
            for (int i = 0; i < 4 && j + i < count; i++) {
                score[j + i] = c->scale * total(dot[i]);
                if (score[j + i] > highest || score[j + i] != score[j + i]) highest = score[j + i];
            }
        }
        if (highest > most) {
            const float shrink = expf(most - highest);
            for (int64_t d = 0; d < D; d++) sum[d] *= shrink;
            weight *= shrink;
            most = highest;
        }
        for (int64_t j = count; j < KEYS; j++) score[j] = -INFINITY;
        for (int64_t j = 0; j < count; j += W) {
            vf part = exponential(load(score + j) - most);
            store(score + j, part);
        }
        for (int64_t j = 0; j < count; j++) weight += score[j];
        for (int64_t d = 0; d < D; d += 4 * W) {
            const int64_t left = D - d;
            vf a = load_some(sum + d, left), b = {}, e = {}, f = {};
            if (left >= 4 * W) {
                b = load(sum + d + W), e = load(sum + d + 2 * W), f = load(sum + d + 3 * W);
                for (int64_t j = 0; j < count; j++) {
                    const float *value = v + (from + j) * c->v_time + d, p = score[j];
                    a += p * load(value), b += p * load(value + W), e += p * load(value + 2 * W), f += p * load(value + 3 * W);
                }
                store(sum + d, a), store(sum + d + W, b), store(sum + d + 2 * W, e), store(sum + d + 3 * W, f);
                continue;
            }
            for (int64_t part = d; part < D; part += W) {
                a = load_some(sum + part, D - part);
                for (int64_t j = 0; j < count; j++)
                    a += score[j] * load_some(v + (from + j) * c->v_time + part, D - part);
                store_some(sum + part, a, D - part);
            }
        }
    }
    for (int64_t d = 0; d < D; d++) y[d] = weight > 0 || weight != weight ? sum[d] / weight : 0;
}

static int read_cache(const Cache *c) {
    int64_t failed = 0;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1) reduction(+ : failed)
    {
        float *sum = malloc(sizeof(float) * c->width);
        failed += sum == NULL;
#pragma omp for collapse(2) schedule(static)
        for (int64_t row = 0; row < c->rows; row++)
            for (int64_t head = 0; head < c->heads; head++)
                if (sum) read_head(c, row, head, sum);
        free(sum);
    }
    return failed != 0;
}
