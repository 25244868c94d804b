/* Points in space, up to three coordinates: nearest neighbours; farthest point sampling is in farthest.h.
 *
 * Distances are squared, in float64, ((dx dx + dy dy) + dz dz) with every product and sum rounded by itself: plain torch
 * gives the same bits, so both paths break ties alike, by the lower index.
 */

#define vd NAME(vd)
#define vl NAME(vl)
#define PointTree NAME(PointTree)
#define distances NAME(distances)
#define box_distance NAME(box_distance)
#define bound_points NAME(bound_points)
#define split_points NAME(split_points)
#define plant_tree NAME(plant_tree)
#define fell_tree NAME(fell_tree)
#define insert_point NAME(insert_point)
#define read_leaf NAME(read_leaf)
#define search_tree NAME(search_tree)
#define nearest_row NAME(nearest_row)
#define nearest_neighbours NAME(nearest_neighbours)
#define LANES (W / 2)

#ifndef LEAF
#define LEAF 24 /* points in a leaf, at most */
typedef struct {
    float at[3];
    int32_t index;
} PointPlace;
/* Keeps a product from being fused with the sum behind it. */
#if defined(__x86_64__)
#define ROUNDED(x) __asm__("" : "+x"(x))
#elif defined(__aarch64__)
#define ROUNDED(x) __asm__("" : "+w"(x))
#else
#define ROUNDED(x) __asm__("" : "+m"(x))
#endif
#endif

typedef double vd __attribute__((vector_size(8 * LANES)));
typedef int64_t vl __attribute__((vector_size(8 * LANES)));

/* A balanced tree over n points: every node splits its points at the median of the longest side of its box. Node i has
 * the children 2 i + 1 and 2 i + 2; the leaves are the last 2^depth nodes, and leaf j holds points n j / 2^depth on. */
typedef struct {
    int64_t count, depth;
    double *at[3];      /* coordinates, in the order of the leaves; LANES more than there are points */
    int64_t *index;     /* of a point, before it was sorted */
    double (*low)[3], (*high)[3]; /* boxes of the nodes */
    int64_t *first;     /* lowest index in a node */
    PointPlace *sorted; /* scratch of the sorting */
} PointTree;

/* Squared distances of LANES points from (x, y, z). */
INLINE vd distances(const double *xs, const double *ys, const double *zs, double x, double y, double z) {
    vd dx, dy, dz;
    memcpy(&dx, xs, sizeof dx);
    memcpy(&dy, ys, sizeof dy);
    memcpy(&dz, zs, sizeof dz);
    dx -= x, dy -= y, dz -= z;
    dx *= dx, dy *= dy, dz *= dz;
    ROUNDED(dx);
    ROUNDED(dy);
    ROUNDED(dz);
    return (dx + dy) + dz;
}

/* Squared distance of a box; rounded as the points in it are, so never above theirs. */
INLINE double box_distance(const PointTree *t, int64_t node, const double *q) {
    double gap[3];
    for (int a = 0; a < 3; a++) {
        const double below = t->low[node][a] - q[a], above = q[a] - t->high[node][a];
        gap[a] = below > above ? below : above;
        gap[a] = gap[a] > 0 ? gap[a] : 0;
        gap[a] *= gap[a];
        ROUNDED(gap[a]);
    }
    return (gap[0] + gap[1]) + gap[2];
}

static void bound_points(PointTree *t, int64_t node, int64_t from, int64_t to) {
    const PointPlace *p = t->sorted;
    float low[3], high[3];
    int32_t first = p[from].index;
    for (int a = 0; a < 3; a++) low[a] = high[a] = p[from].at[a];
    for (int64_t i = from + 1; i < to; i++) {
        for (int a = 0; a < 3; a++) {
            low[a] = p[i].at[a] < low[a] ? p[i].at[a] : low[a];
            high[a] = p[i].at[a] > high[a] ? p[i].at[a] : high[a];
        }
        first = p[i].index < first ? p[i].index : first;
    }
    for (int a = 0; a < 3; a++) t->low[node][a] = low[a], t->high[node][a] = high[a];
    t->first[node] = first;
}

/* Puts the points that belong before `middle` before it: by coordinate, then by index, so that no two are equal. */
static void split_points(PointPlace *p, int64_t from, int64_t to, int64_t middle, int axis) {
    uint32_t random = 1;
    for (int64_t low = from, high = to - 1; low < high;) {
        PointPlace pivot[3];
        for (int i = 0; i < 3; i++) {
            random = random * 1664525u + 1013904223u;
            pivot[i] = p[low + (int64_t)((uint64_t)(high - low + 1) * random >> 32)];
        }
#define BEFORE(a, b) ((a).at[axis] < (b).at[axis] || ((a).at[axis] == (b).at[axis] && (a).index < (b).index))
        const int ab = BEFORE(pivot[0], pivot[1]), bc = BEFORE(pivot[1], pivot[2]), ac = BEFORE(pivot[0], pivot[2]);
        const PointPlace mid = ab == bc ? pivot[1] : ab == ac ? pivot[2] : pivot[0];
        int64_t i = low, j = high;
        while (i <= j) {
            while (BEFORE(p[i], mid)) i++;
            while (BEFORE(mid, p[j])) j--;
            if (i <= j) {
                const PointPlace swapped = p[i];
                p[i++] = p[j], p[j--] = swapped;
            }
        }
#undef BEFORE
        if (middle <= j) high = j;
        else if (middle >= i) low = i;
        else return;
    }
}

static void fell_tree(PointTree *t) {
    for (int a = 0; a < 3; a++) free(t->at[a]);
    free(t->index), free(t->low), free(t->high), free(t->first), free(t->sorted);
}

/* The tree of a row's real points. Returns 1 without memory. */
static int plant_tree(const Nearest *g, int64_t row, PointTree *t) {
    const float *coords = g->coords + row * g->length * g->dims;
    const uint8_t *mask = g->mask ? g->mask + row * g->length : NULL;
    memset(t, 0, sizeof *t);
    if (!(t->sorted = malloc(sizeof(PointPlace) * (g->length + 1)))) return 1;
    for (int64_t i = 0; i < g->length; i++) {
        if (mask && !mask[i]) continue;
        PointPlace *p = t->sorted + t->count++;
        p->index = (int32_t)i;
        for (int a = 0; a < 3; a++) p->at[a] = a < g->dims ? coords[i * g->dims + a] : 0;
    }
    if (t->count == 0) return 0;
    while (t->count >> t->depth > LEAF) t->depth++;
    const int64_t n = t->count, nodes = ((int64_t)2 << t->depth) - 1;
    for (int a = 0; a < 3; a++)
        if (!(t->at[a] = calloc(n + LANES, sizeof(double)))) return 1;
    t->index = malloc(sizeof(int64_t) * n);
    t->low = malloc(sizeof(double[3]) * nodes), t->high = malloc(sizeof(double[3]) * nodes);
    t->first = malloc(sizeof(int64_t) * nodes);
    if (!t->index || !t->low || !t->high || !t->first) return 1;
    for (int64_t level = 0, node = 0; level <= t->depth; level++)
        for (int64_t j = 0; j < (int64_t)1 << level; j++, node++) {
            const int64_t from = n * j >> level, to = n * (j + 1) >> level;
            bound_points(t, node, from, to);
            int axis = 0;
            for (int a = 1; a < 3; a++)
                if (t->high[node][a] - t->low[node][a] > t->high[node][axis] - t->low[node][axis]) axis = a;
            if (level < t->depth) split_points(t->sorted, from, to, n * (2 * j + 1) >> (level + 1), axis);
        }
    for (int64_t i = 0; i < n; i++) {
        for (int a = 0; a < 3; a++) t->at[a][i] = t->sorted[i].at[a];
        t->index[i] = t->sorted[i].index;
    }
    return 0;
}

/* Puts a point among the best, which are sorted by distance, then by index: what is behind it moves by one place. Before
 * the first one lies one that is nearer than any; `padded` is `count` in whole vectors. */
INLINE void insert_point(double far, int64_t place, int64_t padded, double *best, int64_t *index) {
    for (int64_t i = padded - LANES; i >= 0; i -= LANES) {
        vd here, before;
        vl here_index, before_index;
        memcpy(&here, best + i, sizeof here), memcpy(&before, best + i - 1, sizeof before);
        memcpy(&here_index, index + i, sizeof here_index), memcpy(&before_index, index + i - 1, sizeof before_index);
        const vl stays = (here < far) | ((here == far) & (here_index < place));
        const vl comes = (before < far) | ((before == far) & (before_index < place));
        const vl moved_index = (comes & place) | (~comes & before_index);
        const vl moved = (comes & (vl)((vd){} + far)) | (~comes & (vl)before);
        here = (vd)((stays & (vl)here) | (~stays & moved));
        here_index = (stays & here_index) | (~stays & moved_index);
        memcpy(best + i, &here, sizeof here), memcpy(index + i, &here_index, sizeof here_index);
    }
}

/* Reads the points of a leaf into the `count` best. */
INLINE void read_leaf(const PointTree *t, int64_t leaf, const double *q, int64_t skip, int64_t count, double *best,
                      int64_t *index) {
    const int64_t from = t->count * leaf >> t->depth, to = t->count * (leaf + 1) >> t->depth;
    const int64_t padded = (count + LANES - 1) / LANES * LANES;
    for (int64_t i = from; i < to; i += LANES) {
        double found[LANES];
        const vd d = distances(t->at[0] + i, t->at[1] + i, t->at[2] + i, q[0], q[1], q[2]);
        memcpy(found, &d, sizeof d);
        const int64_t lanes = to - i < LANES ? to - i : LANES;
        for (int64_t lane = 0; lane < lanes; lane++) {
            if (found[lane] > best[count - 1]) continue;
            const int64_t place = t->index[i + lane];
            if ((found[lane] == best[count - 1] && place > index[count - 1]) || place == skip) continue;
            insert_point(found[lane], place, padded, best, index);
        }
    }
}

/* The `count` points nearest to q, without point `skip`: nearer children first, and no node that cannot hold one. */
static void search_tree(const PointTree *t, const double *q, int64_t skip, int64_t count, double *best, int64_t *index) {
    struct {
        int64_t node;
        double distance;
    } waiting[64];
    const int64_t leaves = ((int64_t)1 << t->depth) - 1;
    int height = 0;
    for (int64_t i = 0; i < (count + LANES - 1) / LANES * LANES; i++) best[i] = INFINITY, index[i] = INT64_MAX;
    if (t->count) waiting[height].node = 0, waiting[height++].distance = 0;
    while (height) {
        int64_t node = waiting[--height].node;
        const double reached = waiting[height].distance;
        if (reached > best[count - 1] || (reached == best[count - 1] && t->first[node] > index[count - 1])) continue;
        while (node < leaves) {
            const int64_t left = 2 * node + 1, right = left + 1;
            const double l = box_distance(t, left, q), r = box_distance(t, right, q);
            const int swap = r < l || (r == l && t->first[right] < t->first[left]);
            waiting[height].node = swap ? left : right, waiting[height++].distance = swap ? l : r;
            node = swap ? right : left;
        }
        read_leaf(t, node - leaves, q, skip, count, best, index);
    }
}

/* One row. `threads` share its queries; points that ask go in the order of the leaves. */
static int nearest_row(const Nearest *g, int64_t row, int64_t threads) {
    PointTree t;
    const int planted = !plant_tree(g, row, &t);
    int failed = !planted;
    const int64_t asked = g->query ? g->queries : t.count;
    int64_t *rows = g->index + row * g->queries * g->count;
    if (!g->query && t.count < g->queries)
        for (int64_t i = 0; i < g->queries * g->count; i++) rows[i] = -1; /* padded points */
#pragma omp parallel num_threads((int)threads) if (threads > 1) reduction(+ : failed)
    {
        const int64_t room = (g->count + 2 * LANES) / LANES * LANES;
        double *best = planted ? malloc((sizeof(double) + sizeof(int64_t)) * room) : NULL;
        int64_t *index = (int64_t *)(best + room);
        failed += best == NULL;
        if (best) best++[0] = -1, index++[0] = -1;
#pragma omp for schedule(dynamic, 64)
        for (int64_t i = 0; i < asked; i++) {
            if (!best) continue;
            const int64_t place = g->query ? i : t.index[i];
            double q[3] = {0, 0, 0};
            for (int a = 0; a < g->dims; a++)
                q[a] = g->query ? g->query[(row * g->queries + i) * g->dims + a] : t.at[a][i];
            search_tree(&t, q, g->skip_self ? place : -1, g->count, best, index);
            for (int64_t j = 0; j < g->count; j++) rows[place * g->count + j] = index[j] == INT64_MAX ? -1 : index[j];
        }
        if (best) free(best - 1);
    }
    fell_tree(&t);
    return failed != 0;
}

static int nearest_neighbours(const Nearest *g) {
    const int apart = g->threads > 1 && g->rows >= g->threads;
    int failed = 0;
#pragma omp parallel for num_threads((int)g->threads) if (apart) schedule(dynamic) reduction(+ : failed)
    for (int64_t row = 0; row < g->rows; row++) failed += nearest_row(g, row, apart ? 1 : g->threads);
    return failed != 0;
}
