/* The CPU kernels of tokenmix: plain C behind a C interface, float32, OpenMP where there is any.
 *
 * This file holds the arguments of each kernel (mirrored in native.py), picks the widest vectors that the processor
 * has, and shares tasks among threads. The kernels themselves are in the other headers beside this file,
 * compiled once for each width of vectors. A task never shares a sum with another one, and partial sums are added up in
 * a fixed order: results are the same, bit for bit, for any number of threads.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef TOKENMIX_HASH
#define TOKENMIX_HASH "none"
#endif

#define EXPORT __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))

#include "arguments.h"

/* ---------------------------------------------------------------- one copy of the kernels for each kind of vectors */

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define W 16
#define TILE 16
#define NAME(name) name##_avx512
#include "body.h"
#undef NAME
#undef TILE
#undef W
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define W 8
#define TILE 8
#define NAME(name) name##_avx2
#include "body.h"
#undef NAME
#undef TILE
#undef W
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

#define W 4
#define TILE 8
#define NAME(name) name##_baseline
#include "body.h"
#undef NAME
#undef TILE
#undef W

/* ---------------------------------------------------------------- sampling, which needs no vectors */

#define INDEX int32_t
#define SIZED(name) name##_32
#include "sampling.h"
#undef SIZED
#undef INDEX

#define INDEX int64_t
#define SIZED(name) name##_64
#include "sampling.h"
#undef SIZED
#undef INDEX

/* ---------------------------------------------------------------- dispatch */

static int widest(void) {
#ifdef X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return 1;
#endif
    return 0;
}

static int chosen = -1;

EXPORT const char *tm_hash(void) { return TOKENMIX_HASH; }

EXPORT int tm_openmp(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

/* 2: AVX-512, 1: AVX2, 0: the compiler's default. */
EXPORT int tm_level(void) { return chosen < 0 ? widest() : chosen; }

/* For tests: use narrower vectors than there are; -1 for the widest. Returns what is in use then. */
EXPORT int tm_set_level(int level) {
    int most = widest();
    chosen = level < 0 ? -1 : level < most ? level : most;
    return tm_level();
}

#ifdef X86
#define PICK(name) (tm_level() == 2 ? name##_avx512 : tm_level() == 1 ? name##_avx2 : name##_baseline)
#else
#define PICK(name) name##_baseline
#endif

EXPORT int tm_scan_forward(const Scan *s) { return PICK(scan_forward)(s); }
EXPORT int tm_scan_backward(const Scan *s, const ScanGrads *g) { return PICK(scan_backward)(s, g); }
EXPORT int tm_scan_step(const Scan *s) { return PICK(scan_step)(s); }
EXPORT int tm_conv_forward(const Conv *c) { return PICK(conv_forward)(c); }
EXPORT int tm_conv_backward(const Conv *c, const ConvGrads *g) { return PICK(conv_backward)(c, g); }
EXPORT int tm_ssd_forward(const Ssd *s) { return PICK(ssd_forward)(s); }
EXPORT int tm_ssd_backward(const Ssd *s, const SsdGrads *g) { return PICK(ssd_backward)(s, g); }
EXPORT int tm_window_forward(const Window *w) { return PICK(window_forward)(w); }
EXPORT int tm_window_backward(const Window *w, const WindowGrads *g) { return PICK(window_backward)(w, g); }
EXPORT int tm_read_cache(const Cache *c) { return PICK(read_cache)(c); }
EXPORT int tm_nearest_neighbours(const Nearest *n) { return PICK(nearest_neighbours)(n); }
EXPORT int tm_farthest_points(const Farthest *f) { return PICK(farthest_points)(f); }
EXPORT int tm_two_hop(const TwoHop *t) { return t->wide ? two_hop_64(t) : two_hop_32(t); }
EXPORT int tm_fan_out(const FanOut *f) { return f->wide ? fan_out_64(f) : fan_out_32(f); }
EXPORT int tm_aggregate(const Aggregate *a) { return PICK(aggregate)(a); }
EXPORT int64_t tm_sizeof(int which) {
    static const int64_t sizes[] = {sizeof(Scan), sizeof(ScanGrads), sizeof(Conv), sizeof(ConvGrads),
                                    sizeof(Ssd),  sizeof(SsdGrads),  sizeof(Window), sizeof(WindowGrads),
                                    sizeof(Cache), sizeof(Nearest), sizeof(Farthest), sizeof(TwoHop),
                                    sizeof(FanOut), sizeof(Aggregate)};
    return which < 0 || which > 13 ? -1 : sizes[which];
}
