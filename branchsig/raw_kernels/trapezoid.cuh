// The trapezoid rule. With increments g of the static kernel, and K at the corners of the cells alone,
//
//   cell(r, c)   = g s(r, c) / 4,   s(r, c) = K_{m-1}(r-1,c-1) + K_{m-1}(r-1,c) + K_{m-1}(r,c-1) + K_{m-1}(r,c)
//   K_m(r, c)    = K_m(r-1, c) E(c),   E(c) = E(c-1) exp(cell),   E(0) = 1
//   log K_M(R,C) = the sum of all cells of level M
//
// and in the backward sweep, bottom to top and right to left,
//
//   recover   F(c) = F(c+1) exp(cell(r, c+1)),  F = 1 / E,   K_m(r-1, c) = K_m(r, c) F(c)
//   adjoint   w_M = 1;   Kbar_m(r, c) = sum of g w_{m+1} / 4 over the four cells around the node
//             w_m(r, c) = sum of Kbar_m K_m over the nodes below and to the right,   gbar = sum over m of w_m s_m / 4

// Reads the last row of the forward sweep, (levels, columns + 1), at the columns first..first + COLUMNS - 1; column 0 is not stored.
template <int ROOM, int COLUMNS, typename work>
__device__ __forceinline__ void read_last_row(int N, const work* last_row, int first, int C, work at_column_0,
                                              work (&stored)[ROOM][COLUMNS]) {
#pragma unroll
  for (int m = 0; m < N; ++m)
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const int node = min(first + c, C);
      stored[m][c] = node ? last_row[(long long)m * (C + 1) + node] : at_column_0;
    }
}

template <typename real, typename work, int DEPTH, int WIDTH, bool OF_GRID, bool IN_LOGS>
struct Trapezoid : Levels<DEPTH, OF_GRID || IN_LOGS> {
  typedef work Work;
  static constexpr bool GRID = OF_GRID, CAREFUL = IN_LOGS, PARTS = false, EVERY_ROW = false;
  enum { COLUMNS = WIDTH, ROOM = Levels<DEPTH, OF_GRID || IN_LOGS>::ROOM, WEIGHTS = 0, TOP = IN_LOGS && !OF_GRID };
  // down: K, E, and between them, if CAREFUL, the error bounds of log K; up: F, the suffix sum of Kbar K, g w
  enum { DOWN = CAREFUL ? 4 : 2, UP = 3, RUNS = 1, LAG = 0, E = DOWN - 1 };
  static constexpr int LOG = CAREFUL ? int(ROOM) : 1;
  static constexpr double OF_SUM = 0.25;

  static __device__ __forceinline__ work at_left_end(int value) { return work(value == 0 || !CAREFUL ? 1 : 0); }
  static __device__ __forceinline__ work at_right_end(work product) { return CAREFUL ? product : work(1) / product; }
  static __device__ __forceinline__ long long kept(int columns) { return columns + 1; }  // values of a level

  struct Down {
    work k[ROOM][COLUMNS], logs[LOG][COLUMNS], above[ROOM];
    Bounds<ROOM, 1, CAREFUL, false, work> bounds;
    Ends<COLUMNS, !CAREFUL, work> ends;

    __device__ __forceinline__ void start(int N, int) {
      bounds.start();
      ends.start();
#pragma unroll
      for (int m = 0; m < N; ++m) {
        above[m] = work(1);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          k[m][c] = work(1);
          if (CAREFUL) logs[m][c] = work(0);
        }
      }
    }

    // One row of cells, left to right. On entry `edge` holds K and E at the column left of the strip, on return those at its last
    // column.
    __device__ __forceinline__ void row(int N, const work (&g)[COLUMNS], const work*, int purpose, work (&edge)[ROOM][DOWN],
                                        work&, Watch<work>& watch) {
      static_assert(!CAREFUL || COLUMNS == 1, "the bounds are those of a column");
      // K_m(r-1, c) + K_m(r, c) at the column left of the next one
      work both_left[ROOM];
#pragma unroll
      for (int m = 0; m < N; ++m) {
        both_left[m] = above[m] + edge[m][0];
        above[m] = edge[m][0];
      }
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        work corners = work(4);
        bounds.move(fabs(g[c]) / work(OF_SUM), edge);
#pragma unroll
        for (int m = 0; m < N; ++m) {
          work now;
          if (CAREFUL) {
            edge[m][E] += g[c] == work(0) ? work(0) : g[c] * corners;
            logs[m][c] += edge[m][E];
            now = exp(logs[m][c]);
            bounds.level(m, g[c], corners * work(OF_SUM), edge);
            bounds.nodes(m, fabs(logs[m][c]), edge);
            if (TOP && m == N - 1) continue;
            if (m == N - 1)
              watch.wrong |= bounds.wrong(m, logs[m][c], purpose) || !is_finite(purpose ? logs[m][c] : now);
          } else {
            edge[m][E] *= cell_exp(g[c] * corners);
            now = k[m][c] * edge[m][E];
            watch.over(now);
          }
          const work both = k[m][c] + now;
          k[m][c] = now;
          corners = both_left[m] + both;
          both_left[m] = both;
        }
        if (!GRID) ends.add(c, CAREFUL && g[c] == work(0) ? work(0) : g[c] * corners);
      }
#pragma unroll
      for (int m = 0; m < N; ++m) edge[m][0] = k[m][COLUMNS - 1];
    }

    // K, or its logarithm, at the end of column c of the strip on the latest row; NaN where it has lost its digits
    __device__ __forceinline__ work corner(int, int m, int c, bool logarithm, int purpose) const {
      if (bounds.wrong(m, logs[CAREFUL ? m : 0][c], purpose)) return not_a_number<work>();
      return CAREFUL && logarithm ? logs[CAREFUL ? m : 0][c] : k[m][c];
    }

    // K (CAREFUL: log K) of every level on the last row, (levels, columns + 1)
    __device__ __forceinline__ void keep(int N, work* last_row, int first, int C) const {
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
          if (first + c < C) last_row[(long long)m * (C + 1) + first + c + 1] = CAREFUL ? logs[m][c] : k[m][c];
    }
  };

  struct Up {
    // K on the row below at the columns first..first + COLUMNS, w_m at the nodes and g w_{m+1} of the cells of that row
    work k[ROOM][COLUMNS + 1], logs[LOG][COLUMNS + 1], w[ROOM][COLUMNS], gw[ROOM][COLUMNS], diagonal[ROOM];

    __device__ __forceinline__ void start(int N, const work* last_row, int first, int C) {
      work stored[ROOM][COLUMNS + 1];
      read_last_row(N, last_row, first, C, work(CAREFUL ? 0 : 1), stored);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        diagonal[m] = work(0);
#pragma unroll
        for (int c = 0; c <= COLUMNS; ++c) {
          if (CAREFUL) logs[m][c] = stored[m][c];
          k[m][c] = CAREFUL ? exp(stored[m][c]) : stored[m][c];
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) w[m][c] = gw[m][c] = work(0);
      }
    }

    // Row r of cells, right to left. On entry `edge` holds the values at the column right of the strip, on return those at its left.
    template <typename Adjoint>
    __device__ __forceinline__ void row(const Adjoint& adjoint, int N, int r, int first, const work (&g)[COLUMNS], const work*,
                                        work (&edge)[ROOM][UP], work (&gbar)[COLUMNS]) {
      // K_m(r-1, c) + K_m(r, c) and K_m(r, c) at the column right of the next one, and g w_{m+1} one row below it
      work both_right[ROOM], k_right[ROOM], gw_diagonal[ROOM];
#pragma unroll
      for (int m = 0; m < N; ++m) {
        gw_diagonal[m] = diagonal[m];
        diagonal[m] = edge[m][2];
        k_right[m] = k[m][COLUMNS];
        recover(m, COLUMNS, first + COLUMNS, edge[m][0]);
        both_right[m] = k_right[m] + k[m][COLUMNS];
      }
#pragma unroll
      for (int c = COLUMNS - 1; c >= 0; --c) {
        work corners = work(4), sums[ROOM], k_here[ROOM];
#pragma unroll
        for (int m = 0; m < N; ++m) {
          if (CAREFUL) {
            edge[m][0] -= g[c] == work(0) ? work(0) : g[c] * corners;
          } else {
            edge[m][0] *= cell_exp(g[c] * corners);
          }
          k_here[m] = k[m][c];
          recover(m, c, first + c, edge[m][0]);
          const work both = k_here[m] + k[m][c];
          sums[m] = corners = both + both_right[m];
          both_right[m] = both;
        }
        work w_above = work(1);
        if (GRID) {
          const work deriv = adjoint.deriv(r, first + c);
          edge[N - 1][1] += adjoint.wrt_log ? deriv : deriv * k_right[N - 1];
          w_above = w[N - 1][c] += edge[N - 1][1];
        }
#pragma unroll
        for (int m = N - 1 - GRID; m >= 0; --m) {
          gbar[c] += w_above * sums[m];
          const work here = g[c] * w_above, below = gw[m][c];
          edge[m][1] += ((here + edge[m][2]) + (below + gw_diagonal[m])) * k_right[m];
          edge[m][2] = gw[m][c] = here;
          gw_diagonal[m] = below;
          w_above = w[m][c] += edge[m][1];
        }
        gbar[c] += w_above * work(4);
#pragma unroll
        for (int m = 0; m < N; ++m) k_right[m] = k_here[m];
      }
    }

    // Moves K_m at slot c from the row below to this row; column 0 holds ones
    __device__ __forceinline__ void recover(int m, int c, int column, work run) {
      if (column == 0) return;
      if (CAREFUL) {
        logs[m][c] -= run;
        k[m][c] = exp(logs[m][c]);
      } else {
        k[m][c] *= run;
      }
    }
  };
};
