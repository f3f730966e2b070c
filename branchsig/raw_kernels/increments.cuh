// Increments of the static kernel, one row of cells at a time, for the strip of columns that a lane owns.
//
//   g(i, j) = kappa(x_{i+1}, y_{j+1}) - kappa(x_i, y_{j+1}) - kappa(x_{i+1}, y_j) + kappa(x_i, y_j)
//
// The linear kernels need the steps of the paths alone: g = factor <x_{i+1} - x_i, y_{j+1} - y_j>. All others are a function
// phi of b = <x, y> (polynomial) or of b = |x - y|^2 (radial). The points of y (linear: its steps) that a strip needs stay in
// registers, as far as the first CHANNELS channels go; further channels are read again, and come out of the cache. These functions
// may be dilated: g times a factor of x and one of y, which stand in a last channel.

enum { GIVEN, LINEAR, POLYNOMIAL, RBF, MATERN12, MATERN32, MATERN52, RATIONAL_QUADRATIC };
enum { CHANNELS = 4 };

// What all kernels are told about the problem.
template <typename real>
struct Problem {
  int padded1, padded2, dimension;  // (n1, padded1, dimension), (n2, padded2, dimension); GIVEN: (pairs, padded1-1, padded2-1)
  int length1, length2;             // valid points of the two paths of a pair: what lies behind them is not read
  int order1, order2;               // dyadic orders
  int depth;
  int dilated;          // the last channel is no coordinate: at the first point of a path it holds a factor of the static kernel
  double parameter[3];  // of the static kernel

  __device__ int rows() const { return (length1 - 1) << order1; }
  __device__ int columns() const { return (length2 - 1) << order2; }
  __device__ int coordinates() const { return dimension - dilated; }
  // nodes of the grids of all pairs, along the rows and the columns
  __device__ long long grid_rows() const { return ((long long)(padded1 - 1) << order1) + 1; }
  __device__ long long grid_columns() const { return ((long long)(padded2 - 1) << order2) + 1; }
};

// phi(b)
template <int KERNEL, typename work>
__device__ __forceinline__ work kappa_of(const double* parameter, work b) {
  const work p0 = work(parameter[0]), p1 = work(parameter[1]), p2 = work(parameter[2]);
  if (KERNEL == POLYNOMIAL) {  // scale (b + gamma)^degree
    const work base = b + p1;
    const int degree = int(parameter[0]);
    return p2 * (double(degree) == parameter[0] && degree <= 64 ? whole_power(base, degree) : power(base, p0));
  }
  if (KERNEL == RBF) return exp(-b / p0);
  if (KERNEL == MATERN12) return exp(-sqrt(b) / p0);
  if (KERNEL == MATERN32) {
    const work a = sqrt(b) * (work(1.7320508075688772) / p0);
    return (work(1) + a) * exp(-a);
  }
  if (KERNEL == MATERN52) {
    const work a = sqrt(b) * (work(2.23606797749979) / p0);
    return (work(1) + a + a * a * work(1.0 / 3)) * exp(-a);
  }
  return power(work(1) + b / (work(2) * p1 * p0 * p0), -p1);  // RATIONAL_QUADRATIC
}

// the factor of the gradients: d kappa / d x = slope y (polynomial) or slope (x - y) (radial)
template <int KERNEL, typename work>
__device__ __forceinline__ work slope_of(const double* parameter, work b) {
  const work p0 = work(parameter[0]), p1 = work(parameter[1]), p2 = work(parameter[2]);
  if (KERNEL == POLYNOMIAL) {
    const work base = b + p1;
    const int degree = int(parameter[0]);
    if (parameter[0] == 0.0) return work(0);
    const bool whole = double(degree) == parameter[0] && degree <= 64;
    return p2 * p0 * (whole ? whole_power(base, degree - 1) : power(base, p0 - work(1)));
  }
  if (KERNEL == RBF) return exp(-b / p0) * (work(-2) / p0);
  if (KERNEL == MATERN12) {  // no gradient where the points coincide: 0 is taken for it
    const work r = sqrt(b);
    return b == work(0) ? work(0) : -exp(-r / p0) / (p0 * r);
  }
  if (KERNEL == MATERN32) return exp(-sqrt(b) * (work(1.7320508075688772) / p0)) * (work(-3) / (p0 * p0));
  if (KERNEL == MATERN52) {
    const work a = sqrt(b) * (work(2.23606797749979) / p0);
    return (work(1) + a) * exp(-a) * (work(-5) / (work(3) * p0 * p0));
  }
  return power(work(1) + b / (work(2) * p1 * p0 * p0), -p1 - work(1)) * (work(-1) / (p0 * p0));
}

// b of the points x and y, both in memory
template <int KERNEL, typename work, typename real>
__device__ __forceinline__ work argument_of(const real* x, const real* y, int from, int dimension, work b) {
  for (int d = from; d < dimension; ++d) {
    if (KERNEL == POLYNOMIAL) {
      b += work(x[d]) * work(y[d]);
    } else {
      const work difference = work(x[d]) - work(y[d]);
      b += difference * difference;
    }
  }
  return b;
}

// The increments of the columns first..first + COLUMNS - 1 of the refined grid, times `factor`, row by row of the coarse one:
// upwards or downwards, but always a row next to the one before.
template <int KERNEL, int COLUMNS, typename real, typename work>
struct Increments {
  enum { POINTS = KERNEL == GIVEN ? 1 : KERNEL == LINEAR ? COLUMNS : COLUMNS + 1 };
  const Problem<real>& problem;
  const real *x, *y;  // the paths of the pair; GIVEN: x is its increments
  int first;
  work factor;
  work point[POINTS][CHANNELS];
  work latest[POINTS];  // kappa at the latest row of points

  __device__ __forceinline__ Increments(const Problem<real>& problem, const real* x, const real* y)
      : problem(problem), x(x), y(y) {}

  // coarse cell of a column, clamped so that it can be read behind the last one too
  __device__ __forceinline__ int cell(int column) const {
    const int j = (first + column) >> problem.order2;
    return j < problem.length2 - 2 ? j : problem.length2 - 2;
  }
  // the point right of column `slot - 1`; slot 0 is the one left of the strip
  __device__ __forceinline__ int node(int slot) const { return slot ? cell(slot - 1) + 1 : cell(0); }

  // Take up the strip; `row` is the row of points to start from: 0 going down, length1 - 1 going up.
  __device__ __forceinline__ void start(int first_column, int row, work scale) {
    first = first_column;
    factor = scale * (KERNEL == LINEAR ? work(problem.parameter[0]) : work(1));
    if (KERNEL == GIVEN) return;
    if (KERNEL != LINEAR && problem.dilated) factor *= work(x[problem.dimension - 1]) * work(y[problem.dimension - 1]);
#pragma unroll
    for (int p = 0; p < POINTS; ++p) {
      const real* from = y + (long long)(KERNEL == LINEAR ? cell(p) : node(p)) * problem.dimension;
#pragma unroll
      for (int d = 0; d < CHANNELS; ++d)
        point[p][d] = d >= problem.coordinates() ? work(0)
                      : KERNEL == LINEAR         ? work(from[d + problem.dimension]) - work(from[d])
                                                 : work(from[d]);
    }
    if (KERNEL != LINEAR) points_of_row(row, latest);
  }

  // kappa(x_row, y) at the points of the strip
  __device__ __forceinline__ void points_of_row(int row, work (&kappa)[POINTS]) const {
    const real* xr = x + (long long)row * problem.dimension;
    work b[POINTS];
#pragma unroll
    for (int p = 0; p < POINTS; ++p) b[p] = work(0);
#pragma unroll
    for (int d = 0; d < CHANNELS; ++d) {
      const work xd = d < problem.coordinates() ? work(xr[d]) : work(0);
#pragma unroll
      for (int p = 0; p < POINTS; ++p) {
        if (KERNEL == POLYNOMIAL) {
          b[p] += xd * point[p][d];
        } else {
          const work difference = xd - point[p][d];
          b[p] += difference * difference;
        }
      }
    }
#pragma unroll
    for (int p = 0; p < POINTS; ++p) {
      if (problem.coordinates() > CHANNELS)
        b[p] = argument_of<KERNEL>(xr, y + (long long)node(p) * problem.dimension, CHANNELS, problem.coordinates(), b[p]);
      kappa[p] = kappa_of<KERNEL>(problem.parameter, b[p]);
    }
  }

  // the increments of coarse row i, 0 behind the last column
  __device__ __forceinline__ void of_row(int i, bool up, work (&g)[COLUMNS]) {
    const int left = problem.columns() - first;
    if (KERNEL == GIVEN) {
      const real* row = x + (long long)i * (problem.padded2 - 1);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) g[c] = work(row[cell(c)]);
    } else if (KERNEL == LINEAR) {
      const real *before = x + (long long)i * problem.dimension, *after = before + problem.dimension;
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) g[c] = work(0);
#pragma unroll
      for (int d = 0; d < CHANNELS; ++d) {
        const work step = d < problem.dimension ? work(after[d]) - work(before[d]) : work(0);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) g[c] += step * point[c][d];
      }
      for (int d = CHANNELS; d < problem.dimension; ++d) {
        const work step = work(after[d]) - work(before[d]);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          const real* from = y + (long long)cell(c) * problem.dimension + d;
          g[c] += step * (work(from[problem.dimension]) - work(from[0]));
        }
      }
    } else {
      work fresh[POINTS];
      points_of_row(up ? i : i + 1, fresh);
      work before = up ? latest[0] - fresh[0] : fresh[0] - latest[0];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        const work after = up ? latest[c + 1] - fresh[c + 1] : fresh[c + 1] - latest[c + 1];
        // A cell of several columns has its left point further left than the column before.
        if (c == 0 || ((first + c) & ((1 << problem.order2) - 1)) == 0) {
          g[c] = after - before;
        } else {
          g[c] = g[c - 1];
        }
        before = after;
      }
#pragma unroll
      for (int p = 0; p < POINTS; ++p) latest[p] = fresh[p];
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) g[c] = c < left ? g[c] * factor : work(0);
  }
};
