// Ordered forests by the number of nodes, with any rule; nodes, sub-cells, B and sum as in collocation.h. With k_{m,n} the sum over the
// forests of n nodes and a depth of at most m,
//
//   k_{m,n} at the nodes = the sum of cells g sum[a, b] of f_{m,n} above and to the left
//   f_{m,n}              = sum over j = 0..n-1 of k_{m,n-1-j} k_{m-1,j},   k_{m,0} = 1, and k_{0,j} = 0 for j > 0
//
// No forest is deeper than its number of nodes, so k_{m,n} = k_{n,n} for n < m, and k_{depth,order} needs no k_{m,n} of more than
// order - depth nodes beyond m. So there is a level for each m = 1..depth and n = m..m + order - depth. Without a bound on the depth
// it is the order.
//
// The column of nodes left of a cell is the one above it plus the sums along the row up to there, so these are all that a lane passes on.
// The backward sweep recovers k from the last row of nodes. The adjoint goes from the last level down:
//
//   w[a, b] = the sum of kbar_{m,n} below and to the right,   U = B^T w B,   gbar += sum of U f_{m,n}
//   kbar_{m,n-1-j} gathers g U k_{m-1,j},   kbar_{m-1,j} gathers g U k_{m,n-1-j}
//
// With M_{m,n} the largest |k_{m,n}| so far and S the sum of |g|, the error of k_{m,n} is at most eps S times f_{m,n} of the M.

// Sums over forests by their number of nodes, and by their depth as well if BOUND, the largest depth, is not 0. DEPTH: the largest number
// of nodes.
template <int DEPTH, int BOUND>
struct Forests : Levels<BOUND && DEPTH ? BOUND * (DEPTH - BOUND + 1) : DEPTH, true> {
  static __device__ __forceinline__ int levels(int order) {
    if (DEPTH == 0) return BOUND ? BOUND * (order - BOUND + 1) : order;
    return Forests::LEVELS;
  }
  // from their number: levels of a depth, the largest depth, and the largest number of nodes
  static __device__ __forceinline__ int of_depth(int levels) { return BOUND ? levels / (BOUND ? BOUND : 1) : 1; }
  static __device__ __forceinline__ int bound(int levels) { return BOUND ? BOUND : levels; }
  static __device__ __forceinline__ int results(int levels) { return bound(levels) + of_depth(levels) - 1; }
  // of a level
  static __device__ __forceinline__ int depth_of(int levels, int level) { return level / of_depth(levels) + 1; }
  static __device__ __forceinline__ int nodes_of(int levels, int level) { return level / of_depth(levels) + level % of_depth(levels) + 1; }
  // the level of the sum over the forests of n >= 1 nodes and a depth of at most m >= 1
  static __device__ __forceinline__ int level_of(int levels, int m, int n) { return n - 1 + (of_depth(levels) - 1) * (min(n, m) - 1); }
  static __device__ __forceinline__ int level_of_result(int levels, int n) { return level_of(levels, bound(levels), n); }
  static __device__ __forceinline__ bool is_result(int levels, int level) {
    return level_of_result(levels, nodes_of(levels, level)) == level;
  }
};

template <typename real, typename work, int DEPTH, int P, bool OF_GRID, int BOUND>
struct PlanarOrder : Forests<DEPTH, BOUND> {
  typedef work Work;
  typedef Weights<P> At;
  typedef Forests<DEPTH, BOUND> Sums;
  enum { COLUMNS = 1, ROOM = Sums::ROOM, WEIGHTS = At::COUNT, UNROLLED = At::UNROLLED };
  // down: error bounds, and the sums of cells along the row up to there; up: these sums, the suffix sums of kbar by rows of nodes except
  // the first, and what the cell to the right contributes to kbar on the edge
  enum { DOWN = P + 2, UP = 3 * P + 1, RUNS = P, LAG = 0, SUMS = DOWN - P, TOP = 0 };
  static constexpr bool GRID = OF_GRID, CAREFUL = false, PARTS = true, EVERY_ROW = false;
  static constexpr double OF_SUM = 1.0;

  static __device__ __forceinline__ work at_left_end(int) { return work(0); }
  static __device__ __forceinline__ work at_right_end(work sum) { return sum; }
  static __device__ __forceinline__ long long kept(int columns) { return (long long)columns * P + 1; }  // values of a level

  // f of a level from the levels below it at the same node
  static __device__ __forceinline__ work integrand(int N, int level, const work (&k)[ROOM]) {
    const int m = Sums::depth_of(N, level), n = Sums::nodes_of(N, level);
    if (n == 1) return work(1);
    work total = k[Sums::level_of(N, m, n - 1)];
    if (m == 1) return total;
    total += k[Sums::level_of(N, m - 1, n - 1)];
#pragma unroll
    for (int j = 1; j < n - 1; ++j) total += k[Sums::level_of(N, m, n - 1 - j)] * k[Sums::level_of(N, m - 1, j)];
    return total;
  }

  // The sums of a level from the values of the levels below it at the nodes of a cell
  static __device__ __forceinline__ void sums_of(int N, int level, const work* weights, const work (&k)[P + 1][P + 1][ROOM],
                                                 work (&sums)[P][P]) {
    if (level == 0) {
      sums_of_ones<P>(weights, sums);
      return;
    }
    work nodes[P + 1][P + 1];
#pragma unroll(UNROLLED)
    for (int i = 0; i <= P; ++i)
#pragma unroll(UNROLLED)
      for (int l = 0; l <= P; ++l) nodes[i][l] = integrand(N, level, k[i][l]);
    sums_of_cell<P, true>(weights, nodes, sums);
  }

  struct Down {
    work k[ROOM][P + 1];                        // on the latest row of nodes
    Bounds<ROOM, 0, true, false, work> bounds;  // the largest |k_{m,n}| of every level

    __device__ __forceinline__ void start(int N, int) {
      bounds.start();
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) k[m][l] = work(0);
    }

    // One cell. On entry `edge` holds the values on its left edge, on return those on its right edge.
    __device__ __forceinline__ void row(int N, const work (&g)[1], const work* weights, int purpose, work (&edge)[ROOM][DOWN], work&,
                                        Watch<work>& watch) {
      work at_k[P + 1][P + 1][ROOM];
      bounds.move(fabs(g[0]), edge);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        work sums[P][P], largest = work(0);
        sums_of(N, m, weights, at_k, sums);
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) at_k[0][l][m] = k[m][l];
#pragma unroll(UNROLLED)
        for (int a = 0; a < P; ++a) {
          at_k[a + 1][0][m] = at_k[a][0][m] + edge[m][SUMS + a];
#pragma unroll(UNROLLED)
          for (int l = 1; l <= P; ++l) {
            if (g[0] != work(0)) edge[m][SUMS + a] += g[0] * sums[a][l - 1];
            at_k[a + 1][l][m] = at_k[a][l][m] + edge[m][SUMS + a];
            largest = larger(largest, work(fabs(at_k[a + 1][l][m])));
          }
        }
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) k[m][l] = at_k[P][l][m];
        bounds.level(m, work(1), largest, edge);
      }
#pragma unroll
      for (int n = 0; n < Sums::results(N); ++n) watch.wrong |= GRID && !is_finite(corner(N, n, 0, false, purpose));
    }

    // k_n at the largest depth, n = part + 1, at the lower right corner of the latest cell; NaN where it has lost its digits
    __device__ __forceinline__ work corner(int N, int part, int, bool, int purpose) const {
      return judged(
          Sums::results(N), part, purpose, [&](int n) { return k[Sums::level_of_result(N, n + 1)][P]; },
          [&](int n) { return work(EPSILON) * bounds.moved * integrand(N, Sums::level_of_result(N, n + 1), bounds.largest); });
    }

    // k on the last row of nodes, (levels, columns * P + 1)
    __device__ __forceinline__ void keep(int N, work* last_row, int first, int C) const {
      if (first >= C) return;
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll(UNROLLED)
        for (int l = 1; l <= P; ++l) last_row[m * kept(C) + (long long)first * P + l] = k[m][l];
    }
  };

  struct Up {
    // on the first row of nodes of the cell below: k, w of the sub-cells and the contribution of that cell to kbar
    work k[ROOM][P + 1], w[ROOM][P], given[ROOM][P];

    __device__ __forceinline__ void start(int N, const work* last_row, int first, int C) {
#pragma unroll
      for (int m = 0; m < N; ++m) {
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) {
          const long long node = min((long long)first * P + l, (long long)C * P);
          k[m][l] = node ? last_row[m * kept(C) + node] : work(0);
        }
#pragma unroll(UNROLLED)
        for (int l = 0; l < P; ++l) w[m][l] = given[m][l] = work(0);
      }
    }

    // Cell r, `first`. On entry `edge` holds the values on its right edge, on return those on its left edge.
    template <typename Adjoint>
    __device__ __forceinline__ void row(const Adjoint& adjoint, int N, int r, int first, const work (&g)[1], const work* weights,
                                        work (&edge)[ROOM][UP], work (&gbar)[1]) {
      work at_k[P + 1][P + 1][ROOM], kbar[P][P][ROOM];  // kbar: of the nodes but the first of a row or column
      recover(N, first, g[0], weights, edge, at_k);
#pragma unroll
      for (int m = 0; m < N; ++m) {
#pragma unroll(UNROLLED)
        for (int a = 0; a < P; ++a)
#pragma unroll(UNROLLED)
          for (int b = 0; b < P; ++b) {
            kbar[a][b][m] = (b == P - 1 ? edge[m][2 * P + a + 1] : work(0)) + (a == P - 1 ? given[m][b] : work(0));
            if (a == P - 1 && b == P - 1 && Sums::is_result(N, m)) kbar[a][b][m] += adjoint.deriv(r, first, Sums::nodes_of(N, m));
          }
        // The contributions of neighbouring cells have been used: from here on these are those of this cell.
#pragma unroll(UNROLLED)
        for (int b = 0; b < P; ++b) given[m][b] = b == P - 1 ? edge[m][2 * P] : work(0);
#pragma unroll(UNROLLED)
        for (int i = 0; i <= P; ++i) edge[m][2 * P + i] = work(0);
      }
#pragma unroll
      for (int m = N - 1; m >= 0; --m) {
        work cells[P][P];
#pragma unroll(UNROLLED)
        for (int b = P - 1; b >= 0; --b)
#pragma unroll(UNROLLED)
          for (int a = P - 1; a >= 0; --a) {
            edge[m][P + a] += kbar[a][b][m];
            w[m][b] += edge[m][P + a];
            cells[a][b] = w[m][b];
          }
#pragma unroll(UNROLLED)
        for (int l = P; l >= 0; --l) {
          work U[P + 1];
          sums_adjoint<P>(weights, cells, l, U);
#pragma unroll(UNROLLED)
          for (int i = 0; i <= P; ++i) {
            gbar[0] += U[i] * integrand(N, m, at_k[i][l]);
            spread(N, m, g[0] * U[i], at_k[i][l], [&](int to, work share) {
              if (l == 0) {
                edge[to][2 * P + i] += share;
              } else if (i > 0) {
                kbar[i - (i > 0)][l - (l > 0)][to] += share;
              } else {
                given[to][l - (l > 0)] += share;
              }
            });
          }
        }
      }
    }

    // k at all nodes of the cell from k on its last row; column 0 of the grid holds zeros
    __device__ __forceinline__ void recover(int N, int first, work g, const work* weights, work (&edge)[ROOM][UP],
                                            work (&at_k)[P + 1][P + 1][ROOM]) {
#pragma unroll
      for (int m = 0; m < N; ++m) {
        work sums[P][P];
        sums_of(N, m, weights, at_k, sums);
#pragma unroll(UNROLLED)
        for (int a = P; a >= 0; --a) {
          if (a < P) {
#pragma unroll(UNROLLED)
            for (int l = P; l >= 0; --l) {
              if (l > 0 || first > 0) k[m][l] -= edge[m][a];
              if (l > 0 && g != work(0)) edge[m][a] -= g * sums[a][l - (l > 0)];
            }
          }
#pragma unroll(UNROLLED)
          for (int l = 0; l <= P; ++l) at_k[a][l][m] = k[m][l];
        }
      }
    }

    // Hands the derivative with respect to f of a level at a node on to the levels of its factors.
    template <typename Add>
    static __device__ __forceinline__ void spread(int N, int level, work bar, const work (&k)[ROOM], const Add& add) {
      const int m = Sums::depth_of(N, level), n = Sums::nodes_of(N, level);
      if (n == 1) return;
      add(Sums::level_of(N, m, n - 1), bar);
      if (m == 1) return;
      add(Sums::level_of(N, m - 1, n - 1), bar);
#pragma unroll
      for (int j = 1; j < n - 1; ++j) {
        const int own = Sums::level_of(N, m, n - 1 - j), below = Sums::level_of(N, m - 1, j);
        add(own, bar * k[below]);
        add(below, bar * k[own]);
      }
    }
  };
};
