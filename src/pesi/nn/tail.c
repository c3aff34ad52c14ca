/* The end of a Pesi block on a processor, forward and backward, each in two passes; see native.py, which compiles it.

   A task is some channels of one image (channels_last), or one channel of one image (contiguous): rows of `lanes`
   values that lie side by side, each lane with parameters of its own. It reads its maps twice; the second time they
   come from the cache. All arithmetic is in float. */

#ifndef MAP
#include <math.h>
#include <stdint.h>
#include <string.h>

#define LANES 1024 /* of a row at most; rows that are read whole are read as fast as memory gives them */
#define SAFE 1e26f /* sums of exponentials between 1 / SAFE and SAFE need no maximum subtracted */
#define LOG2_E 1.44269504f

typedef struct {
    const void *z, *s, *grad;
    void *out, *of_o, *of_s;
    const float *scale, *shift, *s_scale, *s_shift, *alpha; /* a value a channel; NULL: no norm */
    float *log_sum, *peak, *terms;                          /* a value a channel of each image; peak in units of log 2 */
    int64_t images, channels, positions, block;             /* block: channels of a task, where they lie side by side */
    int32_t channels_last, alphas, relu, threads;
    float inverse_temperature, gain;
} Tail;

typedef struct {
    int64_t start, rows, stride;      /* of the maps, in values */
    int lanes, last;                  /* lanes of a row, and of the last one */
    int channel, channels;            /* the first channel, and how many */
    int64_t place;                    /* of the first channel in `log_sum`, `peak` and `terms` */
} Task;

static int64_t blocks(const Tail *t) {
    return t->channels_last ? (t->channels + t->block - 1) / t->block : t->channels;
}

static Task task(const Tail *t, int64_t number) {
    const int64_t image = number / blocks(t), block = number % blocks(t);
    if (t->channels_last) {
        const int64_t c = block * t->block, left = t->channels - c;
        const int lanes = (int)(left < t->block ? left : t->block);
        return (Task){image * t->positions * t->channels + c, t->positions, t->channels, lanes, lanes, (int)c, lanes,
                      image * t->channels + c};
    }
    const int64_t lanes = t->positions < LANES ? t->positions : LANES, rows = (t->positions + lanes - 1) / lanes;
    const int last = (int)(t->positions - (rows - 1) * lanes);
    return (Task){number * t->positions, rows, lanes, (int)lanes, last, (int)block, 1, number};
}

/* A value a channel to one a lane. */
static void spread(Task at, const float *from, float otherwise, float *to) {
    for (int c = 0; c < at.lanes; c++)
        to[c] = from == NULL ? otherwise : from[at.channels > 1 ? c : 0];
}

/* One a lane to one a channel: their sum or the largest. */
static void gather(Task at, const float *from, float *to, int largest) {
    memcpy(to, from, sizeof(float) * at.channels);
    for (int c = 1; at.channels == 1 && c < at.lanes; c++)
        *to = largest ? (from[c] > *to ? from[c] : *to) : *to + from[c];
}

/* 2^x to float's precision; 0 below 2^-126, 2^127 above it (polynomial of Cephes' exp2f, S. Moshier). */
static inline float power_of_2(float x) {
    x = x > 127.0f ? 127.0f : x;
    const float whole = x + 12582912.0f - 12582912.0f, f = x - whole; /* to the nearest: 1.5 * 2^23 */
    int32_t n = (int32_t)whole;                                       /* out of its range: INT32_MIN */
    n = n < -127 ? -127 : n;
    float e = 1.535336188e-4f * f + 1.339887440e-3f;
    e = e * f + 9.618437357e-3f;
    e = e * f + 5.550332471e-2f;
    e = e * f + 2.402264791e-1f;
    e = e * f + 6.931472028e-1f;
    e = e * f + 1.0f;
    union { int32_t i; float f; } power = {.i = (n + 127) << 23};
    return e * power.f;
}

static inline float from_float(float x) { return x; }
static inline float to_float(float x) { return x; }

static inline float from_bfloat16(uint16_t x) {
    union { uint32_t i; float f; } bits = {.i = (uint32_t)x << 16};
    return bits.f;
}

/* To the nearest, ties to even; NaN stays NaN. */
static inline uint16_t to_bfloat16(float x) {
    union { float f; uint32_t i; } bits = {.f = x};
    uint32_t rounded = (bits.i + 0x7fff + (bits.i >> 16 & 1)) >> 16;
    return (uint16_t)(x != x ? 0x7fc0 : rounded);
}

#define ROWS for (int64_t row = 0; row < at.rows; row++)
#define EACH \
    const int64_t first = at.start + row * at.stride; \
    const int lanes = row + 1 < at.rows ? at.lanes : at.last; \
    _Pragma("omp simd") for (int c = 0; c < lanes; c++)

#define MAP float
#define NAME(x) x##_float
#define READ from_float
#define WRITE to_float
#include "tail.c"
#undef MAP
#undef NAME
#undef READ
#undef WRITE
#define MAP uint16_t
#define NAME(x) x##_bfloat16
#define READ from_bfloat16
#define WRITE to_bfloat16
#include "tail.c"
#else

/* The sums of exp(O / T). */
static void NAME(sums)(Task at, const MAP *restrict z, const float *restrict sharp, const float *restrict sharp_shift,
                       const float *restrict peak, float *restrict sum) {
    memset(sum, 0, sizeof(float) * at.lanes);
    ROWS { EACH sum[c] += power_of_2(READ(z[first + c]) * sharp[c] + sharp_shift[c] - peak[c]); }
}

static void NAME(peaks)(Task at, const MAP *restrict z, const float *restrict sharp, const float *restrict sharp_shift,
                        float *restrict peak) {
    for (int c = 0; c < at.lanes; c++)
        peak[c] = -INFINITY;
    ROWS {
        EACH {
            const float x = READ(z[first + c]) * sharp[c] + sharp_shift[c];
            peak[c] = x > peak[c] || x != x ? x : peak[c];
        }
    }
}

static void NAME(ends)(Task at, const MAP *restrict z, const MAP *restrict s, MAP *restrict out,
                       const float *restrict scale, const float *restrict shift, const float *restrict sharp,
                       const float *restrict sharp_shift, const float *restrict s_scale, const float *restrict s_shift,
                       const float *restrict peak, const float *restrict weight, float least) {
    ROWS {
        EACH {
            const float from = READ(z[first + c]), low = READ(s[first + c]) * s_scale[c] + s_shift[c];
            const float m = power_of_2(from * sharp[c] + sharp_shift[c] - peak[c]) * weight[c];
            const float y = from * scale[c] + shift[c] + low + m * low;
            out[first + c] = WRITE(y < least ? least : y);
        }
    }
}

void NAME(forward)(const Tail *t) {
    const int64_t tasks = t->images * blocks(t);
#pragma omp parallel for num_threads(t->threads) schedule(static)
    for (int64_t number = 0; number < tasks; number++) {
        const Task at = task(t, number);
        float scale[LANES], shift[LANES], s_scale[LANES], s_shift[LANES], sharp[LANES], sharp_shift[LANES];
        float sum[LANES], peak[LANES], weight[LANES];
        float *const log_sum = t->log_sum + at.place;
        spread(at, t->scale ? t->scale + at.channel : NULL, 1, scale);
        spread(at, t->shift ? t->shift + at.channel : NULL, 0, shift);
        spread(at, t->s_scale ? t->s_scale + at.channel : NULL, 1, s_scale);
        spread(at, t->s_shift ? t->s_shift + at.channel : NULL, 0, s_shift);
        spread(at, NULL, 0, peak);
        for (int c = 0; c < at.lanes; c++) {
            sharp[c] = scale[c] * (t->inverse_temperature * LOG2_E);
            sharp_shift[c] = shift[c] * (t->inverse_temperature * LOG2_E);
        }
        NAME(sums)(at, t->z, sharp, sharp_shift, peak, sum);
        gather(at, sum, log_sum, 0);
        int safe = 1;
        for (int c = 0; c < at.channels; c++)
            safe &= log_sum[c] < SAFE && log_sum[c] > 1 / SAFE;
        if (!safe) {
            NAME(peaks)(at, t->z, sharp, sharp_shift, peak);
            gather(at, peak, t->peak + at.place, 1);
            spread(at, t->peak + at.place, 0, peak);
            NAME(sums)(at, t->z, sharp, sharp_shift, peak, sum);
            gather(at, sum, log_sum, 0);
        }
        gather(at, peak, t->peak + at.place, 1);
        for (int c = 0; c < at.channels; c++)
            log_sum[c] = logf(log_sum[c] / t->gain);
        spread(at, log_sum, 0, weight);
        spread(at, t->alphas ? t->alpha + at.channel : NULL, t->alpha[0], sum);
        for (int c = 0; c < at.lanes; c++)
            weight[c] = expf(-weight[c]) * sum[c];
        NAME(ends)(at, t->z, t->s, t->out, scale, shift, sharp, sharp_shift, s_scale, s_shift, peak, weight,
                   t->relu ? 0 : -INFINITY);
    }
}

/* The sums of g s M, where g is the gradient that passes the ReLU: where the result, computed anew, is above `least`. */
static void NAME(products)(Task at, const MAP *restrict z, const MAP *restrict s, const MAP *restrict grad,
                           const float *restrict scale, const float *restrict shift, const float *restrict sharp,
                           const float *restrict sharp_shift, const float *restrict s_scale,
                           const float *restrict s_shift, const float *restrict peak, const float *restrict weight,
                           float least, float *restrict sum) {
    memset(sum, 0, sizeof(float) * at.lanes);
    ROWS {
        EACH {
            const float from = READ(z[first + c]), low = READ(s[first + c]) * s_scale[c] + s_shift[c];
            const float e = power_of_2(from * sharp[c] + sharp_shift[c] - peak[c]), m = e * weight[c];
            const float y = from * scale[c] + shift[c] + low + m * low, given = READ(grad[first + c]);
            sum[c] += (y > least ? given : 0) * e * low;
        }
    }
}

static void NAME(grads)(Task at, const MAP *restrict z, const MAP *restrict s, const MAP *restrict grad,
                        MAP *restrict of_o, MAP *restrict of_s, const float *restrict scale,
                        const float *restrict shift, const float *restrict sharp, const float *restrict sharp_shift,
                        const float *restrict s_scale, const float *restrict s_shift, const float *restrict peak,
                        const float *restrict weight, const float *restrict mean, float least,
                        float inverse_temperature) {
    ROWS {
        EACH {
            const float from = READ(z[first + c]), low = READ(s[first + c]) * s_scale[c] + s_shift[c];
            const float m = power_of_2(from * sharp[c] + sharp_shift[c] - peak[c]) * weight[c];
            const float y = from * scale[c] + shift[c] + low + m * low, given = READ(grad[first + c]);
            const float g = y > least ? given : 0;
            of_o[first + c] = WRITE(g + m * (g * low - mean[c]) * inverse_temperature);
            of_s[first + c] = WRITE(g + m * g);
        }
    }
}

void NAME(backward)(const Tail *t) {
    const int64_t tasks = t->images * blocks(t);
#pragma omp parallel for num_threads(t->threads) schedule(static)
    for (int64_t number = 0; number < tasks; number++) {
        const Task at = task(t, number);
        float scale[LANES], shift[LANES], sharp[LANES], sharp_shift[LANES], s_scale[LANES], s_shift[LANES];
        float sum[LANES], peak[LANES], weight[LANES], mean[LANES];
        const float *const log_sum = t->log_sum + at.place, least = t->relu ? 0 : -INFINITY;
        float *const terms = t->terms + at.place;
        spread(at, t->scale ? t->scale + at.channel : NULL, 1, scale);
        spread(at, t->shift ? t->shift + at.channel : NULL, 0, shift);
        spread(at, t->s_scale ? t->s_scale + at.channel : NULL, 1, s_scale);
        spread(at, t->s_shift ? t->s_shift + at.channel : NULL, 0, s_shift);
        spread(at, t->peak + at.place, 0, peak);
        spread(at, log_sum, 0, weight);
        spread(at, t->alphas ? t->alpha + at.channel : NULL, t->alpha[0], sum);
        for (int c = 0; c < at.lanes; c++) {
            sharp[c] = scale[c] * (t->inverse_temperature * LOG2_E);
            sharp_shift[c] = shift[c] * (t->inverse_temperature * LOG2_E);
            weight[c] = expf(-weight[c]) * sum[c];
        }
        NAME(products)(at, t->z, t->s, t->grad, scale, shift, sharp, sharp_shift, s_scale, s_shift, peak, weight, least,
                       sum);
        gather(at, sum, terms, 0);
        for (int c = 0; c < at.channels; c++)
            terms[c] *= expf(-log_sum[c]);
        spread(at, terms, 0, mean);
        for (int c = 0; c < at.lanes; c++)
            mean[c] /= t->gain;
        NAME(grads)(at, t->z, t->s, t->grad, t->of_o, t->of_s, scale, shift, sharp, sharp_shift, s_scale, s_shift, peak,
                    weight, mean, least, t->inverse_temperature);
    }
}
#endif
