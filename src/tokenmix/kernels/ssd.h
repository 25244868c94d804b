/* The scan of Mamba-2 and of linear attention, in chunks of SPAN tokens as matrix products.
 *
 * S_t = a_t S_(t-1) + k_t v_t^T and y_t = q_t S_t + skip x_t, with one decay a_t a head, and v_t = scale_t x_t. Inside a chunk, with c_t the
 * sum of log a up to t, tokens read each other by M_ts = (q_t . k_s) exp(c_t - c_s), s <= t; they read the state before
 * the chunk by enter_t = exp(c_t), and are written to the state behind it by leave_s = exp(c_last - c_s). Heads that
 * share k and q are run together, HEADS at a time.
 */

#define Chunk NAME(Chunk)
#define ssd_sizes NAME(ssd_sizes)
#define ssd_task NAME(ssd_task)
#define pack_tokens NAME(pack_tokens)
#define ssd_decays NAME(ssd_decays)
#define ssd_weights NAME(ssd_weights)
#define ssd_forward NAME(ssd_forward)
#define ssd_forward_task NAME(ssd_forward_task)
#define read_state NAME(read_state)
#define write_state NAME(write_state)
#define number_documents NAME(number_documents)
#define scale_tokens NAME(scale_tokens)
#define read_scale NAME(read_scale)
#define read_chunk NAME(read_chunk)

#ifndef SPAN
#define SPAN 64
#define HEADS 4
#endif

/* Some heads of one group in one row, and the padded sizes of keys and values. */
typedef struct {
    int64_t row, group, first, heads, block, N, P;
} Chunk;

INLINE void ssd_sizes(const Ssd *s, Chunk *c) {
    c->N = (s->keys + 15) / 16 * 16; /* whole vectors of any width */
    c->P = (s->values + 15) / 16 * 16;
}

/* Task number -> row, group and heads; `block` numbers the blocks of heads in a group. */
INLINE void ssd_task(const Ssd *s, Chunk *c, int64_t task) {
    const int64_t share = s->heads / s->groups, blocks = (share + HEADS - 1) / HEADS;
    c->block = task % blocks;
    c->group = task / blocks % s->groups;
    c->row = task / blocks / s->groups;
    c->first = c->group * share + c->block * HEADS;
    c->heads = share - c->block * HEADS < HEADS ? share - c->block * HEADS : HEADS;
    ssd_sizes(s, c);
}

/* (steps, count) rows into (SPAN, padded), zero at padding and behind the end. */
INLINE void pack_tokens(float *to, int64_t padded, const float *from, int64_t stride, int64_t count, int64_t steps,
                        const uint8_t *mask) {
    for (int64_t t = 0; t < SPAN; t++) {
        float *row = to + t * padded;
        if (t >= steps || (mask && !mask[t])) {
            memset(row, 0, sizeof(float) * padded);
            continue;
        }
        memcpy(row, from + t * stride, sizeof(float) * count);
        for (int64_t i = count; i < padded; i++) row[i] = 0;
    }
}

/* Sums of the log decays of one head in a chunk, as a float and its remainder; how tokens enter and leave; returns what
 * passes through. `document` counts the starts in the chunk so far. */
INLINE float ssd_decays(const Ssd *s, int64_t row, int64_t head, int64_t from, int64_t steps, const uint8_t *mask,
                        const int32_t *document, float *high, float *low, float *enter, float *leave) {
    double sum = 0, sums[SPAN];
    for (int64_t t = 0; t < SPAN; t++) {
        if (s->log_decay && t < steps && !(mask && !mask[t]))
            sum += s->log_decay[(row * s->length + from + t) * s->heads + head];
        sums[t] = sum;
        high[t] = (float)sum;
        low[t] = (float)(sum - high[t]);
    }
    for (int64_t t = 0; t < SPAN; t += W) {
        float gaps[W];
        for (int64_t i = 0; i < W; i++) gaps[i] = (float)(sum - sums[t + i]);
        store(enter + t, exponential(load(high + t)));
        store(leave + t, exponential(load(gaps)));
        if (s->starts)
            for (int64_t i = t; i < t + W; i++) {
                if (document[i]) enter[i] = 0;
                if (document[i] != document[SPAN - 1]) leave[i] = 0;
            }
    }
    return enter[SPAN - 1];
}

/* decay[t][s] = exp(c_t - c_s) for s <= t in one document, else 0; and weights = decay * scores. */
INLINE void ssd_weights(const Ssd *s, const float *scores, const float *high, const float *low, const int32_t *document,
                        float *decay, float *weights) {
    for (int64_t t = 0; t < SPAN; t++)
        for (int64_t j = 0; j < SPAN; j += W) {
            float *to = decay + t * SPAN + j;
            if (j > t) {
                store(to, (vf){});
                store(weights + t * SPAN + j, (vf){});
                continue;
            }
            vf e = s->log_decay ? exponential((high[t] - load(high + j)) + (low[t] - load(low + j))) : splat(1.0f);
            store(to, e);
            for (int64_t i = 0; i < W && (j + W > t || s->starts); i++)
                if (j + i > t || (s->starts && document[j + i] != document[t])) to[i] = 0;
            store(weights + t * SPAN + j, load(to) * load(scores + t * SPAN + j));
        }
}

/* v = scale * x; how much of each token counts. */
INLINE void scale_tokens(float *to, const float *from, const float *scale, int64_t width) {
    for (int64_t t = 0; t < SPAN; t++)
        for (int64_t i = t * width; i < (t + 1) * width; i += W) store(to + i, load(from + i) * scale[t]);
}

INLINE void read_scale(const Ssd *s, int64_t at, int64_t head, int64_t steps, const uint8_t *mask, float *scale) {
    for (int64_t t = 0; t < SPAN; t++)
        scale[t] = t >= steps || (mask && !mask[t]) ? 0 : s->scale ? s->scale[(at + t) * s->heads + head] : 1;
}

/* State of a head, (values, keys), to or from (N, P). */
INLINE void read_state(const Ssd *s, const Chunk *c, const float *from, float *to) {
    memset(to, 0, sizeof(float) * c->N * c->P);
    for (int64_t p = 0; from && p < s->values; p++)
        for (int64_t n = 0; n < s->keys; n++) to[n * c->P + p] = from[p * s->keys + n];
}

INLINE void write_state(const Ssd *s, const Chunk *c, const float *from, float *to) {
    for (int64_t p = 0; p < s->values; p++)
        for (int64_t n = 0; n < s->keys; n++) to[p * s->keys + n] = from[n * c->P + p];
}

/* The documents of a chunk, as running numbers. */
INLINE void number_documents(const uint8_t *starts, int64_t steps, int32_t *document) {
    int32_t number = 0;
    for (int64_t t = 0; t < SPAN; t++) document[t] = number += starts && t < steps && starts[t];
}

/* The documents of a chunk, its queries and keys, (SPAN, N), the keys turned, (N, SPAN), and q . k for every pair. */
static void read_chunk(const Ssd *s, const Chunk *c, int64_t from, int64_t steps, int32_t *document, float *q, float *k,
                       float *turned, float *scores) {
    const int64_t N = c->N, at = c->row * s->length + from;
    const uint8_t *mask = s->mask ? s->mask + at : NULL;
    number_documents(s->starts ? s->starts + at : NULL, steps, document);
    pack_tokens(q, N, s->q + c->row * s->q_row + from * s->q_time + c->group * s->q_head, s->q_time, s->keys, steps, mask);
    pack_tokens(k, N, s->k + c->row * s->k_row + from * s->k_time + c->group * s->k_head, s->k_time, s->keys, steps, mask);
    transpose(SPAN, N, k, N, turned, SPAN);
    for (int64_t t = 0; t < SPAN; t += 16)
        product(16, t + 16, N, q + t * N, N, 1, turned, SPAN, scores + t * SPAN, SPAN, 0);
}

static void ssd_forward_task(const Ssd *s, const Chunk *c, float *scratch) {
    const int64_t N = c->N, P = c->P, L = s->length, chunks = (L + SPAN - 1) / SPAN;
    float *q = scratch, *k = q + SPAN * N, *across = k + SPAN * N, *scores = across + SPAN * N;
    float *decay = scores + SPAN * SPAN, *weights = decay + SPAN * SPAN, *x = weights + SPAN * SPAN;
    float *v = x + SPAN * P, *y = v + SPAN * P, *states = y + SPAN * P;
    float high[SPAN], low[SPAN], enter[SPAN], leave[SPAN], scale[SPAN];
    int32_t document[SPAN];
    for (int64_t h = 0; h < c->heads; h++) {
        const float *from = s->state ? s->state + (c->row * s->heads + c->first + h) * s->values * s->keys : NULL;
        read_state(s, c, from, states + h * N * P);
    }
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const int64_t from = chunk * SPAN, steps = L - from < SPAN ? L - from : SPAN, at = c->row * L + from;
        const uint8_t *mask = s->mask ? s->mask + at : NULL;
        read_chunk(s, c, from, steps, document, q, k, across, scores);
        for (int64_t h = 0; h < c->heads; h++) {
            const int64_t head = c->first + h;
            float *state = states + h * N * P;
            if (s->entries)
                memcpy(s->entries + ((c->row * s->heads + head) * chunks + chunk) * N * P, state, sizeof(float) * N * P);
            const float through = ssd_decays(s, c->row, head, from, steps, mask, document, high, low, enter, leave);
            read_scale(s, at, head, steps, mask, scale);
            pack_tokens(x, P, s->v + c->row * s->v_row + from * s->v_time + head * s->v_head, s->v_time, s->values,
                        steps, mask);
            scale_tokens(v, x, scale, P);
            scale_tokens(across, q, enter, N); /* `across` is free now */
            product(SPAN, P, N, across, N, 1, state, P, y, P, 0);
            ssd_weights(s, scores, high, low, document, decay, weights);
            for (int64_t t = 0; t < SPAN; t += 4)
                product(4, P, t + 4, weights + t * SPAN, SPAN, 1, v, P, y + t * P, P, 1);
            float *out = s->y + (at * s->heads + head) * s->values;
            for (int64_t t = 0; t < steps; t++) {
                for (int64_t i = t * P; s->skip && i < (t + 1) * P; i += W)
                    store(y + i, load(y + i) + load(x + i) * s->skip[head]);
                memcpy(out + t * s->heads * s->values, y + t * P, sizeof(float) * s->values);
            }
            if (chunk + 1 == chunks && !s->last) continue;
            scale_tokens(v, v, leave, P);
            for (int64_t i = 0; i < N * P; i += W) store(state + i, load(state + i) * through);
            product(N, P, SPAN, k, 1, N, v, P, state, P, 1);
        }
    }
    for (int64_t h = 0; h < c->heads && s->last; h++)
        write_state(s, c, states + h * N * P, s->last + (c->row * s->heads + c->first + h) * s->values * s->keys);
}

static int ssd_forward(const Ssd *s) {
    Chunk sizes;
    ssd_sizes(s, &sizes);
    const int64_t N = sizes.N, P = sizes.P, share = s->heads / s->groups;
    const int64_t tasks = s->rows * s->groups * ((share + HEADS - 1) / HEADS);
    int64_t failed = 0;
#pragma omp parallel num_threads((int)s->threads) if (s->threads > 1) reduction(+ : failed)
    {
        float *scratch = malloc(sizeof(float) * (3 * SPAN * N + 3 * SPAN * SPAN + 3 * SPAN * P + HEADS * N * P));
        failed += scratch == NULL;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < tasks; task++) {
            Chunk chunk;
            ssd_task(s, &chunk, task);
            if (scratch) ssd_forward_task(s, &chunk, scratch);
        }
        free(scratch);
    }
    return failed != 0;
}
