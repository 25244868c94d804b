/* The selective scan, forward: channels in the lanes of a vector, up to TILE states of them in registers. */

#define Group NAME(Group)
#define scan_scratch NAME(scan_scratch)
#define scan_group NAME(scan_group)
#define pack_rows NAME(pack_rows)
#define stage NAME(stage)
#define tile_forward NAME(tile_forward)
#define run_tile_forward NAME(run_tile_forward)
#define forward_group NAME(forward_group)
#define scan_forward NAME(scan_forward)
#define scan_step NAME(scan_step)

enum { NAME(VECTORS) = 8 }; /* vectors of channels in a task at most */
#define VECTORS NAME(VECTORS)

/* A row, and some neighbouring channels of it. */
typedef struct {
    int64_t row, first, vectors; /* channels from `first` */
    int64_t padded;              /* states, rounded up to a multiple of 4 */
} Group;

INLINE int64_t scan_group(const Scan *s, Group *group, int64_t task, int64_t vectors) {
    int64_t all = (s->channels + W - 1) / W, groups = (all + vectors - 1) / vectors;
    int64_t index = task % groups;
    group->row = task / groups;
    group->first = index * vectors * W;
    group->vectors = all - index * vectors < vectors ? all - index * vectors : vectors;
    group->padded = (s->states + 3) / 4 * 4;
    return index;
}

/* B or C of a chunk: rows of `padded` numbers, zero at padding. */
INLINE const float *pack_rows(float *to, const float *from, int64_t stride, int64_t states, int64_t padded,
                              const uint8_t *mask, int64_t steps) {
    for (int64_t t = 0; t < steps; t++) {
        float *row = to + t * padded;
        if (mask && !mask[t]) {
            memset(row, 0, sizeof(float) * padded);
            continue;
        }
        memcpy(row, from + t * stride, sizeof(float) * states);
        for (int64_t n = states; n < padded; n++) row[n] = 0;
    }
    return to;
}

/* dt and x of one vector of channels in a chunk, zero at padding. */
INLINE void stage(const Scan *s, int64_t row, int64_t channel, int64_t from, int64_t steps, float *dt, float *x) {
    int64_t count = s->channels - channel;
    const float *dts = s->dt + row * s->dt_row + from * s->dt_time + channel;
    const float *xs = s->x + row * s->x_row + from * s->x_time + channel;
    const uint8_t *mask = s->mask ? s->mask + row * s->length + from : NULL;
    vf bias = s->dt_bias ? load_some(s->dt_bias + channel, count) : (vf){};
    for (int64_t t = 0; t < steps; t++) {
        if (mask && !mask[t]) {
            store(dt + t * W, (vf){});
            store(x + t * W, (vf){});
            continue;
        }
        __builtin_prefetch(dts + t * s->dt_time + W); /* the next vector of channels: rows are far apart */
        __builtin_prefetch(xs + t * s->x_time + W);
        vf d = load_some(dts + t * s->dt_time, count) + bias;
        store(dt + t * W, s->softplus ? log1p_exp(d) : d);
        store(x + t * W, load_some(xs + t * s->x_time, count));
    }
}

/* Some states of one vector of channels through a chunk; adds to y. A is in units of log 2. */
INLINE void tile_forward(const int tile, int64_t steps, const float *dt, const float *x, const float *A, const float *B,
                         const float *C, int64_t padded, const uint8_t *starts, float *state, float *y) {
    vf h[TILE];
#pragma GCC unroll 16
    for (int n = 0; n < tile; n++) h[n] = load(state + n * W);
    for (int64_t t = 0; t < steps; t++) {
        const float *b = B + t * padded, *c = C + t * padded;
        vf d = load(dt + t * W), u = load(x + t * W) * d, even = {}, odd = {};
        if (starts && starts[t]) {
#pragma GCC unroll 16
            for (int n = 0; n < tile; n++) h[n] = (vf){};
        }
#pragma GCC unroll 16
        for (int n = 0; n < tile; n += 2) {
            h[n] = h[n] * power_of_two(d * load(A + n * W)) + u * b[n];
            even += h[n] * c[n];
            h[n + 1] = h[n + 1] * power_of_two(d * load(A + (n + 1) * W)) + u * b[n + 1];
            odd += h[n + 1] * c[n + 1];
        }
        store(y + t * W, load(y + t * W) + even + odd);
    }
#pragma GCC unroll 16
    for (int n = 0; n < tile; n++) store(state + n * W, h[n]);
}

INLINE int run_tile_forward(int64_t left, int64_t steps, const float *dt, const float *x, const float *A,
                            const float *B, const float *C, int64_t padded, const uint8_t *starts, float *state,
                            float *y) {
    if (TILE >= 16 && left >= 16) {
        tile_forward(TILE < 16 ? TILE : 16, steps, dt, x, A, B, C, padded, starts, state, y);
        return 16;
    }
    if (left >= 8) {
        tile_forward(8, steps, dt, x, A, B, C, padded, starts, state, y);
        return 8;
    }
    tile_forward(4, steps, dt, x, A, B, C, padded, starts, state, y);
    return 4;
}

/* Numbers of scratch for a task of the forward pass. */
INLINE int64_t scan_scratch(const Scan *s) {
    int64_t padded = (s->states + 3) / 4 * 4;
    return 2 * VECTORS * padded * W + 3 * s->chunk * W + 2 * s->chunk * padded;
}

static void forward_group(const Scan *s, const Group *g, float *scratch) {
    const int64_t N = s->states, P = g->padded, T = s->chunk, D = s->channels;
    float *A = scratch, *h = A + VECTORS * P * W, *dt = h + VECTORS * P * W, *x = dt + T * W, *y = x + T * W;
    float *packed_B = y + T * W, *packed_C = packed_B + T * P;
    memset(A, 0, sizeof(float) * 2 * VECTORS * P * W);
    for (int64_t j = 0; j < g->vectors * W && g->first + j < D; j++)
        for (int64_t n = 0; n < N; n++) {
            int64_t at = (j / W * P + n) * W + j % W, from = (g->first + j) * N + n;
            A[at] = s->A[from] * LOG2E;
            if (s->state) h[at] = s->state[g->row * D * N + from];
        }
    for (int64_t from = 0, chunk = 0; from < s->length; from += T, chunk++) {
        const int64_t steps = s->length - from < T ? s->length - from : T;
        const uint8_t *mask = s->mask ? s->mask + g->row * s->length + from : NULL;
        const uint8_t *starts = s->starts ? s->starts + g->row * s->length + from : NULL;
        const float *B = pack_rows(packed_B, s->B + g->row * s->B_row + from * s->B_time, s->B_time, N, P, mask, steps);
        const float *C = pack_rows(packed_C, s->C + g->row * s->C_row + from * s->C_time, s->C_time, N, P, mask, steps);
        for (int64_t j = 0; j < g->vectors; j++) {
            const int64_t channel = g->first + j * W, count = D - channel;
            if (s->entries) {
                float *entry = s->entries + ((g->row * ((s->length + T - 1) / T) + chunk) * N) * D + channel;
                for (int64_t n = 0; n < N; n++) store_some(entry + n * D, load(h + (j * P + n) * W), count);
            }
            stage(s, g->row, channel, from, steps, dt, x);
            memset(y, 0, sizeof(float) * steps * W);
            for (int64_t n = 0; n < P;)
                n += run_tile_forward(P - n, steps, dt, x, A + (j * P + n) * W, B + n, C + n, P, starts,
                                      h + (j * P + n) * W, y);
            const vf skip = s->D ? load_some(s->D + channel, count) : (vf){};
            float *out = s->y + (g->row * s->length + from) * D + channel;
            const float *z = s->z ? s->z + g->row * s->z_row + from * s->z_time + channel : NULL;
            for (int64_t t = 0; t < steps; t++) {
                vf value = load(y + t * W) + load(x + t * W) * skip;
                if (z) {
                    vf gate = load_some(z + t * s->z_time, count);
                    value = value * gate * sigmoid(gate);
                }
                if (mask && !mask[t]) value = (vf){};
                store_some(out + t * D, value, count);
            }
        }
    }
    for (int64_t j = 0; j < g->vectors * W && g->first + j < D; j++)
        for (int64_t n = 0; n < N; n++)
            s->last[(g->row * D + g->first + j) * N + n] = h[(j / W * P + n) * W + j % W];
}

static int scan_forward(const Scan *s) {
    int64_t all = (s->channels + W - 1) / W, vectors = VECTORS;
    while (vectors > 1 && (all + vectors - 1) / vectors * s->rows < 2 * s->threads) vectors /= 2;
    int64_t tasks = (all + vectors - 1) / vectors * s->rows, failed = 0;
#pragma omp parallel num_threads((int)s->threads) if (s->threads > 1) reduction(+ : failed)
    {
        float *scratch = malloc(sizeof(float) * scan_scratch(s));
        failed += scratch == NULL;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < tasks; task++) {
            Group group;
            scan_group(s, &group, task, vectors);
            if (scratch) forward_group(s, &group, scratch);
        }
        free(scratch);
    }
    return failed != 0;
}

/* One token: `last` is read and written (it holds the state). Step sizes and gates have channels in the lanes, the state
 * has its numbers there, since they are contiguous. */
static int scan_step(const Scan *s) {
    const int64_t N = s->states, D = s->channels, blocks = (D + W - 1) / W;
#pragma omp parallel for num_threads((int)s->threads) if (s->threads > 1) schedule(static)
    for (int64_t task = 0; task < s->rows * blocks; task++) {
        const int64_t row = task / blocks, first = task % blocks * W, count = D - first < W ? D - first : W;
        const float *B = s->B + row * s->B_row, *C = s->C + row * s->C_row;
        const int fresh = s->starts && s->starts[row];
        float *y = s->y + row * D + first, dt[W], u[W], sums[W] = {0};
        if (s->mask && !s->mask[row]) {
            store_some(y, (vf){}, count);
            continue;
        }
        vf step = load_some(s->dt + row * s->dt_row + first, count), x = load_some(s->x + row * s->x_row + first, count);
        if (s->dt_bias) step += load_some(s->dt_bias + first, count);
        if (s->softplus) step = log1p_exp(step);
        store(dt, step * LOG2E);
        store(u, step * x);
        for (int64_t c = 0; c < count; c++) {
            float *h = s->last + (row * D + first + c) * N;
            const float *A = s->A + (first + c) * N;
            vf sum = {};
            for (int64_t n = 0; n < N; n += W) {
                vf before = fresh ? (vf){} : load_some(h + n, N - n) * power_of_two(load_some(A + n, N - n) * dt[c]);
                vf after = before + u[c] * load_some(B + n, N - n);
                store_some(h + n, after, N - n);
                sum += after * load_some(C + n, N - n);
            }
            sums[c] = total(sum);
        }
        vf value = load(sums);
        if (s->D) value += load_some(s->D + first, count) * x;
        if (s->z) {
            vf gate = load_some(s->z + row * s->z_row + first, count);
            value = value * gate * sigmoid(gate);
        }
        store_some(y, value, count);
    }
    return 0;
}
