// The trapezoid rule by running products, at a depth known at compile time: the formulas of trapezoid.cuh, with each level one row
// behind the level below it. When a lane has the increments of row r, level m (from 0 on) is on row r - m - 1. So all corners that its
// cells need are from the step before, and the exponentials of a step are independent. In the backward sweep the recovery of level m
// is on row r + m + 1, and the adjoint of all levels on row r + levels + 1, with the values that the recovery computed there. A row
// without cells changes no K and no running product. Running products in float32 are stored minus 1, see elementary.cuh.

template <typename real, typename work, int DEPTH, int WIDTH, bool OF_GRID, bool IN_LOGS>
struct Staggered : Levels<DEPTH, OF_GRID> {
  typedef work Work;
  enum { COLUMNS = WIDTH, ROOM = Levels<DEPTH, OF_GRID>::ROOM, WEIGHTS = 0 };
  enum { DOWN = 1, UP = 3, RUNS = 1, LAG = 1, TOP = 0 };  // down: E; up: F, the suffix sum of Kbar K, g w
  static constexpr bool GRID = OF_GRID, CAREFUL = false, PARTS = false, EVERY_ROW = false;
  static constexpr double OF_SUM = 0.25;
  static_assert(DEPTH > 0 && !IN_LOGS, "other depths, and logarithms, are those of Trapezoid");

  static __device__ __forceinline__ work at_left_end(int) { return no_product<work>(); }
  static __device__ __forceinline__ work at_right_end(work run) { return inverse_product(run); }
  static __device__ __forceinline__ long long kept(int columns) { return columns + 1; }  // values of a level

  // The factors of the cells of all levels, whose corners have these sums.
  static __device__ __forceinline__ void cells(int N, const work (&line)[ROOM + 1][COLUMNS], const work (&sums)[ROOM][COLUMNS],
                                               work (&cell)[ROOM][COLUMNS]) {
#pragma unroll
    for (int m = 0; m < N; ++m)
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) cell[m][c] = line[m][c] * (m ? sums[m ? m - 1 : 0][c] : work(4));
    cell_factors(N, cell);
  }

  // Increments of the latest rows, the newest first: those that level m uses next, and after the last level those of the row that it
  // has just completed.
  static __device__ __forceinline__ void take(int N, work (&line)[ROOM + 1][COLUMNS], const work (&g)[COLUMNS]) {
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
      for (int m = N; m > 0; --m) line[m][c] = line[m - 1][c];
      line[0][c] = g[c];
    }
  }

  struct Down {
    // K at the column left of the strip and at its own on the latest row, and the sums of the latest two
    work k[ROOM][COLUMNS + 1], both[ROOM][COLUMNS + 1], line[ROOM + 1][COLUMNS];
    Ends<COLUMNS, sizeof(work) == 8 && (DEPTH > 1), work> ends;

    __device__ __forceinline__ void start(int N, int) {
      ends.start();
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int c = 0; c <= COLUMNS; ++c) {
          k[m][c] = work(1);
          both[m][c] = work(2);
        }
#pragma unroll
      for (int m = 0; m <= N; ++m)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) line[m][c] = work(0);
    }

    // One row of every level. On entry `edge` holds E at the column left of the strip, on return that at its last column.
    __device__ __forceinline__ void row(int N, const work (&g)[COLUMNS], const work*, int, work (&edge)[ROOM][DOWN], work&,
                                        Watch<work>& watch) {
      work sums[ROOM][COLUMNS];
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) sums[m][c] = both[m][c] + both[m][c + 1];
      if (!GRID) {
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) ends.add(c, line[N][c] * (N ? sums[N ? N - 1 : 0][c] : work(4)));
      }
      work factor[ROOM][COLUMNS];
      cells(N, line, sums, factor);
#pragma unroll
      for (int m = 0; m < N; ++m) {
#pragma unroll
        for (int c = 0; c <= COLUMNS; ++c) {
          const work latest = factor[m][c ? c - 1 : 0];
          if (c) edge[m][0] = product(edge[m][0], latest);
          const work now = times_product(k[m][c], edge[m][0]);
          if (c) watch.over(now);
          if (c) watch.over(edge[m][0], latest);
          both[m][c] = k[m][c] + now;
          k[m][c] = now;
        }
      }
      take(N, line, g);
    }

    // K at the end of column c of the strip on the latest row
    __device__ __forceinline__ work corner(int, int m, int c, bool, int) const { return k[m][c + 1]; }

    // K of every level on the last row, (levels, columns + 1)
    __device__ __forceinline__ void keep(int N, work* last_row, int first, int C) const {
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
          if (first + c < C) last_row[(long long)m * (C + 1) + first + c + 1] = k[m][c + 1];
    }
  };

  struct Up {
    // K at the columns first..first + COLUMNS, on the latest rows of a level until the adjoint reaches them, the newest first
    work k[ROOM][ROOM + 1][COLUMNS + 1], line[ROOM + 1][COLUMNS];
    // The sums of the corners of the cells between these rows. If registers are scarce they are recomputed instead of kept.
    work sums[ROOM][ROOM][COLUMNS];
    // w_m at the nodes and g w_{m+1} of the cells of the row below that of the adjoint
    work w[ROOM][COLUMNS], gw[ROOM][COLUMNS], diagonal[ROOM];

    __device__ __forceinline__ void start(int N, const work* last_row, int first, int C) {
      work last[ROOM][COLUMNS + 1];
      read_last_row(N, last_row, first, C, work(1), last);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        diagonal[m] = work(0);
#pragma unroll
        for (int age = 0; age <= N; ++age)
#pragma unroll
          for (int c = 0; c <= COLUMNS; ++c) k[m][age][c] = last[m][c];
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          w[m][c] = gw[m][c] = work(0);
#pragma unroll
          for (int age = 0; age < N; ++age) sums[m][age][c] = work(0);
        }
      }
#pragma unroll
      for (int m = 0; m <= N; ++m)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) line[m][c] = work(0);
    }

    // The sum of the corners of a cell of level m, between its latest rows `age` and age + 1
    __device__ __forceinline__ work added(int m, int age, int c) const {
      return (k[m][age][c] + k[m][age + 1][c]) + (k[m][age][c + 1] + k[m][age + 1][c + 1]);
    }
    // Copies the state of the latest row to the values to pass on, so that registers do not hold it twice.
    __device__ __forceinline__ void hand_on(int N, work (&edge)[ROOM][UP]) const {
#pragma unroll
      for (int m = 0; m < N; ++m) edge[m][2] = gw[m][0];
    }

    // Row `done` of the adjoint, and the rows of the recovery ahead of it. On entry `edge` holds the values at the column right of the
    // strip and g the newest increments; on return the values at its left and the increments of row `done`.
    template <typename Adjoint>
    __device__ __forceinline__ void row(const Adjoint& adjoint, int N, int done, int first, work (&g)[COLUMNS], const work*,
                                        work (&edge)[ROOM][UP], work (&gbar)[COLUMNS]) {
      work below[ROOM];
#pragma unroll
      for (int m = 0; m < N; ++m) {
        below[m] = diagonal[m];
        diagonal[m] = edge[m][2];
      }
#pragma unroll
      for (int c = COLUMNS - 1; c >= 0; --c) {
        work w_above = work(1);
        if (GRID) {
          const work deriv = unsigned(done) < unsigned(adjoint.problem.rows()) ? adjoint.deriv(done, first + c) : work(0);
          edge[N - 1][1] += adjoint.wrt_log ? deriv : deriv * k[N - 1][1][c + 1];
          w_above = w[N - 1][c] += edge[N - 1][1];
        }
#pragma unroll
        for (int m = N - 1 - GRID; m >= 0; --m) {
          gbar[c] += w_above * (Adjoint::FULL ? added(m, N - 1 - m, c) : sums[m][N - 1 - m][c]);
          const work here = line[N][c] * w_above, under = gw[m][c];
          edge[m][1] += ((here + edge[m][2]) + (under + below[m])) * k[m][N - m][c + 1];
          edge[m][2] = gw[m][c] = here;
          below[m] = under;
          w_above = w[m][c] += edge[m][1];
        }
        gbar[c] += w_above * work(4);
      }
      work latest[ROOM][COLUMNS], factor[ROOM][COLUMNS];
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) latest[m][c] = Adjoint::FULL ? added(m, 0, c) : sums[m][0][c];
      cells(N, line, latest, factor);
      work oldest[COLUMNS];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) oldest[c] = line[N][c];
      take(N, line, g);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) g[c] = oldest[c];
      Watch<work> watch;
#pragma unroll
      for (int m = 0; m < N; ++m) {
#pragma unroll
        for (int age = N - m; age > 0; --age)
#pragma unroll
          for (int c = 0; c <= COLUMNS; ++c) k[m][age][c] = k[m][age - 1][c];
        k[m][0][COLUMNS] = times_product(k[m][1][COLUMNS], edge[m][0]);
#pragma unroll
        for (int c = COLUMNS - 1; c >= 0; --c) {
          edge[m][0] = product(edge[m][0], factor[m][c]);
          watch.over(edge[m][0], factor[m][c]);
          k[m][0][c] = times_product(k[m][1][c], c == 0 && first == 0 ? no_product<work>() : edge[m][0]);  // column 0 holds ones
        }
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
#pragma unroll
          for (int age = N - 1 - m; age > 0; --age) sums[m][age][c] = sums[m][age - 1][c];
          sums[m][0][c] = added(m, 0, c);
        }
      }
      if (watch.strayed()) adjoint.redo();
    }
  };
};
