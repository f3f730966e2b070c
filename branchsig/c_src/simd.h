/* One SIMD register of doubles and what the sweeps do with it. Arithmetic is written with the compiler's vector
   extensions; the few operations that have no operator (maximum, selection, square root) are named here. The width
   follows from the instruction set that the file is compiled for. */
#ifndef BS_SIMD_H
#define BS_SIMD_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define BS_BYTES 64
#elif defined(__AVX2__)
#define BS_BYTES 32
#else
#define BS_BYTES 16
#endif

enum { W = BS_BYTES / sizeof(double) };

typedef double vec __attribute__((vector_size(BS_BYTES), may_alias));
typedef int64_t ivec __attribute__((vector_size(BS_BYTES), may_alias));
typedef uint64_t uvec __attribute__((vector_size(BS_BYTES), may_alias)); /* where sums may leave the range of ivec */

#define BS_INLINE static inline __attribute__((always_inline))

BS_INLINE vec splat(double value) {
#if BS_BYTES == 64
  return (vec)_mm512_set1_pd(value);
#elif BS_BYTES == 32
  return (vec)_mm256_set1_pd(value);
#else
  return (vec){value, value};
#endif
}

/* mask != 0 ? a : b, where every lane of mask is all ones or all zeros */
BS_INLINE vec choose(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }

BS_INLINE vec absolute(vec x) { return (vec)((ivec)x & ((ivec){0} + INT64_MAX)); }

/* maximum(a, b) and minimum(a, b) are b where either is not a number */
#if BS_BYTES == 64
BS_INLINE vec maximum(vec a, vec b) { return (vec)_mm512_max_pd((__m512d)a, (__m512d)b); }
BS_INLINE vec minimum(vec a, vec b) { return (vec)_mm512_min_pd((__m512d)a, (__m512d)b); }
/* true unless every lane is a number <= bound: a NaN counts as beyond */
BS_INLINE int any_beyond(vec a, double bound) { return _mm512_cmp_pd_mask((__m512d)a, _mm512_set1_pd(bound), _CMP_NLE_UQ) != 0; }
BS_INLINE vec square_root(vec a) { return (vec)_mm512_sqrt_pd((__m512d)a); }
#elif BS_BYTES == 32
BS_INLINE vec maximum(vec a, vec b) { return (vec)_mm256_max_pd((__m256d)a, (__m256d)b); }
BS_INLINE vec minimum(vec a, vec b) { return (vec)_mm256_min_pd((__m256d)a, (__m256d)b); }
BS_INLINE int any_beyond(vec a, double bound) { return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, _mm256_set1_pd(bound), _CMP_NLE_UQ)) != 0; }
BS_INLINE vec square_root(vec a) { return (vec)_mm256_sqrt_pd((__m256d)a); }
#elif defined(__SSE2__)
BS_INLINE vec maximum(vec a, vec b) { return (vec)_mm_max_pd((__m128d)a, (__m128d)b); }
BS_INLINE vec minimum(vec a, vec b) { return (vec)_mm_min_pd((__m128d)a, (__m128d)b); }
BS_INLINE int any_beyond(vec a, double bound) { return _mm_movemask_pd(_mm_cmpnle_pd((__m128d)a, _mm_set1_pd(bound))) != 0; }
BS_INLINE vec square_root(vec a) { return (vec)_mm_sqrt_pd((__m128d)a); }
#else
BS_INLINE vec maximum(vec a, vec b) { return choose(a > b, a, b); }
BS_INLINE vec minimum(vec a, vec b) { return choose(a < b, a, b); }
BS_INLINE int any_beyond(vec a, double bound) {
  for (int w = 0; w < W; ++w)
    if (!(a[w] <= bound)) return 1;
  return 0;
}
BS_INLINE vec square_root(vec a) {
  for (int w = 0; w < W; ++w) a[w] = sqrt(a[w]);
  return a;
}
#endif

/* W registers as the rows of a matrix, transposed: halves of rows change places at a distance of 1, 2, 4, ... */
BS_INLINE void transpose(vec row[W]) {
#pragma GCC unroll 8
  for (int s = 1; s < W; s *= 2)
#pragma GCC unroll 8
    for (int i = 0; i < W; ++i)
      if (!(i & s)) {
        const vec a = row[i], b = row[i + s];
#if defined(__clang__) || !defined(__GNUC__)
        for (int w = 0; w < W; ++w)
          if (w & s)
            row[i][w] = b[w - s];
          else
            row[i + s][w] = a[w + s];
#else
        ivec upper, lower;
        for (int w = 0; w < W; ++w) {
          upper[w] = w & s ? W + w - s : w;
          lower[w] = w & s ? W + w : w + s;
        }
        row[i] = __builtin_shuffle(a, b, upper);
        row[i + s] = __builtin_shuffle(a, b, lower);
#endif
      }
}

/* Lane w: that of `from` s lanes in front of it; there is 0 in front of the first one. s is known to the compiler. */
BS_INLINE vec lanes_up(vec from, int s) {
#if defined(__clang__) || !defined(__GNUC__)
  vec up = {0};
  for (int w = s; w < W; ++w) up[w] = from[w - s];
  return up;
#else
  ivec which;
  for (int w = 0; w < W; ++w) which[w] = w < s ? W : w - s;
  return __builtin_shuffle(from, (vec){0}, which);
#endif
}

/* 1 / x within two units in the last place, for 1e-300 <= |x| <= 1e300, without the unit that divides: that one has a square root to do */
BS_INLINE vec reciprocal(vec x) {
#if BS_BYTES == 64
  vec y = (vec)_mm512_rcp14_pd((__m512d)x), e = 1.0 - x * y;
  y += y * (e * e + e);
  e = 1.0 - x * y;
  return y + y * e;
#else
  return 1 / x;
#endif
}

/* x as it is, but a product keeps its own rounding: it is not fused with the sum it goes into, however much the compiler sees at once */
BS_INLINE vec rounded(vec x) {
#if defined(__SSE2__)
  __asm__("" : "+x"(x));
#elif defined(__aarch64__)
  __asm__("" : "+w"(x));
#endif
  return x;
}

BS_INLINE vec load(const double *from) {
  vec v;
  memcpy(&v, from, sizeof v);
  return v;
}

BS_INLINE void store(double *to, vec v) { memcpy(to, &v, sizeof v); }

/* the first `count` lanes, fewer than W, and zeros: no more is read */
BS_INLINE vec load_part(const double *from, int64_t count) {
#if BS_BYTES == 64
  return (vec)_mm512_maskz_loadu_pd((__mmask8)((1u << count) - 1), from);
#elif BS_BYTES == 32
  return (vec)_mm256_maskload_pd(from, (__m256i)((ivec){0, 1, 2, 3} < (ivec){0} + count));
#else
  vec v = {0};
  for (int w = 0; w < count; ++w) v[w] = from[w];
  return v;
#endif
}

/* the same for up to W lanes */
BS_INLINE vec load_first(const double *from, int64_t count) { return count < W ? load_part(from, count) : load(from); }

/* stores the first `count` lanes alone, fewer than W */
BS_INLINE void store_part(double *to, int64_t count, vec v) {
#if BS_BYTES == 64
  _mm512_mask_storeu_pd(to, (__mmask8)((1u << count) - 1), (__m512d)v);
#elif BS_BYTES == 32
  _mm256_maskstore_pd(to, (__m256i)((ivec){0, 1, 2, 3} < (ivec){0} + count), (__m256d)v);
#else
  for (int w = 0; w < count; ++w) to[w] = v[w];
#endif
}

/* the larger of bound and |x| */
BS_INLINE vec widened(vec bound, vec x) {
#if BS_BYTES == 64
  return (vec)_mm512_range_pd((__m512d)bound, (__m512d)x, 11); /* maximum of absolute values, positive */
#else
  return maximum(bound, absolute(x));
#endif
}

#endif
