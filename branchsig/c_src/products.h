/* Increments for paths of many channels, and their gradients, as products of matrices, one pair after the other.

   With pairs in the lanes a tile takes as much memory as all its paths, which passes through the L1 cache once a band, and lanes
   without a pair of their own do all of the work. With many channels sums over them are made for a chunk of rows of a pair at once
   (`would_take_products`): lanes are columns, or for gradients channels, and a block of sums is held in registers. The linear kernels sum products of steps.
   All others sum products of points, or squares of their differences, and take the static kernel of a row of them (`profile`); by steps
   they sum what the corners of a cell differ by as well. Increments then change places with those of the other pairs of the tile
   (`into_lanes`).

   Where both paths lie within a few lengths of a radial kernel (`compact`), the square of a distance is that of two points counted from
   the first one of x, less twice their product: it is off by rounding of a few squared lengths, which kernels that are smooth there do not
   see. By steps, what b differs by along both steps of a cell, r = -2 <dx, dy>, is a product; p along x alone grows by r from column to
   column, q along y alone grows by r from row to row, and b by p. So p is summed over channels in every ANCHOR-th column alone, and q and b
   in every ANCHOR-th row.

   Every sum is that over channels in their order. Gradients are sums over all columns from the left, and over rows from the last one
   upwards: how many rows make a chunk has no say in them. A chunk of many channels has CHUNK_ROWS rows or more: what it reads and writes of the
   whole second path, and of its gradient, is then little beside the sums. */
#ifndef BS_PRODUCTS_H
#define BS_PRODUCTS_H

#include "blocks.h"
#include "increments.h"

enum { MANY = 16, POINTS_OF_MANY = 6, NUMBERS_OF_MANY = 200, POINTS_BY_STEPS = 20, CHUNK_CELLS = 16384, CHUNK_CHANNELS = 64, CHUNK_ROWS = 64, ANCHOR = 8 };

/* What is made of a path, or of so many rows of it: points or (linear) steps, and where they are needed steps beside points, every ANCHOR-th
   point, |x|^2 and |dx|^2 of every row, and <dx, dx + 2 x>. */
enum { POINTS, STEPS, ANCHORS, SQUARES, STEP_SQUARES, SLANTS, PARTS };

typedef struct {
  double *points, *steps, *anchors, *squares, *step_squares, *slants;
} material;

/* The path that they are made of, and the row they begin with */
typedef struct {
  const double *path, *centre;
  int64_t points, first;
} source;

/* Such parts of several paths, each in a place of its own. */
typedef struct {
  double *part[PARTS];  /* of the first place, or NULL */
  int64_t size[PARTS];  /* doubles of a place */
  source made_of[W];    /* what each place holds */
  int places, next;     /* how many there are, and which of them makes room next: it has been filled the longest time ago */
} side;

typedef struct {
  int64_t rows, cells, channels; /* of a pair */
  int64_t points;                /* 1: sums are taken at points, of which there is one more than cells; 0: at the cells themselves */
  int64_t columns;               /* cells or points of a row */
  int64_t chunk;                 /* rows of cells at once, a multiple of BAND but for the last ones */
  int64_t high;                  /* rows of cells or points of a chunk, rounded up */
  int64_t width, span;           /* doubles of a row of columns, and of channels */
  int64_t first;                 /* the row that the chunk at hand begins with, or -1 */
  int sloped;                    /* kappa' of this chunk has been made too */
  int anchored;                  /* p, q and b are summed over channels at anchors alone */
  int added;                     /* gradients with respect to the first path are added to those of other columns */
  int all_lanes;                 /* gradients of all lanes are kept, since they are sums over several chunks or steps */
  int twin[W];                   /* the first lane of those in a row that have the same pair */
  double *lanes;                 /* [lane][row][cell] of a chunk: increments, or derivatives with respect to them; zeros in front */
  side x, y;                     /* for sums over channels: rows of a chunk, [row][channel], and columns, in panels, [panel][channel][PANEL] */
  side of_x, of_y;               /* for gradients: the same rows, and the second path, both in panels of channels, [panel][row][PANEL] */
  double *values;                /* of one lane: b, then kappa, [row][column] */
  double *along_x, *along_y, *bend; /* by steps: p, q and r of the corners, likewise, or where anchored products that they are made from */
  double *base;                  /* anchored: products of points, [anchored row][column] */
  double *slopes, *squares;      /* [lane][row][column] of a chunk: kappa', and b where parameters need it, or NULL */
  double *all_slopes, *all_squares; /* of the first chunk that there is room for */
  int64_t apart;                 /* from one of those to the next, or 0 where there is room for one */
  double *changes[2];            /* by steps: [lane][row][cell], changes of increments with parameters */
  double *weights, *corner;      /* of points, [row][column]; of the row of cells below the chunk, [lane][column] */
  double *grad_a, *grad_b;       /* [lane][panel][row or column][PANEL]: with respect to steps or points */
} products;

BS_INLINE int64_t up_to(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

/* Whether sums over channels are made by products for pairs of this kind, the shorter path of which has so many points. They are worth their
   preparations with MANY channels, where it has POINTS_OF_MANY points and NUMBERS_OF_MANY coordinates; by steps and compact, where sums are
   several, with POINTS_BY_STEPS points in few channels too. Not a rational quadratic kernel with a very small alpha: it varies over
   lengths of sqrt(2 alpha) sigma, beside which rounding of sums over channels would show where points meet. */
static int would_take_products(const bs_task *task, int by_steps, int compact, int64_t points) {
  if (task->static_kernel == BS_RATIONAL_QUADRATIC && task->parameter[1] < BS_LEAVES) return 0;
  if (task->static_kernel == BS_GIVEN || task->nodes || by_steps == BY_STEPS_IN_UNITS) return 0;
  if (coordinates(task) >= MANY) return points >= POINTS_OF_MANY && points * coordinates(task) >= NUMBERS_OF_MANY;
  return by_steps && compact && points >= POINTS_BY_STEPS;
}

/* The place for what is made of a path, and whether it is there already. */
static int find_place(side *s, source wanted, int *found) {
  for (int place = 0; place < s->places; ++place) {
    const source *held = &s->made_of[place];
    *found = held->path == wanted.path && held->centre == wanted.centre && held->points == wanted.points && held->first == wanted.first;
    if (*found) return place;
  }
  const int place = s->next;
  s->next = (place + 1) % s->places;
  s->made_of[place] = wanted;
  return place;
}

BS_INLINE material material_at(const side *s, int place) {
#define AT(which) s->part[which] + place * s->size[which]
  return (material){AT(POINTS), AT(STEPS), AT(ANCHORS), AT(SQUARES), AT(STEP_SQUARES), AT(SLANTS)};
#undef AT
}

/* How the increments of a pair are made. */
typedef struct {
  int by_steps, compact, products;
} kind;

BS_INLINE int is_same(kind a, kind b) { return a.by_steps == b.by_steps && a.compact == b.compact && a.products == b.products; }

/* No point is further from the first one of the first path than so many lengths of the static kernel, squared. */
#define BS_COMPACT 4

static int lies_within(const double *x, int64_t points, int64_t channels, int64_t apart, const double *centre, double square) {
  for (int64_t i = points - 1; i >= 0; --i)
    if (!(square_of(x + i * apart, centre, channels) <= square)) return 0;
  return 1;
}

/* Two paths of so many points lie within few lengths of a static kernel that is smooth where points coincide, and needs no unit; for a
   rational quadratic kernel with a small alpha these are lengths of sqrt(2 alpha) sigma. */
static int is_compact(const bs_task *task, const double *x, int64_t points1, const double *y, int64_t points2) {
  if (!is_radial(task) || task->static_kernel == BS_MATERN12 || measure_of(task).unit != 1) return 0;
  const int64_t d = coordinates(task), apart = task->dimension;
  const double sigma = task->parameter[0], alpha = task->static_kernel == BS_RATIONAL_QUADRATIC ? task->parameter[1] : 1;
  const double square = BS_COMPACT * fmin(1, 2 * alpha) * (task->static_kernel == BS_RBF ? sigma : sigma * sigma);
  return lies_within(x, points1, d, apart, x, square) && lies_within(y, points2, d, apart, x, square);
}

/* Every pair decides for itself, so that its neighbours have no say in its bits. */
static kind kind_of_pair(const bs_task *task, int64_t k, int backward) {
  if (task->static_kernel == BS_GIVEN) return (kind){BY_VALUES, 0, 0};
  const int64_t index1 = path_of(task->index1, k), index2 = path_of(task->index2, k);
  const int64_t points1 = points_of(task->lengths1, NULL, index1, task->length1), points2 = points_of(task->lengths2, NULL, index2, task->length2);
  const int64_t shorter = least(points1, points2);
  const double *x = task->path1 + index1 * task->stride1 * task->dimension, *y = task->path2 + index2 * task->stride2 * task->dimension;
  int by_steps = goes_by_steps(task, x, points1, y, points2, backward) ? BY_STEPS : BY_VALUES;
  if (would_take_products(task, by_steps, 1, shorter) && is_compact(task, x, points1, y, points2)) return (kind){by_steps, 1, 1};
  if (by_steps && !is_in_reach(task, x, points1, y, points2)) by_steps = BY_STEPS_IN_UNITS;
  return (kind){by_steps, 0, would_take_products(task, by_steps, 0, shorter)};
}

static int is_anchored(const bs_task *task) { return task->by_steps == BY_STEPS && task->compact; }

/* Gradients of radial kernels are sums of weighted differences of points, where those of points leave nothing but rounding. */
static int takes_differences(const bs_task *task) {
  return is_radial(task) && ((task->by_steps && !task->compact) || task->static_kernel == BS_MATERN12);
}

/* Otherwise they need the sums of the weights as well: those of one more channel, which is 1. Points are then counted from the first one
   of the first path. */
static int has_ones(const bs_task *task) { return is_radial(task) && !takes_differences(task); }

/* Rows of channels one after the other, and in panels. */
BS_INLINE matrix by_rows(const products *p, double *at) { return (matrix){at, p->span, PANEL}; }

BS_INLINE matrix in_panels(double *at, int64_t rows) { return (matrix){at, PANEL, rows * PANEL}; }

BS_INLINE double *value_at(matrix m, int64_t i, int64_t k) { return m.at + k / PANEL * m.panel + i * m.row + k % PANEL; }

/* Steps `first`.. of a path times two numbers, `rows` of them, channels behind the last one and steps behind the end 0. */
static void steps_of(const products *p, const bs_task *task, const double *path, int64_t points, int64_t first, int64_t rows, double scale,
                     double factor, matrix to) {
  const int64_t d = p->channels, apart = task->dimension;
  for (int64_t i = 0; i < rows; ++i) {
    const double *x = path + (first + i) * apart;
    int64_t k = 0;
    if (first + i + 1 < points) {
      for (; k + W <= d; k += W) store(value_at(to, i, k), (load(x + apart + k) - load(x + k)) * scale * factor);
      for (; k < d; ++k) *value_at(to, i, k) = (x[apart + k] - x[k]) * scale * factor;
    }
    for (; k < p->span; ++k) *value_at(to, i, k) = 0;
  }
}

/* Points `first`.. of a path, less the centre unless that is NULL, likewise; behind the end it stays where it is. With `ones` there is
   one more channel, which is 1. */
static void points_of_path(const products *p, const bs_task *task, const double *path, int64_t points, int64_t first, int64_t rows,
                           const double *centre, int ones, matrix to) {
  const int64_t d = p->channels;
  for (int64_t i = 0; i < rows; ++i) {
    const double *x = path + least(first + i, points - 1) * task->dimension;
    int64_t k = 0;
    for (; k + W <= d; k += W) {
      vec own = load(x + k);
      if (centre) own -= load(centre + k);
      store(value_at(to, i, k), own);
    }
    for (; k < d; ++k) *value_at(to, i, k) = centre ? x[k] - centre[k] : x[k];
    if (ones) *value_at(to, i, k++) = 1;
    for (; k < p->span; ++k) *value_at(to, i, k) = 0;
  }
}

/* Every so many-th point of a path, less the centre unless that is NULL, W of them to a vector, in panels; or its steps, times a number. */
static void panels_of(const products *p, const bs_task *task, const double *path, int64_t points, int64_t every, const double *centre, int steps,
                      double scale, double *to) {
  const int64_t d = p->channels, apart = task->dimension, panel = PANEL * d, last = points - 1;
  for (int64_t j = 0; j * every < p->width; j += W) {
    double *column = to + j / (PANEL) * panel + j % (PANEL);
    for (int64_t next = 0; next < d; next += W) {
      const int64_t count = least(W, d - next);
      const vec origin = centre ? load_first(centre + next, count) : splat(0);
      vec row[W];
      for (int w = 0; w < W; ++w) {
        const int64_t at = (j + w) * every;
        const double *y = path + least(at, last) * apart + next, *after = path + least(at + 1, last) * apart + next;
        row[w] = load_first(y, count);
        if (steps) row[w] = (load_first(after, count) - row[w]) * scale;
        if (centre) row[w] -= origin;
      }
      transpose(row);
      for (int w = 0; w < count; ++w) store(column + (next + w) * PANEL, row[w]);
    }
  }
}

/* of every column: the sum over channels of (a + 2 b) a, or of a a, from panels */
static void column_sums(const products *p, const double *a, const double *b, double *to) {
  for (int64_t j = 0; j < p->width; j += W) {
    const int64_t from = j / (PANEL) * PANEL * p->channels + j % (PANEL);
    vec sum[2] = {splat(0), splat(0)};
    for (int64_t k = 0; k < p->channels; ++k) {
      const vec own = load(a + from + k * PANEL);
      vec other = own;
      if (b) other += 2.0 * load(b + from + k * PANEL);
      sum[k % 2] += other * own;
    }
    store(to + j, sum[0] + sum[1]);
  }
}

static void lay_out_products(products *p, const bs_task *task, int backward, int strips, char *base, int64_t *used) {
#define TAKE(count) (double *)((vec *)(base ? base + *used : NULL)); *used += up_to(count, W) * (int64_t)sizeof(double)
  p->rows = task->length1 - 1;
  p->cells = task->length2 - 1;
  p->channels = coordinates(task);
  p->points = !is_linear(task);
  p->anchored = is_anchored(task);
  p->columns = p->cells + p->points;
  p->width = up_to(p->columns, DOWN);
  p->span = up_to(p->channels + has_ones(task), W);
  const int64_t fewest = p->channels >= CHUNK_CHANNELS ? CHUNK_ROWS : BAND;
  p->chunk = CHUNK_CELLS / p->width / BAND * BAND;
  if (p->chunk < fewest) p->chunk = fewest;
  p->chunk = least(p->chunk, up_to(p->rows, BAND));
  p->high = up_to(p->chunk + p->points, DOWN);
  p->added = 0;
  p->all_lanes = strips || p->chunk < p->rows;
  const int64_t lanes = p->all_lanes ? W : 1;
  const int64_t across = up_to(p->width, PANEL), area = p->high * p->width;
  const int64_t high = up_to(p->high, CORNERS_DOWN);
  p->lanes = TAKE(W + W * p->chunk * p->width);
  p->lanes += W;
  memset(&p->x, 0, sizeof p->x);
  memset(&p->y, 0, sizeof p->y);
  p->x.places = (int)lanes;
  p->y.places = p->all_lanes || (task->index2 && !task->compact) ? W : 1; /* in a Gram matrix second paths come again, but count from others */
#define PLACES(side, which, count) p->side.size[which] = up_to(count, W); p->side.part[which] = TAKE(p->side.places * p->side.size[which])
  PLACES(x, POINTS, high * p->span);
  PLACES(y, POINTS, across * p->channels);
  if (p->points) {
    p->values = TAKE(area + W);
  }
  if (task->by_steps) {
    PLACES(x, STEPS, high * p->span);
    PLACES(x, STEP_SQUARES, high);
    PLACES(y, STEPS, across * p->channels);
    p->along_x = TAKE(area);
    p->along_y = TAKE(area);
    p->bend = TAKE(area);
  }
  if (task->compact) {
    PLACES(x, SQUARES, high);
    PLACES(y, SQUARES, p->width);
  }
  if (p->anchored) {
    PLACES(x, SLANTS, high);
    PLACES(y, SLANTS, p->width);
    PLACES(y, ANCHORS, up_to(p->width / ANCHOR + 1, PANEL) * p->channels);
    p->base = TAKE(area);
  }
  p->slopes = p->all_slopes = p->squares = p->all_squares = p->changes[0] = p->changes[1] = NULL;
  if (!backward) return;
  memset(&p->of_x, 0, sizeof p->of_x);
  memset(&p->of_y, 0, sizeof p->of_y);
  p->of_x.places = (int)lanes;
  p->of_y.places = p->all_lanes || (task->index2 && !has_ones(task)) ? W : 1;
  PLACES(of_x, POINTS, p->high * up_to(p->span, PANEL));
  PLACES(of_y, POINTS, p->width * up_to(p->span, PANEL));
  p->grad_a = TAKE(lanes * (p->rows + p->points) * up_to(p->span, PANEL));
  p->grad_b = TAKE(lanes * p->width * up_to(p->span, PANEL));
  if (!p->points) return;
  p->weights = TAKE(area);
  p->corner = TAKE(W * p->width);
  if (!task->grad_parameters) return;
  for (int k = 0; task->by_steps && k < layers_of(task); ++k) {
    p->changes[k] = TAKE(W * p->chunk * p->width);
  }
#undef PLACES
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

BS_INLINE factors of_rows(const products *p, const double *x) { return (factors){x, p->span, 1}; }

BS_INLINE matrix of_columns(const products *p, double *values) { return (matrix){values, p->width, PANEL}; }

/* Products of some rows of points or steps with those of all columns. */
static void sum_over_channels(const products *p, int64_t rows, const double *x, double *y, double *to) {
  product(1, rows, p->width / W, p->channels, of_rows(p, x), in_panels(y, p->channels), of_columns(p, to));
}

/* Compact: |x - y|^2 at the points of some rows from <x, y>, in its place. */
static void squares_of_distances(const products *p, int64_t rows, const double *row_squares, const double *column_squares, double *values) {
  for (int64_t i = 0; i < rows; ++i, values += p->width)
    for (int64_t j = 0; j < p->width; j += W)
      store(values + j, maximum(splat(0), (row_squares[i] + load(column_squares + j)) - 2.0 * load(values + j)));
}

/* factor times the increments of `rows` rows, of `cells` cells each, as second differences of kappa, of lane w to `to` */
static void increments_of_values(products *p, const increments *in, int w, int64_t rows, int64_t cells, const material *x, const material *y, double factor,
                                 double *to) {
  const bs_task *task = in->task;
  const int64_t n = p->width;
  double *slopes = in->gradient ? p->slopes + w * p->high * n : NULL, *squares = in->gradient && p->squares ? p->squares + w * p->high * n : NULL;
  if (is_radial(task) && !task->compact)
    squares_of_differences(rows + 1, n / W, p->channels, of_rows(p, x->points), in_panels(y->points, p->channels), of_columns(p, p->values));
  else
    sum_over_channels(p, rows + 1, x->points, y->points, p->values);
  if (task->compact) squares_of_distances(p, rows + 1, x->squares, y->squares, p->values);
  kappa_of(task, (rows + 1) * n, p->values, slopes, squares);
  const double *above = p->values, *below = above + n;
  for (int64_t i = 0; i < rows; ++i, above += n, below += n, to += n) {
    for (int64_t j = 0; j < cells; j += W)
      store(to + j, ((load(below + j + 1) - load(above + j + 1)) - (load(below + j) - load(above + j))) * factor);
    end_row(cells, n, to);
  }
}

/* factor times the increment of a vector of cells by steps, and what it changes by with parameters, to the same place of their arrays */
BS_INLINE void store_increment(const products *p, const bs_task *task, int changing, measure by, corners at, double factor, int64_t to, double *lane) {
  vec change[2];
  store(lane + to, increment_of(task, by, at, changing ? change : NULL) * factor);
  for (int k = 0; changing && k < layers_of(task); ++k) store(p->changes[k] + (lane - p->lanes) + to, change[k] * factor);
}

/* Behind the last cell of a row */
BS_INLINE void end_increments(const products *p, const bs_task *task, int changing, int64_t cells, int64_t row, double *lane) {
  end_row(cells, p->width, lane + row);
  for (int k = 0; changing && k < layers_of(task); ++k) end_row(cells, p->width, p->changes[k] + (lane - p->lanes) + row);
}

/* Lane w: the sum of the lanes in front of it */
BS_INLINE vec sums_in_front(vec own) {
  vec sum = lanes_up(own, 1);
#pragma GCC unroll 8
  for (int s = 1; s < W; s *= 2) sum += lanes_up(sum, s);
  return sum;
}

/* The same by steps, anchored: from the products of steps, of points and steps in anchored columns and rows, and of points in anchored rows.
   b of the points goes to `values`, that of an anchored row from the rows above it. */
BS_INLINE void increments_of_anchors(products *p, const increments *in, int changing, int64_t rows, int64_t cells, const material *x,
                                     const material *y, double factor, double *to) {
  const bs_task *task = in->task;
  const measure by = measure_of(task);
  const int64_t n = p->width, of_anchors = up_to(n / ANCHOR + 1, W);
  for (int64_t i0 = 0; i0 < rows; i0 += ANCHOR) {
    const int64_t end = least(i0 + ANCHOR, rows);
    double next[ANCHOR]; /* p in the column that the next vector begins with */
    for (int64_t j = 0; j < n; j += W) {
      const int64_t at_anchor = i0 / ANCHOR * n + j;
      vec b = maximum(splat(0), (x->squares[i0] + load(y->squares + j)) - 2.0 * load(p->base + at_anchor));
      vec q = load(y->slants + j) - 2.0 * load(p->along_y + at_anchor);
      if (i0 == 0) store(p->values + j, b);
      for (int64_t i = i0; i < end; ++i) {
        const vec r = -2.0 * load(p->bend + i * n + j);
        const double first = j % ANCHOR ? next[i - i0] : x->slants[i] - 2 * p->along_x[i * of_anchors + j / ANCHOR];
        const vec along = first + sums_in_front(r), below = maximum(splat(0), b + along);
        next[i - i0] = along[W - 1] + r[W - 1];
        const corners at = {b, below, maximum(splat(0), b + q), maximum(splat(0), below + (q + r)), along, q, r};
        store_increment(p, task, changing, by, at, factor, i * n + j, to);
        b = below;
        q += r;
        store(p->values + (i + 1) * n + j, b);
      }
    }
  }
  for (int64_t i = 0; i < rows; ++i) end_increments(p, task, changing, cells, i * n, to);
}

/* The same from the corners of b. */
BS_INLINE void increments_of_corners(products *p, const increments *in, int changing, int64_t rows, int64_t cells, double factor, double *to) {
  const bs_task *task = in->task;
  const measure by = measure_of(task);
  const int64_t n = p->width;
  for (int64_t i = 0; i < rows; ++i) {
    const double *b = p->values + i * n;
    for (int64_t j = 0; j < cells; j += W) {
      const corners at = {load(b + j), load(b + n + j), load(b + j + 1), load(b + n + j + 1),
                          load(p->along_x + i * n + j), load(p->along_y + i * n + j), load(p->bend + i * n + j)};
      store_increment(p, task, changing, by, at, factor, i * n + j, to);
    }
    end_increments(p, task, changing, cells, i * n, to);
  }
}

/* What increments by steps are made from: sums over channels at the points or cells of a chunk. */
static void sum_corners(products *p, const bs_task *task, int64_t rows, const material *x, const material *y) {
  const int64_t n = p->width, vectors = n / W, d = p->channels, panel = PANEL * d;
  if (is_radial(task)) {
    for (int64_t v = 0; v < vectors; ++v)
      for (int64_t i = 0; i <= rows; i += CORNERS_DOWN) {
        const int64_t from = v / ACROSS * panel + v % ACROSS * W, at = i * n + v * W;
        block_of_corners(d, x->points + i * p->span, x->steps + i * p->span, p->span, x->step_squares + i, y->points + from, y->steps + from, p->values + at,
                         p->along_x + at, p->along_y + at, p->bend + at, n);
      }
    return;
  }
  sum_over_channels(p, rows + 1, x->points, y->points, p->values);
  sum_over_channels(p, rows, x->steps, y->points, p->along_x);
  sum_over_channels(p, rows, x->points, y->steps, p->along_y);
  sum_over_channels(p, rows, x->steps, y->steps, p->bend);
}

static void sum_anchors(products *p, int64_t rows, const material *x, const material *y) {
  const int64_t n = p->width, d = p->channels, anchored = (rows + ANCHOR - 1) / ANCHOR, of_anchors = up_to(n / ANCHOR + 1, W);
  const factors points = {x->points, ANCHOR * p->span, 1};
  sum_over_channels(p, rows, x->steps, y->steps, p->bend);
  product(1, rows, of_anchors / W, d, of_rows(p, x->steps), in_panels(y->anchors, d), (matrix){p->along_x, of_anchors, PANEL});
  product(1, anchored, n / W, d, points, in_panels(y->steps, d), of_columns(p, p->along_y));
  product(1, anchored, n / W, d, points, in_panels(y->points, d), of_columns(p, p->base));
}

/* kappa' at the points of a chunk from b, where it is wanted */
static void slopes_of_values(products *p, const increments *in, int w, int64_t rows) {
  if (!in->gradient) return;
  double *kappa = p->weights; /* which nobody needs yet */
  memcpy(kappa, p->values, (size_t)((rows + 1) * p->width) * sizeof(double));
  kappa_of(in->task, (rows + 1) * p->width, kappa, p->slopes + w * p->high * p->width, NULL);
}

static void increments_by_steps(products *p, const increments *in, int w, int64_t rows, int64_t cells, const material *x, const material *y, double factor,
                                double *to) {
  sum_corners(p, in->task, rows, x, y);
  slopes_of_values(p, in, w, rows);
  if (!is_radial(in->task))
    for (int64_t j = 0; j < (rows + 1) * p->width; j += W) store(p->values + j, load(p->values + j) + in->task->parameter[1]);
  if (in->gradient && in->parameters)
    increments_of_corners(p, in, 1, rows, cells, factor, to);
  else
    increments_of_corners(p, in, 0, rows, cells, factor, to);
}

static void increments_by_anchors(products *p, const increments *in, int w, int64_t rows, int64_t cells, const material *x, const material *y, double factor,
                                  double *to) {
  sum_anchors(p, rows, x, y);
  if (in->gradient && in->parameters)
    increments_of_anchors(p, in, 1, rows, cells, x, y, factor, to);
  else
    increments_of_anchors(p, in, 0, rows, cells, x, y, factor, to);
  slopes_of_values(p, in, w, rows);
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

/* What the sums over channels of a chunk need of the first path of lane w. */
static void load_rows(const products *p, const increments *in, int w, int64_t first, const double *centre, double scale, double factor, material x) {
  const bs_task *task = in->task;
  const int64_t rows = least(p->chunk, p->rows - first), span = p->span;
  if (!p->points) {
    steps_of(p, task, in->x[w], in->points1[w], first, rows, scale, factor, by_rows(p, x.points));
    return;
  }
  const int64_t padded = task->by_steps && !p->anchored ? up_to(rows + 1, CORNERS_DOWN) : rows + 1;
  points_of_path(p, task, in->x[w], in->points1[w], first, padded, centre, 0, by_rows(p, x.points));
  for (int64_t i = 0; task->compact && i <= rows; ++i) x.squares[i] = sum_of_row(x.points + i * span, x.points + i * span, span);
  if (!task->by_steps) return;
  steps_of(p, task, in->x[w], in->points1[w], first, padded, 1, 1, by_rows(p, x.steps));
  for (int64_t i = 0; i < padded; ++i) {
    const double *step = x.steps + i * span;
    x.step_squares[i] = sum_of_row(step, step, span);
    if (p->anchored) x.slants[i] = x.step_squares[i] + 2 * sum_of_row(step, x.points + i * span, span);
  }
}

/* And of its second path. */
static void load_columns(const products *p, const increments *in, int w, const double *centre, double scale, material y) {
  const bs_task *task = in->task;
  panels_of(p, task, in->y[w], in->points2[w], 1, centre, !p->points, scale, y.points);
  if (task->compact) column_sums(p, y.points, NULL, y.squares);
  if (task->by_steps) panels_of(p, task, in->y[w], in->points2[w], 1, NULL, 1, 1, y.steps);
  if (!p->anchored) return;
  panels_of(p, task, in->y[w], in->points2[w], ANCHOR, centre, 0, 1, y.anchors);
  column_sums(p, y.steps, y.points, y.slants);
}

/* Where the chunk that row `first` begins has its slopes, and which of its lanes have the same pair. */
static void open_chunk(products *p, const increments *in, int64_t first) {
  p->first = first;
  if (p->slopes) p->slopes = p->all_slopes + first / p->chunk * p->apart;
  if (p->squares) p->squares = p->all_squares + first / p->chunk * p->apart;
  for (int w = 0; w < W; ++w)
    p->twin[w] = is_repeated_path(in->x, in->points1, w) && is_repeated_path(in->y, in->points2, w) ? p->twin[w - 1] : w;
}

/* factor times the increments of the chunk that row `first` begins, of all lanes: to the lanes of a tile unless g is NULL. */
static void load_chunk(products *p, const increments *in, int64_t first, double factor, vec *g) {
  const bs_task *task = in->task;
  const int64_t rows = least(p->chunk, p->rows - first), size = p->chunk * p->width;
  const double scale = is_linear(task) ? task->parameter[0] : 1;
  open_chunk(p, in, first);
  p->sloped = in->gradient;
  for (int w = 0; w < W; ++w) {
    double *to = p->lanes + w * size;
    if (p->twin[w] < w) continue;
    if (is_idle(in, w)) {
      end_row(0, size, to);
      for (int k = 0; k < 2 && p->changes[k]; ++k) end_row(0, size, p->changes[k] + w * size);
      continue;
    }
    const double *centre = task->compact ? in->centre[w] : NULL;
    int there;
    int place = find_place(&p->x, (source){in->x[w], centre, in->points1[w], first}, &there);
    const material x = material_at(&p->x, place);
    if (!there) load_rows(p, in, w, first, centre, scale, factor, x);
    place = find_place(&p->y, (source){in->y[w], centre, in->points2[w], 0}, &there);
    const material y = material_at(&p->y, place);
    if (!there) load_columns(p, in, w, centre, scale, y);
    if (!p->points) {
      sum_over_channels(p, rows, x.points, y.points, to);
      continue;
    }
    const double by = factor * in->scale[w];
    if (p->anchored)
      increments_by_anchors(p, in, w, rows, in->points2[w] - 1, &x, &y, by, to);
    else if (task->by_steps)
      increments_by_steps(p, in, w, rows, in->points2[w] - 1, &x, &y, by, to);
    else
      increments_of_values(p, in, w, rows, in->points2[w] - 1, &x, &y, by, to);
    for (int64_t i = in->points1[w] - 1 - first > 0 ? in->points1[w] - 1 - first : 0; i < rows; ++i) end_row(0, p->width, to + i * p->width);
  }
  if (!g) return;
  chunk_into_lanes(p, p->lanes, rows, in->stride, g);
  for (int k = 0; p->points && in->gradient && in->parameters && task->by_steps && k < layers_of(task); ++k)
    chunk_into_lanes(p, p->changes[k], rows, in->stride, g + in->to_changes + k * in->layer);
}

/* The paths of the lanes are others now. */
static void open_products(products *p) { p->first = -1; }

/* The derivatives with respect to the increments of the chunk at hand, every lane by itself. What fills up rows is 0: it goes into sums
   that nobody looks at, but numbers that are none, or nearly 0, are slow. */
static void part_chunk(products *p, const increments *in, const vec *gradient) {
  const int64_t rows = least(p->chunk, p->rows - p->first), size = p->chunk * p->width;
  for (int w = 0; w < W && p->points; ++w) p->lanes[w * size - 1] = 0; /* the end of a row in front of each lane */
  for (int64_t i = 0; i < rows; ++i, gradient += in->stride)
    for (int64_t j = 0; j < p->width; j += W) {
      vec row[W];
      for (int w = 0; w < W; ++w) {
        row[w] = splat(0);
        if (j + w < p->cells) row[w] = gradient[j + w];
      }
      transpose(row);
      for (int w = 0; w < W; ++w) store(p->lanes + w * size + i * p->width + j, row[w]);
    }
}

/* The gradients of lane w: rows are those of all chunks. */
BS_INLINE matrix grad_a_of(const products *p, int w) {
  const int64_t rows = p->rows + p->points;
  return in_panels(p->grad_a + (p->all_lanes ? w * rows * up_to(p->span, PANEL) : 0), rows);
}

BS_INLINE matrix grad_b_of(const products *p, int w) {
  return in_panels(p->grad_b + (p->all_lanes ? w * p->width * up_to(p->span, PANEL) : 0), p->width);
}

/* Sets so many rows to 0. */
static void clear_rows(const products *p, int64_t rows, matrix to) {
  for (int64_t k = 0; k < p->span; k += W)
    for (int64_t i = 0; i < rows; ++i) store(value_at(to, i, k), splat(0));
}

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
}

/* The gradients of lane w with respect to its steps or points from the chunk at hand, which has been parted, and the chunks below. Points
   on the edge of a chunk belong to the one above, which has all their cells. */
static void chunk_gradient(products *p, increments *in, int w) {
  const bs_task *task = in->task;
  const int64_t rows = least(p->chunk, p->rows - p->first), vectors = p->span / W, n = p->width;
  const int below = p->first + p->chunk < p->rows, centred = has_ones(task);
  const int64_t top = p->points && p->first > 0, count = p->points ? rows + 1 - top : rows;
  const double *weights = p->lanes + w * p->chunk * n;
  const double scale = is_linear(task) ? task->parameter[0] : 1, *centre = centred ? in->centre[w] : NULL;
  const matrix grad_a = from_row(grad_a_of(p, w), p->first + top), grad_b = grad_b_of(p, w);
  if (is_idle(in, w)) {
    if (!p->added) clear_rows(p, count, grad_a);
    if (!below) clear_rows(p, p->columns, grad_b);
    return;
  }
  if (p->points) {
    if (!below) end_row(0, n, p->corner + w * n);
    weigh_rows(p, in, w, top, rows);
    weights = p->weights;
  }
  int there;
  const material y = material_at(&p->of_y, find_place(&p->of_y, (source){in->y[w], centre, in->points2[w], 0}, &there));
  const matrix b = in_panels(y.points, n);
  if (!there && p->points) points_of_path(p, task, in->y[w], in->points2[w], 0, p->columns, centre, centred, b);
  if (!there && !p->points) steps_of(p, task, in->y[w], in->points2[w], 0, p->columns, scale, 1, b);
  const material x = material_at(&p->of_x, find_place(&p->of_x, (source){in->x[w], centre, in->points1[w], p->first}, &there));
  const matrix a = in_panels(x.points, p->high), own = from_row(a, top), last = from_row(a, top + count - 1);
  if (!there && p->points) points_of_path(p, task, in->x[w], in->points1[w], p->first, rows + 1, centre, centred, a);
  if (!there && !p->points) steps_of(p, task, in->x[w], in->points1[w], p->first, rows, scale, 1, a);
  const factors down = {weights, n, 1}, across = {weights + (count - 1) * n, 1, -n};
  const matrix upwards = {last.at, -last.row, last.panel};
  if (takes_differences(task)) {
    weighted_differences(!p->added, count, vectors, p->columns, down, b, own, grad_a);
    weighted_differences(!below, p->columns, vectors, count, across, upwards, b, grad_b);
  } else {
    product(!p->added, count, vectors, p->columns, down, b, grad_a);
    product(!below, p->columns, vectors, count, across, upwards, grad_b);
  }
}

/* Adds what the gradient by the steps of the second path of lane w, which has been made last, says of the scale, as sum_over_steps does. */
static void sum_over_steps_of_lane(products *p, increments *in, int w) {
  if (is_idle(in, w)) return;
  int there;
  const material y = material_at(&p->of_y, find_place(&p->of_y, (source){in->y[w], NULL, in->points2[w], 0}, &there));
  const double over_scale = 1 / in->task->parameter[0];
  const matrix steps = in_panels(y.points, p->width), gradient = grad_b_of(p, w);
  vec sum[2] = {splat(0), splat(0)};
  for (int64_t j = 0; j < p->cells; ++j)
    for (int64_t k = 0; k < p->span; k += W)
      sum[k / W % 2] += load(value_at(gradient, j, k)) * (load(value_at(steps, j, k)) * over_scale);
  sum[0] += sum[1];
  for (int v = 0; v < W; ++v) in->d_parameter[0][w] += 2 * sum[0][v];
}

/* to[i] += weight times the gradient with respect to point i of a path, given that with respect to the steps. */
static void flush_steps(const products *p, matrix gradient, int64_t points, double weight, double *to) {
  const int64_t d = p->channels;
  for (int64_t i = 0; i < points; ++i, to += d) {
    const int before = i > 0, after = i < points - 1;
    int64_t k = 0;
    for (; k + W <= d; k += W) {
      const vec from = before ? load(value_at(gradient, i - 1, k)) : splat(0), next = after ? load(value_at(gradient, i, k)) : splat(0);
      store(to + k, load(to + k) + weight * (from - next));
    }
    for (; k < d; ++k) to[k] += weight * ((before ? *value_at(gradient, i - 1, k) : 0) - (after ? *value_at(gradient, i, k) : 0));
  }
}

/* The same given sums over points of the other path, times their weights, and, where points are counted from a centre, the sum of these. */
static void flush_points(const products *p, const bs_task *task, matrix gradient, const double *path, const double *centre,
                         int64_t points, double weight, double *to) {
  const int64_t d = p->channels;
  for (int64_t i = 0; i < points; ++i, path += task->dimension, to += task->dimension) {
    const double sum = centre ? *value_at(gradient, i, d) : 0;
    int64_t k = 0;
    for (; k + W <= d; k += W) {
      vec own = load(value_at(gradient, i, k));
      if (centre) own -= sum * (load(path + k) - load(centre + k));
      store(to + k, load(to + k) + weight * own);
    }
    for (; k < d; ++k) to[k] += weight * (*value_at(gradient, i, k) - (centre ? sum * (path[k] - centre[k]) : 0));
  }
}

/* The gradient of lane w with respect to its first or second path, times a weight, to `to`. */
static void flush_products(const products *p, const increments *in, int second, int w, double weight, double *to) {
  const matrix gradient = second ? grad_b_of(p, w) : grad_a_of(p, w);
  const double *path = second ? in->y[w] : in->x[w];
  const int64_t points = second ? in->points2[w] : in->points1[w];
  if (p->points)
    flush_points(p, in->task, gradient, path, has_ones(in->task) ? in->centre[w] : NULL, points, weight, to);
  else
    flush_steps(p, gradient, points, weight, to);
}

#endif
