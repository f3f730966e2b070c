/* The entry points, compiled once per instruction set and real type: tiles of W pairs, one pair per lane, swept row by row. */
#include "bs.h"
#include "increments.h"
#include "sweep.h"

#define BS_PASTE_(name, bits, isa) bs_##name##_##bits##_##isa
#define BS_PASTE(name, bits, isa) BS_PASTE_(name, bits, isa)
#define BS_ENTRY(type, name) __attribute__((visibility("hidden"))) type BS_PASTE(name, BS_REAL, BS_ISA)

/* Rows of K that are kept for the way back, beyond the one in work: as many as fit this many bytes. */
enum { KEPT_BYTES = 512 << 10 };

typedef struct {
  int64_t rows, columns; /* sub-cells */
  int levels, groups;    /* levels of K that are kept; in groups of at most GROUP */
  int64_t slots;         /* rows of K that lie in memory at once, row r in slot r % slots */
  increments in;
  row_cells cells;
  row_record record;
  vec *fours, *sums[2];
  vec *k;                /* [group][slot][column][level] */
  vec *logs;             /* careful: [group][column][level] */
  vec *w, *gw;           /* backward: [group][column][level] */
  vec *w_row[2];         /* backward: [column] */
  vec *derivs, *w_top;   /* backward with a grid: [column] */
  vec grid_sum;          /* not finite as soon as a node of the grid is not */
  vec *gradient, *scratch;
} tile;

/* The memory of a tile: laid out from `base`, or only counted where base is NULL. */
static vec *take(char *base, int64_t *used, int64_t count) {
  vec *p = base ? (vec *)(base + *used) : NULL; /* base is aligned */
  *used += count * (int64_t)sizeof(vec);
  return p;
}

static int64_t lay_out(tile *t, const bs_task *task, int backward, char *base) {
  const int64_t cells = task->length2 - 1, d = task->dimension;
  const int with_grid = task->grid || task->grid_derivs || task->k_stack;
  int64_t used = 0;
  t->in.task = task;
  t->rows = (task->length1 - 1) << task->dyadic1;
  t->columns = cells << task->dyadic2;
  t->levels = with_grid ? task->depth : task->depth - 1;
  t->groups = (t->levels + GROUP - 1) / GROUP;
  t->cells.columns = t->columns;
  t->cells.shift = task->dyadic2;
  const int64_t row_bytes = (t->columns + 1) * (t->levels > 0 ? t->levels : 1) * (int64_t)sizeof(vec);
  t->slots = 2;
  if (backward && !task->k_stack) {
    t->slots = 1 + KEPT_BYTES / row_bytes;
    if (t->slots > t->rows + 1) t->slots = t->rows + 1;
    if (t->slots < 2) t->slots = 2;
  }
  const int64_t state = (t->columns + 2) * (t->levels > 0 ? t->levels : 1);

  t->cells.g = take(base, &used, cells);
  t->cells.bound = take(base, &used, t->columns / BLOCK + 1);
  t->fours = take(base, &used, t->columns + 1);
  t->sums[0] = take(base, &used, t->columns + 1);
  t->sums[1] = take(base, &used, t->columns + 1);
  t->k = take(base, &used, t->slots * (t->columns + 1) * t->levels);
  if (task->careful) t->logs = take(base, &used, state);
  if (task->static_kernel != BS_GIVEN) {
    const int by_steps = task->static_kernel == BS_LINEAR;
    t->in.y_packed = take(base, &used, task->length2 * d);
    t->in.x_row = take(base, &used, d);
    if (!by_steps) {
      t->in.kappa = take(base, &used, task->length2);
      t->in.fresh = take(base, &used, task->length2);
    }
    if (backward) {
      if (!by_steps) {
        t->in.slope = take(base, &used, task->length2);
        t->in.fresh_slope = take(base, &used, task->length2);
        t->in.corner = take(base, &used, task->length2);
      }
      t->in.grad_x = take(base, &used, task->length1 * d);
      t->in.grad_y = take(base, &used, task->length2 * d);
    }
  }
  if (backward) {
    t->w = take(base, &used, state);
    t->gw = take(base, &used, state);
    t->w_row[0] = take(base, &used, t->columns + 1);
    t->w_row[1] = take(base, &used, t->columns + 1);
    t->gradient = take(base, &used, cells + 1);
    t->scratch = take(base, &used, task->length2);
    if (task->grid_derivs) {
      t->derivs = take(base, &used, t->columns + 1);
      t->w_top = take(base, &used, t->columns + 1);
    }
  }
  return used;
}

/* levels below group g, for groups as even as can be */
BS_INLINE int levels_below(const tile *t, int g) { return t->groups ? t->levels * g / t->groups : 0; }
BS_INLINE int levels_of(const tile *t, int g) { return levels_below(t, g + 1) - levels_below(t, g); }

BS_INLINE vec *k_row(const tile *t, int g, int64_t r) {
  return t->k + (t->columns + 1) * (levels_below(t, g) * t->slots + r % t->slots * levels_of(t, g));
}
BS_INLINE vec *state_row(const tile *t, vec *state, int g) { return state + (t->columns + 2) * levels_below(t, g); }

BS_INLINE real cell_factor(const tile *t) {
  return (real)0.25 / (real)((int64_t)1 << (t->in.task->dyadic1 + t->in.task->dyadic2));
}

static void load_increments(tile *t, int64_t i, int up) {
  const int shift = t->cells.shift;
  increment_row(&t->in, i, up, cell_factor(t), t->cells.g);
  for (int64_t first = 0; first < t->columns; first += BLOCK) {
    int64_t last = first + BLOCK <= t->columns ? first + BLOCK - 1 : t->columns - 1;
    vec bound = splat(0);
    for (int64_t j = first >> shift; j <= last >> shift; ++j) bound = maximum(bound, absolute(t->cells.g[j]));
    t->cells.bound[first / BLOCK] = bound;
  }
}

/* The paths of the pairs first..first+W-1 into the lanes; the last pair fills the lanes that are left over. */
static void open_tile(tile *t, int64_t first) {
  const bs_task *task = t->in.task;
  increments *in = &t->in;
  int same_second = in->y[0] != NULL;
  in->uniform = 1;
  for (int w = 0; w < W; ++w) {
    int64_t k = first + w < task->pairs ? first + w : task->pairs - 1;
    if (task->static_kernel == BS_GIVEN) {
      in->x[w] = (const real *)task->increments + k * (task->length1 - 1) * (task->length2 - 1);
      continue;
    }
    in->x[w] = (const real *)task->path1 + task->index1[k] * task->length1 * task->dimension;
    const real *y = (const real *)task->path2 + task->index2[k] * task->length2 * task->dimension;
    in->uniform &= in->x[w] == in->x[0];
    same_second &= y == in->y[w];
    in->y[w] = y;
  }
  if (task->static_kernel != BS_GIVEN && !same_second) pack_second_path(in);
  for (int64_t c = 0; c <= t->columns; ++c) t->fours[c] = splat(4);
  for (int g = 0; g < t->groups; ++g) {
    const int n = levels_of(t, g);
    for (int64_t k = 0; k < (t->columns + 1) * n; ++k) k_row(t, g, 0)[k] = splat(1);
    for (int64_t r = 1; r < t->slots; ++r)
      for (int m = 0; m < n; ++m) k_row(t, g, r)[m] = splat(1);
    if (task->careful)
      for (int64_t k = 0; k < (t->columns + 2) * n; ++k) state_row(t, t->logs, g)[k] = splat(0);
  }
  t->record = (row_record){splat(1), splat(1), splat(0)};
  t->grid_sum = splat(0);
}

/* K on row r + 1 from row r (up = 0), or on row r from row r + 1 */
static void sweep_row(tile *t, int64_t r, int up) {
  const vec *sums = t->fours;
  const int64_t from = up ? r + 1 : r, to = up ? r : r + 1;
  if (!t->groups) {
    for (int64_t c = 0; c < t->columns; ++c) t->record.total += t->cells.g[c >> t->cells.shift] * 4;
    return;
  }
  row_record record = t->record;
  for (int g = 0; g < t->groups; ++g) {
    const int n = levels_of(t, g);
    vec *out = t->sums[g & 1];
    record.total = t->record.total; /* only that of the last group counts */
    if (t->in.task->careful)
      (up ? careful_recover_rows : careful_forward_rows)[n](&t->cells, sums, k_row(t, g, from), k_row(t, g, to),
                                                            state_row(t, t->logs, g), out, &record);
    else
      (up ? recover_rows : forward_rows)[n](&t->cells, sums, k_row(t, g, from), k_row(t, g, to), out, &record);
    sums = out;
  }
  t->record = record;
}

/* One row of K_m of every lane to (row >= 0 of) a grid, or back from it. */
static void grid_row(const tile *t, int64_t first, int64_t r, real *grid, int levels_in_grid, int level, int m, int loading) {
  const int64_t width = t->columns + 1, area = width * (t->rows + 1);
  for (int g = 0; g < t->groups; ++g) {
    const int below = levels_below(t, g), n = levels_of(t, g);
    if (m < below || m >= below + n) continue;
    real *row = (real *)(k_row(t, g, r) + (m - below));
    for (int w = 0; w < W && first + w < t->in.task->pairs; ++w) {
      real *line = grid + ((first + w) * levels_in_grid + level) * area + r * width;
      if (loading)
        for (int64_t c = 0; c < width; ++c) row[c * n * W + w] = line[c];
      else
        for (int64_t c = 0; c < width; ++c) line[c] = row[c * n * W + w];
    }
  }
}

static void store_grid_row(const tile *t, int64_t first, int64_t r) {
  const bs_task *task = t->in.task;
  if (!task->all_levels) {
    grid_row(t, first, r, task->grid, 1, 0, task->depth - 1, 0);
    return;
  }
  const int64_t width = t->columns + 1;
  for (int w = 0; w < W && first + w < task->pairs; ++w) {
    real *line = (real *)task->grid + ((first + w) * (task->depth + 1) * (t->rows + 1) + r) * width;
    for (int64_t c = 0; c < width; ++c) line[c] = 1;
  }
  for (int m = 0; m < task->depth; ++m) grid_row(t, first, r, task->grid, task->depth + 1, m + 1, m, 0);
}

/* Not a number in grid_sum from the first node of the grid on that has no finite value. */
static void check_grid_row(tile *t, int64_t r) {
  const int top = t->groups - 1, pitch = levels_of(t, top);
  const vec *k = (t->in.task->careful && t->in.task->wrt_log ? state_row(t, t->logs, top) : k_row(t, top, r)) + pitch - 1;
  for (int64_t c = 0; c <= t->columns; ++c) t->grid_sum += k[c * pitch] - k[c * pitch];
}

/* All rows downwards. Returns nonzero if it was asked to stop. */
static int sweep_down(tile *t, int64_t first) {
  const bs_task *task = t->in.task;
  start_rows(&t->in, 0);
  if (task->grid) store_grid_row(t, first, 0);
  for (int64_t r = 0; r < t->rows; ++r) {
    if (*(const volatile int32_t *)task->stop) return 1;
    if ((r & (((int64_t)1 << task->dyadic1) - 1)) == 0) load_increments(t, r >> task->dyadic1, 0);
    sweep_row(t, r, 0);
    if (task->grid) store_grid_row(t, first, r + 1);
    if (task->grid_derivs && task->careful) check_grid_row(t, r + 1);
  }
  return 0;
}

/* Lanes whose K left the range of the running products. */
static ivec out_of_range(const tile *t) {
  if (t->in.task->careful) return (ivec){0};
  return ~((t->record.low >= 1 / BS_LIMIT) & (t->record.high <= BS_LIMIT));
}


static char *aligned(void *p) { return (char *)(((uintptr_t)p + 63) & ~(uintptr_t)63); }

BS_ENTRY(int64_t, workspace)(const bs_task *task, int32_t backward) {
  tile t = {0};
  return lay_out(&t, task, backward, NULL) + 64;
}

BS_ENTRY(int32_t, lanes)(void) { return W; }

BS_ENTRY(void, forward)(const bs_task *task) {
  tile t = {0};
  lay_out(&t, task, 0, aligned(task->workspace));
  for (int64_t first = 0; first < task->pairs; first += W) {
    open_tile(&t, first);
    if (sweep_down(&t, first)) return;
    const ivec bad = out_of_range(&t);
    for (int w = 0; w < W && first + w < task->pairs; ++w) {
      if (task->log_k) ((real *)task->log_k)[first + w] = t.record.total[w];
      task->out_of_range[first + w] = bad[w] != 0;
    }
  }
}

/* Derivatives with respect to the grid's row r into t->derivs. */
static void load_derivs(tile *t, int64_t first, int64_t r) {
  const int64_t width = t->columns + 1, area = width * (t->rows + 1);
  for (int w = 0; w < W; ++w) {
    int64_t k = first + w < t->in.task->pairs ? first + w : t->in.task->pairs - 1;
    const real *line = (const real *)t->in.task->grid_derivs + k * area + r * width;
    for (int64_t c = 0; c < width; ++c) ((real *)t->derivs)[c * W + w] = line[c] * cell_factor(t);
  }
}

/* The adjoint of row r of sub-cells, from the top level down; adds to t->gradient. `seed`: w of the top level, where no
   derivatives of a grid are given. */
static void adjoint(tile *t, int64_t r, const vec *seed) {
  const bs_task *task = t->in.task;
  const vec *w_above = seed;
  int64_t stride = 0;
  if (task->grid_derivs) {
    const int top = t->groups - 1, pitch = levels_of(t, top);
    seed_row(t->columns, t->derivs, pitch, task->wrt_log ? NULL : k_row(t, top, r + 1) + pitch - 1, t->w_top);
    w_above = t->w_top;
    stride = 1;
  }
  int lowest = 1;
  for (int g = t->groups - 1; g >= 0; --g) {
    const int pitch = levels_of(t, g), below = levels_below(t, g);
    const int n = below + pitch < task->depth ? pitch : pitch - 1; /* the integral of K_depth is never taken */
    if (!n) continue;
    vec *out = t->w_row[g & 1];
    (below ? adjoint_rows : adjoint_lowest_rows)[n](&t->cells, w_above, stride, k_row(t, g, r), k_row(t, g, r + 1), pitch,
                                                    state_row(t, t->w, g), state_row(t, t->gw, g), out, t->gradient);
    w_above = out;
    stride = 1;
    lowest = 0;
  }
  if (lowest) /* depth 1: K_0 is all there is below */
    for (int64_t c = 1; c <= t->columns; ++c) t->gradient[(c - 1) >> t->cells.shift] += w_above[c * stride] * 4;
}

/* Row r of every level of K: kept, handed in, or recovered from row r + 1. */
static void provide_row(tile *t, int64_t first, int64_t r, int64_t oldest_kept) {
  const bs_task *task = t->in.task;
  if (task->k_stack) {
    for (int m = 0; m < task->depth; ++m) grid_row(t, first, r, (real *)task->k_stack, task->depth + 1, m + 1, m, 1);
    if (task->grid_derivs) check_grid_row(t, r);
  } else if (r == 0) {
    for (int g = 0; g < t->groups; ++g)
      for (int64_t k = 0; k < (t->columns + 1) * levels_of(t, g); ++k) k_row(t, g, 0)[k] = splat(1);
  } else if (r < oldest_kept) {
    sweep_row(t, r, 1);
  }
}

/* All rows upwards: the gradient of every lane. Returns nonzero if it was asked to stop. */
static int sweep_up(tile *t, int64_t first, const vec *seed) {
  const bs_task *task = t->in.task;
  const int64_t cells = task->length2 - 1, refinement = (int64_t)1 << task->dyadic1;
  const int64_t oldest_kept = task->careful ? t->rows : t->rows - t->slots + 1;
  for (int64_t k = 0; k < (t->columns + 2) * t->levels; ++k) t->w[k] = t->gw[k] = splat(0);
  for (int64_t j = 0; j < cells; ++j) t->gradient[j] = splat(0);
  if (task->grid_derivs)
    for (int64_t c = 0; c <= t->columns; ++c) t->w_top[c] = splat(0);
  t->in.gradient = 1;
  start_rows(&t->in, task->length1 - 1);
  start_gradient(&t->in);
  if (task->k_stack) provide_row(t, first, t->rows, 0);
  for (int64_t r = t->rows - 1; r >= 0; --r) {
    if (*(const volatile int32_t *)task->stop) return 1;
    const int64_t i = r >> task->dyadic1;
    if (((r + 1) & (refinement - 1)) == 0) load_increments(t, i, 1);
    provide_row(t, first, r, oldest_kept);
    if (task->grid_derivs) load_derivs(t, first, r + 1);
    adjoint(t, r, seed);
    if ((r & (refinement - 1)) == 0) {
      if (task->static_kernel == BS_GIVEN)
        for (int w = 0; w < W && first + w < task->pairs; ++w)
          for (int64_t j = 0; j < cells; ++j)
            ((real *)task->grad_increments)[((first + w) * (task->length1 - 1) + i) * cells + j] = t->gradient[j][w];
      else
        increment_row_gradient(&t->in, i, t->gradient, t->scratch);
      for (int64_t j = 0; j < cells; ++j) t->gradient[j] = splat(0);
    }
  }
  t->in.gradient = 0;
  return 0;
}

/* The gradient of lane w, which is pair k, to where it belongs. A pair without a finite value has no gradient. */
static void flush(tile *t, int w, int64_t k, int finite) {
  const bs_task *task = t->in.task;
  const real nan = (real)__builtin_nan("");
  if (task->static_kernel == BS_GIVEN) {
    const int64_t cells = (task->length1 - 1) * (task->length2 - 1);
    real *to = (real *)task->grad_increments + k * cells;
    const real weight = finite ? ((const real *)task->weight1)[k] : nan;
    for (int64_t j = 0; j < cells; ++j) to[j] *= weight;
    return;
  }
  const int64_t d = task->dimension;
  const int by_steps = task->static_kernel == BS_LINEAR;
  const real scale = by_steps ? (real)task->parameter[0] : 1;
  if (task->grad1)
    flush_gradient(t->in.grad_x, w, task->length1, d, by_steps, finite ? scale * ((const real *)task->weight1)[k] : nan,
                   (real *)task->grad1 + task->index1[k] * task->length1 * d);
  if (task->grad2)
    flush_gradient(t->in.grad_y, w, task->length2, d, by_steps, finite ? scale * ((const real *)task->weight2)[k] : nan,
                   (real *)task->grad2 + task->index2[k] * task->length2 * d);
}

/* K_depth (or log K_depth) of each lane at the end point. */
static vec top_value(tile *t, int64_t first) {
  const bs_task *task = t->in.task;
  if (!task->k_stack) return task->wrt_log ? t->record.total : exponential(t->record.total);
  vec value = splat(1);
  const int64_t area = (t->columns + 1) * (t->rows + 1);
  for (int w = 0; w < W && first + w < task->pairs; ++w)
    value[w] = ((const real *)task->k_stack)[(first + w + 1) * (task->depth + 1) * area - 1];
  return value;
}

BS_ENTRY(void, backward)(const bs_task *task) {
  tile t = {0};
  lay_out(&t, task, 1, aligned(task->workspace));
  for (int64_t first = 0; first < task->pairs; first += W) {
    open_tile(&t, first);
    if (!task->k_stack && sweep_down(&t, first)) return;
    const ivec bad = task->k_stack ? (ivec){0} : out_of_range(&t);
    const vec value = top_value(&t, first);
    vec seed = splat(cell_factor(&t));
    if (!task->wrt_log) seed *= value;
    if (sweep_up(&t, first, &seed)) return;
    vec checked = value;
    if (task->grid_derivs) checked = t.grid_sum;
    const ivec finite = (checked - checked) == splat(0);
    for (int w = 0; w < W && first + w < task->pairs; ++w) {
      task->out_of_range[first + w] = bad[w] != 0;
      if (!bad[w]) flush(&t, w, first + w, finite[w] != 0);
    }
  }
}
