/* One block of columns of one row of one level of the sweep over ordered forests. With D = K - 1 at the corners of a cell, D11 at its
   last one, and with sums of K_{m-1} over the corners, s,

     h = g s / 4,   D11 = D01 + strip,   strip of the row = sum of its cells up to this one of a (K10 + K01) + b K00

     trapezoid    s over all four corners, a = h/2 + h^2/12, b = h^2/12
     left point   s is four times K_{m-1} at the first corner, a = 0, b = h

   Levels, rows and blocks advance as in sweep.h: `sums` come from the level below, and the rows are those of D. What is carried from a
   block to the one on its right is the strip and D above it, at the first corner of the next cell. A cell without an increment adds
   exactly nothing to a strip, so padding changes no bits. */
#ifndef BS_PLANAR_H
#define BS_PLANAR_H

#include "sweep.h"

enum { BS_PLANAR_TRAPEZOID = 1, BS_PLANAR_LEFT };

typedef struct {
  vec strip, behind; /* D above, at the column left of the block */
} planar_state;

/* What a strip gains in a cell: strip = strip p + rest, since K10 = K00 + strip. */
typedef struct {
  vec a, b, p, rest;
} planar_cell;

BS_INLINE planar_cell planar_step(int left, vec h, vec above, vec behind) {
  if (left) return (planar_cell){splat(0), h, splat(1), h * behind + h};
  const vec half = 0.5 * h, square = h * h, a = square * (1.0 / 12) + half, both = square * (1.0 / 6) + half;
  return (planar_cell){a, square * (1.0 / 12), 1.0 + a, both * behind + (a * above + (square * 0.25 + h))};
}

BS_INLINE void planar_block_of(int left, int refined, int last, block b, const vec *sums, const vec *from, vec *to, vec *sums_out,
                               planar_state *state, vec *most) {
  vec strip = state->strip, behind = state->behind, largest = *most, both = 2.0 + (behind + (behind + strip));
  for (int64_t c = b.first; c <= b.last; ++c) {
    const vec h = b.g[refined ? (c - 1) >> b.shift : c - 1] * sums[c - b.first], above = from[c];
    const planar_cell cell = planar_step(left, h, above, behind);
    strip = left ? strip + cell.rest : strip * cell.p + cell.rest;
    const vec k = above + strip, next = 2.0 + (above + k);
    to[c] = k;
    if (!last) sums_out[c - b.first] = left ? 4.0 + 4.0 * behind : both + next;
    largest = widened(largest, k);
    both = next;
    behind = above;
  }
  *state = (planar_state){strip, behind};
  *most = largest;
}

#define BS_PLANAR_BLOCK(left, refined)                                                       \
  (sums_out ? planar_block_of(left, refined, 0, b, sums, from, to, sums_out, state, most)    \
            : planar_block_of(left, refined, 1, b, sums, from, to, sums_out, state, most))

/* D of a level on the row `to` from that on the row above, which may be the same memory, and the four-corner sums of the level below
   between the two. Gives those of this level, unless `sums_out` is NULL, and widens `most`, a bound for |D|. */
static void planar_block(int left, block b, const vec *sums, const vec *from, vec *to, vec *sums_out, planar_state *state, vec *most) {
  if (left)
    b.shift ? BS_PLANAR_BLOCK(1, 1) : BS_PLANAR_BLOCK(1, 0);
  else
    b.shift ? BS_PLANAR_BLOCK(0, 1) : BS_PLANAR_BLOCK(0, 0);
}

/* The closer look. A rounding error in a cell enters K after it times the kernel of what is left of the two paths; for large K bounds of
   that are far too large. So errors of drawn signs are propagated to first order through all levels, in units of the rounding of a
   double, and MARGIN times the largest of SAMPLES results decides; see _errors of backends/reference/planar.py. */
enum { SAMPLES = 4, MARGIN = 8 };

typedef struct {
  vec *rows;            /* errors of the latest row, [sample][column], samples `width` apart */
  int64_t width;
  const vec *sums;      /* of the level below, as those of K: [sample][BLOCK] */
  vec *sums_out;
  planar_state *states; /* [sample] */
  vec *worst;           /* widened to the largest error at a node, relative to K where that is larger than 1 */
} planar_errors;

/* Whether the error of sample j in a cell is negative */
BS_INLINE int is_drawn(int64_t r, int64_t c, int m, int j) {
  uint64_t x = ((uint64_t)r * 0x9e3779b97f4a7c15u ^ (uint64_t)c) * 0xbf58476d1ce4e5b9u + (uint64_t)(4 * m + j) * 0x94d049bb133111ebu;
  x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9u;
  return (int)(x >> 63);
}

/* planar_block with the errors of level m on row r. */
static void planar_careful_block(int left, block b, int64_t r, int m, const vec *sums, const vec *from, vec *to, vec *sums_out,
                                 planar_state *state, vec *most, planar_errors errors) {
  for (int64_t c = b.first; c <= b.last; ++c) {
    const int64_t at = c - b.first;
    const vec g = b.g[(c - 1) >> b.shift], above = from[c], behind = state->behind, beside = behind + state->strip, zero = splat(0);
    const ivec still = g == zero;
    const planar_cell cell = planar_step(left, g * sums[at], above, behind);
    const vec h = g * sums[at], ends = 2.0 + (beside + above), first = 1.0 + behind;
    vec slope = first;
    if (!left) slope = (h * (1.0 / 6)) * (ends + first) + 0.5 * ends;
    state->strip = state->strip * cell.p + cell.rest;
    state->behind = above;
    const vec k = above + state->strip;
    to[c] = k;
    *most = widened(*most, k);
    if (sums_out) sums_out[at] = left ? 4.0 * first : (2.0 + (behind + beside)) + (2.0 + (above + k));
    const vec own = absolute(cell.a) * (absolute(1.0 + beside) + absolute(1.0 + above)) + absolute(cell.b * first) + absolute(k) + absolute(above);
    vec largest = zero;
    for (int j = 0; j < SAMPLES; ++j) {
      planar_state *error = &errors.states[j];
      vec *row = errors.rows + j * errors.width;
      const vec e01 = row[c], e00 = error->behind, e10 = e00 + error->strip, below = g * errors.sums[j * BLOCK + at];
      const vec given = slope * below + (is_drawn(r, c, m, j) ? -own : own);
      error->strip += cell.a * (e10 + e01) + cell.b * e00 + choose(still, zero, given);
      error->behind = e01;
      row[c] = e01 + error->strip;
      errors.sums_out[j * BLOCK + at] = left ? 4.0 * e00 : (e00 + e10) + (e01 + row[c]);
      largest = maximum(largest, absolute(row[c]));
    }
    *errors.worst = maximum(*errors.worst, largest / maximum(splat(1), absolute(1.0 + k)));
  }
}

/* The part of the suffix of the next cell that is known, b times the derivative on the right, and g hbar there */
typedef struct {
  vec suffix, beside, gh_right;
} planar_adjoint;

/* Rows of a block that the adjoint of a level needs: D of the level and of the one below, on the rows above and below the cells; by
   column what the row below has left: the derivative, what it adds to suffixes, and g hbar of its neighbours. */
typedef struct {
  const vec *upper, *lower, *upper_below, *lower_below;
  vec *w, *suffixes, *gh;
} planar_rows;

/* The adjoint of a level, right to left. With w the derivative with respect to D at the last corner of a cell, and bar the part of it
   that comes from the level above, or from a grid,

     w00 = w01 (1 + a01) + w10 (1 + a10) - w11 (1 - b11) + bar = w10 + suffix00
     suffix00 = suffix01 + a01 w01 + a10 w10 + b11 w11 + bar

   gradient[cell] becomes old[cell] + hbar s, where hbar = w (a' (K10 + K01) + b' K00), and bar that of the level below. */
BS_INLINE void planar_adjoint_of(int left, int lowest, int refined, block b, const planar_rows *rows, vec *bar, const vec *old,
                                 vec *gradient, planar_adjoint *state) {
  planar_adjoint at = *state;
  const vec *upper = rows->upper, *lower = rows->lower;
  vec right = splat(2), corner = upper[b.last];
  if (!lowest) right = 2.0 + (rows->upper_below[b.last] + rows->lower_below[b.last]);
  for (int64_t c = b.last; c >= b.first;) {
    const int64_t cell = refined ? (c - 1) >> b.shift : c - 1, start = refined ? (cell << b.shift) + 1 : c;
    const vec g = b.g[cell];
    vec sum = old[cell];
    for (const int64_t end = start > b.first ? start : b.first; c >= end; --c) {
      vec s = splat(4);
      if (!lowest && left) s = 4.0 + 4.0 * rows->upper_below[c - 1];
      if (!lowest && !left) {
        const vec next = 2.0 + (rows->upper_below[c - 1] + rows->lower_below[c - 1]);
        s = next + right;
        right = next;
      }
      const vec h = g * s, w_below = rows->w[c], k00 = upper[c - 1], ends = lower[c - 1] + corner;
      corner = k00;
      const planar_cell step = planar_step(left, h, splat(0), splat(0));
      const vec suffix = at.suffix + (rows->suffixes[c] + bar[c - b.first]), w = w_below + suffix;
      const vec slope = left ? 1.0 + k00 : (h * (1.0 / 6)) * (3.0 + (ends + k00)) + (ends * 0.5 + 1.0);
      const vec hbar = w * slope;
      sum += hbar * s;
      rows->w[c] = w;
      rows->suffixes[c] = step.a * w + at.beside;
      at.beside = step.b * w;
      at.suffix = suffix * step.p + step.a * w_below;
      if (lowest) continue;
      vec gh = g * hbar, both = left ? 4.0 * at.gh_right : gh + at.gh_right, gathered = rows->gh[c];
      if (!left) gathered += both;
      bar[c - b.first] = gathered;
      rows->gh[c] = both;
      at.gh_right = gh;
    }
    gradient[cell] = sum;
  }
  *state = at;
}

#define BS_PLANAR_ADJOINT(left, refined)                                                     \
  (lowest ? planar_adjoint_of(left, 1, refined, b, rows, bar, old, gradient, state)          \
          : planar_adjoint_of(left, 0, refined, b, rows, bar, old, gradient, state))

static void planar_adjoint_block(int left, int lowest, block b, const planar_rows *rows, vec *bar, const vec *old, vec *gradient,
                                 planar_adjoint *state) {
  if (left)
    b.shift ? BS_PLANAR_ADJOINT(1, 1) : BS_PLANAR_ADJOINT(1, 0);
  else
    b.shift ? BS_PLANAR_ADJOINT(0, 1) : BS_PLANAR_ADJOINT(0, 0);
}

#endif
