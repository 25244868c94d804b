/* One hop of features on a graph: y_i = left_i (right_i x_i + sum over j in row i of right_j x_j).
 *
 * Up to MOST vectors of a row are summed in registers; the last one of a row overlaps the one before it, so that no
 * lane is empty. The entries of a row are added up in their order.
 */

#define sender_of NAME(sender_of)
#define aggregate_part NAME(aggregate_part)
#define aggregate_row NAME(aggregate_row)
#define aggregate NAME(aggregate)
#define MOST 8
#define AHEAD 16

INLINE int64_t sender_of(const Aggregate *a, int64_t edge) {
    return a->wide ? ((const int64_t *)a->indices)[edge] : ((const int32_t *)a->indices)[edge];
}

/* `count` vectors from column `from`, a constant where this is inlined. */
INLINE void aggregate_part(const Aggregate *a, int64_t node, int64_t from, const int count) {
    const int64_t D = a->features, low = a->indptr[node], high = a->indptr[node + 1], last = D - W;
    const int64_t end = a->indptr[a->num_nodes];
    const float *own = a->x + node * a->x_row;
    float *y = a->y + node * a->y_row;
    vf sum[MOST];
    int64_t at[MOST];
#pragma GCC unroll 8
    for (int v = 0; v < count; v++) {
        at[v] = from + v * W < last || last < 0 ? from + v * W : last;
        sum[v] = load_some(own + at[v], D - at[v]) * a->right[node];
    }
    for (int64_t edge = low; edge < high; edge++) {
        const int64_t sender = sender_of(a, edge);
        const float *x = a->x + sender * a->x_row, scale = a->right[sender];
        if (edge + AHEAD < end) { /* also what later nodes read */
            const float *soon = a->x + sender_of(a, edge + AHEAD) * a->x_row;
#pragma GCC unroll 8
            for (int v = 0; v < count; v++) __builtin_prefetch(soon + at[v]);
        }
#pragma GCC unroll 8
        for (int v = 0; v < count; v++) sum[v] += load_some(x + at[v], D - at[v]) * scale;
    }
#pragma GCC unroll 8
    for (int v = 0; v < count; v++) store_some(y + at[v], sum[v] * a->left[node], D - at[v]);
}

static int aggregate_row(const Aggregate *a, int64_t node) {
    const int64_t vectors = (a->features + W - 1) / W;
    for (int64_t edge = a->indptr[node]; edge < a->indptr[node + 1]; edge++)
        if ((uint64_t)sender_of(a, edge) >= (uint64_t)a->num_nodes) return BAD_INDEX;
    for (int64_t v = 0; v < vectors; v += MOST) {
        const int64_t from = v * W;
        switch (vectors - v < MOST ? vectors - v : MOST) {
            case 1: aggregate_part(a, node, from, 1); break;
            case 2: aggregate_part(a, node, from, 2); break;
            case 3: aggregate_part(a, node, from, 3); break;
            case 4: aggregate_part(a, node, from, 4); break;
            case 5: aggregate_part(a, node, from, 5); break;
            case 6: aggregate_part(a, node, from, 6); break;
            case 7: aggregate_part(a, node, from, 7); break;
            default: aggregate_part(a, node, from, 8);
        }
    }
    return 0;
}

static int aggregate(const Aggregate *a) {
    int failed = 0;
#pragma omp parallel for num_threads((int)a->threads) if (a->threads > 1) schedule(dynamic, 64) reduction(max : failed)
    for (int64_t node = a->start; node < a->stop; node++) {
        const int found = aggregate_row(a, node);
        failed = found > failed ? found : failed;
    }
    return failed;
}
