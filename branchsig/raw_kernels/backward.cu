// Gradients of many pairs in memory that grows with length1 + length2 alone. After the sweep down, which leaves the last row and
// what the last lane hands on at the end of every row, the rows are walked back, bottom to top and right to left. K is recovered
// from the row below, and its adjoint taken beside it, as the file of the rule says; the gradient is that of log K, and that of K
// is K times as large. Both run against the columns, so one wavefront serves: lane l is on its own row again, and the UP values
// of every level at the column right of the strip come from the lane above by shuffles. Every node gathers, nothing is scattered,
// so bits do not change between runs.
//
// GRID: derivs are given at every corner of the cells; w of the last level is then the sum of derivs K (derivs of log K: of derivs)
// below and to the right. PARTS: derivs are those of k_0 to k_DEPTH, at the end or at every corner.
//
// gbar goes to a band of the latest 64 rows. Whenever 32 more rows of it are complete, a warp multiplies them with the
// derivatives of the static kernel and adds them to the gradients of both paths.

// What is needed of a pair once in a while. It waits in shared memory, a copy for every warp, and not in registers.
template <typename real, typename work>
struct PairMemory {
  work *last_row;         // what the rule keeps of it
  work *band, *tile;      // of this warp: (SPAN, BAND) and (nodes of a warp, TILE)
  work *grad1, *grad2;    // (length1, dimension) and (warps of all passes, nodes of a warp, dimension); LINEAR: of the steps
  real *grad_increments;  // GIVEN
  work factors[2];        // of the gradients in the end, NaN where the value is not finite
};

template <typename real, int KERNEL, typename Rule>
struct Adjoint {
  typedef Sweep<real, KERNEL, Rule> Forward;
  typedef typename Rule::Work work;
  enum { ROOM = Rule::ROOM, COLUMNS = Rule::COLUMNS, UP = Rule::UP, SPAN = Forward::SPAN, BAND = 64, TILE = 33 };
  static constexpr bool DILATABLE = KERNEL != GIVEN && KERNEL != LINEAR;

  const Problem<real>& problem;
  const Team& team;
  Forward& sweep;
  const PairMemory<real, work>& memory;
  const real* derivs;  // GRID: (grid_rows, grid_columns), 0 behind the last valid node; PARTS: (..., depth + 1)
  bool wrt_log;
  work* edge;  // EVERY_ROW: what a warp hands on to the next; otherwise sweep.edge, which is used up, has that

  // points of the second path that the columns of a warp touch, at most
  __device__ int nodes() const { return (SPAN >> problem.order2) + 2; }

  // The derivative given for the corner below and to the right of cell (r, c); PARTS: that of k_part there
  __device__ __forceinline__ work deriv(int r, int c, int part = 0) const {
    if (c >= problem.columns()) return work(0);
    if (!Rule::GRID) return c == problem.columns() - 1 && r == problem.rows() - 1 ? work(derivs[part]) : work(0);
    return work(derivs[((r + 1) * problem.grid_columns() + c + 1) * (Rule::PARTS ? problem.depth + 1 : 1) + part]);
  }

  __device__ __forceinline__ work* edge_of(int row, int value) const {
    return (Rule::EVERY_ROW ? edge : sweep.edge) + ((long long)row * UP + value) * sweep.levels();
  }

  __device__ void up() {
    const int R = problem.rows(), C = problem.columns(), N = sweep.levels(), mask = (1 << problem.order1) - 1;
    const int steps = R + 31, phases = (steps + 31) / 32;
    for (int pass = sweep.passes() - 1; pass >= 0; --pass) {
      const int part = pass * team.warps + team.warp, start = part * SPAN, first = start + team.lane * COLUMNS;
      const bool last = start + SPAN >= C;
      if constexpr (Rule::EVERY_ROW)
        if (sweep.by_pass) sweep.down_again(pass, wrt_log);
      typename Rule::Up strip;
      work handed[ROOM][UP], g[COLUMNS], gbar[COLUMNS], factors = work(0);
      int complete = problem.length1 - 1;  // rows of cells from here on are in the band, and used up
      Increments<KERNEL, COLUMNS, real, work> increments(problem, sweep.x, sweep.y);
      increments.start(first, problem.length1 - 1, sweep.scale());
      if constexpr (Rule::EVERY_ROW) {
        strip.start(start < C ? sweep.nodes_of(pass) + (R - 1) * (long long)Rule::CELL : nullptr);
      } else {
        strip.start(N, memory.last_row, first, C);
      }
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int v = 0; v < UP; ++v) handed[m][v] = work(0);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) g[c] = gbar[c] = work(0);
      for (int phase = 0; phase < phases + 2 * (team.warps - 1); ++phase) {
        const int mine = phase - 2 * (team.warps - 1 - team.warp);
        const int end = mine < 0 || mine >= phases || start >= C ? 0 : min(steps, 32 * mine + 32);
        for (int s = 32 * mine; s < end; ++s) {
          const int r = R - 1 - s + 31 - team.lane;
#pragma unroll
          for (int m = 0; m < N; ++m)
#pragma unroll
            for (int v = 0; v < UP; ++v) handed[m][v] = __shfl_down_sync(ALL_LANES, handed[m][v], 1);
          if (r < 0 || r >= R) continue;
          if (team.lane == 31) {
#pragma unroll
            for (int m = 0; m < N; ++m)
#pragma unroll
              for (int v = 0; v < UP; ++v) {
                if (!last) {
                  handed[m][v] = edge_of(r, v)[m];
                } else if (v < Rule::RUNS) {  // the running products that the sweep down left come last among its values
                  handed[m][v] = sweep.edge_of(sweep.edge, r, Rule::DOWN - Rule::RUNS + v)[m];
                  if (!Rule::CAREFUL && !Rule::PARTS) handed[m][v] = work(1) / handed[m][v];
                } else {
                  handed[m][v] = work(0);
                }
              }
          }
          if ((r & mask) == mask) increments.of_row(r >> problem.order1, true, g);
          strip.row(*this, N, r, first, g, sweep.weights, handed, gbar);
          if (team.lane == 0 && start) {
#pragma unroll
            for (int m = 0; m < N; ++m)
#pragma unroll
              for (int v = 0; v < UP; ++v) edge_of(r, v)[m] = handed[m][v];
          }
          if ((r & mask) == 0) {
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) {
              if (DILATABLE && problem.dilated) factors += gbar[c] * g[c];
              memory.band[(team.lane * COLUMNS + c) * BAND + (r >> problem.order1) % BAND] =
                  gbar[c] * (DILATABLE ? increments.factor : sweep.scale());
              gbar[c] = work(0);
            }
          }
        }
        if (end > 0) {
          const int row_complete = max(0, R + 31 - end);  // every lane has done this row
          const int newly_complete = (row_complete + mask) >> problem.order1;
          use_band(part, newly_complete, complete);
          complete = newly_complete;
        }
        team.barrier();
      }
      if (DILATABLE && problem.dilated) {
#pragma unroll
        for (int distance = 16; distance; distance >>= 1) factors += __shfl_xor_sync(ALL_LANES, factors, distance);
        if (team.lane == 0 && start < C) of_factors(part) = factors;
        team.barrier();
      }
    }
  }

  // d(out) with respect to the logarithm of the factors of a dilated kernel, from the columns of a warp; it is in the channel of
  // the factors, which has no sums of its own
  __device__ work& of_factors(int part) const { return memory.grad2[((long long)part * nodes() + 1) * problem.dimension - 1]; }

  // the same from all columns, over one of the factors
  __device__ work of_factor(const real* path) const {
    work sum = work(0);
    for (int part = 0; part <= (problem.columns() - 1) / SPAN; ++part) sum += of_factors(part);
    return sum / work(path[problem.dimension - 1]);
  }

  // d(out)/d g(i, j), as far as the columns of this warp go
  __device__ work from_band(int part, int i, int j) const {
    const int start = part * SPAN, width = 1 << problem.order2;
    const int from = max(j * width, start), to = min((j + 1) * width, start + SPAN);
    work sum = work(0);
    for (int c = from; c < to; ++c) sum += memory.band[(c - start) * BAND + i % BAND];
    return sum;
  }

  // Uses the rows of cells complete..previous - 1 of the band.
  __device__ void use_band(int part, int complete, int previous) {
    const int start = part * SPAN, stop = min(start + SPAN, problem.columns());
    const int first_cell = start >> problem.order2, last_cell = (stop - 1) >> problem.order2;
    const int d = problem.dimension, coordinates = problem.coordinates(), cells = problem.length1 - 1;
    __syncwarp();
    if (KERNEL == GIVEN) {
      for (int i = complete + team.lane; i < previous; i += 32)
        for (int j = first_cell; j <= last_cell; ++j)
          memory.grad_increments[(long long)i * (problem.padded2 - 1) + j] += real(from_band(part, i, j));
      __syncwarp();
      return;
    }
    // Cells for the linear kernels. A point needs the cells on both sides of it, so it comes a row later.
    const int low = KERNEL == LINEAR || complete == 0 ? complete : complete + 1;
    const int high = KERNEL == LINEAR ? previous : previous + 1;
    const int count = last_cell - first_cell + (KERNEL == LINEAR ? 1 : 2);
    for (int i = low + team.lane; i < high; i += 32) {
      work above_left = work(0), below_left = work(0);
      for (int j = 0; j < count; ++j) {
        work weight;
        if (KERNEL == LINEAR) {
          weight = from_band(part, i, first_cell + j) * work(problem.parameter[0]);
        } else {
          const bool inside = first_cell + j <= last_cell;
          const work above = inside && i > 0 ? from_band(part, i - 1, first_cell + j) : work(0);
          const work below = inside && i < cells ? from_band(part, i, first_cell + j) : work(0);
          const real *xi = sweep.x + (long long)i * d, *yj = sweep.y + (long long)(first_cell + j) * d;
          const work b = argument_of<KERNEL>(xi, yj, 0, coordinates, work(0));
          weight = ((above_left - above) - (below_left - below)) * slope_of<KERNEL>(problem.parameter, b);
          above_left = above;
          below_left = below;
        }
        memory.tile[j * TILE + i - low] = weight;
      }
    }
    __syncwarp();
    // a lane for every row: what the points of the second path add to the gradient of the first
    for (int i = low + team.lane; i < high; i += 32) {
      for (int from = 0; from < coordinates; from += CHANNELS) {
        work sum[CHANNELS] = {};
        for (int j = 0; j < count; ++j) add(sum, from, memory.tile[j * TILE + i - low], sweep.x, i, sweep.y, first_cell + j);
#pragma unroll
        for (int channel = 0; channel < CHANNELS; ++channel)
          if (from + channel < coordinates) memory.grad1[(long long)i * d + from + channel] += sum[channel];
      }
    }
    // a lane for every column, and the other way round
    work* mine = memory.grad2 + (long long)part * nodes() * d;
    for (int j = team.lane; j < count; j += 32) {
      for (int from = 0; from < coordinates; from += CHANNELS) {
        work sum[CHANNELS] = {};
        for (int i = high - 1; i >= low; --i) add(sum, from, memory.tile[j * TILE + i - low], sweep.y, first_cell + j, sweep.x, i);
#pragma unroll
        for (int channel = 0; channel < CHANNELS; ++channel)
          if (from + channel < coordinates) mine[(long long)j * d + from + channel] += sum[channel];
      }
    }
    __syncwarp();
  }

  // sum += weight d kappa(p_i, q_j) / d p_i, but for the slope, for the channels from..from + CHANNELS - 1
  __device__ __forceinline__ void add(work (&sum)[CHANNELS], int from, work weight, const real* p, int i, const real* q,
                                      int j) const {
    const int d = problem.dimension, coordinates = problem.coordinates();
    const real *pi = p + (long long)i * d, *qj = q + (long long)j * d;
#pragma unroll
    for (int channel = 0; channel < CHANNELS; ++channel) {
      const int n = from + channel;
      if (n >= coordinates) continue;
      if (KERNEL == LINEAR) {
        sum[channel] += weight * (work(qj[n + d]) - work(qj[n]));
      } else if (KERNEL == POLYNOMIAL) {
        sum[channel] += weight * work(qj[n]);
      } else {
        sum[channel] += weight * (work(pi[n]) - work(qj[n]));
      }
    }
  }

  // the sum over all warps of grad2 for point (LINEAR: step) j
  __device__ work second(int j, int channel) const {
    const int C = problem.columns(), parts = (C - 1) / SPAN + 1;
    // the cells left and right of the point, or the cell itself
    const int left = (KERNEL == LINEAR ? j : max(j - 1, 0)) << problem.order2;
    const int right = min(((j + 1) << problem.order2) - 1, C - 1);
    work sum = work(0);
    for (int part = left / SPAN; part < parts && part <= right / SPAN; ++part) {
      const int slot = j - ((part * SPAN) >> problem.order2);
      sum += memory.grad2[((long long)part * nodes() + slot) * problem.dimension + channel];
    }
    return sum;
  }

  // Sets the sums to 0.
  __device__ void clear() {
    const int C = problem.columns(), d = problem.dimension;
    if (KERNEL == GIVEN) {
      const long long size = (long long)(problem.padded1 - 1) * (problem.padded2 - 1);
      for (long long e = team.thread(); e < size; e += team.threads()) memory.grad_increments[e] = real(0);
    } else {
      const long long size1 = (long long)problem.length1 * d, size2 = (long long)((C - 1) / SPAN + 1) * nodes() * d;
      for (long long e = team.thread(); e < size1; e += team.threads()) memory.grad1[e] = work(0);
      for (long long e = team.thread(); e < size2; e += team.threads()) memory.grad2[e] = work(0);
    }
    team.barrier();
  }

  // Writes zeros behind the valid points of padded paths.
  __device__ void clear_padding(real* out1, real* out2) const {
    const long long d = problem.dimension;
    if (out1)
      for (long long e = problem.length1 * d + team.thread(); e < problem.padded1 * d; e += team.threads()) out1[e] = real(0);
    if (out2)
      for (long long e = problem.length2 * d + team.thread(); e < problem.padded2 * d; e += team.threads()) out2[e] = real(0);
  }

  // Writes the gradients times their factors; returns whether one of them is not finite.
  __device__ bool finish(real* out1, real* out2, work factor1, work factor2) const {
    const int d = problem.dimension;
    bool strayed = false;
    if (KERNEL == GIVEN) {
      const long long width = problem.padded2 - 1, size = (problem.length1 - 1) * width;
      for (long long e = team.thread(); e < size; e += team.threads()) {
        if (e % width >= problem.length2 - 1) continue;
        memory.grad_increments[e] = real(work(memory.grad_increments[e]) * factor1);
        strayed |= !is_finite(memory.grad_increments[e]);
      }
      return strayed;
    }
    if (out1)
      for (long long e = team.thread(); e < (long long)problem.length1 * d; e += team.threads()) {
        work value = memory.grad1[e];
        if (KERNEL == LINEAR)  // grad1 is that of the steps, and 0 behind the last one
          value = (e >= d ? memory.grad1[e - d] : work(0)) - value;
        if (DILATABLE && problem.dilated && e == d - 1) value = of_factor(sweep.x);
        out1[e] = real(value * factor1);
        strayed |= !is_finite(out1[e]);
      }
    if (out2)
      for (long long e = team.thread(); e < (long long)problem.length2 * d; e += team.threads()) {
        const int j = int(e / d), channel = int(e % d);
        work value;
        if (KERNEL == LINEAR) {
          value = (j > 0 ? second(j - 1, channel) : work(0)) - (j < problem.length2 - 1 ? second(j, channel) : work(0));
        } else if (DILATABLE && problem.dilated && channel == d - 1) {
          value = j ? work(0) : of_factor(sweep.y);
        } else {
          value = second(j, channel);
        }
        out2[e] = real(value * factor2);
        strayed |= !is_finite(out2[e]);
      }
    return strayed;
  }
};

// `derivs` are those of all pairs of the problem; everything else that is written belongs to the pairs of this call.
template <typename real, int KERNEL, typename Rule, bool PADDED>
__global__ void __launch_bounds__(32 * LONGEST_TEAM, 1)
    backward(const real* path1, const real* path2, const real* increments, const int* lengths1, const int* lengths2, int fewest,
             int most, int length1, int length2, int dimension, int order1, int order2, int depth, int dilated,
             double parameter0, double parameter1, double parameter2, int pairing, long long n2, long long first_pair,
             long long pairs, int warps, const RuleWeights<Rule> weights,
             typename Rule::Work* workspace, long long workspace_size, int* flags, const real* derivs, int wrt_log,
             real* grad1, real* grad2, real* grad_increments, int by_pass) {
  typedef typename Rule::Work work;
  typedef Sweep<real, KERNEL, Rule> Forward;
  typedef Adjoint<real, KERNEL, Rule> Backward;
  constexpr bool GRID = Rule::GRID, CAREFUL = Rule::CAREFUL, PARTS = Rule::PARTS;
  __shared__ work scratch[LONGEST_TEAM];
  __shared__ PairMemory<real, work> memory[LONGEST_TEAM];
  Problem<real> problem = {length1, length2, dimension, length1,
                           length2, order1,  order2,    depth,   dilated, {parameter0, parameter1, parameter2}};
  const Team team(warps);
  const int teams = blockDim.x / (32 * warps), slot = blockIdx.x * teams + threadIdx.x / (32 * warps);
  const long long cells = (long long)(length1 - 1) * (length2 - 1);
  for (long long k = slot; k < pairs; k += gridDim.x * teams) {
    if (CAREFUL && !flags[k]) continue;
    const Pair pair(pairing, first_pair + k, n2);
    if (PADDED) {
      if (lengths1) problem.length1 = lengths1[pair.first];
      if (lengths2) problem.length2 = lengths2[pair.second];
      if (problem.columns() <= fewest || problem.columns() > most) continue;
    }
    const int R = problem.rows(), C = problem.columns();
    Forward sweep = {problem,
                     team,
                     weights.value,
                     KERNEL == GIVEN ? increments + k * cells : path1 + pair.first * length1 * dimension,
                     KERNEL == GIVEN ? increments : path2 + pair.second * length2 * dimension,
                     workspace + slot * workspace_size,
                     Rule::EVERY_ROW ? int(Rule::DOWN) : int(Rule::UP)};
    const int N = sweep.levels();
    const long long given = (GRID ? problem.grid_rows() * problem.grid_columns() : 1) * (PARTS ? depth + 1 : 1);
    PairMemory<real, work>& mine = memory[threadIdx.x / 32];
    Backward adjoint = {problem, team, sweep, mine, derivs + (first_pair + k) * given, bool(wrt_log)};
    work* next = sweep.edge;
    long long kept_size;
    if constexpr (Rule::EVERY_ROW) {
      sweep.by_pass = by_pass;
      next += (long long)(by_pass ? Forward::edges_of(sweep.passes()) : 1) * R * Rule::DOWN;
      adjoint.edge = next;
      next += (long long)R * Rule::UP;
      sweep.nodes = next;
      kept_size = (by_pass ? warps : (C + 31) / 32) * Rule::kept(R);
    } else {
      next += (long long)R * Rule::UP * N;
      kept_size = N * Rule::kept(C);
    }
    if (team.lane == 0) {
      const long long band = Backward::SPAN * Backward::BAND, tile = adjoint.nodes() * Backward::TILE;
      mine.last_row = next;
      mine.band = next + kept_size + team.warp * band;
      mine.tile = next + kept_size + warps * band + team.warp * tile;
      mine.grad1 = next + kept_size + warps * (band + tile);
      mine.grad2 = mine.grad1 + (long long)problem.length1 * dimension;
      mine.grad_increments = KERNEL == GIVEN ? grad_increments + k * cells : nullptr;
    }
    __syncwarp();

    bool strayed;
    work* kept = Rule::EVERY_ROW && by_pass ? nullptr : mine.last_row;
    const work log_k = team.sum(sweep.down(kept, nullptr, LAST_LEVEL, wrt_log, strayed), scratch);
    strayed = team.any(strayed);
    bool finite = GRID || PARTS ? !strayed : is_finite(real(log_k));
    if (!GRID && !PARTS && !wrt_log) finite = finite && is_finite(real(exp(log_k)));
    if (CAREFUL || PARTS || !strayed) {
      work(&factor)[2] = mine.factors;
      if (team.lane == 0) {
        factor[0] = factor[1] = !finite ? work(0) / work(0) : GRID || PARTS || wrt_log ? work(1) : exp(log_k);
        if (!GRID && !PARTS) {
          factor[0] *= work(derivs[pairing == SYMMETRIC ? pair.first * n2 + pair.second : first_pair + k]);
          factor[1] *= pairing != SYMMETRIC        ? work(derivs[first_pair + k])
                       : pair.first == pair.second ? work(0)
                                                   : work(derivs[pair.second * n2 + pair.first]);
        }
      }
      adjoint.clear();
      if (!PADDED || (R && C)) adjoint.up();  // a path of one point moves nothing
      real* out1 = grad1 ? grad1 + k * length1 * dimension : nullptr;
      real* out2 = grad2 ? grad2 + k * length2 * dimension : nullptr;
      strayed = team.any(adjoint.finish(out1, out2, factor[0], factor[1]));
      if (PADDED) adjoint.clear_padding(out1, out2);
    }
    if (!CAREFUL && team.thread() == 0) flags[k] = strayed;
    team.barrier();
  }
}

// total[p] += the sum of the gradients of all pairs of a call in which path p stands at the first place (or, with `second`, at the
// second), in the order of the pairs. A symmetric problem leaves the second place of its diagonal out.
template <typename real>
__global__ void __launch_bounds__(256) sum_over_partners(const real* gradients, real* total, int pairing, int second, long long n1,
                                                         long long n2, long long first_pair, long long pairs, long long size) {
  const long long count = (second ? n2 : n1) * size, stop = first_pair + pairs;
  for (long long e = blockIdx.x * (long long)blockDim.x + threadIdx.x; e < count; e += (long long)gridDim.x * blockDim.x) {
    const long long p = e / size, element = e % size;
    double sum = 0.0;
    if (!second) {
      const long long from = pairing == GRAM ? p * n2 : p * (p + 1) / 2, to = from + (pairing == GRAM ? n2 : p + 1);
      for (long long k = max(from, first_pair); k < min(to, stop); ++k) sum += double(gradients[(k - first_pair) * size + element]);
    } else {
      const Pair start(pairing, first_pair, n2);
      for (long long i = pairing == GRAM ? start.first : max(start.first, p + 1); i < n1; ++i) {
        const long long k = (pairing == GRAM ? i * n2 : i * (i + 1) / 2) + p;
        if (k >= stop) break;
        if (k >= first_pair) sum += double(gradients[(k - first_pair) * size + element]);
      }
    }
    total[e] += real(sum);
  }
}
