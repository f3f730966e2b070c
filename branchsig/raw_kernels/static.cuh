// Static kernels that are not linear: a function phi of b = <x, y> (polynomial) or of b = |x - y|^2 (radial), its slope, and its
// second difference over a cell.
//
//   polynomial   phi = scale (b + gamma)^degree      rational quadratic   phi = (1 + b rate^2)^-alpha
//   RBF          phi = exp(-b rate)                  with a = sqrt(b) rate:
//   Matern 1/2   phi = exp(-a)      Matern 3/2   phi = (1 + a) exp(-a)      Matern 5/2   phi = (1 + a + a^2 / 3) exp(-a)
//
// Differences of points are in units, see `apart` in increments.cuh, and so are the rates.

// sqrt(b) rate; if exp(-a) is 0, a is clipped so that its square is finite
template <typename work>
__device__ __forceinline__ work distance_of(work b, work rate) {
  const work a = sqrt(b) * rate;
  return a > work(1e4) ? work(1e4) : a;
}

// base^degree. Integer degrees accept negative bases, up to 2^31 - 1, the limit of int(); beyond it the result is NaN.
template <typename work>
__device__ __forceinline__ work power_of(work base, double degree) {
  const int whole = int(degree);
  return double(whole) == degree ? whole_power(base, whole) : power(base, work(degree));
}

// (1 + x)^exponent; EXACT: accurate also for small x and large exponents
template <bool EXACT, typename work>
__device__ __forceinline__ work power_beside_one(work x, work exponent) {
  return EXACT ? exp(exponent * log1p(x)) : power(work(1) + x, exponent);
}

// phi(b)
template <int KERNEL, bool EXACT, typename work>
__device__ __forceinline__ work kappa_of(const double* parameter, work b) {
  const work p0 = work(parameter[0]), p1 = work(parameter[1]), p2 = work(parameter[2]);
  if (KERNEL == POLYNOMIAL) return p2 * power_of(b + p1, parameter[0]);
  if (KERNEL == RBF) return exp(-b * p0);
  if (KERNEL == MATERN12) return exp(-sqrt(b) * p0);
  if (KERNEL == MATERN32) {
    const work a = distance_of(b, p0);
    return (work(1) + a) * exp(-a);
  }
  if (KERNEL == MATERN52) {
    const work a = distance_of(b, p0);
    return (work(1) + a + a * a * work(1.0 / 3)) * exp(-a);
  }
  return power_beside_one<EXACT>(b * p0 * p0, -p1);  // RATIONAL_QUADRATIC
}

// the factor of the gradients: d kappa / d x = slope y (polynomial) or slope (x - y) (radial). It is finite where points coincide; the
// gradient is 0 there.
template <int KERNEL, bool EXACT, typename work>
__device__ __forceinline__ work slope_of(const double* parameter, work b) {
  const work p0 = work(parameter[0]), p1 = work(parameter[1]), p2 = work(parameter[2]);
  if (KERNEL == POLYNOMIAL) return p0 == work(0) ? work(0) : p2 * p0 * power_of(b + p1, parameter[0] - 1.0);
  if (KERNEL == RBF) return exp(-b * p0) * (work(-2) * p0);
  if (KERNEL == MATERN12) {  // where the points coincide there is no gradient; it is set to 0
    const work r = sqrt(b);
    return b == work(0) ? work(0) : -exp(-r * p0) * p0 / r;
  }
  if (KERNEL == MATERN32) return b == work(0) ? work(0) : exp(-sqrt(b) * p0) * -p0 * p0;
  if (KERNEL == MATERN52) {
    const work a = distance_of(b, p0);
    return b == work(0) ? work(0) : (work(1) + a) * exp(-a) * (p0 * work(-1.0 / 3)) * p0;
  }
  return b == work(0) ? work(0) : power_beside_one<EXACT>(b * p0 * p0, -p1 - work(1)) * p0 * p0 * (work(-2) * p1);
}

// A quantity at the corners of a cell, its differences down the left and the right side and along the upper and the lower one, and
// its second difference. None of the differences is computed from the others.
template <typename work>
struct OverCell {
  work at[2][2], down[2], along[2], both;
};

// Differences of the root of b from those of b
template <typename work>
__device__ inline OverCell<work> root_of(const OverCell<work>& b, work rate) {
  OverCell<work> a;
  work across[2];  // sums of the roots on the upper and the lower side
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) a.at[i][j] = sqrt(b.at[i][j]);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const work up_and_down = a.at[0][i] + a.at[1][i];
    across[i] = a.at[i][0] + a.at[i][1];
    a.down[i] = up_and_down == work(0) ? work(0) : b.down[i] / up_and_down;
    a.along[i] = across[i] == work(0) ? work(0) : b.along[i] / across[i];
  }
  const work wider = across[1] - across[0];
  if (wider == work(0) && across[0] == work(0)) {
    a.both = work(0);
  } else if (across[1] < across[0]) {
    a.both = (b.both - a.along[1] * (a.down[0] + a.down[1])) / across[0];
  } else {
    a.both = (b.both - a.along[0] * (a.down[0] + a.down[1])) / across[1];
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) a.at[i][j] = distance_of(b.at[i][j], rate);
    a.down[i] *= rate;
    a.along[i] *= rate;
  }
  a.both *= rate;
  return a;
}

// Differences of factor log(at) from those of a quantity of constant sign; infinities if the sign changes
template <typename work>
__device__ inline OverCell<work> log_of(const OverCell<work>& z, work factor) {
  OverCell<work> a = z;
  const bool above = z.at[0][0] > work(0);
  bool one_sign = true;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) one_sign &= z.at[i][j] != work(0) && (z.at[i][j] > work(0)) == above;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    a.down[i] = one_sign ? factor * log1p(z.down[i] / z.at[0][i]) : work(1) / work(0);
    a.along[i] = one_sign ? factor * log1p(z.along[i] / z.at[i][0]) : work(1) / work(0);
  }
  const work bent = (z.both - z.down[0] * (z.along[0] / z.at[0][0])) * (z.at[0][0] / z.at[1][0]) / z.at[0][1];
  a.both = factor * log1p(bent);
  return a;
}

// exp(-x) - 1 + x
template <typename work>
__device__ inline work bend(work x) {
  if (!(fabs(x) <= work(0.25))) return expm1(-x) + x;
  work sum = work(1);
#pragma unroll
  for (int n = 14; n > 2; --n) sum = work(1) - x * sum * (work(1) / work(n));
  return x * x * work(0.5) * sum;
}

// phi(a + d) - phi(a) over exp(-a) for the exponents a of phi; `square`: (a + d)^2 - a^2
template <int KERNEL, typename work>
__device__ inline work difference(work a, work d, work square) {
  const work e = expm1(-d);
  if (KERNEL != MATERN32 && KERNEL != MATERN52) return e;
  const work made = bend(d) + (a + d) * e;
  return KERNEL == MATERN32 ? made : made + (a * a * e + square * (work(1) + e)) * work(1.0 / 3);
}

// The second difference of phi over a cell, from b (polynomial: b + gamma) and its differences. With phi = exp(-a), e(d) = exp(-d)
// - 1 for a difference d of a, and the differences that meet in the corner 00,
//
//   phi_11 - phi_10 - phi_01 + phi_00 = phi_00 (e(down) e(along) + exp(-down - along) e(both)),
//
// and likewise with a polynomial in a times the exponential, whose linear terms cancel analytically. If a changes much in one
// direction, differences are subtracted in the other direction; if it does in both, the values of phi are.
template <int KERNEL, typename work>
__device__ inline work second_difference(const double* parameter, const OverCell<work>& b) {
  const work p0 = work(parameter[0]), p1 = work(parameter[1]);
  constexpr bool OF_DISTANCE = KERNEL == MATERN12 || KERNEL == MATERN32 || KERNEL == MATERN52;
  OverCell<work> a = b, scaled = b;
  work phi[2][2];
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j)
      phi[i][j] = KERNEL == POLYNOMIAL ? power_of(b.at[i][j], parameter[0]) : kappa_of<KERNEL, true>(parameter, b.at[i][j]);
  if (KERNEL == RBF || KERNEL == RATIONAL_QUADRATIC) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < 2; ++j) scaled.at[i][j] = work(1) + b.at[i][j] * p0 * p0;
      scaled.down[i] = b.down[i] * p0 * (KERNEL == RBF ? work(1) : p0);
      scaled.along[i] = b.along[i] * p0 * (KERNEL == RBF ? work(1) : p0);
    }
    scaled.both = b.both * p0 * (KERNEL == RBF ? work(1) : p0);
    a = KERNEL == RBF ? scaled : log_of(scaled, p1);
  } else if (OF_DISTANCE) {
    a = root_of(b, p0);
  } else {
    a = log_of(b, -p0);
  }
  const bool still_down = fabs(a.down[0]) <= work(0.5) && fabs(a.down[1]) <= work(0.5);
  const bool still_along = fabs(a.along[0]) <= work(0.5) && fabs(a.along[1]) <= work(0.5);
  // common factor of the differences of phi
  work factor[2][2];
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) factor[i][j] = OF_DISTANCE ? exp(-a.at[i][j]) : phi[i][j];
  const auto square = [&](work difference) { return difference * p0 * p0; };
  work found;
  if (still_down && still_along) {
    const work down = expm1(-a.down[0]), along = expm1(-a.along[0]), both = expm1(-a.both);
    const work bent = down * along + (work(1) + down) * (work(1) + along) * both;  // of exp(-a), over that at 00
    if (KERNEL != MATERN32 && KERNEL != MATERN52) {
      found = factor[0][0] * bent;
    } else {
      const work d = a.along[1], lower = bend(d) + a.at[1][1] * expm1(-d);
      const work change = bend(a.both) + along * both + a.at[1][1] * (work(1) + along) * both + a.down[1] * along;
      found = factor[0][0] * (down * lower + change);
      if (KERNEL == MATERN52) {
        const work third = a.at[0][0] * a.at[0][0] * factor[0][0] * bent + square(b.down[0]) * factor[1][0] * expm1(-d) +
                           square(b.along[0]) * factor[0][1] * expm1(-a.down[1]) + square(b.both) * factor[1][1];
        found += third * work(1.0 / 3);
      }
    }
  } else if (still_along) {
    found = factor[1][0] * difference<KERNEL>(a.at[1][0], a.along[1], square(b.along[1])) -
            factor[0][0] * difference<KERNEL>(a.at[0][0], a.along[0], square(b.along[0]));
  } else if (still_down) {
    found = factor[0][1] * difference<KERNEL>(a.at[0][1], a.down[1], square(b.down[1])) -
            factor[0][0] * difference<KERNEL>(a.at[0][0], a.down[0], square(b.down[0]));
  } else {
    found = (phi[1][1] - phi[0][1]) - (phi[1][0] - phi[0][0]);
  }
  if (KERNEL == RATIONAL_QUADRATIC) {  // a kernel that hardly decays is not 0 at differences that count as infinite
    const work beyond = work(parameter[3]) * work(parameter[3]);
    const work least = smaller(smaller(b.at[0][0], b.at[0][1]), smaller(b.at[1][0], b.at[1][1]));
    const work most = larger(larger(b.at[0][0], b.at[0][1]), larger(b.at[1][0], b.at[1][1]));
    if (p1 >= work(0.1) ? least >= beyond : most >= beyond) return p1 >= work(0.1) ? work(0) : not_a_number<work>();
  }
  return KERNEL == POLYNOMIAL ? found * work(parameter[2]) : found;
}
