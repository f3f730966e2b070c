/* A single long pair over all lanes: lane w takes strip w of the rows and is one block of columns behind lane w - 1, so that at
   every step the lanes hold W small problems, a strip by a block each, whose edges they hand to one another:

     step T, lane w: rows of strip w, columns of block T - w; K on its first row is what lane w - 1 had on its last row one step
     ago; E on its left edge is what it had itself on its right edge.

   The adjoint takes the steps in the opposite order, and finds there what it needs: in the forward pass, E and K on the left edge of
   every strip and block and K on its last row are kept, which is O(depth (length1 * BLOCKS + length2 * GROUPS)). A lane without a block,
   rows behind the end of path1 and columns behind that of path2 have increments of zero, which change nothing.

   The rows of a pair that is long enough make several groups of W strips, each W steps behind the one above it. Threads take the groups
   in turns, forward downwards and then backward upwards; what one group hands to the next lies in memory that they share (`relay`). A group
   waits only for those that were taken before it, so the work gets done by whatever threads come and however late they are, and since lengths
   alone decide on the groups, with the same bits.

   Over ordered forests the first rows of strips are kept in the place of the last ones, and a step is taken downwards again from them
   before its adjoint.

   Each node sees the operations of a tile in the order of a tile, so the values have the same bits. Gradients of long pairs, and of many
   channels, are sums in another order: whether a pair goes this way is for its lengths alone to say. All others are sums in the order of a
   tile (`sums_as_tile`). Strips then are whole bands of rows; what a strip has of its first row, and its sums over rows, go on in the strip
   above it; and the gradient of the first column of a step stands beside the last one of the next step. Where a tile keeps all rows of K,
   these are kept of every step, and otherwise recovered. Where it takes products, those are taken of the whole pair (`fill_sheet`). */
#ifndef BS_STRIPS_H
#define BS_STRIPS_H

#include "tile.h"

/* Pairs of LONG rows and columns of sub-cells are long; where channels are so many for each level that their sums take most of the time
   anyhow, pairs of LONG_OF_MANY. */
enum { SHEET_BYTES = 20 << 20, BLOCKS = 64, LONG = 512, LONG_OF_MANY = 192, MANY_A_LEVEL = 24, GROUPS = 8, GROUP_ROWS = 48, APART = 64 / sizeof(int64_t) };

/* What the threads that work on one pair share. Rows from one group to the next hold a place for every column: the group below takes what is
   there before it puts its own. */
typedef struct {
  int64_t *taken;      /* so many items, each the way of a group in one direction, have been taken */
  int64_t *done;       /* [item * APART]: steps of it that are done */
  double *gradient[2]; /* with respect to path1, [strip][point][channel], and path2; in the order of a tile to the steps of both */
  double *parameters;  /* [group][parameter]: gradients, as finish_parameters takes them */
  double *integral;    /* [row]: of the top level; ordered forests: D at the end */
  double *k, *w, *gw, *suffixes; /* [level][column]: from one group to the next */
  double *corner;      /* gradients as sums in the order of a tile: [point] of the second path, from one group to the next */
  watch *watched;      /* [group][level] */
  vec *size;           /* [group] */
  edge *edges;         /* backward: [group][step][row + 1][level]; E is that of the row below */
  vec *last_rows;      /* backward: [group][step][level][column] */
  vec *kept;           /* backward, where the tile keeps rows: [group][step][row][level][column] */
  char *chunks;        /* backward, where the tile is one that remembers: [group][step], what it remembers */
} relay;

typedef struct {
  const bs_task *task;
  relay shared;
  bs_task step;        /* the problem of one lane at one step */
  tile t;              /* of that problem */
  int64_t group, groups; /* the one at hand, and how many there are */
  int64_t steps, blocks;
  int64_t strip_cells, block_cells;
  row_state *states;   /* [row]: [level] */
  vec *integral;       /* [row] */
  vec *corner;         /* [level]: K at the left end of the first row */
  adjoint_state *adjoints; /* [row][level] */
  planar_state *planar_states;     /* ordered forests, as `states` */
  planar_adjoint *planar_adjoints; /* likewise */
  tile pair;           /* increments of a whole pair by products, whose strips find them in a sheet */
  double *sheet;       /* [row][column]: increments, and then their gradient; or NULL */
  int as_tile;         /* gradients are sums in the order of a tile */
  vec *beside;         /* then, unless the kernel is linear: [row of cells] of the gradient of the first column of the last step */
  vec *origin;         /* and the first point of the second path */
  double total;
} strips;

/* Pairs that are long whatever else is asked for. */
static int is_long(const bs_task *task) {
  const int64_t rows = (task->length1 - 1) << task->dyadic1, columns = (task->length2 - 1) << task->dyadic2;
  const int64_t least_long = task->products && coordinates(task) / MANY_A_LEVEL >= task->depth ? LONG_OF_MANY : LONG;
  return rows >= least_long && columns >= least_long;
}

/* Gradients of pairs that go through strips or tiles, whichever takes less time, with the same bits: columns of a block of either, or 0. */
static int64_t sums_as_tile(const bs_task *task) {
  const int64_t rows = (task->length1 - 1) << task->dyadic1, columns = (task->length2 - 1) << task->dyadic2;
  const int64_t levels = task->planar ? task->depth : task->depth - 1;
  if (is_long(task) || !levels || task->grad_parameters || task->lengths1 || task->lengths2) return 0;
  if (task->products && task->length1 * up_to(task->length2, DOWN) * (int64_t)sizeof(vec) > SHEET_BYTES) return 0;
  const int kept = keeps_all_rows(task, rows, columns, levels);
  const int64_t block = kept ? KEPT_BLOCK : BLOCK;
  if (columns > BLOCKS * block || (int64_t)1 << task->dyadic2 > block) return 0;
  return kept || task->planar || is_recovered_by_blocks(task, rows, columns, levels) ? block : 0;
}

/* Columns of a block: a whole number of cells, and of blocks of a tile. */
static int64_t block_of_strips(const bs_task *task, int backward) {
  const int64_t columns = (task->length2 - 1) << task->dyadic2, refinement = (int64_t)1 << task->dyadic2;
  const int64_t cells = is_anchored(task) ? ANCHOR * refinement : refinement, unit = cells > BLOCK ? cells : BLOCK; /* powers of two */
  const int64_t as_tile = backward ? sums_as_tile(task) : 0;
  return as_tile ? as_tile : up_to((columns + BLOCKS - 1) / BLOCKS, unit);
}

/* Whether `count` pairs, which a tile would take at once, go through strips one by one. Gradients do where every lane has its strip and
   the lanes are busy most of the time, so that the lengths alone decide on the bits, which are others; so do diagonals, of few pairs.
   Where bits are the same, what takes less time decides: a step of a strip takes half as long again as one of a tile. */
static int goes_by_strips(const bs_task *task, int64_t count, int backward) {
  const int plain = task->static_kernel != BS_GIVEN && !task->grid && !task->grid_derivs && !task->k_stack && !task->careful && !task->nodes && !task->dilated && !(task->planar && task->diagonal);
  const int64_t rows = (task->length1 - 1) << task->dyadic1, columns = (task->length2 - 1) << task->dyadic2;
  if (!plain || task->length1 <= 4 * W || task->length2 <= BLOCK) return 0;
  if (task->diagonal) return is_long(task) && count <= W / 2;
  if (backward && !sums_as_tile(task)) return is_long(task);
  const int64_t block = block_of_strips(task, backward), blocks = (columns + block - 1) / block;
  return rows >= 2 * BLOCK && columns >= 2 * BLOCK && 3 * count * (blocks + W - 1) <= 2 * W * blocks;
}

/* As many groups as leave their strips so many rows: the more there are, the less threads wait for one another. */
static int64_t groups_of(const bs_task *task) {
  int64_t groups = 1;
  while (groups < GROUPS && (task->length1 - 1) << task->dyadic1 >= 2 * groups * W * GROUP_ROWS * (task->products ? 2 : 1) && task->length1 > 2 * groups * W * BAND) groups *= 2;
  return groups;
}

/* Gradients as sums in the order of a tile, of increments that are products: products are taken of the whole pair, before the strips and after
   them. There is room for W lanes, of which one is used: pages of memory that nobody touches cost nothing. */
static int64_t lay_out_sheet(strips *s, const bs_task *task, char *base) {
  tile *t = &s->pair;
  int64_t used = 0;
  t->in.task = task;
  t->products = &t->many;
  lay_out_products(t->products, task, 1, 0, base, &used);
  used += lay_out_chunks(t, 1, task->length1 - 1, base ? base + used : NULL);
  s->sheet = take(base, &used, (task->length1 - 1) * t->many.width, sizeof(double));
  return up_to(used, sizeof(vec));
}

/* The memory of one thread. */
static int64_t lay_out_strips(strips *s, const bs_task *task, int backward, char *base) {
  const int64_t columns = (task->length2 - 1) << task->dyadic2, block = block_of_strips(task, backward);
  s->task = task;
  s->block_cells = block >> task->dyadic2;
  s->as_tile = backward && sums_as_tile(task);
  const int whole = s->as_tile && task->products, strips_of_all = whole ? W : groups_of(task) * W;
  s->strip_cells = (task->length1 - 1 + strips_of_all - 1) / strips_of_all;
  if (s->as_tile) s->strip_cells = up_to(s->strip_cells, BAND >> task->dyadic1 ? BAND >> task->dyadic1 : 1);
  if (is_anchored(task) && !whole) s->strip_cells = up_to(s->strip_cells, ANCHOR);
  s->groups = (task->length1 - 1 + W * s->strip_cells - 1) / (W * s->strip_cells);
  s->blocks = (columns + block - 1) / block;
  s->steps = s->blocks + W - 1;
  s->step = *task;
  s->step.length1 = s->strip_cells + 1;
  s->step.length2 = s->block_cells + 1;
  s->step.grid = task->diagonal; /* K_depth on the rows of a band is looked at */
  if (whole) {
    s->step.static_kernel = BS_GIVEN;
    s->step.products = 0;
  }
  int64_t used = lay_out(&s->t, &s->step, backward, 0, base);
  tile *t = &s->t;
  t->remembered = backward && t->products && s->groups * s->steps * t->whole <= REMEMBERED_BYTES;
  t->kept = s->as_tile && keeps_all_rows(task, (task->length1 - 1) << task->dyadic1, columns, t->levels);
  t->in.joined = s->as_tile && !whole;
  if (t->kept) t->slots = t->turn = t->rows + 1;
  s->states = take(base, &used, t->rows * (t->levels + 1), sizeof(row_state));
  if (task->planar) s->planar_states = take(base, &used, t->rows * t->levels, sizeof(planar_state));
  s->integral = take(base, &used, t->rows, sizeof(vec));
  s->corner = take(base, &used, t->levels + 1, sizeof(vec));
  if (backward) {
    s->adjoints = take(base, &used, t->rows * (t->levels + 1), sizeof(adjoint_state));
    if (task->planar) s->planar_adjoints = take(base, &used, t->rows * t->levels, sizeof(planar_adjoint));
  }
  s->sheet = NULL;
  if (whole) used += lay_out_sheet(s, task, base ? base + used : NULL);
  if (t->in.joined && !is_linear(task)) {
    s->beside = take(base, &used, s->strip_cells, sizeof(vec));
    s->origin = take(base, &used, task->dimension, sizeof(vec));
    t->in.origin = s->origin;
  }
  return used;
}

/* The memory that threads share, of which `blank` bytes are zeros at first. */
static int64_t lay_out_relay(strips *s, int backward, char *base, int64_t *blank) {
  const tile *t = &s->t;
  const bs_task *task = s->task;
  relay *r = &s->shared;
  const int64_t row = t->levels * s->blocks * t->columns, d = task->dimension;
  int64_t used = 0;
#define TAKE(count) take(base, &used, up_to(count, APART), sizeof(double))
  r->taken = TAKE(APART);
  r->done = TAKE(2 * s->groups * APART);
  if (backward && s->step.static_kernel != BS_GIVEN) {
    r->gradient[0] = TAKE(s->groups * W * (s->strip_cells + 1) * d);
    r->gradient[1] = TAKE((s->blocks * s->block_cells + 1) * d);
  }
  *blank = used;
  r->parameters = TAKE(2 * s->groups);
  r->integral = TAKE(s->groups * W * t->rows);
  r->k = TAKE(row);
  if (backward) {
    r->w = TAKE(row);
    r->gw = TAKE(row);
    if (task->planar) r->suffixes = TAKE(row);
    if (t->in.joined) r->corner = TAKE(s->blocks * s->block_cells + 1);
  }
#undef TAKE
  r->watched = take(base, &used, s->groups * (t->levels + 1), sizeof(watch));
  r->size = take(base, &used, s->groups, sizeof(vec));
  r->edges = NULL;
  r->kept = NULL;
  if (!backward) return used;
  if (t->kept) {
    r->kept = take(base, &used, s->groups * s->steps * t->slots * t->levels * t->width, sizeof(vec));
    return used;
  }
  r->edges = take(base, &used, s->groups * s->steps * (t->rows + 1) * t->levels, sizeof(edge));
  r->last_rows = take(base, &used, s->groups * s->steps * t->levels * t->width, sizeof(vec));
  if (t->remembered) r->chunks = take(base, &used, s->groups * s->steps, (size_t)t->whole);
  return used;
}

/* The memory of one thread that shares its own with nobody, where the task has none that is shared. */
static int64_t size_of_strips(strips *s, const bs_task *task, int backward) {
  int64_t blank;
  const int64_t own = lay_out_strips(s, task, backward, NULL);
  return task->shared ? own : own + 64 + lay_out_relay(s, backward, NULL, &blank);
}

static void open_strips(strips *s, const bs_task *task, int backward) {
  char *own = aligned(task->workspace);
  int64_t blank;
  const int64_t used = lay_out_strips(s, task, backward, own);
  char *shared = aligned(task->shared ? task->shared : own + used);
  lay_out_relay(s, backward, shared, &blank);
  if (!task->shared) memset(shared, 0, (size_t)blank);
  fill(s->t.fours, BLOCK, 4);
  fill(s->t.zeros, BLOCK, 0);
  s->t.own = W;
}

/* The next one of the items, which are the groups downwards and, backward, upwards again. */
static int64_t take_item(const strips *s) { return __atomic_fetch_add(s->shared.taken, 1, __ATOMIC_ACQ_REL); }

static void finish_steps(const strips *s, int64_t item, int64_t steps) {
  __atomic_store_n(s->shared.done + item * APART, steps, __ATOMIC_RELEASE);
}

/* Waits until so many steps of an item are done. Returns nonzero if it was asked to stop. */
static int wait_for_steps(const strips *s, int64_t item, int64_t steps) {
  const int64_t *done = s->shared.done + item * APART, enough = least(steps, s->steps);
  for (int tries = 0; __atomic_load_n(done, __ATOMIC_ACQUIRE) < enough;) {
    if (stopped(&s->t)) return 1;
    if (tries < 200) ++tries, bs_pause();
    else bs_yield();
  }
  return 0;
}

/* Waits until all groups have come down. */
static int wait_for_forward(const strips *s) {
  for (int64_t item = 0; item < s->groups; ++item)
    if (wait_for_steps(s, item, s->steps)) return 1;
  return 0;
}

BS_INLINE edge *strip_edge(const strips *s, int64_t step, int64_t r, int m) {
  return s->shared.edges + ((s->group * s->steps + step) * (s->t.rows + 1) + r) * s->t.levels + m;
}

/* K (ordered forests: D) on the last, or the first, rows of the strips at a step. */
BS_INLINE vec *strip_row(const strips *s, int64_t step, int m) {
  return s->shared.last_rows + ((s->group * s->steps + step) * s->t.levels + m) * s->t.width;
}

/* All rows of K at a step, where they are kept. */
BS_INLINE vec *kept_rows(const strips *s, int64_t step) {
  return s->shared.kept + (s->group * s->steps + step) * s->t.slots * s->t.levels * s->t.width;
}

/* What lies in a row from one group to the next for the columns of a block. */
BS_INLINE double *handed(const strips *s, double *row, int m, int64_t block) {
  return row + (m * s->blocks + block) * s->t.columns;
}

/* The first cell of the strip of lane w. */
BS_INLINE int64_t first_cell(const strips *s, int w) { return (s->group * W + w) * s->strip_cells; }

/* `value` in the place of one lane */
BS_INLINE vec with_lane(vec v, int lane, double value) {
  ivec mask = {0};
  mask[lane] = -1;
  return choose(mask, splat(value), v);
}

/* *v one lane up, `first` into lane 0, and one lane down, `last` into the last one; what lies beside it in memory is read as well. */
BS_INLINE vec lane_up(const vec *v, double first) { return with_lane(load((const double *)v - 1), 0, first); }
BS_INLINE vec lane_down(const vec *v, double last) { return with_lane(load((const double *)v + 1), W - 1, last); }

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
    const int64_t row = least(first_cell(s, w), task->length1 - 1);
    in->x[w] = x + row * d;
    in->centre[w] = x;
    in->points1[w] = least(task->length1 - row, s->strip_cells + 1);
    const int64_t column = busy(s, step, w) ? (step - w) * s->block_cells : task->length2 - 1;
    in->y[w] = y + column * d;
    in->points2[w] = least(task->length2 - column, s->block_cells + 1);
    if (s->sheet) in->x[w] = in->given[w] = s->sheet + row * in->given_row + column;
  }
  if (s->t.products)
    open_products(s->t.products);
  else if (!s->sheet)
    pack_second_path(in);
  if (s->t.kept) s->t.k = kept_rows(s, step);
  if (s->t.remembered) lay_out_chunks(&s->t, 1, s->strip_cells, s->shared.chunks + (s->group * s->steps + step) * s->t.whole);
  count_columns(&s->t);
}

/* The increments of pair k to its sheet. */
static void fill_sheet(strips *s, int64_t k) {
  const bs_task *task = s->task;
  products *p = &s->pair.many;
  increments *in = &s->pair.in;
  for (int w = 0; w < W; ++w) {
    in->x[w] = in->centre[w] = task->path1 + path_of(task->index1, k) * task->stride1 * task->dimension;
    in->y[w] = task->path2 + path_of(task->index2, k) * task->stride2 * task->dimension;
    in->points1[w] = task->length1;
    in->points2[w] = task->length2;
  }
  in->scale = splat(1);
  in->gradient = 1;
  for (int64_t first = 0; first < p->rows; first += p->chunk) {
    load_chunk(p, in, first, 1, NULL); /* the factor, a power of 2, comes with what is handed in */
    memcpy(s->sheet + first * p->width, p->lanes, (size_t)(least(p->chunk, p->rows - first) * p->width) * sizeof(double));
  }
  s->t.in.given_row = p->width;
}

/* The gradient of its paths from that of the increments of a pair. */
static void empty_sheet(strips *s) {
  products *p = &s->pair.many;
  p->lanes[-1] = 0; /* the end of a row in front of the first one */
  for (int64_t first = (p->rows - 1) / p->chunk * p->chunk; first >= 0; first -= p->chunk) {
    open_chunk(p, &s->pair.in, first);
    memcpy(p->lanes, s->sheet + first * p->width, (size_t)(least(p->chunk, p->rows - first) * p->width) * sizeof(double));
    chunk_gradient(p, &s->pair.in, 0);
  }
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
    for (int m = 0; m < t->levels; ++m) memcpy(strip_row(s, step, m), k_row(t, 0, m), sizeof(vec) * (size_t)t->width);
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
      const int64_t node = (s->group * W + w) * t->rows + r, column = node - (step - w) * t->columns;
      if (node % refinement || node > rows || column < 1 || column > t->columns) continue;
      const vec log_k = logarithm(k_row(t, r, t->levels - 1)[column]);
      const int64_t point = node / refinement, last = node < rows ? point : task->stride1 - 1;
      for (int64_t i = point; i <= last; ++i) task->diagonal[k * task->stride1 + i] = log_k[w];
    }
}

static void widen(watch *at, const vec extent[2], vec least) {
  at->extent[0] = minimum(extent[0], at->extent[0]);
  at->extent[1] = maximum(extent[1], at->extent[1]);
  at->least = minimum(least, at->least);
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
    const watch own = t->watched[m];
    for (int w = 0; w < W; ++w) widen(&t->watched[m], (vec[2]){splat(own.extent[0][w]), splat(own.extent[1][w])}, splat(own.least[w]));
  }
}

/* K on the first rows of the strips, which is that on the last rows of the strips above, one step ago. */
static void pass_rows_up(const strips *s, int64_t step, const vec *rows) {
  const tile *t = &s->t;
  const double one = s->task->planar ? 0 : 1;
  for (int m = 0; m < t->levels; ++m) {
    const double *above = s->group && busy(s, step, 0) ? handed(s, s->shared.k, m, step) : NULL;
    const vec *last = rows + (k_row(t, t->rows, m) - t->k);
    vec *first = k_row(t, 0, m);
    for (int64_t c = 1; c <= t->columns; ++c) first[c] = lane_up(last + c, above ? above[c - 1] : one);
  }
}

/* All steps of a group downwards: what it says of log K, and for the backward pass the edges. Returns nonzero if it was asked to stop. */
static int sweep_group(strips *s, int64_t k, int64_t item) {
  tile *t = &s->t;
  const relay *shared = &s->shared;
  const int edged = shared->edges != NULL, below = item + 1 < s->groups;
  const bs_task *task = s->task;
  s->group = item;
  if (task->diagonal && item == 0) task->diagonal[k * task->stride1] = 0;
  if (s->sheet) fill_sheet(s, k);
  fill(s->integral, t->rows, 0);
  fill(s->corner, t->levels, 1);
  for (int64_t j = 0; j < t->rows * t->levels; ++j) s->states[j] = (row_state){splat(1), splat(2), splat(1)};
  if (t->kept) t->k = kept_rows(s, 0);
  const vec *before = t->k; /* rows of the last step */
  fill(t->k, (t->kept ? t->slots : 1) * t->width * t->levels, task->planar ? 0 : 1);
  fill(k_row(t, t->rows, 0), t->width * t->levels, task->planar ? 0 : 1);
  open_watch(t->watched, t->levels + 1);
  if (task->planar) memset(s->planar_states, 0, sizeof(planar_state) * (size_t)(t->rows * t->levels));
  for (int m = 0; task->planar && m < t->levels; ++m) t->watched[m].extent[1] = splat(0);
  t->size = splat(0);
  t->in.gradient = t->remembered;
  row_state *const band_states = t->states;
  planar_state *const band_planar = t->planar_states;
  for (int64_t step = 0; step < s->steps; ++step) {
    for (int w = 0; w < W; ++w)
      if (step - w == s->blocks) retire_lane(s, w);
    open_step(s, k, step);
    if (item && wait_for_steps(s, item - 1, step + W)) return 1;
    for (int64_t j = 0; t->kept && j < t->slots * t->levels; ++j) t->k[t->width * j] = before[t->width * j + t->columns];
    pass_rows_up(s, step, before);
    before = t->k;
    if (edged) keep_strip_edges(s, step);
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
      const vec *last = k_row(t, t->rows, m);
      if (edged && !task->planar) memcpy(strip_row(s, step, m), last, sizeof(vec) * (size_t)t->width);
      if (!below || !busy(s, step, W - 1)) continue;
      double *to = handed(s, shared->k, m, step - (W - 1));
      for (int64_t c = 1; c <= t->columns; ++c) to[c - 1] = last[c][W - 1];
    }
    if (step + 1 < s->steps) finish_steps(s, item, step + 1);
  }
  t->states = band_states;
  t->planar_states = band_planar;
  for (int w = 0; w < W; ++w)
    for (int64_t r = 0; r < t->rows && !task->planar; ++r) shared->integral[(item * W + w) * t->rows + r] = s->integral[r][w];
  if (task->planar && !below) shared->integral[0] = k_row(t, t->rows, t->levels - 1)[t->columns][W - 1];
  pool_lanes(t);
  memcpy(shared->watched + item * (t->levels + 1), t->watched, sizeof(watch) * (size_t)(t->levels + 1));
  shared->size[item] = t->size;
  finish_steps(s, item, s->steps);
  return 0;
}

/* What all groups say of log K, which have come down. Returns nonzero if it is out of range. */
static int judge_strips(strips *s) {
  tile *t = &s->t;
  const relay *shared = &s->shared;
  memcpy(t->watched, shared->watched, sizeof(watch) * (size_t)(t->levels + 1));
  t->size = shared->size[0];
  for (int64_t g = 1; g < s->groups; ++g) {
    const watch *own = shared->watched + g * (t->levels + 1);
    t->size += shared->size[g];
    t->watched[t->levels].reach += own[t->levels].reach;
    for (int m = 0; m < t->levels; ++m) widen(&t->watched[m], own[m].extent, own[m].least);
  }
  open_chains(t);
  if (s->task->planar) lengthen_chains(t, t->size); /* as if in one row: lanes are on different ones */
  s->total = shared->integral[0];
  for (int64_t r = 1; r < s->groups * W * t->rows && !s->task->planar; ++r) s->total += shared->integral[r];
  t->total = splat(s->total);
  return out_of_range(t)[0] != 0;
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
  for (int m = 0; m < t->levels; ++m) memcpy(k_row(t, 0, m), strip_row(s, step, m), sizeof(vec) * (size_t)t->width);
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
    open_increments(t, r0, r1, t->remembered);
    t->planar_states = s->planar_states + r0 * t->levels;
    sweep_band(t, r0, r1, NULL);
  }
  t->planar_states = band_states;
  t->in.gradient = 1;
  if (t->products) t->products->first = -1;
  return 0;
}

/* What the rows below the strips have left, one lane down; `seed` comes to the last strip of the top level. */
static void pass_adjoints_down(strips *s, int64_t step, double seed) {
  tile *t = &s->t;
  const relay *shared = &s->shared;
  const int planar = s->task->planar;
  for (int m = 0; m < t->levels; ++m) {
    const int below = s->group + 1 < s->groups && busy(s, step, W - 1);
    const double top = planar && m == t->levels - 1 ? seed : 0;
    const int64_t at = m * t->width, block = below ? step - (W - 1) : 0;
    const double *w = handed(s, shared->w, m, block) - 1, *gw = handed(s, shared->gw, m, block) - 1, *suffixes = NULL;
    if (planar) suffixes = handed(s, shared->suffixes, m, block) - 1;
    for (int64_t c = 1; c <= t->columns; ++c) {
      t->w[at + c] = lane_down(t->w + at + c, below ? w[c] : top);
      t->gw[at + c] = lane_down(t->gw + at + c, below ? gw[c] : 0);
      if (planar) t->suffixes[at + c] = lane_down(t->suffixes + at + c, below ? suffixes[c] : 0);
    }
  }
}

/* What the first strip has left, to the group above. */
static void hand_up(const strips *s, int64_t step) {
  const tile *t = &s->t;
  const relay *shared = &s->shared;
  if (!s->group || !busy(s, step, 0)) return;
  for (int m = 0; m < t->levels; ++m) {
    const int64_t at = m * t->width;
    for (int64_t c = 1; c <= t->columns; ++c) {
      handed(s, shared->w, m, step)[c - 1] = t->w[at + c][0];
      handed(s, shared->gw, m, step)[c - 1] = t->gw[at + c][0];
      if (s->task->planar) handed(s, shared->suffixes, m, step)[c - 1] = t->suffixes[at + c][0];
      if (s->as_tile && !t->kept) handed(s, shared->k, m, step)[c - 1] = k_row(t, 0, m)[c][0];
    }
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
  const int below = s->group + 1 < s->groups && busy(s, step, W - 1);
  for (int m = 0; m < t->levels; ++m) {
    const vec *from = k_row(t, 0, m), *last = strip_row(s, step, m);
    const double *known = below ? handed(s, s->shared.k, m, step - (W - 1)) - 1 : NULL;
    vec *to = k_row(t, t->rows, m);
    for (int64_t c = 1; c <= t->columns; ++c) to[c] = lane_down(from + c, known ? known[c] : last[c][W - 1]);
    to[0] = strip_edge(s, step, t->rows, m)->k;
  }
}

/* The columns of a block whose sums it has: those of its steps (linear) or points, of which it shares the first one with the block before. */
static void columns_of_sums(const strips *s, int64_t block, int64_t *first, int64_t *count) {
  *first = is_linear(s->task) || block == 0 ? 0 : 1;
  *count = s->block_cells + (is_linear(s->task) ? 0 : 1) - *first;
}

/* Sums in the order of a tile: what those over rows have come to, and the gradient of the row of cells below, go on one strip up. */
static void pass_sums_down(const strips *s, int64_t step) {
  const increments *in = &s->t.in;
  const int64_t d = s->task->dimension, block = step - (W - 1), from = block * s->block_cells, points = s->block_cells + !is_linear(s->task);
  const int below = s->group + 1 < s->groups && busy(s, step, W - 1);
  int64_t first, count;
  columns_of_sums(s, block, &first, &count);
  for (int64_t j = 0; j < points; ++j) {
    const int there = below && j >= first;
    for (int64_t k = j * d; k < (j + 1) * d; ++k) in->grad_y[k] = lane_down(in->grad_y + k, there ? s->shared.gradient[1][from * d + k] : 0);
    if (!is_linear(s->task)) in->corner[j] = lane_down(in->corner + j, there ? s->shared.corner[from + j] : 0);
  }
}

/* The same: those of the first strip go to the group above, or are whole. */
static void hand_up_sums(const strips *s, int64_t step) {
  const int64_t d = s->task->dimension, from = step * s->block_cells;
  int64_t first, count;
  if (!busy(s, step, 0)) return;
  columns_of_sums(s, step, &first, &count);
  for (int64_t k = first * d; k < (first + count) * d; ++k) s->shared.gradient[1][from * d + k] = s->t.in.grad_y[k][0];
  for (int64_t j = first; j < first + count && !is_linear(s->task); ++j) s->shared.corner[from + j] = s->t.in.corner[j][0];
}

/* The same, before a band: behind the gradient of every row of cells that of the cell which the block on the right begins with. */
static void take_beside(const strips *s, int64_t step, int64_t r0, int64_t r1) {
  const tile *t = &s->t;
  ivec at_work;
  for (int w = 0; w < W; ++w) at_work[w] = busy(s, step, w) ? -1 : 0;
  for (int64_t i = coarse(t, r0); i <= coarse(t, r1 - 1); ++i)
    t->gradient[(i - coarse(t, r0)) * t->in.stride + t->cells] = choose(at_work, s->beside[i], splat(0));
}

/* And after it, once whole rows of cells are done, the gradient of the cells which this block begins with. */
static void leave_beside(const strips *s, int64_t r0, int64_t r1) {
  const tile *t = &s->t;
  for (int64_t i = coarse(t, r0); i <= coarse(t, r1 - 1); ++i) s->beside[i] = t->gradient[(i - coarse(t, r0)) * t->in.stride];
}

/* The same: the gradient of the points above all cells, which the first strip has; others go on with the rows below theirs. */
static void finish_first_row(const strips *s, increments *in) {
  vec corner[BLOCK + 1];
  const size_t size = sizeof(vec) * (size_t)(s->block_cells + 1);
  memcpy(corner, in->corner, size);
  first_row_gradient(in, 0, s->block_cells);
  memcpy(in->corner, corner, size);
}

/* The gradient of a step with respect to the parts of the second path. */
static void hand_on_step(strips *s, int64_t step) {
  tile *t = &s->t;
  increments *in = &t->in;
  const bs_task *task = s->task;
  const int of_scale = in->parameters && is_linear(task);
  if (!t->products) {
    if (of_scale) sum_over_steps(in);
    part_lanes(&s->step, in->points2, s->step.length2, in->grad_y);
  }
  for (int w = 0; w < W; ++w) {
    if (t->products) {
      chunk_gradient(t->products, in, w);
      if (of_scale && busy(s, step, w)) sum_over_steps_of_lane(t->products, in, w);
    }
    if (busy(s, step, w)) flush_part(s, 1, w, 1, s->shared.gradient[1] + (step - w) * s->block_cells * task->dimension);
  }
}

/* The gradient of a group with respect to its parts of the first path and to the parameters. */
static void hand_on_group(strips *s) {
  tile *t = &s->t;
  increments *in = &t->in;
  const int64_t d = s->task->dimension, count = s->strip_cells * d;
  double *to = s->shared.gradient[0] + s->group * W * (s->as_tile ? count : count + d);
  if (s->sheet) {
    empty_sheet(s);
    return;
  }
  if (s->as_tile) { /* a point between two strips has its gradient in the one above it */
    const int64_t first = is_linear(s->task) ? 0 : d;
    for (int64_t j = 0; j < W * count; ++j) to[first + j] = in->grad_x[first + j % count][j / count];
    for (int64_t j = 0; s->group == 0 && j < first; ++j) to[j] = in->grad_x[j][0];
    return;
  }
  for (int j = 0; j < in->parameters; ++j) {
    double sum = 0;
    for (int w = 0; w < W; ++w) sum += in->d_parameter[j][w];
    s->shared.parameters[2 * s->group + j] = sum;
  }
  if (!t->products) part_lanes(&s->step, in->points1, s->step.length1, in->grad_x);
  for (int w = 0; w < W; ++w)
    if (first_cell(s, w) < s->task->length1 - 1) flush_part(s, 0, w, 1, to + w * (count + d));
}

/* All steps of a group upwards: its gradient. Returns nonzero if it was asked to stop. */
static int adjoint_group(strips *s, int64_t k, int64_t item) {
  tile *t = &s->t;
  const bs_task *task = s->task;
  increments *in = &t->in;
  const int64_t d = task->dimension;
  s->group = 2 * s->groups - 1 - item;
  if (wait_for_forward(s)) return 1;
  if (judge_strips(s)) {
    finish_steps(s, item, s->steps);
    return 0;
  }
  const double seed = task->wrt_log || task->planar ? t->factor : t->factor * exponential(splat(s->total))[0];
  fill(t->w, t->width * t->levels, 0);
  fill(t->gw, t->width * t->levels, 0);
  if (!t->products) fill(t->gradient, BAND * in->stride, 0);
  if (in->grad_x) fill(in->grad_x, s->step.length1 * d, 0);
  for (int64_t j = 0; j < t->rows * (t->levels + 1); ++j) s->adjoints[j] = (adjoint_state){splat(0), splat(0)};
  if (task->planar) {
    fill(t->suffixes, t->width * t->levels, 0);
    memset(s->planar_adjoints, 0, sizeof(planar_adjoint) * (size_t)(t->rows * t->levels));
  }
  fill(in->d_parameter, 2, 0);
  in->gradient = 1;
  t->turn = t->kept ? t->slots : BAND + 1;
  const int recovering = !task->planar && !t->kept, again = recovering && s->as_tile, by_points = in->joined && !is_linear(task);
  if (again) fill(t->k, t->slots * t->width * t->levels, 1); /* of lanes that have no block yet */
  if (by_points) fill(s->beside, s->strip_cells, 0);
  for (int64_t j = 0; by_points && j < d; ++j) s->origin[j] = splat(task->path2[path_of(task->index2, k) * task->stride2 * d + j]);
  in->topmost = (ivec){0};
  in->topmost[0] = s->group == 0 ? -1 : 0;
  row_state *const band_states = t->states;
  adjoint_state *const band_adjoints = t->adjoints;
  planar_adjoint *const band_planar = t->planar_adjoints;
  for (int64_t step = s->steps - 1; step >= 0; --step) {
    open_step(s, k, step);
    vec top = splat(0);
    for (int w = 0; w < W; ++w)
      if (busy(s, step, w)) top[w] = seed;
    for (int64_t c = 0; c <= t->columns; ++c) t->w_top[c] = top;
    /* one step more than for what is handed up: blocks of the second path have a point in common */
    if (item > s->groups && wait_for_steps(s, item - 1, s->steps - step + W)) return 1;
    pass_adjoints_down(s, step, seed);
    if (task->planar && !t->kept && sweep_step_again(s, step)) return 1;
    if (again) pass_rows_down(s, step);
    for (int m = 0; recovering && !again && m < t->levels; ++m) {
      memcpy(k_row(t, t->rows, m), strip_row(s, step, m), sizeof(vec) * (size_t)t->width);
      *k_row(t, t->rows, m) = strip_edge(s, step, t->rows, m)->k;
    }
    if (t->products) t->products->added = step < s->steps - 1;
    if (!t->products) {
      start_rows(in, s->step.length1 - 1);
      if (!s->as_tile || step == s->steps - 1) start_gradient(in);
      centre_second_path(in);
    }
    if (in->joined) pass_sums_down(s, step);
    for (int w = 0; w < W; ++w) in->leftmost[w] = step == w ? -1 : 0;
    for (int64_t r0 = (t->rows - 1) / BAND * BAND; r0 >= 0; r0 -= BAND) {
      if (stopped(t)) return 1;
      const int64_t r1 = least(r0 + BAND, t->rows);
      open_increments(t, r0, r1, 1);
      if (again) take_edges(s, step, r1);
      for (int64_t r = r0; recovering && r < r1; ++r)
        for (int m = 0; m < t->levels; ++m) {
          const vec upper = strip_edge(s, step, r, m)->k, lower = strip_edge(s, step, r + 1, m)->k;
          *k_row(t, r, m) = upper;
          band_states[(r - r0) * t->levels + m] = (row_state){1 / strip_edge(s, step, r, m)->E, upper + lower, upper};
        }
      if (recovering) recover_band(t, r0, r1);
      for (int m = 0; again && !s->group && r0 == 0 && m < t->levels; ++m)
        for (int64_t c = 0; c <= t->columns; ++c) k_row(t, 0, m)[c][0] = 1; /* that much is known exactly */
      t->adjoints = s->adjoints + r0 * (t->levels + 1);
      t->planar_adjoints = s->planar_adjoints + r0 * t->levels;
      if (by_points) take_beside(s, step, r0, r1);
      adjoint_band(t, 0, r0, r1);
      if (by_points && is_whole(t, r0)) leave_beside(s, r0, r1);
    }
    t->adjoints = band_adjoints;
    t->planar_adjoints = band_planar;
    hand_up(s, step);
    if (by_points && !s->group && busy(s, step, 0)) finish_first_row(s, in);
    if (in->joined)
      hand_up_sums(s, step);
    else if (!s->sheet)
      hand_on_step(s, step);
    if (step) finish_steps(s, item, s->steps - step);
  }
  in->gradient = 0;
  hand_on_group(s);
  finish_steps(s, item, s->steps);
  return 0;
}

/* Takes items of pair k until none are left. Returns nonzero if it was asked to stop. */
static int work_on_strips(strips *s, int64_t k) {
  const int64_t items = s->shared.edges || s->shared.kept ? 2 * s->groups : s->groups;
  for (int64_t item; (item = take_item(s)) < items;)
    if (item < s->groups ? sweep_group(s, k, item) : adjoint_group(s, k, item)) return 1;
  return 0;
}

/* to[i] += weight times the gradient by the points of a path, or its steps. */
static void flush_whole(const double *gradient, int64_t length, int by_steps, int64_t d, double weight, double *to) {
  for (int64_t k = 0; !by_steps && k < length * d; ++k) to[k] += weight * gradient[k];
  for (int64_t j = 0; by_steps && j < length; ++j)
    for (int64_t k = j * d; k < (j + 1) * d; ++k) {
      const double before = j ? gradient[k - d] : 0, after = j + 1 < length ? gradient[k] : 0;
      to[k] += weight * (before - after);
    }
}

/* The gradient of pair k, all parts of which are there, to where it belongs. */
static void flush_strips(strips *s, int64_t k) {
  const bs_task *task = s->task;
  const int64_t d = task->dimension, apart = s->strip_cells * d;
  const vec total = splat(s->total), value = task->wrt_log || task->planar ? total : exponential(total);
  const double scale = is_linear(task) ? task->parameter[0] : 1, nan = __builtin_nan("");
  const int finite = value[0] - value[0] == 0;
  const double weight1 = finite ? scale * task->weight1[k] : nan, weight2 = finite ? scale * task->weight2[k] : nan;
  double *const *gradient = s->shared.gradient;
  double *const grad1 = task->grad1 && task->weight1[k] ? task->grad1 + path_of(task->index1, k) * task->stride1 * d : NULL;
  double *const grad2 = task->grad2 && task->weight2[k] ? task->grad2 + path_of(task->index2, k) * task->stride2 * d : NULL;
  if (s->sheet) {
    if (grad1) flush_products(&s->pair.many, &s->pair.in, 0, 0, weight1, grad1);
    if (grad2) flush_products(&s->pair.many, &s->pair.in, 1, 0, weight2, grad2);
    return;
  }
  if (s->as_tile) {
    if (grad1) flush_whole(gradient[0], task->length1, is_linear(task), d, weight1, grad1);
    if (grad2) flush_whole(gradient[1], task->length2, is_linear(task), d, weight2, grad2);
    return;
  }
  for (int j = 0; j < s->t.in.parameters; ++j) {
    double sum = 0;
    for (int64_t g = 0; g < s->groups; ++g) sum += s->shared.parameters[2 * g + j];
    task->grad_parameters[k * s->t.in.parameters + j] = finite ? of_parameter(&s->t.in, s->t.factor, j, sum, 1) : nan;
  }
  for (int64_t first = 0, from = 0; grad1 && first < task->length1 - 1; first += s->strip_cells, from += apart + d)
    for (int64_t j = 0; j < least(s->strip_cells + 1, task->length1 - first) * d; ++j) grad1[first * d + j] += weight1 * gradient[0][from + j];
  for (int64_t j = 0; grad2 && j < task->length2 * d; ++j) grad2[j] += weight2 * gradient[1][j];
}

#endif
