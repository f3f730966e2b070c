// Gradients with respect to the parameters of the static kernel: the derivatives of phi at a point, or of an increment over a cell.
//
// There are PARAMETERS of them: the scale of LINEAR kernels, gamma and the scale of polynomial ones, sigma, or sigma and alpha. The
// derivative with respect to sigma is times sigma. The derivative with respect to a scale, times the scale, is the increment itself.

template <int KERNEL>
struct ParametersOf {
  enum { COUNT = KERNEL == GIVEN ? 0 : KERNEL == POLYNOMIAL || KERNEL == RATIONAL_QUADRATIC ? 2 : 1 };
};

// log(1 + u) - u / (1 + u) for u at least 0, to a few units in its own last place
template <typename work>
__device__ inline work log_excess(work u) {
  if (!(u <= work(1.0 / 16))) return log1p(u) - u / (work(1) + u);
  work sum = work(15.0 / 16);
#pragma unroll
  for (int n = 15; n > 1; --n) sum = work((n - 1.0) / n) - u * sum;
  return u * u * sum;
}

// Adds the derivatives of phi(b) with respect to the parameters, times a weight; `sloped`: the weight times slope_of.
template <int KERNEL, bool EXACT, typename work>
__device__ __forceinline__ void add_changes(const double* parameter, work weight, work sloped, work b, work (&sum)[2]) {
  if (KERNEL == POLYNOMIAL) {
    sum[0] += sloped;
  } else {
    sum[0] -= sloped * b * (KERNEL == RBF ? work(0.5) : work(1));
    if (KERNEL == RATIONAL_QUADRATIC) {
      const work rate = work(parameter[0]);
      sum[1] -= weight * kappa_of<KERNEL, EXACT>(parameter, b) * log_excess(b * rate * rate);
    }
  }
}

// A quantity at the corners of a cell: p = v10 - v00, q = v01 - v00, r = v11 - v10 - v01 + v00. As in branchsig/_corners.py.
template <typename work>
struct Corners {
  work v00, v10, v01, v11, p, q, r;
};

template <typename work>
__device__ inline Corners<work> times(const Corners<work>& f, const Corners<work>& h) {
  return {f.v00 * h.v00, f.v10 * h.v10, f.v01 * h.v01, f.v11 * h.v11, f.v00 * h.p + f.p * h.v10, f.v00 * h.q + f.q * h.v01,
          f.v00 * h.r + f.p * (h.q + h.r) + f.q * (h.p + h.r) + f.r * h.v11};
}

template <typename work>
__device__ inline Corners<work> times(const Corners<work>& f, work c) {
  return {f.v00 * c, f.v10 * c, f.v01 * c, f.v11 * c, f.p * c, f.q * c, f.r * c};
}

template <typename work>
__device__ inline Corners<work> plus(Corners<work> f, work c) {
  f.v00 += c;
  f.v10 += c;
  f.v01 += c;
  f.v11 += c;
  return f;
}

// The difference `to - from` of two values: q + r, or where these cancel, since another corner is so far off, that of the values
template <typename work>
__device__ inline work opposite(work q, work r, work from, work to) {
  return fabs(q) + fabs(r) > fabs(from) + fabs(to) ? to - from : q + r;
}

// Renames the corners so that v00 is the smallest or largest of them; returns the resulting sign of r.
template <typename work>
__device__ inline work from_extreme(bool largest, Corners<work>& v) {
  work sign = work(1);
  if (largest ? max(v.v10, v.v11) > max(v.v00, v.v01) : min(v.v10, v.v11) < min(v.v00, v.v01)) {
    v = {v.v10, v.v00, v.v11, v.v01, -v.p, opposite(v.q, v.r, v.v10, v.v11), -v.r};
    sign = -sign;
  }
  if (largest ? v.v01 > v.v00 : v.v01 < v.v00) {
    v = {v.v01, v.v11, v.v00, v.v10, opposite(v.p, v.r, v.v01, v.v11), -v.q, -v.r};
    sign = -sign;
  }
  return sign;
}

// exp(v) for v00 the largest, from the values at 00 and 11 and the differences of v
template <typename work>
__device__ inline Corners<work> exponential_corners(work e00, work e11, work p, work q, work r) {
  const work p1 = expm1(p), q1 = expm1(q), fall = e00 * (p1 + work(1)) * (q1 + work(1));
  const work cross = r > work(0) ? -e11 * expm1(-r) : fall * expm1(r);
  return {e00, e00 * (p1 + work(1)), e00 * (q1 + work(1)), e11, e00 * p1, e00 * q1, e00 * p1 * q1 + cross};
}

// the root of v for v00 the smallest
template <typename work>
__device__ inline Corners<work> root_of(const Corners<work>& v) {
  const auto over = [](work a, work b) { return b == work(0) ? work(0) : a / b; };
  const work n00 = sqrt(v.v00), n10 = sqrt(v.v10), n01 = sqrt(v.v01), n11 = sqrt(v.v11);
  const work p = over(v.p, n10 + n00), q = over(v.q, n01 + n00), along_y = n11 + n01, along_x = n11 + n10;
  const work r = along_y > along_x ? over(v.r - p * (over(v.q + v.r, along_x) + q), along_y)
                                   : over(v.r - q * (over(v.p + v.r, along_y) + p), along_x);
  return {n00, n10, n01, n11, p, q, r};
}

// The second difference of a function of z if z changes by more than 1 in a cell: values are subtracted along the larger step; along
// the other, rise(low, high, step) is the difference of two values whose z differ by the step, at least 0.
template <typename work, typename Rise>
__device__ inline work by_larger_step(const Corners<work>& z, const Rise& rise) {
  const auto difference = [&](work start, work end, work step) {
    return step < work(0) ? -rise(end, start, -step) : rise(start, end, step);
  };
  if (fabs(z.p) > fabs(z.q)) return difference(z.v10, z.v11, z.q + z.r) - difference(z.v00, z.v01, z.q);
  return difference(z.v01, z.v11, z.p + z.r) - difference(z.v00, z.v10, z.p);
}

// The second difference of P(z) exp(-z) over a cell, P(z) = z (c0 + c1 z + c2 z^2); `factor` holds P at the corners
template <typename work>
__device__ inline work falling_change(work c0, work c1, work c2, const Corners<work>& z, const Corners<work>& factor) {
  const work farthest = work(1e4);
  if (z.v00 > farthest) return work(0);
  if (!(max(fabs(z.p), fabs(z.q)) > work(1)))
    return times(factor, exponential_corners(exp(-z.v00), exp(-z.v11), -z.p, -z.q, -z.r)).r;
  return by_larger_step(z, [&](work low, work high, work step) {
    low = min(low, farthest);
    high = min(high, farthest);
    step = min(step, farthest);
    return low * (c0 + low * (c1 + low * c2)) * exp(-low) * expm1(-step) +
           step * (c0 + c1 * (low + high) + c2 * (low * low + low * high + high * high)) * exp(-high);
  });
}

// log(1 + u) - u / (1 + u) over a cell, from the differences of log(1 + u) too
template <typename work>
__device__ inline Corners<work> log_excess_of(const Corners<work>& u, const Corners<work>& log) {
  if (max(max(u.v10, u.v01), u.v11) <= work(1.0 / 16)) {
    const Corners<work> square = times(u, u);
    Corners<work> sum = {work(0), work(0), work(0), work(0), work(0), work(0), work(0)};
#pragma unroll 1
    for (int n = 16; n > 1; --n) sum = plus(times(sum, u), work((n % 2 ? -1.0 : 1.0) * (n - 1) / n));
    return times(square, sum);
  }
  const Corners<work> b = plus(u, work(1));
  const work bend = u.q / b.v01 * (u.p / b.v00 / b.v10 + (u.p + u.r) / b.v10 / b.v11) - u.r / b.v10 / b.v11;  // of 1 / (1 + u)
  return {log_excess(u.v00),
          log_excess(u.v10),
          log_excess(u.v01),
          log_excess(u.v11),
          log_excess(u.p / b.v00) + u.p / b.v10 * (u.v00 / b.v00),
          log_excess(u.q / b.v00) + u.q / b.v01 * (u.v00 / b.v00),
          log.r + bend};
}

// v11 v00 / (v10 v01) as a logarithm
template <typename work>
__device__ inline work log_ratio(const Corners<work>& v) {
  if (v.v10 == work(0) || v.v01 == work(0)) return work(1) / work(0);
  const work bend = v.r / v.v10 * (v.v00 / v.v01) - v.p / v.v10 * (v.q / v.v01);
  return bend <= work(-0.5) ? log(v.v11 / v.v10) + log(v.v00 / v.v01) : log1p(bend);
}

// The second difference of v^exponent over a cell; NaN if v is negative and the exponent not an integer
template <typename work>
__device__ inline work power_change(double exponent, Corners<work> v) {
  if (exponent == 0.0) return work(0);
  if (exponent == floor(exponent) && exponent > 0.0) {
    Corners<work> power = {work(1), work(1), work(1), work(1), work(0), work(0), work(0)};
    for (double left = exponent; left >= 1.0; left = floor(left / 2), v = times(v, v))
      if (fmod(left, 2.0) == 1.0) power = times(power, v);
    return power.r;
  }
  const work e = work(exponent), sign = from_extreme(exponent > 0.0, v);
  if (min(min(v.v10, v.v01), min(v.v00, v.v11)) < work(0)) return work(0) / work(0);
  const auto over = [](work a, work b) { return b == work(0) ? work(0) : a / b; };
  return sign * exponential_corners(pow(v.v00, e), pow(v.v11, e), e * log1p(over(v.p, v.v00)), e * log1p(over(v.q, v.v00)),
                                    e * log_ratio(v)).r;
}

// The derivatives of the increment of a cell with respect to the parameters, from b (polynomial: b + gamma) and its differences
template <int KERNEL, typename work>
__device__ inline void changes_of_cell(const double* parameter, const OverCell<work>& b, work (&change)[2]) {
  const work p0 = work(parameter[0]), p1 = work(parameter[1]);
  Corners<work> v = {b.at[0][0], b.at[1][0], b.at[0][1], b.at[1][1], b.down[0], b.along[0], b.both};
  change[0] = change[1] = work(0);
  if (KERNEL == POLYNOMIAL) {
    const double degree = parameter[0];
    if (degree != 0.0) change[0] = work(parameter[2] * degree) * power_change(degree - 1.0, v);
    return;
  }
  const work sign = from_extreme(false, v);
  if (KERNEL == RBF) {
    const Corners<work> z = times(v, p0);
    change[0] = sign * falling_change(work(1), work(0), work(0), z, z);
  } else if (KERNEL == MATERN12) {
    const Corners<work> z = times(root_of(v), p0);
    change[0] = sign * falling_change(work(1), work(0), work(0), z, z);
  } else if (KERNEL == MATERN32) {
    change[0] = sign * falling_change(work(0), work(1), work(0), times(root_of(v), p0), times(v, p0 * p0));
  } else if (KERNEL == MATERN52) {
    const Corners<work> z = times(root_of(v), p0);
    const work third = work(1.0 / 3);
    change[0] = sign * falling_change(work(0), third, third, z, times(times(v, p0 * p0 * third), plus(z, work(1))));
  } else {
    const work beyond = work(parameter[3]) * work(parameter[3]);  // as in second_difference
    if (p1 >= work(0.1) ? v.v00 >= beyond : max(max(v.v10, v.v01), v.v11) >= beyond) {
      change[0] = change[1] = p1 >= work(0.1) ? work(0) : not_a_number<work>();
      return;
    }
    const Corners<work> u = times(v, p0 * p0), base = plus(u, work(1));
    const Corners<work> logs = {log1p(u.v00), log1p(u.v10), log1p(u.v01), log1p(u.v11), log1p(u.p / base.v00), log1p(u.q / base.v00),
                                log_ratio(base)};
    const work to_scale = work(2) * p1, steepness = max(fabs(u.p), fabs(u.q)) * to_scale;
    const auto power = [&](work e) { return exponential_corners(exp(e * logs.v00), exp(e * logs.v11), e * logs.p, e * logs.q, e * logs.r); };
    if (!(steepness > work(1))) {
      change[0] = sign * times(times(u, to_scale), power(-p1 - work(1))).r;
      change[1] = -sign * times(log_excess_of(u, logs), power(-p1)).r;
      return;
    }
    change[0] = sign * by_larger_step(u, [&](work low, work high, work step) {
      const work e = -p1 - work(1), from = exp(e * log1p(low)), to = exp(e * log1p(high));
      return to_scale * (low * from * expm1(e * log1p(step / (work(1) + low))) + step * to);
    });
    change[1] = -sign * by_larger_step(u, [&](work low, work high, work step) {
      // 1 + high = (1 + low) (1 + x), so the difference of the excesses is the excess of x plus a product of two fractions
      const work x = step / (work(1) + low), from = exp(-p1 * log1p(low)), to = exp(-p1 * log1p(high));
      const work more = log_excess(x) + x / (work(1) + x) * (low / (work(1) + low));
      return log_excess(low) * from * expm1(-p1 * log1p(x)) + more * to;
    });
  }
}
