/* The scan of ssd.h, backward: chunks from the last to the first, each from the state that it began with.
 *
 * With G the gradient of the state behind a chunk: dM_ts = dy_t . v_s; dv_s = sum_t M_ts dy_t + leave_s k_s G;
 * dq_t = sum_s dM_ts decay_ts k_s + enter_t S dy_t; dk_s = sum_t dM_ts decay_ts q_t + leave_s G v_s; and
 * G <- through G + sum_t enter_t q_t dy_t^T. The gradient of c_t is what row t of dM * M sums to, less its column t,
 * plus q_t . (enter_t S dy_t), less k_t . (leave_t G v_t); c_last also moves `leave` and `through`.
 */

#define ssd_backward_task NAME(ssd_backward_task)
#define ssd_backward NAME(ssd_backward)
#define row_dot NAME(row_dot)
#define add_scaled NAME(add_scaled)

INLINE float row_dot(const float *a, const float *b, int64_t count) {
    vf sum = {};
    for (int64_t i = 0; i < count; i += W) sum += load(a + i) * load(b + i);
    return total(sum);
}

/* to[t] += scale[t] * from[t] over SPAN rows of `width` numbers; from[t] becomes what was added. */
INLINE void add_scaled(float *to, float *from, const float *scale, int64_t width) {
    for (int64_t t = 0; t < SPAN; t++)
        for (int64_t i = t * width; i < (t + 1) * width; i += W) {
            vf x = load(from + i) * scale[t];
            store(from + i, x);
            store(to + i, load(to + i) + x);
        }
}

/* Adds the sums over its heads to grad_q and grad_k, (rows, length, groups, keys) for this block of heads. */
static void ssd_backward_task(const Ssd *s, const SsdGrads *g, const Chunk *c, float *grad_q, float *grad_k,
                              float *scratch) {
    const int64_t N = c->N, P = c->P, L = s->length, chunks = (L + SPAN - 1) / SPAN;
    float *q = scratch, *k = q + SPAN * N, *part = k + SPAN * N, *across = part + SPAN * N, *sum_q = across + SPAN * N;
    float *sum_k = sum_q + SPAN * N, *scores = sum_k + SPAN * N, *decay = scores + SPAN * SPAN;
    float *weights = decay + SPAN * SPAN, *inner = weights + SPAN * SPAN, *sum_inner = inner + SPAN * SPAN;
    float *x = sum_inner + SPAN * SPAN, *v = x + SPAN * P, *dy = v + SPAN * P, *dv = dy + SPAN * P, *turned = dv + SPAN * P;
    float *flipped = turned + SPAN * P, *grads = flipped + N * P; /* flipped: a state as (P, N) */
    float high[SPAN], low[SPAN], enter[SPAN], leave[SPAN], scale[SPAN];
    double slope[SPAN];
    int32_t document[SPAN];
    for (int64_t h = 0; h < c->heads && g->skip; h++) g->skip[c->row * s->heads + c->first + h] = 0;
    for (int64_t h = 0; h < c->heads; h++)
        read_state(s, c, g->last + (c->row * s->heads + c->first + h) * s->values * s->keys, grads + h * N * P);
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        const int64_t from = chunk * SPAN, steps = L - from < SPAN ? L - from : SPAN, at = c->row * L + from;
        const uint8_t *mask = s->mask ? s->mask + at : NULL;
        read_chunk(s, c, from, steps, document, q, k, across, scores);
        memset(sum_q, 0, sizeof(float) * 2 * SPAN * N);
        memset(sum_inner, 0, sizeof(float) * SPAN * SPAN);
        for (int64_t h = 0; h < c->heads; h++) {
            const int64_t head = c->first + h, out = (at * s->heads + head) * s->values;
            const float *state = s->entries + ((c->row * s->heads + head) * chunks + chunk) * N * P;
            float *grad = grads + h * N * P;
            const float through = ssd_decays(s, c->row, head, from, steps, mask, document, high, low, enter, leave);
            read_scale(s, at, head, steps, mask, scale);
            pack_tokens(x, P, s->v + c->row * s->v_row + from * s->v_time + head * s->v_head, s->v_time, s->values,
                        steps, mask);
            pack_tokens(dy, P, g->y + out, s->heads * s->values, s->values, steps, mask);
            scale_tokens(v, x, scale, P);
            ssd_weights(s, scores, high, low, document, decay, weights);

            /* inside the chunk */
            transpose(SPAN, P, v, P, turned, SPAN);
            for (int64_t t = 0; t < SPAN; t += 16)
                product(16, t + 16, P, dy + t * P, P, 1, turned, SPAN, inner + t * SPAN, SPAN, 0);
            for (int64_t t = 0; t < SPAN; t += 4)
                product(4, P, SPAN - t, weights + t * SPAN + t, 1, SPAN, dy + t * P, P, dv + t * P, P, 0);
            memset(slope, 0, sizeof slope);
            for (int64_t t = 0; t < SPAN; t++) {
                float row = 0, moved[SPAN] = {0};
                for (int64_t j = 0; j <= t / W * W; j += W) {
                    const int64_t i = t * SPAN + j;
                    store(moved + j, load(inner + i) * load(weights + i));
                    store(sum_inner + i, load(sum_inner + i) + load(inner + i) * load(decay + i));
                }
                for (int64_t j = 0; j < t; j++) {
                    row += moved[j];
                    slope[j] -= moved[j];
                }
                slope[t] += row;
            }

            /* the state before the chunk, and the gradient of that behind it */
            transpose(N, P, state, P, flipped, N);
            product(SPAN, N, P, dy, P, 1, flipped, N, part, N, 0);
            add_scaled(sum_q, part, enter, N);
            for (int64_t t = 0; t < SPAN; t++) slope[t] += row_dot(part + t * N, q + t * N, N);
            transpose(N, P, grad, P, flipped, N);
            product(SPAN, N, P, v, P, 1, flipped, N, part, N, 0);
            add_scaled(sum_k, part, leave, N);
            double last = 0;
            for (int64_t t = 0; t < SPAN; t++) {
                const float dot = row_dot(part + t * N, k + t * N, N);
                slope[t] -= dot;
                last += dot;
            }
            for (int64_t n = 0; n < N && through != 0; n++) last += through * row_dot(grad + n * P, state + n * P, P);
            slope[SPAN - 1] += last;
            scale_tokens(part, k, leave, N);
            product(SPAN, P, N, part, N, 1, grad, P, dv, P, 1);
            scale_tokens(part, q, enter, N);
            for (int64_t i = 0; i < N * P; i += W) store(grad + i, load(grad + i) * through);
            product(N, P, SPAN, part, 1, N, dy, P, grad, P, 1);

            double skipped = 0;
            for (int64_t t = 0; t < steps; t++) {
                if (g->scale) g->scale[(at + t) * s->heads + head] = row_dot(x + t * P, dv + t * P, P);
                if (g->skip) skipped += row_dot(x + t * P, dy + t * P, P);
                const float skip = s->skip ? s->skip[head] : 0;
                for (int64_t i = t * P; i < (t + 1) * P; i += W)
                    store(dv + i, load(dv + i) * scale[t] + load(dy + i) * skip);
                memcpy(g->v + out + t * s->heads * s->values, dv + t * P, sizeof(float) * s->values);
            }
            if (g->skip) g->skip[c->row * s->heads + head] += (float)skipped;
            double sum = 0;
            for (int64_t t = SPAN - 1; t >= 0 && g->log_decay; t--) {
                sum += slope[t];
                if (t < steps) g->log_decay[(at + t) * s->heads + head] = mask && !mask[t] ? 0 : (float)sum;
            }
        }
        for (int64_t t = 0; t < SPAN; t += 4) {
            product(4, N, t + 4, sum_inner + t * SPAN, SPAN, 1, k, N, sum_q + t * N, N, 1);
            product(4, N, SPAN - t, sum_inner + t * SPAN + t, 1, SPAN, q + t * N, N, sum_k + t * N, N, 1);
        }
        for (int64_t t = 0; t < steps; t++) {
            const int64_t to = ((at + t) * s->groups + c->group) * s->keys;
            const int real = !mask || mask[t];
            for (int64_t n = 0; n < s->keys; n++) {
                grad_q[to + n] = real ? sum_q[t * N + n] : 0;
                grad_k[to + n] = real ? sum_k[t * N + n] : 0;
            }
        }
    }
    for (int64_t h = 0; h < c->heads; h++)
        write_state(s, c, grads + h * N * P, g->state + (c->row * s->heads + c->first + h) * s->values * s->keys);
}

static int ssd_backward(const Ssd *s, const SsdGrads *g) {
    Chunk sizes;
    ssd_sizes(s, &sizes);
    const int64_t N = sizes.N, P = sizes.P, share = s->heads / s->groups, blocks = (share + HEADS - 1) / HEADS;
    const int64_t tasks = s->rows * s->groups * blocks, numbers = s->rows * s->length * s->groups * s->keys;
    float *sums = blocks > 1 ? malloc(sizeof(float) * 2 * (blocks - 1) * numbers) : NULL; /* the first block's: g */
    int64_t failed = blocks > 1 && sums == NULL;
    if (failed) return 1;
#pragma omp parallel num_threads((int)s->threads) if (s->threads > 1) reduction(+ : failed)
    {
        float *scratch =
            malloc(sizeof(float) * (6 * SPAN * N + 5 * SPAN * SPAN + 5 * SPAN * P + (HEADS + 1) * N * P));
        failed += scratch == NULL;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < tasks; task++) {
            Chunk c;
            ssd_task(s, &c, task);
            float *grad_q = c.block ? sums + 2 * (c.block - 1) * numbers : g->q;
            float *grad_k = c.block ? sums + (2 * (c.block - 1) + 1) * numbers : g->k;
            if (scratch) ssd_backward_task(s, g, &c, grad_q, grad_k, scratch);
        }
        free(scratch);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < numbers; i++)
            for (int64_t block = 0; block < blocks - 1; block++) {
                g->q[i] += sums[2 * block * numbers + i];
                g->k[i] += sums[(2 * block + 1) * numbers + i];
            }
    }
    free(sums);
    return failed != 0;
}
