// Truncation by the number of nodes, with any rule; nodes, sub-cells, B and sum as in collocation.h. With K = sum of k_n and log
// K = sum of u_n by the number of nodes of a forest:
//
//   u_n at the nodes = the sum of cells g sum_{n-1}[a, b] above and to the left,  sum_{n-1} of k_{n-1}
//   n k_n            = sum over j = 1..n of j u_j k_{n-j},   k_0 = 1
//
// The backward sweep recovers u from the last row of nodes, and k from u. The adjoint goes from the highest n down:
//
//   ubar_j += j/n k_{n-j} kbar_n,   kbar_{n-j} += j/n u_j kbar_n,   w_n[a, b] = the sum of ubar_n below and to the right,
//   U_n = B^T w_n B,   gbar += sum of U_n k_{n-1},   kbar_{n-1} gathers g U_n
//
// With M_n the largest |k_n| so far and S the sum of |g|, the error of u_j is at most eps S M_{j-1}, and hence that of k_n at most
// (eps S / n) times the sum over j of j M_{j-1} M_{n-j}.
//
// Level m of the arrays holds n = m + 1. DEPTH is the largest n; derivatives are always given, of k_n at the end or at all corners.

// One of some components from all of them and their errors; NaN where it has lost its digits
template <typename Value, typename Error>
__device__ __forceinline__ double judged(int count, int which, int purpose, const Value& value, const Error& error_of) {
  const double own = value(which);
  if (purpose == ROUGH) return own;
  double error = error_of(which), allowed = allowed_of_sum(own, KERNEL_ITSELF);
  if (purpose != EVERY_PART) {
    double sum = 1.0;
    error = 0.0;
#pragma unroll
    for (int n = 0; n < count; ++n) {
      sum += value(n);
      error += error_of(n);
    }
    allowed = allowed_of_sum(sum, purpose);
  }
  return error > TOLERANCE * allowed ? not_a_number<double>() : own;
}

template <typename real, typename work, int DEPTH, int P, bool OF_GRID, int BOUND>
struct Order : Levels<DEPTH, true> {
  static_assert(BOUND == 0, "the reference bounds the depth as well");
  typedef work Work;
  typedef Weights<P> At;
  enum { COLUMNS = 1, ROOM = Levels<DEPTH, true>::ROOM, WEIGHTS = At::COUNT, UNROLLED = At::UNROLLED };
  // down: k at the nodes of the left edge except the first, error bounds, and the sums of cells along the row up to there; up:
  // these sums, the suffix sums of ubar by rows of nodes except the first, and the contribution of the cell to the right to kbar on
  // the edge
  enum { DOWN = 2 * P + 2, UP = 3 * P + 1, RUNS = P, LAG = 0, SUMS = DOWN - P, TOP = 0 };
  static constexpr bool GRID = OF_GRID, CAREFUL = false, PARTS = true, EVERY_ROW = false;
  static constexpr double OF_SUM = 1.0;

  static __device__ __forceinline__ work at_left_end(int) { return work(0); }
  static __device__ __forceinline__ work at_right_end(work sum) { return sum; }
  static __device__ __forceinline__ long long kept(int columns) { return (long long)columns * P + 1; }  // values of a level

  // n k_n for n = m + 1 from u_n and the lower parts at the same node
  static __device__ __forceinline__ work part(int m, const work (&u)[ROOM], const work (&k)[ROOM]) {
    work total = work(m + 1) * u[m];
#pragma unroll
    for (int j = 1; j <= m; ++j) total += work(j) * u[j - 1] * k[m - j];
    return total / work(m + 1);
  }

  struct Down {
    // on the latest row of nodes
    work k[ROOM][P + 1], u[ROOM][P + 1];
    Bounds<ROOM, P, true, false, work> bounds;  // the largest |k_n| of every n

    __device__ __forceinline__ void start(int N, int) {
      bounds.start();
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) k[m][l] = u[m][l] = work(0);
    }

    // One cell. On entry `edge` holds the values on its left edge, on return those on its right edge.
    __device__ __forceinline__ void row(int N, const work (&g)[1], const work* weights, int purpose, work (&edge)[ROOM][DOWN], work&,
                                        Watch<work>& watch) {
      work sums[P][P], at_u[P][P][ROOM], at_k[P][P][ROOM];  // at_u, at_k: of the nodes but the first of a row or column
      sums_of_ones<P>(weights, sums);
      bounds.move(fabs(g[0]), edge);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        work nodes[P + 1][P + 1], largest = work(0);
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) nodes[0][l] = k[m][l];
#pragma unroll(UNROLLED)
        for (int a = 0; a < P; ++a) {
          nodes[a + 1][0] = edge[m][a];
#pragma unroll(UNROLLED)
          for (int l = 1; l <= P; ++l) {
            if (g[0] != work(0)) edge[m][SUMS + a] += g[0] * sums[a][l - 1];
            u[m][l] += edge[m][SUMS + a];
            at_u[a][l - 1][m] = u[m][l];
            nodes[a + 1][l] = at_k[a][l - 1][m] = part(m, at_u[a][l - 1], at_k[a][l - 1]);
            largest = larger(largest, work(fabs(nodes[a + 1][l])));
          }
          edge[m][a] = nodes[a + 1][P];
        }
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) k[m][l] = nodes[P][l];
        bounds.level(m, work(1), largest, edge);
        if (m < N - 1) sums_of_cell<P, true>(weights, nodes, sums);
      }
#pragma unroll
      for (int m = 0; m < N; ++m) watch.wrong |= GRID && !is_finite(corner(N, m, 0, false, purpose));
    }

    // k_n, n = m + 1, at the lower right corner of the latest cell; NaN where it has lost its digits
    __device__ __forceinline__ work corner(int N, int m, int, bool, int purpose) const {
      return judged(N, m, purpose, [&](int n) { return k[n][P]; }, [&](int n) { return error_of(n); });
    }
    // the bound of the error of k_n, n = m + 1
    __device__ __forceinline__ work error_of(int m) const {
      work total = m ? bounds.largest[m ? m - 1 : 0] : work(1);
#pragma unroll
      for (int j = 1; j <= m; ++j) {
        const work other = m - j ? bounds.largest[m - j ? m - j - 1 : 0] : work(1);
        total += work(j + 1) * bounds.largest[j - 1] * other;
      }
      return work(EPSILON) * bounds.moved * total / work(m + 1);
    }

    // u_n on the last row of nodes, (levels, columns * P + 1)
    __device__ __forceinline__ void keep(int N, work* last_row, int first, int C) const {
      if (first >= C) return;
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll(UNROLLED)
        for (int l = 1; l <= P; ++l) last_row[m * kept(C) + (long long)first * P + l] = u[m][l];
    }
  };

  struct Up {
    // on the first row of nodes of the cell below: u, w_n of the sub-cells and the contribution of that cell to kbar
    work u[ROOM][P + 1], w[ROOM][P], given[ROOM][P];

    __device__ __forceinline__ void start(int N, const work* last_row, int first, int C) {
#pragma unroll
      for (int m = 0; m < N; ++m) {
#pragma unroll(UNROLLED)
        for (int l = 0; l <= P; ++l) {
          const long long node = min((long long)first * P + l, (long long)C * P);
          u[m][l] = node ? last_row[m * kept(C) + node] : work(0);
        }
#pragma unroll(UNROLLED)
        for (int l = 0; l < P; ++l) w[m][l] = given[m][l] = work(0);
      }
    }

    // Cell r, `first`. On entry `edge` holds the values on its right edge, on return those on its left edge.
    template <typename Adjoint>
    __device__ __forceinline__ void row(const Adjoint& adjoint, int N, int r, int first, const work (&g)[1], const work* weights,
                                        work (&edge)[ROOM][UP], work (&gbar)[1]) {
      work at_u[P + 1][P + 1][ROOM], at_k[P + 1][P + 1][ROOM];
      recover(N, first, g[0], weights, edge, at_u, at_k);
      work kbar[P][P][ROOM], ubar[P][P][ROOM];  // of the nodes but the first of a row or column
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll(UNROLLED)
        for (int a = 0; a < P; ++a)
#pragma unroll(UNROLLED)
          for (int b = 0; b < P; ++b) {
            const bool corner = a == P - 1 && b == P - 1;
            kbar[a][b][m] = (b == P - 1 ? edge[m][2 * P + a + 1] : work(0)) + (a == P - 1 ? given[m][b] : work(0)) +
                            (corner ? adjoint.deriv(r, first, m + 1) : work(0));
            ubar[a][b][m] = work(0);
          }
#pragma unroll
      for (int m = N - 1; m >= 0; --m) {
        work cells[P][P];
#pragma unroll(UNROLLED)
        for (int a = 0; a < P; ++a)
#pragma unroll(UNROLLED)
          for (int b = 0; b < P; ++b) spread(m, at_u[a + 1][b + 1], at_k[a + 1][b + 1], ubar[a][b], kbar[a][b]);
#pragma unroll(UNROLLED)
        for (int b = P - 1; b >= 0; --b)
#pragma unroll(UNROLLED)
          for (int a = P - 1; a >= 0; --a) {
            edge[m][P + a] += ubar[a][b][m];
            w[m][b] += edge[m][P + a];
            cells[a][b] = w[m][b];
          }
        // Pass the contributions of this cell to the edge and to the row above; those of neighbouring cells have been used.
#pragma unroll(UNROLLED)
        for (int l = P; l >= 0; --l) {
          work U[P + 1];
          sums_adjoint<P>(weights, cells, l, U);
#pragma unroll(UNROLLED)
          for (int i = 0; i <= P; ++i) {
            if (m == 0) {  // k_0 = 1
              gbar[0] += U[i];
              continue;
            }
            const int n = m - (m > 0);
            gbar[0] += U[i] * at_k[i][l][n];
            const work share = g[0] * U[i];
            if (l == 0) {
              edge[n][2 * P + i] = share;
            } else if (i > 0) {
              kbar[i - (i > 0)][l - (l > 0)][n] += share;
            } else {
              given[n][l - (l > 0)] = share + (l == P ? edge[n][2 * P] : work(0));
            }
          }
        }
      }
    }

    // u and k at all nodes of the cell from u on its last row; column 0 of the grid holds zeros
    __device__ __forceinline__ void recover(int N, int first, work g, const work* weights, work (&edge)[ROOM][UP],
                                            work (&at_u)[P + 1][P + 1][ROOM], work (&at_k)[P + 1][P + 1][ROOM]) {
      work sums[P][P];
      sums_of_ones<P>(weights, sums);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        work nodes[P + 1][P + 1];
#pragma unroll(UNROLLED)
        for (int a = P; a >= 0; --a) {
          if (a < P) {
#pragma unroll(UNROLLED)
            for (int l = P; l >= 0; --l) {
              if (l > 0 || first > 0) u[m][l] -= edge[m][a];
              if (l > 0 && g != work(0)) edge[m][a] -= g * sums[a][l - (l > 0)];
            }
          }
#pragma unroll(UNROLLED)
          for (int l = 0; l <= P; ++l) {
            at_u[a][l][m] = u[m][l];
            nodes[a][l] = at_k[a][l][m] = part(m, at_u[a][l], at_k[a][l]);
          }
        }
        if (m < N - 1) sums_of_cell<P, true>(weights, nodes, sums);
      }
    }

    // The shares of the derivative of k_n, n = m + 1, in those of u_1..u_n and k_1..k_{n-1} at one node
    static __device__ __forceinline__ void spread(int m, const work (&u)[ROOM], const work (&k)[ROOM], work (&ubar)[ROOM],
                                                  work (&kbar)[ROOM]) {
      const work bar = kbar[m] / work(m + 1);
      ubar[m] += work(m + 1) * bar;
#pragma unroll
      for (int j = 1; j <= m; ++j) {
        ubar[j - 1] += work(j) * bar * k[m - j];
        kbar[m - j] += work(j) * bar * u[j - 1];
      }
    }
  };
};
