/* Farthest point sampling, by the distances of points.h. */

#define farthest_row NAME(farthest_row)
#define farthest_points NAME(farthest_points)

/* Farthest point sampling of one row; padded and chosen points have distance -1. */
static int farthest_row(const Farthest *f, int64_t row) {
    const int64_t padded = (f->length + LANES - 1) / LANES * LANES;
    double *at = calloc(padded * 4, sizeof(double)), *far = at + 3 * padded;
    if (!at) return 1;
    const float *coords = f->coords + row * f->length * f->dims;
    for (int64_t i = 0; i < padded; i++) {
        const int real = i < f->length && !(f->mask && !f->mask[row * f->length + i]);
        far[i] = real ? INFINITY : -1;
        for (int a = 0; a < f->dims && real; a++) at[a * padded + i] = coords[i * f->dims + a];
    }
    int64_t *chosen = f->index + row * f->count, last = f->start[row];
    for (int64_t step = 0; step < f->count; step++) {
        chosen[step] = last;
        if (last < 0) continue;
        far[last] = -1;
        const double x = at[last], y = at[padded + last], z = at[2 * padded + last];
        vd most = (vd){} - 1;
        vl where = {}, here = {};
        for (int lane = 0; lane < LANES; lane++) here[lane] = lane;
        for (int64_t i = 0; i < padded; i += LANES, here += LANES) {
            vd before;
            memcpy(&before, far + i, sizeof before);
            const vd d = distances(at + i, at + padded + i, at + 2 * padded + i, x, y, z);
            const vl nearer = d < before;
            const vd now = (vd)(((vl)d & nearer) | ((vl)before & ~nearer));
            memcpy(far + i, &now, sizeof now);
            const vl farther = now > most;
            most = (vd)(((vl)now & farther) | ((vl)most & ~farther));
            where = (here & farther) | (where & ~farther);
        }
        double top = -1;
        last = -1;
        for (int lane = 0; lane < LANES; lane++)
            if (most[lane] > top || (most[lane] == top && top >= 0 && where[lane] < last))
                top = most[lane], last = where[lane];
    }
    free(at);
    return 0;
}

static int farthest_points(const Farthest *f) {
    int failed = 0;
#pragma omp parallel for num_threads((int)f->threads) if (f->threads > 1) schedule(dynamic) reduction(+ : failed)
    for (int64_t row = 0; row < f->rows; row++) failed += farthest_row(f, row);
    return failed != 0;
}
