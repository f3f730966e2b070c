/* One block of columns of one row of one level of the sweep over ordered forests. With D = K - 1 at the corners of a cell, D11 at its
   last one, and with the mean of K_{m-1} over the corners, s,

     h = g s,   D11 = D01 + strip,   strip of the row = sum of its cells up to this one of a (K10 + K01) + b K00

     trapezoid    s over all four corners, a = h/2 + h^2/12, b = h^2/12
     left point   s is K_{m-1} at the first corner, a = 0, b = h

   Levels, rows and blocks advance as in sweep.h, whose increments are a quarter of g: `means` come from the level below, and the rows are those of D. What is carried from a
   block to the one on its right is the strip and D above it, at the first corner of the next cell. A cell without an increment adds
   exactly nothing to a strip, so padding changes no bits. */
#ifndef BS_PLANAR_H
#define BS_PLANAR_H

#include "sweep.h"

enum { BS_PLANAR_TRAPEZOID = 1, BS_PLANAR_LEFT };

typedef struct {
  vec strip, behind; /* D above, at the column left of the block */
} planar_state;

/* a and b, and p = 1 + a: strip becomes strip p + a (K00 + K01) + b K00, since K10 = K00 + strip. */
typedef struct {
  vec a, b, p;
} planar_weights;

BS_INLINE planar_weights planar_weights_of(int left, vec h) {
  if (left) return (planar_weights){splat(0), h, splat(1)};
  const vec square = h * h, a = square * (1.0 / 12) + 0.5 * h;
  return (planar_weights){a, square * (1.0 / 12), 1.0 + a};
}

/* K as the steps of strips take it: 2 K, or (left point) 4 K */
BS_INLINE vec planar_corner(int left, vec d) { return left ? 4.0 + 4.0 * d : 2.0 + 2.0 * d; }

/* The strip after a cell. With q = h/4, its increment times the mean of K_{m-1} at its corners, and v = 2 + h/3, a is q v, and what is added
   is q (v (2 K00 + K01 + strip) - 2 K00). That is the shorter form, for rows that are swept in pairs: there is one operation less, but a
   strip waits for two multiply-adds. The other is strip p + q (v (2 K00 + K01) - 2 K00). */
BS_INLINE vec planar_step(int left, int shorter, vec q, vec above, vec behind, vec strip) {
  if (left) return strip + q * behind;
  const vec v = q * (4.0 / 3) + 2.0, inner = v * (0.5 * above + behind) - behind;
  if (shorter) return q * (v * strip + inner) + strip;
  return strip * (q * v + 1.0) + rounded(q * inner);
}

/* So many rows are swept at once where there is but one level: a strip waits for itself from cell to cell, and those of two rows fill each
   other's waiting. With more levels there is more to do meanwhile. */
enum { PLANAR_ROWS = 2 };

/* A row of a level: D goes to `to`; of the cells, whose increments are g, `means` come from the level below, NULL for the lowest one, and
   `means_out` go to the one above, NULL for the last one. The lowest level adds up the `squares` of g. */
typedef struct {
  const vec *g, *means;
  vec *to, *means_out;
  planar_state *state;
  vec squares;
} planar_row;

BS_INLINE void planar_block_of(int left, int refined, int lowest, int last, int rows, block b, const vec *from, planar_row *row, vec *most) {
  vec strip[PLANAR_ROWS], d_behind[PLANAR_ROWS], behind[PLANAR_ROWS], both[PLANAR_ROWS], squares[PLANAR_ROWS], largest = *most;
  for (int i = 0; i < rows; ++i) {
    strip[i] = row[i].state->strip;
    d_behind[i] = row[i].state->behind;
    behind[i] = planar_corner(left, d_behind[i]);
    both[i] = d_behind[i] + (d_behind[i] + strip[i]);
    squares[i] = splat(0);
  }
  for (int64_t c = b.first; c <= b.last; ++c) {
    vec d_above = from[c], above = planar_corner(left, d_above);
    for (int i = 0; i < rows; ++i) {
      vec q = row[i].g[refined ? (c - 1) >> b.shift : c - 1];
      if (lowest)
        squares[i] += q * q;
      else
        q *= row[i].means[c - b.first];
      strip[i] = planar_step(left, lowest && last, q, above, behind[i], strip[i]);
      const vec d = d_above + strip[i], next = d_above + d;
      row[i].to[c] = d;
      if (!last && left) row[i].means_out[c - b.first] = 0.25 * behind[i];
      if (!last && !left) row[i].means_out[c - b.first] = 0.25 * (both[i] + next) + 1.0;
      largest = widened(largest, d);
      both[i] = next;
      behind[i] = above;
      d_behind[i] = d_above;
      d_above = d;
      above = planar_corner(left, d);
    }
  }
  for (int i = 0; i < rows; ++i) {
    *row[i].state = (planar_state){strip[i], d_behind[i]};
    row[i].squares = squares[i];
  }
  *most = largest;
}

BS_INLINE void planar_block_as(int left, int refined, int rows, block b, const vec *from, planar_row *row, vec *most) {
  if (rows > 1)
    planar_block_of(left, refined, 1, 1, PLANAR_ROWS, b, from, row, most);
  else if (row->means && row->means_out)
    planar_block_of(left, refined, 0, 0, 1, b, from, row, most);
  else if (row->means)
    planar_block_of(left, refined, 0, 1, 1, b, from, row, most);
  else if (row->means_out)
    planar_block_of(left, refined, 1, 0, 1, b, from, row, most);
  else
    planar_block_of(left, refined, 1, 1, 1, b, from, row, most);
}

/* One row of a level or, of the only one, PLANAR_ROWS of them, one below the other, from D above them. Widens `most`, a bound for |D|. Rows
   of D may be the same memory. */
static void planar_block(int left, int rows, block b, const vec *from, planar_row *row, vec *most) {
  if (left)
    b.shift ? planar_block_as(1, 1, rows, b, from, row, most) : planar_block_as(1, 0, rows, b, from, row, most);
  else
    b.shift ? planar_block_as(0, 1, rows, b, from, row, most) : planar_block_as(0, 0, rows, b, from, row, most);
}

/* The closer look. A rounding error in a cell enters K after it times the kernel of what is left of the two paths; for large K bounds of
   that are far too large. So errors of drawn signs are propagated to first order through all levels, in units of the rounding of a
   double, and MARGIN times the largest of SAMPLES results decides; see _errors of backends/reference/planar.py. */
enum { SAMPLES = 4, MARGIN = 8 };

typedef struct {
  vec *rows;            /* errors of the latest row, [sample][column], samples `width` apart */
  int64_t width;
  const vec *sums;      /* over corners, of the level below: [sample][BLOCK] */
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

/* planar_block of one row, r, with the errors of level m. */
static void planar_careful_block(int left, block b, int64_t r, int m, const vec *from, planar_row row, vec *most, planar_errors errors) {
  planar_state *state = row.state;
  for (int64_t c = b.first; c <= b.last; ++c) {
    const int64_t at = c - b.first;
    const vec g = row.g[(c - 1) >> b.shift], above = from[c], behind = state->behind, beside = behind + state->strip, zero = splat(0);
    const ivec still = g == zero;
    vec q = g;
    if (row.means) q *= row.means[at];
    const vec h = 4.0 * q, first = 1.0 + behind, ends = 2.0 + (beside + above);
    const planar_weights cell = planar_weights_of(left, h);
    vec slope = first;
    if (!left) slope = (h * (1.0 / 6)) * (ends + first) + 0.5 * ends;
    state->strip = planar_step(left, !row.means && !row.means_out, q, planar_corner(left, above), planar_corner(left, behind), state->strip);
    state->behind = above;
    const vec k = above + state->strip;
    row.to[c] = k;
    *most = widened(*most, k);
    if (row.means_out && left) row.means_out[at] = first;
    if (row.means_out && !left) row.means_out[at] = 0.25 * ((behind + beside) + (above + k)) + 1.0;
    const vec own = absolute(cell.a) * (absolute(1.0 + beside) + absolute(1.0 + above)) + absolute(cell.b * first) + absolute(k) + absolute(above);
    vec largest = zero;
    for (int j = 0; j < SAMPLES; ++j) {
      planar_state *error = &errors.states[j];
      vec *error_row = errors.rows + j * errors.width;
      const vec e01 = error_row[c], e00 = error->behind, e10 = e00 + error->strip, below = g * errors.sums[j * BLOCK + at];
      const vec given = slope * below + (is_drawn(r, c, m, j) ? -own : own);
      error->strip += cell.a * (e10 + e01) + cell.b * e00 + choose(still, zero, given);
      error->behind = e01;
      error_row[c] = e01 + error->strip;
      errors.sums_out[j * BLOCK + at] = left ? 4.0 * e00 : (e00 + e10) + (e01 + error_row[c]);
      largest = maximum(largest, absolute(error_row[c]));
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
      const planar_weights step = planar_weights_of(left, h);
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
