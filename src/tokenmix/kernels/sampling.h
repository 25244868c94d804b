/* Sampling neighbours of a graph in compressed rows; included once for each type of INDEX.
 *
 * Every draw is a function of (seed, hop, node, number of the draw) by splitmix64 (Steele, Lea and Flood 2014), so that
 * it depends neither on the batch nor on the number of threads; ops/neighbours.py draws the same in numpy.
 * Both kernels return 0, NO_MEMORY, or BAD_INDEX where the graph names a node that it does not have.
 */

#ifndef TOKENMIX_SAMPLING
#define TOKENMIX_SAMPLING

#define GOLDEN 0x9E3779B97F4A7C15ull

INLINE uint64_t mix_bits(uint64_t x) {
    x += GOLDEN;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
    return x ^ (x >> 31);
}

INLINE uint64_t stream_of(uint64_t seed, uint64_t hop, int64_t node) {
    return mix_bits(mix_bits(mix_bits(seed) ^ hop) ^ (uint64_t)node);
}

/* Draw number `turn` of a stream, from 0 to count - 1: the upper half of a product of 64 bits by at most 2^32. */
INLINE int64_t draw_below(uint64_t stream, uint64_t turn, uint64_t count) {
    const uint64_t x = mix_bits(stream + turn * GOLDEN);
    return (int64_t)(((x >> 32) * count + (((x & 0xFFFFFFFFull) * count) >> 32)) >> 32);
}
#endif

/* Candidates of one node, and a bit for each node of the graph that is among its 2-hop nodes. */
typedef struct {
    INDEX *list;
    uint64_t *seen;
    int64_t room;
} SIZED(Candidates);

static int SIZED(make_room)(SIZED(Candidates) *c, int64_t count) {
    if (count <= c->room) return 0;
    const int64_t room = count > 2 * c->room ? count : 2 * c->room;
    INDEX *list = realloc(c->list, sizeof(INDEX) * room);
    if (!list) return NO_MEMORY;
    c->list = list, c->room = room;
    return 0;
}

static int SIZED(two_hop_node)(const TwoHop *t, SIZED(Candidates) *c, int64_t node, int64_t *out) {
    const int64_t *ptr = t->indptr, low = ptr[node], degree = ptr[node + 1] - low, wanted = t->size - 1;
    const uint64_t nodes = (uint64_t)t->num_nodes, stream = stream_of((uint64_t)t->seed, 0, node);
    const INDEX *idx = t->indices;
    int64_t n = degree;
    if (SIZED(make_room)(c, degree + 1)) return NO_MEMORY;
    INDEX *list = c->list;
    for (int64_t e = 0; e < degree; e++) {
        list[e] = idx[low + e];
        if ((uint64_t)list[e] >= nodes) return BAD_INDEX;
        __builtin_prefetch(ptr + list[e]);
    }
    for (int64_t e = 0; e < degree; e++) {
        const int64_t from = ptr[list[e]], to = ptr[list[e] + 1];
        if (e + 3 < degree) __builtin_prefetch(idx + ptr[list[e + 3]]);
        if (SIZED(make_room)(c, n + to - from + 1)) return NO_MEMORY;
        list = c->list;
        for (int64_t f = from; f < to; f++) {
            const uint64_t k = (uint64_t)idx[f], bit = 1ull << (k & 63);
            if (k >= nodes) return BAD_INDEX;
            const uint64_t word = c->seen[k >> 6];
            list[n] = (INDEX)k;
            n += !(word & bit);
            c->seen[k >> 6] = word | bit;
        }
    }
    for (int64_t e = degree; e < n; e++) c->seen[(uint64_t)list[e] >> 6] = 0;
    *out++ = node;
    if (n == 0)
        for (int64_t turn = 0; turn < wanted; turn++) out[turn] = draw_below(stream, turn, nodes);
    else if (n < wanted)
        for (int64_t turn = 0; turn < wanted; turn++) out[turn] = turn < n ? (int64_t)list[turn] : out[turn - n];
    else
        for (int64_t turn = 0; turn < wanted; turn++) {
            const int64_t place = turn + draw_below(stream, turn, n - turn);
            out[turn] = list[place];
            list[place] = list[turn];
        }
    return 0;
}

static int SIZED(two_hop)(const TwoHop *t) {
    int failed = 0;
#pragma omp parallel num_threads((int)t->threads) if (t->threads > 1) reduction(max : failed)
    {
        SIZED(Candidates) c = {malloc(sizeof(INDEX) * 4096), calloc(t->num_nodes / 64 + 1, 8), 4096};
        failed = !c.list || !c.seen ? NO_MEMORY : 0;
#pragma omp for schedule(dynamic, 16)
        for (int64_t i = 0; i < t->count; i++)
            if (!failed) failed = SIZED(two_hop_node)(t, &c, t->nodes[i], t->out + i * t->size);
        free(c.list);
        free(c.seen);
    }
    return failed;
}

/* Picks of a row into `out`, which has as many places as were asked for. */
static int SIZED(fan_out_node)(const FanOut *f, int64_t node, int64_t count, int64_t *out) {
    const int64_t low = f->indptr[node], degree = f->indptr[node + 1] - low;
    const uint64_t stream = stream_of((uint64_t)f->seed, (uint64_t)f->hop, node);
    const int many = count > 64 && count < degree && !f->replace; /* a bit for each place, instead of a look at all */
    uint64_t *used = many ? calloc(degree / 64 + 1, 8) : NULL;
    if (many && !used) return NO_MEMORY;
    for (int64_t turn = 0; turn < count; turn++) {
        if (f->replace)
            out[turn] = draw_below(stream, turn, degree);
        else if (count == degree)
            out[turn] = turn;
        else { /* Floyd: the newest place stands in for one that was taken before */
            const int64_t newest = degree - count + turn, place = draw_below(stream, turn, newest + 1);
            int taken = 0;
            if (many)
                taken = used[place >> 6] >> (place & 63) & 1;
            else
                for (int64_t before = 0; before < turn; before++) taken |= out[before] == place;
            out[turn] = taken ? newest : place;
            if (many) used[out[turn] >> 6] |= 1ull << (out[turn] & 63);
        }
    }
    free(used);
    const INDEX *row = (const INDEX *)f->indices + low;
    for (int64_t turn = 0; turn < count; turn++) {
        out[turn] = row[out[turn]];
        if ((uint64_t)out[turn] >= (uint64_t)f->num_nodes) return BAD_INDEX;
    }
    return 0;
}

static int SIZED(fan_out)(const FanOut *f) {
    int failed = 0;
#pragma omp parallel for num_threads((int)f->threads) if (f->threads > 1) schedule(dynamic, 64) reduction(max : failed)
    for (int64_t i = 0; i < f->count; i++) {
        const int64_t from = f->offsets[i];
        const int found = SIZED(fan_out_node)(f, f->nodes[i], f->offsets[i + 1] - from, f->out + from);
        failed = found > failed ? found : failed;
    }
    return failed;
}
