// The kernel without truncation, with any rule. K = exp(U) is on both sides of the equation of a cell. With nodes and B as in
// collocation.cuh, A[a, k] = B[0, k] + ... + B[a - 1, k], and E(a) = exp of the integral over the cells to the left in the same
// row, down to node a:
//
//   K[a, b] = K[0, b] E(a) exp(g sum over k, l of A[a, k] A[b, l] K[k, l])
//
// For P = 1 the one unknown is K = c exp(h K), so K = c W(h c), where W(z) = exp(z W(z)) = 1 + z + 3/2 z^2 + 8/3 z^3 + ...; for
// P > 1 the nodes of a cell are solved by a fixed-point iteration. Pairs with a cell where that is not a strong contraction are
// recomputed: CAREFUL uses Newton's method node by node, in the log domain, as the reference does. If no solution can be reached, the
// value is inf; if the iterations do not suffice, NaN.
//
// The equation has a second solution if h K < -1, so K cannot be recovered from the row below: the forward sweep stores K at
// every node. The adjoint of a cell is that of collocation.cuh with the w of the cell itself instead of w_above, so it is a
// linear equation for w:
//
//   w[a, b] = the sum over the nodes below and to the right of the sub-cell of (bar + K Kbar),
//   U = B^T w B,   gbar = sum of U K,   Kbar gathers g U from the cells around the node, its own included,
//
// where bar is given at the last corner, or at all corners of the cells. There is one level. A lane has one column of cells.

// Largest number of iterations of a cell.
enum { MOST_STEPS = 200 };

// Pairs with larger |h c|, or with a larger contraction factor between the nodes of a cell, are recomputed.
constexpr double SOLVABLE = 0.25;

// The weights of a rule, A by rows from the second, the largest sum of |A| in a row without the first column, and the sum of all
// |B| likewise.
template <int P>
struct EquationWeights : Weights<P> {
  enum { COUNT = Weights<P>::COUNT + P * (P + 1) + 2 };

  static __device__ __forceinline__ int until(int a, int k) { return Weights<P>::COUNT + (a - 1) * (P + 1) + k; }
  static __device__ __forceinline__ int largest_row() { return COUNT - 2; }
  static __device__ __forceinline__ int all_steps() { return COUNT - 1; }
};

// W(z) for |z| <= SOLVABLE
__device__ __forceinline__ double tree_exponential(double z) {
  if (fabs(z) <= 0x1p-6) {
    // 1 + z P(z), P the Chebyshev interpolant: relative error 1.3e-16
    const double z2 = z * z, z4 = z2 * z2;
    const double a = z * 0x1.7ffffffffffafp+0 + 0x1.fffffffffffbbp-1, b = z * 0x1.4d555557e0ec2p+2 + 0x1.555555577df95p+1;
    const double c = z * 0x1.757cf4edcc7dbp+4 + 0x1.59996e6f5ac5fp+3, d = z * 0x1.dbc5c050a30a5p+6 + 0x1.a12e19e43ed4cp+5;
    return z * ((a + z2 * b) + z4 * (c + z2 * d)) + 1.0;
  }
  // The interpolant on |z| <= 1/4 is within 1.2e-5, and two steps of Newton's method square that twice.
  double w = 0x1.65ea48ec50c7ep+9;
  w = w * z + 0x1.2c63eb01ea716p+8;
  w = w * z + 0x1.b29e3b765475fp+4;
  w = w * z + 0x1.a3a8dd9b88829p+3;
  w = w * z + 0x1.6889e8e5fc0c8p+3;
  w = w * z + 0x1.599dec1bfb9a6p+2;
  w = w * z + 0x1.550b880390ddfp+1;
  w = w * z + 0x1.7fc357794f598p+0;
  w = w * z + 1.0;
  w = w * z + 1.0;
#pragma unroll 1
  for (int step = 0; step < 2; ++step) {
    const double e = exp(z * w);
    w -= (w - e) / (1.0 - z * e);
  }
  return w;
}

// exp of a step of the fixed point; `tiny` promises that |x| is at most TINY_MOVE.
constexpr double TINY_MOVE = 0x1p-13;
__device__ __forceinline__ double exp_of_move(bool tiny, double x) {
  return tiny ? x * (x * (x * (1.0 / 6) + 0.5) + 1.0) + 1.0 : cell_exp(x);
}

// The one unknown node of a cell for P = 1, from K at the others, and E on the right edge. Returns |h c|.
template <typename work>
__device__ __forceinline__ work solve_corner(const work* weights, work g, work (&k)[2][2], work (&E)[1]) {
  const work B0 = weights[0], B1 = weights[1];
  work factor = cell_exp(g * ((B0 * B0) * k[0][0] + (B0 * B1) * (k[0][1] + k[1][0])));
  const work z = (g * (B1 * B1)) * (k[0][1] * E[0]) * factor;
  factor *= tree_exponential(z);
  E[0] *= factor;
  k[1][1] = k[0][1] * E[0];
  return fabs(z);
}

// Solves the P * P unknown nodes of a cell by a fixed-point iteration; also E on the right edge. Returns the contraction factor.
template <int P, typename work>
__device__ __forceinline__ work solve_nodes(const work* weights, work g, work (&k)[P + 1][P + 1], work (&E)[P]) {
  typedef EquationWeights<P> At;
  work known[P][P], x[P][P], most = work(0);
#pragma unroll(At::UNROLLED)
  for (int a = 0; a < P; ++a) {
    work down[P + 1];
    down[0] = work(0);
#pragma unroll(At::UNROLLED)
    for (int i = 0; i <= P; ++i) down[0] += weights[At::until(a + 1, i)] * k[i][0];
#pragma unroll(At::UNROLLED)
    for (int l = 1; l <= P; ++l) down[l] = weights[At::until(a + 1, 0)] * k[0][l];
#pragma unroll(At::UNROLLED)
    for (int b = 0; b < P; ++b) {
      work total = work(0);
#pragma unroll(At::UNROLLED)
      for (int l = 0; l <= P; ++l) total += weights[At::until(b + 1, l)] * down[l];
      known[a][b] = g * total;
      x[a][b] = work(0);
      k[a + 1][b + 1] = k[0][b + 1] * E[a];
      most = max(most, k[a + 1][b + 1]);
    }
  }
  const work norm = weights[At::largest_row()], contraction = fabs(g) * most * (work(2) * norm * norm);  // exp(x) <= 2 below 1/2
  bool active = contraction <= work(SOLVABLE);
#pragma unroll 1
  for (int step = 0; active && step < MOST_STEPS; ++step) {
    work moves[P][P], moved = work(0);
#pragma unroll(At::UNROLLED)
    for (int a = 0; a < P; ++a) {
      work down[P];
#pragma unroll(At::UNROLLED)
      for (int l = 0; l < P; ++l) {
        down[l] = work(0);
#pragma unroll(At::UNROLLED)
        for (int i = 1; i <= P; ++i) down[l] += weights[At::until(a + 1, i)] * k[i][l + 1];
      }
#pragma unroll(At::UNROLLED)
      for (int b = 0; b < P; ++b) {
        work total = work(0);
#pragma unroll(At::UNROLLED)
        for (int l = 0; l < P; ++l) total += weights[At::until(b + 1, l + 1)] * down[l];
        moves[a][b] = known[a][b] + g * total - x[a][b];
        moved = max(moved, work(fabs(moves[a][b])));
      }
    }
    const bool tiny = moved <= work(TINY_MOVE);
#pragma unroll(At::UNROLLED)
    for (int a = 0; a < P; ++a)
#pragma unroll(At::UNROLLED)
      for (int b = 0; b < P; ++b) {
        const work e = exp_of_move(tiny, moves[a][b]);
        x[a][b] += moves[a][b];
        k[a + 1][b + 1] *= e;
        if (b == P - 1) E[a] *= e;
      }
    active = moved * contraction > work(0x1p-54);  // otherwise the next change is below rounding
  }
  return contraction;
}

// Solves the cell by Newton's method node by node, in the log domain: log K above the cell on entry, below it on return; log E.
// Returns the integral over the cell.
template <int P, typename work>
__device__ __forceinline__ work solve_carefully(const work* weights, work g, work (&k)[P + 1][P + 1], work (&log_k)[P + 1],
                                                work (&strip)[P]) {
  typedef EquationWeights<P> At;
  const work tolerance = work(0x1p-49), infinite = work(1) / work(0);
  const bool moves = g != work(0);
  work u[P][P], x[P][P];
#pragma unroll(At::UNROLLED)
  for (int a = 0; a < P; ++a)
#pragma unroll(At::UNROLLED)
    for (int b = 0; b < P; ++b) u[a][b] = log_k[b + 1] + strip[a];
  bool done = false;
#pragma unroll 1
  for (int step = 0;; ++step) {
#pragma unroll(At::UNROLLED)
    for (int a = 0; a < P; ++a)
#pragma unroll(At::UNROLLED)
      for (int b = 0; b < P; ++b) k[a + 1][b + 1] = exp(u[a][b]);
#pragma unroll(At::UNROLLED)
    for (int a = 0; a < P; ++a) {
      work down[P + 1];
#pragma unroll(At::UNROLLED)
      for (int l = 0; l <= P; ++l) {
        down[l] = work(0);
#pragma unroll(At::UNROLLED)
        for (int i = 0; i <= P; ++i) down[l] += weighted<P == 1>(weights[At::until(a + 1, i)], k[i][l]);
      }
#pragma unroll(At::UNROLLED)
      for (int b = 0; b < P; ++b) {
        work total = work(0);
#pragma unroll(At::UNROLLED)
        for (int l = 0; l <= P; ++l) total += weighted<P == 1>(weights[At::until(b + 1, l)], down[l]);
        x[a][b] = moves ? g * total : work(0);
      }
    }
    if (done) break;
    work next[P][P];
    bool settled = true, blown_up = false;
#pragma unroll(At::UNROLLED)
    for (int a = 0; a < P; ++a)
#pragma unroll(At::UNROLLED)
      for (int b = 0; b < P; ++b) {
        const work here = u[a][b], residual = log_k[b + 1] + strip[a] + x[a][b] - here;
        const work own = weights[At::until(a + 1, a + 1)] * weights[At::until(b + 1, b + 1)];
        const work slope = work(1) - (moves ? g * weighted<P == 1>(own, k[a + 1][b + 1]) : work(0));
        const bool still = !is_finite(here) || (slope > work(0) && !(fabs(residual) > tolerance * (work(1) + fabs(here)) * slope));
        next[a][b] = still ? here : slope > work(0) ? here + residual / slope : infinite;
        if (step == MOST_STEPS && !still) next[a][b] = infinite - infinite;  // not solved
        settled = settled && still;
        blown_up = blown_up || next[a][b] == infinite;
      }
#pragma unroll(At::UNROLLED)
    for (int a = 0; a < P; ++a)
#pragma unroll(At::UNROLLED)
      for (int b = 0; b < P; ++b) u[a][b] = blown_up ? infinite : next[a][b];
    done = settled || step == MOST_STEPS;
  }
#pragma unroll(At::UNROLLED)
  for (int a = 0; a < P; ++a) {
#pragma unroll(At::UNROLLED)
    for (int b = 0; b < P; ++b) {
      if (u[a][b] == infinite) x[a][b] = infinite;  // beyond a blow-up integrals have no meaning
      u[a][b] = log_k[b + 1] + (strip[a] + x[a][b]);
      k[a + 1][b + 1] = exp(u[a][b]);
    }
    strip[a] += x[a][P - 1];
  }
#pragma unroll(At::UNROLLED)
  for (int b = 0; b < P; ++b) log_k[b + 1] = u[P - 1][b];
  return x[P - 1][P - 1];
}

// w of a cell from `known`, all of it except the contribution of K of the cell itself, by node-wise corrections; U = B^T w B.
template <int P, bool CAREFUL, typename work>
__device__ __forceinline__ void solve_weights(const work* weights, work g, const work (&k)[P + 1][P + 1], const work (&known)[P][P],
                                              work (&w)[P][P], work (&U)[P + 1][P + 1]) {
  typedef EquationWeights<P> At;
  work slopes[CAREFUL ? P : 1][P], most = work(0);
#pragma unroll(At::UNROLLED)
  for (int a = 0; a < P; ++a)
#pragma unroll(At::UNROLLED)
    for (int b = 0; b < P; ++b) {
      most = max(most, k[a + 1][b + 1]);
      w[a][b] = known[a][b];
      if (!CAREFUL) continue;
      work behind = work(0);  // contribution of the node to itself
#pragma unroll(At::UNROLLED)
      for (int i = a + 1; i <= P; ++i)
#pragma unroll(At::UNROLLED)
        for (int l = b + 1; l <= P; ++l) behind += (weights[At::step(a, i)] * weights[At::step(b, l)]) * k[i][l];
      const work slope = work(1) - g * behind;
      slopes[CAREFUL ? a : 0][b] = slope > work(0.25) ? slope : work(1);
    }
  const work norm = weights[At::all_steps()], contraction = fabs(g) * most * (norm * norm);
  bool settled = false;
#pragma unroll 1
  for (int step = 0;; ++step) {
    sums_adjoint<P>(weights, w, U);
    if (settled) break;
    work given[P], moved = work(0), largest = work(0);
#pragma unroll(At::UNROLLED)
    for (int i = 0; i < P; ++i) given[i] = work(0);
#pragma unroll(At::UNROLLED)
    for (int l = P - 1; l >= 0; --l) {
      work sum = work(0);
#pragma unroll(At::UNROLLED)
      for (int i = P - 1; i >= 0; --i) {
        given[i] += k[i + 1][l + 1] * U[i + 1][l + 1];
        sum += given[i];
        work move = known[i][l] + g * sum - w[i][l];
        if (CAREFUL) move /= slopes[CAREFUL ? i : 0][l];
        w[i][l] += move;
        moved = max(moved, work(fabs(move)));
        largest = max(largest, work(fabs(w[i][l])));
      }
    }
    // otherwise the next change is below rounding
    settled = CAREFUL ? !(moved > work(0x1p-49) * largest) : !(moved * contraction > work(0x1p-54) * largest);
    if (!settled && step == MOST_STEPS) {  // not solved
#pragma unroll(At::UNROLLED)
      for (int i = 0; i < P; ++i)
#pragma unroll(At::UNROLLED)
        for (int l = 0; l < P; ++l) w[i][l] = work(0) / work(0);
      settled = true;
    }
  }
}

template <typename real, typename work, int DEPTH, int P, bool OF_GRID, bool IN_LOGS>
struct Untruncated : Levels<1, true> {
  static_assert(DEPTH == 1, "one level stands for all depths");
  typedef work Work;
  typedef EquationWeights<P> At;
  enum { COLUMNS = 1, ROOM = 1, WEIGHTS = At::COUNT, UNROLLED = At::UNROLLED };
  // down: K at the nodes of the left edge except the first, E, and if CAREFUL the error bounds of log K; up: the suffix sums of Kbar
  // K by rows of nodes except the first, and the contribution of the cell to the right to Kbar on the edge
  static constexpr bool GRID = OF_GRID, CAREFUL = IN_LOGS, PARTS = false, EVERY_ROW = true;
  enum { DOWN = 2 * P + 3 * CAREFUL, UP = 2 * P + 1, RUNS = 0, LAG = 0, TOP = 0 };
  static constexpr double OF_SUM = 1.0;

  static __device__ __forceinline__ work at_left_end(int value) { return work(value < P || !CAREFUL ? 1 : 0); }
  static __device__ __forceinline__ work at_right_end(work sum) { return sum; }
  // Memory holds K at the nodes of a cell except the first of each row and column.
  enum { WIDTH = 33, CELL = WIDTH * P * P, BESIDE = CELL + 1 };

  struct Down {
    // of the latest cell; log K on its last row of nodes
    work nodes[P + 1][P + 1], logs[P + 1];
    Bounds<1, 2 * P, CAREFUL, true, work> bounds;

    __device__ __forceinline__ void start(int, int) {
      bounds.start();
#pragma unroll(UNROLLED)
      for (int l = 0; l <= P; ++l) {
        nodes[P][l] = work(1);
        logs[l] = work(0);
      }
    }

    // One cell. On entry `edge` holds the values on its left edge, on return those on its right edge.
    __device__ __forceinline__ void row(int, const work (&g)[1], const work* weights, int purpose, work (&edge)[1][DOWN],
                                        work& total, Watch<work>& watch) {
      work E[P];
#pragma unroll(UNROLLED)
      for (int l = 0; l <= P; ++l) nodes[0][l] = nodes[P][l];
#pragma unroll(UNROLLED)
      for (int a = 0; a < P; ++a) {
        nodes[a + 1][0] = edge[0][a];
        E[a] = edge[0][P + a];
      }
      if (CAREFUL) {
        const work integral = solve_carefully<P>(weights, g[0], nodes, logs, E);
        if (!GRID) total += integral;
        bound(g[0], weights, edge);
        if (GRID) watch.wrong |= bounds.wrong(0, logs[P], purpose) || !is_finite(purpose ? logs[P] : nodes[P][P]);
      } else {
        if constexpr (P == 1) {
          watch.wrong |= !(solve_corner(weights, g[0], nodes, E) <= work(SOLVABLE));
        } else {
          watch.wrong |= !(solve_nodes<P>(weights, g[0], nodes, E) <= work(SOLVABLE));
        }
#pragma unroll(UNROLLED)
        for (int a = 1; a <= P; ++a)
#pragma unroll(UNROLLED)
          for (int l = 1; l <= P; ++l) watch.over(nodes[a][l]);
        if (!GRID) total += g[0] * integral_of_cell<P, false>(weights, nodes);
      }
#pragma unroll(UNROLLED)
      for (int a = 0; a < P; ++a) {
        edge[0][a] = nodes[a + 1][P];
        edge[0][P + a] = E[a];
      }
    }

    __device__ __forceinline__ void bound(work g, const work* weights, work (&edge)[1][DOWN]) {
      work sums[P][P];
      sums_of_cell<P, true>(weights, nodes, sums);
      bounds.move(fabs(g), edge);
      bounds.level(0, g, largest_mean<P>(weights, sums), edge);
      bounds.nodes(0, fabs(logs[P]), edge);
    }

    // K, or its logarithm, at the lower right corner of the latest cell; NaN where it has lost its digits
    __device__ __forceinline__ work corner(int, int, int, bool logarithm, int purpose) const {
      if (bounds.wrong(0, logs[P], purpose)) return not_a_number<work>();
      return CAREFUL && logarithm ? logs[P] : nodes[P][P];
    }

    __device__ __forceinline__ void keep_above(int, work* cell, bool leftmost) const {
#pragma unroll(UNROLLED)
      for (int b = 0; b < P; ++b) cell[WIDTH * (P * P - P + b) - CELL] = nodes[P][b + 1];
      if (leftmost) cell[WIDTH * (P * P - 1) - CELL - BESIDE] = nodes[P][0];
    }
    __device__ __forceinline__ void keep(int, work* cell, bool leftmost) const {
#pragma unroll(UNROLLED)
      for (int a = 0; a < P; ++a) {
#pragma unroll(UNROLLED)
        for (int b = 0; b < P; ++b) cell[WIDTH * (a * P + b)] = nodes[a + 1][b + 1];
        if (leftmost) cell[WIDTH * (a * P + P - 1) - BESIDE] = nodes[a + 1][0];
      }
    }
  };

  struct Up {
    // K of the next cell, including its left edge, and its position; w of the sub-cells of the cell below and the contribution of
    // that cell to Kbar
    work inner[P][P], left[P], w[P], given[P];
    const work* cell;

    // `last`: position of K of the lowest cell, or null
    __device__ __forceinline__ void start(int, const work* last) {
#pragma unroll(UNROLLED)
      for (int l = 0; l < P; ++l) w[l] = given[l] = work(0);
      cell = last;
      if (last) fetch();
    }

    // K of the next cell
    __device__ __forceinline__ void fetch() {
#pragma unroll(UNROLLED)
      for (int a = 0; a < P; ++a) {
#pragma unroll(UNROLLED)
        for (int b = 0; b < P; ++b) inner[a][b] = cell[WIDTH * (a * P + b)];
        left[a] = cell[WIDTH * (a * P + P - 1) - BESIDE];
      }
      cell -= CELL;
    }

    // Cell r, `first`. On entry `edge` holds the values on its right edge, on return those on its left edge.
    template <typename Adjoint>
    __device__ __forceinline__ void row(const Adjoint& adjoint, int, int r, int first, const work (&g)[1], const work* weights,
                                        work (&edge)[1][UP], work (&gbar)[1]) {
      work nodes[P + 1][P + 1], known[P][P], cells[P][P], U[P + 1][P + 1];
#pragma unroll(UNROLLED)
      for (int a = 0; a < P; ++a) {
        nodes[a + 1][0] = left[a];
#pragma unroll(UNROLLED)
        for (int b = 0; b < P; ++b) nodes[a + 1][b + 1] = inner[a][b];
      }
      fetch();  // prefetched while this cell is solved
      nodes[0][0] = left[P - 1];
#pragma unroll(UNROLLED)
      for (int b = 0; b < P; ++b) nodes[0][b + 1] = inner[P - 1][b];
      work bar = work(r == adjoint.problem.rows() - 1 && first == adjoint.problem.columns() - 1 ? 1 : 0);
      if (GRID) bar = adjoint.deriv(r, first) * (adjoint.wrt_log ? work(1) : nodes[P][P]);
#pragma unroll(UNROLLED)
      for (int b = P - 1; b >= 0; --b) {
        work here = w[b];
#pragma unroll(UNROLLED)
        for (int a = P - 1; a >= 0; --a) {
          work gathered = work(0);
          if (b == P - 1) gathered += edge[0][P + a + 1];
          if (a == P - 1) gathered += given[b];
          edge[0][a] += nodes[a + 1][b + 1] * gathered;
          if (a == P - 1 && b == P - 1) edge[0][a] += bar;
          here += edge[0][a];
          known[a][b] = here;
        }
      }
      if (P == 1) {
        const work own = g[0] * (weights[At::step(0, 1)] * weights[At::step(0, 1)]) * nodes[1][1];
        cells[0][0] = known[0][0] / (work(1) - own);
        sums_adjoint<P>(weights, cells, U);
      } else {
        solve_weights<P, CAREFUL>(weights, g[0], nodes, known, cells, U);
      }
#pragma unroll(UNROLLED)
      for (int i = 0; i <= P; ++i)
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) {
          gbar[0] += weighted<CAREFUL>(U[i][l], nodes[i][l]);
          U[i][l] *= g[0];
        }
      U[0][P] += edge[0][P];
#pragma unroll(UNROLLED)
      for (int b = 0; b < P; ++b) {
#pragma unroll(UNROLLED)
        for (int a = 0; a < P; ++a) edge[0][a] += U[a + 1][b + 1] * nodes[a + 1][b + 1];
        w[b] = cells[0][b];
        given[b] = U[0][b + 1];
      }
#pragma unroll(UNROLLED)
      for (int i = 0; i <= P; ++i) edge[0][P + i] = U[i][0];
    }
  };
};
