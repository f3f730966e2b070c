// Rules other than the trapezoid: left points, and Gauss-Lobatto rules of P intervals. Each side of a cell is divided by P + 1
// nodes, shared with the neighbours. With B[a, k] the integral of the basis function of node k from node a to node a + 1, and
// sub-cells (a, b) between neighbouring nodes:
//
//   sum_m[a, b]      = sum over the nodes k, l of the cell of B[a, k] B[b, l] K_m[k, l]
//   K_m[a + 1, b]    = K_m[a, b] E_a(b),   E_a(b) = E_a(b - 1) exp(g sum_{m-1}[a, b]),   E_a = 1 on the left edge
//   log K_M(R, C)    = sum over the cells of g sum over k, l of V[k] V[l] K_{M-1}[k, l],   V[k] = sum over a of B[a, k]
//
// and in the backward sweep, bottom to top and right to left,
//
//   recover   F_a(b - 1) = F_a(b) exp(g sum_{m-1}[a, b]),   F = 1 / E,   K_m[a, b] = K_m[a + 1, b] F_a(b)
//   adjoint   U[k, l] = sum over a, b of B[a, k] w_{m+1}[a, b] B[b, l] (top level: w_M V[k] V[l]),   gbar = sum of U K_m,
//             Kbar_m[k, l] gathers g U[k, l] from the cells around the node,
//             w_m[a, b] = sum of Kbar_m K_m over the nodes below and to the right of the sub-cell
//
// A lane has one column of cells. The rule is data, "weights" below. Up to P = 3 loops over nodes are unrolled, so that the values of
// a cell are in registers if they fit; larger rules index them in local memory. Only left points have weights of zero, so for P > 1
// weights are not tested.

// B by rows, V, and the integrals of 1 from node to node.
template <int P>
struct Weights {
  enum { COUNT = (P + 1) * (P + 1) + P, UNROLLED = P <= 3 ? P + 1 : 1 };

  static __device__ __forceinline__ int step(int a, int k) { return a * (P + 1) + k; }
  static __device__ __forceinline__ int whole(int k) { return P * (P + 1) + k; }
  static __device__ __forceinline__ int side(int a) { return (P + 1) * (P + 1) + a; }
};

// The sums of K_0 = 1
template <int P, typename work>
__device__ __forceinline__ void sums_of_ones(const work* weights, work (&sums)[P][P]) {
#pragma unroll(Weights<P>::UNROLLED)
  for (int a = 0; a < P; ++a)
#pragma unroll(Weights<P>::UNROLLED)
    for (int b = 0; b < P; ++b) sums[a][b] = weights[Weights<P>::side(a)] * weights[Weights<P>::side(b)];
}

// sum[a, b] of a cell from the values at its nodes
template <int P, bool CAREFUL, typename work>
__device__ __forceinline__ void sums_of_cell(const work* weights, const work (&nodes)[P + 1][P + 1], work (&sums)[P][P]) {
#pragma unroll(Weights<P>::UNROLLED)
  for (int a = 0; a < P; ++a) {
    work down[P + 1];
#pragma unroll(Weights<P>::UNROLLED)
    for (int l = 0; l <= P; ++l) {
      down[l] = work(0);
#pragma unroll(Weights<P>::UNROLLED)
      for (int k = 0; k <= P; ++k) down[l] += weighted<CAREFUL && P == 1>(weights[Weights<P>::step(a, k)], nodes[k][l]);
    }
#pragma unroll(Weights<P>::UNROLLED)
    for (int b = 0; b < P; ++b) {
      sums[a][b] = work(0);
#pragma unroll(Weights<P>::UNROLLED)
      for (int l = 0; l <= P; ++l) sums[a][b] += weighted<CAREFUL && P == 1>(weights[Weights<P>::step(b, l)], down[l]);
    }
  }
}

// The largest |mean| over the sub-cells, from their sums
template <int P, typename work>
__device__ __forceinline__ work largest_mean(const work* weights, const work (&sums)[P][P]) {
  work largest = work(0);
#pragma unroll(Weights<P>::UNROLLED)
  for (int a = 0; a < P; ++a)
#pragma unroll(Weights<P>::UNROLLED)
    for (int b = 0; b < P; ++b)
      largest = larger(largest, work(fabs(sums[a][b])) / (weights[Weights<P>::side(a)] * weights[Weights<P>::side(b)]));
  return largest;
}

// The integral over a cell of side 1 from the values at its nodes
template <int P, bool CAREFUL, typename work>
__device__ __forceinline__ work integral_of_cell(const work* weights, const work (&nodes)[P + 1][P + 1]) {
  work total = work(0);
#pragma unroll(Weights<P>::UNROLLED)
  for (int l = 0; l <= P; ++l) {
    work down = work(0);
#pragma unroll(Weights<P>::UNROLLED)
    for (int k = 0; k <= P; ++k) down += weighted<CAREFUL && P == 1>(weights[Weights<P>::whole(k)], nodes[k][l]);
    total += weighted<CAREFUL && P == 1>(weights[Weights<P>::whole(l)], down);
  }
  return total;
}

// Adjoint of sums_of_cell: column l of U from w of the sub-cells
template <int P, typename work>
__device__ __forceinline__ void sums_adjoint(const work* weights, const work (&w)[P][P], int l, work (&U)[P + 1]) {
  work across[P];
#pragma unroll(Weights<P>::UNROLLED)
  for (int a = 0; a < P; ++a) {
    across[a] = work(0);
#pragma unroll(Weights<P>::UNROLLED)
    for (int b = 0; b < P; ++b) across[a] += w[a][b] * weights[Weights<P>::step(b, l)];
  }
#pragma unroll(Weights<P>::UNROLLED)
  for (int k = 0; k <= P; ++k) {
    U[k] = work(0);
#pragma unroll(Weights<P>::UNROLLED)
    for (int a = 0; a < P; ++a) U[k] += weights[Weights<P>::step(a, k)] * across[a];
  }
}

// The same for all columns
template <int P, typename work>
__device__ __forceinline__ void sums_adjoint(const work* weights, const work (&w)[P][P], work (&U)[P + 1][P + 1]) {
#pragma unroll(Weights<P>::UNROLLED)
  for (int l = 0; l <= P; ++l) {
    work column[P + 1];
    sums_adjoint<P>(weights, w, l, column);
#pragma unroll(Weights<P>::UNROLLED)
    for (int k = 0; k <= P; ++k) U[k][l] = column[k];
  }
}

template <typename real, typename work, int DEPTH, int P, bool OF_GRID, bool IN_LOGS>
struct Collocation : Levels<DEPTH, OF_GRID || IN_LOGS> {
  typedef work Work;
  typedef Weights<P> At;
  enum { COLUMNS = 1, ROOM = Levels<DEPTH, OF_GRID || IN_LOGS>::ROOM, WEIGHTS = At::COUNT, UNROLLED = At::UNROLLED };
  // down: K at the nodes of the left edge except the first, if CAREFUL the error bounds of log K, and E_a; up: F_a, the suffix sums
  // of Kbar K by rows of nodes except the first, and the contribution of the cell to the right to Kbar on the edge
  static constexpr bool GRID = OF_GRID, CAREFUL = IN_LOGS, PARTS = false, EVERY_ROW = false;
  enum { DOWN = 2 * P + 2 * CAREFUL, UP = 3 * P + 1, RUNS = P, LAG = 0, E = DOWN - P, TOP = CAREFUL && !GRID };
  static constexpr int LOG = CAREFUL ? int(ROOM) : 1;
  static constexpr double OF_SUM = 1.0;

  static __device__ __forceinline__ work at_left_end(int value) { return work(value < P || !CAREFUL ? 1 : 0); }
  static __device__ __forceinline__ work at_right_end(work product) { return CAREFUL ? product : work(1) / product; }
  static __device__ __forceinline__ long long kept(int columns) { return (long long)columns * P + 1; }  // values of a level

  struct Down {
    // on the latest row of nodes
    work k[ROOM][P + 1], logs[LOG][P + 1];
    Bounds<ROOM, P, CAREFUL, false, work> bounds;
    Ends<1, !CAREFUL, work> ends;

    __device__ __forceinline__ void start(int N, int) {
      bounds.start();
      ends.start();
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) {
          k[m][l] = work(1);
          if (CAREFUL) logs[m][l] = work(0);
        }
    }

    // One cell. On entry `edge` holds the values on its left edge, on return those on its right edge.
    __device__ __forceinline__ void row(int N, const work (&g)[1], const work* weights, int purpose, work (&edge)[ROOM][DOWN],
                                        work&, Watch<work>& watch) {
      work sums[P][P], integral = work(1), mean = work(1);
      sums_of_ones<P>(weights, sums);
      bounds.move(fabs(g[0]), edge);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        bounds.level(m, g[0], mean, edge);
        if (TOP && m == N - 1) {  // at the corners
          edge[m][E] += g[0] == work(0) ? work(0) : g[0] * integral;
          logs[CAREFUL ? m : 0][P] += edge[m][E];
          bounds.nodes(m, fabs(logs[CAREFUL ? m : 0][P]), edge);
          continue;
        }
        work nodes[P + 1][P + 1], farthest = work(0);
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) nodes[0][l] = k[m][l];
#pragma unroll(UNROLLED)
        for (int a = 0; a < P; ++a) {
          work run = edge[m][E + a];
          nodes[a + 1][0] = edge[m][a];
#pragma unroll(UNROLLED)
          for (int l = 1; l <= P; ++l) {
            const work cell = g[0] * sums[a][l - 1];
            if (CAREFUL) {
              run += g[0] == work(0) ? work(0) : cell;
              logs[m][l] += run;
              nodes[a + 1][l] = exp(logs[m][l]);
              farthest = widened(farthest, work(fabs(logs[m][l])));
            } else {
              run *= cell_exp(cell);
              nodes[a + 1][l] = nodes[a][l] * run;
              watch.over(nodes[a + 1][l]);
            }
          }
          edge[m][a] = nodes[a + 1][P];
          edge[m][E + a] = run;
        }
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) k[m][l] = nodes[P][l];
        bounds.nodes(m, m == N - 1 ? work(fabs(logs[CAREFUL ? m : 0][P])) : farthest, edge);
        if (CAREFUL && m == N - 1)
          watch.wrong |= bounds.wrong(m, logs[m][P], purpose) || !is_finite(purpose ? logs[m][P] : k[m][P]);
        if (m < N - 1) sums_of_cell<P, CAREFUL>(weights, nodes, sums);
        if (CAREFUL ? m == N - 2 : m == N - 1 && !GRID) integral = integral_of_cell<P, CAREFUL>(weights, nodes);
        if (CAREFUL) mean = m < N - 2 ? largest_mean<P>(weights, sums) : work(fabs(integral));
      }
      if (!GRID) ends.add(0, CAREFUL && g[0] == work(0) ? work(0) : g[0] * integral);
    }

    // K, or its logarithm, at the lower right corner of the latest cell; NaN where it has lost its digits
    __device__ __forceinline__ work corner(int, int m, int, bool logarithm, int purpose) const {
      if (bounds.wrong(m, logs[CAREFUL ? m : 0][P], purpose)) return not_a_number<work>();
      return CAREFUL && logarithm ? logs[CAREFUL ? m : 0][P] : k[m][P];
    }

    // K (CAREFUL: log K) of every level on the last row of nodes, (levels, columns * P + 1)
    __device__ __forceinline__ void keep(int N, work* last_row, int first, int C) const {
      if (first >= C) return;
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll(UNROLLED)
        for (int l = 1; l <= P; ++l)
          last_row[m * kept(C) + (long long)first * P + l] = CAREFUL ? logs[m][l] : k[m][l];
    }
  };

  struct Up {
    // on the first row of nodes of the cell below: K, w_m of the sub-cells and the contribution of that cell to Kbar; w of the top level
    work k[ROOM][P + 1], logs[LOG][P + 1], w[ROOM][P], given[ROOM][P], w_top;

    __device__ __forceinline__ void start(int N, const work* last_row, int first, int C) {
      w_top = work(GRID ? 0 : 1);
#pragma unroll
      for (int m = 0; m < N; ++m) {
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) {
          const long long node = min((long long)first * P + l, (long long)C * P);
          const work stored = node ? last_row[m * kept(C) + node] : work(CAREFUL ? 0 : 1);
          if (CAREFUL) logs[m][l] = stored;
          k[m][l] = CAREFUL ? exp(stored) : stored;
        }
#pragma unroll(UNROLLED)
        for (int l = 0; l < P; ++l) w[m][l] = given[m][l] = work(0);
      }
    }

    // Cell r, `first`. On entry `edge` holds the values on its right edge, on return those on its left edge.
    template <typename Adjoint>
    __device__ __forceinline__ void row(const Adjoint& adjoint, int N, int r, int first, const work (&g)[1], const work* weights,
                                        work (&edge)[ROOM][UP], work (&gbar)[1]) {
      work nodes[ROOM][P + 1][P + 1], sums[P][P];
      sums_of_ones<P>(weights, sums);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        recover(m, first, g[0], sums, edge[m], nodes[m]);
        if (m < N - 1) sums_of_cell<P, CAREFUL>(weights, nodes[m], sums);
      }
      if (GRID) {
        const work deriv = adjoint.deriv(r, first);
        w_top += edge[N - 1][P] += adjoint.wrt_log ? deriv : deriv * nodes[N - 1][P][P];
      }
      work w_above[P][P];
#pragma unroll
      for (int m = N - 1 - GRID; m >= 0; --m) {
        work w_cell[P][P];
#pragma unroll(UNROLLED)
        for (int l = P; l >= 0; --l) {  // a column of U at a time takes fewer registers
          work U[P + 1];
          if (m == N - 1 - GRID) {
#pragma unroll(UNROLLED)
            for (int i = 0; i <= P; ++i) U[i] = w_top * (weights[At::whole(i)] * weights[At::whole(l)]);
          } else {
            sums_adjoint<P>(weights, w_above, l, U);
          }
          gather(m, l, g[0], nodes[m], U, edge[m], w_cell, gbar[0]);
        }
#pragma unroll(UNROLLED)
        for (int a = 0; a < P; ++a)
#pragma unroll(UNROLLED)
          for (int b = 0; b < P; ++b) w_above[a][b] = w_cell[a][b];
      }
      if (N == GRID) {
        gbar[0] += w_top;  // only K_0 is below
      } else {
#pragma unroll(UNROLLED)
        for (int a = 0; a < P; ++a)
#pragma unroll(UNROLLED)
          for (int b = 0; b < P; ++b) gbar[0] += w_above[a][b] * (weights[At::side(a)] * weights[At::side(b)]);
      }
    }

    // K_m at the nodes of the cell from those on its last row; column 0 of the grid holds ones
    __device__ __forceinline__ void recover(int m, int first, work g, const work (&sums)[P][P], work (&edge)[UP],
                                            work (&nodes)[P + 1][P + 1]) {
#pragma unroll(UNROLLED)
      for (int l = 0; l <= P; ++l) nodes[P][l] = k[m][l];
#pragma unroll(UNROLLED)
      for (int a = P - 1; a >= 0; --a) {
        work run = edge[a];
#pragma unroll(UNROLLED)
        for (int l = P; l >= 0; --l) {
          if (l == 0 && first == 0) {
            nodes[a][l] = work(1);
          } else if (CAREFUL) {
            logs[m][l] -= run;
            nodes[a][l] = exp(logs[m][l]);
          } else {
            nodes[a][l] = nodes[a + 1][l] * run;
          }
          if (l == 0) continue;
          const work cell = g * sums[a][l - 1];
          if (CAREFUL) {
            run -= g == work(0) ? work(0) : cell;
          } else {
            run *= cell_exp(cell);
          }
        }
        edge[a] = run;
      }
#pragma unroll(UNROLLED)
      for (int l = 0; l <= P; ++l) k[m][l] = nodes[0][l];
    }

    // w_m of the sub-cells left of node l, from column l of U
    __device__ __forceinline__ void gather(int m, int l, work g, const work (&nodes)[P + 1][P + 1], work (&U)[P + 1],
                                           work (&edge)[UP], work (&w_cell)[P][P], work& gbar) {
#pragma unroll(UNROLLED)
      for (int i = 0; i <= P; ++i) {
        gbar += U[i] * nodes[i][l];
        U[i] *= g;
        if (l == P) U[i] += edge[2 * P + i];
        if (l == 0) edge[2 * P + i] = U[i];
      }
      if (l == 0) return;
      U[P] += given[m][l - 1];
      given[m][l - 1] = U[0];
#pragma unroll(UNROLLED)
      for (int a = P - 1; a >= 0; --a) {
        edge[P + a] += U[a + 1] * nodes[a + 1][l];
        w[m][l - 1] += edge[P + a];
        w_cell[a][l - 1] = w[m][l - 1];
      }
    }
  };
};
