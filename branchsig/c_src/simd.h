/* One SIMD register of the real type and what the sweeps do with it. Arithmetic is written with the compiler's vector
   extensions; the few operations that have no operator (maximum, selection, square root) are named here.
   BS_REAL is 32 or 64. The width follows from the instruction set that the file is compiled for. */
#ifndef BS_SIMD_H
#define BS_SIMD_H

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

#if BS_REAL == 64
typedef double real;
typedef int64_t whole;
#else
typedef float real;
typedef int32_t whole;
#endif

enum { W = BS_BYTES / sizeof(real) };

typedef real vec __attribute__((vector_size(BS_BYTES), may_alias));
typedef whole ivec __attribute__((vector_size(BS_BYTES), may_alias));
typedef real vec_unaligned __attribute__((vector_size(BS_BYTES), aligned(sizeof(real)), may_alias));

#define BS_INLINE static inline __attribute__((always_inline))

BS_INLINE vec splat(real value) { return (vec){0} + value; }
BS_INLINE vec load_unaligned(const real *p) { return *(const vec_unaligned *)p; }
BS_INLINE void store_unaligned(real *p, vec v) { *(vec_unaligned *)p = v; }

/* mask != 0 ? a : b, where every lane of mask is all ones or all zeros */
BS_INLINE vec choose(ivec mask, vec a, vec b) { return (vec)(((ivec)a & mask) | ((ivec)b & ~mask)); }

#if BS_REAL == 64
#define BS_ABS_BITS INT64_MAX
#else
#define BS_ABS_BITS INT32_MAX
#endif
BS_INLINE vec absolute(vec x) { return (vec)((ivec)x & ((ivec){0} + BS_ABS_BITS)); }

#if BS_BYTES == 64 && BS_REAL == 64
BS_INLINE vec maximum(vec a, vec b) { return (vec)_mm512_max_pd((__m512d)a, (__m512d)b); }
BS_INLINE vec minimum(vec a, vec b) { return (vec)_mm512_min_pd((__m512d)a, (__m512d)b); }
/* true unless every lane is a number <= bound: a NaN counts as beyond */
BS_INLINE int any_beyond(vec a, real bound) { return _mm512_cmp_pd_mask((__m512d)a, _mm512_set1_pd(bound), _CMP_NLE_UQ) != 0; }
BS_INLINE vec square_root(vec a) { return (vec)_mm512_sqrt_pd((__m512d)a); }
#elif BS_BYTES == 64
BS_INLINE vec maximum(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
BS_INLINE vec minimum(vec a, vec b) { return (vec)_mm512_min_ps((__m512)a, (__m512)b); }
BS_INLINE int any_beyond(vec a, real bound) { return _mm512_cmp_ps_mask((__m512)a, _mm512_set1_ps(bound), _CMP_NLE_UQ) != 0; }
BS_INLINE vec square_root(vec a) { return (vec)_mm512_sqrt_ps((__m512)a); }
#elif BS_BYTES == 32 && BS_REAL == 64
BS_INLINE vec maximum(vec a, vec b) { return (vec)_mm256_max_pd((__m256d)a, (__m256d)b); }
BS_INLINE vec minimum(vec a, vec b) { return (vec)_mm256_min_pd((__m256d)a, (__m256d)b); }
BS_INLINE int any_beyond(vec a, real bound) { return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, _mm256_set1_pd(bound), _CMP_NLE_UQ)) != 0; }
BS_INLINE vec square_root(vec a) { return (vec)_mm256_sqrt_pd((__m256d)a); }
#elif BS_BYTES == 32
BS_INLINE vec maximum(vec a, vec b) { return (vec)_mm256_max_ps((__m256)a, (__m256)b); }
BS_INLINE vec minimum(vec a, vec b) { return (vec)_mm256_min_ps((__m256)a, (__m256)b); }
BS_INLINE int any_beyond(vec a, real bound) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, _mm256_set1_ps(bound), _CMP_NLE_UQ)) != 0; }
BS_INLINE vec square_root(vec a) { return (vec)_mm256_sqrt_ps((__m256)a); }
#elif defined(__SSE2__) && BS_REAL == 64
BS_INLINE vec maximum(vec a, vec b) { return (vec)_mm_max_pd((__m128d)a, (__m128d)b); }
BS_INLINE vec minimum(vec a, vec b) { return (vec)_mm_min_pd((__m128d)a, (__m128d)b); }
BS_INLINE int any_beyond(vec a, real bound) { return _mm_movemask_pd(_mm_cmpnle_pd((__m128d)a, _mm_set1_pd(bound))) != 0; }
BS_INLINE vec square_root(vec a) { return (vec)_mm_sqrt_pd((__m128d)a); }
#elif defined(__SSE2__)
BS_INLINE vec maximum(vec a, vec b) { return (vec)_mm_max_ps((__m128)a, (__m128)b); }
BS_INLINE vec minimum(vec a, vec b) { return (vec)_mm_min_ps((__m128)a, (__m128)b); }
BS_INLINE int any_beyond(vec a, real bound) { return _mm_movemask_ps(_mm_cmpnle_ps((__m128)a, _mm_set1_ps(bound))) != 0; }
BS_INLINE vec square_root(vec a) { return (vec)_mm_sqrt_ps((__m128)a); }
#else
#include <math.h>
BS_INLINE vec maximum(vec a, vec b) { return choose(a > b, a, b); }
BS_INLINE vec minimum(vec a, vec b) { return choose(a < b, a, b); }
BS_INLINE int any_beyond(vec a, real bound) {
  for (int w = 0; w < W; ++w)
    if (!(a[w] <= bound)) return 1;
  return 0;
}
BS_INLINE vec square_root(vec a) {
  for (int w = 0; w < W; ++w) a[w] = BS_REAL == 64 ? (real)sqrt((double)a[w]) : (real)sqrtf((float)a[w]);
  return a;
}
#endif

#endif
