// From the derivatives of the increments to the gradients of both paths: the adjoint of increments.cuh.
//
// Row by row upwards, a lane takes the contributions of the cells of its strip. It sums those to a point of the second path by itself,
// one row after the other. All lanes add to the sum of a point of the first path, from right to left, each a step after its right
// neighbour. These sums stay in shared memory until all lanes have passed, and are then written to the workspace.

// The sums for the gradients of a pair. LINEAR: of the steps, times their units. Radial kernels: of distances in units.
template <int CHANNELS, typename real, typename work>
struct GradientMemory {
  ::Rows<work, CHANNELS> sums1;    // (groups, length1 + 1)
  ::Group<work, CHANNELS>* sums2;  // (groups, lanes of all parts, POINTS)
  work* factors;                   // (parts): with respect to the logarithm of the factors of a dilated kernel; then the factors, (2)
  work* parameters;                // (parts, COUNT): contributions of the strips of a warp to the PARAMETERS of the static kernel
  real* increments;                // GIVEN: (padded1 - 1, padded2 - 1)
};

// Sums for the latest rows of a warp, in shared memory.
template <int CHANNELS, typename work>
struct RowSums {
  typedef ::Rows<work, CHANNELS> Rows;
  enum { ROWS = 64 };
  typename Rows::Piece piece[ROWS * Rows::PIECES];

  __device__ __forceinline__ typename Rows::Group at(int row) { return Rows{piece}.at(row % ROWS); }
  __device__ __forceinline__ void put(int row, const typename Rows::Group& sums) { Rows{piece}.put(row % ROWS, sums); }
};

template <int KERNEL, int COLUMNS, bool MORE, bool PARAMETERS, typename Increments, typename real, typename work>
struct Gradients {
  enum { POINTS = Increments::POINTS, CHANNELS = Increments::CHANNELS, COUNT = PARAMETERS ? int(ParametersOf<KERNEL>::COUNT) : 0 };
  typedef ::Group<work, CHANNELS> Group;
  typedef ::Rows<work, CHANNELS> Rows;
  typedef ::RowSums<CHANNELS, work> RowSums;
  // whether increments come from points instead of steps: a point needs the rows of cells on both sides of it, so it is completed with
  // the upper row, and the first point with a row above all cells
  static constexpr bool OF_POINTS = KERNEL != GIVEN && KERNEL != LINEAR;

  const Problem<real, MORE>& problem;
  const Team& team;
  const GradientMemory<CHANNELS, real, work>& memory;
  const Increments& increments;
  RowSums& rows;
  Group sum[POINTS];    // for the points of the strip, first group
  work below[COLUMNS];  // contributions of the row of cells below
  work of_parameter[2];  // PARAMETERS: contributions of the strip

  __device__ __forceinline__ Gradients(const Problem<real, MORE>& problem, const Team& team,
                                       const GradientMemory<CHANNELS, real, work>& memory, const Increments& increments,
                                       RowSums& rows)
      : problem(problem), team(team), memory(memory), increments(increments), rows(rows) {}

  // A part is the columns of a warp, or of half a warp. All parts have the same number of lanes.
  static __device__ int parts(const Problem<real, MORE>& problem, const Team& team) {
    return (problem.columns() - 1) / (team.lanes * COLUMNS) + 1;
  }
  static __device__ int lanes(const Problem<real, MORE>& problem, const Team& team) { return parts(problem, team) * team.lanes; }

  // pieces of the sums for the first path, and groups of those for the second
  static __device__ long long size1(const Problem<real, MORE>& problem) {
    return (long long)problem.template groups<CHANNELS>() * Rows::room(problem.length1 + 1);
  }
  static __device__ long long size2(const Problem<real, MORE>& problem, const Team& team) {
    return (long long)problem.template groups<CHANNELS>() * lanes(problem, team) * POINTS;
  }

  // Starts a strip; rows are added from the last one upwards.
  __device__ __forceinline__ void start() {
#pragma unroll
    for (int p = 0; p < POINTS; ++p) sum[p] = Group();
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) below[c] = work(0);
    of_parameter[0] = of_parameter[1] = work(0);
    for (int row = team.lane; row < RowSums::ROWS; row += team.lanes) rows.put(row, Group());
  }

  // Adds the derivatives of the increments of coarse row i.
  __device__ __forceinline__ void take(int i, work (&gbar)[COLUMNS]) {
    if (KERNEL == GIVEN) {
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c)
        if (increments.first + c < problem.columns())
          memory.increments[(long long)i * (problem.padded2 - 1) + increments.cell(c)] += real(gbar[c]);
      return;
    }
    const int row = i + OF_POINTS;
    const Group x = increments.paths.first(problem, 0, row);
    work weight[POINTS];
    if constexpr (OF_POINTS) {
      if constexpr (PARAMETERS && Increments::OF_CELLS)
        if (i >= 0 && increments.first < problem.columns()) {
          work change[2];
          changes_of_cell<KERNEL>(problem.parameter, increments.over_cell(i), change);
          of_parameter[0] += gbar[0] * change[0];
          if (KERNEL == RATIONAL_QUADRATIC) of_parameter[1] += gbar[0] * change[1];
        }
      weigh(row, x, gbar, weight);
    } else {
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) weight[c] = gbar[c];
    }
    Group of_row = rows.at(row);
#pragma unroll
    for (int p = 0; p < POINTS; ++p) add(of_row, sum[p], weight[p], x, increments.point[p]);
    rows.put(row, of_row);
#pragma unroll 1
    for (int group = 1; group < problem.template groups<CHANNELS>(); ++group) {
      const Group more = increments.paths.first(problem, group, row);
      const Rows sums = memory.sums1.group(group, problem.length1 + 1);
      Group* mine = slots(group, increments.first / COLUMNS);
      of_row = sums.at(row);
#pragma unroll
      for (int p = 0; p < POINTS; ++p) {
        Group of_point = mine[p];
        add(of_row, of_point, weight[p], more, increments.paths.second(problem, group, increments.node(p)));
        mine[p] = of_point;
      }
      sums.put(row, of_row);
    }
  }

  // d(out) / d b of point `row` and the points of the strip, from the cells of the strip only
  __device__ __forceinline__ void weigh(int row, const Group& x, work (&gbar)[COLUMNS], work (&weight)[POINTS]) {
#pragma unroll
    for (int c = COLUMNS - 1; c >= 0; --c) {
      if (increments.first + c >= problem.columns()) gbar[c] = work(0);
      if (increments.goes_on(c)) {
        gbar[c ? c - 1 : 0] += gbar[c];
        if (c) gbar[c] = work(0);
      }
    }
    work b[POINTS];
    increments.arguments_of_row(row, x, b);
#pragma unroll
    for (int p = 0; p < POINTS; ++p) weight[p] = work(0);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const work more = gbar[c] - below[c];
      weight[c] -= more;
      weight[c + 1] += more;
    }
#pragma unroll
    for (int p = 0; p < POINTS; ++p) {
      const work sloped = weight[p] * slope_of<KERNEL, Increments::OF_CELLS>(problem.parameter, b[p]);
      if (PARAMETERS && !Increments::OF_CELLS)
        add_changes<KERNEL, Increments::OF_CELLS>(problem.parameter, weight[p], sloped, b[p], of_parameter);
      weight[p] = sloped;
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) below[c] = gbar[c];
  }

  // sums += weight d kappa(x, y) / d x and d y, without the slope
  __device__ __forceinline__ void add(Group& of_x, Group& of_y, work weight, const Group& x, const Group& y) const {
#pragma unroll
    for (int n = 0; n < CHANNELS; ++n) {
      if (KERNEL == LINEAR || KERNEL == POLYNOMIAL) {
        of_x.channel[n] += weight * y.channel[n];
        of_y.channel[n] += weight * x.channel[n];
      } else {
        const work step = weight * Increments::apart(problem, x.channel[n], y.channel[n]);
        of_x.channel[n] += step;
        of_y.channel[n] -= step;
      }
    }
  }

  // the sums for the points of the strip of a lane, counted over all parts
  __device__ __forceinline__ Group* slots(int group, int lane) const {
    return memory.sums2 + ((long long)group * lanes(problem, team) + lane) * POINTS;
  }

  // All lanes have added the rows from..to - 1. The lane that flushes a row comes after the last lane that added to it. Parts are
  // processed from right to left; `first`: no other part has contributed.
  __device__ void pass_on(int from, int to, bool first) {
    if (KERNEL == GIVEN) return;
    for (int row = from + OF_POINTS + team.lane; row < to + OF_POINTS; row += team.lanes) {
      const Group total = first ? Group() : memory.sums1.at(row);
      Group sums = rows.at(row);
      rows.put(row, Group());
#pragma unroll
      for (int n = 0; n < CHANNELS; ++n) sums.channel[n] += total.channel[n];
      memory.sums1.put(row, sums);
    }
  }

  // Completes the strip.
  __device__ void finish_strip() {
    if constexpr (COUNT > 0)
#pragma unroll
      for (int k = 0; k < COUNT; ++k) {
        for (int distance = team.lanes / 2; distance; distance >>= 1)
          of_parameter[k] += __shfl_xor_sync(ALL_LANES, of_parameter[k], distance);
        const int part = (increments.first / COLUMNS - team.lane) / team.lanes;
        if (team.lane == 0) memory.parameters[part * COUNT + k] = of_parameter[k];
      }
    if (KERNEL == GIVEN || increments.first - team.lane * COLUMNS >= problem.columns()) return;
    Group* mine = slots(0, increments.first / COLUMNS);
#pragma unroll
    for (int p = 0; p < POINTS; ++p) mine[p] = sum[p];
  }
};

// The gradients of a pair, after all strips are complete.
template <int KERNEL, int COLUMNS, bool MORE, typename Strip, typename real, typename work>
struct GradientsOfPair {
  enum { POINTS = Strip::POINTS, CHANNELS = Strip::CHANNELS };
  typedef ::Group<work, CHANNELS> Group;
  const Problem<real, MORE>& problem;
  const Team& team;
  const GradientMemory<CHANNELS, real, work>& memory;

  // Sets all sums to 0.
  template <int COUNT>
  __device__ void clear() const {
    if (KERNEL == GIVEN) {
      const long long size = (long long)(problem.padded1 - 1) * (problem.padded2 - 1);
      for (long long e = team.thread(); e < size; e += team.threads()) memory.increments[e] = real(0);
    } else {
      const long long size1 = Strip::size1(problem), size2 = Strip::size2(problem, team);
      for (long long e = team.thread(); e < size1; e += team.threads()) memory.sums1.piece[e] = typename Strip::Rows::Piece();
      for (long long e = team.thread(); e < size2; e += team.threads()) memory.sums2[e] = Group();
      for (int part = team.thread(); part < Strip::parts(problem, team); part += team.threads()) {
        memory.factors[part] = work(0);
#pragma unroll
        for (int k = 0; k < COUNT; ++k) memory.parameters[part * COUNT + k] = work(0);
      }
    }
    team.barrier();
  }

  // Writes zeros over padding.
  __device__ void clear_padding(real* out1, real* out2) const {
    const long long d = problem.dimension;
    if (out1)
      for (long long e = problem.length1 * d + team.thread(); e < problem.padded1 * d; e += team.threads()) out1[e] = real(0);
    if (out2)
      for (long long e = problem.length2 * d + team.thread(); e < problem.padded2 * d; e += team.threads()) out2[e] = real(0);
  }

  // Writes the gradients times units and factors; returns whether one of them is not finite.
  __device__ bool write(real* out1, real* out2, work unit1, work unit2, const work (&factors)[2]) const {
    bool strayed = false;
    if (KERNEL == GIVEN) {
      const long long width = problem.padded2 - 1, size = (problem.length1 - 1) * width;
      for (long long e = team.thread(); e < size; e += team.threads()) {
        if (e % width >= problem.length2 - 1) continue;
        memory.increments[e] = real(weighted<true>(factors[0], work(memory.increments[e])));
        strayed |= !is_finite(memory.increments[e]);
      }
      return strayed;
    }
    if (out1) strayed |= write(false, out1, problem.length1, unit1, factors[0]);
    if (out2) strayed |= write(true, out2, problem.length2, unit2, factors[1]);
    return strayed;
  }

  // The gradients of the parameters of the static kernel, (2, COUNT), for both factors
  template <int COUNT>
  __device__ bool write_parameters(real* out, const work (&factors)[2]) const {
    bool strayed = false;
    if (team.thread() == 0)
#pragma unroll
      for (int k = 0; k < COUNT; ++k) {
        work sum = work(0);
        for (int part = 0; part < Strip::parts(problem, team); ++part) sum += memory.parameters[part * COUNT + k];
        for (int i = 0; i < 2; ++i) strayed |= !is_finite(out[i * COUNT + k] = real(weighted<true>(factors[i], sum)));
      }
    return strayed;
  }

  // The gradients of one path
  __device__ bool write(bool second, real* out, int length, work unit, work factor) const {
    const int d = problem.dimension, coordinates = problem.coordinates();
    bool strayed = false;
    for (int group = 0; group < problem.template groups<CHANNELS>(); ++group)
      for (int i = team.thread(); i < length; i += team.threads()) {
        Group made = KERNEL == LINEAR && i == length - 1 ? Group() : of(second, group, i);
        if (KERNEL == LINEAR) {
          const Group before = i ? of(second, group, i - 1) : Group();
#pragma unroll
          for (int n = 0; n < CHANNELS; ++n) made.channel[n] = before.channel[n] - made.channel[n];
        }
#pragma unroll
        for (int n = 0; n < CHANNELS; ++n) made.channel[n] *= unit;
#pragma unroll
        for (int n = 0; n < CHANNELS; ++n)
          if (group * CHANNELS + n < coordinates)
            strayed |= !is_finite(out[(long long)i * d + group * CHANNELS + n] = real(weighted<true>(factor, made.channel[n])));
      }
    if (Strip::OF_POINTS && problem.dilated)
      for (int i = team.thread(); i < length; i += team.threads())
        strayed |= !is_finite(out[(long long)i * d + d - 1] = i ? real(0) : real(weighted<true>(factor, of_factor(second))));
    return strayed;
  }

  // the gradients of point (LINEAR: step) i of a path
  __device__ __forceinline__ Group of(bool second, int group, int i) const {
    if (!second) return memory.sums1.group(group, problem.length1 + 1).at(i);
    const Group* sums = memory.sums2 + (long long)group * Strip::lanes(problem, team) * POINTS;
    const int C = problem.columns(), cell = KERNEL == LINEAR ? i : i - 1;
    Group total = Group();
    for (int c = max(cell, 0) << problem.order2; c < min((cell + 1) << problem.order2, C); ++c)
      add(total, sums[(long long)(c / COLUMNS) * POINTS + c % COLUMNS + (KERNEL != LINEAR)]);
    if (KERNEL != LINEAR)  // where the strip of a lane begins right of the point
      for (int c = i << problem.order2; c < min((i + 1) << problem.order2, C); ++c)
        if (c % COLUMNS == 0) add(total, sums[(long long)(c / COLUMNS) * POINTS]);
    return total;
  }
  static __device__ __forceinline__ void add(Group& total, const Group& more) {
#pragma unroll
    for (int n = 0; n < CHANNELS; ++n) total.channel[n] += more.channel[n];
  }

  __device__ work* dilations() const { return memory.factors + Strip::parts(problem, team); }
  __device__ work of_factor(bool second) const {
    work sum = work(0);
    for (int part = 0; part < Strip::parts(problem, team); ++part) sum += memory.factors[part];
    return sum / dilations()[second];
  }
};
