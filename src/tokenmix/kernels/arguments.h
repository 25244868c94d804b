/* Arguments of the kernels. Row and time strides are in numbers; the last axis is contiguous everywhere. */

/* Mamba: h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t;  y_t = (h_t . C_t + D x_t) * silu(z_t). */
typedef struct {
    const float *x, *dt;          /* (rows, length, channels) */
    const float *A;               /* (channels, states) */
    const float *B, *C;           /* (rows, length, states) */
    const float *D, *z, *dt_bias; /* (channels) or NULL, (rows, length, channels) or NULL, (channels) or NULL */
    const float *state;           /* (rows, channels, states) or NULL */
    const uint8_t *mask, *starts; /* (rows, length) or NULL */
    float *y;                     /* (rows, length, channels) */
    float *last;                  /* (rows, channels, states) */
    float *entries;               /* (rows, chunks, states, channels): states before each chunk; NULL: not kept */
    int64_t rows, length, channels, states, chunk;
    int64_t x_row, x_time, dt_row, dt_time, B_row, B_time, C_row, C_time, z_row, z_time;
    int64_t softplus, threads; /* dt is softplus(dt + dt_bias) */
} Scan;

typedef struct {
    const float *y;    /* (rows, length, channels) */
    const float *last; /* (rows, channels, states) */
    float *x, *dt, *z; /* (rows, length, channels); z may be NULL */
    float *A;          /* (channels, states) */
    float *B, *C;      /* (rows, length, states) */
    float *D, *dt_bias; /* (channels) */
    float *state;      /* (rows, channels, states) */
} ScanGrads;

/* Causal depthwise convolution: y_t = act(bias + sum_i weight[:, taps - 1 - i] x_(t - i)). */
typedef struct {
    const float *x;             /* (rows, length, channels) */
    const float *weight, *bias; /* (taps, channels), (channels) or NULL */
    const float *state;         /* (rows, taps - 1, channels) or NULL */
    const uint8_t *starts;      /* (rows, length) or NULL */
    float *y;                   /* (rows, length, channels) */
    int64_t rows, length, channels, taps, x_row, x_time, silu, threads;
} Conv;

typedef struct {
    const float *y;       /* (rows, length, channels) */
    float *x;             /* (rows, length, channels) */
    float *weight, *bias; /* (taps, channels), (channels) */
    float *state;         /* (rows, taps - 1, channels) or NULL */
} ConvGrads;

/* Mamba-2 and linear attention: S_t = exp(log_decay_t) S_(t-1) + scale_t v_t k_t^T;  y_t = S_t q_t + skip v_t. */
typedef struct {
    const float *v, *k, *q;       /* (rows, length, heads, values), (rows, length, groups, keys) twice */
    const float *log_decay, *scale; /* (rows, length, heads) or NULL */
    const float *skip;            /* (heads) or NULL */
    const float *state;           /* (rows, heads, values, keys) or NULL */
    const uint8_t *mask, *starts; /* (rows, length) or NULL */
    float *y;                     /* (rows, length, heads, values) */
    float *last;                  /* (rows, heads, values, keys) */
    float *entries; /* (rows, heads, chunks, padded keys, padded values): states before each chunk; NULL: not kept */
    int64_t rows, length, heads, groups, values, keys;
    int64_t v_row, v_time, v_head, k_row, k_time, k_head, q_row, q_time, q_head, threads;
} Ssd;

typedef struct {
    const float *y;    /* (rows, length, heads, values) */
    const float *last; /* (rows, heads, values, keys) */
    float *v;          /* (rows, length, heads, values) */
    float *log_decay, *scale; /* (rows, length, heads) or NULL */
    float *skip;       /* (rows, heads) or NULL */
    float *k, *q;      /* (rows, length, groups, keys) */
    float *state;      /* (rows, heads, values, keys) */
} SsdGrads;

/* Softmax attention of query i over keys i - window < j <= i, or j < i + window too if not causal. */
typedef struct {
    const float *q, *k, *v; /* (rows, heads, length, width), (rows, kv_heads, length, width) twice; width: of 16, to 512 */
    float *y;               /* (rows, heads, length, width) */
    float *sums;            /* (rows, heads, length): log of the sum of exp of the scores */
    int64_t rows, heads, kv_heads, length, width, window, causal;
    int64_t q_row, q_head, q_time, k_row, k_head, k_time, v_row, v_head, v_time, y_row, y_head, y_time;
    int64_t sums_row, sums_head, sums_time;
    float scale;
    int64_t threads;
} Window;

typedef struct {
    const float *y;   /* (rows, heads, length, width) */
    float *q, *k, *v; /* (rows, heads or kv_heads, length, width) */
    int64_t y_row, y_head, y_time, q_row, q_head, q_time, k_row, k_head, k_time, v_row, v_head, v_time;
} WindowGrads;

/* One query a row and head over cached keys: y = softmax(scale q . k_j) v_j over low <= j < high. */
typedef struct {
    const float *q, *k, *v;    /* (rows, heads, width), (rows, kv_heads, keys, width) twice */
    const int64_t *low, *high; /* (rows), NULL: 0 and keys */
    float *y;                  /* (rows, heads, width) */
    int64_t rows, heads, kv_heads, keys, width;
    int64_t q_row, q_head, k_row, k_head, k_time, v_row, v_head, v_time;
    float scale;
    int64_t threads;
} Cache;
