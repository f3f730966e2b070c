// The forward sweep of one pair. With R x C cells of the refined grid and increments g of the static kernel,
//
//   cell(r, c)   = g s(r, c) / 4,   s(r, c) = K_{m-1}(r-1,c-1) + K_{m-1}(r-1,c) + K_{m-1}(r,c-1) + K_{m-1}(r,c)
//   K_m(r, c)    = K_m(r-1, c) E(c),   E(c) = E(c-1) exp(cell),   E(0) = 1
//   log K_M(R,C) = the sum of all cells of level M
//
// A team of warps owns a pair, a lane a strip of COLUMNS columns. In step s lane l is on row s - l: the edge of its left
// neighbour, K_m and E at the column before the strip, is one step old and comes by a shuffle. All levels advance together. K on
// the latest row stays in registers. More columns than a team has are done in passes from left to right: the last lane of a warp
// leaves its edge in memory, one value of K and E for each row and level, and the first lane of the next warp picks it up. The
// warps of a team are two phases of 32 steps apart, with a barrier after each phase.
//
// CAREFUL: the same with one exp per node, log K(r, c) = log K(r-1, c) + sum of the cells of the row up to c, in the order of the
// reference. It serves the pairs whose running products leave their range; a cell without an increment contributes nothing,
// also where K is infinite.
//
// DEPTH 0 stands for a depth that is known at run time; its arrays are indexed in local memory.

enum { PAIRED, GRAM, SYMMETRIC };
enum { MOST_LEVELS = 16, LONGEST_TEAM = 8 };
constexpr unsigned ALL_LANES = 0xffffffffu;

// The two paths of pair k, and where its result stands: row by row for a Gram, the lower triangle row by row for a symmetric one.
struct Pair {
  long long first, second;

  __device__ Pair(int pairing, long long k, long long n2) {
    if (pairing == PAIRED) {
      first = second = k;
    } else if (pairing == GRAM) {
      first = k / n2;
      second = k % n2;
    } else {
      first = (long long)((sqrt(8.0 * double(k) + 1.0) - 1.0) * 0.5);
      while (first * (first + 1) / 2 > k) --first;  // the root may be off by one unit
      while ((first + 1) * (first + 2) / 2 <= k) ++first;
      second = k - first * (first + 1) / 2;
    }
  }
};

// The warps that work on one pair.
struct Team {
  int lane, warp, warps;

  __device__ explicit Team(int warps) : lane(threadIdx.x & 31), warp((threadIdx.x >> 5) % warps), warps(warps) {}
  __device__ int thread() const { return warp * 32 + lane; }
  __device__ int threads() const { return warps * 32; }
  __device__ void barrier() const {
    if (warps > 1) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  }
  // Sums over the team, in a fixed order, known to all its threads. `scratch` holds a value for every warp.
  template <typename work>
  __device__ work sum(work value, work* scratch) const {
#pragma unroll
    for (int distance = 16; distance; distance >>= 1) value += __shfl_xor_sync(ALL_LANES, value, distance);
    if (warps == 1) return value;
    __syncthreads();
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    value = scratch[0];
    for (int w = 1; w < warps; ++w) value += scratch[w];
    return value;
  }
  __device__ bool any(bool value) const {
    if (warps > 1) return __syncthreads_or(value);
    return __any_sync(ALL_LANES, value);
  }
};

template <typename real, typename work, int KERNEL, int DEPTH, int COLUMNS, bool GRID, bool CAREFUL>
struct Sweep {
  enum { LEVELS = GRID ? DEPTH : DEPTH - 1, ROOM = DEPTH == 0 ? MOST_LEVELS : LEVELS > 0 ? LEVELS : 1 };
  enum { SPAN = 32 * COLUMNS };  // columns of a warp
  static constexpr int LOG = CAREFUL ? ROOM : 1;

  const Problem<real>& problem;
  const Team& team;
  const real *x, *y;  // the paths of the pair; GIVEN: x is its increments
  work* edge;         // (rows, edge_values, levels)
  int edge_values;

  // levels whose K is needed: the last one is only integrated, unless its grid is asked for
  __device__ int levels() const { return DEPTH ? int(LEVELS) : GRID ? problem.depth : problem.depth - 1; }
  __device__ work* edge_of(int row, int value) const {
    return edge + ((long long)row * edge_values + value) * levels();
  }
  // what increments are multiplied by: a quarter for the mean of four corners, and the number of sub-cells to a cell
  __device__ work scale() const { return work(0.25) / (work(1 << problem.order1) * work(1 << problem.order2)); }

  // Sweeps down all rows. Returns log K_DEPTH at the end, or what this thread adds to it. `strayed`: a K left the range of the
  // running products (CAREFUL: a value asked for is not finite). `last_row`, if any: K (CAREFUL: log K) of every level on the
  // last row, (levels, columns + 1). `grid`, if any: K of the last level, or of all levels from 0 on, at every node.
  __device__ work down(work* last_row, real* grid, bool all_levels, bool wrt_log, bool& strayed) {
    const int R = problem.rows(), C = problem.columns(), N = levels(), mask = (1 << problem.order1) - 1;
    const int steps = R + 31, phases = (steps + 31) / 32;
    work total = work(0);
    strayed = false;
    for (int pass = 0; pass * team.warps * SPAN < C; ++pass) {
      const int start = (pass * team.warps + team.warp) * SPAN, first = start + team.lane * COLUMNS;
      work k[ROOM][COLUMNS], logs[LOG][COLUMNS], above[ROOM], edge_k[ROOM], edge_run[ROOM], g[COLUMNS];
      Increments<KERNEL, COLUMNS, real, work> increments(problem, x, y);
      increments.start(first, 0, scale());
#pragma unroll
      for (int m = 0; m < N; ++m) {
        above[m] = edge_k[m] = work(1);
        edge_run[m] = work(CAREFUL ? 0 : 1);
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) {
          k[m][c] = work(1);
          if (CAREFUL) logs[m][c] = work(0);
        }
      }
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) g[c] = work(0);
      for (int phase = 0; phase < phases + 2 * (team.warps - 1); ++phase) {
        const int mine = phase - 2 * team.warp;
        const int end = mine < 0 || mine >= phases || start >= C ? 0 : min(steps, 32 * mine + 32);
        for (int s = 32 * mine; s < end; ++s) {
          const int r = s - team.lane;
          work left[ROOM], run[ROOM];
#pragma unroll
          for (int m = 0; m < N; ++m) {
            left[m] = __shfl_up_sync(ALL_LANES, edge_k[m], 1);
            run[m] = __shfl_up_sync(ALL_LANES, edge_run[m], 1);
          }
          if (r < 0 || r >= R) continue;
          if (team.lane == 0) {
#pragma unroll
            for (int m = 0; m < N; ++m) {
              left[m] = start ? edge_of(r, 0)[m] : work(1);
              run[m] = start ? edge_of(r, 1)[m] : work(CAREFUL ? 0 : 1);
            }
          }
          if ((r & mask) == 0) increments.of_row(r >> problem.order1, false, g);
          // K_m(r-1, c) + K_m(r, c) at the column left of the next one
          work both_left[ROOM];
#pragma unroll
          for (int m = 0; m < N; ++m) {
            both_left[m] = above[m] + left[m];
            above[m] = left[m];
          }
#pragma unroll
          for (int c = 0; c < COLUMNS; ++c) {
            work corners = work(4);
#pragma unroll
            for (int m = 0; m < N; ++m) {
              work now;
              if (CAREFUL) {
                run[m] += g[c] == work(0) ? work(0) : g[c] * corners;
                logs[m][c] += run[m];
                now = exp(logs[m][c]);
                if (GRID && m == N - 1) strayed |= !(wrt_log ? is_finite(logs[m][c]) : is_finite(real(now)));
              } else {
                run[m] *= cell_exp(g[c] * corners);
                now = k[m][c] * run[m];
                strayed |= leaves_range(now);
              }
              const work both = k[m][c] + now;
              k[m][c] = now;
              corners = both_left[m] + both;
              both_left[m] = both;
            }
            if (!GRID) total += CAREFUL && g[c] == work(0) ? work(0) : g[c] * corners;
          }
#pragma unroll
          for (int m = 0; m < N; ++m) {
            edge_k[m] = k[m][COLUMNS - 1];
            edge_run[m] = run[m];
          }
          if (team.lane == 31 && (last_row || start + SPAN < C)) {
#pragma unroll
            for (int m = 0; m < N; ++m) {
              edge_of(r, 0)[m] = edge_k[m];
              edge_of(r, 1)[m] = edge_run[m];
            }
          }
          if (GRID && grid) store(grid, all_levels, r, first, k);
        }
        team.barrier();
      }
      if (last_row) {
#pragma unroll
        for (int m = 0; m < N; ++m)
#pragma unroll
          for (int c = 0; c < COLUMNS; ++c)
            if (first + c < C) last_row[(long long)m * (C + 1) + first + c + 1] = CAREFUL ? logs[m][c] : k[m][c];
      }
    }
    return total;
  }

  // Stores row r + 1 of the grid, and the nodes of row and column 0 that lie next to it.
  __device__ void store(real* grid, bool all_levels, int r, int first, const work (&k)[ROOM][COLUMNS]) const {
    const int C = problem.columns(), N = levels();
    const long long width = problem.grid_columns(), size = problem.grid_rows() * width;
#pragma unroll
    for (int m = -1; m < N; ++m) {
      if (!all_levels && m != N - 1) continue;
      real *level = grid + (all_levels ? m + 1 : 0) * size, *row = level + (r + 1) * width;
      if (first == 0) {
        row[0] = real(1);
        if (r == 0) level[0] = real(1);
      }
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        if (first + c >= C) continue;
        row[first + c + 1] = m < 0 ? real(1) : real(k[m < 0 ? 0 : m][c]);
        if (r == 0) level[first + c + 1] = real(1);
      }
    }
  }

  // Where a path is padded its grids are constant behind the last valid node, and 1 for a path of one point.
  __device__ void extend(real* grid, int grids) const {
    const int R = problem.rows(), C = problem.columns();
    const long long width = problem.grid_columns(), size = problem.grid_rows() * width;
    const bool still = R == 0 || C == 0;
    team.barrier();  // what other lanes have stored is read; a vote orders no memory
    for (long long e = team.thread(); e < grids * size; e += team.threads()) {
      const long long node = e % size, r = node / width, c = node % width;
      if (still) {
        grid[e] = real(1);
      } else if (r > R || c > C) {
        grid[e] = grid[e - node + (r < R ? r : R) * width + (c < C ? c : C)];
      }
    }
  }
};
