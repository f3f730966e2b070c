/* Increments for paths of many channels, and their gradients, as products of matrices, one pair after the other.

   With pairs in the lanes a tile takes as much memory as all its paths, which passes through the L1 cache once a band, and lanes
   without a pair of their own do all of the work. From MANY channels on sums over channels are made for a chunk of rows of a pair at
   once: lanes are columns, or for gradients channels, and a block of sums is held in registers. The linear kernels sum products of steps.
   All others sum products of points, or squares of their differences, and take the static kernel of a row of them (`profile`); by steps
   they sum what the corners of a cell differ by as well. Increments then change places with those of the other pairs of the tile
   (`into_lanes`).

   Every sum is that over channels in their order. Gradients are sums over all columns from the left, and over rows from the last one
   upwards: how many rows make a chunk has no say in them. */
#ifndef BS_PRODUCTS_H
#define BS_PRODUCTS_H

#include "increments.h"

enum { MANY = 16, CHUNK_CELLS = 16384 };

/* Rows and vectors of a block of sums: of products, the rows a number of whole vectors, and of weighted differences; rows of a block of
   corners */
enum { DOWN = BS_BYTES == 64 ? 8 : 4, ACROSS = 3, FEW_DOWN = BS_BYTES == 64 ? 4 : 2, FEW_ACROSS = 2, CORNERS_DOWN = BS_BYTES == 64 ? 6 : 2 };

typedef struct {
  int64_t rows, cells, channels; /* of a pair */
  int64_t points;                /* 1: sums are taken at points, of which there is one more than cells; 0: at the cells themselves */
  int64_t columns;               /* cells or points of a row */
  int64_t chunk;                 /* rows of cells at once, a multiple of BAND but for the last ones */
  int64_t high;                  /* rows of cells or points of a chunk, rounded up */
  int64_t width, span;           /* doubles of a row of columns, and of channels */
  int64_t first;                 /* the row that the chunk at hand begins with, or -1 */
  int sloped;                    /* kappa' of this chunk has been made too */
  int added;                     /* gradients with respect to the first path are added to those of other columns */
  int all_lanes;                 /* gradients of all lanes are kept, since they are sums over several chunks or steps */
  int twin[W];                   /* the first lane of those in a row that have the same pair */
  double *lanes;                 /* [lane][row][cell] of a chunk: increments, or derivatives with respect to them; zeros in front */
  int packed;                    /* the panels of all lanes are there */
  double *panels, *others;       /* of the second path: [lane][panel][channel][ACROSS vectors]; by steps, its steps */
  double *a, *b;                 /* of one lane: steps or points, [row][channel] of a chunk, [column][channel] */
  double *steps, *step_squares;  /* by steps: those of a, and |dx|^2 of every row */
  double *values;                /* of one lane: b, then kappa, [row][column] */
  double *along_x, *along_y, *bend; /* by steps: p, q and r of the corners, likewise */
  const double *held;            /* for gradients: the first path, of so many points, that a has been made from */
  int64_t held_points;
  double *slopes, *squares;      /* [lane][row][column] of a chunk: kappa', and b where parameters need it */
  double *changes[2];            /* by steps: [lane][row][cell], changes of increments with parameters */
  double *weights, *corner;      /* of points, [row][column]; of the row of cells below the chunk, [lane][column] */
  double *saved;                 /* rows of grad_a */
  double *grad_a, *grad_b;       /* [lane][row or column][channel]: with respect to steps or points */
} products;

BS_INLINE int64_t up_to(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

static int takes_products(const bs_task *task) {
  return task->static_kernel != BS_GIVEN && !task->nodes && coordinates(task) >= MANY && task->by_steps != BY_STEPS_IN_UNITS;
}

/* Gradients of radial kernels are sums of weighted differences of points, where those of points leave nothing but rounding. */
static int takes_differences(const bs_task *task) { return is_radial(task) && (task->by_steps || task->static_kernel == BS_MATERN12); }

/* Otherwise they need the sums of the weights as well: those of one more channel, which is 1. Points are then counted from the first one
   of the first path. */
static int has_ones(const bs_task *task) { return is_radial(task) && !takes_differences(task); }

/* c[r][v] (+)= sum over k < count of a[r][k] b[k][v], or (squares) of (a[r][k] - b[k][v])^2: rows of a and c, and values of a row of a, and
   rows of b lie so far apart. */
BS_INLINE void block_of_product(int across, int squares, int fresh, int64_t count, const double *a, int64_t a_row, int64_t a_next,
                                const double *b, int64_t b_next, double *c, int64_t c_row) {
  vec sum[DOWN][ACROSS];
  for (int r = 0; r < DOWN; ++r)
    for (int v = 0; v < across; ++v) sum[r][v] = fresh ? splat(0) : load(c + r * c_row + v * W);
  for (int64_t k = 0; k < count; ++k, a += a_next, b += b_next) {
    vec row[ACROSS];
    for (int v = 0; v < across; ++v) row[v] = load(b + v * W);
    for (int r = 0; r < DOWN; ++r) {
      const vec x = splat(a[r * a_row]);
      for (int v = 0; v < across; ++v) {
        const vec difference = x - row[v];
        sum[r][v] += squares ? difference * difference : x * row[v];
      }
    }
  }
  for (int r = 0; r < DOWN; ++r)
    for (int v = 0; v < across; ++v) store(c + r * c_row + v * W, sum[r][v]);
}

/* The same for any number of rows, which are rounded up, and of vectors; panels of b, ACROSS vectors each, lie `panel` apart. */
BS_INLINE void product_of(int squares, int fresh, int64_t rows, int64_t vectors, int64_t count, const double *a, int64_t a_row,
                          int64_t a_next, const double *b, int64_t b_next, int64_t panel, double *c, int64_t c_row) {
  for (int64_t v = 0; v < vectors; v += ACROSS, b += panel)
    for (int64_t r = 0; r < rows; r += DOWN) {
      const double *x = a + r * a_row;
      double *to = c + r * c_row + v * W;
#define BS_BLOCK(across)                                                                                       \
  fresh ? block_of_product(across, squares, 1, count, x, a_row, a_next, b, b_next, to, c_row)                  \
        : block_of_product(across, squares, 0, count, x, a_row, a_next, b, b_next, to, c_row)
      switch (least(vectors - v, ACROSS)) {
        case 1: BS_BLOCK(1); break;
        case 2: BS_BLOCK(2); break;
        default: BS_BLOCK(3);
      }
#undef BS_BLOCK
    }
}

static void product(int fresh, int64_t rows, int64_t vectors, int64_t count, const double *a, int64_t a_row, int64_t a_next,
                    const double *b, int64_t b_next, int64_t panel, double *c, int64_t c_row) {
  product_of(0, fresh, rows, vectors, count, a, a_row, a_next, b, b_next, panel, c, c_row);
}

/* c[r][v] (+)= sum over k < count of weight[r][k] (b[k][v] - a[r][v]); rows of a lie as those of c. */
BS_INLINE void block_of_differences(int across, int fresh, int64_t count, const double *weight, int64_t weight_row, int64_t weight_next,
                                    const double *b, int64_t b_next, const double *a, int64_t a_row, double *c, int64_t c_row) {
  vec sum[FEW_DOWN][FEW_ACROSS], own[FEW_DOWN][FEW_ACROSS];
  for (int r = 0; r < FEW_DOWN; ++r)
    for (int v = 0; v < across; ++v) {
      sum[r][v] = fresh ? splat(0) : load(c + r * c_row + v * W);
      own[r][v] = load(a + r * a_row + v * W);
    }
  for (int64_t k = 0; k < count; ++k, weight += weight_next, b += b_next)
    for (int v = 0; v < across; ++v) {
      const vec other = load(b + v * W);
      for (int r = 0; r < FEW_DOWN; ++r) sum[r][v] += splat(weight[r * weight_row]) * (other - own[r][v]);
    }
  for (int r = 0; r < FEW_DOWN; ++r)
    for (int v = 0; v < across; ++v) store(c + r * c_row + v * W, sum[r][v]);
}

static void differences(int fresh, int64_t rows, int64_t vectors, int64_t count, const double *weight, int64_t weight_row,
                        int64_t weight_next, const double *b, int64_t b_next, const double *a, int64_t a_row, double *c, int64_t c_row) {
  for (int64_t v = 0; v < vectors; v += FEW_ACROSS)
    for (int64_t r = 0; r < rows; r += FEW_DOWN) {
#define BS_BLOCK(across, fresh)                                                                                                     \
  block_of_differences(across, fresh, count, weight + r * weight_row, weight_row, weight_next, b + v * W, b_next, a + r * a_row + v * W, \
                       a_row, c + r * c_row + v * W, c_row)
      if (vectors - v == 1) {
        if (fresh) BS_BLOCK(1, 1); else BS_BLOCK(1, 0);
      } else {
        if (fresh) BS_BLOCK(FEW_ACROSS, 1); else BS_BLOCK(FEW_ACROSS, 0);
      }
#undef BS_BLOCK
    }
}

/* Of radial kernels, by steps: b = |u|^2 at the points of some rows and a vector of columns, u = x - y, and of the cells below and to the
   right of them p = 2 <dx, u> + |dx|^2, q = |dy|^2 - 2 <dy, u> and r = -2 <dx, dy>, from rows of points of x, of its steps and the squares of
   those, and from points of y and its steps. */
static void block_of_corners(int64_t channels, const double *x, const double *dx, int64_t span, const double *dx_squares, const double *y,
                             const double *dy, double *b, double *p, double *q, double *r, int64_t row) {
  vec b_sum[CORNERS_DOWN], p_sum[CORNERS_DOWN], q_sum[CORNERS_DOWN], r_sum[CORNERS_DOWN], dy_square = splat(0);
  for (int i = 0; i < CORNERS_DOWN; ++i) b_sum[i] = p_sum[i] = q_sum[i] = r_sum[i] = splat(0);
  for (int64_t k = 0; k < channels; ++k, y += ACROSS * W, dy += ACROSS * W) {
    const vec point = load(y), step = load(dy);
    dy_square += step * step;
    for (int i = 0; i < CORNERS_DOWN; ++i) {
      const vec u = splat(x[i * span + k]) - point, along = splat(dx[i * span + k]);
      b_sum[i] += u * u;
      p_sum[i] += along * u;
      q_sum[i] += step * u;
      r_sum[i] += along * step;
    }
  }
  for (int i = 0; i < CORNERS_DOWN; ++i, b += row, p += row, q += row, r += row) {
    store(b, b_sum[i]);
    store(p, 2.0 * p_sum[i] + dx_squares[i]);
    store(q, dy_square - 2.0 * q_sum[i]);
    store(r, -2.0 * r_sum[i]);
  }
}

/* Steps `first`.. of a path times two numbers, `rows` of them in rows of `span`, channels behind the last one and steps behind the end 0. */
static void steps_of(const products *p, const bs_task *task, const double *path, int64_t points, int64_t first, int64_t rows, double scale,
                     double factor, double *to) {
  const int64_t d = p->channels, apart = task->dimension;
  for (int64_t i = 0; i < rows; ++i, to += p->span) {
    const double *x = path + (first + i) * apart;
    int64_t k = 0;
    if (first + i + 1 < points) {
      for (; k + W <= d; k += W) store(to + k, (load(x + apart + k) - load(x + k)) * scale * factor);
      for (; k < d; ++k) to[k] = (x[apart + k] - x[k]) * scale * factor;
    }
    for (; k < p->span; ++k) to[k] = 0;
  }
}

/* Points `first`.. of a path, less the centre unless that is NULL, likewise; behind the end it stays where it is. With a centre there is
   one more channel, which is 1. */
static void points_of_path(const products *p, const bs_task *task, const double *path, int64_t points, int64_t first, int64_t rows,
                           const double *centre, double *to) {
  const int64_t d = p->channels;
  for (int64_t i = 0; i < rows; ++i, to += p->span) {
    const double *x = path + least(first + i, points - 1) * task->dimension;
    int64_t k = 0;
    for (; k + W <= d; k += W) {
      vec own = load(x + k);
      if (centre) own -= load(centre + k);
      store(to + k, own);
    }
    for (; k < d; ++k) to[k] = centre ? x[k] - centre[k] : x[k];
    if (centre) to[k++] = 1;
    for (; k < p->span; ++k) to[k] = 0;
  }
}

/* Points of a path, W of them to a vector, in panels; or its steps, times a number. */
static void panels_of(const products *p, const bs_task *task, const double *path, int64_t points, int steps, double scale, double *to) {
  const int64_t d = p->channels, apart = task->dimension, panel = ACROSS * W * d, last = points - 1;
  for (int64_t j = 0; j < p->width; j += W) {
    double *column = to + j / (ACROSS * W) * panel + j % (ACROSS * W);
    for (int64_t next = 0; next < d; next += W) {
      const int64_t k = least(next, d - W); /* the last W channels may be there already */
      vec row[W];
      for (int w = 0; w < W; ++w) {
        const double *y = path + least(j + w, last) * apart + k, *after = path + least(j + w + 1, last) * apart + k;
        row[w] = load(y);
        if (steps) row[w] = (load(after) - row[w]) * scale;
      }
      transpose(row);
      for (int w = 0; w < W; ++w) store(column + (k + w) * ACROSS * W, row[w]);
    }
  }
}

static void lay_out_products(products *p, const bs_task *task, int backward, int strips, char *base, int64_t *used) {
#define TAKE(count) (double *)((vec *)(base ? base + *used : NULL)); *used += up_to(count, W) * (int64_t)sizeof(double)
  p->rows = task->length1 - 1;
  p->cells = task->length2 - 1;
  p->channels = coordinates(task);
  p->points = !is_linear(task);
  p->columns = p->cells + p->points;
  p->width = up_to(p->columns, DOWN);
  p->span = up_to(p->channels + has_ones(task), W);
  p->chunk = CHUNK_CELLS / p->width / BAND * BAND;
  if (p->chunk < BAND) p->chunk = BAND;
  p->chunk = least(p->chunk, up_to(p->rows, BAND));
  p->high = up_to(p->chunk + p->points, DOWN);
  p->added = 0;
  p->all_lanes = strips || p->chunk < p->rows;
  const int64_t lanes = p->all_lanes ? W : 1, across = up_to(p->width, ACROSS * W), area = p->high * p->width;
  p->lanes = TAKE(W + W * p->chunk * p->width);
  p->lanes += W;
  p->a = TAKE((p->high + DOWN) * p->span);
  p->panels = TAKE(lanes * across * p->channels);
  if (p->points) {
    p->values = TAKE(area + W);
    if (task->by_steps) {
      p->others = TAKE(lanes * across * p->channels);
      p->steps = TAKE((p->high + DOWN) * p->span);
      p->step_squares = TAKE(p->high + DOWN);
      p->along_x = TAKE(area);
      p->along_y = TAKE(area);
      p->bend = TAKE(area);
    }
  }
  p->slopes = p->squares = p->changes[0] = p->changes[1] = NULL;
  if (!backward) return;
  p->b = TAKE(p->width * p->span);
  p->grad_a = TAKE(lanes * (up_to(p->rows, p->chunk) + DOWN) * p->span);
  p->grad_b = TAKE(lanes * p->width * p->span);
  if (!p->points) return;
  p->slopes = TAKE(W * area);
  p->weights = TAKE(area);
  p->corner = TAKE(W * p->width);
  p->saved = TAKE(DOWN * p->span);
  if (!task->grad_parameters) return;
  if (!task->by_steps && is_radial(task)) {
    p->squares = TAKE(W * area);
  }
  for (int k = 0; task->by_steps && k < layers_of(task); ++k) {
    p->changes[k] = TAKE(W * p->chunk * p->width);
  }
#undef TAKE
}

/* The sum of so many values, times others unless those are NULL, W of them at a time: values behind the last ones that are 0 change no bit. */
static double sum_of_row(const double *values, const double *others, int64_t count) {
  vec sum[2] = {splat(0), splat(0)};
  for (int64_t j = 0; j < count; j += W)
    if (others)
      sum[j / W % 2] += load(values + j) * load(others + j);
    else
      sum[j / W % 2] += load(values + j);
  sum[0] += sum[1];
  double total = 0;
  for (int w = 0; w < W; ++w) total += sum[0][w];
  return total;
}

/* The path of a lane is that of the one before, as in a Gram matrix, or where there are fewer pairs than lanes. */
BS_INLINE int is_repeated_path(const double *const path[W], const int64_t points[W], int w) {
  return w && path[w] == path[w - 1] && points[w] == points[w - 1];
}

/* A lane with a path that stands still, or without work of its own */
BS_INLINE int is_idle(const increments *in, int w) { return in->points1[w] == 1 || in->points2[w] == 1; }

/* kappa from b for so many values, in their place, and where there is room for them kappa' and b */
BS_INLINE void kappa_of_values(const bs_task *task, int kernel, int sloped, int64_t count, double *values, double *slopes, double *squares) {
  const double parameter[] = {task->parameter[0], task->parameter[1], task->parameter[2]};
  for (int64_t j = 0; j < count; j += W) {
    const vec b = load(values + j);
    vec slope;
    if (squares) store(squares + j, b);
    store(values + j, profile(kernel, parameter, b, sloped ? &slope : NULL));
    if (sloped) store(slopes + j, slope);
  }
  if (!sloped || kernel != BS_MATERN12) return;
  for (int64_t j = 0; j < count; j += W) store(slopes + j, matern12_slope(parameter, load(values + j), load(slopes + j)));
}

#define BS_KAPPA_OF(kernel)                                                                \
  static void kappa_of_##kernel(const bs_task *task, int64_t count, double *values, double *slopes, double *squares) { \
    if (slopes)                                                                            \
      kappa_of_values(task, kernel, 1, count, values, slopes, squares);                    \
    else                                                                                   \
      kappa_of_values(task, kernel, 0, count, values, NULL, NULL);                         \
  }
BS_KAPPA_OF(BS_POLYNOMIAL)
BS_KAPPA_OF(BS_RBF)
BS_KAPPA_OF(BS_MATERN12)
BS_KAPPA_OF(BS_MATERN32)
BS_KAPPA_OF(BS_MATERN52)
BS_KAPPA_OF(BS_RATIONAL_QUADRATIC)
BS_KAPPA_OF(BS_OTHER_POLYNOMIAL)
BS_KAPPA_OF(BS_OTHER_RATIONAL_QUADRATIC)

static void kappa_of(const bs_task *task, int64_t count, double *values, double *slopes, double *squares) {
  switch (profile_of(task)) {
    case BS_POLYNOMIAL: kappa_of_BS_POLYNOMIAL(task, count, values, slopes, squares); break;
    case BS_OTHER_POLYNOMIAL: kappa_of_BS_OTHER_POLYNOMIAL(task, count, values, slopes, squares); break;
    case BS_OTHER_RATIONAL_QUADRATIC: kappa_of_BS_OTHER_RATIONAL_QUADRATIC(task, count, values, slopes, squares); break;
    case BS_RBF: kappa_of_BS_RBF(task, count, values, slopes, squares); break;
    case BS_MATERN12: kappa_of_BS_MATERN12(task, count, values, slopes, squares); break;
    case BS_MATERN32: kappa_of_BS_MATERN32(task, count, values, slopes, squares); break;
    case BS_MATERN52: kappa_of_BS_MATERN52(task, count, values, slopes, squares); break;
    default: kappa_of_BS_RATIONAL_QUADRATIC(task, count, values, slopes, squares);
  }
}

/* A row of increments behind its last cell: paths that stand still there have none. */
BS_INLINE void end_row(int64_t cells, int64_t width, double *to) {
  for (int64_t j = cells; j < width; ++j) to[j] = 0;
}

/* factor times the increments of `rows` rows, of `cells` cells each, as second differences of kappa, of lane w to `to` */
static void increments_of_values(products *p, const increments *in, int w, int64_t rows, int64_t cells, const double *panels, double factor,
                                 double *to) {
  const bs_task *task = in->task;
  const int64_t n = p->width, vectors = n / W, panel = ACROSS * W * p->channels;
  double *slopes = in->gradient ? p->slopes + w * p->high * n : NULL, *squares = in->gradient && p->squares ? p->squares + w * p->high * n : NULL;
  if (is_radial(task))
    product_of(1, 1, rows + 1, vectors, p->channels, p->a, p->span, 1, panels, ACROSS * W, panel, p->values, n);
  else
    product(1, rows + 1, vectors, p->channels, p->a, p->span, 1, panels, ACROSS * W, panel, p->values, n);
  kappa_of(task, (rows + 1) * n, p->values, slopes, squares);
  const double *above = p->values, *below = above + n;
  for (int64_t i = 0; i < rows; ++i, above += n, below += n, to += n) {
    for (int64_t j = 0; j < cells; j += W)
      store(to + j, ((load(below + j + 1) - load(above + j + 1)) - (load(below + j) - load(above + j))) * factor);
    end_row(cells, n, to);
  }
}

/* The same from the corners of b. */
BS_INLINE void increments_of_corners(products *p, const increments *in, int changing, int w, int64_t rows, int64_t cells, double factor,
                                     double *to) {
  const bs_task *task = in->task;
  const measure by = measure_of(task);
  const int64_t n = p->width, size = p->chunk * n;
  for (int64_t i = 0; i < rows; ++i, to += n) {
    const double *b = p->values + i * n;
    for (int64_t j = 0; j < cells; j += W) {
      const corners at = {load(b + j), load(b + n + j), load(b + j + 1), load(b + n + j + 1),
                          load(p->along_x + i * n + j), load(p->along_y + i * n + j), load(p->bend + i * n + j)};
      vec change[2];
      store(to + j, increment_of(task, by, at, changing ? change : NULL) * factor);
      for (int k = 0; changing && k < layers_of(task); ++k) store(p->changes[k] + w * size + i * n + j, change[k] * factor);
    }
    end_row(cells, n, to);
    for (int k = 0; changing && k < layers_of(task); ++k) end_row(cells, n, p->changes[k] + w * size + i * n);
  }
}

static void increments_by_steps(products *p, const increments *in, int w, int64_t rows, int64_t cells, const double *panels,
                                const double *others, double factor, double *to) {
  const bs_task *task = in->task;
  const int64_t n = p->width, vectors = n / W, d = p->channels, panel = ACROSS * W * d;
  if (is_radial(task)) {
    for (int64_t v = 0; v < vectors; ++v)
      for (int64_t i = 0; i <= rows; i += CORNERS_DOWN) {
        const int64_t from = v / ACROSS * panel + v % ACROSS * W, at = i * n + v * W;
        block_of_corners(d, p->a + i * p->span, p->steps + i * p->span, p->span, p->step_squares + i, panels + from, others + from, p->values + at,
                         p->along_x + at, p->along_y + at, p->bend + at, n);
      }
  } else {
    product(1, rows + 1, vectors, d, p->a, p->span, 1, panels, ACROSS * W, panel, p->values, n);
    product(1, rows, vectors, d, p->steps, p->span, 1, panels, ACROSS * W, panel, p->along_x, n);
    product(1, rows, vectors, d, p->a, p->span, 1, others, ACROSS * W, panel, p->along_y, n);
    product(1, rows, vectors, d, p->steps, p->span, 1, others, ACROSS * W, panel, p->bend, n);
  }
  if (in->gradient) {
    double *slopes = p->slopes + w * p->high * n, *kappa = p->weights; /* which nobody needs yet */
    memcpy(kappa, p->values, (size_t)((rows + 1) * n) * sizeof(double));
    kappa_of(task, (rows + 1) * n, kappa, slopes, NULL);
  }
  if (!is_radial(task))
    for (int64_t j = 0; j < (rows + 1) * n; j += W) store(p->values + j, load(p->values + j) + task->parameter[1]);
  if (in->gradient && in->parameters)
    increments_of_corners(p, in, 1, w, rows, cells, factor, to);
  else
    increments_of_corners(p, in, 0, w, rows, cells, factor, to);
}

/* The rows of a chunk of all lanes to the lanes of a tile. */
static void chunk_into_lanes(const products *p, const double *chunk, int64_t rows, int64_t stride, vec *to) {
  const double *from[W];
  for (int w = 0; w < W; ++w) from[w] = chunk + p->twin[w] * p->chunk * p->width;
  for (int64_t i = 0; i < rows; ++i, to += stride) {
    into_lanes(from, p->cells, 0, to);
    for (int w = 0; w < W; ++w) from[w] += p->width;
  }
}

/* factor times the increments of the chunk that row `first` begins, of all lanes. */
static void load_chunk(products *p, const increments *in, int64_t first, double factor, vec *g) {
  const bs_task *task = in->task;
  const int64_t rows = least(p->chunk, p->rows - first), padded = up_to(rows + p->points, DOWN), size = p->chunk * p->width;
  const int64_t panel = ACROSS * W * p->channels, of_lane = p->all_lanes ? panel * (up_to(p->width, ACROSS * W) / (ACROSS * W)) : 0;
  const double scale = is_linear(task) ? task->parameter[0] : 1;
  double *panels = p->panels, *others = p->others;
  int latest = -1; /* the lane whose paths are in a and in panels */
  p->first = first;
  p->sloped = in->gradient;
  p->held = NULL;
  for (int w = 0; w < W; ++w) {
    double *to = p->lanes + w * size;
    p->twin[w] = is_repeated_path(in->x, in->points1, w) && is_repeated_path(in->y, in->points2, w) ? p->twin[w - 1] : w;
    if (p->twin[w] < w) continue;
    if (is_idle(in, w)) {
      end_row(0, size, to);
      for (int k = 0; k < 2 && p->changes[k]; ++k) end_row(0, size, p->changes[k] + w * size);
      continue;
    }
    const int same_first = latest >= 0 && in->x[w] == in->x[latest] && in->points1[w] == in->points1[latest];
    const int same_second = latest >= 0 && in->y[w] == in->y[latest] && in->points2[w] == in->points2[latest];
    if (!same_first && !p->points) steps_of(p, task, in->x[w], in->points1[w], first, padded, scale, factor, p->a);
    if (!same_first && p->points) points_of_path(p, task, in->x[w], in->points1[w], first, padded + DOWN, NULL, p->a);
    if (!same_first && task->by_steps) {
      steps_of(p, task, in->x[w], in->points1[w], first, padded + DOWN, 1, 1, p->steps);
      for (int64_t i = 0; i < padded; ++i) p->step_squares[i] = sum_of_row(p->steps + i * p->span, p->steps + i * p->span, p->span);
    }
    if (!same_second) {
      if (latest >= 0) panels += of_lane, others += of_lane;
      if (!p->packed) panels_of(p, task, in->y[w], in->points2[w], !p->points, scale, panels);
      if (!p->packed && task->by_steps) panels_of(p, task, in->y[w], in->points2[w], 1, 1, others);
    }
    latest = w;
    if (!p->points) {
      product(1, rows, p->width / W, p->channels, p->a, p->span, 1, panels, ACROSS * W, panel, to, p->width);
      continue;
    }
    const double by = factor * in->scale[w];
    if (task->by_steps)
      increments_by_steps(p, in, w, rows, in->points2[w] - 1, panels, others, by, to);
    else
      increments_of_values(p, in, w, rows, in->points2[w] - 1, panels, by, to);
    for (int64_t i = in->points1[w] - 1 - first > 0 ? in->points1[w] - 1 - first : 0; i < rows; ++i) end_row(0, p->width, to + i * p->width);
  }
  p->packed = p->all_lanes;
  chunk_into_lanes(p, p->lanes, rows, in->stride, g);
  for (int k = 0; p->points && in->gradient && in->parameters && task->by_steps && k < layers_of(task); ++k)
    chunk_into_lanes(p, p->changes[k], rows, in->stride, g + in->to_changes + k * in->layer);
}

/* The paths of the lanes are others now. */
static void open_products(products *p) {
  p->first = -1;
  p->packed = 0;
}

/* The derivatives with respect to the increments of the chunk at hand, every lane by itself. What fills up rows and columns is 0: it goes
   into sums that nobody looks at, but numbers that are none, or nearly 0, are slow. */
static void part_chunk(products *p, const increments *in, const vec *gradient) {
  p->held = NULL;
  const int64_t rows = least(p->chunk, p->rows - p->first), size = p->chunk * p->width;
  for (int w = 0; w < W && p->points; ++w) p->lanes[w * size - 1] = 0; /* the end of a row in front of each lane */
  for (int64_t i = 0; i < least(p->chunk, up_to(rows, DOWN)); ++i, gradient += in->stride)
    for (int64_t j = 0; j < p->width; j += W) {
      vec row[W];
      for (int w = 0; w < W; ++w) {
        row[w] = splat(0);
        if (i < rows && j + w < p->cells) row[w] = gradient[j + w];
      }
      transpose(row);
      for (int w = 0; w < W; ++w) store(p->lanes + w * size + i * p->width + j, row[w]);
    }
}

/* The gradients of lane w. */
BS_INLINE double *grad_a_of(const products *p, int w) {
  return p->grad_a + (p->all_lanes ? w * (up_to(p->rows, p->chunk) + DOWN) * p->span : 0);
}

BS_INLINE double *grad_b_of(const products *p, int w) { return p->grad_b + (p->all_lanes ? w * p->width * p->span : 0); }

/* What a row of points of lane w says of the parameters of the static kernel, as sum_over_points does. */
static void sum_over_row(const products *p, increments *in, int w, int64_t row, const double *weights) {
  const bs_task *task = in->task;
  const double *b = p->squares ? p->squares + (p->twin[w] * p->high + row) * p->width : NULL;
  in->d_parameter[0][w] += sum_of_row(weights, b, p->width);
  if (task->static_kernel != BS_RATIONAL_QUADRATIC) return;
  const double sigma = task->parameter[0], c = 0.5 / task->parameter[1] / sigma / sigma;
  vec sum = splat(0);
  for (int64_t j = 0; j < p->width; j += W) sum -= load(weights + j) * entropy(c * load(b + j));
  for (int v = 0; v < W; ++v) in->d_parameter[1][w] += sum[v];
}

/* The weights of the points of rows `top`.. to `bottom` of the chunk, of lane w, from the derivatives of its cells: see weigh_points. */
static void weigh_rows(products *p, increments *in, int w, int64_t top, int64_t bottom) {
  const int64_t n = p->width;
  const double sign = is_radial(in->task) ? -1 : 1, *cells = p->lanes + w * p->chunk * n, *slopes = p->slopes + p->twin[w] * p->high * n;
  const int parameters = in->parameters && !in->task->by_steps;
  double *corner = p->corner + w * n;
  for (int64_t i = bottom; i >= top; --i) {
    const double *above = cells + (i - 1) * n, *slope = slopes + i * n;
    double *weight = p->weights + (i - top) * n;
    for (int64_t j = 0; j < n; j += W) {
      vec difference = splat(0);
      if (i) difference = load(above + j - 1) - load(above + j); /* the row before ends in a 0 */
      store(weight + j, sign * (difference - load(corner + j)) * load(slope + j));
      store(corner + j, difference);
    }
    end_row(p->columns, n, weight);
    if (parameters) sum_over_row(p, in, w, i, weight);
  }
  for (int64_t i = bottom + 1 - top; i < up_to(bottom + 1 - top, DOWN); ++i) end_row(0, n, p->weights + i * n);
}

/* The gradients of lane w with respect to its steps or points from the chunk at hand, which has been parted, and the chunks below. Points
   on the edge of a chunk belong to the one above, which has all their cells. */
static void chunk_gradient(products *p, increments *in, int w) {
  const bs_task *task = in->task;
  const int64_t rows = least(p->chunk, p->rows - p->first), vectors = p->span / W, n = p->width, span = p->span;
  const int below = p->first + p->chunk < p->rows, centred = has_ones(task);
  const int64_t top = p->points && p->first > 0, count = p->points ? rows + 1 - top : rows;
  const double *weights = p->lanes + w * p->chunk * n;
  const double scale = is_linear(task) ? task->parameter[0] : 1, *centre = centred ? in->x[w] : NULL;
  double *grad_a = grad_a_of(p, w) + (p->first + top) * span, *grad_b = grad_b_of(p, w), *a = p->a;
  if (is_idle(in, w)) {
    if (!p->added) end_row(0, count * span, grad_a);
    if (!below) end_row(0, p->columns * span, grad_b);
    return;
  }
  if (p->points) {
    if (!below) end_row(0, n, p->corner + w * n);
    weigh_rows(p, in, w, top, rows);
    weights = p->weights;
    points_of_path(p, task, in->y[w], in->points2[w], 0, n, centre, p->b);
  } else {
    steps_of(p, task, in->y[w], in->points2[w], 0, p->cells, scale, 1, p->b);
  }
  if (p->held != in->x[w] || p->held_points != in->points1[w]) {
    if (p->points)
      points_of_path(p, task, in->x[w], in->points1[w], p->first, up_to(rows + 1, DOWN), centre, a);
    else
      steps_of(p, task, in->x[w], in->points1[w], p->first, rows, scale, 1, a);
  }
  p->held = in->x[w];
  p->held_points = in->points1[w];
  a += top * span;
  /* Rows are rounded up, and those that the chunk below has made may lie there. */
  const int64_t more = below ? (up_to(count, DOWN) - count) * span : 0;
  if (more) memcpy(p->saved, grad_a + count * span, (size_t)more * sizeof(double));
  if (takes_differences(task)) {
    differences(!p->added, count, vectors, p->columns, weights, n, 1, p->b, span, a, span, grad_a, span);
    differences(!below, p->columns, vectors, count, weights + (count - 1) * n, 1, -n, a + (count - 1) * span, -span, p->b, span, grad_b, span);
  } else {
    product(!p->added, count, vectors, p->columns, weights, n, 1, p->b, span, ACROSS * W, grad_a, span);
    product(!below, p->columns, vectors, count, weights + (count - 1) * n, 1, -n, a + (count - 1) * span, -span, ACROSS * W, grad_b, span);
  }
  if (more) memcpy(grad_a + count * span, p->saved, (size_t)more * sizeof(double));
}

/* Adds what the gradient by the steps of the second path of lane w, which has been made last, says of the scale, as sum_over_steps does. */
static void sum_over_steps_of_lane(const products *p, increments *in, int w) {
  const double over_scale = 1 / in->task->parameter[0], *gradient = grad_b_of(p, w);
  vec sum[2] = {splat(0), splat(0)};
  for (int64_t k = 0; k < p->cells * p->span; k += W) sum[k / W % 2] += load(gradient + k) * (load(p->b + k) * over_scale);
  sum[0] += sum[1];
  for (int v = 0; v < W; ++v) in->d_parameter[0][w] += 2 * sum[0][v];
}

/* to[i] += weight times the gradient with respect to point i of a path, given that with respect to the steps. */
static void flush_steps(const products *p, const double *gradient, int64_t points, double weight, double *to) {
  const int64_t d = p->channels;
  for (int64_t i = 0; i < points; ++i, gradient += p->span, to += d) {
    const int before = i > 0, after = i < points - 1;
    int64_t k = 0;
    for (; k + W <= d; k += W) {
      const vec from = before ? load(gradient - p->span + k) : splat(0), next = after ? load(gradient + k) : splat(0);
      store(to + k, load(to + k) + weight * (from - next));
    }
    for (; k < d; ++k) to[k] += weight * ((before ? gradient[k - p->span] : 0) - (after ? gradient[k] : 0));
  }
}

/* The same given sums over points of the other path, times their weights, and, where points are counted from a centre, the sum of these. */
static void flush_points(const products *p, const bs_task *task, const double *gradient, const double *path, const double *centre,
                         int64_t points, double weight, double *to) {
  const int64_t d = p->channels;
  for (int64_t i = 0; i < points; ++i, gradient += p->span, path += task->dimension, to += task->dimension) {
    const double sum = centre ? gradient[d] : 0;
    int64_t k = 0;
    for (; k + W <= d; k += W) {
      vec own = load(gradient + k);
      if (centre) own -= sum * (load(path + k) - load(centre + k));
      store(to + k, load(to + k) + weight * own);
    }
    for (; k < d; ++k) to[k] += weight * (gradient[k] - (centre ? sum * (path[k] - centre[k]) : 0));
  }
}

/* The gradient of lane w with respect to its first or second path, times a weight, to `to`. */
static void flush_products(const products *p, const increments *in, int second, int w, double weight, double *to) {
  const double *gradient = second ? grad_b_of(p, w) : grad_a_of(p, w), *path = second ? in->y[w] : in->x[w];
  const int64_t points = second ? in->points2[w] : in->points1[w];
  if (p->points)
    flush_points(p, in->task, gradient, path, has_ones(in->task) ? in->x[w] : NULL, points, weight, to);
  else
    flush_steps(p, gradient, points, weight, to);
}

#endif
