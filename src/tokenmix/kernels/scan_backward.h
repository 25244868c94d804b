/* The selective scan, backward: each chunk is run forward again from the state it began with, then backwards.
 *
 * With g_t the gradient of h_t: g_t = (grad y)_t C_t + decay_(t+1) g_(t+1), and r_t = g_t decay_t h_(t-1) is the gradient
 * of dt_t A. Gradients of B and C are sums over channels: lanes are summed once a chunk and task, tasks at the end, in
 * the order of the channels.
 */

#define Parts NAME(Parts)
#define tile_again NAME(tile_again)
#define tile_backward NAME(tile_backward)
#define run_tile_backward NAME(run_tile_backward)
#define backward_scratch NAME(backward_scratch)
#define backward_group NAME(backward_group)
#define scan_backward NAME(scan_backward)

/* Sums that tasks leave behind: B, C (groups, rows, length, padded); A (rows, channels, states); D, bias (rows, channels) */
typedef struct {
    float *B, *C, *A, *D, *bias;
} Parts;

/* Forward through a chunk, keeping decays and states: decay[t], hidden[t] before token t, (steps, tile, W). */
INLINE void tile_again(const int tile, int64_t steps, const float *dt, const float *x, const float *A, const float *B,
                       const float *C, int64_t padded, const uint8_t *starts, const float *state, float *decay,
                       float *hidden, float *y) {
    vf h[TILE];
#pragma GCC unroll 16
    for (int n = 0; n < tile; n++) {
        h[n] = load(state + n * W);
        store(hidden + n * W, h[n]);
    }
    for (int64_t t = 0; t < steps; t++) {
        const float *b = B + t * padded, *c = C + t * padded;
        float *decays = decay + t * tile * W, *after = hidden + (t + 1) * tile * W;
        vf d = load(dt + t * W), u = load(x + t * W) * d, even = {}, odd = {};
        const int fresh = starts && starts[t];
#pragma GCC unroll 16
        for (int n = 0; n < tile; n++) {
            vf a = fresh ? (vf){} : power_of_two(d * load(A + n * W));
            store(decays + n * W, a);
            h[n] = h[n] * a + u * b[n];
            store(after + n * W, h[n]);
            if (n % 2)
                odd += h[n] * c[n];
            else
                even += h[n] * c[n];
        }
        store(y + t * W, load(y + t * W) + even + odd);
    }
}

/* Backwards through a chunk. `carry` is the gradient of the state behind it, and becomes that of the state before it.
 * Adds to by_input (the gradient of dt_t x_t), by_rate (that of dt_t, by way of the decays, in units of log 2), and the
 * lanes of the gradients of A, B and C. */
INLINE void tile_backward(const int tile, int64_t steps, const float *dt, const float *x, const float *grad,
                          const float *A, const float *B, const float *C, int64_t padded, const float *decay,
                          const float *hidden, float *carry, float *grad_A, float *lanes_B, float *lanes_C,
                          float *by_input, float *by_rate) {
    vf g[TILE];
#pragma GCC unroll 16
    for (int n = 0; n < tile; n++) g[n] = load(carry + n * W);
    for (int64_t t = steps - 1; t >= 0; t--) {
        const float *b = B + t * padded, *c = C + t * padded;
        const float *decays = decay + t * tile * W, *before = hidden + t * tile * W;
        float *sums_B = lanes_B + t * padded * W, *sums_C = lanes_C + t * padded * W;
        vf d = load(dt + t * W), u = load(x + t * W) * d, dy = load(grad + t * W), input = {}, rate = {};
#pragma GCC unroll 16
        for (int n = 0; n < tile; n++) {
            vf q = g[n] + dy * c[n];
            store(sums_C + n * W, load(sums_C + n * W) + dy * load(before + (tile + n) * W));
            store(sums_B + n * W, load(sums_B + n * W) + q * u);
            input += q * b[n];
            q = q * load(decays + n * W);
            g[n] = q;
            q = q * load(before + n * W);
            rate += q * load(A + n * W);
            store(grad_A + n * W, load(grad_A + n * W) + q * d);
        }
        store(by_input + t * W, load(by_input + t * W) + input);
        store(by_rate + t * W, load(by_rate + t * W) + rate);
    }
#pragma GCC unroll 16
    for (int n = 0; n < tile; n++) store(carry + n * W, g[n]);
}

INLINE int64_t backward_scratch(const Scan *s) {
    int64_t P = (s->states + 3) / 4 * 4, T = s->chunk;
    return 4 * VECTORS * P * W + (2 * T + 1) * TILE * W + 2 * T * P * W + 2 * T * P + 6 * T * W + 2 * VECTORS * W;
}

static void backward_group(const Scan *s, const ScanGrads *grads, const Parts *parts, const Group *g, int64_t index,
                           float *scratch) {
    const int64_t N = s->states, P = g->padded, T = s->chunk, D = s->channels, L = s->length, block = VECTORS * P * W;
    float *A = scratch, *grad_A = A + block, *carry = grad_A + block, *h = carry + block;
    float *decay = h + block, *hidden = decay + T * TILE * W, *lanes_B = hidden + (T + 1) * TILE * W;
    float *lanes_C = lanes_B + T * P * W, *packed_B = lanes_C + T * P * W, *packed_C = packed_B + T * P;
    float *dt = packed_C + T * P, *x = dt + T * W, *y = x + T * W, *dy = y + T * W, *by_input = dy + T * W;
    float *by_rate = by_input + T * W, *grad_D = by_rate + T * W, *grad_bias = grad_D + VECTORS * W;
    const int64_t chunks = (L + T - 1) / T;
    float chunk_A[TILE * W]; /* sums are taken in a chunk, then over chunks: fewer digits are lost */
    memset(A, 0, sizeof(float) * 4 * block);
    memset(grad_D, 0, sizeof(float) * 2 * VECTORS * W);
    for (int64_t j = 0; j < g->vectors * W && g->first + j < D; j++)
        for (int64_t n = 0; n < N; n++) {
            int64_t at = (j / W * P + n) * W + j % W, from = (g->first + j) * N + n;
            A[at] = s->A[from] * LOG2E;
            carry[at] = grads->last[g->row * D * N + from];
        }
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        const int64_t from = chunk * T, steps = L - from < T ? L - from : T;
        const uint8_t *mask = s->mask ? s->mask + g->row * L + from : NULL;
        const uint8_t *starts = s->starts ? s->starts + g->row * L + from : NULL;
        const float *B = pack_rows(packed_B, s->B + g->row * s->B_row + from * s->B_time, s->B_time, N, P, mask, steps);
        const float *C = pack_rows(packed_C, s->C + g->row * s->C_row + from * s->C_time, s->C_time, N, P, mask, steps);
        memset(lanes_B, 0, sizeof(float) * 2 * T * P * W);
        for (int64_t j = 0; j < g->vectors; j++) {
            const int64_t channel = g->first + j * W, count = D - channel, at = (g->row * L + from) * D + channel;
            const float *z = s->z ? s->z + g->row * s->z_row + from * s->z_time + channel : NULL;
            const vf skip = s->D ? load_some(s->D + channel, count) : (vf){};
            const float *entry = s->entries + ((g->row * chunks + chunk) * N) * D + channel;
            for (int64_t n = 0; n < N; n++) store(h + (j * P + n) * W, load_some(entry + n * D, count));
            stage(s, g->row, channel, from, steps, dt, x);
            for (int64_t t = 0; t < steps; t++) {
                __builtin_prefetch(grads->y + at + t * D + W);
                vf value = mask && !mask[t] ? (vf){} : load_some(grads->y + at + t * D, count);
                if (z && !(mask && !mask[t])) {
                    vf gate = load_some(z + t * s->z_time, count);
                    value = value * gate * sigmoid(gate);
                }
                store(dy + t * W, value);
            }
            memset(y, 0, sizeof(float) * steps * W);
            memset(by_input, 0, sizeof(float) * 2 * T * W);
            for (int64_t n = 0; n < P;) {
                const int64_t here = (j * P + n) * W, left = P - n;
#define RUN(tile)                                                                                                      \
    tile_again(tile, steps, dt, x, A + here, B + n, C + n, P, starts, h + here, decay, hidden, y);                     \
    memset(chunk_A, 0, sizeof chunk_A);                                                                                \
    tile_backward(tile, steps, dt, x, dy, A + here, B + n, C + n, P, decay, hidden, carry + here, chunk_A,             \
                  lanes_B + n * W, lanes_C + n * W, by_input, by_rate);                                                \
    for (int64_t i = here; i < here + tile * W; i += W) store(grad_A + i, load(grad_A + i) + load(chunk_A + i - here)); \
    n += tile;
                if (TILE >= 16 && left >= 16) {
                    RUN((TILE < 16 ? TILE : 16))
                } else if (left >= 8) {
                    RUN(8)
                } else {
                    RUN(4)
                }
#undef RUN
            }
            vf sum_D = {}, sum_bias = {};
            for (int64_t t = 0; t < steps; t++) {
                const int padding = mask && !mask[t];
                vf d = load(dt + t * W), u = load(x + t * W), g_y = load(dy + t * W), input = load(by_input + t * W);
                vf grad_x = input * d + g_y * skip;
                vf grad_dt = input * u + load(by_rate + t * W) * (1.0f / LOG2E);
                sum_D += g_y * u;
                if (z && grads->z) {
                    vf gate = padding ? (vf){} : load_some(z + t * s->z_time, count), open = sigmoid(gate);
                    vf out = padding ? (vf){} : load_some(grads->y + at + t * D, count);
                    vf value = load(y + t * W) + u * skip;
                    store_some(grads->z + at + t * D, out * value * open * (1.0f + gate * (1.0f - open)), count);
                }
                if (s->softplus && !padding) {
                    vf raw = load_some(s->dt + g->row * s->dt_row + (from + t) * s->dt_time + channel, count);
                    grad_dt = grad_dt * sigmoid(raw + (s->dt_bias ? load_some(s->dt_bias + channel, count) : (vf){}));
                }
                if (padding) grad_x = grad_dt = (vf){};
                sum_bias += grad_dt;
                store_some(grads->x + at + t * D, grad_x, count);
                store_some(grads->dt + at + t * D, grad_dt, count);
            }
            store(grad_D + j * W, load(grad_D + j * W) + sum_D);
            store(grad_bias + j * W, load(grad_bias + j * W) + sum_bias);
        }
        const int64_t out = ((index * s->rows + g->row) * L + from) * P;
        for (int64_t i = 0; i < steps * P; i++) {
            parts->B[out + i] = total(load(lanes_B + i * W));
            parts->C[out + i] = total(load(lanes_C + i * W));
        }
        if (mask)
            for (int64_t t = 0; t < steps; t++)
                if (!mask[t]) memset(parts->B + out + t * P, 0, sizeof(float) * P);
    }
    for (int64_t j = 0; j < g->vectors * W && g->first + j < D; j++) {
        parts->D[g->row * D + g->first + j] = grad_D[j];
        parts->bias[g->row * D + g->first + j] = grad_bias[j];
        for (int64_t n = 0; n < N; n++) {
            int64_t at = (j / W * P + n) * W + j % W, to = (g->row * D + g->first + j) * N + n;
            parts->A[to] = grad_A[at];
            grads->state[to] = carry[at];
        }
    }
}

static int scan_backward(const Scan *s, const ScanGrads *grads) {
    const int64_t P = (s->states + 3) / 4 * 4, R = s->rows, L = s->length, D = s->channels, N = s->states;
    const int64_t groups = ((D + W - 1) / W + VECTORS - 1) / VECTORS, tasks = groups * R, tokens = R * L;
    float *sums = malloc(sizeof(float) * (2 * groups * tokens * P + R * D * (N + 2)));
    int64_t failed = sums == NULL;
    if (failed) return 1;
    Parts parts = {.B = sums, .C = sums + groups * tokens * P, .A = sums + 2 * groups * tokens * P};
    parts.D = parts.A + R * D * N;
    parts.bias = parts.D + R * D;
#pragma omp parallel num_threads((int)s->threads) if (s->threads > 1) reduction(+ : failed)
    {
        float *scratch = malloc(sizeof(float) * backward_scratch(s));
        failed += scratch == NULL;
#pragma omp for schedule(static)
        for (int64_t task = 0; task < tasks; task++) {
            Group group;
            int64_t index = scan_group(s, &group, task, VECTORS);
            if (scratch) backward_group(s, grads, &parts, &group, index, scratch);
        }
        free(scratch);
#pragma omp for schedule(static)
        for (int64_t token = 0; token < tokens; token++)
            for (int64_t n = 0; n < N; n++) {
                float b = 0, c = 0;
                for (int64_t i = 0; i < groups; i++) {
                    b += parts.B[(i * tokens + token) * P + n];
                    c += parts.C[(i * tokens + token) * P + n];
                }
                grads->B[token * N + n] = b;
                grads->C[token * N + n] = c;
            }
#pragma omp for schedule(static)
        for (int64_t c = 0; c < D; c++) {
            float d = 0, bias = 0;
            for (int64_t row = 0; row < R; row++) {
                d += parts.D[row * D + c];
                bias += parts.bias[row * D + c];
            }
            grads->D[c] = d;
            grads->dt_bias[c] = bias;
            for (int64_t n = 0; n < N; n++) {
                float a = 0;
                for (int64_t row = 0; row < R; row++) a += parts.A[(row * D + c) * N + n];
                grads->A[c * N + n] = a;
            }
        }
    }
    free(sums);
    return failed != 0;
}
