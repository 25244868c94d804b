/* Causal depthwise convolution: channels in the lanes, taps as shifted rows. A stretch of one vector of channels is
 * brought together first, so that rows that lie far apart are read once.
 */

#define Stretch NAME(Stretch)
#define count_taps NAME(count_taps)
#define stage_rows NAME(stage_rows)
#define conv_at NAME(conv_at)
#define conv_stretch NAME(conv_stretch)
#define conv_forward NAME(conv_forward)
#define conv_backward NAME(conv_backward)

enum { NAME(STEPS) = 64 }; /* tokens of a stretch */
#define STEPS NAME(STEPS)

/* taps[row, t]: how many taps stay in the document of a token, and do not reach before the first state. */
static int32_t *count_taps(const Conv *c) {
    int32_t *taps = malloc(sizeof(int32_t) * c->rows * c->length);
    for (int64_t row = 0; taps && row < c->rows; row++) {
        int64_t before = c->state ? c->taps : 0; /* tokens that may be read besides the one at hand */
        for (int64_t t = 0; t < c->length; t++) {
            if (c->starts && c->starts[row * c->length + t]) before = 0;
            taps[row * c->length + t] = before + 1 < c->taps ? before + 1 : c->taps;
            before++;
        }
    }
    return taps;
}

/* Rows from - taps + 1 to `to` of one vector of channels; zero before the first. */
INLINE void stage_rows(const Conv *c, int64_t row, int64_t channel, int64_t from, int64_t to, float *x) {
    const int64_t count = c->channels - channel, before = c->taps - 1;
    for (int64_t t = from - before; t < to; t++, x += W) {
        if (t >= 0) {
            const float *at = c->x + row * c->x_row + t * c->x_time + channel;
            __builtin_prefetch(at + W); /* the next vector of channels */
            store(x, load_some(at, count));
        } else {
            const float *at = c->state ? c->state + (row * before + before + t) * c->channels + channel : NULL;
            store(x, at ? load_some(at, count) : (vf){});
        }
    }
}

/* The output of a token before its activation: x points to its row, earlier rows lie before it. */
INLINE vf conv_at(const float *x, const float *weight, int64_t all, int64_t taps, vf bias) {
    vf sum = bias;
    for (int64_t i = 0; i < taps; i++) sum += load(weight + (all - 1 - i) * W) * load(x - i * W);
    return sum;
}

static int conv_forward(const Conv *c) {
    const int64_t D = c->channels, K = c->taps, L = c->length, stretches = (L + STEPS - 1) / STEPS;
    int32_t *taps = count_taps(c);
    int64_t failed = 0;
    if (!taps) return 1;
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1) reduction(+ : failed)
    {
        float *x = malloc(sizeof(float) * (STEPS + 2 * K) * W), *weight = x ? x + (STEPS + K) * W : NULL;
        failed += x == NULL;
#pragma omp for collapse(2) schedule(static)
        for (int64_t row = 0; row < c->rows; row++)
            for (int64_t stretch = 0; stretch < stretches; stretch++) {
                const int64_t from = stretch * STEPS, to = from + STEPS < L ? from + STEPS : L;
                for (int64_t channel = 0; channel < D && !failed; channel += W) {
                    const int64_t count = D - channel;
                    const vf bias = c->bias ? load_some(c->bias + channel, count) : (vf){};
                    for (int64_t i = 0; i < K; i++) store(weight + i * W, load_some(c->weight + i * D + channel, count));
                    stage_rows(c, row, channel, from, to, x);
                    float *y = c->y + (row * L + from) * D + channel;
                    for (int64_t t = from; t < to; t++, y += D) {
                        vf sum = conv_at(x + (t - from + K - 1) * W, weight, K, taps[row * L + t], bias);
                        store_some(y, c->silu ? sum * sigmoid(sum) : sum, count);
                    }
                }
            }
        free(x);
    }
    free(taps);
    return failed != 0;
}

/* What a task of the backward pass works on: rows of W numbers. */
typedef struct {
    float *x, *grad, *weight, *part; /* (STEPS + taps - 1), the same, taps, taps + 1 rows */
} Stretch;

/* Gradients of one vector of channels of one row in a stretch. `s->grad` holds the gradients of the outputs of the stretch
 * and of the taps - 1 tokens behind it; sums for weight and bias go to `s->part`. */
INLINE void conv_stretch(const Conv *c, const ConvGrads *g, const int32_t *taps, int64_t row, int64_t channel,
                         int64_t from, int64_t to, const Stretch *s, vf bias) {
    const int64_t D = c->channels, K = c->taps, L = c->length, count = D - channel, steps = to - from;
    stage_rows(c, row, channel, from, to, s->x);
    vf sum = {};
    for (int64_t t = 0; t < steps; t++) {
        const float *at = g->y + (row * L + from + t) * D + channel;
        __builtin_prefetch(at + W);
        vf dy = load_some(at, count);
        if (c->silu) {
            vf y = conv_at(s->x + (t + K - 1) * W, s->weight, K, taps[from + t], bias), open = sigmoid(y);
            dy = dy * open * (1.0f + y * (1.0f - open));
        }
        store(s->grad + t * W, dy);
        sum += dy;
    }
    store(s->part + K * W, sum);
    for (int64_t i = 0; i < K; i++) { /* tap K - 1 - i */
        vf tap = {};
        for (int64_t t = 0; t < steps; t++)
            if (taps[from + t] > i) tap += load(s->grad + t * W) * load(s->x + (t + K - 1 - i) * W);
        store(s->part + (K - 1 - i) * W, tap);
    }
    for (int64_t t = from ? 0 : 1 - K; t < steps; t++) { /* tokens before the first are those of the state */
        if (t < 0 && !g->state) continue;
        vf dx = {};
        for (int64_t i = t < 0 ? -t : 0; i < K && from + t + i < L; i++)
            if (taps[from + t + i] > i) dx += load(s->grad + (t + i) * W) * load(s->weight + (K - 1 - i) * W);
        float *to_x = t < 0 ? g->state + (row * (K - 1) + K - 1 + t) * D + channel
                            : g->x + (row * L + from + t) * D + channel;
        store_some(to_x, dx, count);
    }
    memmove(s->grad + STEPS * W, s->grad, sizeof(float) * (K - 1) * W); /* for the stretch before this one */
}

/* A task is one vector of channels of one row; sums are taken over stretches of time, over these, and then over rows. */
static int conv_backward(const Conv *c, const ConvGrads *g) {
    const int64_t D = c->channels, vectors = (D + W - 1) / W, K = c->taps, wide = (K + 1) * W, L = c->length;
    float *sums = calloc(c->rows * vectors * wide, sizeof(float));
    int32_t *taps = count_taps(c);
    int64_t failed = 0;
    if (!sums || !taps) {
        free(sums);
        free(taps);
        return 1;
    }
#pragma omp parallel num_threads((int)c->threads) if (c->threads > 1) reduction(+ : failed)
    {
        const int64_t rows = STEPS + K;
        float *scratch = malloc(sizeof(float) * (2 * rows + 2 * K + 1) * W);
        Stretch s = {.x = scratch};
        failed += scratch == NULL;
        if (scratch) s.grad = s.x + rows * W, s.weight = s.grad + rows * W, s.part = s.weight + K * W;
#pragma omp for collapse(2) schedule(static)
        for (int64_t row = 0; row < c->rows; row++)
            for (int64_t j = 0; j < vectors; j++) {
                if (failed) continue;
                const int64_t channel = j * W, count = D - channel;
                const vf bias = c->bias ? load_some(c->bias + channel, count) : (vf){};
                float *sum = sums + (row * vectors + j) * wide;
                for (int64_t i = 0; i < K; i++) store(s.weight + i * W, load_some(c->weight + i * D + channel, count));
                for (int64_t from = (L - 1) / STEPS * STEPS; from >= 0; from -= STEPS) {
                    const int64_t to = from + STEPS < L ? from + STEPS : L;
                    conv_stretch(c, g, taps + row * L, row, channel, from, to, &s, bias);
                    for (int64_t i = 0; i < wide; i += W) store(sum + i, load(sum + i) + load(s.part + i));
                }
            }
        free(scratch);
    }
    for (int64_t tap = 0; tap <= K && !failed; tap++)
        for (int64_t channel = 0; channel < D; channel++) {
            float value = 0;
            for (int64_t row = 0; row < c->rows; row++)
                value += sums[(row * vectors + channel / W) * wide + tap * W + channel % W];
            (tap < K ? g->weight + tap * D : g->bias)[channel] = value;
        }
    free(sums);
    free(taps);
    return failed != 0;
}
