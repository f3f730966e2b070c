// Gradients of many pairs, in memory that grows with length1 + length2. The forward sweep stores the last row, and the values of the
// last lane at the end of every row. Then the rows are swept backward, bottom to top and right to left. K is recovered from the row
// below, together with its adjoint, by the formulas of the rule; the gradient is that of log K, and that of K is K times as large.
// Both sweeps run against the columns, so one wavefront serves both: lane l has its own row again, and the UP values of every level
// at the column right of the strip come from the next lane by shuffles. Every node gathers and nothing is scattered, so repeated runs
// agree bit for bit.
//
// GRID: derivs are given at every corner of the cells; w of the last level is then the sum of derivs K (derivs of log K: of derivs)
// below and to the right. PARTS: derivs are those of k_0 to k_DEPTH, at the end or at every corner.
//
// Row by row, gbar is passed on to the gradients of both paths; see gradients.cuh.

// Data of a pair that is needed occasionally. It is kept in shared memory instead of registers.
template <int CHANNELS, typename real, typename work>
struct PairMemory {
  long long turn;  // see Turns
  work* edge;  // the edge of the backward sweep; unless EVERY_ROW it overwrites the edge of the forward sweep
  real *out1, *out2;   // destinations of the gradients, or null
  const real* derivs;  // GRID: (grid_rows, grid_columns), 0 beyond the last valid node; PARTS: (..., depth + 1)
  work* last_row;  // the values of the last row that the rule keeps
  GradientMemory<CHANNELS, real, work> gradients;
  work factors[2];  // factors of the final gradients, NaN if the value is not finite
  int* flag;
};

template <typename real, int KERNEL, int CHANNELS, bool MORE, typename Rule, bool PARAMETERS>
struct Adjoint {
  typedef Sweep<real, KERNEL, CHANNELS, MORE, Rule> Forward;
  typedef typename Rule::Work work;
  typedef typename Forward::IncrementsOfStrip IncrementsOfStrip;
  typedef Gradients<KERNEL, Rule::COLUMNS, MORE, PARAMETERS, IncrementsOfStrip, real, work> GradientsOfStrip;
  // STRIDE: number of values of a row of the edge; the forward sweep uses the last of them
  enum { ROOM = Rule::ROOM, COLUMNS = Rule::COLUMNS, UP = Rule::UP };
  enum { STRIDE = Rule::EVERY_ROW || int(Rule::UP) > int(Rule::DOWN) ? int(Rule::UP) : int(Rule::DOWN) };
  // The state of a lane fills its registers, although it keeps nothing that can be recomputed.
  static constexpr bool FULL = sizeof(work) == 8 && COLUMNS > 1 && (CHANNELS > 4 || KERNEL != LINEAR);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  enum { STEPS_AT_A_TIME = Rule::LAG && !FULL ? 2 : 1 };
#else
  enum { STEPS_AT_A_TIME = Rule::LAG ? 2 : 1 };
#endif

  const Problem<real, MORE>& problem;
  const Team& team;
  Forward& sweep;
  Relay<work>& relay;
  PairMemory<CHANNELS, real, work>& memory;
  RowSums<CHANNELS, work>& row_sums;
  bool wrt_log;
  int purpose;

  // The derivative given for the corner below and to the right of cell (r, c); PARTS: that of k_part there
  __device__ __forceinline__ work deriv(int r, int c, int part = 0) const {
    if (c >= problem.columns()) return work(0);
    if (!Rule::GRID) return c == problem.columns() - 1 && r == problem.rows() - 1 ? work(memory.derivs[part]) : work(0);
    return work(memory.derivs[((r + 1) * problem.grid_columns() + c + 1) * (Rule::PARTS ? problem.depth + 1 : 1) + part]);
  }

  __device__ __forceinline__ work* edge_of(int row, int value) const {
    return memory.edge + ((long long)row * STRIDE + value) * sweep.levels();
  }

  // Converts the values that the forward sweep left at its right end, the running products last, to those that a right neighbour
  // would pass on. In the backward sweep row r + lag of the edge holds the values passed on with the increments of row r.
  __device__ void start_edge() const {
    const int R = problem.rows(), N = sweep.levels(), rows = sweep.edge_rows();
    for (int row = team.thread(); row < rows; row += team.threads()) {
      work left_there[ROOM][Rule::RUNS ? int(Rule::RUNS) : 1];
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int v = 0; v < Rule::RUNS; ++v) {
          const int i = row - Rule::LAG * (N - m), before = i + Rule::LAG * (m + 1);  // i: the row that level m is on
          const bool inside = !Rule::LAG || (i >= 0 && i < R);
          left_there[m][v] = inside ? sweep.edge_of(sweep.edge, before, Rule::DOWN - Rule::RUNS + v)[m] : Rule::at_left_end(v);
        }
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int v = 0; v < Rule::RUNS; ++v) edge_of(row, v)[m] = Rule::at_right_end(left_there[m][v]);
    }
    team.barrier();
    for (int row = team.thread(); row < rows; row += team.threads())
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int v = Rule::RUNS; v < UP; ++v) edge_of(row, v)[m] = work(0);
    team.barrier();
  }

  // Flags the pair for the CAREFUL kernel.
  __device__ void redo() const { *memory.flag = 1; }

  // Relayed: tells the stages of the backward sweep whether it is needed, and the factors of the gradients. Call after a barrier.
  __device__ void announce(bool goes_up) const {
    if (team.thread() == 0) {
      work* told = relay.messages + relay.MESSAGE * relay.stage;
      told[1] = work(goes_up);
      for (int i = 0; i < 2; ++i) told[2 + i] = memory.factors[i];
    }
    relay.tell(team, relay.ALL_DONE);
  }
  __device__ bool announced() const {
    const work* told = relay.messages + relay.MESSAGE * (relay.passes - 1);
    if (team.lane == 0)
      for (int i = 0; i < 2; ++i) memory.factors[i] = told[2 + i];
    __syncwarp();
    return told[1] != work(0);
  }
  // Relayed: waits until the stages before have added all their contributions to the gradients. Returns false if there are further
  // stages.
  __device__ bool complete() const {
    if (!relay.progress) return true;
    if (relay.stage > relay.passes) relay.await(relay.stage - 1, relay.ALL_DONE);
    if (relay.stage == 2 * relay.passes - 1) return true;
    relay.tell(team, relay.ALL_DONE);
    return false;
  }

  __device__ void up() {
    const int R = problem.rows(), C = problem.columns(), N = sweep.levels(), mask = (1 << problem.order1) - 1;
    const int last = team.lanes - 1, lag = sweep.lag(), beyond = GradientsOfStrip::OF_POINTS ? mask + 1 : 0;
    const int steps = sweep.edge_rows() + beyond + last, phases = (steps + PHASE - 1) / PHASE;
    const int from = (relay.progress ? 2 * sweep.passes() - relay.stage : sweep.passes()) - 1, width = team.warps * sweep.span();
    int start = (from * team.warps + team.warp) * sweep.span();  // first column of this warp
    for (; start >= 0; start = relay.progress ? -1 : start - width) {
      const int first = start + team.lane * COLUMNS;
      if constexpr (Rule::EVERY_ROW)
        if (sweep.by_pass) sweep.down_again(start / width, purpose);
      typename Rule::Up strip;
      work handed[ROOM][UP], g[COLUMNS], gbar[COLUMNS], factors = work(0);
      IncrementsOfStrip increments(problem, sweep.paths);
      increments.start(first, (Rule::LAG ? R - 1 + last - team.lane : R - 1) >> problem.order1, true, sweep.scale());
      GradientsOfStrip gradients(problem, team, memory.gradients, increments, row_sums);
      gradients.start();
      if constexpr (Rule::EVERY_ROW) {
        strip.start(N, start < C ? sweep.nodes_of(start / width) + (R - 1) * sweep.kept_of_step() : nullptr);
      } else {
        strip.start(N - Rule::TOP, memory.last_row, first, C);
      }
#pragma unroll
      for (int m = 0; m < N; ++m)
#pragma unroll
        for (int v = 0; v < UP; ++v) handed[m][v] = v < Rule::RUNS && Rule::LAG ? Rule::at_left_end(v) : work(0);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) g[c] = gbar[c] = work(0);
      for (int phase = 0; phase < phases + APART * (team.warps - 1); ++phase) {
        const int mine = phase - APART * (team.warps - 1 - team.warp);
        const int end = mine < 0 || mine >= phases || start >= C ? 0 : min(steps, PHASE * mine + PHASE);
        if (end && team.warp == team.warps - 1) relay.follow(team, min(mine + APART, phases));
        if (Rule::LAG && end)
          sweep.staged.template bring<ROOM * UP>(edge_of(0, 0), STRIDE * N, UP * N, R + lag - PHASE * (mine + 1), R + lag, team.lane,
                                                 team.lanes);
#pragma unroll(STEPS_AT_A_TIME)
        for (int s = PHASE * max(mine, 0); s < end; ++s) {
          const int r = R - 1 - s + last - team.lane, done = r + lag;  // done: the row of the adjoint
          const bool inside = r >= 0 && r < R;
          if constexpr (Rule::LAG) strip.hand_on(N, handed);
#pragma unroll
          for (int m = 0; m < N; ++m)
#pragma unroll
            for (int v = 0; v < UP; ++v) {
              handed[m][v] = __shfl_down_sync(ALL_LANES, handed[m][v], 1);
              if (Rule::LAG && team.lane == last) handed[m][v] = sweep.staged.value[done & (PHASE - 1)][v * N + m];
            }
          if (!Rule::LAG && inside && team.lane == last) {
            const work* row = edge_of(r, 0);
#pragma unroll
            for (int m = 0; m < N; ++m)
#pragma unroll
              for (int v = 0; v < UP; ++v) handed[m][v] = row[v * N + m];
          }
          if (Rule::LAG || inside) {
            increments.of_row(r >> problem.order1, true, (r & mask) == 0, g);
            strip.row(*this, N - Rule::TOP, done, first, g, sweep.weights, handed, gbar);
          }
          if (team.lane == 0 && start && done >= 0 && done < R + lag) {
            work* row = edge_of(done, 0);
#pragma unroll
            for (int m = 0; m < N; ++m)
#pragma unroll
              for (int v = 0; v < UP; ++v) row[v * N + m] = handed[m][v];
          }
          __syncwarp();  // wait until the right neighbour has added to the sums of this row
          if ((done & mask) == 0) {
            if (done >= -beyond && done < R) {
#pragma unroll
              for (int c = 0; c < COLUMNS; ++c) {
                if (done < 0) gbar[c] = work(0);
                if (GradientsOfStrip::OF_POINTS && problem.dilated) factors += gbar[c] * g[c];
                if (PARAMETERS && (KERNEL == LINEAR || KERNEL == POLYNOMIAL))
                  gradients.of_parameter[KERNEL == POLYNOMIAL] += gbar[c] * g[c];
                if (KERNEL != LINEAR) gbar[c] *= increments.factor;
              }
              gradients.take(done >> problem.order1, gbar);
            }
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) gbar[c] = work(0);
          }
        }
        if (end > 0) {
          // The coarse row from which on all lanes have completed their steps.
          const auto complete = [&](int steps) {
            return (min(R, max(-beyond, R + lag + last - steps)) + mask) >> problem.order1;
          };
          gradients.pass_on(complete(end), complete(PHASE * mine), start + sweep.span() >= C);
        }
        team.barrier();
        relay.tell(team, phase + 1 - APART * (team.warps - 1));
      }
      if (start < C) gradients.finish_strip();
      if (GradientsOfStrip::OF_POINTS && problem.dilated) {
        for (int distance = team.lanes / 2; distance; distance >>= 1) factors += __shfl_xor_sync(ALL_LANES, factors, distance);
        if (team.lane == 0 && start < C) memory.gradients.factors[start / sweep.span()] = factors;
      }
    }
    team.barrier();
  }
};

// `derivs` covers all pairs of the problem; all other arrays belong to the pairs of this call.
template <typename real, int KERNEL, int CHANNELS, bool MORE, typename Rule, bool PADDED, bool PARAMETERS>
__global__ void __launch_bounds__(32 * LONGEST_TEAM, 1)
    backward(const real* path1, const real* path2, const real* increments, const int* lengths1, const int* lengths2,
             const Task<Rule> task, typename Rule::Work* workspace, int* progress, int* flags, const real* derivs, real* grad1,
             real* grad2, real* grad_increments, real* grad_parameters) {
  typedef typename Rule::Work work;
  typedef Sweep<real, KERNEL, CHANNELS, MORE, Rule> Forward;
  typedef Adjoint<real, KERNEL, CHANNELS, MORE, Rule, PARAMETERS> Backward;
  constexpr bool GRID = Rule::GRID, CAREFUL = Rule::CAREFUL, PARTS = Rule::PARTS;
  __shared__ work scratch[LONGEST_TEAM];
  __shared__ PairMemory<CHANNELS, real, work> memory[LONGEST_TEAM];
  __shared__ RowSums<CHANNELS, work> row_sums[LONGEST_TEAM];
  __shared__ typename Forward::StagedRows staged[LONGEST_TEAM];
  __shared__ Relay<work> relay;
  static_assert(sizeof(scratch) + sizeof(memory) + sizeof(row_sums) + sizeof(staged) + sizeof(relay) <= 48 * 1024, "shared memory");
  Problem<real, MORE> problem(task);
  const Team team(task.warps, task.lanes);
  const int length1 = task.length1, length2 = task.length2, dimension = task.dimension, pairing = task.pairing;
  const int within = threadIdx.x / task.lanes;
  PairMemory<CHANNELS, real, work>& mine = memory[within];
  const Turns<Task<Rule>, work> turns = {team, task, workspace, progress, relay, mine.turn};
  const long long cells = (long long)(length1 - 1) * (length2 - 1), n2 = task.n2, first_pair = task.first_pair;
  for (bool goes_on = turns.first(); goes_on; goes_on = turns.next()) {
    const long long k = turns.pair();
    if (CAREFUL && !flags[k]) continue;
    const Pair pair(pairing, first_pair + k, n2);
    if (PADDED) {
      if (lengths1) problem.length1 = lengths1[pair.first];
      if (lengths2) problem.length2 = lengths2[pair.second];
      if (problem.columns() <= task.fewest || problem.columns() > task.most) continue;
    }
    const int R = problem.rows(), C = problem.columns();
    work* free = turns.workspace_of(k);
    Forward sweep = {problem,
                     team,
                     task.weights,
                     {KERNEL == GIVEN ? increments + k * cells : path1 + pair.first * length1 * dimension,
                      KERNEL == GIVEN ? increments : path2 + pair.second * length2 * dimension},
                     nullptr,
                     Rule::EVERY_ROW ? int(Rule::DOWN) : int(Backward::STRIDE),
                     staged[within],
                     relay};
    if (relay.progress && relay.stage >= 2 * sweep.passes()) continue;
    sweep.take_up(free, scratch);
    const int N = sweep.levels();
    const long long given = (GRID ? problem.grid_rows() * problem.grid_columns() : 1) * (PARTS ? task.depth + 1 : 1);
    Backward adjoint = {problem, team, sweep, relay, mine, row_sums[within], bool(task.wrt_log), task.purpose};
    typedef typename Backward::GradientsOfStrip Strip;
    GradientsOfPair<KERNEL, Rule::COLUMNS, MORE, Strip, real, work> gradients = {problem, team, mine.gradients};
    if (team.lane == 0) {
      typedef Rows<work, CHANNELS> Rows;
      mine.gradients.sums1.piece = reinterpret_cast<typename Rows::Piece*>(free);
      mine.gradients.sums2 = reinterpret_cast<typename Rows::Group*>(mine.gradients.sums1.piece + Strip::size1(problem));
      mine.gradients.increments = KERNEL == GIVEN ? grad_increments + k * cells : nullptr;
      mine.out1 = grad1 ? grad1 + k * length1 * dimension : nullptr;
      mine.out2 = grad2 ? grad2 + k * length2 * dimension : nullptr;
    }
    if (KERNEL != GIVEN)
      free += Strip::size1(problem) * Rows<work, CHANNELS>::VALUES + Strip::size2(problem, team) * CHANNELS;
    work* edge = sweep.edge = free;
    if constexpr (Rule::EVERY_ROW) {
      sweep.by_pass = task.by_pass;
      free += (long long)(task.by_pass ? Forward::edges_of(sweep.passes()) : 1) * R * Rule::DOWN * N;
      edge = free;
      free += (long long)R * Rule::UP * N;
      sweep.nodes = free;
    } else {
      free += (long long)sweep.edge_rows() * Backward::STRIDE * N;
    }
    if (team.lane == 0) {
      mine.edge = edge;
      mine.flag = flags + k;
      mine.derivs = derivs + (first_pair + k) * given;
      mine.last_row = free;
      if constexpr (Rule::EVERY_ROW) {
        free += (task.by_pass ? team.warps : (C - 1) / sweep.span() + 1) * sweep.kept_of_warp();
      } else {
        free += N * Rule::kept(C);
      }
      mine.gradients.factors = free;
      if (PARAMETERS) mine.gradients.parameters = gradients.dilations() + 2;
      if (Strip::OF_POINTS && problem.dilated)
        for (int i = 0; i < 2; ++i) gradients.dilations()[i] = sweep.paths.dilation(problem, i);
    }
    __syncwarp();

    const bool moves = !PADDED || (R && C);  // false if one of the paths has one point
    bool goes_up;
    if (!relay.progress || relay.stage < sweep.passes()) {
      Watch<work> watch;
      work* kept = Rule::EVERY_ROW && task.by_pass ? nullptr : mine.last_row;
      work log_k = sweep.down(kept, nullptr, LAST_LEVEL, task.purpose, watch);
      if (!sweep.collect(log_k, watch, task.purpose, scratch)) continue;
      if (!CAREFUL && team.thread() == 0) *mine.flag = watch.wrong;
      goes_up = CAREFUL || PARTS || team.some(!watch.wrong);
      if (goes_up) {
        bool finite = GRID || PARTS ? !watch.wrong : is_finite(log_k);
        if (!GRID && !PARTS && !task.wrt_log) finite = finite && is_finite(exp(log_k));
        work deriv[2] = {work(1), work(1)};
        if (!GRID && !PARTS) {
          deriv[0] = work(derivs[pair.place(pairing, n2, first_pair + k)]);
          deriv[1] = pairing != SYMMETRIC        ? work(derivs[first_pair + k])
                     : pair.first == pair.second ? work(0)
                                                 : work(derivs[pair.second * n2 + pair.first]);
        } else if (CAREFUL || PARTS || team.some(!finite)) {
          bool counts = false;
          for (long long e = team.thread(); e < given; e += team.threads()) counts |= mine.derivs[e] != real(0);
          deriv[0] = deriv[1] = work(team.any(counts));
        }
        if (team.lane == 0) {
          const work value = !finite ? work(0) / work(0) : GRID || PARTS || task.wrt_log ? work(1) : exp(log_k);
          for (int i = 0; i < 2; ++i) mine.factors[i] = deriv[i] == work(0) ? work(0) : deriv[i] * value;
        }
        gradients.template clear<Strip::COUNT>();
        if (moves) adjoint.start_edge();
      }
      if (relay.progress) {
        adjoint.announce(goes_up);
        continue;
      }
    } else {
      goes_up = adjoint.announced();
    }
    if (goes_up) {
      if (moves) adjoint.up();
      if (!adjoint.complete()) continue;
      const work unit = KERNEL >= RBF ? work(problem.parameter[2]) : work(1);
      const work unit1 = KERNEL == LINEAR ? sweep.paths.unit(problem, sweep.scale(), false) : unit;
      const work unit2 = KERNEL == LINEAR ? sweep.paths.unit(problem, sweep.scale(), true) : unit;
      bool own = gradients.write(mine.out1, mine.out2, unit1, unit2, mine.factors);
      if constexpr (PARAMETERS)
        own |= gradients.template write_parameters<Strip::COUNT>(grad_parameters + k * 2 * Strip::COUNT, mine.factors);
      const bool strayed = team.any(own);
      if (PADDED) gradients.clear_padding(mine.out1, mine.out2);
      if (!CAREFUL && strayed && team.thread() == 0) adjoint.redo();
    }
  }
}

// total[p] = (or += if `adds`) the sum of the gradients of all pairs of a call with path p as first path, and of those with path p as
// second path, in the order of the pairs. Either array may be null. For a symmetric problem the second paths of diagonal pairs are
// left out.
template <typename real>
__global__ void __launch_bounds__(256)
    sum_over_partners(const real* firsts, const real* seconds, real* total, int pairing, int adds, long long n1, long long n2,
                      long long first_pair, long long pairs, long long size) {
  const long long count = (firsts ? n1 : n2) * size, stop = first_pair + pairs;
  for (long long e = blockIdx.x * (long long)blockDim.x + threadIdx.x; e < count; e += (long long)gridDim.x * blockDim.x) {
    const long long p = e / size, element = e % size;
    double sum = adds ? double(total[e]) : 0.0;
    if (firsts) {
      const long long from = pairing == GRAM ? p * n2 : p * (p + 1) / 2, to = from + (pairing == GRAM ? n2 : p + 1);
#pragma unroll 8
      for (long long k = max(from, first_pair); k < min(to, stop); ++k) sum += double(firsts[(k - first_pair) * size + element]);
    }
    if (seconds) {
      const Pair start(pairing, first_pair, n2);
      for (long long i = pairing == GRAM ? start.first : max(start.first, p + 1); i < n1; ++i) {
        const long long k = (pairing == GRAM ? i * n2 : i * (i + 1) / 2) + p;
        if (k >= stop) break;
        if (k >= first_pair) sum += double(seconds[(k - first_pair) * size + element]);
      }
    }
    total[e] = real(sum);
  }
}
