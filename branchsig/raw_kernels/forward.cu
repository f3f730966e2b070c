// Kernels or their logarithms (PARTS: k_0 to k_DEPTH; GRID false), or grids, of many pairs. A team processes one pair after the other,
// so only teams in flight need a workspace, unless pairs are relayed. CAREFUL kernels process the pairs that the others flag, and
// return at once if there are none; without flags they process all pairs.
//
// PADDED: lengths1 and lengths2 are the numbers of valid points of padded paths, or null. A call processes the pairs of
// more than `fewest` and at most `most` columns, so that every pair gets the strips that it would get alone.
template <typename real, int KERNEL, int CHANNELS, bool MORE, typename Rule, bool PADDED>
__global__ void __launch_bounds__(32 * LONGEST_TEAM, 1)
    forward(const real* path1, const real* path2, const real* increments, const int* lengths1, const int* lengths2,
            const Task<Rule> task, typename Rule::Work* workspace, int* progress, int* flags, real* ends, real* grid) {
  typedef typename Rule::Work work;
  constexpr bool GRID = Rule::GRID, CAREFUL = Rule::CAREFUL, PARTS = Rule::PARTS;
  __shared__ work scratch[LONGEST_TEAM];
  __shared__ typename Sweep<real, KERNEL, CHANNELS, MORE, Rule>::StagedRows staged[LONGEST_TEAM];
  __shared__ Relay<work> relay;
  __shared__ long long turn[LONGEST_TEAM];
  Problem<real, MORE> problem(task);
  const Team team(task.warps, task.lanes);
  const int within = threadIdx.x / task.lanes;
  const Turns<Task<Rule>, work> turns = {team, task, workspace, progress, relay, turn[within]};
  const int length1 = task.length1, length2 = task.length2, dimension = task.dimension, depth = task.depth;
  const int pairing = task.pairing, content = task.content, grids = content == ALL_LEVELS ? depth + 1 : 1;
  const long long of_grid = problem.grid_rows() * problem.grid_columns() * grids, n2 = task.n2;
  const long long nodes = content != DIAGONAL ? of_grid : (long long)length1 * (PARTS ? depth + 1 : 1);
  for (bool goes_on = turns.first(); goes_on; goes_on = turns.next()) {
    const long long k = turns.pair();
    if (CAREFUL && flags && !flags[k]) continue;
    const Pair pair(pairing, task.first_pair + k, n2);
    if (PADDED) {
      if (lengths1) problem.length1 = lengths1[pair.first];
      if (lengths2) problem.length2 = lengths2[pair.second];
      if (problem.columns() <= task.fewest || problem.columns() > task.most) continue;
    }
    Sweep<real, KERNEL, CHANNELS, MORE, Rule> sweep = {
        problem,
        team,
        task.weights,
        {KERNEL == GIVEN ? increments + k * (length1 - 1) * (length2 - 1) : path1 + pair.first * length1 * dimension,
         KERNEL == GIVEN ? increments : path2 + pair.second * length2 * dimension},
        turns.workspace_of(k),
        Rule::DOWN,
        staged[within],
        relay};
    if (relay.progress && relay.stage >= sweep.passes()) continue;
    sweep.take_up(sweep.edge, scratch);
    real* values = GRID ? grid + k * nodes : PARTS ? ends + pair.place(pairing, n2, task.first_pair + k) * (depth + 1) : nullptr;
    Watch<work> watch;
    work total = sweep.down(nullptr, values, content, task.purpose, watch);
    if (!sweep.collect(total, watch, task.purpose, scratch)) continue;
    if (GRID && PADDED) {
      if (content == DIAGONAL) {
        sweep.extend_diagonal(grid + turns.pair() * nodes);
      } else {
        sweep.extend(grid + turns.pair() * nodes, grids, content);
      }
    }
    if (!CAREFUL && team.thread() == 0) flags[turns.pair()] = watch.wrong;
    if (!GRID) {
      if (PARTS) team.barrier();  // wait for the values of another thread
      const long long number = task.first_pair + turns.pair();
      const Pair done(pairing, number, n2);  // recomputed, to save registers
      const long long place = done.place(pairing, n2, number) * (PARTS ? depth + 1 : 1);
      const long long other = (done.second * n2 + done.first) * (PARTS ? depth + 1 : 1);
      for (int n = team.thread(); n <= (PARTS ? depth : 0); n += team.threads()) {
        if (!PARTS) ends[place] = real(content == LOGARITHM ? total : exp(total));
        if (PARTS && problem.columns() == 0) ends[place + n] = real(n == 0);
        if (pairing == SYMMETRIC) ends[other + n] = ends[place + n];
      }
    }
  }
}
