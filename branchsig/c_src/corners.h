/* Increments of static kernels from the steps of the paths, for pairs whose values of the kernel are nearly equal: `corners` are the
   values of a function v at the four corners of a cell, and

     p = v10 - v00,   q = v01 - v00,   r = v11 - v10 - v01 + v00

   Those of <x, y> and of |x - y|^2 come from the steps. Those of functions of them follow by the rules of branchsig/_corners.py, each
   within a few units in the last place of the products that it is made of, however nearly equal the values are. */
#ifndef BS_CORNERS_H
#define BS_CORNERS_H

#include "elementary.h"

/* At so many length scales the exponential in any kernel is 0. */
#define BS_FARTHEST 1e4

typedef struct {
  vec v00, v10, v01, v11, p, q, r;
} corners;

BS_INLINE corners times(corners f, corners h) {
  return (corners){f.v00 * h.v00, f.v10 * h.v10, f.v01 * h.v01, f.v11 * h.v11, f.v00 * h.p + f.p * h.v10, f.v00 * h.q + f.q * h.v01,
                   f.v00 * h.r + f.p * (h.q + h.r) + f.q * (h.p + h.r) + f.r * h.v11};
}

BS_INLINE corners times_number(corners f, double c) {
  return (corners){f.v00 * c, f.v10 * c, f.v01 * c, f.v11 * c, f.p * c, f.q * c, f.r * c};
}

/* c[0] + c[1] v + ... + c[degree] v^degree */
BS_INLINE corners polynomial_of(corners v, int degree, const double *c) {
  const vec last = splat(c[degree]), zero = splat(0);
  corners result = {last, last, last, last, zero, zero, zero};
  for (int k = degree - 1; k >= 0; --k) {
    result = times(result, v);
    result.v00 += c[k];
    result.v10 += c[k];
    result.v01 += c[k];
    result.v11 += c[k];
  }
  return result;
}

/* The same corners, renamed so that v00 is the smallest or largest of them: relative differences are taken from where the static
   kernel is largest. Returns the sign that r takes on. */
BS_INLINE vec from_extreme(int largest, corners *v) {
  vec sign = splat(1);
  ivec swap = largest ? maximum(v->v10, v->v11) > maximum(v->v00, v->v01) : minimum(v->v10, v->v11) < minimum(v->v00, v->v01);
  corners a = *v;
  a = (corners){choose(swap, a.v10, a.v00), choose(swap, a.v00, a.v10), choose(swap, a.v11, a.v01), choose(swap, a.v01, a.v11),
                choose(swap, -a.p, a.p), choose(swap, a.q + a.r, a.q), choose(swap, -a.r, a.r)};
  sign = choose(swap, -sign, sign);
  swap = largest ? a.v01 > a.v00 : a.v01 < a.v00;
  *v = (corners){choose(swap, a.v01, a.v00), choose(swap, a.v11, a.v10), choose(swap, a.v00, a.v01), choose(swap, a.v10, a.v11),
                 choose(swap, a.p + a.r, a.p), choose(swap, -a.q, a.q), choose(swap, -a.r, a.r)};
  return choose(swap, -sign, sign);
}

/* exp(v) for v00 the largest, from the values e00 and e11 and the differences of v */
BS_INLINE corners exponential_corners(vec e00, vec e11, vec p, vec q, vec r) {
  const vec p1 = exponential_less_one(p), q1 = exponential_less_one(q), fall = e00 * (p1 + 1.0) * (q1 + 1.0);
  const ivec rises = r > splat(0); /* e^(p+q+r) - e^(p+q) by the smaller exponential of the two, so that no factor overflows */
  const vec cross = choose(rises, -e11, fall) * exponential_less_one(choose(rises, -r, r));
  return (corners){e00, e00 * (p1 + 1.0), e00 * (q1 + 1.0), e11, e00 * p1, e00 * q1, e00 * p1 * q1 + cross};
}

/* exp(v), v at most 0; beyond FARTHEST length scales it is 0, whatever the differences of what is as good as infinite are. */
BS_INLINE corners exponential_of(corners v) {
  corners e = exponential_corners(exponential(v.v00), exponential(v.v11), v.p, v.q, v.r);
  e.r = choose(v.v00 < -BS_FARTHEST, splat(0), e.r);
  return e;
}

/* a / b, and 0 where b is */
BS_INLINE vec quotient(vec a, vec b) { return choose(b == splat(0), splat(0), a / b); }

/* sqrt(v) for v00 the smallest. Of two forms of r the one that divides by the larger sum. */
BS_INLINE corners root_of(corners v) {
  const vec n00 = square_root(v.v00), n10 = square_root(v.v10), n01 = square_root(v.v01), n11 = square_root(v.v11);
  const vec p = quotient(v.p, n10 + n00), q = quotient(v.q, n01 + n00), along_y = n11 + n01, along_x = n11 + n10;
  const vec down = quotient(v.q + v.r, along_x), across = quotient(v.p + v.r, along_y);
  const ivec by_y = along_y > along_x;
  const vec r = quotient(v.r - choose(by_y, p * (down + q), q * (across + p)), choose(by_y, along_y, along_x));
  return (corners){n00, n10, n01, n11, p, q, r};
}

/* Up to so many length scales, and by terms up to z^10, a Matern kernel is its power series in z = factor sqrt(t) to rounding. */
#define BS_SERIES_TO 0x1p-4

/* F(end) - F(start), F(z) = (1 + z + second z^2) exp(-z), where `step` is the end less the start */
BS_INLINE vec matern_difference(double second, vec start, vec end, vec step) {
  const vec most = splat(BS_FARTHEST);
  const ivec back = step < splat(0);
  const vec low = minimum(most, choose(back, end, start)), high = minimum(most, choose(back, start, end));
  step = minimum(most, absolute(step));
  vec value = (1.0 + low + second * low * low) * exponential(-low) * exponential_less_one(-step);
  value += step * (1.0 + second * (low + high)) * exponential(-high);
  return choose(back, -value, value);
}

/* P(z) exp(-z), z = factor sqrt(t), for P = 1 + z + second z^2 that leaves the series in z without a term of first order. Near 0 it is
   1 + z^2 S(z), where z^2 is known without a root; there the terms of first order would leave nothing but rounding. Where z itself
   changes by more than 1 in a cell, the difference along the larger step may be one of values. */
BS_INLINE vec matern_increment(double second, double factor, corners t) {
  const double P[] = {1, 1, second};
  double series[9], over = 0.5; /* 1 / k!, by sign */
  for (int k = 2; k <= 10; ++k) {
    series[k - 2] = over * (1 - k + second * (k * (k - 1)));
    over /= -(k + 1);
  }
  const corners z = times_number(root_of(t), factor);
  const vec near = times(times_number(t, factor * factor), polynomial_of(z, 8, series)).r;
  const vec smooth = times(polynomial_of(z, second != 0 ? 2 : 1, P), exponential_of(times_number(z, -1))).r;
  const vec largest = maximum(maximum(z.v10, z.v01), z.v11), along_x = absolute(z.p), along_y = absolute(z.q);
  const ivec by_x = along_x > along_y; /* the larger step: from v00 and its neighbour along y to the two others */
  const vec other = matern_difference(second, choose(by_x, z.v10, z.v01), z.v11, choose(by_x, z.q, z.p) + z.r);
  const vec own = matern_difference(second, z.v00, choose(by_x, z.v01, z.v10), choose(by_x, z.q, z.p));
  const vec far = choose(maximum(along_x, along_y) > 1, other - own, smooth);
  return choose(largest <= BS_SERIES_TO, near, choose(z.v00 > BS_FARTHEST, splat(0), far));
}

/* log(v11 v00 / (v10 v01)): from what the ratio differs by from 1, formed without a product that could overflow, and where that is much
   from the values. Infinite where it divides by 0. */
BS_INLINE vec log_ratio(corners v) {
  const vec bend = v.r / v.v10 * (v.v00 / v.v01) - v.p / v.v10 * (v.q / v.v01), zero = splat(0);
  const vec result = choose(bend <= -0.5, logarithm(v.v11 / v.v10) + logarithm(v.v00 / v.v01), log_one_plus(bend));
  return choose((v.v10 == zero) | (v.v01 == zero), splat(__builtin_inf()), result);
}

/* (1 + t c)^-alpha, c = 1 / (2 alpha sigma^2) */
BS_INLINE vec rational_quadratic_increment(double alpha, double c, corners t) {
  corners u = times_number(t, c);
  const vec e00 = exponential(-alpha * log_one_plus(u.v00)), e11 = exponential(-alpha * log_one_plus(u.v11));
  u.v00 += 1.0;
  u.v10 += 1.0;
  u.v01 += 1.0;
  u.v11 += 1.0;
  return exponential_corners(e00, e11, -alpha * log_one_plus(u.p / u.v00), -alpha * log_one_plus(u.q / u.v00), -alpha * log_ratio(u)).r;
}

/* v^degree for a whole degree, at least 1, by repeated multiplication */
BS_INLINE vec whole_power_increment(int64_t degree, corners v) {
  corners power = v;
  int begun = 0;
  for (;; v = times(v, v)) {
    if (degree & 1) {
      power = begun ? times(power, v) : v;
      begun = 1;
    }
    degree >>= 1;
    if (!degree) return power.r;
  }
}

/* v^degree for any other degree: not a number where v is negative */
BS_INLINE vec power_increment(double degree, corners v) {
  const vec sign = from_extreme(1, &v), zero = splat(0);
  const vec e00 = exponential(degree * logarithm(v.v00)), e11 = exponential(degree * logarithm(v.v11));
  const vec g = exponential_corners(e00, e11, degree * log_one_plus(quotient(v.p, v.v00)),
                                    degree * log_one_plus(quotient(v.q, v.v00)), degree * log_ratio(v)).r;
  const ivec negative = minimum(minimum(v.v10, v.v01), v.v11) < zero;
  return choose(negative, splat(__builtin_nan("")), sign * g);
}

#endif
