/* Sums of products over channels, or over points, a block of them held in registers: what increments and gradients of many channels are
   made of. Every sum is taken in its own order, whatever block it is part of. */
#ifndef BS_BLOCKS_H
#define BS_BLOCKS_H

#include "increments.h"

/* Rows and vectors of a block of sums: of products and of weighted differences; rows of a block of corners. What has whole vectors in
   panels has ACROSS of them, PANEL values, to a row of a panel. */
enum { DOWN = BS_BYTES == 64 ? 8 : 4, FEW_DOWN = BS_BYTES == 64 ? 4 : 2, CORNERS_DOWN = BS_BYTES == 64 ? 6 : 2, ACROSS = 3, PANEL = ACROSS * W };

/* c[r][v] (+)= sum over k < count of a[r][k] b[k][v], or (squares) of (a[r][k] - b[k][v])^2: rows of a and c, and values of a row of a, and
   rows of b lie so far apart. */
BS_INLINE void block_of_product(int down, int across, int squares, int fresh, int64_t count, const double *a, int64_t a_row, int64_t a_next,
                                const double *b, int64_t b_next, double *c, int64_t c_row) {
  vec sum[DOWN][ACROSS];
  for (int r = 0; r < down; ++r)
    for (int v = 0; v < across; ++v) sum[r][v] = fresh ? splat(0) : load(c + r * c_row + v * W);
  for (int64_t k = 0; k < count; ++k, a += a_next, b += b_next) {
    vec row[ACROSS];
    for (int v = 0; v < across; ++v) row[v] = load(b + v * W);
    for (int r = 0; r < down; ++r) {
      const vec x = splat(a[r * a_row]);
      for (int v = 0; v < across; ++v) {
        const vec difference = x - row[v];
        sum[r][v] += squares ? difference * difference : x * row[v];
      }
    }
  }
  for (int r = 0; r < down; ++r)
    for (int v = 0; v < across; ++v) store(c + r * c_row + v * W, sum[r][v]);
}

/* The same for any number of rows and of vectors; panels of b, ACROSS vectors each, lie `panel` apart. */
BS_INLINE void product_for(int squares, int fresh, int64_t rows, int64_t vectors, int64_t count, const double *a, int64_t a_row,
                          int64_t a_next, const double *b, int64_t b_next, int64_t panel, double *c, int64_t c_row) {
  for (int64_t v = 0; v < vectors; v += ACROSS, b += panel) {
    int64_t r = 0;
#define BS_BLOCK(down, across)                                                                                           \
  block_of_product(down, across, squares, fresh, count, a + r * a_row, a_row, a_next, b, b_next, c + r * c_row + v * W, c_row)
#define BS_ROWS(down)                                                                                                    \
  for (; r + down <= rows; r += down) switch (least(vectors - v, ACROSS)) {                                              \
    case 1: BS_BLOCK(down, 1); break;                                                                                    \
    case 2: BS_BLOCK(down, 2); break;                                                                                    \
    default: BS_BLOCK(down, ACROSS);                                                                                     \
  }
    BS_ROWS(DOWN) BS_ROWS(4) BS_ROWS(2) BS_ROWS(1)
#undef BS_ROWS
#undef BS_BLOCK
  }
}

/* The functions of their own that it is: products, the first or one more of them, and squares of differences. */
#define BS_PRODUCT(name, squares, fresh)                                                                                          \
  static void name(int64_t rows, int64_t vectors, int64_t count, const double *a, int64_t a_row, int64_t a_next, const double *b,  \
                   int64_t b_next, int64_t panel, double *c, int64_t c_row) {                                                     \
    product_for(squares, fresh, rows, vectors, count, a, a_row, a_next, b, b_next, panel, c, c_row);                               \
  }
BS_PRODUCT(first_product, 0, 1)
BS_PRODUCT(next_product, 0, 0)
BS_PRODUCT(squares_of, 1, 1)

BS_INLINE void product(int fresh, int64_t rows, int64_t vectors, int64_t count, const double *a, int64_t a_row, int64_t a_next,
                       const double *b, int64_t b_next, int64_t panel, double *c, int64_t c_row) {
  (fresh ? first_product : next_product)(rows, vectors, count, a, a_row, a_next, b, b_next, panel, c, c_row);
}

/* c[r][v] (+)= sum over k < count of weight[r][k] (b[k][v] - a[r][v]); rows of a lie as those of c. */
BS_INLINE void block_of_differences(int down, int across, int fresh, int64_t count, const double *weight, int64_t weight_row, int64_t weight_next,
                                    const double *b, int64_t b_next, const double *a, int64_t a_row, double *c, int64_t c_row) {
  vec sum[FEW_DOWN][ACROSS], own[FEW_DOWN][ACROSS];
  for (int r = 0; r < down; ++r)
    for (int v = 0; v < across; ++v) {
      sum[r][v] = fresh ? splat(0) : load(c + r * c_row + v * W);
      own[r][v] = load(a + r * a_row + v * W);
    }
  for (int64_t k = 0; k < count; ++k, weight += weight_next, b += b_next)
    for (int v = 0; v < across; ++v) {
      const vec other = load(b + v * W);
      for (int r = 0; r < down; ++r) sum[r][v] += splat(weight[r * weight_row]) * (other - own[r][v]);
    }
  for (int r = 0; r < down; ++r)
    for (int v = 0; v < across; ++v) store(c + r * c_row + v * W, sum[r][v]);
}

BS_INLINE void differences(int fresh, int64_t rows, int64_t vectors, int64_t count, const double *weight, int64_t weight_row,
                           int64_t weight_next, const double *b, int64_t b_next, int64_t b_panel, const double *a, int64_t a_row,
                           int64_t a_panel, double *c, int64_t c_row) {
  for (int64_t v = 0; v < vectors; v += ACROSS, a += a_panel, b += b_panel) {
    int64_t r = 0;
#define BS_BLOCK(down, across)                                                                                                    \
  block_of_differences(down, across, fresh, count, weight + r * weight_row, weight_row, weight_next, b, b_next, a + r * a_row, a_row, \
                       c + r * c_row + v * W, c_row)
#define BS_ROWS(down)                                                                                                             \
  for (; r + down <= rows; r += down) switch (least(vectors - v, ACROSS)) {                                                       \
    case 1: BS_BLOCK(down, 1); break;                                                                                             \
    case 2: BS_BLOCK(down, 2); break;                                                                                             \
    default: BS_BLOCK(down, ACROSS);                                                                                              \
  }
    BS_ROWS(FEW_DOWN) BS_ROWS(2) BS_ROWS(1)
#undef BS_ROWS
#undef BS_BLOCK
  }
}

static void weighted_differences(int fresh, int64_t rows, int64_t vectors, int64_t count, const double *weight, int64_t weight_row,
                                 int64_t weight_next, const double *b, int64_t b_next, int64_t b_panel, const double *a, int64_t a_row,
                                 int64_t a_panel, double *c, int64_t c_row) {
  if (fresh)
    differences(1, rows, vectors, count, weight, weight_row, weight_next, b, b_next, b_panel, a, a_row, a_panel, c, c_row);
  else
    differences(0, rows, vectors, count, weight, weight_row, weight_next, b, b_next, b_panel, a, a_row, a_panel, c, c_row);
}

/* Of radial kernels, by steps: b = |u|^2 at the points of some rows and a vector of columns, u = x - y, and of the cells below and to the
   right of them p = 2 <dx, u> + |dx|^2, q = |dy|^2 - 2 <dy, u> and r = -2 <dx, dy>, from rows of points of x, of its steps and the squares of
   those, and from points of y and its steps. */
static void block_of_corners(int64_t channels, const double *x, const double *dx, int64_t span, const double *dx_squares, const double *y,
                             const double *dy, double *b, double *p, double *q, double *r, int64_t row) {
  vec b_sum[CORNERS_DOWN], p_sum[CORNERS_DOWN], q_sum[CORNERS_DOWN], r_sum[CORNERS_DOWN], dy_square = splat(0);
  for (int i = 0; i < CORNERS_DOWN; ++i) b_sum[i] = p_sum[i] = q_sum[i] = r_sum[i] = splat(0);
  for (int64_t k = 0; k < channels; ++k, y += PANEL, dy += PANEL) {
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

#endif
