// Increments of the static kernel, one row of cells at a time, for the strip of columns that a lane owns.
//
//   g(i, j) = kappa(x_{i+1}, y_{j+1}) - kappa(x_i, y_{j+1}) - kappa(x_{i+1}, y_j) + kappa(x_i, y_j)
//
// Linear kernels need only the steps of the paths: g = factor1 factor2 <x_{i+1} - x_i, y_{j+1} - y_j>. All others are a
// function phi of b = <x, y> (polynomial) or of b = |x - y|^2 (radial). These functions may be dilated: g times a factor of x and
// one of y, which are stored in a last channel.
//
// Differences of phi lose their digits if phi hardly changes along the paths. Pairs for which that may matter are processed by
// kernels that compute increments from differences of points, see static.cuh, in float64.
//
// A team lays out the points (linear: the steps) of its two paths in its workspace, in groups of CHANNELS channels. The first group
// of the points of y in a strip stays in registers; further groups are read again, from the cache.

// The problem, for all kernels. MORE: its paths have more channels than a group.
template <typename real, bool MORE>
struct Problem {
  int padded1, padded2, dimension;  // (n1, padded1, dimension), (n2, padded2, dimension); GIVEN: (pairs, padded1-1, padded2-1)
  int length1, length2;             // valid points of the two paths of a pair; padding is not read
  int order1, order2;               // dyadic orders
  int depth;
  int dilated;          // the last channel is not a coordinate: at the first point of a path it holds the factor of a dilated static kernel
  // of the static kernel. Linear kernels have a factor for each path. The first parameter of radial kernels multiplies b (Matern: its
  // root); the third and fourth are the units of b, see `apart`.
  double parameter[4];

  template <typename Task>
  __device__ explicit Problem(const Task& task)
      : padded1(task.length1), padded2(task.length2), dimension(task.dimension), length1(task.length1), length2(task.length2),
        order1(task.order1), order2(task.order2), depth(task.depth), dilated(task.dilated),
        parameter{task.parameter[0], task.parameter[1], task.parameter[2], task.parameter[3]} {}

  __device__ int rows() const { return (length1 - 1) << order1; }
  __device__ int columns() const { return (length2 - 1) << order2; }
  __device__ int coordinates() const { return dimension - dilated; }
  template <int CHANNELS>
  __device__ int groups() const {
    return MORE ? (coordinates() - 1) / CHANNELS + 1 : 1;
  }
  // nodes of the grids of all pairs, along the rows and the columns
  __device__ long long grid_rows() const { return ((long long)(padded1 - 1) << order1) + 1; }
  __device__ long long grid_columns() const { return ((long long)(padded2 - 1) << order2) + 1; }
};

// A group of channels of a point, or of a step; 0 after the last channel.
template <typename work, int CHANNELS>
struct alignas(16) Group {
  work channel[CHANNELS];
};

// Groups in memory, one per row, in pieces of 16 bytes, with the same piece of 32 rows side by side: an access by lanes on
// neighbouring rows then touches the fewest cache lines, and no bank of shared memory twice.
template <typename work, int CHANNELS>
struct Rows {
  typedef ::Group<work, CHANNELS> Group;
  enum { BLOCK = 32, VALUES = 16 / sizeof(work), PIECES = CHANNELS / VALUES };
  struct alignas(16) Piece {
    work value[VALUES];
  };
  Piece* piece;

  static __device__ __forceinline__ int room(int rows) { return (rows + BLOCK - 1) / BLOCK * BLOCK * PIECES; }  // in pieces
  static __device__ __forceinline__ int place(int row) { return row + (PIECES - 1) * (row & -BLOCK); }
  // start of the next group of `rows` rows, or of a later one
  __device__ __forceinline__ Rows group(int n, int rows) const { return {piece + n * (long long)room(rows)}; }

  __device__ __forceinline__ Group at(int row) const {
    const Piece* first = piece + place(row);
    Group made;
#pragma unroll
    for (int p = 0; p < PIECES; ++p) {
      const Piece part = first[p * BLOCK];
#pragma unroll
      for (int n = 0; n < VALUES; ++n) made.channel[p * VALUES + n] = part.value[n];
    }
    return made;
  }
  __device__ __forceinline__ void put(int row, const Group& group) const {
    Piece* first = piece + place(row);
#pragma unroll
    for (int p = 0; p < PIECES; ++p) {
      Piece part;
#pragma unroll
      for (int n = 0; n < VALUES; ++n) part.value[n] = group.channel[p * VALUES + n];
      first[p * BLOCK] = part;
    }
  }
};

// The two paths of a pair.
template <int KERNEL, int CHANNELS, bool MORE, typename real, typename work>
struct Paths {
  typedef ::Group<work, CHANNELS> Group;
  typedef ::Rows<work, CHANNELS> Rows;
  enum { BEFORE = KERNEL == LINEAR };  // rows of the first path before that of index 0
  const real *path1, *path2;           // (length, dimension); GIVEN: path1 has the increments
  // (groups, length + 1). LINEAR: the steps times the units below, with a step of 0 after the last one and, for the first path,
  // before the first one: cells there have no increment. Others: the points; a cell between equal points has no increment either.
  // The entry after the last point begins with the factor of a dilated kernel.
  Rows points1;
  __device__ __forceinline__ Rows points2(const Problem<real, MORE>& problem) const {
    return points1.group(problem.template groups<CHANNELS>(), problem.padded1 + 1);
  }

  // After the points: a bound for the sum of all |g|, infinite if the increments themselves have too few digits.
  __device__ work* moved(const Problem<real, MORE>& problem) const {
    return reinterpret_cast<work*>(points2(problem).group(problem.template groups<CHANNELS>(), problem.padded2 + 1).piece);
  }

  // Places both paths in memory. Returns the free memory after them.
  __device__ work* place(const Problem<real, MORE>& problem, work* memory) {
    if (KERNEL == GIVEN) return memory;
    points1.piece = reinterpret_cast<typename Rows::Piece*>(memory);
    return moved(problem) + Rows::VALUES;
  }
  // WATCHED: bounds the sum of all |g|.
  template <bool WATCHED, typename Team>
  __device__ __forceinline__ void lay_out(const Problem<real, MORE>& problem, const Team& team, work scale, work* scratch) const {
    if (KERNEL != GIVEN) laid_out<WATCHED>(*this, problem, team, scale, scratch);
  }
  // A separate function with arguments by value: otherwise its factors would occupy registers all the time.
  template <bool WATCHED, typename Team>
  static __device__ __noinline__ void laid_out(const Paths paths, const Problem<real, MORE> problem, const Team team, work scale,
                                               work* scratch) {
    paths.template lay_out_both<WATCHED>(problem, team, scale, scratch);
  }
  template <bool WATCHED, typename Team>
  __device__ __forceinline__ void lay_out_both(const Problem<real, MORE>& problem, const Team& team, work scale,
                                               work* scratch) const {
    Extent extent1, extent2;
    lay_out<WATCHED>(problem, team, path1, problem.length1, points1, BEFORE, unit(problem, scale, false), false, extent1);
    lay_out<WATCHED>(problem, team, path2, problem.length2, points2(problem), 0, unit(problem, scale, true), true, extent2);
    if (WATCHED) {
      team.sum_both(extent1.moved, extent2.moved, scratch);
      if (FAR) team.most_both(extent1.farthest, extent2.farthest, scratch);
      if (team.thread() == 0) *moved(problem) = sum_of_increments(problem, scale, extent1, extent2);
    }
    team.barrier();
  }
  // LINEAR: the factor of the steps of a path, such that their products are the increments times `scale`.
  static __device__ work unit(const Problem<real, MORE>& problem, work scale, bool of_second) {
    return work(problem.parameter[of_second]) * (of_second ? scale : work(1));
  }

  // The variation of a path: the sum of the norms of its steps (polynomial, linear) or of the features of its steps (radial), and the
  // largest norm of its points (FAR). In float32, since it only enters a bound.
  static constexpr bool FAR = KERNEL == POLYNOMIAL || KERNEL == RATIONAL_QUADRATIC;
  struct Extent {
    float moved = 0.0f, farthest = 0.0f;
  };
  // of a step or point, as far as a group of channels goes. The sum of the largest channels is for one path what the sum of all
  // channels is for the other: a product of the two bounds increments of the linear kernel, and no square of a step overflows.
  static __device__ __forceinline__ float norm(const work (&channel)[CHANNELS], bool largest, float rate) {
    float total = 0.0f;
#pragma unroll
    for (int n = 0; n < CHANNELS; ++n) {
      const float size = fabsf(float(channel[n])) * rate;
      total = KERNEL != LINEAR ? total + size * size : largest ? max(total, size) : total + size;
    }
    return KERNEL == LINEAR ? total : sqrtf(total);
  }
  // |phi(x + step) - phi(x)| for a step of this norm times the rate
  static __device__ __forceinline__ float of_features(float step) {
    if (KERNEL == POLYNOMIAL || KERNEL == LINEAR) return step;
    return fminf(KERNEL == MATERN12 ? sqrtf(2.0f * step) : step, 1.41421356f);
  }
  // upper bound of the factor from the norms of steps to those of their features
  static __device__ __forceinline__ float rate(const Problem<real, MORE>& problem) {
    const double p0 = problem.parameter[0], p1 = problem.parameter[1];
    if (KERNEL == RBF) return float(sqrt(2.0 * p0));
    if (KERNEL == RATIONAL_QUADRATIC) return float(p0 * sqrt(2.0 * p1));
    if (KERNEL == MATERN52) return float(p0 * 0.57735026918962573);
    return KERNEL == MATERN12 || KERNEL == MATERN32 ? float(p0) : 1.0f;
  }

  // Whether squares of distances in units of 1 keep all digits that a radial kernel needs. A rational quadratic kernel is far from 0
  // even where they overflow.
  static __device__ bool ordinary(const Problem<real, MORE>& problem, double farthest) {
    const double rate = KERNEL == RBF ? sqrt(problem.parameter[0]) : problem.parameter[0], most = sizeof(work) == 8 ? 0x1p450 : 0x1p45;
    return problem.parameter[2] == 1.0 && rate < most && rate > 1.0 / most && (KERNEL != RATIONAL_QUADRATIC || farthest < 0x1p60);
  }

  // A bound for the sum of all |g|; infinite if the digits that increments lose as differences of kappa may matter.
  __device__ work sum_of_increments(const Problem<real, MORE>& problem, work scale, const Extent& extent1, const Extent& extent2) const {
    const double moved = double(extent1.moved) * double(extent2.moved);
    if (KERNEL == LINEAR) return work(moved / double(scale));
    double of_cells = moved, largest = KERNEL == RATIONAL_QUADRATIC ? 1.0 + problem.parameter[1] : 1.0;
    const double cells = double(problem.length1 - 1) * double(problem.length2 - 1);
    if (KERNEL == POLYNOMIAL) {
      const double degree = problem.parameter[0], product = double(extent1.farthest) * double(extent2.farthest);
      const double base = product + fabs(problem.parameter[1]), factor = problem.parameter[2];
      largest = factor * pow(base, degree) * (1.0 + degree);
      // by both derivatives of kappa, where they are finite
      const double slopes = factor * degree * pow(base, degree - 2.0) * (base + degree * product);
      of_cells = degree < 2.0 ? 1.0 / 0.0 : moved * slopes;
    }
    if (KERNEL >= RBF && !ordinary(problem, double(extent1.farthest) + double(extent2.farthest))) return work(1) / work(0);
    const bool kept = largest * sqrt(cells) <= Watch<work>::of_increments() * of_cells;
    const double factors = problem.dilated ? fabs(double(dilation(problem, false)) * double(dilation(problem, true))) : 1.0;
    return kept ? work(of_cells * factors) : work(1) / work(0);
  }
  template <bool WATCHED, typename Team>
  static __device__ void lay_out(const Problem<real, MORE>& problem, const Team& team, const real* path, int length,
                                 const Rows& points, int before, work unit, bool of_second, Extent& extent) {
    enum { AT_ONCE = 4 };  // outstanding loads of a thread, in rows
    const int d = problem.dimension, coordinates = problem.coordinates(), rows = length + before, threads = team.threads();
    const float of_steps = WATCHED && KERNEL != LINEAR ? rate(problem) : 1.0f;
    for (int group = 0; group < problem.template groups<CHANNELS>(); ++group)
      for (int first = team.thread(); first < rows; first += AT_ONCE * threads) {
        Group made[AT_ONCE];
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k) {
          const int i = first + k * threads - before;
          const real* point = path + (long long)i * d + group * CHANNELS;
          const bool empty = i >= length || (KERNEL == LINEAR && (i < 0 || i == length - 1));
#pragma unroll
          for (int n = 0; n < CHANNELS; ++n)
            made[k].channel[n] = empty || group * CHANNELS + n >= coordinates ? work(0)
                                 : KERNEL == LINEAR                           ? (work(point[n + d]) - work(point[n])) * unit
                                                                              : work(point[n]);
          if (WATCHED && KERNEL == LINEAR) extent.moved += norm(made[k].channel, of_second, 1.0f);
          if (WATCHED && FAR) extent.farthest = larger(extent.farthest, norm(made[k].channel, false, 1.0f));
          if (WATCHED && KERNEL != LINEAR && i < length - 1) {
            work step[CHANNELS];
#pragma unroll
            for (int n = 0; n < CHANNELS; ++n)
              step[n] = group * CHANNELS + n < coordinates ? work(point[n + d]) - work(point[n]) : work(0);
            extent.moved += of_features(norm(step, false, of_steps));
          }
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE; ++k)
          if (first + k * threads < rows) points.group(group, length + 1).put(first + k * threads, made[k]);
      }
    if (KERNEL != LINEAR && problem.dilated && team.thread() == 0) {
      Group last = Group();
      last.channel[0] = work(path[d - 1]);
      points.put(length, last);
    }
  }
  __device__ __forceinline__ work dilation(const Problem<real, MORE>& problem, bool of_second) const {
    return of_second ? second(problem, 0, problem.length2).channel[0] : first(problem, 0, problem.length1).channel[0];
  }
  __device__ __forceinline__ Group first(const Problem<real, MORE>& problem, int group, int i) const {
    return points1.group(group, problem.length1 + 1).at(i + BEFORE);
  }
  __device__ __forceinline__ Group second(const Problem<real, MORE>& problem, int group, int j) const {
    return points2(problem).group(group, problem.length2 + 1).at(j);
  }
};

// The increments of the columns first..first + COLUMNS - 1 of the refined grid, times a factor, row by row of the coarse grid, upwards
// or downwards, but always a row next to the one before. Outside the cells of the two paths they are 0. MASKED: even if the paths are
// infinite there; rows are inside. STABLE: from differences of points, a cell at a time.
template <int KERNEL, int COLUMNS, int WIDTH, bool MORE, bool MASKED, bool STABLE, typename real, typename work>
struct Increments {
  enum { CHANNELS = WIDTH };
  typedef ::Group<work, CHANNELS> Group;
  enum { POINTS = KERNEL == GIVEN ? 1 : KERNEL == LINEAR ? COLUMNS : COLUMNS + 1 };
  static constexpr bool OF_CELLS = STABLE && KERNEL != GIVEN && KERNEL != LINEAR;
  static_assert(!OF_CELLS || COLUMNS == 1, "a cell of several columns has its left point further left");
  const Problem<real, MORE>& problem;
  const Paths<KERNEL, CHANNELS, MORE, real, work>& paths;
  int first;
  work factor;  // LINEAR: included in the paths, and not used here
  Group point[POINTS];
  // Forward, the point (LINEAR: the step) of the first path that the next row of cells needs, prefetched. In the backward sweep its
  // registers have other uses, and the row is likely to be in the cache.
  Group ahead;
  work latest[POINTS];  // kappa at the latest row of points

  __device__ __forceinline__ Increments(const Problem<real, MORE>& problem, const Paths<KERNEL, CHANNELS, MORE, real, work>& paths)
      : problem(problem), paths(paths) {}

  __device__ __forceinline__ int cell(int column) const { return (first + column) >> problem.order2; }
  // The point right of column `slot - 1`; slot 0 is the one left of the strip. LINEAR: the step of column `slot`.
  __device__ __forceinline__ int node(int slot) const {
    return min(KERNEL == LINEAR || !slot ? cell(slot) : cell(slot - 1) + 1, problem.length2 - 1);
  }
  // whether a column belongs to the cell of the one before it
  __device__ __forceinline__ bool goes_on(int column) const {
    return column && ((first + column) & ((1 << problem.order2) - 1));
  }
  __device__ __forceinline__ int inside(int row) const { return min(max(row, KERNEL == LINEAR ? -1 : 0), problem.length1 - 1); }

  // Starts the strip. `row` is the first row that will be requested.
  __device__ __forceinline__ void start(int first_column, int row, bool up, work scale) {
    first = first_column;
    factor = scale;
    if (KERNEL == GIVEN) return;
    if (KERNEL != LINEAR && problem.dilated)
      factor *= paths.dilation(problem, false) * paths.dilation(problem, true);
#pragma unroll
    for (int p = 0; p < POINTS; ++p) point[p] = paths.second(problem, 0, node(p));
    if (OF_CELLS) return;
    if (KERNEL != LINEAR) {
      const int edge = up ? problem.length1 - 1 : 0;
      if (!up) ahead = paths.first(problem, 0, edge);
      points_of_row(edge, up, latest);
    }
    look_ahead(row, up);
  }

  __device__ __forceinline__ void look_ahead(int row, bool up) {
    if (!up) ahead = paths.first(problem, 0, inside(KERNEL == LINEAR ? row : row + 1));
  }

  // b of point `row`, whose first group is x, and the points of the strip
  __device__ __forceinline__ void arguments_of_row(int row, const Group& x, work (&b)[POINTS]) const {
#pragma unroll
    for (int p = 0; p < POINTS; ++p) {
      b[p] = work(0);
      add_to_argument(b[p], x, point[p]);
    }
#pragma unroll 1
    for (int group = 1; group < problem.template groups<CHANNELS>(); ++group) {
      const Group more = paths.first(problem, group, row);
#pragma unroll
      for (int p = 0; p < POINTS; ++p) add_to_argument(b[p], more, paths.second(problem, group, node(p)));
    }
  }
  __device__ __forceinline__ void add_to_argument(work& b, const Group& x, const Group& y) const {
#pragma unroll
    for (int n = 0; n < CHANNELS; ++n) {
      const work difference = apart(problem, x.channel[n], y.channel[n]);
      b += KERNEL == POLYNOMIAL ? x.channel[n] * y.channel[n] : difference * difference;
    }
  }
  // x - y. OF_CELLS: in units in which its square keeps all its digits; larger differences count as infinite and are clipped.
  static __device__ __forceinline__ work apart(const Problem<real, MORE>& problem, work x, work y) {
    if (!OF_CELLS) return x - y;
    const work difference = (x - y) * work(problem.parameter[2]), most = work(problem.parameter[3]);
    return difference > most ? most : difference < -most ? -most : difference;
  }

  // kappa at point `row`, forward the prefetched one, and the points of the strip
  __device__ __forceinline__ void points_of_row(int row, bool up, work (&kappa)[POINTS]) const {
    work b[POINTS];
    arguments_of_row(row, up ? paths.first(problem, 0, row) : ahead, b);
#pragma unroll
    for (int p = 0; p < POINTS; ++p) kappa[p] = kappa_of<KERNEL, OF_CELLS>(problem.parameter, b[p]);
  }

  // Contribution of a channel to b over a cell
  static __device__ __forceinline__ void add_products(OverCell<work>& b, const work (&x)[2], const work (&y)[2]) {
    const work down = x[1] - x[0], along = y[1] - y[0];
    b.both += down * along;
#pragma unroll
    for (int p = 0; p < 2; ++p) {
#pragma unroll
      for (int q = 0; q < 2; ++q) b.at[p][q] += x[p] * y[q];
      b.down[p] += down * y[p];
      b.along[p] += along * x[p];
    }
  }
  // Clipped differences no longer follow from the steps.
  __device__ __forceinline__ void add_squares(OverCell<work>& b, const work (&x)[2], const work (&y)[2]) const {
    const work down = apart(problem, x[1], x[0]), along = apart(problem, y[1], y[0]), most = work(problem.parameter[3]);
    work u[2][2], square[2][2], over_x[2], over_y[2];
    bool cut[2][2];
#pragma unroll
    for (int p = 0; p < 2; ++p)
#pragma unroll
      for (int q = 0; q < 2; ++q) {
        u[p][q] = apart(problem, x[p], y[q]);
        b.at[p][q] += square[p][q] = u[p][q] * u[p][q];
        cut[p][q] = fabs(u[p][q]) >= most;
      }
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      over_x[p] = square[1][p] - square[0][p];
      over_y[p] = square[p][1] - square[p][0];
      b.down[p] += cut[0][p] || cut[1][p] ? over_x[p] : down * (u[0][p] + u[1][p]);
      b.along[p] += cut[p][0] || cut[p][1] ? over_y[p] : -along * (u[p][0] + u[p][1]);
    }
    // By the way that does not cross to what is far: where a row is, along the columns.
    const bool by_y = fabs(over_x[0]) > fabs(over_y[0]);
    b.both += cut[0][0] || cut[0][1] || cut[1][0] || cut[1][1] ? (by_y ? over_y[1] - over_y[0] : over_x[1] - over_x[0])
                                                              : work(-2) * down * along;
  }

  // b over the cell of coarse row i
  __device__ inline OverCell<work> over_cell(int i) const {
    OverCell<work> b = OverCell<work>();
#pragma unroll 1
    for (int group = 0; group < problem.template groups<CHANNELS>(); ++group) {
      const Group above = paths.first(problem, group, inside(i)), below = paths.first(problem, group, inside(i + 1));
      const Group left = paths.second(problem, group, node(0)), right = paths.second(problem, group, node(1));
#pragma unroll
      for (int n = 0; n < CHANNELS; ++n) {
        const work x[2] = {above.channel[n], below.channel[n]}, y[2] = {left.channel[n], right.channel[n]};
        if (KERNEL == POLYNOMIAL) {
          add_products(b, x, y);
        } else {
          add_squares(b, x, y);
        }
      }
    }
    if (KERNEL == POLYNOMIAL)
#pragma unroll
      for (int p = 0; p < 4; ++p) b.at[p / 2][p % 2] += work(problem.parameter[1]);
    return b;
  }

  // The increments of coarse row i. `leaves`: the next requested row is a different one.
  __device__ __forceinline__ void of_row(int i, bool up, bool leaves, work (&g)[COLUMNS]) {
    const int next = leaves ? up ? i - 1 : i + 1 : i;
    if (KERNEL == GIVEN) {
      const int nearest = min(max(i, 0), problem.length1 - 2), last = problem.length2 - 2;
      const real* row = paths.path1 + (long long)nearest * (problem.padded2 - 1);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) g[c] = i == nearest ? work(row[min(cell(c), last)]) : work(0);
    } else if (KERNEL == LINEAR) {
      const Group step = up ? paths.first(problem, 0, inside(i)) : ahead;
      look_ahead(next, up);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        g[c] = work(0);
        add_product(g[c], step, point[c]);
      }
#pragma unroll 1
      for (int group = 1; group < problem.template groups<CHANNELS>(); ++group) {
        const Group more = paths.first(problem, group, inside(i));
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c) add_product(g[c], more, paths.second(problem, group, node(c)));
      }
    } else if constexpr (OF_CELLS) {
      g[0] = second_difference<KERNEL>(problem.parameter, over_cell(i));
    } else {
      work fresh[POINTS];
      points_of_row(inside(up ? i : i + 1), up, fresh);
      look_ahead(next, up);
      work before = up ? latest[0] - fresh[0] : fresh[0] - latest[0];
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        const work after = up ? latest[c + 1] - fresh[c + 1] : fresh[c + 1] - latest[c + 1];
        // A cell of several columns has its left point further left than the column before.
        g[c] = goes_on(c) ? g[c ? c - 1 : 0] : after - before;
        before = after;
      }
#pragma unroll
      for (int p = 0; p < POINTS; ++p) latest[p] = leaves ? fresh[p] : latest[p];
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c)
      g[c] = MASKED && first + c >= problem.columns() ? work(0) : KERNEL == LINEAR ? g[c] : g[c] * factor;
  }
  static __device__ __forceinline__ void add_product(work& g, const Group& x, const Group& y) {
#pragma unroll
    for (int n = 0; n < CHANNELS; ++n) g += x.channel[n] * y.channel[n];
  }
};
