/* One block of columns of one row of one level of the sweep: forwards, backwards and adjoint. K_m on row r needs rows r-1 and
   r of K_{m-1} only, so all levels advance together, row by row:

     cell(r, c)  = g s(r, c) / 4,   s(r, c) = K_{m-1}(r-1,c-1) + K_{m-1}(r-1,c) + K_{m-1}(r,c-1) + K_{m-1}(r,c)
     K_m(r, c)   = K_m(r-1, c) E(c),   E(c) = E(c-1) exp(cell),   E(0) = 1

   A row is an array of columns + 1 registers, one pair per lane, whose column 0 holds ones. What has to be carried from a block
   to the one on its right (or, for the adjoint, on its left) is the state of that row and level. Sums of corners are needed
   within a block only: `sums[c - first]` belongs to column c. */
#ifndef BS_SWEEP_H
#define BS_SWEEP_H

#include "digits.h"

/* Columns of a block, at most, and rows of a band: a block of a band stays in the L1 cache while its rows are swept. Where rows
   of K are kept for the backward pass, those pass through it too; registers of 64 bytes fill it so fast that narrower blocks pay then. */
enum { BLOCK = 32, KEPT_BLOCK = BS_BYTES == 64 ? 16 : BLOCK, BAND = 8 };

/* A lane whose K leaves [1/LIMIT, LIMIT] is computed again in the log domain. From above every node is looked at, for that costs
   nothing beyond what is known anyway; from below the last row of a band and, of each row, the end of a block, where E may not
   be less than 1/LOW_E: between two looks no K falls further than the BAND rows by STEEP each, which is far from underflow. In
   blocks of cells within MEDIUM that follows from E at the end, and in others each E is looked at. So neighbours in the register
   have no say in whether a lane is computed again. */
#define BS_LIMIT 0x1p500
#define BS_LOW_E 0x1p50
#define BS_STEEP 0x1p60 /* more than LOW_E exp(BLOCK MEDIUM) */

/* columns first..last of a row; cell (c - 1) >> shift of g holds the increment of column c, over 4 and over the number of
   sub-cells to a cell */
typedef struct {
  int64_t first, last;
  int shift;
  const vec *g;
} block;

/* E (careful: log E) at the column left of the block, and K_m(r-1, c) + K_m(r, c) and K_m(r, c) there */
typedef struct {
  vec E, left, k;
} row_state;

/* What goes along a row of a level, from column to column */
typedef struct {
  growth how;
  vec E, left, steepest, largest, above;
} level_walk;

BS_INLINE level_walk start_level(int tier, vec largest_cell, const row_state *state) {
  return (level_walk){growth_for(tier, largest_cell), state->E, state->left, splat(1), state->left, splat(0)};
}

/* One column, from K on the row set out from; `sums_out` NULL: the level integrates. */
BS_INLINE void level_column(int tier, double sign, vec g, vec sum, vec k, vec *to, vec *sums_out, level_walk *at) {
  at->E = grown(tier, at->how, at->E, sign * (g * sum));
  const vec k_next = k * at->E, both = k + k_next, s = at->left + both;
  *to = k_next;
  if (sums_out)
    *sums_out = s;
  else
    at->above += g * s;
  at->left = both;
  if (tier >= TIER_LARGE) at->steepest = minimum(at->steepest, at->E);
  at->largest = maximum(at->largest, both);
}

/* Behind the last column: widens `extent`, adds to the integral, and returns the bound for sums. */
BS_INLINE vec end_level(int tier, const level_walk *at, vec *integral, vec extent[2]) {
  const vec largest = at->largest * 2; /* no sum is larger, and columns behind the end of a path, where K stays as it is, change nothing */
  if (tier >= TIER_LARGE) extent[0] = minimum(extent[0], at->steepest * (BS_STEEP / BS_LIMIT));
  extent[0] = minimum(extent[0], at->E * (BS_LOW_E / BS_LIMIT));
  extent[1] = maximum(extent[1], largest);
  if (integral) *integral += at->above;
  return largest;
}

BS_INLINE vec level_block_at(int tier, int refined, double sign, block b, vec largest_cell, const vec *sums, const vec *from, vec *to,
                             vec *sums_out, vec *integral, row_state *state, vec extent[2]) {
  level_walk at = start_level(tier, largest_cell, state);
  for (int64_t c = b.first; c <= b.last; ++c)
    level_column(tier, sign, b.g[refined ? (c - 1) >> b.shift : c - 1], sums[c - b.first], from[c], &to[c],
                 integral ? NULL : &sums_out[c - b.first], &at);
  *state = (row_state){at.E, at.left, to[b.last]};
  return end_level(tier, &at, integral, extent);
}

BS_INLINE vec level_block_of(int refined, double sign, block b, vec largest_cell, const vec *sums, const vec *from, vec *to,
                             vec *sums_out, vec *integral, row_state *state, vec extent[2]) {
  switch (tier_for(largest_cell)) {
    case TIER_TINY: return level_block_at(TIER_TINY, refined, sign, b, largest_cell, sums, from, to, sums_out, integral, state, extent);
    case TIER_SMALL: return level_block_at(TIER_SMALL, refined, sign, b, largest_cell, sums, from, to, sums_out, integral, state, extent);
    case TIER_MEDIUM: return level_block_at(TIER_MEDIUM, refined, sign, b, largest_cell, sums, from, to, sums_out, integral, state, extent);
    case TIER_LARGE: return level_block_at(TIER_LARGE, refined, sign, b, largest_cell, sums, from, to, sums_out, integral, state, extent);
    default: return level_block_at(TIER_ANY, refined, sign, b, largest_cell, sums, from, to, sums_out, integral, state, extent);
  }
}

/* K_m on the row `to` from K_m on the row `from`, which is the row above (sign = 1) or below (sign = -1: K(r-1, c) =
   K(r, c) / E(c)) and may be the same memory, and from the four-corner sums of K_{m-1} between the two. Gives those of K_m, or
   adds their integral, that of level m + 1, to `integral` where that is not NULL; returns a bound for them. `largest_cell`
   bounds |cell|; `extent` is widened to the smallest E, scaled, and that bound. */
BS_INLINE vec level_block(double sign, block b, vec largest_cell, const vec *sums, const vec *from, vec *to, vec *sums_out,
                          vec *integral, row_state *state, vec extent[2]) {
  return b.shift ? level_block_of(1, sign, b, largest_cell, sums, from, to, sums_out, integral, state, extent)
                 : level_block_of(0, sign, b, largest_cell, sums, from, to, sums_out, integral, state, extent);
}

BS_INLINE vec forward_block(block b, vec largest_cell, const vec *sums, const vec *from, vec *to, vec *sums_out, row_state *state,
                         vec extent[2]) {
  return level_block(1, b, largest_cell, sums, from, to, sums_out, NULL, state, extent);
}

BS_INLINE vec forward_last_block(block b, vec largest_cell, const vec *sums, const vec *from, vec *to, vec *integral,
                              row_state *state, vec extent[2]) {
  return level_block(1, b, largest_cell, sums, from, to, NULL, integral, state, extent);
}

static vec recover_block(block b, vec largest_cell, const vec *sums, const vec *from, vec *to, vec *sums_out, row_state *state,
                         vec extent[2]) {
  return level_block(-1, b, largest_cell, sums, from, to, sums_out, NULL, state, extent);
}

/* The same with one exp per node: log K_m(r, c) = log K_m(r-1, c) + the sum of the cells of the row up to c. `logs` holds
   log K_m on the row `from` and becomes that on the row `to`. A cell without an increment contributes nothing, also where K
   is infinite. */
static void careful_block(double sign, block b, const vec *sums, const vec *from, vec *to, vec *logs, vec *sums_out,
                          row_state *state, watch *at) {
  vec strip = state->E, left = state->left;
  for (int64_t c = b.first; c <= b.last; ++c) {
    const vec g = b.g[(c - 1) >> b.shift], k = from[c];
    const ivec still = g == splat(0);
    strip += choose(still, splat(0), g * sums[c - b.first]);
    at->mean = maximum(at->mean, choose(still, splat(0), 0.25 * sums[c - b.first]));
    logs[c] += sign * strip;
    at->reach = maximum(at->reach, absolute(logs[c]));
    to[c] = exponential(logs[c]);
    vec both = k + to[c];
    sums_out[c - b.first] = left + both;
    left = both;
  }
  *state = (row_state){strip, left, to[b.last]};
}

/* The integral over the block from the four-corner sums of the level below, where no level has done it in passing. `above` holds
   log K of the level above on the row `from` at the columns, NULL where nobody asks for it; `at` is of that level. */
static void integrate_block(block b, const vec *sums, vec *integral, vec *above, watch *at) {
  vec sum = splat(0);
  for (int64_t c = b.first; c <= b.last; ++c) {
    const vec g = b.g[(c - 1) >> b.shift];
    const ivec still = g == splat(0);
    sum += choose(still, splat(0), g * sums[c - b.first]);
    if (!above) continue;
    at->mean = maximum(at->mean, choose(still, splat(0), 0.25 * sums[c - b.first]));
    above[c] += *integral + sum;
    at->reach = maximum(at->reach, absolute(above[c]));
  }
  *integral += sum;
}

/* sum of Kbar K right of the block on this row, and g w_{m+1} on this row at the column right of the block */
typedef struct {
  vec suffix, gw_right;
} adjoint_state;

typedef struct {
  vec suffix, gw_right, k, right; /* K, and its sum with the one above, at the node that comes next */
} adjoint_walk;

/* One node; returns w_{m+1} times the four-corner sum of K_m, and at the lowest level also 4 w_1. */
BS_INLINE vec adjoint_node(int lowest, vec sum, vec g, vec w_next, vec upper_left, vec k_left, vec *w, vec *gw, adjoint_walk *at) {
  const vec left = upper_left + k_left;
  sum += w_next * (left + at->right);
  at->right = left;
  const vec gw_here = g * w_next, both = gw_here + at->gw_right;
  at->suffix += (both + *gw) * at->k;
  at->gw_right = gw_here;
  *gw = both;
  at->k = k_left;
  const vec w_here = *w + at->suffix;
  *w = w_here;
  if (lowest) sum += w_here * 4;
  return sum;
}

/* The adjoint of level m, right to left. w_m is the derivative with respect to the integral of level m over a cell: Kbar_m at a
   node gathers g w_{m+1} from its four cells, and w_m = sum of Kbar_m K_m over the nodes below and right.

   w_above: w_{m+1} on this row; upper, lower: K_m on rows r and r+1, ahead: on the row that comes next; w: w_m of the row below,
   becomes this row's; gw: g w_{m+1} at a column and the one on its right, likewise. gradient[cell] becomes old[cell] + w_{m+1} times
   the four-corner sums of K_m; at the lowest level also 4 w_1, for K_0. */
BS_INLINE void adjoint_block_of(int refined, int lowest, block b, const vec *w_above, const vec *upper, const vec *lower,
                                const vec *ahead, vec *w, vec *gw, const vec *old, vec *gradient, adjoint_state *state) {
  adjoint_walk at = {state->suffix, state->gw_right, lower[b.last], upper[b.last] + lower[b.last]};
  int64_t c = b.last;
  if (!refined) /* a column is a cell: nothing to be worked out about indices */
    for (int64_t left = b.last + 1 - b.first; left > 0; --left, --c) {
      __builtin_prefetch(&ahead[c]);
      gradient[c - 1] = adjoint_node(lowest, old[c - 1], b.g[c - 1], w_above[c], upper[c - 1], lower[c - 1], &w[c], &gw[c], &at);
    }
  while (c >= b.first) {
    const int64_t cell = (c - 1) >> b.shift, start = (cell << b.shift) + 1;
    const vec g = b.g[cell];
    vec sum = old[cell];
    for (const int64_t end = start > b.first ? start : b.first; c >= end; --c) {
      __builtin_prefetch(&ahead[c]);
      sum = adjoint_node(lowest, sum, g, w_above[c], upper[c - 1], lower[c - 1], &w[c], &gw[c], &at);
    }
    gradient[cell] = sum;
  }
  *state = (adjoint_state){at.suffix, at.gw_right};
}

static void adjoint_block(int lowest, block b, const vec *w_above, const vec *upper, const vec *lower, const vec *ahead,
                          vec *w, vec *gw, const vec *old, vec *gradient, adjoint_state *state) {
  if (b.shift)
    lowest ? adjoint_block_of(1, 1, b, w_above, upper, lower, ahead, w, gw, old, gradient, state)
           : adjoint_block_of(1, 0, b, w_above, upper, lower, ahead, w, gw, old, gradient, state);
  else
    lowest ? adjoint_block_of(0, 1, b, w_above, upper, lower, ahead, w, gw, old, gradient, state)
           : adjoint_block_of(0, 0, b, w_above, upper, lower, ahead, w, gw, old, gradient, state);
}

/* w of the top level where derivatives are given at every node of the row below: w = sum of derivs K over the nodes, without K
   where the derivatives are those of log K. derivs[c - first] belongs to column c. */
static void seed_block(block b, const vec *derivs, const vec *lower, vec *w, adjoint_state *state) {
  vec suffix = state->suffix;
  for (int64_t c = b.last; c >= b.first; --c) {
    if (lower)
      suffix += derivs[c - b.first] * lower[c];
    else
      suffix += derivs[c - b.first];
    w[c] += suffix;
  }
  state->suffix = suffix;
}

#endif
