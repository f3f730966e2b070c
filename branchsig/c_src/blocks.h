/* Sums of products over channels, or over points, a block of them held in registers: what increments and gradients of many channels are
   made of. Every sum is taken in its own order, whatever block it is part of. */
#ifndef BS_BLOCKS_H
#define BS_BLOCKS_H

#include "increments.h"

/* Rows and vectors of a block of sums: of products and of weighted differences; rows of a block of corners. What has whole vectors in
   panels has ACROSS of them, PANEL values, to a row of a panel. */
enum { DOWN = BS_BYTES == 64 ? 8 : 4, FEW_DOWN = BS_BYTES == 64 ? 4 : 2, CORNERS_DOWN = BS_BYTES == 64 ? 6 : 2, ACROSS = 3, PANEL = ACROSS * W };

/* Terms of a sum at once: what they take of a panel fits the L1 cache, and serves all rows there. */
enum { TERMS = 128 };

/* A matrix by rows, in panels of PANEL columns: so many doubles from one row to the next, and from one panel to the next. */
typedef struct {
  double *at;
  int64_t row, panel;
} matrix;

/* The left factor of a product: doubles from one row of it to the next, and from one term of a sum to the next */
typedef struct {
  const double *at;
  int64_t row, next;
} factors;

BS_INLINE matrix from_row(matrix m, int64_t r) { return (matrix){m.at + r * m.row, m.row, m.panel}; }

BS_INLINE matrix from_panel(matrix m, int64_t k) { return (matrix){m.at + k * m.panel, m.row, m.panel}; }

BS_INLINE factors from_term(factors a, int64_t r, int64_t k) { return (factors){a.at + r * a.row + k * a.next, a.row, a.next}; }

/* How c comes by the terms of a and b: a b; (a - b)^2; and of weights a, with rows of its own, a (b - own). */
enum { TIMES, SQUARES_OF_DIFFERENCES, WEIGHTED_DIFFERENCES };

/* c[r][v] (+)= the sum of so many terms, in the first panel of b, own and c */
BS_INLINE void block_of_sums(int how, int down, int across, int fresh, int64_t count, factors a, matrix b, matrix own, matrix c) {
  vec sum[DOWN][ACROSS], from[DOWN][ACROSS];
  for (int r = 0; r < down; ++r)
    for (int v = 0; v < across; ++v) {
      sum[r][v] = fresh ? splat(0) : load(c.at + r * c.row + v * W);
      if (how == WEIGHTED_DIFFERENCES) from[r][v] = load(own.at + r * own.row + v * W);
    }
  for (int64_t k = 0; k < count; ++k, a.at += a.next, b.at += b.row) {
    vec row[ACROSS];
    for (int v = 0; v < across; ++v) row[v] = load(b.at + v * W);
    for (int r = 0; r < down; ++r) {
      const vec x = splat(a.at[r * a.row]);
      for (int v = 0; v < across; ++v) {
        const vec difference = how == WEIGHTED_DIFFERENCES ? row[v] - from[r][v] : x - row[v];
        sum[r][v] += how == TIMES ? x * row[v] : how == WEIGHTED_DIFFERENCES ? x * difference : difference * difference;
      }
    }
  }
  for (int r = 0; r < down; ++r)
    for (int v = 0; v < across; ++v) store(c.at + r * c.row + v * W, sum[r][v]);
}

/* The same for any number of rows, vectors and terms. */
BS_INLINE void sums_of(int how, int fresh, int64_t rows, int64_t vectors, int64_t count, factors a, matrix b, matrix own, matrix c) {
  for (int64_t v = 0; v < vectors; v += ACROSS)
    for (int64_t k = 0; k < count || k == 0; k += TERMS) {
      const matrix panel = from_row(from_panel(b, v / ACROSS), k);
      const int64_t terms = least(count - k, TERMS);
      int64_t r = 0;
#define BS_BLOCK(down, across)                                                                                        \
  block_of_sums(how, down, across, fresh && k == 0, terms, from_term(a, r, k), panel, from_row(from_panel(own, v / ACROSS), r), \
                from_row(from_panel(c, v / ACROSS), r))
#define BS_ROWS(down)                                                                                                 \
  for (; r + down <= rows; r += down) switch (least(vectors - v, ACROSS)) {                                           \
    case 1: BS_BLOCK(down, 1); break;                                                                                 \
    case 2: BS_BLOCK(down, 2); break;                                                                                 \
    default: BS_BLOCK(down, ACROSS);                                                                                  \
  }
      if (how == WEIGHTED_DIFFERENCES) {
        BS_ROWS(FEW_DOWN)
      } else {
        BS_ROWS(DOWN) BS_ROWS(4)
      }
      BS_ROWS(2) BS_ROWS(1)
#undef BS_ROWS
#undef BS_BLOCK
    }
}

static void product(int fresh, int64_t rows, int64_t vectors, int64_t count, factors a, matrix b, matrix c) {
  sums_of(TIMES, fresh, rows, vectors, count, a, b, c, c);
}

static void squares_of_differences(int64_t rows, int64_t vectors, int64_t count, factors a, matrix b, matrix c) {
  sums_of(SQUARES_OF_DIFFERENCES, 1, rows, vectors, count, a, b, c, c);
}

static void weighted_differences(int fresh, int64_t rows, int64_t vectors, int64_t count, factors weights, matrix b, matrix own, matrix c) {
  sums_of(WEIGHTED_DIFFERENCES, fresh, rows, vectors, count, weights, b, own, c);
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
