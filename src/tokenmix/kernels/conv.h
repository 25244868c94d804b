/* Causal depthwise convolution: channels in the lanes, taps as shifted rows. */

#define usable_taps NAME(usable_taps)
#define conv_row NAME(conv_row)
#define conv_at NAME(conv_at)
#define conv_forward NAME(conv_forward)
#define conv_stretch NAME(conv_stretch)
#define conv_backward NAME(conv_backward)

/* How many taps of token t stay in its document: `since` counts the tokens since the last start, that one included. */
INLINE int64_t usable_taps(const Conv *c, int64_t row, int64_t t, int64_t *since) {
    if (c->starts && c->starts[row * c->length + t])
        *since = 1;
    else if (*since)
        *since += 1;
    int64_t before = *since ? *since : t + 1 + (c->state ? c->taps - 1 : 0);
    return before < c->taps ? before : c->taps;
}

INLINE const float *conv_row(const Conv *c, int64_t row, int64_t t, int64_t channel) {
    if (t >= 0) return c->x + row * c->x_row + t * c->x_time + channel;
    return c->state + (row * (c->taps - 1) + c->taps - 1 + t) * c->channels + channel;
}

INLINE vf conv_at(const Conv *c, int64_t row, int64_t t, int64_t channel, int64_t count, int64_t taps, vf bias) {
    vf sum = bias;
    for (int64_t i = 0; i < taps; i++)
        sum += load_some(c->weight + (c->taps - 1 - i) * c->channels + channel, count) *
               load_some(conv_row(c, row, t - i, channel), count);
    return sum;
}

static int conv_forward(const Conv *c) {
    enum { STRETCH = 256 };
    const int64_t D = c->channels, vectors = (D + W - 1) / W, spans = (c->length + STRETCH - 1) / STRETCH;
#pragma omp parallel for collapse(2) num_threads((int)c->threads) if (c->threads > 1) schedule(static)
    for (int64_t row = 0; row < c->rows; row++)
        for (int64_t span = 0; span < spans; span++) {
            const int64_t from = span * STRETCH, to = from + STRETCH < c->length ? from + STRETCH : c->length;
            int64_t since = 0, taps[STRETCH];
            if (c->starts) /* the last start before the span, as far as a tap reaches */
                for (int64_t t = from - c->taps > 0 ? from - c->taps : 0; t < from; t++) usable_taps(c, row, t, &since);
            for (int64_t t = from; t < to; t++) taps[t - from] = usable_taps(c, row, t, &since);
            for (int64_t j = 0; j < vectors; j++) {
                const int64_t channel = j * W, count = D - channel;
                const vf bias = c->bias ? load_some(c->bias + channel, count) : (vf){};
                for (int64_t t = from; t < to; t++) {
                    vf y = conv_at(c, row, t, channel, count, taps[t - from], bias);
                    store_some(c->y + (row * c->length + t) * D + channel, c->silu ? y * sigmoid(y) : y, count);
                }
            }
        }
    return 0;
}

/* One vector of channels of one row in a stretch of time; adds to x, state and (taps + 1) sums for weight and bias. */
INLINE void conv_stretch(const Conv *c, const ConvGrads *g, int64_t row, int64_t channel, int64_t from, int64_t to,
                         int64_t *since, vf bias, float *sum) {
    const int64_t D = c->channels, count = D - channel, K = c->taps;
    for (int64_t t = from; t < to; t++) {
        const int64_t taps = usable_taps(c, row, t, since);
        vf dy = load_some(g->y + (row * c->length + t) * D + channel, count);
        if (c->silu) {
            vf y = conv_at(c, row, t, channel, count, taps, bias), open = sigmoid(y);
            dy = dy * open * (1.0f + y * (1.0f - open));
        }
        store(sum + K * W, load(sum + K * W) + dy);
        for (int64_t i = 0; i < taps; i++) {
            const int64_t tap = K - 1 - i;
            float *x = t - i >= 0 ? g->x + (row * c->length + t - i) * D + channel
                                  : g->state + (row * (K - 1) + K - 1 + t - i) * D + channel;
            store_some(x, load_some(x, count) + dy * load_some(c->weight + tap * D + channel, count), count);
            store(sum + tap * W, load(sum + tap * W) + dy * load_some(conv_row(c, row, t - i, channel), count));
        }
    }
}

/* A task is one vector of channels of one row; sums are taken over stretches of time, over these, and then over rows. */
static int conv_backward(const Conv *c, const ConvGrads *g) {
    enum { STRETCH = 64 };
    const int64_t D = c->channels, vectors = (D + W - 1) / W, K = c->taps, wide = (K + 1) * W;
    float *sums = calloc(2 * c->rows * vectors * wide, sizeof(float));
    if (!sums) return 1;
#pragma omp parallel for collapse(2) num_threads((int)c->threads) if (c->threads > 1) schedule(static)
    for (int64_t row = 0; row < c->rows; row++)
        for (int64_t j = 0; j < vectors; j++) {
            const int64_t channel = j * W, count = D - channel;
            const vf bias = c->bias ? load_some(c->bias + channel, count) : (vf){};
            float *sum = sums + 2 * (row * vectors + j) * wide, *part = sum + wide;
            int64_t since = 0;
            for (int64_t t = 0; t < c->length; t++)
                store_some(g->x + (row * c->length + t) * D + channel, (vf){}, count);
            for (int64_t t = 0; g->state && t < K - 1; t++)
                store_some(g->state + (row * (K - 1) + t) * D + channel, (vf){}, count);
            for (int64_t from = 0; from < c->length; from += STRETCH) {
                const int64_t to = from + STRETCH < c->length ? from + STRETCH : c->length;
                memset(part, 0, sizeof(float) * wide);
                conv_stretch(c, g, row, channel, from, to, &since, bias, part);
                for (int64_t i = 0; i < wide; i += W) store(sum + i, load(sum + i) + load(part + i));
            }
        }
    for (int64_t tap = 0; tap <= K; tap++)
        for (int64_t channel = 0; channel < D; channel++) {
            float value = 0;
            for (int64_t row = 0; row < c->rows; row++) 
                value += sums[2 * (row * vectors + channel / W) * wide + tap * W + channel % W];
            (tap < K ? g->weight + tap * D : g->bias)[channel] = value;
        }
    free(sums);
    return 0;
}
