// The forward sweep of one pair, for every rule. A refined grid has R x C cells. A team of warps processes a pair; each lane has a
// strip of COLUMNS columns of cells. In step s, lane l is on row s - l. It receives the DOWN values of every level at the column
// left of its strip, computed one step earlier by its left neighbour, by a shuffle. A lane outside the grid passes on values that
// no lane uses. All levels advance together, and the latest row stays in the lane. If there are more columns than a team covers,
// the team makes several passes from left to right: the last lane of a warp writes its values for each row, the edge, to memory, and
// the first lane of the next warp reads them. The warps of a team are some phases of steps apart, with a barrier after each phase.
//
// Few pairs of long paths are relayed: every pass is a separate stage that the team of another block may run, as many phases behind
// the stage before it. The passes of the backward sweep are stages too, after those of the forward sweep.
//
// A rule defines the work in a cell and the state of a lane: Trapezoid, Staggered, Collocation, Order, Untruncated, Planar or
// PlanarOrder, each in the file of its name. A rule has the template arguments
//
//   real, work  the type of the paths and results, and the type of the arithmetic
//   DEPTH       the depth (PARTS: the largest number of nodes); 0 if it is known only at run time: arrays are in local memory then
//   GRID        values at all corners of the cells are requested, or have derivatives: K of the last level is needed too
//   CAREFUL     log domain: one exp per node, log K(r, c) = log K(r-1, c) + sum of the cells of the row up to c, in the order of the
//               reference. For pairs whose running products leave their range, and for logarithms; a cell without an increment
//               contributes nothing, even if K is infinite there.
//
// and Down and Up, the state of a lane in the forward and in the backward sweep. LAG: number of rows by which a level trails the level
// below it, and the first level the increments; rows before the first and after the last are then swept too, with increments of 0.
// PARTS: the values are the components k_0 to k_DEPTH instead of log K, and the running products are sums. LESS_ONE: they are K - 1,
// which takes the place of log K everywhere. EVERY_ROW: the backward sweep reads the values of every row from memory, not only those of
// the last: CELL for every level, lane and row, of which a warp has one more on either side. If memory does not suffice for all passes,
// it holds those of one pass, which is swept forward again from the edge of the pass before it. Of n such edges about BASE log n are
// stored as checkpoints, and the others are recomputed.

enum { PAIRED, GRAM, SYMMETRIC };
enum { MOST_LEVELS = 16, LONGEST_TEAM = 8, BASE = 8 };
constexpr unsigned ALL_LANES = 0xffffffffu;

// Warps of a team run phases of PHASE steps, with a barrier after each, and stay APART phases apart: the values of the last lane of
// the warp before, which is up to 31 steps behind, are then in memory.
enum { PHASE = 16, APART = 3 };

// Rows of an edge in shared memory, for the first lane of a warp: PHASE rows of VALUES values per phase.
template <typename work, int VALUES>
struct Staged {
  work value[PHASE][VALUES];

  // Loads rows from..from + PHASE - 1. A lane beyond its last row continues as if there were more rows; it finds the empty product
  // there, and other values are not used. Row r begins at edge + r * stride, and has at most MOST values.
  template <int MOST>
  __device__ __forceinline__ void bring(const work* edge, int stride, int values, int from, int rows, int lane, int lanes) {
    enum { FOR_LANE = (PHASE * MOST - 1) / 32 + 1, AT_ONCE = FOR_LANE < 2 ? int(FOR_LANE) : 2 };  // outstanding loads of a lane
#pragma unroll 1
    for (int first = lane; first < PHASE * values; first += AT_ONCE * lanes) {
      work brought[AT_ONCE];
#pragma unroll
      for (int k = 0; k < AT_ONCE; ++k) {
        const int e = first + k * lanes, row = from + e / values;
        brought[k] = e < PHASE * values && row >= 0 && row < rows ? edge[(long long)row * stride + e % values] : no_product<work>();
      }
#pragma unroll
      for (int k = 0; k < AT_ONCE; ++k) {
        const int e = first + k * lanes, row = from + e / values;
        if (e < PHASE * values) value[row & (PHASE - 1)][e % values] = brought[k];
      }
    }
    __syncwarp();
  }
};

// The two paths of pair k, and the position of its result: row by row for a Gram matrix, the lower triangle row by row if symmetric.
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
  // position of the value; for a symmetric Gram matrix it is stored in the other triangle too
  __device__ long long place(int pairing, long long n2, long long k) const {
    return pairing == SYMMETRIC ? first * n2 + second : k;
  }
};

// The threads that work on one pair: several warps, one, or part of one. All parts of a warp follow the same control flow for all
// pairs, so that shuffles involve the whole warp.
struct Team {
  int lane, warp, warps, lanes;  // number of warps, and lanes per warp; powers of two

  __device__ Team(int warps, int lanes)
      : lane(threadIdx.x & (lanes - 1)), warp((threadIdx.x >> 5) & (warps - 1)), warps(warps), lanes(lanes) {}
  __device__ int thread() const { return warp * 32 + lane; }
  __device__ int threads() const { return warps * lanes; }
  __device__ void barrier() const {
    if (warps > 1) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  }

  // A team processes the pair of its slot, and every stride()-th pair after it, unless pairs are relayed. The parts of a warp
  // continue together: a part without a pair left processes the last pair again.
  __device__ long long slot() const { return blockIdx.x * (long long)(blockDim.x / threads()) + threadIdx.x / threads(); }
  __device__ int part() const { return (threadIdx.x & 31) / lanes; }  // of a warp
  __device__ long long first_pair() const { return slot() - part(); }
  __device__ long long stride() const { return gridDim.x * (long long)(blockDim.x / threads()); }
  __device__ long long pair(long long next, long long pairs) const { return min(next + part(), pairs - 1); }

  // Sum over the team, in a fixed order, returned to all its threads. `scratch` holds a value for every warp.
  template <typename work>
  __device__ work sum(work value, work* scratch) const {
    for (int distance = lanes / 2; distance; distance >>= 1) value += __shfl_xor_sync(ALL_LANES, value, distance);
    if (warps > 1) gather(scratch, value, [](work a, work b) { return a + b; });
    return value;
  }
  // Sums, or maxima, of two values with independent shuffles.
  template <typename work>
  __device__ void sum_both(float& a, float& b, work* scratch) const {
    for (int distance = lanes / 2; distance; distance >>= 1) {
      const float more_a = __shfl_xor_sync(ALL_LANES, a, distance), more_b = __shfl_xor_sync(ALL_LANES, b, distance);
      a += more_a;
      b += more_b;
    }
    if (warps > 1) gather(scratch, a, [](float x, float y) { return x + y; });
    if (warps > 1) gather(scratch, b, [](float x, float y) { return x + y; });
  }
  template <typename work>
  __device__ void most_both(float& a, float& b, work* scratch) const {
    for (int distance = lanes / 2; distance; distance >>= 1) {
      a = larger(a, __shfl_xor_sync(ALL_LANES, a, distance));
      b = larger(b, __shfl_xor_sync(ALL_LANES, b, distance));
    }
    if (warps > 1) gather(scratch, a, [](float x, float y) { return larger(x, y); });
    if (warps > 1) gather(scratch, b, [](float x, float y) { return larger(x, y); });
  }
  // Maximum of the first value and sum of the second
  template <typename work>
  __device__ void most_and_sum(float& a, float& b, work* scratch) const {
    for (int distance = lanes / 2; distance; distance >>= 1) {
      const float more_a = __shfl_xor_sync(ALL_LANES, a, distance), more_b = __shfl_xor_sync(ALL_LANES, b, distance);
      a = larger(a, more_a);
      b += more_b;
    }
    if (warps > 1) gather(scratch, a, [](float x, float y) { return larger(x, y); });
    if (warps > 1) gather(scratch, b, [](float x, float y) { return x + y; });
  }
  // Combines the values of the warps; all threads get the result.
  template <typename work, typename value_t, typename Join>
  __device__ void gather(work* scratch, value_t& value, Join join) const {
    if (lane == 0) scratch[warp] = work(value);
    __syncthreads();
    value = value_t(scratch[0]);
    for (int w = 1; w < warps; ++w) value = join(value, value_t(scratch[w]));
    __syncthreads();  // scratch may be reused
  }
  template <typename work>
  __device__ work most(work value, work* scratch) const {
    for (int distance = lanes / 2; distance; distance >>= 1)
      value = larger(value, __shfl_xor_sync(ALL_LANES, value, distance));
    if (warps > 1) gather(scratch, value, [](work a, work b) { return larger(a, b); });
    return value;
  }
  __device__ bool any(bool value) const {
    if (warps > 1) return __syncthreads_or(value);
    return __ballot_sync(ALL_LANES, value) & (ALL_LANES >> (32 - lanes) << part() * lanes);
  }
  // Whether a value is true for any team of this warp; it must be the same for all threads of a team.
  __device__ bool some(bool value) const { return lanes < 32 ? __any_sync(ALL_LANES, value) : value; }
};

// Publishing writes to another block: the other block acquires the value that is released here. A fence on either side would work
// too, but it waits for all outstanding accesses of the block and empties its L1 cache. Before Volta there are only fences and no
// sleep instruction: a wait is a busy loop. The emulator runs the fences.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 700
__device__ __forceinline__ void release(int* where, int value) {
  asm volatile("st.release.gpu.s32 [%0], %1;" : : "l"(where), "r"(value) : "memory");
}
__device__ __forceinline__ int acquire(const int* where) {
  int value;
  asm volatile("ld.acquire.gpu.s32 %0, [%1];" : "=r"(value) : "l"(where) : "memory");
  return value;
}
#else
#ifdef __CUDA_ARCH__
#define __nanosleep(nanoseconds)
#endif
__device__ __forceinline__ void release(int* where, int value) {
  __threadfence();
  atomicExch(where, value);
}
__device__ __forceinline__ int acquire(const int* where) {
  const int value = *(const volatile int*)where;
  __threadfence();
  return value;
}
#endif

// State of a relayed pair, in shared memory.
template <typename work>
struct Relay {
  enum { ALL_DONE = 1 << 30, MESSAGE = 6 };
  int* progress;    // number of phases that each stage of the pair has completed; null if one team processes the whole pair
  int turn, stage;  // of this team
  int passes;       // over the columns of the pair
  int seen;         // last known progress of the stage before
  // (stages, MESSAGE): messages of stages, in addition to their edges. Forward passes: their cumulative contribution to log K, whether
  // any of them left the range, and the error bounds; the last pass: whether there is a backward sweep (second value), and the factors
  // of the gradients (the next two).
  work* messages;

  // Waits until a stage has completed `phases` phases and its writes are visible. Returns its progress.
  __device__ int await(int of_stage, int phases) const {
    const volatile int* done = progress + of_stage;
    while (*done < phases) __nanosleep(32);
    return acquire(progress + of_stage);
  }
  // Waits for the stage before this one. One warp calls it repeatedly, with increasing `phases`.
  __device__ __forceinline__ void follow(const Team& team, int phases) {
    if (!progress || stage == 0 || seen >= phases) return;
    const int now = await(stage - 1, phases);
    __syncwarp();
    if (team.lane == 0) seen = now;
  }
  // Publishes that `phases` phases are complete. Must be called after a barrier of the team.
  __device__ __forceinline__ void tell(const Team& team, int phases) const {
    if (!progress || phases <= 0 || team.thread()) return;
    release(progress + stage, phases);
  }
};

// Content of a result: K of the last level, K of all levels from 0 on (grids), log K of the last level (grids: CAREFUL), or these
// logarithms only at the nodes on the diagonal of a grid. PARTS: always all components.
enum { LAST_LEVEL, ALL_LEVELS, LOGARITHM, DIAGONAL };

// Levels whose values are kept. The last level is only integrated, unless its grid is requested.
template <int DEPTH, bool ALL>
struct Levels {
  static constexpr bool LESS_ONE = false;
  enum { LEVELS = ALL ? DEPTH : DEPTH - 1, ROOM = DEPTH == 0 ? MOST_LEVELS : LEVELS > 0 ? LEVELS : 1 };
  static __device__ __forceinline__ int levels(int depth) { return DEPTH ? int(LEVELS) : ALL ? depth : depth - 1; }
  static __device__ __forceinline__ int results(int levels) { return levels; }  // number of components, or of levels of a stack, from 1 on
};

// Arguments of a kernel other than arrays. They are passed by value, so that the weights of a rule are operands of instructions and
// take no registers.
template <typename Rule>
struct Task {
  long long n2, first_pair, pairs, turns, workspace_size;  // turns: number of pairs, or of stages of all pairs
  double parameter[4];
  int length1, length2, dimension, order1, order2, depth, dilated;  // see Problem
  int pairing, fewest, most, warps, lanes, stages, by_pass, content, wrt_log, purpose;
  typename Rule::Work weights[Rule::WEIGHTS ? int(Rule::WEIGHTS) : 1];
};

// The next work of a team: a pair, or a stage of a pair. Any free block takes the next stage. Each stage is taken after the one that it
// waits for, which is then complete or running, however few blocks are resident.
template <typename Task, typename work>
struct Turns {
  const Team& team;
  const Task& task;
  work* workspace;  // (teams in flight, or pairs that are relayed, workspace_size)
  int* progress;    // null, or (1 + pairs * stages), initially 0: number of turns taken, and the progress of all stages
  Relay<work>& relay;
  long long& turn;  // the turn of this team, in shared memory

  // Takes the first or the next turn; returns whether there is one.
  __device__ bool first() const {
    if (threadIdx.x == 0) relay.progress = progress;
    __syncthreads();
    return take(progress ? taken() : team.first_pair());
  }
  __device__ bool next() const { return take(relay.progress ? taken() : turn + team.stride()); }
  __device__ long long pair() const { return relay.progress ? turn % task.pairs : team.pair(turn, task.pairs); }
  __device__ bool take(long long to) const {
    __syncwarp();
    if (team.lane == 0) turn = to;
    __syncwarp();
    return to < task.turns;
  }
  __device__ work* workspace_of(long long pair) const {
    return workspace + (relay.progress ? pair : team.slot()) * task.workspace_size;
  }
  __device__ int taken() const {
    __syncthreads();
    if (threadIdx.x == 0) {
      relay.turn = atomicAdd(progress, 1);
      relay.stage = int(relay.turn / task.pairs);
      relay.progress = progress + 1 + relay.turn % task.pairs * task.stages;
      relay.seen = 0;
      relay.messages = workspace_of(relay.turn % task.pairs + 1) - relay.MESSAGE * task.stages;
    }
    __syncthreads();
    return relay.turn;
  }
};

template <typename real, int KERNEL, int CHANNELS, bool MORE, typename Rule>
struct Sweep {
  typedef typename Rule::Work work;
  typedef Paths<KERNEL, CHANNELS, MORE, real, work> PathsOfPair;
  typedef Staged<work, Rule::LAG ? int(Rule::ROOM) * Rule::UP : 1> StagedRows;
  enum { ROOM = Rule::ROOM, COLUMNS = Rule::COLUMNS };
  // Unrolled twice if registers suffice, which saves moves of the latest rows.
  enum { STEPS_AT_A_TIME = Rule::GRID && (!Rule::LAG || (COLUMNS > 2 && sizeof(work) == 8)) ? 1 : 2 };
  static constexpr bool WATCHED = !Rule::CAREFUL && !Rule::PARTS;  // pairs that have lost their digits are recomputed by CAREFUL kernels
  typedef Increments<KERNEL, COLUMNS, CHANNELS, MORE, Rule::LAG == 0 || KERNEL == GIVEN, !WATCHED, real, work> IncrementsOfStrip;

  const Problem<real, MORE>& problem;
  const Team& team;
  const work* weights;  // of the rule, in the order of collocation.cuh
  PathsOfPair paths;
  work* edge;  // (edge_rows, edge_values, levels); by_pass: (edges_of(passes), rows, edge_values, levels)
  int edge_values;
  StagedRows& staged;
  Relay<work>& relay;
  work* nodes;   // EVERY_ROW, in the backward sweep: the values of all passes,
  bool by_pass;  // or of one pass at a time

  __device__ int span() const { return team.lanes * COLUMNS; }  // columns of a warp, or of half of one
  __device__ int levels() const { return Rule::levels(problem.depth); }
  __device__ int lag() const { return Rule::LAG * (levels() + 1); }  // rows of the last level behind the increments
  // Row r of an edge holds the values passed on together with the increments of row r, whatever the rows of the levels are.
  __device__ int edge_rows() const { return problem.rows() + lag(); }
  __device__ int passes() const { return (problem.columns() - 1) / (team.warps * span()) + 1; }
  // the values that a warp passes to the next, last in a row of the edge
  __device__ work* edge_of(work* edge, int row, int value) const {
    return edge + ((long long)row * edge_values + edge_values - Rule::DOWN + value) * levels();
  }
  // The edge from the pass before this one. With by_pass, edge n is stored at the slot of its last nonzero digit in base BASE, and
  // later edges overwrite earlier ones. So after a forward sweep up to pass n the edges of its block of BASE passes are stored, those
  // of the earlier blocks of BASE passes in its block of BASE^2, and so on.
  __device__ work* edge_before(int pass) const {
    if (!Rule::EVERY_ROW || !by_pass || pass == 0) return edge;
    int place = -1;
    for (; pass % BASE == 0; pass /= BASE) place += BASE - 1;
    return edge + (long long)(place + pass % BASE) * problem.rows() * edge_values * levels();
  }
  // Places the paths at the start of the workspace of the pair and lays them out, unless an earlier stage has done so.
  __device__ void take_up(work*& free, work* scratch) {
    free = paths.place(problem, free);
    if (relay.progress) {
      if (team.thread() == 0) relay.passes = passes();
      team.barrier();
    }
    if (!relay.progress || relay.stage == 0) {
      paths.template lay_out<WATCHED>(problem, team, scale(), scratch);
    } else if (relay.stage < relay.passes) {
      relay.await(relay.stage - 1, 1);
    } else {
      relay.await(relay.passes - 1, relay.ALL_DONE);
    }
  }
  static __device__ int edges_of(int passes) {
    int edges = 0;
    for (; passes; passes /= BASE) edges += min(passes, BASE - 1);
    return edges;
  }
  // EVERY_ROW. Lanes, which are a row apart, store and read side by side, and the distances to the cells above and on the left are the
  // same everywhere: values of the cells of a step, of a warp, and the position of those of this lane on row 0.
  __device__ long long kept_of_step() const { return (long long)Rule::CELL * levels(); }
  __device__ long long kept_of_warp() const { return (problem.rows() + 33) * kept_of_step(); }
  __device__ work* nodes_of(int pass) const {
    const int part = (by_pass ? 0 : pass * team.warps) + team.warp;
    return nodes + part * kept_of_warp() + (team.lane + 2) * kept_of_step() + team.lane + 1;
  }
  // factor of increments: one over the number of sub-cells per cell, and a quarter if corners are summed for their mean
  __device__ work scale() const {
    return work(Rule::OF_SUM) / (work(1 << problem.order1) * work(1 << problem.order2));
  }

  // Sweeps all rows forward. Returns the contribution of this thread to log K_DEPTH at the end. `watch` collects checks: wrong if a K
  // left the range of the running products or may have lost its digits (CAREFUL, PARTS: if a requested value is not finite).
  // `last_row`, if not null, receives the values of the last row that the rule keeps (EVERY_ROW: `nodes`, if values are to be kept).
  // `values`, if not null, receives the values at every node, as `content` says; PARTS without GRID: those at the end.
  __device__ work down(work* last_row, real* values, int content, int purpose, Watch<work>& watch) {
    work total = work(0);
    int pass = relay.progress ? relay.stage : 0;
    do {
      down(pass, last_row, values, content, purpose, total, watch);
    } while (!relay.progress && ++pass * team.warps * span() < problem.columns());
    watch.close();
    return total;
  }

  // Combines the results of the threads of a team and the messages of the stages before, for all threads. Returns false if further
  // passes continue.
  __device__ bool collect(work& total, Watch<work>& watch, int purpose, work* scratch) const {
    total = team.sum(total, scratch);
    watch.wrong = team.any(watch.wrong);
    if (WATCHED) team.most_and_sum(watch.reach, watch.last, scratch);
    if (KERNEL == GIVEN && WATCHED) watch.moved = team.sum(watch.moved, scratch);
    if (relay.progress) {
      const int pass = relay.stage;
      work* told = relay.messages + relay.MESSAGE * pass;
      if (pass) {
        relay.await(pass - 1, relay.ALL_DONE);
        const work* before = told - relay.MESSAGE;
        total += before[0];
        watch.wrong |= before[1] != work(0);
        watch.reach = larger(watch.reach, float(before[2]));
        watch.last += float(before[3]);
        watch.moved += before[4];
      }
      if (pass + 1 < relay.passes) return tell_next(told, total, watch);
    }
    if (WATCHED) {
      const double size = KERNEL == GIVEN ? double(watch.moved) / Rule::OF_SUM : double(*paths.moved(problem));
      if constexpr (Rule::LESS_ONE) {
        watch.wrong |= watch.template doubtful_sum<Rule::GRID>(size, levels(), 1.0 + double(total), purpose);
      } else {
        watch.wrong |= watch.template doubtful<Rule::GRID, Rule::EVERY_ROW>(size, levels());
      }
    }
    return true;
  }
  __device__ bool tell_next(work* told, work total, const Watch<work>& watch) const {
    if (team.thread() == 0) {
      told[0] = total;
      told[1] = work(watch.wrong);
      told[2] = work(watch.reach);
      told[3] = work(watch.last);
      told[4] = watch.moved;
    }
    team.barrier();
    relay.tell(team, relay.ALL_DONE);
    return false;
  }

  // by_pass, before the backward sweep of a pass: recomputes its values, sweeping forward from the latest edge that is still stored.
  // If the next pass began a block, the edges of the block before it have been overwritten.
  __device__ void down_again(int pass, int purpose) {
    work total = work(0);
    Watch<work> watch;
    int block = 1;
    if (pass + 1 < passes())  // the first forward sweep has left all edges of the last block
      while ((pass + 1) % (block * BASE) == 0) block *= BASE;
    for (int p = pass + 1 - block; p <= pass; ++p)
      down(p, p == pass ? nodes : nullptr, nullptr, LAST_LEVEL, purpose, total, watch);
  }

  __device__ __forceinline__ void down(int pass, work* last_row, real* values, int content, int purpose, work& total,
                                       Watch<work>& watch) {
    const int R = problem.rows(), C = problem.columns(), N = levels(), mask = (1 << problem.order1) - 1;
    const int last = team.lanes - 1, rows = edge_rows(), steps = R ? rows + last : 0, phases = (steps + PHASE - 1) / PHASE;
    const int part = pass * team.warps + team.warp, start = part * span(), first = start + team.lane * COLUMNS;
    const bool hands_on = team.lane == last && (last_row || start + span() < C);
    typename Rule::Down strip;
    work handed[ROOM][Rule::DOWN], g[COLUMNS], *right_edge = edge_before(pass + 1), *kept = nullptr;
    work* left_edge = team.warp ? right_edge : edge_before(pass);
    IncrementsOfStrip increments(problem, paths);
    increments.start(first, Rule::LAG ? -team.lane >> problem.order1 : 0, false, scale());
    strip.start(N, first);
    if constexpr (Rule::EVERY_ROW)
      if (last_row && start < C) {
        kept = nodes_of(pass);
        strip.keep_above(N, kept, team.lane == 0);
      }
#pragma unroll
    for (int m = 0; m < N; ++m)
#pragma unroll
      for (int v = 0; v < Rule::DOWN; ++v) handed[m][v] = Rule::at_left_end(v);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) g[c] = work(0);
    for (int phase = 0; phase < phases + APART * (team.warps - 1); ++phase) {
      const int mine = phase - APART * team.warp;
      const int end = mine < 0 || mine >= phases || start >= C ? 0 : min(steps, PHASE * mine + PHASE);
      if (end && team.warp == 0) relay.follow(team, min(mine + APART, phases));
      if (Rule::LAG && end && start)
        staged.template bring<ROOM * Rule::DOWN>(edge_of(left_edge, 0, 0), edge_values * N, Rule::DOWN * N, PHASE * mine, rows,
                                                 team.lane, team.lanes);
#pragma unroll(STEPS_AT_A_TIME)
      for (int s = PHASE * max(mine, 0); s < end; ++s) {
        const int r = s - team.lane;
#pragma unroll
        for (int m = 0; m < N; ++m)
#pragma unroll
          for (int v = 0; v < Rule::DOWN; ++v) {
            handed[m][v] = __shfl_up_sync(ALL_LANES, handed[m][v], 1);
            if (Rule::LAG && team.lane == 0)
              handed[m][v] = start ? staged.value[s & (PHASE - 1)][v * N + m] : Rule::at_left_end(v);
          }
        if (!Rule::LAG && (r < 0 || r >= R)) continue;
        if (!Rule::LAG && team.lane == 0) {
#pragma unroll
          for (int m = 0; m < N; ++m)
#pragma unroll
            for (int v = 0; v < Rule::DOWN; ++v) handed[m][v] = start ? edge_of(left_edge, r, v)[m] : Rule::at_left_end(v);
        }
        increments.of_row(r >> problem.order1, false, (r & mask) == mask, g);
        if (KERNEL == GIVEN && WATCHED)
#pragma unroll
          for (int c = 0; c < COLUMNS; ++c) watch.moved += fabs(g[c]);
        strip.row(N, g, weights, purpose, handed, total, watch);
        if (hands_on && r >= 0) {
#pragma unroll
          for (int m = 0; m < N; ++m)
#pragma unroll
            for (int v = 0; v < Rule::DOWN; ++v) edge_of(right_edge, r, v)[m] = handed[m][v];
        }
        if constexpr (Rule::EVERY_ROW)
          if (last_row) strip.keep(N, kept + r * kept_of_step(), team.lane == 0);
        if (Rule::GRID && values && content != DIAGONAL) store(values, content, purpose, r, first, strip);
        if (Rule::GRID && !Rule::LAG && content == DIAGONAL && values) store_diagonal(values, purpose, r, first, strip);
      }
      team.barrier();
      relay.tell(team, phase + 1 - APART * (team.warps - 1));
    }
    if constexpr (!Rule::EVERY_ROW)
      if (last_row) strip.keep(N, last_row, first, C);
    if constexpr (!Rule::GRID && !Rule::PARTS && !Rule::EVERY_ROW) strip.ends.leave(total, watch);
    if constexpr ((Rule::CAREFUL || Rule::LESS_ONE) && !Rule::GRID)
      if (first < C && C <= first + COLUMNS) {  // padding repeats the end
        const work end = strip.corner(N, N - 1, COLUMNS - 1, true, purpose);
        if (Rule::LESS_ONE || end != end) total = end;
      }
    if (Rule::PARTS && first == C - 1) {
      if (!Rule::GRID && values) values[0] = real(1);
#pragma unroll
      for (int m = 0; m < Rule::results(N); ++m) {
        const work end = strip.corner(N, m, 0, false, purpose);
        watch.wrong |= !is_finite(end);
        if (!Rule::GRID && values) values[m + 1] = real(end);
      }
    }
  }

  // Stores the row of the grid below the cells of row r, for every level below the row it is on, and the adjacent nodes of row and
  // column 0.
  __device__ __forceinline__ void store(real* grid, int content, int purpose, int r, int first,
                                        const typename Rule::Down& strip) const {
    const int C = problem.columns(), N = levels(), count = Rule::results(N);
    const long long width = problem.grid_columns(), size = problem.grid_rows() * width, stride = Rule::PARTS ? count + 1 : 1;
#pragma unroll
    for (int m = -1; m < count; ++m) {
      if (content != ALL_LEVELS && m != N - 1) continue;
      const int i = r - Rule::LAG * (m + 1);
      if (Rule::LAG && (i < 0 || i >= problem.rows())) continue;
      const real border = real(content == LOGARITHM || (Rule::PARTS && m >= 0) ? 0 : 1);
      real *level = grid + (content == ALL_LEVELS ? m + 1 : 0) * (Rule::PARTS ? 1 : size), *row = level + (i + 1) * width * stride;
      if (first == 0) {
        row[0] = border;
        if (i == 0) level[0] = border;
      }
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        if (first + c >= C) continue;
        row[(first + c + 1) * stride] = m < 0 ? real(1) : real(strip.corner(N, m < 0 ? 0 : m, c, content == LOGARITHM, purpose));
        if (i == 0) level[(first + c + 1) * stride] = border;
      }
    }
  }

  // Stores the node below and to the right of cell (r, r), if the lane has it, at a point of the path.
  __device__ __forceinline__ void store_diagonal(real* diagonal, int purpose, int r, int first,
                                                 const typename Rule::Down& strip) const {
    const int N = levels(), count = Rule::results(N), stride = Rule::PARTS ? count + 1 : 1, mask = (1 << problem.order1) - 1;
    if (r == 0 && first == 0)
      for (int n = 0; n < stride; ++n) diagonal[n] = real(Rule::PARTS && n == 0);
    if (((r + 1) & mask) || r >= problem.columns()) return;
    real* node = diagonal + (long long)((r + 1) >> problem.order1) * stride;
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      if (first + c != r) continue;
      if (Rule::PARTS) node[0] = real(1);
#pragma unroll
      for (int m = 0; m < count; ++m)
        if (Rule::PARTS || m == count - 1) node[Rule::PARTS ? m + 1 : 0] = real(strip.corner(N, m, c, true, purpose));
    }
  }
  // The diagonal is constant over padding.
  __device__ void extend_diagonal(real* diagonal) const {
    const int stride = Rule::PARTS ? Rule::results(levels()) + 1 : 1, valid = problem.length1;
    for (int e = team.thread(); e < problem.padded1 * stride; e += team.threads())
      if (e >= valid * stride || valid == 1)
        diagonal[e] = valid == 1 ? real(Rule::PARTS && e % stride == 0) : diagonal[(valid - 1) * stride + e % stride];
  }

  // Grids of padded paths are constant beyond the last valid node, and K = k_0 = 1 for a path of one point.
  __device__ void extend(real* grid, int grids, int content) const {
    const int R = problem.rows(), C = problem.columns();
    const long long width = problem.grid_columns(), size = problem.grid_rows() * width;
    const bool still = R == 0 || C == 0;
    for (long long e = team.thread(); e < grids * size; e += team.threads()) {
      const long long node = Rule::PARTS ? e / grids : e % size, r = node / width, c = node % width;
      if (still) {
        grid[e] = real(content == LOGARITHM || (Rule::PARTS && e % grids) ? 0 : 1);
      } else if (r > R || c > C) {
        grid[e] = grid[e + ((r < R ? r : R) * width + (c < C ? c : C) - node) * (Rule::PARTS ? grids : 1)];
      }
    }
  }
};
