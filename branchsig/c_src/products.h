/* Increments of the linear kernels for paths of many channels, and their gradients, as products of matrices, one pair after the other.

   With pairs in the lanes a tile takes as much memory as all its paths, which passes through the first cache once a band, and lanes
   without a pair of their own do all of the work. From MANY channels on g = a b^T, a and b the steps of the paths, is made for a chunk
   of rows of a pair at once: lanes are columns of cells, or for gradients channels, and a block of sums is held in registers. Results
   then change places with those of the other pairs of the tile (`into_lanes`).

   Every increment is the sum over channels in their order. Gradients are sums over all columns from the left, and over rows from the last
   one upwards: how many rows make a chunk has no say in them. */
#ifndef BS_PRODUCTS_H
#define BS_PRODUCTS_H

#include "increments.h"

enum { MANY = 16, CHUNK_CELLS = 16384 };

/* Rows, a number of whole vectors, and vectors of a block of sums */
enum { DOWN = BS_BYTES == 64 ? 8 : 4, ACROSS = 3 };

typedef struct {
  int64_t rows, cells, channels; /* of a pair */
  int64_t chunk;                 /* rows at once, a multiple of BAND but for the last ones */
  int64_t width, span;           /* doubles of a row of cells and of channels */
  int64_t first;                 /* the row that the chunk at hand begins with, or -1 */
  int added;                     /* gradients with respect to the first path are added to those of other columns */
  int all_lanes;                 /* gradients of all lanes are kept, since they are sums over several chunks or steps */
  double *lanes;                 /* [lane][row][cell] of a chunk: increments, or derivatives with respect to them */
  int packed;                    /* the panels of all lanes are there */
  double *panels;                /* steps of the second path: [lane][panel][channel][ACROSS vectors of cells] */
  double *a, *b;                 /* steps of one lane: [row][channel] of a chunk, [cell][channel] */
  const double *held;            /* for gradients: the first path, of so many points, whose steps are in a */
  int64_t held_points;
  double *grad_a, *grad_b;       /* [lane][row or cell][channel]: with respect to the steps */
} products;

BS_INLINE int64_t up_to(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

static int takes_products(const bs_task *task) { return is_linear(task) && !task->nodes && task->dimension >= MANY; }

/* c[r][v] (+)= sum over k < count of a[r][k] b[k][v]: rows of a and c, and values of a row of a, and rows of b lie so far apart. */
BS_INLINE void block_of_product(int across, int fresh, int64_t count, const double *a, int64_t a_row, int64_t a_next, const double *b,
                                int64_t b_next, double *c, int64_t c_row) {
  vec sum[DOWN][ACROSS];
  for (int r = 0; r < DOWN; ++r)
    for (int v = 0; v < across; ++v) sum[r][v] = fresh ? splat(0) : load(c + r * c_row + v * W);
  for (int64_t k = 0; k < count; ++k, a += a_next, b += b_next) {
    vec row[ACROSS];
    for (int v = 0; v < across; ++v) row[v] = load(b + v * W);
    for (int r = 0; r < DOWN; ++r) {
      const vec x = splat(a[r * a_row]);
      for (int v = 0; v < across; ++v) sum[r][v] += x * row[v];
    }
  }
  for (int r = 0; r < DOWN; ++r)
    for (int v = 0; v < across; ++v) store(c + r * c_row + v * W, sum[r][v]);
}

/* The same for any number of rows, which are rounded up, and of vectors; panels of b, ACROSS vectors each, lie `panel` apart. */
static void product(int fresh, int64_t rows, int64_t vectors, int64_t count, const double *a, int64_t a_row, int64_t a_next,
                    const double *b, int64_t b_next, int64_t panel, double *c, int64_t c_row) {
  for (int64_t v = 0; v < vectors; v += ACROSS, b += panel)
    for (int64_t r = 0; r < rows; r += DOWN) {
      const double *x = a + r * a_row;
      double *to = c + r * c_row + v * W;
#define BS_BLOCK(across)                                                                              \
  fresh ? block_of_product(across, 1, count, x, a_row, a_next, b, b_next, to, c_row)                  \
        : block_of_product(across, 0, count, x, a_row, a_next, b, b_next, to, c_row)
      switch (least(vectors - v, ACROSS)) {
        case 1: BS_BLOCK(1); break;
        case 2: BS_BLOCK(2); break;
        default: BS_BLOCK(3);
      }
#undef BS_BLOCK
    }
}

/* Steps `first`.. of a path times a number, `rows` of them in rows of `span`, channels behind the last one and steps behind the end 0. */
static void steps_of(const products *p, const double *path, int64_t points, int64_t first, int64_t rows, double scale, double factor,
                     double *to) {
  const int64_t d = p->channels;
  for (int64_t i = 0; i < rows; ++i, to += p->span) {
    const double *x = path + (first + i) * d;
    int64_t k = 0;
    if (first + i + 1 < points) {
      for (; k + W <= d; k += W) store(to + k, (load(x + d + k) - load(x + k)) * scale * factor);
      for (; k < d; ++k) to[k] = (x[d + k] - x[k]) * scale * factor;
    }
    for (; k < p->span; ++k) to[k] = 0;
  }
}

/* All steps of a path times a number, W of them to a vector, in panels. */
static void panels_of(const products *p, const double *path, int64_t points, double scale, double *to) {
  const int64_t d = p->channels, panel = ACROSS * W * d;
  for (int64_t j = 0; j < p->width; j += W) {
    double *column = to + j / (ACROSS * W) * panel + j % (ACROSS * W);
    const double *y = path + j * d;
    const int64_t own = points - 1 - j; /* so many of them are steps */
    for (int64_t next = 0; next < d; next += W) {
      const int64_t k = least(next, d - W); /* the last W channels may be there already */
      vec row[W];
      for (int w = 0; w < W; ++w) {
        row[w] = splat(0);
        if (w < own) row[w] = (load(y + (w + 1) * d + k) - load(y + w * d + k)) * scale;
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
  p->channels = task->dimension;
  p->width = up_to(p->cells, DOWN);
  p->span = up_to(p->channels, W);
  p->chunk = CHUNK_CELLS / p->width / BAND * BAND;
  if (p->chunk < BAND) p->chunk = BAND;
  p->chunk = least(p->chunk, up_to(p->rows, BAND));
  p->added = 0;
  p->all_lanes = strips || p->chunk < p->rows;
  const int64_t lanes = p->all_lanes ? W : 1, across = up_to(p->width, ACROSS * W);
  p->lanes = TAKE(W * p->chunk * p->width);
  p->a = TAKE(p->chunk * p->span);
  p->panels = TAKE(lanes * across * p->channels);
  if (!backward) return;
  p->b = TAKE(p->width * p->span);
  p->grad_a = TAKE(lanes * up_to(p->rows, p->chunk) * p->span);
  p->grad_b = TAKE(lanes * p->width * p->span);
#undef TAKE
}

/* The path of a lane is that of the one before, as in a Gram matrix, or where there are fewer pairs than lanes. */
BS_INLINE int is_repeated_path(const double *const path[W], const int64_t points[W], int w) {
  return w && path[w] == path[w - 1] && points[w] == points[w - 1];
}

/* factor times the increments of the chunk that row `first` begins, of all lanes. */
static void load_chunk(products *p, const increments *in, int64_t first, double factor, vec *g) {
  const int64_t rows = least(p->chunk, p->rows - first), padded = up_to(rows, DOWN), size = p->chunk * p->width;
  const int64_t panel = ACROSS * W * p->channels;
  const double scale = in->task->parameter[0], *from[W];
  double *panels = p->panels;
  p->first = first;
  for (int w = 0; w < W; ++w) {
    double *to = p->lanes + w * size;
    from[w] = to;
    const int same_first = is_repeated_path(in->x, in->points1, w), same_second = is_repeated_path(in->y, in->points2, w);
    if (same_first && same_second) {
      from[w] = from[w - 1];
      continue;
    }
    if (!same_first) steps_of(p, in->x[w], in->points1[w], first, padded, scale, factor, p->a);
    if (!same_second) {
      if (w && p->all_lanes) panels += panel * (up_to(p->width, ACROSS * W) / (ACROSS * W));
      if (!p->packed) panels_of(p, in->y[w], in->points2[w], scale, panels);
    }
    product(1, rows, p->width / W, p->channels, p->a, p->span, 1, panels, ACROSS * W, panel, to, p->width);
  }
  p->packed = p->all_lanes;
  for (int64_t i = 0; i < rows; ++i, g += in->stride) {
    into_lanes(from, p->cells, 0, g);
    for (int w = 0; w < W; ++w) from[w] += p->width;
  }
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
  for (int64_t i = 0; i < up_to(rows, DOWN); ++i, gradient += in->stride)
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
  return p->grad_a + (p->all_lanes ? w * up_to(p->rows, p->chunk) * p->span : 0);
}

BS_INLINE double *grad_b_of(const products *p, int w) { return p->grad_b + (p->all_lanes ? w * p->width * p->span : 0); }

/* The gradients of lane w with respect to its steps from the chunk at hand, which has been parted, and the chunks below. */
static void chunk_gradient(products *p, const increments *in, int w) {
  const int64_t rows = least(p->chunk, p->rows - p->first), vectors = p->span / W;
  const double *weights = p->lanes + w * p->chunk * p->width;
  const int below = p->first + p->chunk < p->rows;
  double *grad_a = grad_a_of(p, w) + p->first * p->span, *grad_b = grad_b_of(p, w);
  const double scale = in->task->parameter[0];
  if (p->held != in->x[w] || p->held_points != in->points1[w]) steps_of(p, in->x[w], in->points1[w], p->first, rows, scale, 1, p->a);
  p->held = in->x[w];
  p->held_points = in->points1[w];
  steps_of(p, in->y[w], in->points2[w], 0, p->cells, scale, 1, p->b);
  product(!p->added, rows, vectors, p->cells, weights, p->width, 1, p->b, p->span, ACROSS * W, grad_a, p->span);
  product(!below, p->cells, vectors, rows, weights + (rows - 1) * p->width, 1, -p->width, p->a + (rows - 1) * p->span, -p->span,
          ACROSS * W, grad_b, p->span);
}

/* Adds what the gradient by the steps of the second path of lane w, which has been made last, says of the scale, as sum_over_steps does. */
static void sum_over_steps_of_lane(const products *p, increments *in, int w) {
  const double over_scale = 1 / in->task->parameter[0], *gradient = grad_b_of(p, w);
  vec sum[2] = {splat(0), splat(0)};
  for (int64_t k = 0; k < p->cells * p->span; k += W) sum[k / W % 2] += load(gradient + k) * (load(p->b + k) * over_scale);
  sum[0] += sum[1];
  for (int v = 0; v < W; ++v) in->d_parameter[0][w] += 2 * sum[0][v];
}

/* to[i] += weight times the gradient of lane w with respect to point i of one of its paths, given that with respect to the steps. */
static void flush_steps(const products *p, int second, int w, int64_t points, double weight, double *to) {
  const int64_t d = p->channels;
  const double *gradient = second ? grad_b_of(p, w) : grad_a_of(p, w);
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

#endif
