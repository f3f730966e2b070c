/* A tile: W pairs, one pair per lane, swept in bands of rows, a band in blocks of columns, a block row by row and level by level. */
#ifndef BS_TILE_H
#define BS_TILE_H

#include "bs.h"
#include "planar.h"
#include "products.h"
#include "sweep.h"

enum { PAGE = 4096 };

/* For the backward pass all rows of K are kept where they fit into so many bytes, or into more where no increments are kept beside them.
   Otherwise they are recovered: block by block from their edges, of which so many bytes are kept, and the rows above those band by band.
   Increments and slopes that take longer to make than to fetch are remembered where they fit. Over ordered forests, of which no row is
   recovered from the one below, edges and the first rows of bands are kept, of a segment of rows at a time, which the way up sweeps
   downwards again from its first row. */
enum { KEPT_BYTES = 6 << 20, KEPT_ALONE_BYTES = 10 << 20, EDGE_BYTES = 16 << 20, REMEMBERED_BYTES = 10 << 20 };

/* E (in a tile, of the row of sub-cells above) and K on the left edge of a block */
typedef struct {
  vec E, k;
} edge;

/* What pairs the memory of a tile has room for */
typedef struct {
  int64_t length1, length2;
  kind of;
} layout;

typedef struct {
  increments in;
  products *products, many; /* of many channels, or NULL */
  int64_t rows, columns; /* sub-cells */
  int64_t cells;         /* cells of a row */
  int64_t width;         /* registers of a row */
  int64_t block, blocks; /* columns of a block, and blocks of a row */
  int is_short;          /* rows are one block, see short.h */
  layout laid_out;       /* this has been done, for the next tile too; all 0 where that would not find it as it was */
  vec *level_sums, *largest; /* short, of the latest row of a level: sums of corners [level][column], and a bound for them [level] */
  int64_t slots, turn;   /* rows of K that there is room for; row r lies in slot r % turn */
  int kept;              /* all of them */
  edge *edges;           /* backward: [row of K - edged_from][block][level], or NULL */
  int64_t edged_from;
  vec *tops;             /* ordered forests, where there are edges: D on the first row of every band of a segment, [level][column] */
  int64_t segment;       /* rows of such a segment, whole rows of cells; edged_from is the first one of that in memory */
  vec *starts;           /* D on the first row of every segment, likewise */
  int packed;            /* the second paths of all lanes lie in the memory of increments */
  int own;               /* lanes with a pair of their own */
  int levels;            /* levels of K that are kept: K_1 to K_depth for grids, to K_{depth-1} otherwise; by order as order.h says */
  double factor;           /* 1 / 4 and over the number of sub-cells of a cell */
  watch *watched;        /* [level], and of the level above those */
  vec size;              /* sum of |g| times factor over the cells of the rows done, or (not careful) a bound for it */
  vec *chains;           /* ordered forests: [length], see planar_out_of_range */
  vec *counts;           /* [block]: its columns that lie before the end of the second path */
  vec total;             /* log K_depth at the end of the rows done */
  vec grid_sum;          /* not finite as soon as a node of the grid is not */
  int remembered;        /* g and bound hold all rows of cells, as do slopes, once the sweep down is through */
  int64_t whole;         /* with products: bytes that those of all rows take */
  int64_t first_row;     /* row of cells that lies first in g and bound: that of the band, or 0 */
  vec *g, *bound;        /* increments [row][cell], times factor; largest |g| [row][block] */
  int local;             /* g and gradient hold one block of the band at a time */
  int64_t pending, pending_from; /* rows of cells of the band whose blocks are not loaded yet, and the first of them */
  int up;                /* they come upwards */
  vec *fours, *zeros, *sums[2]; /* of a block */
  vec *k;                /* [slot][level][column] */
  vec *logs;             /* careful: [level][column] */
  row_state *states;     /* of the band: [row][level] */
  vec *w, *gw, *w_top;   /* backward: [level][column]; w of the top level */
  adjoint_state *adjoints; /* backward, of the band: [row][level], and of the seeds */
  vec *errors;           /* careful, ordered forests: [level][sample][column], see planar.h */
  planar_state *error_states; /* of the band: [row][level][sample] */
  vec *error_sums[2];    /* of a block: [sample][column] */
  vec worst;             /* the largest of these errors at a node, relative to K where that is larger than 1 */
  int judging;           /* errors are propagated with D, in the forward pass */
  vec *suffixes;         /* backward, ordered forests: [level][column]; see planar.h */
  planar_adjoint *planar_adjoints; /* likewise, of the band: [row][level] */
  planar_state *planar_states; /* ordered forests, of the band: [row][level] */
  vec *derivs;           /* backward with a grid, or of ordered forests: of a block */
  int64_t gradient_from; /* backward: the row of cells that lies first in gradient */
  vec *gradient;         /* of the band, or chunk: [row][cell] */
} tile;

static char *aligned(void *p) { return (char *)(((uintptr_t)p + 63) & ~(uintptr_t)63); }

/* The memory of a tile: laid out from `base`, which is aligned, or only counted where it is NULL. */
static void *take(char *base, int64_t *used, int64_t count, size_t size) {
  void *p = base ? base + *used : NULL;
  *used += count * (int64_t)size;
  return p;
}

/* Registers of a row that hold `count`: rows that are used together must not all begin at the same place in a page (64 registers
   of the widest kind), or they push each other out of the L1 cache. */
static int64_t row_width(int64_t count) {
  const int64_t place = count % 64;
  if (count <= BLOCK || (place >= 16 && place <= 48)) return count;
  return count + (place < 16 ? 16 - place : 80 - place);
}

/* With an order, how many k_n of one depth are kept. */
static int levels_per_depth(const bs_task *task) { return task->order ? task->order - task->depth + 1 : 1; }

/* In the backward pass all rows of K are kept. */
static int keeps_all_rows(const bs_task *task, int64_t rows, int64_t columns, int64_t levels) {
  const int64_t most = is_linear(task) && !task->products ? KEPT_ALONE_BYTES : KEPT_BYTES;
  return (rows + 1) * row_width(columns + 1) * levels * (int64_t)sizeof(vec) <= most;
}

/* All of them are recovered block by block. */
static int is_recovered_by_blocks(const bs_task *task, int64_t rows, int64_t columns, int64_t levels) {
  const int64_t blocks = (columns + BLOCK - 1) / BLOCK;
  return !keeps_all_rows(task, rows, columns, levels) && rows <= EDGE_BYTES / (blocks * levels * (int64_t)sizeof(edge));
}

/* Increments of so many rows, which are made by products, bounds for them, and what goes with them. */
static int64_t lay_out_chunks(tile *t, int backward, int64_t rows, char *base) {
#define TAKE(count) take(base, &used, count, sizeof(vec))
  products *p = t->products;
  increments *in = &t->in;
  const bs_task *task = in->task;
  const int64_t numbers = rows * in->stride, chunk = p->high * p->width, chunks = (rows + p->chunk - 1) / p->chunk;
  int64_t used = 0;
  t->g = TAKE(numbers);
  if (backward && task->by_steps && task->grad_parameters) {
    in->layer = in->to_changes = numbers;
    TAKE(layers_of(task) * numbers);
  }
  t->bound = TAKE(rows * t->blocks);
  if (!backward || !p->points) return used;
  p->apart = chunks > 1 ? chunk * W : 0;
  p->slopes = p->all_slopes = TAKE(chunks * chunk);
  if (task->grad_parameters && !task->by_steps && is_radial(task)) p->squares = p->all_squares = TAKE(chunks * chunk);
  return used;
#undef TAKE
}

/* `keeping`: something of K, and of what it is made from, is to be kept for the backward pass */
static int64_t lay_out(tile *t, const bs_task *task, int backward, int keeping, char *base) {
#define TAKE(count) take(base, &used, count, sizeof(vec))
  int64_t used = 0;
  increments *in = &t->in;
  in->task = task;
  t->cells = task->length2 - 1;
  t->rows = (task->length1 - 1) << task->dyadic1;
  t->columns = t->cells << task->dyadic2;
  t->width = row_width(t->columns + 1);
  t->levels = task->order || task->untruncated || task->planar || task->grid || task->grid_derivs || task->k_stack ? task->depth : task->depth - 1;
  t->levels *= levels_per_depth(task);
  t->factor = 0.25 / (double)((int64_t)1 << task->dyadic1) / (double)((int64_t)1 << task->dyadic2);
  const int64_t state = t->width * t->levels;
  const int strips = !keeping;
  keeping = keeping && backward && (!task->careful || task->planar) && !task->k_stack;
  t->kept = keeping && keeps_all_rows(task, t->rows, t->columns, t->levels);
  t->block = t->kept ? KEPT_BLOCK : BLOCK;
  t->blocks = (t->columns + t->block - 1) / t->block;
  t->slots = t->kept || (strips && backward && task->planar) ? t->rows + 1 : backward || task->grid ? BAND + 1 : 1;
  t->turn = t->kept || task->grid ? t->slots : 1;
  t->edges = NULL;
  t->products = task->products ? &t->many : NULL;
  if (t->products) lay_out_products(t->products, task, backward, strips, base, &used);
  const int64_t own_rows = t->products ? t->products->chunk : BAND; /* of increments and of their gradient */
  t->local = is_linear(task) && !t->products && !task->nodes && (int64_t)1 << task->dyadic1 <= BAND;
  in->stride = t->local ? BLOCK + 1 : t->products ? row_width(t->many.width) : t->cells + strips; /* rows that are used together should not begin at the same place in a page */
  int64_t remembered = ((task->length1 - 1) * t->cells + task->length1 * task->length2) * (int64_t)sizeof(vec); /* g and slopes */
  if (t->products) remembered = t->whole = lay_out_chunks(t, backward, task->length1 - 1, NULL);
  t->remembered = keeping && (t->products || !is_linear(task)) && remembered <= REMEMBERED_BYTES;
  const int64_t g_rows = t->remembered ? task->length1 - 1 : own_rows;
  in->slope_rows = t->remembered ? task->length1 : BAND + 1;
  t->counts = TAKE(t->blocks);
  t->watched = take(base, &used, t->levels + 1, sizeof(watch));
  used = (used + PAGE - 1) / PAGE * PAGE; /* what follows is used together, and its places in a page matter */
  if (t->products) {
    used += lay_out_chunks(t, backward, g_rows, base ? base + used : NULL);
  } else {
    t->g = TAKE(g_rows * in->stride);
    t->bound = TAKE(g_rows * t->blocks);
  }
  t->fours = TAKE(BLOCK);
  t->zeros = TAKE(BLOCK);
  t->sums[0] = TAKE(BLOCK);
  t->sums[1] = TAKE(BLOCK);
  t->k = TAKE(t->slots * state);
  t->is_short = !strips && t->blocks == 1 && t->levels && !task->careful && !t->products && (t->kept || !keeping);
  if (t->is_short && !task->planar) {
    t->level_sums = TAKE(t->levels * t->columns);
    t->largest = TAKE(t->levels);
  }
  t->tops = t->starts = NULL;
  if (keeping && !t->kept && task->planar) {
    const int64_t row = t->blocks * t->levels, own = state * (int64_t)sizeof(vec);
    const int64_t unit = up_to((t->products ? up_to(t->products->chunk, BAND) : 1) << task->dyadic1, BAND);
    int64_t segment = EDGE_BYTES / (own / BAND + row * (int64_t)sizeof(edge));
    while (segment * segment < 4 * t->rows) ++segment; /* as much memory for starts as for the rest, or less */
    t->segment = least(up_to(segment, unit), up_to(t->rows, unit));
    t->edged_from = 0;
    t->edges = take(base, &used, (t->segment + 1) * row, sizeof(edge));
    t->tops = TAKE(t->segment / BAND * state);
    t->starts = TAKE((t->rows + t->segment - 1) / t->segment * state);
  } else if (keeping && !t->kept) {
    const int64_t row = t->blocks * t->levels, from = t->rows - EDGE_BYTES / (row * (int64_t)sizeof(edge));
    t->edged_from = from > 0 ? (from + BAND - 1) / BAND * BAND : 0;
    t->edges = take(base, &used, (t->rows + 1 - t->edged_from) * row, sizeof(edge));
  }
  t->states = take(base, &used, BAND * (t->levels + 1), sizeof(row_state));
  if (task->planar) t->chains = TAKE(task->depth + 1);
  if (task->planar) t->planar_states = take(base, &used, BAND * t->levels, sizeof(planar_state));
  t->judging = task->planar && task->careful && !task->diagonal;
  if (t->judging) {
    t->errors = TAKE(SAMPLES * state);
    t->error_states = take(base, &used, BAND * t->levels * SAMPLES, sizeof(planar_state));
    t->error_sums[0] = TAKE(SAMPLES * BLOCK);
    t->error_sums[1] = TAKE(SAMPLES * BLOCK);
  }
  if (task->careful) t->logs = TAKE(state + t->width); /* those of the level above too */
  const int by_steps = is_linear(task);
  if (task->static_kernel != BS_GIVEN && !t->products) {
    in->origin = in->y_packed = TAKE(task->length2 * task->dimension);
    in->x_rows = TAKE((BAND + 1) * task->dimension);
    if (!by_steps) {
      in->kappa = TAKE(task->length2);
      in->fresh = TAKE(task->length2);
    }
  }
  if (!backward) return used;
  in->parameters = task->grad_parameters ? parameters_of(task) : 0;
  if (task->static_kernel != BS_GIVEN && !t->products) {
    if (!by_steps) {
      in->slopes = TAKE(in->slope_rows * task->length2);
      if (task->grad_parameters) { /* the same room, whether increments are made by steps or not */
        const int64_t changes = layers_of(task) * g_rows * in->stride, points = in->slope_rows * task->length2;
        vec *room = TAKE(points > changes ? points : changes);
        if (is_radial(task) && coordinates(task) > RUN) in->squares = room;
        in->layer = g_rows * in->stride;
        in->to_changes = base ? room - t->g : 0;
      }
      in->corner = TAKE(task->length2);
      in->weights = TAKE(BAND * (BLOCK + 1));
      if (is_radial(task)) {
        in->x_centred = TAKE((BAND + 1) * task->dimension);
        in->y_centred = TAKE(task->length2 * task->dimension);
      }
    }
    in->grad_x = TAKE(task->length1 * task->dimension);
    in->grad_y = TAKE(task->length2 * task->dimension);
  }
  t->w = TAKE(state);
  t->gw = TAKE(state);
  if (task->planar) {
    t->suffixes = TAKE(state);
    t->planar_adjoints = take(base, &used, BAND * t->levels, sizeof(planar_adjoint));
  }
  t->w_top = TAKE(t->width);
  t->adjoints = take(base, &used, BAND * (t->levels + 1), sizeof(adjoint_state));
  t->gradient = TAKE(own_rows * in->stride);
  if (task->grid_derivs || task->planar) t->derivs = TAKE(BLOCK);
  return used;
#undef TAKE
}

/* The same unless it is as it is to be. What a tile has packed of second paths, or made of them, then serves the next one too. */
static void lay_out_again(tile *t, const bs_task *task, int backward, char *base) {
  const layout wanted = {task->length1, task->length2, {task->by_steps, task->compact, task->products}};
  if (t->laid_out.length1 == wanted.length1 && t->laid_out.length2 == wanted.length2 && is_same(t->laid_out.of, wanted.of)) return;
  lay_out(t, task, backward, 1, base);
  t->packed = 0;
  t->laid_out = t->tops || t->judging ? (layout){0} : wanted;
}

/* K_{m+1} on row r */
BS_INLINE vec *k_row(const tile *t, int64_t r, int m) {
  const int64_t slot = r < t->turn ? r : t->turn == 1 ? 0 : r % t->turn; /* a division takes as long as many a short row */
  return t->k + t->width * (slot * t->levels + m);
}

/* Row r moves to the slot that is its own where so many rows take turns. */
static void take_turns(tile *t, int64_t r, int64_t turn) {
  const vec *from = k_row(t, r, 0);
  t->turn = turn;
  if (from != k_row(t, r, 0)) memcpy(k_row(t, r, 0), from, (size_t)(t->width * t->levels) * sizeof(vec));
}

BS_INLINE edge *edge_of(const tile *t, int64_t r, int64_t k, int m) {
  return t->edges + ((r - t->edged_from) * t->blocks + k) * t->levels + m;
}

/* The rows of sub-cells from r on are recovered from edges. */
BS_INLINE int is_edged(const tile *t, int64_t r) { return t->edges && r >= t->edged_from; }

BS_INLINE int64_t coarse(const tile *t, int64_t r) { return r >> t->in.task->dyadic1; }

/* Row r of sub-cells is the first one of a row of cells. */
BS_INLINE int is_whole(const tile *t, int64_t r) { return r % ((int64_t)1 << t->in.task->dyadic1) == 0; }

/* The cell that lies first in a row of g and of gradient while they hold block k */
BS_INLINE int64_t offset(const tile *t, int64_t k) { return t->local ? k * t->block >> t->in.task->dyadic2 : 0; }

/* Columns of block k of row r. */
BS_INLINE block block_of(const tile *t, int64_t k, int64_t r) {
  const int64_t first = k * t->block + 1, last = first + t->block - 1;
  return (block){first, last < t->columns ? last : t->columns, t->in.task->dyadic2,
                 t->g + (coarse(t, r) - t->first_row) * t->in.stride - offset(t, k)};
}

/* The increments of block k of the rows of cells that are pending, and their bounds. */
static void load_block(tile *t, int64_t k) {
  if (!t->pending) return;
  const block b = block_of(t, k, t->pending_from << t->in.task->dyadic1);
  const int64_t first = (b.first - 1) >> b.shift, last = ((b.last - 1) >> b.shift) + 1, row = t->pending_from - t->first_row;
  vec *g = t->g + row * t->in.stride - offset(t, k);
  if (t->products)
    ; /* they are there */
  else if (is_linear(t->in.task))
    linear_rows(&t->in, t->pending, first, last, t->factor, g);
  else if (t->in.task->static_kernel != BS_GIVEN)
    kappa_block(&t->in, t->pending_from, t->pending, t->up, first, last, t->factor, g);
  if (t->in.any_still)
    for (int64_t i = 0; i < t->pending; ++i)
      for (int64_t j = first; j < last; ++j) g[i * t->in.stride + j] = choose(t->in.still, splat(0), g[i * t->in.stride + j]);
  if (t->in.task->planar || (t->up && t->kept)) return; /* ordered forests take cells of any size; nothing is recovered */
  enum { APART = 4 };                                   /* at a time: each waits for the one before */
  for (int64_t i = 0; i < t->pending; ++i, g += t->in.stride) {
    vec bound[APART];
    fill(bound, APART, 0);
    int64_t j = first;
    for (; j + APART <= last; j += APART)
      for (int64_t a = 0; a < APART; ++a) bound[a] = widened(bound[a], g[j + a]);
    for (; j < last; ++j) bound[0] = widened(bound[0], g[j]);
    const vec largest = maximum(maximum(bound[0], bound[1]), maximum(bound[2], bound[3]));
    t->bound[(row + i) * t->blocks + k] = largest;
    if (t->up && !t->in.task->k_stack) continue;
    if (!t->in.task->careful)
      t->size += largest * t->counts[k];
    else
      for (int64_t c = b.first; c <= b.last; ++c) t->size += absolute(g[(c - 1) >> b.shift]);
  }
}

/* Makes ready for the increments of the rows r0..r1-1 of sub-cells: their blocks are loaded in the pass over blocks that comes
   first. A band is a number of whole rows of cells, or lies within one, and then finds the row loaded, unless g holds one block. */
static void open_increments(tile *t, int64_t r0, int64_t r1, int up) {
  const int64_t refinement = (int64_t)1 << t->in.task->dyadic1, first = coarse(t, r0), last = coarse(t, r1 - 1);
  t->pending = 0;
  if (!t->local && (up ? r1 : r0) % refinement) return;
  t->pending = up && t->remembered ? 0 : last - first + 1;
  t->pending_from = first;
  t->first_row = t->remembered ? 0 : t->products ? first / t->products->chunk * t->products->chunk : first;
  t->up = up;
  if (t->products) {
    const int64_t chunk = first / t->products->chunk * t->products->chunk;
    if (chunk == t->products->first) return;
    if (up && t->remembered)
      open_chunk(t->products, &t->in, chunk);
    else
      load_chunk(t->products, &t->in, chunk, t->factor, t->g + (chunk - t->first_row) * t->in.stride);
  } else if (t->in.task->static_kernel != BS_GIVEN)
    open_rows(&t->in, first, last);
  else if (t->pending)
    given_rows(&t->in, first, last, t->factor, t->g + (first - t->first_row) * t->in.stride);
}

/* The increments of all blocks at once. */
static void load_increments(tile *t, int64_t r0, int64_t r1, int up) {
  open_increments(t, r0, r1, up);
  for (int64_t k = 0; k < t->blocks; ++k) load_block(t, k);
}

/* Grids, and increments that are handed in, have the same size for all pairs. */
static int is_trimmed(const bs_task *task) {
  return (task->lengths1 || task->lengths2) && task->static_kernel != BS_GIVEN && !task->grid && !task->grid_derivs && !task->k_stack;
}

/* Makes a copy of the task that of the pairs first..first+count-1 alone, whose paths have no more points than the longest of them. */
static void trim(bs_task *own, const bs_task *task, int64_t first, int64_t count) {
  own->pairs = first + count;
  if (!is_trimmed(task)) return;
  own->length1 = own->length2 = 2; /* one cell, which stands still where a path has one point */
  for (int64_t k = first; k < own->pairs; ++k) {
    const int64_t points1 = points_of(task->lengths1, task->index1, k, task->length1);
    const int64_t points2 = points_of(task->lengths2, task->index2, k, task->length2);
    if (points1 > own->length1) own->length1 = points1;
    if (points2 > own->length2) own->length2 = points2;
  }
}

/* Columns behind the end of a path have no say in what is watched. */
static void count_columns(tile *t) {
  for (int64_t k = 0; k < t->blocks; ++k) {
    const int64_t before = k * t->block;
    if (!t->in.ragged) {
      t->counts[k] = splat((double)least(t->columns - before, t->block));
      continue;
    }
    for (int w = 0; w < W; ++w) {
      const int64_t columns = (t->in.points2[w] - 1) << t->in.task->dyadic2;
      t->counts[k][w] = columns <= before ? 0 : (double)least(columns - before, t->block);
    }
  }
}

/* Ordered forests: no row has been swept. */
static void open_chains(tile *t) {
  if (!t->in.task->planar) return;
  fill(t->chains, t->in.task->depth + 1, 0);
  t->chains[0] = splat(1);
}

/* Ordered forests: what a band with this sum of |g| times factor over its sub-cells adds to the chains. */
static void lengthen_chains(tile *t, vec size) {
  size *= 1 / (t->factor * (double)((int64_t)1 << (t->in.task->dyadic1 + t->in.task->dyadic2)));
  for (int l = 1; l <= t->in.task->depth; ++l) t->chains[l] += size * t->chains[l - 1];
}

/* Short paths are swept sooner than they come from memory, so those are fetched that most likely lie in the lanes of the next tile. */
static void fetch_ahead(const tile *t) {
  enum { LINE = 64, MOST = 8 * LINE };
  const bs_task *task = t->in.task;
  const int64_t point = task->dimension * (int64_t)sizeof(double), size1 = task->stride1 * point, size2 = task->stride2 * point;
  for (int w = 0; w < W && size1 <= MOST && size2 <= MOST; ++w) {
    const uintptr_t next1 = (uintptr_t)t->in.x[w] + (uintptr_t)(W * size1), next2 = (uintptr_t)t->in.y[w] + (uintptr_t)(W * size2);
    for (int64_t k = 0; k < size1; k += LINE) __builtin_prefetch((const void *)(next1 + (uintptr_t)k));
    for (int64_t k = 0; k < size2; k += LINE) __builtin_prefetch((const void *)(next2 + (uintptr_t)k));
  }
}

/* The paths of the pairs first..first+W-1 into the lanes; the last pair fills the lanes that are left over. */
static void open_tile(tile *t, int64_t first) {
  const bs_task *task = t->in.task;
  increments *in = &t->in;
  int same_second = t->packed && !is_trimmed(task); /* tiles of other sizes lie elsewhere in memory */
  t->own = (int)least(W, task->pairs - first);
  in->uniform = 1;
  in->ragged = 0;
  in->gradient = t->remembered || (t->products && t->products->slopes && t->products->chunk >= t->products->rows);
  in->still = (ivec){0};
  in->any_still = 0;
  for (int w = 0; w < W; ++w) {
    const int64_t k = first + w < task->pairs ? first + w : task->pairs - 1;
    if (task->static_kernel == BS_GIVEN) {
      const int64_t from = k * (task->length1 - 1) * t->cells;
      in->x[w] = task->increments + from;
      in->given[w] = task->grad_increments && w < t->own ? task->grad_increments + from : NULL;
      in->given_row = t->cells;
      in->points1[w] = task->length1;
      in->points2[w] = task->length2;
      continue;
    }
    in->x[w] = in->centre[w] = task->path1 + path_of(task->index1, k) * task->stride1 * task->dimension;
    in->points1[w] = points_of(task->lengths1, task->index1, k, task->length1);
    in->points2[w] = points_of(task->lengths2, task->index2, k, task->length2);
    const double *y = task->path2 + path_of(task->index2, k) * task->stride2 * task->dimension;
    in->uniform &= in->x[w] == in->x[0];
    in->ragged |= in->points1[w] < task->length1 || in->points2[w] < task->length2;
    in->still[w] = in->points1[w] == 1 || in->points2[w] == 1 ? -1 : 0;
    in->any_still |= in->still[w] != 0;
    in->scale[w] = task->dilated ? in->x[w][task->dimension - 1] * y[task->dimension - 1] : 1;
    same_second &= y == in->y[w];
    in->y[w] = y;
  }
  if (t->is_short && task->static_kernel != BS_GIVEN && !in->uniform) fetch_ahead(t);
  if (t->products)
    open_products(t->products);
  else if (task->static_kernel != BS_GIVEN && !same_second)
    pack_second_path(in);
  t->packed = !t->products && task->static_kernel != BS_GIVEN;
  fill(t->fours, least(BLOCK, t->columns), 4);
  fill(t->zeros, least(BLOCK, t->columns), 0);
  t->turn = t->kept || task->grid ? t->slots : 1;
  const double one = task->planar ? 0 : 1; /* D in the place of K */
  fill(k_row(t, 0, 0), t->width * t->levels, one);
  for (int64_t row = 0; row < t->slots * t->levels; ++row) t->k[t->width * row] = splat(one); /* column 0 */
  if (t->edges) /* the first one of every row, and those of row 0 */
    for (int64_t r = t->edged_from; r <= (t->tops ? t->segment : t->rows); ++r)
      for (int64_t j = 0; j < (r ? 1 : t->blocks) * t->levels; ++j) edge_of(t, r, 0, 0)[j] = (edge){splat(one), splat(one)};
  if (task->careful) fill(t->logs, t->width * (t->levels + 1), 0);
  open_watch(t->watched, t->levels + 1);
  if (task->planar)
    for (int m = 0; m < t->levels; ++m) t->watched[m].extent[1] = splat(0);
  if (t->judging) fill(t->errors, SAMPLES * t->width * t->levels, 0);
  t->worst = splat(0);
  count_columns(t);
  t->total = t->grid_sum = t->size = splat(0);
  open_chains(t);
}

/* Polled once a block of a band: with very many levels that alone takes a while. */
BS_INLINE int stopped(const tile *t) { return __atomic_load_n(t->in.task->stop, __ATOMIC_RELAXED); }

/* Ordered forests: the columns of b on the rows r + 1, r + 2, ... from row r, so many of them. */
static void planar_columns(tile *t, block b, int64_t r, int rows, int64_t r0) {
  const int left = t->in.task->planar == BS_PLANAR_LEFT;
  const int64_t k = (b.first - 1) / t->block;
  const vec *means = NULL, *known = k_row(t, r, 0); /* those of K_0 are 1 */
  if (t->judging) fill(t->error_sums[1], SAMPLES * BLOCK, 0); /* of K_0 */
  for (int m = 0; m < t->levels; ++m, known += t->width) {
    vec *out = m + 1 < t->levels ? t->sums[m & 1] : NULL;
    planar_row row[PLANAR_ROWS];
    for (int i = 0; i < rows; ++i)
      row[i] = (planar_row){block_of(t, k, r + i).g, means, k_row(t, r + i + 1, m), out,
                            &t->planar_states[(r + i - r0) * t->levels + m], splat(0)};
    means = out;
    if (!t->judging) {
      planar_block(left, rows, b, known, row, &t->watched[m].extent[1]);
      for (int i = 0; m == 0 && i < rows; ++i) t->size += square_root(t->counts[k] * row[i].squares); /* Cauchy and Schwarz */
      continue;
    }
    const planar_errors errors = {t->errors + SAMPLES * t->width * m, t->width, t->error_sums[(m + 1) & 1], t->error_sums[m & 1],
                                  t->error_states + ((r - r0) * t->levels + m) * SAMPLES, &t->worst};
    planar_careful_block(left, b, r, m, known, row[0], &t->watched[m].extent[1], errors);
  }
}

/* Ordered forests: block k on the rows r0 + 1 to r1. */
static void sweep_planar_block(tile *t, int64_t k, int64_t r0, int64_t r1) {
  int64_t r = r0;
  if (t->levels == 1 && !t->judging)
    for (; r + PLANAR_ROWS <= r1; r += PLANAR_ROWS) planar_columns(t, block_of(t, k, r), r, PLANAR_ROWS, r0);
  for (; r < r1; ++r) planar_columns(t, block_of(t, k, r), r, 1, r0);
}

/* The columns of b, which lie in block k of row r of sub-cells: K on row r + 1 from row r or (up) the other way. The integral of the
   level above those of K is added to `integral`, unless that is NULL. */
BS_INLINE void sweep_columns(tile *t, block b, int64_t k, int64_t r, int64_t r0, int up, vec *integral) {
  const int careful = t->in.task->careful, last = t->levels - 1;
  if (t->in.task->planar) {
    planar_columns(t, b, r, 1, r0);
    return;
  }
  const int64_t from = up ? r + 1 : r, to = up ? r : r + 1;
  const vec bound = t->bound[(coarse(t, r) - t->first_row) * t->blocks + k], *sums = t->fours;
  vec largest = splat(4);
  const vec *known = k_row(t, from, 0);
  vec *next = k_row(t, to, 0);
  row_state *state = &t->states[(r - r0) * t->levels];
  watch *at = t->watched;
  for (int m = 0; m <= last; ++m, known += t->width, next += t->width, ++state, ++at) {
    vec *out = t->sums[m & 1];
    if (careful)
      careful_block(up ? -1 : 1, b, sums, known, next, t->logs + t->width * m, out, state, at);
    else if (up)
      largest = recover_block(b, largest * bound, sums, known, next, out, state, at->extent);
    else if (integral && m == last)
      at[1].reach += forward_last_block(b, largest * bound, sums, known, next, integral, state, at->extent) * bound * t->counts[k];
    else
      largest = forward_block(b, largest * bound, sums, known, next, out, state, at->extent);
    sums = out;
  }
  if (integral && (careful || last < 0)) integrate_block(b, sums, integral, careful ? t->logs + t->width * (last + 1) : NULL, at);
}

/* All of block k. */
static void sweep_block(tile *t, int64_t k, int64_t r, int64_t r0, int up, vec *integral) {
  sweep_columns(t, block_of(t, k, r), k, r, r0, up, integral);
}

static void open_states(tile *t) {
  if (t->in.task->planar) {
    memset(t->planar_states, 0, sizeof(planar_state) * (size_t)(BAND * t->levels));
    if (t->judging) memset(t->error_states, 0, sizeof(planar_state) * (size_t)(BAND * t->levels * SAMPLES));
    return;
  }
  for (int64_t k = 0; k < BAND * t->levels; ++k)
    t->states[k] = (row_state){splat(t->in.task->careful ? 0 : 1), splat(2), splat(1)};
}

/* The smallest K of block k of row r. */
static void look_at_row(tile *t, int64_t k, int64_t r) {
  const block b = block_of(t, k, r);
  for (int m = 0; m < t->levels; ++m) {
    const vec *row = k_row(t, r, m);
    vec low = t->watched[m].least, other = low; /* two at a time: each waits for the one before */
    for (int64_t c = b.first; c <= b.last; ++c) {
      low = minimum(low, row[c]);
      if (++c <= b.last) other = minimum(other, row[c]);
    }
    t->watched[m].least = minimum(low, other);
  }
}

/* What the rows r0+1..r1 of K have on the edge between block k and the next one. */
static void keep_edges(tile *t, int64_t k, int64_t r0, int64_t r1) {
  if (k + 1 == t->blocks) return;
  for (int64_t r = r0; r < r1; ++r)
    for (int m = 0; m < t->levels; ++m) {
      const row_state *state = &t->states[(r - r0) * t->levels + m];
      const planar_state *strip = &t->planar_states[(r - r0) * t->levels + m];
      if (!is_edged(t, r + 1)) continue;
      *edge_of(t, r + 1, k + 1, m) = t->tops ? (edge){strip->strip, strip->behind} : (edge){state->E, state->k};
    }
}

static void short_rows(tile *t, int64_t r0, int64_t r1, vec *integral); /* in short.h, the same for rows of one block */

/* The rows r0..r1-1 of sub-cells downwards: K on row r1 from K on row r0; the integral of each row is added to its `integral`. */
static void sweep_band(tile *t, int64_t r0, int64_t r1, vec *integral) {
  const int integrating = t->levels < t->in.task->depth;
  if (t->is_short && !t->in.task->planar) {
    load_block(t, 0);
    short_rows(t, r0, r1, integral);
    look_at_row(t, 0, r1);
    return;
  }
  for (int64_t k = 0; k < t->blocks && !stopped(t); ++k) {
    load_block(t, k);
    if (t->in.task->planar)
      sweep_planar_block(t, k, r0, r1);
    else
      for (int64_t r = r0; r < r1; ++r) sweep_block(t, k, r, r0, 0, integrating ? &integral[r - r0] : NULL);
    if (!t->in.task->careful && !t->in.task->planar) look_at_row(t, k, r1);
    if (is_edged(t, r1)) keep_edges(t, k, r0, r1);
  }
}

/* A path with itself. K is symmetric, and so are the integrals over cells: log K at the corner (r + 1, r + 1) is that at (r, r), twice
   the integral over row r to the left of the diagonal, and that over the cell on it. So the rows end there. What K is above that cell it
   is to the left of it. */

/* The columns of a block of row r to the left of the diagonal, on it, and to the right; those behind their last one are none. */
static void split_block(block b, int64_t r, block part[3]) {
  part[0] = part[1] = part[2] = b;
  part[0].last = least(b.last, r);
  part[1].first = b.first > r + 1 ? b.first : r + 1;
  part[1].last = least(b.last, r + 1);
  part[2].first = b.first > r + 2 ? b.first : r + 2;
}

/* Downwards, by code of its own: within the loops of sweep_band the ordinary sweep is faster than as a function that both call. */
__attribute__((noinline)) static void sweep_part(tile *t, block b, int64_t k, int64_t r, int64_t r0, vec *integral) {
  sweep_columns(t, b, k, r, r0, 0, integral);
}

/* The rows r0..r1-1 of sub-cells downwards, up to the diagonal. The integrals of each row are added to `left` and `own`. */
static void sweep_band_of_itself(tile *t, int64_t r0, int64_t r1, vec *left, vec *own) {
  const bs_task *task = t->in.task;
  const int64_t refinement = (int64_t)1 << task->dyadic1, end = (coarse(t, r1 - 1) + 1) * refinement;
  /* a band begins with the values of the static kernel that the one before has left */
  const int64_t reach = is_linear(task) ? end : end + (refinement > BAND ? refinement : BAND);
  for (int64_t k = 0; k < t->blocks && k * t->block < reach && !stopped(t); ++k) {
    load_block(t, k);
    for (int64_t r = r0; r < r1; ++r) {
      block part[3];
      split_block(block_of(t, k, r), r, part);
      if (part[0].first <= part[0].last) {
        sweep_part(t, part[0], k, r, r0, &left[r - r0]);
        /* above the diagonal, at once: the next row takes the place of this one */
        for (int m = 0; m < t->levels && part[0].last == r; ++m) {
          k_row(t, r, m)[r + 1] = k_row(t, r + 1, m)[r];
          if (task->careful) t->logs[t->width * m + r + 1] = t->logs[t->width * m + r];
        }
      }
      if (part[1].first > part[1].last) continue;
      sweep_part(t, part[1], k, r, r0, &own[r - r0]);
      if (task->planar) own[r - r0] = k_row(t, r + 1, t->levels - 1)[r + 1];
    }
    if (!task->careful && !task->planar) look_at_row(t, k, r1);
  }
}

/* log K, or D, of the paths of all lanes, up to the given point, with themselves. */
static void store_diagonal(const tile *t, int64_t first, int64_t point) {
  const bs_task *task = t->in.task;
  for (int w = 0; w < W && first + w < task->pairs; ++w) task->diagonal[(first + w) * task->stride1 + point] = t->total[w];
}

/* The integrals of row r of a path with itself, left of the diagonal and on it, to the total, and that to where it belongs. Behind the
   end of the longest path of a tile it stays as it is. */
static void finish_row_of_itself(tile *t, int64_t first, int64_t r, vec left, vec own) {
  const bs_task *task = t->in.task;
  if (task->planar)
    t->total = own;
  else
    t->total += 2 * left + own;
  if (!is_whole(t, r + 1)) return;
  const int64_t last = r + 1 < t->rows ? coarse(t, r + 1) : task->stride1 - 1;
  for (int64_t point = coarse(t, r + 1); point <= last; ++point) store_diagonal(t, first, point);
}

/* The same upwards: K on the rows r0..r1-1 from K on row r1. */
static void recover_band(tile *t, int64_t r0, int64_t r1) {
  for (int64_t k = 0; k < t->blocks && !stopped(t); ++k) {
    load_block(t, k);
    for (int64_t r = r1 - 1; r >= r0; --r) sweep_block(t, k, r, r0, 1, NULL);
  }
  if (!t->local) t->pending = 0;
}

/* Row r of K_{m+1} of every lane to level `level` of a grid, or (loading) back from it. */
static void grid_row(const tile *t, int64_t first, int64_t r, double *grid, int levels_in_grid, int level, int m, int loading) {
  double *row = (double *)(t->in.task->log_grid ? t->logs + t->width * m : k_row(t, r, m));
  const double one = t->in.task->planar && t->in.task->all_levels ? 1 : 0; /* K of D */
  for (int w = 0; w < W && first + w < t->in.task->pairs; ++w) {
    double *line = grid + (((first + w) * levels_in_grid + level) * (t->rows + 1) + r) * (t->columns + 1);
    if (loading)
      for (int64_t c = 0; c <= t->columns; ++c) row[c * W + w] = line[c];
    else
      for (int64_t c = 0; c <= t->columns; ++c) line[c] = one + row[c * W + w];
  }
}

static void store_grid_row(const tile *t, int64_t first, int64_t r) {
  const bs_task *task = t->in.task;
  if (!task->all_levels) {
    grid_row(t, first, r, task->grid, 1, 0, task->depth - 1, 0);
    return;
  }
  for (int w = 0; w < W && first + w < task->pairs; ++w) {
    double *line = task->grid + ((first + w) * (task->depth + 1) * (t->rows + 1) + r) * (t->columns + 1);
    for (int64_t c = 0; c <= t->columns; ++c) line[c] = 1; /* K_0 */
  }
  for (int m = 0; m < task->depth; ++m) grid_row(t, first, r, task->grid, task->depth + 1, m + 1, m, 0);
}

/* Not a number in grid_sum from the first node of the grid on that has no finite value. */
static void check_grid_row(tile *t, int64_t r) {
  const int top = t->levels - 1;
  const vec *k = t->in.task->careful && t->in.task->wrt_log ? t->logs + t->width * top : k_row(t, r, top);
  for (int64_t c = 0; c <= t->columns; ++c) t->grid_sum += k[c] - k[c];
}

/* Ordered forests, downwards: what is kept of row r, the first one of a band. */
static void keep_top(tile *t, int64_t r) {
  const int64_t state = t->width * t->levels;
  if (r % t->segment == 0) {
    t->edged_from = r;
    memcpy(t->starts + r / t->segment * state, k_row(t, r, 0), sizeof(vec) * (size_t)state);
  }
  memcpy(t->tops + (r - t->edged_from) / BAND * state, k_row(t, r, 0), sizeof(vec) * (size_t)state);
}

/* All rows downwards. Returns nonzero if it was asked to stop. */
static int sweep_down(tile *t, int64_t first) {
  const bs_task *task = t->in.task;
  /* logs hold one row at a time, so where every row of them is looked at, bands have one row */
  const int64_t band = (task->grid_derivs && task->careful) || task->log_grid ? 1 : BAND;
  if (!t->products) start_rows(&t->in, 0);
  if (task->grid) store_grid_row(t, first, 0);
  if (task->diagonal) store_diagonal(t, first, 0);
  for (int64_t r0 = 0; r0 < t->rows; r0 += band) {
    const int64_t r1 = r0 + band < t->rows ? r0 + band : t->rows;
    if (stopped(t)) return 1;
    open_increments(t, r0, r1, 0);
    vec integral[BAND], own[BAND];
    fill(integral, BAND, 0);
    fill(own, BAND, 0);
    open_states(t);
    if (t->tops) keep_top(t, r0);
    if (task->diagonal) {
      sweep_band_of_itself(t, r0, r1, integral, own);
      for (int64_t r = r0; r < r1; ++r) finish_row_of_itself(t, first, r, integral[r - r0], own[r - r0]);
      continue;
    }
    const vec before = t->size;
    sweep_band(t, r0, r1, integral);
    if (task->planar) lengthen_chains(t, t->size - before);
    for (int64_t r = r0; r < r1; ++r) t->total += integral[r - r0];
    for (int64_t r = r0 + 1; r <= r1; ++r) {
      if (task->grid) store_grid_row(t, first, r);
      if (task->grid_derivs && task->careful && !task->planar) check_grid_row(t, r);
    }
  }
  if (task->planar && !task->diagonal) t->total = k_row(t, t->rows, t->levels - 1)[t->columns];
  return 0;
}

/* A bound for the error of log K_depth at the end or, with `all`, of all levels and nodes of a grid. */
static vec error_bound(const tile *t, int all) {
  const bs_task *task = t->in.task;
  const vec size = t->size / (t->factor * (double)((int64_t)1 << task->dyadic2));
  const double share = task->nodes ? 1 : 0.25; /* of a mean in what is watched */
  vec error = splat(0), largest = error;
  for (int m = 0; m < task->depth; ++m) {
    const watch *at = &t->watched[m];
    vec mean = at->mean, reach = at->reach;
    if (task->untruncated) { /* K is the integral of itself */
      if (!task->careful) mean = at->extent[1];
      if (!task->careful) reach = maximum(logarithm(at->extent[1]), absolute(t->total));
      return next_error(splat(0), size, mean * (1.0 + reach), splat(0));
    }
    if (!task->careful) {
      mean = splat(1);
      if (m) mean = share * at[-1].extent[1];
      const vec least = minimum(at->least, task->nodes ? at->extent[0] : at->least); /* a tile scales its extent */
      if (m < t->levels) reach = maximum(logarithm(2 * share * at->extent[1]), -logarithm(least));
    }
    error = next_error(error, size, mean, reach);
    largest = choose(error <= largest, largest, error);
  }
  return all ? largest : error;
}

/* Lanes of ordered forests whose value at the end has lost its digits, by the closer look. */
static ivec planar_lost(const tile *t) {
  const vec k = absolute(1.0 + t->total), *errors = t->errors + SAMPLES * t->width * (t->levels - 1) + t->columns;
  vec allowed = maximum(splat(1), k);
  if (t->in.task->purpose != BS_KERNEL) allowed = k;
  if (t->in.task->purpose == BS_LOG) allowed = k * maximum(splat(1), absolute(logarithm(k)));
  ivec gone = (ivec){0};
  for (int j = 0; j < SAMPLES; ++j)
    gone |= beyond(absolute(errors[j * t->width]) * (MARGIN * BS_EPSILON), allowed * BS_TOLERANCE);
  return t->in.task->purpose == BS_ROUGH ? (ivec){0} : gone;
}

/* Lanes of ordered forests that another is to look at: values that are not finite, which shows at the end whatever the node, or may have
   lost their digits. With M_m the largest |K_m| at a node, R_i the sum of |g| over the cells of row i, and e_{m,i} the largest error of
   K_m down to row i, an error in a cell enters K_m times a kernel of what is left, and is at most about

     e_{m,i} = e_{m,i-1} + M_m^2 R_i (eps M_{m-1} + e_{m-1,i})

   That makes e_m the sum over l of chains[l] eps M_{m-l} M_{m-l+1}^2 .. M_m^2, where chains[l] is the sum over all i_1 <= .. <= i_l of
   R_{i_1} .. R_{i_l}: of S^l, with S the sum of R, as little as one part in l! if no row stands out. A row is one of bands here.
   Careful, grids of which some node may have lost them, by the closer look. */
static ivec planar_out_of_range(const tile *t) {
  const bs_task *task = t->in.task;
  const vec k = absolute(1.0 + t->total);
  vec error = splat(0), allowed = splat(BS_CONTENT);
  const int grid = task->grid || task->grid_derivs;
  if (t->errors && grid) return beyond(t->worst * (MARGIN * BS_EPSILON), splat(BS_TOLERANCE)) | ~(ivec)(k < __builtin_inf());
  if (t->errors || task->purpose == BS_ROUGH || task->diagonal) return ~(ivec)(absolute(t->total) < __builtin_inf());
  for (int depth = grid ? 1 : task->depth; depth <= task->depth; ++depth) {
    vec own = splat(0), factor = splat(BS_EPSILON), most = 1.0 + t->watched[depth - 1].extent[1];
    for (int m = depth - 1; m >= 0; --m) {
      factor *= most * most;
      most = splat(1);
      if (m > 0) most += t->watched[m - 1].extent[1];
      own += t->chains[depth - m] * (factor * most);
    }
    error = choose(own <= error, error, own);
  }
  if (!grid) allowed *= task->purpose == BS_KERNEL ? maximum(splat(1), k) : k;
  return beyond(error, allowed) | ~(ivec)(k < __builtin_inf());
}

/* No lane is to be swept again, as the rule is: K at the nodes is within [1/NEAR, NEAR], and with a bound for |log K| that follows from
   that, and takes no logarithm, errors are small. */
#define BS_NEAR 0x1p30
#define BS_LOG_NEAR 22 /* more than log(2 NEAR) */
static int is_well_within(const tile *t) {
  const bs_task *task = t->in.task;
  if (task->careful || task->untruncated || task->nodes) return 0;
  const vec size = t->size / (t->factor * (double)((int64_t)1 << task->dyadic2));
  vec error = splat(0), mean = splat(1);
  ivec within = ~(ivec){0};
  for (int m = 0; m < task->depth; ++m) {
    const watch *at = &t->watched[m];
    const vec reach = m < t->levels ? splat(BS_LOG_NEAR) : at->reach;
    if (m < t->levels) within &= (at->least >= 1 / BS_NEAR) & (at->extent[0] >= 1 / BS_LIMIT) & (at->extent[1] <= BS_NEAR);
    error = BS_EPSILON * size * mean + error * (0.5 * reach);
    within &= error <= BS_CONTENT;
    mean = 0.25 * at->extent[1];
  }
  return !any_beyond(choose(within, splat(0), splat(1)), 0);
}

/* Lanes that are to be swept again: products that left their range, or may have lost their digits; careful, grids of which some node
   may have. */
static ivec out_of_range(const tile *t) {
  const bs_task *task = t->in.task;
  if (task->planar) return planar_out_of_range(t);
  if (is_well_within(t)) return (ivec){0};
  const int grid = task->grid || task->grid_derivs;
  const vec error = error_bound(t, grid);
  ivec bad = beyond(error, splat(task->careful ? BS_TOLERANCE : BS_CONTENT));
  if (!grid) bad = lost(task->purpose, t->total, error, BS_CONTENT);
  if (task->careful) return grid ? bad : (ivec){0};
  for (int m = 0; m < t->levels; ++m) {
    const watch *at = &t->watched[m];
    bad |= ~((minimum(at->extent[0], at->least) >= 1 / BS_LIMIT) & (at->extent[1] <= BS_LIMIT));
  }
  return bad;
}

/* Careful: not a number in the lanes whose digits are lost at the end. */
static void strike_out(tile *t) {
  if (!t->in.task->careful || t->in.task->diagonal || t->in.task->grid || t->in.task->grid_derivs) return;
  if (t->in.task->planar) {
    t->total = choose(planar_lost(t), splat(__builtin_nan("")), t->total);
    return;
  }
  t->total = choose(lost(t->in.task->purpose, t->total, error_bound(t, 0), BS_TOLERANCE), splat(__builtin_nan("")), t->total);
}

/* A row of K_{m+1} that was handed in. One that has lost digits on its way is not a number at its end, or infinite, or 0. */
static void watch_row(tile *t, int64_t r, int m) {
  const vec *row = k_row(t, r, m), end = row[t->columns];
  watch *at = &t->watched[m];
  vec low = at->least, high = 0.25 * at->extent[1];
  for (int64_t c = 1; c <= t->columns; ++c) {
    low = minimum(low, row[c]);
    high = maximum(high, row[c]);
  }
  at->least = low;
  at->extent[1] = choose((end - end) == splat(0), 4 * high, splat(__builtin_inf()));
}

/* K on the rows r0..r1-1, where it is not kept: handed in, or recovered from row r1; block by block where there are edges. */
static void provide_rows(tile *t, int64_t first, int64_t r0, int64_t r1) {
  const bs_task *task = t->in.task;
  if (task->k_stack) {
    for (int64_t r = r0; r < r1; ++r) {
      for (int m = 0; m < task->depth; ++m) {
        grid_row(t, first, r, (double *)task->k_stack, task->depth + 1, m + 1, m, 1);
        watch_row(t, r, m);
      }
      if (task->grid_derivs) check_grid_row(t, r);
    }
    return;
  }
  if (t->kept || is_edged(t, r0)) return;
  if (t->turn != BAND + 1) take_turns(t, r1, BAND + 1);
  open_states(t);
  recover_band(t, r0, r1);
  if (r0 == 0) fill(k_row(t, 0, 0), t->width * t->levels, 1); /* that much is known exactly */
}

/* K on row r of block k, from row r + 1 and the edges. */
static void recover_block_of_row(tile *t, int64_t k, int64_t r, int64_t r0) {
  const block b = block_of(t, k, r);
  for (int m = 0; m < t->levels; ++m) {
    const edge *upper = edge_of(t, r, k, m), *lower = edge_of(t, r + 1, k, m);
    k_row(t, r, m)[b.first - 1] = upper->k;
    k_row(t, r + 1, m)[b.first - 1] = lower->k;
    t->states[(r - r0) * t->levels + m] = (row_state){1 / lower->E, upper->k + lower->k, upper->k};
  }
  sweep_block(t, k, r, r0, 1, NULL);
  if (r == 0) /* that much is known exactly */
    for (int m = 0; m < t->levels; ++m) fill(k_row(t, 0, m) + b.first, b.last + 1 - b.first, 1);
}

/* D on the rows r0..r1 of block k, from the first of them and the edges. */
static void sweep_block_again(tile *t, int64_t k, int64_t r0, int64_t r1) {
  const block b = block_of(t, k, r0);
  const vec *top = t->tops + (r0 - t->edged_from) / BAND * t->width * t->levels;
  for (int m = 0; m < t->levels; ++m)
    memcpy(k_row(t, r0, m) + b.first - 1, top + t->width * m + b.first - 1, sizeof(vec) * (size_t)(b.last + 2 - b.first));
  for (int64_t r = r0; r < r1; ++r)
    for (int m = 0; m < t->levels; ++m) {
      const edge *left = edge_of(t, r + 1, k, m);
      t->planar_states[(r - r0) * t->levels + m] = (planar_state){left->E, left->k};
      k_row(t, r + 1, m)[b.first - 1] = left->k + left->E;
    }
  sweep_planar_block(t, k, r0, r1);
}

/* The segment that ends with row r1, downwards again. Returns nonzero if it was asked to stop. */
static int sweep_segment_again(tile *t, int64_t r1) {
  const int64_t first = r1 - t->segment, state = t->width * t->levels;
  const vec *start = t->starts + first / t->segment * state;
  if (!t->remembered) {
    t->in.gradient = 0; /* what the way up has of the row below the segment is there again after it */
    if (!t->products) start_rows(&t->in, coarse(t, first));
  }
  t->turn = 1;
  memcpy(k_row(t, first, 0), start, sizeof(vec) * (size_t)state);
  for (int64_t r0 = first; r0 < r1; r0 += BAND) {
    if (stopped(t)) return 1;
    open_increments(t, r0, r0 + BAND, t->remembered);
    open_states(t);
    keep_top(t, r0);
    sweep_band(t, r0, r0 + BAND, NULL);
  }
  t->in.gradient = 1;
  if (t->products) t->products->first = -1;
  t->turn = BAND + 1;
  return 0;
}

/* Derivatives with respect to row r of the grid, times factor, for the columns of a block. */
static void load_derivs(tile *t, int64_t first, int64_t r, block b) {
  const int64_t area = (t->columns + 1) * (t->rows + 1);
  for (int w = 0; w < W; ++w) {
    const int64_t k = first + w < t->in.task->pairs ? first + w : t->in.task->pairs - 1;
    const double *line = t->in.task->grid_derivs + k * area + r * (t->columns + 1);
    for (int64_t c = b.first; c <= b.last; ++c) ((double *)t->derivs)[(c - b.first) * W + w] = line[c] * t->factor;
  }
}

static void open_adjoints(tile *t, int64_t rows) {
  if (t->in.task->planar) memset(t->planar_adjoints, 0, sizeof(planar_adjoint) * (size_t)(rows * t->levels));
  for (int64_t k = 0; k < rows * (t->levels + 1); ++k) t->adjoints[k] = (adjoint_state){splat(0), splat(0)};
}

/* The adjoint comes to the cells of a block for the first time: rows come upwards, and a cell lies in one block or is made of
   whole blocks, which come from the right. */
static int is_fresh(const tile *t, int64_t r, block b) {
  return is_whole(t, r + 1) && b.last % ((int64_t)1 << b.shift) == 0;
}

/* The same over ordered forests, the seed of the end being in the first w of the top level. */
static void planar_adjoint_of_block(tile *t, int64_t first, int64_t k, int64_t r, int64_t r0) {
  const bs_task *task = t->in.task;
  const block b = block_of(t, k, r);
  t->gradient_from = t->products ? t->products->first : coarse(t, r0);
  vec *gradient = t->gradient + (coarse(t, r) - t->gradient_from) * t->in.stride - offset(t, k);
  if (task->grid_derivs)
    load_derivs(t, first, r + 1, b);
  else
    fill(t->derivs, b.last + 1 - b.first, 0);
  const vec *old = gradient;
  if (is_fresh(t, r, b)) old = t->zeros - ((b.first - 1) >> b.shift);
  for (int m = task->depth - 1; m >= 0; --m) {
    const int64_t at = m * t->width, below = m ? m - 1 : 0;
    const planar_rows rows = {k_row(t, r, m), k_row(t, r + 1, m), k_row(t, r, below), k_row(t, r + 1, below),
                              t->w + at, t->suffixes + at, t->gw + at};
    planar_adjoint_block(task->planar == BS_PLANAR_LEFT, m == 0, b, &rows, t->derivs, old, gradient,
                         &t->planar_adjoints[(r - r0) * t->levels + m]);
    old = gradient;
  }
}

/* The adjoint of block k of row r of sub-cells, from the top level down, into t->gradient. */
static void adjoint_of_block(tile *t, int64_t first, int64_t k, int64_t r, int64_t r0, int64_t r1) {
  const bs_task *task = t->in.task;
  const int top = task->depth - 1; /* the integral of K_depth is never taken */
  const block b = block_of(t, k, r);
  adjoint_state *states = t->adjoints + (r - r0) * (t->levels + 1);
  t->gradient_from = t->products ? t->products->first : coarse(t, r0);
  vec *gradient = t->gradient + (coarse(t, r) - t->gradient_from) * t->in.stride - offset(t, k);
  if (task->grid_derivs) {
    load_derivs(t, first, r + 1, b);
    seed_block(b, t->derivs, task->wrt_log ? NULL : k_row(t, r + 1, top), t->w_top, &states[top]);
  }
  const vec *w_above = t->w_top, *old = gradient;
  if (is_fresh(t, r, b)) old = t->zeros - ((b.first - 1) >> b.shift);
  const vec *upper = k_row(t, r, 0), *lower = k_row(t, r + 1, 0);
  /* what comes next: the row above, or the first row of the next block */
  const vec *ahead = r > r0 ? k_row(t, r - 1, 0) : k_row(t, r1 - 1, 0) - (k ? t->block : 0);
  for (int64_t m = top - 1, at = m * t->width; m >= 0; --m, at -= t->width) {
    vec *w = t->w + at;
    adjoint_block(m == 0, b, w_above, upper + at, lower + at, ahead + at, w, t->gw + at, old, gradient, &states[m]);
    w_above = w;
    old = gradient;
  }
  if (top == 0) /* K_0 is all there is below */
    for (int64_t c = b.last; c >= b.first; --c) {
      const int64_t cell = (c - 1) >> b.shift;
      gradient[cell] = (c == b.last || ((c - 1) ^ c) >> b.shift ? old[cell] : gradient[cell]) + w_above[c] * 4;
    }
}

/* The gradient of the cells of a chunk, which is done, to the steps of the paths. That of the first chunk of a tile, the last one to be done,
   waits for `flush`, so that the gradients of one lane alone need be in memory. */
static void hand_on_chunk(tile *t) {
  products *p = t->products;
  increments *in = &t->in;
  const int64_t rows = least(p->chunk, p->rows - p->first);
  if (p->points) {
    if (in->ragged) silence_behind_ends(in, p->first, rows, 0, t->cells, t->gradient);
    for (int64_t i = rows - 1; i >= 0; --i) {
      const vec *gradient = t->gradient + i * in->stride, *g = t->g + (p->first - t->first_row + i) * in->stride;
      if (in->task->dilated) in->d_scale += dot_of(gradient, g, t->cells);
      if (in->parameters) sum_over_cells(in, 1, 0, t->cells, gradient, g);
    }
  }
  part_chunk(p, in, t->gradient);
  for (int w = 0; w < t->own && p->first > 0; ++w) chunk_gradient(p, &t->in, w);
}

/* The gradient of the cells whose first column lies in block k of the band r0..r1-1, once whole rows of cells are done, to the
   paths or out. Blocks come from the right. */
static void hand_on_gradient(tile *t, int64_t k, int64_t r0, int64_t r1) {
  if (!is_whole(t, r0)) return;
  if (t->products) {
    if (k == 0 && coarse(t, r0) == t->gradient_from) hand_on_chunk(t);
    return;
  }
  const bs_task *task = t->in.task;
  const int64_t row = coarse(t, r0), rows = coarse(t, r1 - 1) - row + 1, in_cell = (int64_t)1 << task->dyadic2, n = t->in.stride;
  const int64_t first = (k * t->block + in_cell - 1) / in_cell, last = least(((k + 1) * t->block + in_cell - 1) / in_cell, t->cells);
  if (first >= last) return;
  vec *gradient = t->gradient - offset(t, k);
  if (task->static_kernel == BS_GIVEN)
    given_gradient(&t->in, row, rows, first, last, gradient);
  else {
    const vec *g = block_of(t, k, r0).g;
    if (t->in.ragged && !is_linear(task)) silence_behind_ends(&t->in, row, rows, first, last, gradient);
    if (task->dilated)
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = first; j < last; ++j) t->in.d_scale += gradient[i * n + j] * g[i * n + j];
    increments_gradient(&t->in, row, rows, first, last, gradient, g);
    if (row == 0 && !is_linear(task) && !t->in.joined) first_row_gradient(&t->in, first, last);
  }
}

/* The same for all blocks of a band of one row, whose gradient is a sum that then starts again. */
static void hand_on_row(tile *t, int64_t r) {
  for (int64_t k = t->blocks - 1; k >= 0; --k) hand_on_gradient(t, k, r, r + 1);
  if (is_whole(t, r)) fill(t->gradient, t->cells, 0);
}

/* The adjoint of the rows r0..r1-1 of sub-cells, and the gradient of their cells. */
static void adjoint_band(tile *t, int64_t first, int64_t r0, int64_t r1) {
  for (int64_t k = t->blocks - 1; k >= 0 && !stopped(t); --k) {
    load_block(t, k);
    if (t->in.task->planar) {
      if (t->edges) sweep_block_again(t, k, r0, r1);
      for (int64_t r = r1 - 1; r >= r0; --r) planar_adjoint_of_block(t, first, k, r, r0);
      hand_on_gradient(t, k, r0, r1);
      continue;
    }
    if (is_edged(t, r0) && k + 1 < t->blocks) /* the column that was the left edge of the block before */
      for (int m = 0; m < t->levels; ++m) k_row(t, r1, m)[(k + 1) * t->block] = edge_of(t, r1, k + 1, m)->k;
    for (int64_t r = r1 - 1; r >= r0; --r) {
      if (is_edged(t, r0)) recover_block_of_row(t, k, r, r0);
      adjoint_of_block(t, first, k, r, r0, r1);
    }
    hand_on_gradient(t, k, r0, r1);
  }
}

/* Before the first row upwards. */
static void open_gradient(tile *t, vec seed) {
  const bs_task *task = t->in.task;
  fill(t->w, t->width * t->levels, 0);
  fill(t->gw, t->width * t->levels, 0);
  for (int64_t c = 0; c <= t->columns; ++c) t->w_top[c] = seed;
  if (task->planar) {
    memcpy(t->w + t->width * (t->levels - 1), t->w_top, sizeof(vec) * (size_t)t->width);
    fill(t->suffixes, t->width * t->levels, 0);
  }
  if (!t->products) fill(t->gradient, BAND * t->in.stride, 0);
  t->in.gradient = 1;
  fill(t->in.d_parameter, 2, 0);
  if (t->products) {
    t->in.d_scale = splat(0);
    if (t->products->points && !t->products->sloped) t->products->first = -1;
    return;
  }
  if (!t->remembered) start_rows(&t->in, task->length1 - 1);
  start_gradient(&t->in);
  centre_second_path(&t->in);
  if (t->in.grad_x) fill(t->in.grad_x, task->length1 * task->dimension, 0);
}

/* All rows upwards: the gradient of every lane, from w of the top level where no grid of derivatives is given. Returns nonzero
   if it was asked to stop. */
static int sweep_up(tile *t, int64_t first, vec seed) {
  const bs_task *task = t->in.task;
  t->judging = 0;
  open_gradient(t, seed);
  if (!t->kept) take_turns(t, t->rows, t->edges && !t->tops ? 2 : BAND + 1);
  if (task->k_stack) provide_rows(t, first, t->rows, t->rows + 1);
  for (int64_t r0 = (t->rows - 1) / BAND * BAND; r0 >= 0; r0 -= BAND) {
    const int64_t r1 = r0 + BAND < t->rows ? r0 + BAND : t->rows;
    if (stopped(t)) return 1;
    if (t->tops && r0 < t->edged_from && sweep_segment_again(t, r1)) return 1;
    open_increments(t, r0, r1, 1);
    provide_rows(t, first, r0, r1);
    open_adjoints(t, BAND);
    adjoint_band(t, first, r0, r1);
  }
  t->in.gradient = 0;
  return 0;
}

/* The gradient of lane w with respect to one of its paths, to the given point of `to`, if there is one. */
static void flush_path(const tile *t, int second, int w, double weight, double *to, int64_t at) {
  const increments *in = &t->in;
  const bs_task *task = in->task;
  const int64_t d = coordinates(task), points = second ? in->points2[w] : in->points1[w];
  if (!to) return;
  to += at * task->dimension;
  if (t->products)
    flush_products(t->products, in, second, w, weight * in->scale[w], to);
  else
    flush_gradient(task, second ? in->grad_y : in->grad_x, second ? task->length2 : task->length1, w, points, weight * in->scale[w], to);
  if (task->dilated) to[d] += weight * in->d_scale[w] / (t->factor * (second ? in->y[w] : in->x[w])[d]);
}

/* Before the first flush. */
static void part_gradients(tile *t) {
  const bs_task *task = t->in.task;
  if (task->static_kernel == BS_GIVEN || t->products) return;
  if (t->in.parameters && is_linear(task)) sum_over_steps(&t->in);
  part_lanes(task, t->in.points1, task->length1, t->in.grad_x);
  part_lanes(task, t->in.points2, task->length2, t->in.grad_y);
}

/* The gradient of lane w, which is pair k, to where it belongs. A pair without a finite value has no gradient, and one of weight 0
   contributes nothing, whatever its value. */
static void flush(tile *t, int w, int64_t k, int finite) {
  const bs_task *task = t->in.task;
  const double nan = __builtin_nan(""), scale = is_linear(task) ? task->parameter[0] : 1;
  const double weight1 = finite ? scale * (task->weight1)[k] : nan;
  const double weight2 = finite ? scale * (task->weight2)[k] : nan;
  if (task->static_kernel == BS_GIVEN) {
    double *to = task->grad_increments + k * (task->length1 - 1) * t->cells;
    for (int64_t j = 0; j < (task->length1 - 1) * t->cells; ++j) to[j] *= weight1;
    return;
  }
  if (t->in.still[w]) return; /* a path of one point: all is constant, whatever the static kernel */
  if (t->products) {
    chunk_gradient(t->products, &t->in, w);
    if (t->in.parameters && is_linear(task)) sum_over_steps_of_lane(t->products, &t->in, w);
  }
  for (int j = 0; j < t->in.parameters; ++j)
    task->grad_parameters[k * t->in.parameters + j] = finite ? of_parameter(&t->in, t->factor, j, t->in.d_parameter[j][w], t->in.scale[w]) : nan;
  double *const grad1 = task->weight1[k] ? task->grad1 : NULL, *const grad2 = task->weight2[k] ? task->grad2 : NULL;
  flush_path(t, 0, w, weight1, grad1, path_of(task->index1, k) * task->stride1);
  flush_path(t, 1, w, weight2, grad2, path_of(task->index2, k) * task->stride2);
}

/* K_depth (or log K_depth) of each lane at the end point. */
static vec top_value(const tile *t, int64_t first) {
  const bs_task *task = t->in.task;
  if (!task->k_stack) return task->wrt_log || task->planar ? t->total : exponential(t->total);
  vec value = splat(1);
  const int64_t area = (t->columns + 1) * (t->rows + 1);
  for (int w = 0; w < W && first + w < task->pairs; ++w)
    value[w] = (task->k_stack)[(first + w + 1) * (task->depth + 1) * area - 1];
  return value;
}

#endif
