// Log kernels (GRID false) or grids of many pairs. A team takes one pair after the other, so the workspace is that of the teams
// in flight. CAREFUL kernels do the pairs whose flag the others set, and leave at once where there are none.
template <typename real, typename work, int KERNEL, int DEPTH, int COLUMNS, bool GRID, bool CAREFUL>
__global__ void __launch_bounds__(32 * LONGEST_TEAM, 1)
    forward(const real* path1, const real* path2, const real* increments, int length1, int length2, int dimension, int order1,
            int order2, int depth, double parameter0, double parameter1, double parameter2, int pairing, long long n2,
            long long first_pair, long long pairs, int warps, work* workspace, long long workspace_size, int* flags,
            real* log_k, real* grid, int all_levels) {
  __shared__ work scratch[LONGEST_TEAM];
  const Problem<real> problem = {path1,  path2,  increments, length1,                              length2, dimension,
                                 order1, order2, depth,      {parameter0, parameter1, parameter2}};
  const Team team(warps);
  const long long teams = blockDim.x / (32 * warps), slot = blockIdx.x * teams + threadIdx.x / (32 * warps);
  const long long nodes = (long long)(problem.rows() + 1) * (problem.columns() + 1) * (all_levels ? depth + 1 : 1);
  for (long long k = slot; k < pairs; k += gridDim.x * teams) {
    if (CAREFUL && !flags[k]) continue;
    const Pair pair(pairing, first_pair + k, n2);
    Sweep<real, work, KERNEL, DEPTH, COLUMNS, GRID, CAREFUL> sweep = {
        problem,
        team,
        KERNEL == GIVEN ? increments + k * (length1 - 1) * (length2 - 1) : path1 + pair.first * length1 * dimension,
        KERNEL == GIVEN ? increments : path2 + pair.second * length2 * dimension,
        workspace + slot * workspace_size,
        2};
    bool strayed;
    const work total = team.sum(sweep.down(nullptr, GRID ? grid + k * nodes : nullptr, all_levels, false, strayed), scratch);
    strayed = team.any(strayed);
    if (team.thread() == 0) {
      if (!CAREFUL) flags[k] = strayed;
      if (!GRID && pairing == SYMMETRIC) {
        log_k[pair.first * n2 + pair.second] = log_k[pair.second * n2 + pair.first] = real(total);
      } else if (!GRID) {
        log_k[first_pair + k] = real(total);
      }
    }
    team.barrier();
  }
}
