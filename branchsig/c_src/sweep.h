/* Rows of the sweep. K_m at node (r, c) needs rows r-1 and r of K_{m-1} only, so all levels advance together:

     cell(r, c)  = g (K_{m-1}(r-1,c-1) + K_{m-1}(r-1,c) + K_{m-1}(r,c-1) + K_{m-1}(r,c)) / 4
     K_m(r, c)   = K_m(r-1, c) E_m(c),   E_m(c) = E_m(c-1) exp(cell),   E_m(0) = 1

   Levels are taken in groups of at most GROUP. A row of a group is an array [columns + 1][levels] of registers, one pair
   per lane, whose column 0 holds ones. `sums` is the row of four-corner sums of the level below the group (4 for K_0). */
#ifndef BS_SWEEP_H
#define BS_SWEEP_H

#include "elementary.h"

enum { GROUP = 4, BLOCK = 16 };

/* A lane whose K leaves [1/LIMIT, LIMIT] is computed again in the log domain. */
#define BS_LIMIT BS_C(0x1p500, 0x1p60f)

typedef struct {
  int64_t columns; /* sub-cells in a row */
  int shift;       /* 2^shift sub-cells to a cell */
  vec *g;          /* increments of the cells of this row, over 4 and over the number of sub-cells to a cell */
  vec *bound;      /* largest |g| in each block of sub-cells */
} row_cells;

/* the smallest K and the largest four-corner sum that were met, and the integral of the last level */
typedef struct {
  vec low, high, total;
} row_record;

/* One block of columns of one row; returns the largest |cell| that any lane may have met. `sign` is -1 to go back up:
   K(r-1, c) = K(r, c) / E(c). */
BS_INLINE vec block(int levels, int tier, real sign, int64_t first, int64_t last, const row_cells *cells, const vec *sums,
                    const vec *from, vec *to, vec *sums_out, vec *E, vec *left, vec *integral, row_record *record) {
  vec largest = splat(0), low = record->low, high = splat(0), sum = *integral;
  for (int64_t c = first; c <= last; ++c) {
    const vec g = cells->g[(c - 1) >> cells->shift];
    const vec *k_from = from + c * levels;
    vec *k_to = to + c * levels;
    vec s = sums[c];
    largest = maximum(largest, s);
    for (int m = 0; m < levels; ++m) {
      E[m] = times_exp(tier, E[m], sign * (g * s));
      vec k = k_from[m], k_next = k * E[m], both = k + k_next;
      k_to[m] = k_next;
      s = left[m] + both;
      left[m] = both;
      low = minimum(low, k_next);
      high = maximum(high, s);
    }
    sums_out[c] = s;
    sum += g * s;
  }
  *integral = sum;
  record->low = low;
  record->high = maximum(record->high, high);
  return maximum(largest, high) * cells->bound[(first - 1) / BLOCK];
}

/* A whole row. A block is first tried at the tier that the one before needed, and again at a higher one if a cell
   turns out larger: `from` is left as it was, so nothing is lost but the time. */
BS_INLINE void row(int levels, real sign, const row_cells *cells, const vec *sums, const vec *from, vec *to, vec *sums_out,
                   row_record *record) {
  vec E[GROUP], left[GROUP], integral = splat(0);
  for (int m = 0; m < levels; ++m) {
    E[m] = splat(1);
    left[m] = splat(2);
  }
  int tier = TIER_TINY;
  for (int64_t first = 1; first <= cells->columns; first += BLOCK) {
    int64_t last = first + BLOCK - 1 < cells->columns ? first + BLOCK - 1 : cells->columns;
    vec E_before[GROUP], left_before[GROUP], integral_before = integral, largest;
    row_record record_before = *record;
    for (int m = 0; m < levels; ++m) {
      E_before[m] = E[m];
      left_before[m] = left[m];
    }
    for (;;) {
      if (tier == TIER_TINY)
        largest = block(levels, TIER_TINY, sign, first, last, cells, sums, from, to, sums_out, E, left, &integral, record);
      else if (tier == TIER_SMALL)
        largest = block(levels, TIER_SMALL, sign, first, last, cells, sums, from, to, sums_out, E, left, &integral, record);
      else
        largest = block(levels, TIER_ANY, sign, first, last, cells, sums, from, to, sums_out, E, left, &integral, record);
      int needed = any_beyond(largest, BS_SMALL) ? TIER_ANY : any_beyond(largest, BS_TINY) ? TIER_SMALL : TIER_TINY;
      if (needed <= tier) {
        tier = needed;
        break;
      }
      tier = needed;
      for (int m = 0; m < levels; ++m) {
        E[m] = E_before[m];
        left[m] = left_before[m];
      }
      integral = integral_before;
      *record = record_before;
    }
  }
  record->total += integral;
}

/* The same row with one exp per node: log K_m(r, c) = log K_m(r-1, c) + the sum of the cells of the row up to c. `logs`
   holds log K of the row `from` and becomes that of the row `to`. A cell without an increment contributes nothing, also
   where K is infinite. */
BS_INLINE void careful_row(int levels, real sign, const row_cells *cells, const vec *sums, const vec *from, vec *to, vec *logs,
                           vec *sums_out, row_record *record) {
  vec strip[GROUP], left[GROUP], integral = splat(0);
  for (int m = 0; m < levels; ++m) {
    strip[m] = splat(0);
    left[m] = splat(2);
  }
  for (int64_t c = 1; c <= cells->columns; ++c) {
    const vec g = cells->g[(c - 1) >> cells->shift];
    const ivec no_increment = g == splat(0);
    vec s = sums[c];
    for (int m = 0; m < levels; ++m) {
      strip[m] += choose(no_increment, splat(0), g * s);
      vec log_k = logs[c * levels + m] + sign * strip[m], k_next = exponential(log_k), both = from[c * levels + m] + k_next;
      logs[c * levels + m] = log_k;
      to[c * levels + m] = k_next;
      s = left[m] + both;
      left[m] = both;
    }
    sums_out[c] = s;
    integral += choose(no_increment, splat(0), g * s);
  }
  record->total += integral;
}

/* The adjoint of one row, right to left. w_m is the derivative with respect to the integral of level m over a cell:
   Kbar_m at a node gathers g w_{m+1} from its four cells, and w_m = sum of Kbar_m K_m over the nodes below and right.

   w_above (stride 0 or 1 per column): w of the level above the group on this row; w_out: that of its lowest level.
   upper, lower: K on rows r and r+1, `pitch` levels to a column. w: w_m of the row below, becomes this row's; gw: g w_{m+1}, likewise.
   gradient[cell] += sum over levels of w_m times the four-corner sum of K_{m-1}. `lowest`: the level below is K_0. */
BS_INLINE void adjoint_row(int levels, int lowest, const row_cells *cells, const vec *w_above, int64_t stride, const vec *upper,
                           const vec *lower, int64_t pitch, vec *w, vec *gw, vec *w_out, vec *gradient) {
  const int64_t columns = cells->columns;
  vec suffix[GROUP], gw_right[GROUP], gw_diagonal[GROUP], right[GROUP];
  for (int m = 0; m < levels; ++m) {
    suffix[m] = gw_right[m] = gw_diagonal[m] = splat(0);
    right[m] = upper[columns * pitch + m] + lower[columns * pitch + m];
  }
  for (int64_t c = columns; c >= 1; --c) {
    const int64_t cell = (c - 1) >> cells->shift;
    const vec g = cells->g[cell];
    vec w_next = w_above[c * stride], sum = splat(0);
    for (int m = levels - 1; m >= 0; --m) {
      vec left = upper[(c - 1) * pitch + m] + lower[(c - 1) * pitch + m];
      sum += w_next * (left + right[m]);
      right[m] = left;
      vec here = g * w_next, below = gw[c * levels + m];
      vec k_bar = (here + gw_right[m]) + (below + gw_diagonal[m]);
      gw_right[m] = here;
      gw_diagonal[m] = below;
      gw[c * levels + m] = here;
      suffix[m] += k_bar * lower[c * pitch + m];
      w_next = w[c * levels + m] + suffix[m];
      w[c * levels + m] = w_next;
    }
    w_out[c] = w_next;
    if (lowest) sum += w_next * 4;
    gradient[cell] += sum;
  }
}

/* w of the top level where derivatives are given at every node of the row below: w = sum of derivs K over the nodes. */
static void seed_row(int64_t columns, const vec *derivs, int64_t levels, const vec *lower, vec *w) {
  vec suffix = splat(0);
  for (int64_t c = columns; c >= 1; --c) {
    if (lower)
      suffix += derivs[c] * lower[c * levels];
    else
      suffix += derivs[c];
    w[c] += suffix;
  }
}

typedef void row_function(const row_cells *, const vec *, const vec *, vec *, vec *, row_record *);
typedef void careful_row_function(const row_cells *, const vec *, const vec *, vec *, vec *, vec *, row_record *);
typedef void adjoint_row_function(const row_cells *, const vec *, int64_t, const vec *, const vec *, int64_t, vec *, vec *, vec *,
                                  vec *);

#define BS_ROWS(levels)                                                                                                        \
  static void forward_row_##levels(const row_cells *cells, const vec *sums, const vec *from, vec *to, vec *sums_out,           \
                                   row_record *record) {                                                                       \
    row(levels, (real)1, cells, sums, from, to, sums_out, record);                                                             \
  }                                                                                                                            \
  static void recover_row_##levels(const row_cells *cells, const vec *sums, const vec *from, vec *to, vec *sums_out,           \
                                   row_record *record) {                                                                       \
    row(levels, (real)-1, cells, sums, from, to, sums_out, record);                                                            \
  }                                                                                                                            \
  static void careful_forward_row_##levels(const row_cells *cells, const vec *sums, const vec *from, vec *to, vec *logs,       \
                                           vec *sums_out, row_record *record) {                                                \
    careful_row(levels, (real)1, cells, sums, from, to, logs, sums_out, record);                                               \
  }                                                                                                                            \
  static void careful_recover_row_##levels(const row_cells *cells, const vec *sums, const vec *from, vec *to, vec *logs,       \
                                           vec *sums_out, row_record *record) {                                                \
    careful_row(levels, (real)-1, cells, sums, from, to, logs, sums_out, record);                                              \
  }                                                                                                                            \
  static void adjoint_row_##levels(const row_cells *cells, const vec *w_above, int64_t stride, const vec *upper,               \
                                   const vec *lower, int64_t pitch, vec *w, vec *gw, vec *w_out, vec *gradient) {              \
    adjoint_row(levels, 0, cells, w_above, stride, upper, lower, pitch, w, gw, w_out, gradient);                               \
  }                                                                                                                            \
  static void adjoint_lowest_row_##levels(const row_cells *cells, const vec *w_above, int64_t stride, const vec *upper,        \
                                          const vec *lower, int64_t pitch, vec *w, vec *gw, vec *w_out, vec *gradient) {       \
    adjoint_row(levels, 1, cells, w_above, stride, upper, lower, pitch, w, gw, w_out, gradient);                               \
  }
BS_ROWS(1)
BS_ROWS(2)
BS_ROWS(3)
BS_ROWS(4)

#define BS_TABLE(name) {NULL, name##_1, name##_2, name##_3, name##_4}
static row_function *const forward_rows[] = BS_TABLE(forward_row), *const recover_rows[] = BS_TABLE(recover_row);
static careful_row_function *const careful_forward_rows[] = BS_TABLE(careful_forward_row),
                                  *const careful_recover_rows[] = BS_TABLE(careful_recover_row);
static adjoint_row_function *const adjoint_rows[] = BS_TABLE(adjoint_row),
                                  *const adjoint_lowest_rows[] = BS_TABLE(adjoint_lowest_row);

#endif
