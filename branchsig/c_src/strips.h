/* A single long pair over all lanes: lane w takes strip w of the rows and is one block of columns behind lane w - 1, so that at
   every step the lanes hold W small problems, a strip by a block each, whose edges they hand to one another:

     step T, lane w: rows of strip w, columns of block T - w; K on its first row is what lane w - 1 had on its last row one step
     ago; E on its left edge is what it had itself on its right edge.

   The adjoint takes the steps in the opposite order, and finds there what it needs: in the forward pass, E and K on the left edge of
   every strip and block and K on its last row are kept, which is O(depth (length1 * BLOCKS + length2)). A lane without a block,
   rows behind the end of path1 and columns behind that of path2 have increments of zero, which change nothing.

   Over ordered forests the first rows of strips are kept in the place of the last ones, and a step is taken downwards again from them
   before its adjoint.

   Each node sees the operations of a tile in the order of a tile, so the values have the same bits. Gradients are sums in another
   order: whether a pair goes this way is for its lengths alone to say. There is one exception: for the linear kernel, of pairs whose rows
   of K a tile recovers block by block, the sums have the order of a tile too (`sums_as_tile`). Strips then are whole bands of rows, and what
   a strip has recovered of its first row, and its sums over rows, go on in the strip above it. */
#ifndef BS_STRIPS_H
#define BS_STRIPS_H

#include "tile.h"

enum { BLOCKS = 32 };

typedef struct {
  const bs_task *task;
  bs_task step;        /* the problem of one lane at one step */
  tile t;              /* of that problem */
  int64_t steps, blocks;
  int64_t strip_cells, block_cells;
  row_state *states;   /* [row]: [level] */
  vec *integral;       /* [row] */
  vec *corner;         /* [level]: K at the left end of the first row */
  edge *edges;         /* backward: [step][row + 1][level]; E is that of the row below */
  vec *last_rows;      /* backward: [step][level][column] */
  adjoint_state *adjoints; /* [row][level] */
  planar_state *planar_states;     /* ordered forests, as `states` */
  planar_adjoint *planar_adjoints; /* likewise */
  int as_tile;         /* gradients are sums in the order of a tile */
  vec *of_steps[2];    /* then: the gradients by the steps of both paths, in lane 0 */
  double total;
} strips;

/* Columns of a block: a whole number of cells, and of blocks of a tile. */
static int64_t block_of_strips(const bs_task *task) {
  const int64_t columns = (task->length2 - 1) << task->dyadic2, refinement = (int64_t)1 << task->dyadic2;
  const int64_t unit = refinement > BLOCK ? refinement : BLOCK; /* both are powers of two */
  return up_to((columns + BLOCKS - 1) / BLOCKS, unit);
}

/* Whether gradients by strips have the bits that a tile gives them. */
static int sums_as_tile(const bs_task *task) {
  const int64_t rows = (task->length1 - 1) << task->dyadic1, columns = (task->length2 - 1) << task->dyadic2;
  if (!is_linear(task) || takes_products(task) || task->planar || task->grad_parameters || task->lengths1 || task->lengths2) return 0;
  return block_of_strips(task) == BLOCK && is_recovered_by_blocks(rows, columns, task->depth - 1);
}

/* Whether `count` pairs, which a tile would take at once, go through strips one by one. Gradients do where every lane has its strip and
   the lanes are busy most of the time, so that the lengths alone decide on the bits, which are others; so do diagonals, of few pairs.
   Where bits are the same, what takes less time decides: a step of a strip takes half as long again as one of a tile. */
static int goes_by_strips(const bs_task *task, int64_t count, int backward) {
  const int plain = task->static_kernel != BS_GIVEN && !task->grid && !task->grid_derivs && !task->k_stack && !task->careful && !task->nodes && !task->dilated && !(task->planar && task->diagonal);
  const int64_t rows = (task->length1 - 1) << task->dyadic1, columns = (task->length2 - 1) << task->dyadic2;
  if (!plain || task->length1 <= 4 * W || task->length2 <= BLOCKS) return 0;
  const int is_long = rows >= 512 && columns >= BLOCK * BLOCKS / 2;
  if (task->diagonal) return is_long && count <= W / 2;
  if (backward && (is_long || !sums_as_tile(task))) return is_long;
  if (takes_products(task) && task->length1 <= 24 * W) return 0; /* rows of strips are rounded up, and packed once a block */
  const int64_t block = block_of_strips(task), blocks = (columns + block - 1) / block;
  return rows >= 2 * BLOCK && columns >= 2 * BLOCK && 3 * count * (blocks + W - 1) <= 2 * W * blocks;
}

static int64_t lay_out_strips(strips *s, const bs_task *task, int backward, char *base) {
  const int64_t columns = (task->length2 - 1) << task->dyadic2, block = block_of_strips(task);
  s->task = task;
  s->block_cells = block >> task->dyadic2;
  s->as_tile = backward && sums_as_tile(task);
  s->strip_cells = (task->length1 - 1 + W - 1) / W;
  if (s->as_tile) s->strip_cells = up_to(s->strip_cells, BAND >> task->dyadic1 ? BAND >> task->dyadic1 : 1);
  s->blocks = (columns + block - 1) / block;
  s->steps = s->blocks + W - 1;
  s->step = *task;
  s->step.length1 = s->strip_cells + 1;
  s->step.length2 = s->block_cells + 1;
  s->step.grid = task->diagonal; /* K_depth on the rows of a band is looked at */
  int64_t used = lay_out(&s->t, &s->step, backward, 0, base);
  tile *t = &s->t;
  s->states = take(base, &used, t->rows * (t->levels + 1), sizeof(row_state));
  if (task->planar) s->planar_states = take(base, &used, t->rows * t->levels, sizeof(planar_state));
  s->integral = take(base, &used, t->rows, sizeof(vec));
  s->corner = take(base, &used, t->levels + 1, sizeof(vec));
  if (backward) {
    s->edges = take(base, &used, s->steps * (t->rows + 1) * t->levels, sizeof(edge));
    s->last_rows = take(base, &used, s->steps * t->levels * t->width, sizeof(vec));
    s->adjoints = take(base, &used, t->rows * (t->levels + 1), sizeof(adjoint_state));
    if (task->planar) s->planar_adjoints = take(base, &used, t->rows * t->levels, sizeof(planar_adjoint));
    if (s->as_tile) {
      s->of_steps[0] = take(base, &used, W * s->strip_cells * task->dimension + task->dimension, sizeof(vec));
      s->of_steps[1] = take(base, &used, s->blocks * s->block_cells * task->dimension + task->dimension, sizeof(vec));
    }
  }
  return used;
}

BS_INLINE edge *strip_edge(const strips *s, int64_t step, int64_t r, int m) {
  return s->edges + (step * (s->t.rows + 1) + r) * s->t.levels + m;
}

/* v one lane up, `first` into lane 0 */
static vec lane_up(vec v, double first) {
  double lanes[W + 1];
  lanes[0] = first;
  memcpy(lanes + 1, &v, sizeof v);
  memcpy(&v, lanes, sizeof v);
  return v;
}

/* v one lane down, `last` into the last lane */
static vec lane_down(vec v, double last) {
  double lanes[W + 1];
  memcpy(lanes, &v, sizeof v);
  lanes[W] = last;
  memcpy(&v, lanes + 1, sizeof v);
  return v;
}

BS_INLINE int busy(const strips *s, int64_t step, int w) { return step >= w && step - w < s->blocks; }

/* The parts of the paths that the lanes work on at a step. */
static void open_step(strips *s, int64_t k, int64_t step) {
  const bs_task *task = s->task;
  increments *in = &s->t.in;
  const int64_t d = task->dimension;
  const double *x = task->path1 + path_of(task->index1, k) * task->stride1 * d, *y = task->path2 + path_of(task->index2, k) * task->stride2 * d;
  in->uniform = 0;
  in->ragged = 1; /* parts of a path need not have the same length */
  in->still = (ivec){0};
  in->any_still = 0;
  in->scale = splat(1);
  for (int w = 0; w < W; ++w) {
    const int64_t row = least(w * s->strip_cells, task->length1 - 1);
    in->x[w] = x + row * d;
    in->points1[w] = least(task->length1 - row, s->strip_cells + 1);
    const int64_t column = busy(s, step, w) ? (step - w) * s->block_cells : task->length2 - 1;
    in->y[w] = y + column * d;
    in->points2[w] = least(task->length2 - column, s->block_cells + 1);
  }
  if (s->t.products)
    open_products(s->t.products);
  else
    pack_second_path(in);
  count_columns(&s->t);
}

/* Where a lane has done its last block, it goes on with paths that do not move. */
static void retire_lane(strips *s, int w) {
  if (s->task->planar) {
    for (int64_t k = 0; k < s->t.rows * s->t.levels; ++k) s->planar_states[k].strip[w] = s->planar_states[k].behind[w] = 0;
    return;
  }
  for (int64_t k = 0; k < s->t.rows * s->t.levels; ++k) {
    s->states[k].E[w] = s->states[k].k[w] = 1;
    s->states[k].left[w] = 2;
  }
  for (int m = 0; m < s->t.levels; ++m) s->corner[m][w] = 1;
}

static void keep_strip_edges(strips *s, int64_t step) {
  const tile *t = &s->t;
  if (s->task->planar) {
    for (int64_t k = 0; k < t->rows * t->levels; ++k)
      strip_edge(s, step, 0, 0)[k] = (edge){s->planar_states[k].strip, s->planar_states[k].behind};
    for (int m = 0; m < t->levels; ++m) memcpy(s->last_rows + (step * t->levels + m) * t->width, k_row(t, 0, m), sizeof(vec) * (size_t)t->width);
    return;
  }
  for (int m = 0; m < t->levels; ++m) {
    strip_edge(s, step, 0, m)->k = s->corner[m];
    for (int64_t r = 0; r < t->rows; ++r) {
      const row_state *state = &s->states[r * t->levels + m];
      strip_edge(s, step, r, m)->E = state->E;
      strip_edge(s, step, r + 1, m)->k = state->k;
    }
  }
}

/* log K at the corners on the diagonal that the rows r0..r1-1 of the strips end in at a step, for a path with itself. Lanes come to the
   diagonal at different places of their blocks, so it is taken from K itself. */
static void store_strip_diagonal(const strips *s, int64_t k, int64_t step, int64_t r0, int64_t r1) {
  const tile *t = &s->t;
  const bs_task *task = s->task;
  const int64_t refinement = (int64_t)1 << task->dyadic1, rows = (task->length1 - 1) << task->dyadic1;
  for (int w = 0; w < W; ++w)
    for (int64_t r = r0 + 1; busy(s, step, w) && r <= r1; ++r) {
      const int64_t node = w * t->rows + r, column = node - (step - w) * t->columns;
      if (node % refinement || node > rows || column < 1 || column > t->columns) continue;
      const vec log_k = logarithm(k_row(t, r, t->levels - 1)[column]);
      const int64_t point = node / refinement, last = node < rows ? point : task->stride1 - 1;
      for (int64_t i = point; i <= last; ++i) task->diagonal[k * task->stride1 + i] = log_k[w];
    }
}

/* All steps of pair k downwards: its log K, and for the backward pass the edges. Returns nonzero if it was asked to stop. */
static int sweep_strips(strips *s, int64_t k) {
  tile *t = &s->t;
  const int backward = s->edges != NULL;
  const bs_task *task = s->task;
  if (task->diagonal) task->diagonal[k * task->stride1] = 0;
  fill(t->fours, BLOCK, 4);
  fill(t->zeros, BLOCK, 0);
  fill(s->integral, t->rows, 0);
  fill(s->corner, t->levels, 1);
  for (int64_t j = 0; j < t->rows * t->levels; ++j) s->states[j] = (row_state){splat(1), splat(2), splat(1)};
  fill(k_row(t, 0, 0), t->width * t->levels, task->planar ? 0 : 1);
  open_watch(t->watched, t->levels + 1);
  if (task->planar) memset(s->planar_states, 0, sizeof(planar_state) * (size_t)(t->rows * t->levels));
  for (int m = 0; task->planar && m < t->levels; ++m) t->watched[m].extent[1] = splat(0);
  t->size = splat(0);
  t->own = W;
  row_state *const band_states = t->states;
  planar_state *const band_planar = t->planar_states;
  for (int64_t step = 0; step < s->steps; ++step) {
    for (int w = 0; w < W; ++w)
      if (step - w == s->blocks) retire_lane(s, w);
    open_step(s, k, step);
    if (backward) keep_strip_edges(s, step);
    for (int m = 0; m < t->levels; ++m) s->corner[m] = k_row(t, 0, m)[t->columns];
    if (!t->products) start_rows(&t->in, 0);
    for (int64_t r0 = 0; r0 < t->rows; r0 += BAND) {
      if (stopped(t)) return 1;
      const int64_t r1 = least(r0 + BAND, t->rows);
      open_increments(t, r0, r1, 0);
      t->states = s->states + r0 * t->levels;
      t->planar_states = s->planar_states + r0 * t->levels;
      sweep_band(t, r0, r1, s->integral + r0);
      if (task->diagonal) store_strip_diagonal(s, k, step, r0, r1);
    }
    for (int m = 0; m < t->levels; ++m) {
      vec *last = k_row(t, t->rows, m), *next = k_row(t, 0, m);
      if (backward && !task->planar) memcpy(s->last_rows + (step * t->levels + m) * t->width, last, sizeof(vec) * t->width);
      if (step == s->steps - 1) continue;
      for (int64_t c = 1; c <= t->columns; ++c) next[c] = lane_up(last[c], task->planar ? 0 : 1);
    }
  }
  t->states = band_states;
  t->planar_states = band_planar;
  s->total = 0;
  if (task->planar) {
    s->total = k_row(t, t->rows, t->levels - 1)[t->columns][W - 1];
    return 0;
  }
  for (int w = 0; w < W; ++w)
    for (int64_t r = 0; r < t->rows; ++r) s->total += s->integral[r][w];
  return 0;
}

/* What all lanes have watched, as one, into every lane. */
static void pool_lanes(tile *t) {
  double size = 0, reach = 0;
  for (int w = 0; w < W; ++w) {
    size += t->size[w];
    reach += t->watched[t->levels].reach[w];
  }
  t->size = splat(size);
  t->watched[t->levels].reach = splat(reach);
  for (int m = 0; m < t->levels; ++m) {
    watch *at = &t->watched[m], own = *at;
    for (int w = 0; w < W; ++w) {
      at->extent[0] = minimum(splat(own.extent[0][w]), at->extent[0]);
      at->extent[1] = maximum(splat(own.extent[1][w]), at->extent[1]);
      at->least = minimum(splat(own.least[w]), at->least);
    }
  }
}

static int strips_out_of_range(strips *s) {
  pool_lanes(&s->t);
  s->t.total = splat(s->total);
  return out_of_range(&s->t)[0] != 0;
}

/* The gradient of lane w with respect to its part of a path. */
static void flush_part(const strips *s, int second, int w, double weight, double *to) {
  const increments *in = &s->t.in;
  const int64_t points = second ? in->points2[w] : in->points1[w], length = second ? s->step.length2 : s->step.length1;
  if (s->t.products)
    flush_products(s->t.products, in, second, w, weight, to);
  else
    flush_gradient(&s->step, second ? in->grad_y : in->grad_x, length, w, points, weight, to);
}

/* Ordered forests: D of a step, on all of its rows. Returns nonzero if it was asked to stop. */
static int sweep_step_again(strips *s, int64_t step) {
  tile *t = &s->t;
  planar_state *const band_states = t->planar_states;
  t->in.gradient = 0;
  t->turn = t->slots;
  if (!t->products) start_rows(&t->in, 0);
  for (int m = 0; m < t->levels; ++m) memcpy(k_row(t, 0, m), s->last_rows + (step * t->levels + m) * t->width, sizeof(vec) * (size_t)t->width);
  for (int64_t r = 0; r < t->rows; ++r)
    for (int m = 0; m < t->levels; ++m) {
      const edge *left = strip_edge(s, step, r, m);
      s->planar_states[r * t->levels + m] = (planar_state){left->E, left->k};
      if (r == 0) *k_row(t, 0, m) = left->k;
      *k_row(t, r + 1, m) = left->k + left->E;
    }
  for (int64_t r0 = 0; r0 < t->rows; r0 += BAND) {
    if (stopped(t)) return 1;
    const int64_t r1 = least(r0 + BAND, t->rows);
    open_increments(t, r0, r1, 0);
    t->planar_states = s->planar_states + r0 * t->levels;
    sweep_band(t, r0, r1, NULL);
  }
  t->planar_states = band_states;
  t->in.gradient = 1;
  if (t->products) t->products->first = -1;
  return 0;
}

/* What the rows below the strips have left, one lane down; `seed` comes to the last strip of the top level. */
static void pass_adjoints_down(strips *s, double seed) {
  tile *t = &s->t;
  const int64_t count = t->width * t->levels;
  for (int64_t j = 0; j < count; ++j) {
    const int top = s->task->planar && j >= count - t->width;
    t->w[j] = lane_down(t->w[j], top ? seed : 0);
    t->gw[j] = lane_down(t->gw[j], 0);
    if (s->task->planar) t->suffixes[j] = lane_down(t->suffixes[j], 0);
  }
}

/* Sums in the order of a tile: what is known of K on row r below a band of a step. In the column that the next block begins with it is the one
   that was kept, as in a tile. */
static void take_edges(const strips *s, int64_t step, int64_t r) {
  const tile *t = &s->t;
  if (step + 1 == s->steps) return;
  for (int m = 0; m < t->levels; ++m)
    for (int w = 0; w < W; ++w)
      if (busy(s, step + 1, w)) k_row(t, r, m)[t->columns][w] = strip_edge(s, step + 1, r, m)->k[w];
}

/* The same: K on the last rows of the strips, which is that on the first rows of the strips below, one step ago. */
static void pass_rows_down(const strips *s, int64_t step) {
  const tile *t = &s->t;
  for (int m = 0; m < t->levels; ++m) {
    const vec *from = k_row(t, 0, m), *last = s->last_rows + (step * t->levels + m) * t->width;
    vec *to = k_row(t, t->rows, m);
    for (int64_t c = 1; c <= t->columns; ++c) to[c] = lane_down(from[c], last[c][W - 1]);
    to[0] = strip_edge(s, step, t->rows, m)->k;
  }
}

/* The same: sums over rows go on one strip up; those of the first strip are whole. */
static void pass_sums_down(const strips *s, int64_t step) {
  const increments *in = &s->t.in;
  const int64_t d = s->task->dimension, count = s->block_cells * d;
  for (int64_t j = 0; j < count; ++j) {
    if (busy(s, step, 0)) s->of_steps[1][step * count + j][0] = in->grad_y[j][0];
    in->grad_y[j] = lane_down(in->grad_y[j], 0);
  }
}

/* The gradient by the steps of a path, in lane 0, to where it belongs. */
static void flush_whole(const strips *s, int second, int64_t length, double weight, double *to) {
  int64_t points[W];
  for (int w = 0; w < W; ++w) points[w] = length;
  part_lanes(s->task, points, length, s->of_steps[second]);
  flush_gradient(s->task, s->of_steps[second], length, 0, length, weight, to);
}

/* All steps of pair k upwards: its gradient, to where it belongs. Returns nonzero if it was asked to stop. */
static int adjoint_strips(strips *s, int64_t k) {
  tile *t = &s->t;
  const bs_task *task = s->task;
  increments *in = &t->in;
  const int64_t d = task->dimension;
  const vec total = splat(s->total), value = task->wrt_log || task->planar ? total : exponential(total);
  const double scale = is_linear(task) ? task->parameter[0] : 1, nan = __builtin_nan("");
  const int finite = value[0] - value[0] == 0;
  const double weight1 = finite ? scale * task->weight1[k] : nan, weight2 = finite ? scale * task->weight2[k] : nan;
  const double seed = task->wrt_log || task->planar ? t->factor : t->factor * value[0];
  fill(t->w, t->width * t->levels, 0);
  fill(t->gw, t->width * t->levels, 0);
  if (!t->products) fill(t->gradient, BAND * in->stride, 0);
  if (!t->products) fill(in->grad_x, s->step.length1 * d, 0);
  if (s->as_tile) {
    fill(s->of_steps[0], (W * s->strip_cells + 1) * d, 0);
    fill(s->of_steps[1], (s->blocks * s->block_cells + 1) * d, 0);
  }
  for (int64_t j = 0; j < t->rows * (t->levels + 1); ++j) s->adjoints[j] = (adjoint_state){splat(0), splat(0)};
  if (task->planar) {
    fill(t->suffixes, t->width * t->levels, 0);
    memset(s->planar_adjoints, 0, sizeof(planar_adjoint) * (size_t)(t->rows * t->levels));
  }
  fill(in->d_parameter, 2, 0);
  in->gradient = 1;
  t->turn = BAND + 1;
  row_state *const band_states = t->states;
  adjoint_state *const band_adjoints = t->adjoints;
  planar_adjoint *const band_planar = t->planar_adjoints;
  for (int64_t step = s->steps - 1; step >= 0; --step) {
    open_step(s, k, step);
    vec top = splat(0);
    for (int w = 0; w < W; ++w)
      if (busy(s, step, w)) top[w] = seed;
    for (int64_t c = 0; c <= t->columns; ++c) t->w_top[c] = top;
    pass_adjoints_down(s, seed);
    if (task->planar && sweep_step_again(s, step)) return 1;
    if (s->as_tile) pass_rows_down(s, step);
    for (int m = 0; !task->planar && !s->as_tile && m < t->levels; ++m) {
      memcpy(k_row(t, t->rows, m), s->last_rows + (step * t->levels + m) * t->width, sizeof(vec) * t->width);
      *k_row(t, t->rows, m) = strip_edge(s, step, t->rows, m)->k;
    }
    if (t->products) t->products->added = step < s->steps - 1;
    if (!t->products) {
      start_rows(in, s->step.length1 - 1);
      if (!s->as_tile || step == s->steps - 1) start_gradient(in);
    }
    for (int64_t r0 = (t->rows - 1) / BAND * BAND; r0 >= 0; r0 -= BAND) {
      if (stopped(t)) return 1;
      const int64_t r1 = least(r0 + BAND, t->rows);
      open_increments(t, r0, r1, 1);
      if (s->as_tile) take_edges(s, step, r1);
      for (int64_t r = r0; !task->planar && r < r1; ++r)
        for (int m = 0; m < t->levels; ++m) {
          const vec upper = strip_edge(s, step, r, m)->k, lower = strip_edge(s, step, r + 1, m)->k;
          *k_row(t, r, m) = upper;
          band_states[(r - r0) * t->levels + m] = (row_state){1 / strip_edge(s, step, r, m)->E, upper + lower, upper};
        }
      if (!task->planar) recover_band(t, r0, r1);
      for (int m = 0; s->as_tile && r0 == 0 && m < t->levels; ++m)
        for (int64_t c = 0; c <= t->columns; ++c) k_row(t, 0, m)[c][0] = 1; /* that much is known exactly */
      t->adjoints = s->adjoints + r0 * (t->levels + 1);
      t->planar_adjoints = s->planar_adjoints + r0 * t->levels;
      adjoint_band(t, 0, r0, r1);
    }
    t->adjoints = band_adjoints;
    t->planar_adjoints = band_planar;
    if (s->as_tile) {
      pass_sums_down(s, step);
      continue;
    }
    if (!t->products) {
      if (in->parameters && is_linear(task)) sum_over_steps(in);
      part_lanes(&s->step, in->points2, s->step.length2, in->grad_y);
    }
    for (int w = 0; w < W; ++w) {
      if (t->products) {
        chunk_gradient(t->products, in, w);
        if (in->parameters && is_linear(task) && busy(s, step, w)) sum_over_steps_of_lane(t->products, in, w);
      }
      if (task->grad2 && task->weight2[k] && busy(s, step, w))
        flush_part(s, 1, w, weight2, task->grad2 + (path_of(task->index2, k) * task->stride2 + (step - w) * s->block_cells) * d);
    }
  }
  in->gradient = 0;
  if (s->as_tile) {
    const int64_t count = s->strip_cells * d;
    for (int64_t j = 0; j < W * count; ++j) s->of_steps[0][j][0] = in->grad_x[j % count][j / count];
    double *const grad1 = task->grad1 && task->weight1[k] ? task->grad1 + path_of(task->index1, k) * task->stride1 * d : NULL;
    double *const grad2 = task->grad2 && task->weight2[k] ? task->grad2 + path_of(task->index2, k) * task->stride2 * d : NULL;
    if (grad1) flush_whole(s, 0, task->length1, weight1, grad1);
    if (grad2) flush_whole(s, 1, task->length2, weight2, grad2);
    return 0;
  }
  for (int j = 0; j < in->parameters; ++j) {
    double sum = 0;
    for (int w = 0; w < W; ++w) sum += in->d_parameter[j][w];
    task->grad_parameters[k * in->parameters + j] = finite ? of_parameter(in, t->factor, j, sum, 1) : nan;
  }
  if (!t->products) part_lanes(&s->step, in->points1, s->step.length1, in->grad_x);
  for (int w = 0; w < W; ++w)
    if (task->grad1 && task->weight1[k] && w * s->strip_cells < task->length1 - 1)
      flush_part(s, 0, w, weight1, task->grad1 + (path_of(task->index1, k) * task->stride1 + w * s->strip_cells) * d);
  return 0;
}

#endif
