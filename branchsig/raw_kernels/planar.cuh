// Ordered forests by depth, K_m = 1 + integral of K_m K_{m-1}, with the trapezoid rule or left points. With D = K - 1, B the integrals
// of the basis functions of the two nodes of a side (trapezoid: 1/2 and 1/2, left points: 1 and 0), and corners named by row and column,
//
//   h          = g (B0^2 K00 + B0 B1 (K01 + K10) + B1^2 K11), with K_{m-1} at the corners of the cell
//   D_m(r, c)  = D_m(r-1, c) + S(c),   S(c) = S(c-1) + a (K10 + K01) + b K00,   S(0) = 0
//   a          = B1 h + B1 h^2/6,   b = (B0 - B1) h + B1 h^2/6
//
// D at the column left of a strip is D above it plus S, so S is all that a lane passes on. A cell without an increment adds exactly
// nothing.
//
// K cannot be recovered from the row below: that is the recursion of -kappa, whose solutions grow where the kernel falls. So the
// forward sweep stores D at every node. In the backward sweep, bottom to top and right to left, with w the derivative with respect to D
// at the last corner of a cell, and bar the part of it that comes from the level above or is given,
//
//   w00       = w10 + s00,   s00 = s01 + a01 w01 + a10 w10 + b11 w11 + bar
//   hbar      = w (a' (K10 + K01) + b' K00),   gbar = sum over m of hbar times the mean of K_{m-1}
//   bar       of the level below = B1^2 (g hbar of this cell, the one to the right and the one below) + B0^2 g hbar of the last one
//
// CAREFUL: overflow stays infinite, and a rounding error in a cell enters K after it times the kernel of what is left of the two paths.
// Errors of drawn signs are propagated to first order through all levels, in units of the rounding of a double; MARGIN times the
// largest of SAMPLES results decides which values have lost their digits, as in backends/reference/planar.py.

enum { SAMPLES = 4, MARGIN = 8 };

// a and b of a cell, and their derivatives
template <bool CAREFUL, typename work>
struct PlanarCell {
  work a, b, slope_a, slope_b;

  __device__ __forceinline__ PlanarCell(const work* weights, work h) {
    const work B0 = weights[Weights<1>::whole(0)], B1 = weights[Weights<1>::whole(1)];
    const work square = weighted<CAREFUL>(B1 * work(1.0 / 6), h * h), slope = weighted<CAREFUL>(B1 * work(1.0 / 3), h);
    a = weighted<CAREFUL>(B1, h) + square;
    b = weighted<CAREFUL>(B0 - B1, h) + square;
    slope_a = B1 + slope;
    slope_b = (B0 - B1) + slope;
  }
};

// The mean of a cell from its first corner, and the sum of the others
template <bool CAREFUL, typename work>
__device__ __forceinline__ work mean_of_corners(const work* weights, work first, work others) {
  const work B0 = weights[Weights<1>::whole(0)], B1 = weights[Weights<1>::whole(1)];
  return weighted<CAREFUL>(B0 * B0, first) + weighted<CAREFUL>(B1 * B1, others);
}

// A product that is 0 if a factor is, even if the other one is infinite
template <typename work>
__device__ __forceinline__ work sure_product(work a, work b) {
  return a == work(0) || b == work(0) ? work(0) : a * b;
}

// Whether the error of a sample in a cell of level m is negative
__device__ __forceinline__ bool is_drawn(int r, int c, int m, int sample) {
  unsigned long long x = ((unsigned long long)r * 0x9e3779b97f4a7c15ull ^ (unsigned long long)c) * 0xbf58476d1ce4e5b9ull;
  x += (unsigned long long)(SAMPLES * m + sample) * 0x94d049bb133111ebull;
  x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9ull;
  return x >> 63;
}

template <typename real, typename work, int DEPTH, int WIDTH, bool OF_GRID, bool CLOSELY>
struct Planar : Levels<DEPTH, true> {
  typedef work Work;
  enum { COLUMNS = WIDTH, ROOM = Levels<DEPTH, true>::ROOM, WEIGHTS = Weights<1>::COUNT };
  // down: S, and if CAREFUL what S of the errors is; up: s + a w, b w, g hbar
  static constexpr bool GRID = OF_GRID, CAREFUL = CLOSELY, PARTS = false, EVERY_ROW = true, LESS_ONE = true;
  enum { DOWN = 1 + (CAREFUL ? int(SAMPLES) : 0), UP = 3, RUNS = 0, LAG = 0, TOP = 0 };
  static constexpr double OF_SUM = 1.0;

  static __device__ __forceinline__ work at_left_end(int) { return work(0); }
  static __device__ __forceinline__ work at_right_end(work sum) { return sum; }
  // Values of a level in memory, column by column of a strip, for the lanes of a warp and the column left of it.
  enum { LANES = 33, CELL = LANES * COLUMNS };
  // D of level m at the end of column c on the row below a cell; column -1 is the last one of the lane before.
  static __device__ __forceinline__ int place(int N, int m, int c) {
    return LANES * (m * COLUMNS + (c < 0 ? COLUMNS - 1 : c)) - (c < 0 ? CELL * N + 1 : 0);
  }

  struct Down {
    // D on the latest row, at the column left of the strip too; the errors there
    work d[ROOM][COLUMNS], behind[ROOM];
    work error[CAREFUL ? ROOM : 1][SAMPLES], error_behind[CAREFUL ? ROOM : 1][SAMPLES];
    int latest, first;

    __device__ __forceinline__ void start(int N, int first_column) {
      latest = -1;
      first = first_column;
#pragma unroll
      for (int m = 0; m < N; ++m) {
        behind[m] = work(0);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) d[m][c] = work(0);
        if (CAREFUL)
#pragma unroll
          for (int j = 0; j < SAMPLES; ++j) error[m][j] = error_behind[m][j] = work(0);
      }
    }

    // One row of cells, left to right. On entry `edge` holds S at the column left of the strip, on return that at its last column.
    __device__ __forceinline__ void row(int N, const work (&g)[COLUMNS], const work* weights, int purpose, work (&edge)[ROOM][DOWN],
                                        work&, Watch<work>& watch) {
      ++latest;
      if constexpr (CAREFUL) {
        look(N, g[0], weights, edge);
        if (GRID) watch.wrong |= !is_finite(corner(N, N - 1, 0, true, purpose));
      } else {
        work corner[ROOM], left[ROOM];  // D at the column left of the next one, on the row above and on this one
#pragma unroll
        for (int m = 0; m < N; ++m) {
          corner[m] = behind[m];
          left[m] = behind[m] += edge[m][0];
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          work mean = work(1);
#pragma unroll
          for (int m = 0; m < N; ++m) {
            const PlanarCell<false, work> cell(weights, g[c] * mean);
            const work above = d[m][c];
            edge[m][0] = edge[m][0] * (work(1) + cell.a) +
                         (cell.a * (work(2) + (corner[m] + above)) + cell.b * (work(1) + corner[m]));
            const work now = above + edge[m][0];
            mean = work(1) + mean_of_corners<false>(weights, corner[m], (left[m] + above) + now);
            watch.over_signed(now);
            corner[m] = above;
            left[m] = d[m][c] = now;
          }
        }
      }
    }

    // The same for one cell with its errors
    __device__ __forceinline__ void look(int N, work g, const work* weights, work (&edge)[ROOM][DOWN]) {
      work mean = work(1), errors[SAMPLES];  // of the level below
#pragma unroll
      for (int j = 0; j < SAMPLES; ++j) errors[j] = work(0);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        const PlanarCell<true, work> cell(weights, sure_product(g, mean));
        const work before = behind[m], beside = before + edge[m][0], above = d[m][0], first = work(1) + before;
        edge[m][0] += (sure_product(cell.a, beside) + sure_product(cell.a, above)) +
                      (sure_product(cell.b, before) + (work(2) * cell.a + cell.b));
        const work now = above + edge[m][0], ends = (work(1) + beside) + (work(1) + above);
        const work of_h = sure_product(cell.slope_a, ends) + sure_product(cell.slope_b, first);
        const work own = sure_product(work(fabs(cell.a)), work(fabs(work(1) + beside)) + work(fabs(work(1) + above))) +
                         fabs(sure_product(cell.b, first)) + (fabs(now) + fabs(above));
        mean = mean_of_corners<true>(weights, first, ends + (work(1) + now));
        behind[m] = beside;
        d[m][0] = now;
#pragma unroll
        for (int j = 0; j < SAMPLES; ++j) {
          const work e00 = error_behind[m][j], e10 = e00 + edge[m][1 + j], e01 = error[m][j];
          const work given = of_h * (g * errors[j]) + (is_drawn(latest, this->first, m, j) ? -own : own);
          if (g != work(0)) edge[m][1 + j] += cell.a * (e10 + e01) + cell.b * e00 + given;
          error_behind[m][j] = e10;
          error[m][j] = e01 + edge[m][1 + j];
          errors[j] = mean_of_corners<true>(weights, e00, (e10 + e01) + error[m][j]);
        }
      }
    }

    // K, or K - 1, at the end of column c of the strip on the latest row; NaN where it has lost its digits
    __device__ __forceinline__ work corner(int, int m, int c, bool less_one, int purpose) const {
      const work value = less_one ? d[m][c] : work(1) + d[m][c];
      if constexpr (CAREFUL) {
        work largest = work(0);
#pragma unroll
        for (int j = 0; j < SAMPLES; ++j) largest = widened(largest, work(fabs(error[m][j])));
        if (lost_of_sum(work(1) + d[m][c], work(MARGIN * EPSILON) * largest, purpose)) return not_a_number<work>();
      }
      return value;
    }

    __device__ __forceinline__ void keep_above(int N, work* cell, bool leftmost) const { keep(N, cell - CELL * N, leftmost); }
    __device__ __forceinline__ void keep(int N, work* cell, bool leftmost) const {
#pragma unroll
      for (int m = 0; m < N; ++m) {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) cell[place(N, m, c)] = d[m][c];
        if (leftmost) cell[place(N, m, -1)] = behind[m];
      }
    }
  };

  struct Up {
    // D at the nodes of the next row of cells, on the rows below and above them, and where the latter lies; w of the row below, and a w,
    // b w and g hbar of its cells, the last two to the right of the strip too
    work lower[ROOM][COLUMNS + 1], upper[ROOM][COLUMNS + 1];
    work w[ROOM][COLUMNS], aw[ROOM][COLUMNS], bw[ROOM][COLUMNS + 1], gh[ROOM][COLUMNS + 1];
    const work* cell;

    // `last`: position of D of the lowest cells, or null
    __device__ __forceinline__ void start(int N, const work* last) {
#pragma unroll
      for (int m = 0; m < N; ++m) {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) w[m][c] = aw[m][c] = work(0);
#pragma unroll
        for (int c = 0; c <= COLUMNS; ++c) bw[m][c] = gh[m][c] = work(0);
      }
      cell = last;
      if (!last) return;
      fetch(N, lower);
      fetch(N, upper);
    }

    __device__ __forceinline__ void fetch(int N, work (&row)[ROOM][COLUMNS + 1]) {
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int c = 0; c <= COLUMNS; ++c) row[m][c] = cell[place(N, m, c - 1)];
      cell -= CELL * N;
    }

    // Row r of cells, right to left. On entry `edge` holds the values at the column right of the strip, on return those at its left.
    template <typename Adjoint>
    __device__ __forceinline__ void row(const Adjoint& adjoint, int N, int r, int strip, const work (&g)[COLUMNS], const work* weights,
                                        work (&edge)[ROOM][UP], work (&gbar)[COLUMNS]) {
      const work B0 = weights[Weights<1>::whole(0)], B1 = weights[Weights<1>::whole(1)];
      work next[ROOM][COLUMNS + 1], bw_below[ROOM], gh_below[ROOM];  // of the cell below and to the right
      if (r > 0) fetch(N, next);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        bw_below[m] = bw[m][COLUMNS];
        gh_below[m] = gh[m][COLUMNS];
        bw[m][COLUMNS] = edge[m][1];
        gh[m][COLUMNS] = edge[m][2];
      }
#pragma unroll
      for (int c = COLUMNS - 1; c >= 0; --c) {
        const bool is_last = r == adjoint.problem.rows() - 1 && strip + c == adjoint.problem.columns() - 1;
        work bar = GRID ? adjoint.deriv(r, strip + c) : work(is_last ? 1 : 0);
#pragma unroll
        for (int m = N - 1; m >= 0; --m) {
          work mean = work(1);
          const int b = m ? m - 1 : 0;
          if (m) mean += mean_of_corners<false>(weights, upper[b][c], (upper[b][c + 1] + lower[b][c]) + lower[b][c + 1]);
          const PlanarCell<false, work> of(weights, g[c] * mean);
          const work suffix = edge[m][0] + ((aw[m][c] + bw_below[m]) + bar);
          const work here = w[m][c] += suffix;
          const work hbar = here * (of.slope_a * (work(2) + (lower[m][c] + upper[m][c + 1])) + of.slope_b * (work(1) + upper[m][c]));
          aw[m][c] = of.a * here;
          edge[m][0] = suffix + aw[m][c];
          bw_below[m] = bw[m][c];
          bw[m][c] = of.b * here;
          gbar[c] += hbar * mean;
          const work share = g[c] * hbar;
          bar = (B1 * B1) * ((share + gh[m][c + 1]) + gh[m][c]) + (B0 * B0) * gh_below[m];
          gh_below[m] = gh[m][c];
          gh[m][c] = share;
        }
      }
#pragma unroll
      for (int m = 0; m < N; ++m) {
        edge[m][1] = bw[m][0];
        edge[m][2] = gh[m][0];
#pragma unroll
        for (int c = 0; c <= COLUMNS; ++c) {
          lower[m][c] = upper[m][c];
          upper[m][c] = next[m][c];
        }
      }
    }
  };
};
