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

/* The `count` points nearest to each query: by squared distance, then by index; -1 where there are no more. */
typedef struct {
    const float *coords; /* (rows, length, dims); dims: 1 to 3 */
    const uint8_t *mask; /* (rows, length) or NULL */
    const float *query;  /* (rows, queries, dims); NULL: the points themselves */
    int64_t *index;      /* (rows, queries, count) */
    int64_t rows, length, queries, dims, count, skip_self, threads;
} Nearest;

/* Farthest point sampling: each point is the one farthest from those before it; -1 where there are no more. */
typedef struct {
    const float *coords;  /* (rows, length, dims); dims: 1 to 3 */
    const uint8_t *mask;  /* (rows, length) or NULL */
    const int64_t *start; /* (rows): the first point, -1 where there is none */
    int64_t *index;       /* (rows, count) */
    int64_t rows, length, dims, count, threads;
} Farthest;

/* What the kernels on graphs return, 0 aside; BAD_INDEX where a row names a node that the graph does not have. */
enum { NO_MEMORY = 1, BAD_INDEX = 2 };

/* The 2-hop node sets of LargeGT: each node, then size - 1 of its candidates. */
typedef struct {
    const int64_t *indptr; /* (num_nodes + 1) */
    const void *indices;   /* (edges) int32, or int64 if wide */
    const int64_t *nodes;  /* (count) */
    int64_t *out;          /* (count, size) */
    int64_t num_nodes, count, size, seed, wide, threads;
} TwoHop;

/* As many neighbours of each node as there are places for them; what the places hold is drawn from the node's row. */
typedef struct {
    const int64_t *indptr;          /* (num_nodes + 1) */
    const void *indices;            /* (edges) int32, or int64 if wide */
    const int64_t *nodes, *offsets; /* (count), (count + 1): where the places of a node begin */
    int64_t *out;                   /* (places) */
    int64_t num_nodes, count, seed, hop, replace, wide, threads;
} FanOut;

/* One hop of features: y_i = left_i (right_i x_i + sum over j in row i of right_j x_j), for start <= i < stop. */
typedef struct {
    const int64_t *indptr;     /* (num_nodes + 1) */
    const void *indices;       /* (edges) int32, or int64 if wide */
    const float *x;            /* (num_nodes, features) */
    const float *left, *right; /* (num_nodes) */
    float *y;                  /* (num_nodes, features), apart from x */
    int64_t num_nodes, start, stop, features, x_row, y_row, wide, threads;
} Aggregate;
