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

BS_INLINE corners choose_corners(ivec which, corners f, corners h) {
  return (corners){choose(which, f.v00, h.v00), choose(which, f.v10, h.v10), choose(which, f.v01, h.v01), choose(which, f.v11, h.v11),
                   choose(which, f.p, h.p), choose(which, f.q, h.q), choose(which, f.r, h.r)};
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

/* The difference `to - from` of two values: q + r, or where these cancel, since another corner is so far off, that of the values. */
BS_INLINE vec opposite(vec q, vec r, vec from, vec to) {
  return choose(absolute(q) + absolute(r) > absolute(from) + absolute(to), to - from, q + r);
}

/* The same corners, renamed so that v00 is the smallest or largest of them: relative differences are taken from where the static
   kernel is largest. Returns the sign that r takes on. */
BS_INLINE vec from_extreme(int largest, corners *v) {
  vec sign = splat(1);
  ivec swap = largest ? maximum(v->v10, v->v11) > maximum(v->v00, v->v01) : minimum(v->v10, v->v11) < minimum(v->v00, v->v01);
  corners a = *v;
  a = (corners){choose(swap, a.v10, a.v00), choose(swap, a.v00, a.v10), choose(swap, a.v11, a.v01), choose(swap, a.v01, a.v11),
                choose(swap, -a.p, a.p), choose(swap, opposite(a.q, a.r, a.v10, a.v11), a.q), choose(swap, -a.r, a.r)};
  sign = choose(swap, -sign, sign);
  swap = largest ? a.v01 > a.v00 : a.v01 < a.v00;
  *v = (corners){choose(swap, a.v01, a.v00), choose(swap, a.v11, a.v10), choose(swap, a.v00, a.v01), choose(swap, a.v10, a.v11),
                 choose(swap, opposite(a.p, a.r, a.v01, a.v11), a.p), choose(swap, -a.q, a.q), choose(swap, -a.r, a.r)};
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

/* F(end) - F(start), F(z) = z (c[0] + c[1] z + c[2] z^2) exp(-z), where `step` is the end less the start */
BS_INLINE vec falling_difference(const double c[3], vec start, vec end, vec step) {
  const vec most = splat(BS_FARTHEST);
  const ivec back = step < splat(0);
  const vec low = minimum(most, choose(back, end, start)), high = minimum(most, choose(back, start, end));
  step = minimum(most, absolute(step));
  vec value = low * (c[0] + low * (c[1] + low * c[2])) * exponential(-low) * exponential_less_one(-step);
  value += step * (c[0] + c[1] * (low + high) + c[2] * (low * low + low * high + high * high)) * exponential(-high);
  return choose(back, -value, value);
}

/* F over a cell, from `factor`, what exp(-z) is multiplied by there, and e = exp(-z). Where z itself changes by more than 1, the
   polynomial of one corner beside the exponential of another would leave nothing but rounding: the difference along the larger step is
   then one of values. */
BS_INLINE vec falling_increment(const double c[3], corners z, corners factor, corners e) {
  const vec along_x = absolute(z.p), along_y = absolute(z.q);
  vec result = times(factor, e).r;
  if (any_beyond(maximum(along_x, along_y), 1)) {
    const ivec by_x = along_x > along_y; /* as in matern_increment */
    const vec other = falling_difference(c, choose(by_x, z.v10, z.v01), z.v11, choose(by_x, z.q, z.p) + z.r);
    const vec own = falling_difference(c, z.v00, choose(by_x, z.v01, z.v10), choose(by_x, z.q, z.p));
    result = choose(maximum(along_x, along_y) > 1, other - own, result);
  }
  return choose(z.v00 > BS_FARTHEST, splat(0), result);
}

/* exp(-b over_sigma); this and those below: `change`, unless it is NULL, is sigma times the derivative with respect to sigma */
BS_INLINE vec rbf_increment(double over_sigma, corners b, vec *change) {
  const double c[] = {1, 0, 0};
  const corners z = times_number(b, over_sigma), e = exponential_of(times_number(z, -1));
  if (change) *change = falling_increment(c, z, z, e);
  return e.r;
}

/* The same within few lengths, where no corner is so far off another that it matters which of them b is looked at from. */
BS_INLINE vec compact_rbf_increment(double over_sigma, corners b) {
  const vec p = exponential_less_one(b.p * -over_sigma), q = exponential_less_one(b.q * -over_sigma), r = exponential_less_one(b.r * -over_sigma);
  return decay(b.v00 * -over_sigma) * (p * q + (p + 1.0) * ((q + 1.0) * r));
}

/* exp(-sqrt(b) over_sigma) */
BS_INLINE vec matern12_increment(double over_sigma, corners b, vec *change) {
  const double c[] = {1, 0, 0};
  const corners z = times_number(root_of(b), over_sigma), e = exponential_of(times_number(z, -1));
  if (change) *change = falling_increment(c, z, z, e);
  return e.r;
}

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
BS_INLINE vec matern_increment(double second, double factor, corners t, vec *change) {
  const double P[] = {1, 1, second};
  double series[9], over = 0.5; /* 1 / k!, by sign */
  for (int k = 2; k <= 10; ++k) {
    series[k - 2] = over * (1 - k + second * (k * (k - 1)));
    over /= -(k + 1);
  }
  const corners z = times_number(root_of(t), factor), e = exponential_of(times_number(z, -1));
  if (change) { /* z^2 exp(-z), or (z^2 + z^3) / 3 exp(-z); z^2 is known without a root here too */
    const double c[] = {0, second != 0 ? 1.0 / 3 : 1, second != 0 ? 1.0 / 3 : 0};
    const corners square = times_number(t, factor * factor * c[1]);
    *change = falling_increment(c, z, second != 0 ? times(square, polynomial_of(z, 1, P)) : square, e);
  }
  const vec near = times(times_number(t, factor * factor), polynomial_of(z, 8, series)).r;
  const vec smooth = times(polynomial_of(z, second != 0 ? 2 : 1, P), e).r;
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

/* log(1 + u) - u / (1 + u) for u at least 0, within a few units in its own last place */
BS_INLINE vec log_excess(vec u) {
  vec s = splat(15.0 / 16);
  for (int n = 15; n >= 2; --n) s = (n - 1.0) / n - s * u;
  return choose(u <= BS_SERIES_TO, u * u * s, log_one_plus(u) - u / (1.0 + u));
}

/* What a rational quadratic kernel has, differentiated by alpha or by sigma (times sigma), at z = u: minus log_excess(u) (1 + u)^-alpha,
   or 2 alpha u (1 + u)^(-alpha - 1). The difference of two values, as above. */
BS_INLINE vec rational_quadratic_difference(int by_alpha, double alpha, vec start, vec end, vec step) {
  const ivec back = step < splat(0);
  const vec low = choose(back, end, start), high = choose(back, start, end), x = absolute(step) / (1.0 + low);
  const double exponent = by_alpha ? -alpha : -alpha - 1;
  const vec from = exponential(exponent * log_one_plus(low)), to = exponential(exponent * log_one_plus(high));
  const vec fall = exponential_less_one(exponent * log_one_plus(x));
  vec value;
  if (by_alpha) /* 1 + high = (1 + low) (1 + x), so what the excesses differ by is that of x and a product of two fractions */
    value = -(log_excess(low) * from * fall + (log_excess(x) + x / (1.0 + x) * (low / (1.0 + low))) * to);
  else
    value = 2 * alpha * (low * from * fall + absolute(step) * to);
  return choose(back, -value, value);
}

/* log_excess from u, b = 1 + u, of which the differences are those of u, and log(1 + u) */
BS_INLINE corners log_excess_of(corners u, corners b, corners log) {
  const vec bend = u.q / b.v01 * (u.p / b.v00 / b.v10 + (u.p + u.r) / b.v10 / b.v11) - u.r / b.v10 / b.v11; /* of 1 / (1 + u) */
  return (corners){log_excess(u.v00), log_excess(u.v10), log_excess(u.v01), log_excess(u.v11),
                   log_excess(u.p / b.v00) + u.p / b.v10 * (u.v00 / b.v00), log_excess(u.q / b.v00) + u.q / b.v01 * (u.v00 / b.v00),
                   log.r + bend};
}

/* From u, b = 1 + u, of which the differences are those of u, log(1 + u), and (1 + u)^-alpha; t / sigma^2 = 2 alpha u */
BS_INLINE void rational_quadratic_changes(double alpha, corners u, corners b, corners log, corners power, vec change[2]) {
  const double to_scale = 2 * alpha;
  const vec along_x = absolute(u.p) * to_scale, along_y = absolute(u.q) * to_scale;
  const vec e00 = exponential((-alpha - 1) * log.v00), e11 = exponential((-alpha - 1) * log.v11);
  const corners steeper = exponential_corners(e00, e11, (-alpha - 1) * log.p, (-alpha - 1) * log.q, (-alpha - 1) * log.r);
  change[0] = times(times_number(u, to_scale), steeper).r;
  double series[15];
  for (int n = 2; n <= 16; ++n) series[n - 2] = (n % 2 ? -1.0 : 1.0) * (n - 1) / n;
  corners excess = times(times(u, u), polynomial_of(u, 14, series));
  const vec largest = maximum(maximum(u.v10, u.v01), u.v11);
  if (any_beyond(largest, BS_SERIES_TO)) excess = choose_corners(largest <= BS_SERIES_TO, excess, log_excess_of(u, b, log));
  change[1] = -times(excess, power).r;
  if (!any_beyond(maximum(along_x, along_y), 1)) return;
  const ivec steep = maximum(along_x, along_y) > 1, by_x = along_x > along_y; /* as in matern_increment */
  for (int k = 0; k < 2; ++k) {
    const vec other = rational_quadratic_difference(k, alpha, choose(by_x, u.v10, u.v01), u.v11, choose(by_x, u.q, u.p) + u.r);
    const vec own = rational_quadratic_difference(k, alpha, u.v00, choose(by_x, u.v01, u.v10), choose(by_x, u.q, u.p));
    change[k] = choose(steep, other - own, change[k]);
  }
}

/* (1 + t c)^-alpha, c = 1 / (2 alpha sigma^2) */
BS_INLINE vec rational_quadratic_increment(double alpha, double c, corners t, vec *change) {
  const corners u = times_number(t, c);
  const vec log00 = log_one_plus(u.v00), log11 = log_one_plus(u.v11);
  const corners b = {u.v00 + 1.0, u.v10 + 1.0, u.v01 + 1.0, u.v11 + 1.0, u.p, u.q, u.r};
  const corners log = {log00, log00, log00, log11, log_one_plus(u.p / b.v00), log_one_plus(u.q / b.v00), log_ratio(b)};
  const corners power = exponential_corners(exponential(-alpha * log00), exponential(-alpha * log11), -alpha * log.p, -alpha * log.q, -alpha * log.r);
  if (change) rational_quadratic_changes(alpha, u, b, log, power, change);
  return power.r;
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

/* v^degree for any other degree, which may be below 0: not a number where v is negative */
BS_INLINE vec power_increment(double degree, corners v) {
  const vec sign = from_extreme(degree > 0, &v), zero = splat(0);
  const vec e00 = exponential(degree * logarithm(v.v00)), e11 = exponential(degree * logarithm(v.v11));
  const vec g = exponential_corners(e00, e11, degree * log_one_plus(quotient(v.p, v.v00)),
                                    degree * log_one_plus(quotient(v.q, v.v00)), degree * log_ratio(v)).r;
  const ivec negative = minimum(minimum(v.v10, v.v01), v.v11) < zero;
  return choose(negative, splat(__builtin_nan("")), sign * g);
}

#endif
