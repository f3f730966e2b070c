/* Vector exp, log and power, and the short exponential of the sweeps. Never compile with -ffast-math: the rounding by a
   large constant (t = x L + S; n = t - S) would be removed. */
#ifndef BS_ELEMENTARY_H
#define BS_ELEMENTARY_H

#include "simd.h"

enum { MANTISSA = 52, BIAS = 1023 };

#if BS_BYTES == 64
/* exp(x) within 1.1 units in the last place, for |x| < 2^15: x = n ln 2 + r, n in eighths, and the instruction set has a table of
   eight values, for the fraction of n, and 2^floor(n) with gradual underflow. exp(r) = 1 + r + r^2 q(r), q the Chebyshev
   interpolant on |r| <= ln 2 / 16: relative error 1.0e-17. */
BS_INLINE vec exponential_of_moderate(vec x) {
  const vec eighths = {0x1p0, 0x1.172b83c7d517bp0, 0x1.306fe0a31b715p0, 0x1.4bfdad5362a27p0,
                       0x1.6a09e667f3bcdp0, 0x1.8ace5422aa0dbp0, 0x1.ae89f995ad3adp0, 0x1.d5818dcfba487p0};
  const double shift = 0x1.8p49, log2e = 0x1.71547652b82fep+0;
  const double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  vec t = x * log2e + shift; /* x log2 e, rounded to eighths, and the shift */
  vec n = t - shift;
  vec r = x - n * ln2_high;
  r = r - n * ln2_low;
  vec r2 = r * r;
  vec a = 0x1.555555555556ap-3 * r + 0x1.000000000002ep-1;
  vec b = 0x1.1111110e10556p-7 * r + 0x1.5555554e93acap-5;
  vec c = 0x1.a01e2c15a33f3p-13 * r + 0x1.6c1b7131a0993p-10;
  vec q = a + r2 * (b + r2 * c);
  vec whole = (vec)_mm512_permutexvar_pd((__m512i)t, (__m512d)eighths);
  return (vec)_mm512_scalef_pd((__m512d)(whole + whole * (r + r2 * q)), (__m512d)n);
}

/* exp(x); gradual underflow, inf and NaN as in libm */
BS_INLINE vec exponential(vec x) {
  return exponential_of_moderate(minimum(splat(710.0), maximum(splat(-746.0), x))); /* a NaN in the second argument is the result */
}

/* exp(x) for x <= 0 */
BS_INLINE vec decay(vec x) { return exponential_of_moderate(maximum(splat(-746.0), x)); }
#else
/* exp(x) = p 2^k within 1.1 units in the last place, for x where k is an exponent; the low bits of `shifted` hold k */
BS_INLINE vec exponential_parts(vec x, ivec *shifted) {
  const double shift = 0x1.8p52, log2e = 0x1.71547652b82fep+0;
  const double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  vec t = x * log2e + shift; /* round(x log2 e), and the shift */
  vec n = t - shift;
  vec r = x - n * ln2_high;
  r = r - n * ln2_low;
  vec r2 = r * r;
  /* exp(r) = 1 + r + r^2 q(r), q the Chebyshev interpolant on |r| <= ln 2 / 2: relative error 1.6e-17 */
  vec r4 = r2 * r2;
  vec a = 0x1.5555555555556p-3 * r + 0x1.0000000000001p-1;
  vec b = 0x1.11111111109b3p-7 * r + 0x1.5555555553d63p-5;
  vec c = 0x1.a01a01a7c41d5p-13 * r + 0x1.6c16c1788bd90p-10;
  vec d = 0x1.71de0dae63bb3p-19 * r + 0x1.a019b90d2ae7ap-16;
  vec e = 0x1.af38a9b0ec855p-26 * r + 0x1.289185613a3d6p-22;
  vec q = (a + b * r2) + r4 * ((c + d * r2) + r4 * e);
  *shifted = (ivec)t;
  return (r + r2 * q) + 1.0;
}

/* exp(x); gradual underflow, inf and NaN as in libm */
BS_INLINE vec exponential(vec x) {
  ivec shifted;
  vec clamped = minimum(splat(710.0), maximum(splat(-746.0), x)); /* of these, a NaN in the second argument is the result */
  vec p = exponential_parts(clamped, &shifted);
  ivec k = shifted << (64 - MANTISSA) >> (64 - MANTISSA);
  ivec k1 = k >> 1, k2 = k - k1; /* 2^k by two factors, so that both ends of the range come out right */
  return p * (vec)((k1 + BIAS) << MANTISSA) * (vec)((k2 + BIAS) << MANTISSA);
}

/* exp(x) for x <= 0, and 0 where it is less than exp(-708) = 3.3e-308, so that one factor will do */
BS_INLINE vec decay(vec x) {
  const vec least = splat(-708.0);
  ivec shifted;
  vec p = exponential_parts(maximum(least, x), &shifted);
  return (vec)((ivec)(p * (vec)((shifted + BIAS) << MANTISSA)) & ~(x < least));
}
#endif

/* log(x), not a number for x < 0: x = 2^k m with m in [sqrt(1/2), sqrt(2)), log m = 2 atanh((m-1)/(m+1)) as a series in
   u = ((m-1)/(m+1))^2 */
BS_INLINE vec logarithm(vec x) {
  const vec least = splat(0x1p-1022), lift = splat(0x1p54);
  ivec subnormal = x < least;
  vec y = choose(subnormal, x * lift, x);
  uvec bits = (uvec)y, root_half = (uvec)splat(0x1.6a09e667f3bcdp-1);
  ivec k = (ivec)(bits - root_half) >> MANTISSA;
  vec m = (vec)(bits - ((uvec)k << MANTISSA));
  vec n = __builtin_convertvector(k, vec) - choose(subnormal, splat(54.0), splat(0));
  vec f = (m - 1.0) / (m + 1.0), u = f * f;
  vec s = splat(2.0 / 23);
  for (int j = 21; j >= 3; j -= 2) s = s * u + 2.0 / j;
  const double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  vec result = n * ln2_high + ((f * (u * s) + n * ln2_low) + 2 * f);
  result = choose(x == splat(0), splat(-__builtin_inf()), result);
  result = choose(x < splat(0), splat(__builtin_nan("")), result);
  return choose((x == x) & (x < splat(__builtin_inf())), result, choose(x < splat(0), result, x));
}

/* exp(x) - 1 within a few units in its own last place: where that is less than 1/2 by its series, of which even and odd powers are summed
   side by side. */
BS_INLINE vec exponential_less_one(vec x) {
  const double over[] = {1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800,
                         1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
  const vec x2 = x * x;
  vec even = splat(over[12]), odd = splat(over[11]);
  for (int k = 10; k >= 2; k -= 2) {
    even = even * x2 + over[k];
    odd = odd * x2 + over[k - 1];
  }
  const vec near = x + x2 * (odd + x * even);
  if (!any_beyond(absolute(x), 0.35)) return near;
  return choose(absolute(x) <= 0.35, near, exponential(x) - 1.0);
}

/* log(1 + x) within a few units in its own last place: by the series of logarithm where x is small */
BS_INLINE vec log_one_plus(vec x) {
  const vec f = x / (x + 2.0), u = f * f;
  vec s = splat(2.0 / 27);
  for (int j = 25; j >= 3; j -= 2) s = s * u + 2.0 / j;
  return choose(absolute(x) <= 0.4, f * (u * s) + 2 * f, logarithm(1.0 + x));
}

/* (1 + u) log(1 + u) - u for u at least 0, without cancellation where u is small. log(1 + u) as in logarithm, n = 0 for u below
   sqrt(2) - 1: there f = u / (2 + u), and the result is (2 + u) (f^2 + (1 + f) (f^3 / 3 + f^5 / 5 + ...)). */
BS_INLINE vec entropy(vec u) {
  const vec base = 1.0 + u;
  const uvec bits = (uvec)base;
  const ivec k = (ivec)(bits - (uvec)splat(0x1.6a09e667f3bcdp-1)) >> MANTISSA, near = k == (ivec){0};
  const vec m = (vec)(bits - ((uvec)k << MANTISSA)), n = __builtin_convertvector(k, vec);
  const vec f = choose(near, u, m - 1.0) * reciprocal(choose(near, u, m - 1.0) + 2.0), f2 = f * f;
  vec s = splat(2.0 / 19);
  for (int j = 17; j >= 3; j -= 2) s = s * f2 + 2.0 / j;
  const double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
  const vec tail = f * (f2 * s);
  const vec far = base * (n * ln2_high + ((tail + n * ln2_low) + 2 * f)) - u;
  return choose(near, (u + 2.0) * (f2 + (1.0 + f) * tail * 0.5), far);
}

/* base^exponent for a whole number, by repeated multiplication; the caller keeps |exponent| small */
BS_INLINE vec whole_power(vec base, int exponent) {
  vec power = splat(1);
  for (int e = exponent < 0 ? -exponent : exponent; e; e >>= 1) {
    if (e & 1) power = power * base;
    base = base * base;
  }
  if (exponent < 0) power = 1 / power;
  return power;
}

/* The sweeps take exp of one cell at a time, and a cell is small: exp(x) = 1 + x p(x) with a Taylor polynomial p, whose degree
   depends on how large |x| may be in a run of cells; up to SMALL the coefficient of x^5 makes up for most of x^7. What is left out
   is at most 1.6e-15. Beyond LARGE it is the full exponential. Every lane takes the form that its own run is due, so neighbours
   in the register change no bit of it; a tier is what all lanes of a register need. */
enum { TIER_TINY, TIER_SMALL, TIER_MEDIUM, TIER_LARGE, TIER_ANY };
#define BS_TINY 0x1p-9   /* p of degree 3 */
#define BS_SMALL 0x1p-5  /* p of degree 5 */
#define BS_MEDIUM 0x1p-3 /* p of degree 8 */
#define BS_LARGE 0x1p-1  /* p of degree 12 */
#define BS_FIFTH (1.0 / 120 + 0.75 * BS_SMALL * BS_SMALL / 5040)

/* Coefficients of x^5 to x^13, 0 in lanes that do without, and the lanes that take the full exponential */
typedef struct {
  vec fifth, sixth, seventh, eighth, ninth, tenth, eleventh, twelfth, thirteenth;
  ivec full;
} growth;

/* How the lanes of a tier take exp(x) for |x| <= largest. */
BS_INLINE growth growth_for(int tier, vec largest) {
  growth how = {0};
  if (tier >= TIER_SMALL) {
    const ivec short_of = ~(largest <= BS_TINY); /* NaN counts as large */
    how.fifth = (vec)((ivec)splat(BS_FIFTH) & short_of);
    how.sixth = (vec)((ivec)splat(1.0 / 720) & short_of);
  }
  if (tier >= TIER_MEDIUM) {
    const ivec short_of = ~(largest <= BS_SMALL);
    how.fifth = choose(short_of, splat(1.0 / 120), how.fifth);
    how.seventh = (vec)((ivec)splat(1.0 / 5040) & short_of);
    how.eighth = (vec)((ivec)splat(1.0 / 40320) & short_of);
    how.ninth = (vec)((ivec)splat(1.0 / 362880) & short_of);
  }
  if (tier >= TIER_LARGE) {
    const ivec short_of = ~(largest <= BS_MEDIUM);
    how.tenth = (vec)((ivec)splat(1.0 / 3628800) & short_of);
    how.eleventh = (vec)((ivec)splat(1.0 / 39916800) & short_of);
    how.twelfth = (vec)((ivec)splat(1.0 / 479001600) & short_of);
    how.thirteenth = (vec)((ivec)splat(1.0 / 6227020800) & short_of);
  }
  if (tier == TIER_ANY) how.full = ~(largest <= BS_LARGE);
  return how;
}

/* E exp(x): E + E (exp(x) - 1), for that adds nothing of its own to the rounding of E and saves an addition. Even and odd powers
   are summed side by side: what counts in the sweep is how soon the result is there. */
BS_INLINE vec grown(int tier, growth how, vec E, vec x) {
  vec x2 = x * x, high = splat(1.0 / 24); /* 1/4! + x/5! + ... */
  if (tier >= TIER_SMALL) {
    vec q = x * how.sixth + how.fifth;
    if (tier >= TIER_MEDIUM) {
      vec ninth = how.ninth;
      if (tier >= TIER_LARGE) ninth += x2 * (x2 * how.thirteenth + (x * how.twelfth + how.eleventh)) + x * how.tenth;
      q += x2 * (x2 * ninth + (x * how.eighth + how.seventh));
    }
    high += x * q;
  }
  const vec result = E * (x2 * (x2 * high + (x * (1.0 / 6) + 0.5)) + x) + E;
  return tier == TIER_ANY ? choose(how.full, E * exponential(x), result) : result;
}

/* exp(x) of single values, |x| <= SMALL (TIER_SMALL) or any; what is within SMALL takes one form. */
BS_INLINE vec small_exp(int tier, vec x) {
  const growth within = {.fifth = splat(BS_FIFTH), .sixth = splat(1.0 / 720)};
  if (tier == TIER_SMALL) return grown(TIER_SMALL, within, splat(1), x);
  const vec size = maximum(splat(BS_SMALL), absolute(x));
  return any_beyond(size, BS_LARGE) ? grown(TIER_ANY, growth_for(TIER_ANY, size), splat(1), x)
                                    : grown(TIER_LARGE, growth_for(TIER_LARGE, size), splat(1), x);
}

/* the tier that promises no more than `largest` */
BS_INLINE int tier_for(vec largest) {
  if (!any_beyond(largest, BS_TINY)) return TIER_TINY;
  if (!any_beyond(largest, BS_SMALL)) return TIER_SMALL;
  if (!any_beyond(largest, BS_MEDIUM)) return TIER_MEDIUM;
  return any_beyond(largest, BS_LARGE) ? TIER_ANY : TIER_LARGE;
}

#endif
