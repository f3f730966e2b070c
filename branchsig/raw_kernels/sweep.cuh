// The forward sweep of one pair, whatever the rule. A refined grid has R x C cells, and a team of warps owns a pair, a lane a
// strip of COLUMNS columns of cells. In step s lane l is on row s - l: what its left neighbour hands on, the DOWN values of every
// level at the column before the strip, is one step old and comes by a shuffle; what a lane on no row hands on is for no row. All
// levels advance together, and the latest row stays with the lane. More columns than a team has are done in passes from left to
// right: the last lane of a warp leaves what it hands on in memory, for each row, and the first lane of the next warp picks it up.
// The warps of a team are some phases of steps apart, with a barrier after each phase.
//
// Few pairs of long paths are relayed: every pass is a stage of its own, that the team of another block may do, as many phases
// behind the stage before it. The passes of the way back are stages too, behind those down.
//
// What happens in a cell, and what a lane keeps, is the business of a rule: Trapezoid, Staggered, Collocation, Order or
// Untruncated, each in the file of its name. A rule has the template arguments
//
//   real, work  the type of the paths and results, and that of the arithmetic
//   DEPTH       the depth (Order: the largest number of nodes); 0 where it is known at run time: arrays are in local memory then
//   GRID        the values at all corners of the cells are asked for, or given derivatives: K of the last level is needed too
//   CAREFUL     one exp per node, log K(r, c) = log K(r-1, c) + sum of the cells of the row up to c, in the order of the reference.
//               It serves the pairs whose running products leave their range, and logarithms; a cell without an increment
//               contributes nothing, also where K is infinite.
//
// and Down and Up, the state of a lane on its way down and on its way back. LAG: how many rows a level trails the one below it,
// and the first one the increments. Rows without cells, before the first and behind the last, are then swept too, with increments
// of 0. PARTS: the values are k_0 to k_DEPTH instead of log K, and the running products are sums. EVERY_ROW: the way back finds
// the values of every row in memory, instead of the last alone. Where memory does not suffice for those of all passes, it has those
// of one pass, which is swept down again from the edge that the pass before it has left. Of n such edges about BASE log n are kept,
// and the others made again too.

enum { PAIRED, GRAM, SYMMETRIC };
enum { MOST_LEVELS = 16, LONGEST_TEAM = 8, BASE = 8 };
constexpr unsigned ALL_LANES = 0xffffffffu;

// Warps of a team do phases of PHASE steps, with a barrier after each, and keep APART phases apart: a warp then finds what the
// last lane of the one before it has left, which is up to 31 steps behind.
enum { PHASE = 16, APART = 3 };

// Rows of an edge in shared memory, for the lane that takes them over in a phase: PHASE rows of VALUES values.
template <typename work, int VALUES>
struct Staged {
  work value[PHASE][VALUES];

  // Brings rows from..from + PHASE - 1. A lane beyond its last row goes on as if there were more: for those it finds a product that
  // has no factor yet, and of all else nothing is taken there. Row r begins at edge + r * stride, and has at most MOST values.
  template <int MOST>
  __device__ __forceinline__ void bring(const work* edge, int stride, int values, int from, int rows, int lane, int lanes) {
    enum { FOR_LANE = (PHASE * MOST - 1) / 32 + 1, AT_ONCE = FOR_LANE < 2 ? int(FOR_LANE) : 2 };  // a lane waits for so many
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
  // where its value stands; that of a symmetric Gram stands in the other triangle too
  __device__ long long place(int pairing, long long n2, long long k) const {
    return pairing == SYMMETRIC ? first * n2 + second : k;
  }
};

// The threads that work on one pair: several warps, one, or a part of one. All parts of a warp go the same way, whatever their
// pairs, so that shuffles are those of a warp.
struct Team {
  int lane, warp, warps, lanes;  // powers of two: warps, and lanes of each

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

  // The pairs of a team are those of its slot, and every stride() further, unless they are relayed. The parts of a warp go on
  // together: where there is no pair left for one of them, it does the last one too.
  __device__ long long slot() const { return blockIdx.x * (long long)(blockDim.x / threads()) + threadIdx.x / threads(); }
  __device__ int part() const { return (threadIdx.x & 31) / lanes; }  // of a warp
  __device__ long long first_pair() const { return slot() - part(); }
  __device__ long long stride() const { return gridDim.x * (long long)(blockDim.x / threads()); }
  __device__ long long pair(long long next, long long pairs) const { return min(next + part(), pairs - 1); }

  // Sums over the team, in a fixed order, known to all its threads. `scratch` holds a value for every warp.
  template <typename work>
  __device__ work sum(work value, work* scratch) const {
    for (int distance = lanes / 2; distance; distance >>= 1) value += __shfl_xor_sync(ALL_LANES, value, distance);
    if (warps > 1) gather(scratch, value, [](work a, work b) { return a + b; });
    return value;
  }
  // Sums of two values, or the largest of them, whose shuffles do not wait for each other.
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
  // The largest first value and the sum of the second ones
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
  // Joins the values of the warps, known to all threads.
  template <typename work, typename value_t, typename Join>
  __device__ void gather(work* scratch, value_t& value, Join join) const {
    if (lane == 0) scratch[warp] = work(value);
    __syncthreads();
    value = value_t(scratch[0]);
    for (int w = 1; w < warps; ++w) value = join(value, value_t(scratch[w]));
    __syncthreads();  // others may use it
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
  // Whether a value is true for one of the teams that go the same way; it is the same for all threads of a team.
  __device__ bool some(bool value) const { return lanes < 32 ? __any_sync(ALL_LANES, value) : value; }
};

// How a block tells another that what it has written so far is there: the other acquires the value that is released here. A fence
// on either side would do too, but waits for all the block has under way, and empties its first cache. Before Volta there is nothing
// else, and nothing sleeps: a wait is a loop. The emulator runs the fences.
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

// What is known of a pair that is relayed, in shared memory.
template <typename work>
struct Relay {
  enum { ALL_DONE = 1 << 30, MESSAGE = 6 };
  int* progress;    // phases that each stage of the pair has done; null where one team does all of a pair
  int turn, stage;  // those of this team
  int passes;       // of the columns of the pair
  int seen;         // what is known of the progress of the stage before it
  // (stages, MESSAGE): what stages tell others beside their edges. Passes down: what they and those before add to log K, whether one
  // of them strayed, and what bounds its error; the last one: whether there is a way back (second value), and the factors of the
  // gradients (the next two).
  work* messages;

  // Waits until a stage has done so many phases, and what it has written in them is there. Returns its progress.
  __device__ int await(int of_stage, int phases) const {
    const volatile int* done = progress + of_stage;
    while (*done < phases) __nanosleep(32);
    return acquire(progress + of_stage);
  }
  // The same for the stage before this one. One warp calls it, from time to time, for more phases than before.
  __device__ __forceinline__ void follow(const Team& team, int phases) {
    if (!progress || stage == 0 || seen >= phases) return;
    const int now = await(stage - 1, phases);
    __syncwarp();
    if (team.lane == 0) seen = now;
  }
  // So many phases are done. Called behind a barrier of the team.
  __device__ __forceinline__ void tell(const Team& team, int phases) const {
    if (!progress || phases <= 0 || team.thread()) return;
    release(progress + stage, phases);
  }
};

// What a result holds: K of the last level, K of all levels from 0 on (grids), or log K of the last level (grids: CAREFUL); of grids
// it may be those logarithms at the nodes of two equal points alone. PARTS: always all of them.
enum { LAST_LEVEL, ALL_LEVELS, LOGARITHM, DIAGONAL };

// Levels whose values are kept. The last one is only integrated, unless its grid is asked for.
template <int DEPTH, bool ALL>
struct Levels {
  enum { LEVELS = ALL ? DEPTH : DEPTH - 1, ROOM = DEPTH == 0 ? MOST_LEVELS : LEVELS > 0 ? LEVELS : 1 };
  static __device__ __forceinline__ int levels(int depth) { return DEPTH ? int(LEVELS) : ALL ? depth : depth - 1; }
};

// What a kernel is told beside its arrays. It is handed over by value: the weights of a rule are then operands of instructions, and
// take no registers.
template <typename Rule>
struct Task {
  long long n2, first_pair, pairs, turns, workspace_size;  // turns: pairs, or the stages of all of them
  double parameter[4];
  int length1, length2, dimension, order1, order2, depth, dilated;  // see Problem
  int pairing, fewest, most, warps, lanes, stages, by_pass, content, wrt_log, purpose;
  typename Rule::Work weights[Rule::WEIGHTS ? int(Rule::WEIGHTS) : 1];
};

// What a team does next: all of a pair, or a stage of one. Stages are taken by whatever block is free, each after the one that it
// waits for, which is then done or under way, however few blocks run at a time.
template <typename Task, typename work>
struct Turns {
  const Team& team;
  const Task& task;
  work* workspace;  // (teams in flight, or pairs that are relayed, workspace_size)
  int* progress;    // null, or (1 + pairs * stages), 0 at first: how many turns have been taken, and the progress of all stages
  Relay<work>& relay;
  long long& turn;  // that of this team, in shared memory

  // Takes the first turn, or the next one; returns whether there is one.
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
  // Two, for what a lane keeps of the latest rows then needs not be moved so often, where registers suffice.
  enum { STEPS_AT_A_TIME = Rule::GRID && (!Rule::LAG || (COLUMNS > 2 && sizeof(work) == 8)) ? 1 : 2 };
  static constexpr bool WATCHED = !Rule::CAREFUL && !Rule::PARTS;  // pairs that have lost their digits are done by others
  typedef Increments<KERNEL, COLUMNS, CHANNELS, MORE, Rule::LAG == 0 || KERNEL == GIVEN, !WATCHED, real, work> IncrementsOfStrip;

  const Problem<real, MORE>& problem;
  const Team& team;
  const work* weights;  // of the rule, as collocation.cuh has them
  PathsOfPair paths;
  work* edge;  // (edge_rows, edge_values, levels); by_pass: (edges_of(passes), rows, edge_values, levels)
  int edge_values;
  StagedRows& staged;
  Relay<work>& relay;
  work* nodes;   // EVERY_ROW, on the way back: the values of all passes, or
  bool by_pass;  // of one at a time

  __device__ int span() const { return team.lanes * COLUMNS; }  // columns of a warp, or of half of one
  __device__ int levels() const { return Rule::levels(problem.depth); }
  __device__ int lag() const { return Rule::LAG * (levels() + 1); }  // of the last level behind the increments
  // What is handed on beside the increments of row r stands in row r of an edge, whatever the rows of the levels are.
  __device__ int edge_rows() const { return problem.rows() + lag(); }
  __device__ int passes() const { return (problem.columns() - 1) / (team.warps * span()) + 1; }
  // what a warp hands on to the next, behind all else in a row of the edge
  __device__ work* edge_of(work* edge, int row, int value) const {
    return edge + ((long long)row * edge_values + edge_values - Rule::DOWN + value) * levels();
  }
  // What the pass before this one hands on to it. By passes, edge n has the place of the last digit of n to base BASE that is not
  // 0, and later edges take the places of those before. So after a sweep down to pass n the edges of its block of BASE passes are
  // there, of the blocks of BASE before it in its block of BASE^2, and so on.
  __device__ work* edge_before(int pass) const {
    if (!Rule::EVERY_ROW || !by_pass || pass == 0) return edge;
    int place = -1;
    for (; pass % BASE == 0; pass /= BASE) place += BASE - 1;
    return edge + (long long)(place + pass % BASE) * problem.rows() * edge_values;
  }
  // Finds the paths where the workspace of the pair begins, and lays them out, unless an earlier stage has done that.
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
  // where the values of the column of this lane are
  __device__ work* nodes_of(int pass) const {
    return Rule::place(nodes, problem.rows(), (by_pass ? 0 : pass * team.warps) + team.warp, team.lane);
  }
  // what increments are multiplied by: the number of sub-cells to a cell, and a quarter where corners are summed for their mean
  __device__ work scale() const {
    return work(Rule::OF_SUM) / (work(1 << problem.order1) * work(1 << problem.order2));
  }

  // Sweeps down all rows. Returns what this thread adds to log K_DEPTH at the end. `watch`: what it has found on the way, strayed
  // where a K left the range of the running products or may have lost its digits (CAREFUL, PARTS: where a value asked for is not
  // finite). `last_row`, if any: what the rule keeps of the last row (EVERY_ROW:
  // `nodes`, if the values are to be kept). `values`, if any: those at every node, as `content` says; PARTS without GRID: those at
  // the end.
  __device__ work down(work* last_row, real* values, int content, int purpose, Watch<work>& watch) {
    work total = work(0);
    int pass = relay.progress ? relay.stage : 0;
    do {
      down(pass, last_row, values, content, purpose, total, watch);
    } while (!relay.progress && ++pass * team.warps * span() < problem.columns());
    watch.close();
    return total;
  }

  // Joins what the threads of a team have found, known to all of them, and what the stages before have told. Returns false where
  // further passes go on with it.
  __device__ bool collect(work& total, Watch<work>& watch, work* scratch) const {
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
      watch.wrong |= watch.template doubtful<Rule::GRID, Rule::EVERY_ROW>(size, levels());
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

  // By passes, before the way back through one of them: leaves its values, going down from the latest edge that is still there.
  // Where the next pass began a block, the edges of the block before it have gone.
  __device__ void down_again(int pass, int purpose) {
    work total = work(0);
    Watch<work> watch;
    int block = 1;
    if (pass + 1 < passes())  // the first sweep down has left all edges of the last pass
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
    strip.start(N);
    if constexpr (Rule::EVERY_ROW)
      if (last_row && start < C) {
        kept = nodes_of(pass);
        strip.keep_above(kept, team.lane == 0);
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
          if (last_row) strip.keep(kept + r * (long long)Rule::CELL, team.lane == 0);
        if (Rule::GRID && values && content != DIAGONAL) store(values, content, purpose, r, first, strip);
        if (Rule::GRID && !Rule::LAG && content == DIAGONAL && values) store_diagonal(values, purpose, r, first, strip);
      }
      team.barrier();
      relay.tell(team, phase + 1 - APART * (team.warps - 1));
    }
    if constexpr (!Rule::EVERY_ROW)
      if (last_row) strip.keep(N, last_row, first, C);
    if constexpr (!Rule::GRID && !Rule::PARTS && !Rule::EVERY_ROW) strip.ends.leave(total, watch);
    if constexpr (Rule::CAREFUL && !Rule::GRID)
      if (first == C - 1) {
        const work end = strip.corner(N, N - 1, 0, true, purpose);
        if (end != end) total = end;
      }
    if (Rule::PARTS && first == C - 1) {
      if (!Rule::GRID && values) values[0] = real(1);
#pragma unroll
      for (int m = 0; m < N; ++m) {
        const work end = strip.corner(N, m, 0, false, purpose);
        watch.wrong |= !is_finite(end);
        if (!Rule::GRID && values) values[m + 1] = real(end);
      }
    }
  }

  // Stores the row of the grid below the cells of row r, or for every level below those it is on, and the nodes of row and column 0
  // that lie next to it.
  __device__ __forceinline__ void store(real* grid, int content, int purpose, int r, int first,
                                        const typename Rule::Down& strip) const {
    const int C = problem.columns(), N = levels();
    const long long width = problem.grid_columns(), size = problem.grid_rows() * width, stride = Rule::PARTS ? N + 1 : 1;
#pragma unroll
    for (int m = -1; m < N; ++m) {
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

  // Stores the node below and to the right of cell (r, first), if it is one of two equal points of a path.
  __device__ __forceinline__ void store_diagonal(real* diagonal, int purpose, int r, int first,
                                                 const typename Rule::Down& strip) const {
    const int N = levels(), stride = Rule::PARTS ? N + 1 : 1, mask = (1 << problem.order1) - 1;
    if (r == 0 && first == 0)
      for (int n = 0; n < stride; ++n) diagonal[n] = real(Rule::PARTS && n == 0);
    if (r != first || ((r + 1) & mask) || first >= problem.columns()) return;
    real* node = diagonal + (long long)((r + 1) >> problem.order1) * stride;
    if (Rule::PARTS) node[0] = real(1);
#pragma unroll
    for (int m = 0; m < N; ++m)
      if (Rule::PARTS || m == N - 1) node[Rule::PARTS ? m + 1 : 0] = real(strip.corner(N, m, 0, true, purpose));
  }
  // Behind the last valid point it is constant.
  __device__ void extend_diagonal(real* diagonal) const {
    const int stride = Rule::PARTS ? levels() + 1 : 1, valid = problem.length1;
    for (int e = team.thread(); e < problem.padded1 * stride; e += team.threads())
      if (e >= valid * stride || valid == 1)
        diagonal[e] = valid == 1 ? real(Rule::PARTS && e % stride == 0) : diagonal[(valid - 1) * stride + e % stride];
  }

  // Where a path is padded its grids are constant behind the last valid node, and K is k_0 = 1 for a path of one point.
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
