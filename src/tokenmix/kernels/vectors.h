/* Vectors of W float32 numbers, in the vector extension of GCC and Clang. */

#define vf NAME(vf)
#define vi NAME(vi)
#define load NAME(load)
#define load_some NAME(load_some)
#define store NAME(store)
#define store_some NAME(store_some)
#define splat NAME(splat)
#define power_of_two NAME(power_of_two)
#define exponential NAME(exponential)
#define sigmoid NAME(sigmoid)
#define log1p_exp NAME(log1p_exp)
#define total NAME(total)
#define vmax NAME(vmax)
#define LOG2E 1.44269504088896341f

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));

INLINE vf splat(float x) { return (vf){} + x; }

INLINE vf load(const float *p) {
    vf x;
    memcpy(&x, p, sizeof x);
    return x;
}

INLINE void store(float *p, vf x) { memcpy(p, &x, sizeof x); }

/* The first `count` numbers; zero for the rest. */
INLINE vf load_some(const float *p, int64_t count) {
    if (count >= W) return load(p);
    vf x = {};
    for (int64_t i = 0; i < count; i++) x[i] = p[i];
    return x;
}

INLINE void store_some(float *p, vf x, int64_t count) {
    if (count >= W) {
        store(p, x);
        return;
    }
    for (int64_t i = 0; i < count; i++) p[i] = x[i];
}

/* a where the mask is set (all bits of a lane), else b */
#define choose(mask, a, b) ((vf)(((vi)(a) & (mask)) | ((vi)(b) & ~(mask))))

INLINE vf vmax(vf a, vf b) {
    vi more = a > b;
    return choose(more, a, b);
}

/* 2^x within 2e-7 of it, for x below 127; anything below -126 gives 2^-126. Adding 1.5 * 2^23 rounds x to a whole
 * number, which then stands in the low bits. The polynomial is a minimax fit of (2^f - 1) / f on [-1/2, 1/2]. */
INLINE vf power_of_two(vf x) {
    vi low = x < -126.0f;
    x = choose(low, splat(-126.0f), x);
    vf whole = x + 12582912.0f;
    vf f = x - (whole - 12582912.0f);
    vf p = splat(1.535336194e-4f);
    p = p * f + 1.339887440e-3f;
    p = p * f + 9.618437357e-3f;
    p = p * f + 5.550332471e-2f;
    p = p * f + 2.402264791e-1f;
    p = p * f + 6.931472029e-1f;
    p = p * f + 1.0f;
    return (vf)((vi)p + ((vi)whole << 23));
}

INLINE vf exponential(vf x) { return power_of_two(x * LOG2E); } /* x <= 0 */

INLINE vf sigmoid(vf x) {
    vi positive = x > 0.0f;
    vf e = exponential(choose(positive, -x, x)); /* exp(-|x|) */
    return choose(positive, splat(1.0f), e) / (1.0f + e);
}

/* log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|)), and log1p(e) = 2 artanh(e / (2 + e)): digits are kept for large
 * negative x. The polynomial in s^2 is a minimax fit of artanh(s) / s on [0, 1/3]. */
INLINE vf log1p_exp(vf x) {
    vi positive = x > 0.0f;
    vf e = exponential(choose(positive, -x, x));
    vf s = e / (2.0f + e), u = s * s;
    vf p = splat(1.409577354e-1f);
    p = p * u + 1.397883291e-1f;
    p = p * u + 2.001255716e-1f;
    p = p * u + 3.333315507e-1f;
    p = p * u + 1.0f;
    return choose(positive, x, (vf){}) + 2.0f * s * p;
}

INLINE float total(vf x) {
    typedef float quarter __attribute__((vector_size(16)));
    quarter part[W / 4];
    memcpy(part, &x, sizeof x);
    for (int step = W / 8; step; step /= 2)
        for (int i = 0; i < step; i++) part[i] += part[i + step];
    return (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]);
}
