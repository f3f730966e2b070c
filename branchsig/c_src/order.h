/* Tiles for the truncation by the number of nodes, with any rule of quadrature; nodes, sub-cells, B and sum as in collocation.h:

     u_n at the nodes = the integral of k_{n-1} = the sum of g sum_{n-1}[a, b] over the sub-cells above and to the left
     n k_n            = sum over j = 1..n of j u_j k_{n-j},   k_0 = 1

   k_n and n u_n of all n are kept on the rows of nodes of one row of cells, and for the way back of as many as fit; above them u is
   recovered from the last row. The adjoint goes
   cell by cell, right to left, and in a cell from the highest n down:
     ubar_j += j/n k_{n-j} kbar_n,   kbar_{n-j} += j/n u_j kbar_n,   w_n[a, b] = the sum of ubar_n below and to the right,
     U_n = B^T w_n B,   gradient += sum of U_n k_{n-1},   kbar_{n-1} gathers g U_n. */
#ifndef BS_ORDER_H
#define BS_ORDER_H

#include "collocation.h"

typedef struct {
  collocation n;    /* level m holds k_n for n = m + 1; E of its states is a sum here; w is w_n, and gw what the cells below give to kbar_n */
  int order;
  vec *u;           /* n u_n, as n.k */
  vec *kbar, *ubar; /* backward, of a cell: [level][row of nodes but the first][node but the first] */
} order_tile;

static int64_t lay_out_order(order_tile *o, const bs_task *task, int backward, char *base) {
  int64_t used = lay_out_collocation(&o->n, task, backward, task->nodes + 1, 2, base);
  const int64_t levels = o->order = task->order, of_cell = task->nodes * task->nodes;
  o->u = take(base, &used, o->n.width * levels * o->n.slots, sizeof(vec));
  if (backward) {
    o->kbar = take(base, &used, levels * of_cell, sizeof(vec));
    o->ubar = take(base, &used, levels * of_cell, sizeof(vec));
  }
  return used;
}

/* u_n and k_n over a block of cells, n = m + 1, from the sums of k_m; gives the sums of k_n. */
BS_INLINE void parts_at(int p, double sign, const order_tile *o, int64_t r, int m, block b, const vec *sums, vec *sums_out) {
  vec most = o->n.t.watched[m].extent[1];
  const bs_task *task = o->n.t.in.task;
  const double *B = task->steps, over_n = 1.0 / (m + 1);
  edge_state *state = &o->n.states[m];
  vec *k[BS_MOST_NODES + 1], *u[BS_MOST_NODES + 1];
  for (int i = 0; i <= p; ++i) {
    k[i] = node_row(&o->n, o->n.k, m, r * p + i);
    u[i] = node_row(&o->n, o->u, m, r * p + i);
  }
  const int64_t level = o->n.width; /* from a row of n to that of n + 1 */
  for (int64_t c = b.first; c <= b.last; ++c) {
    const vec g = b.g[(c - 1) >> b.shift], *sum = sums + (c - b.first) * p * p;
    const ivec moves = g != splat(0);
    const int64_t at = (c - 1) * p;
    for (int step = 0; step < p; ++step) {
      const int a = sign > 0 ? step : p - 1 - step, from = sign > 0 ? a : a + 1, to = sign > 0 ? a + 1 : a;
      for (int l = 1; l <= p; ++l) {
        const vec cell = (g * sum[a * p + l - 1]) * (m + 1.0);
        state->E[a] += (vec)((ivec)cell & moves);
        const vec own = u[from][at + l] + sign * state->E[a];
        u[to][at + l] = own;
        vec total = own;
        for (int j = 1; j <= m; ++j) /* j u_j k_{n-j} */
          total += u[to][at + l - level * (m + 1 - j)] * k[to][at + l - level * j];
        total *= over_n;
        k[to][at + l] = total;
        if (sums_out && sign > 0) most = widened(most, total); /* that of the highest n is never asked for */
      }
    }
    if (!sums_out) continue;
    const vec *nodes[BS_MOST_NODES + 1];
    for (int i = 0; i <= p; ++i) nodes[i] = k[i] + at;
    sub_cell_sums(p, 0, B, nodes, state->sums, sums_out + (c - b.first) * p * p);
  }
  o->n.t.watched[m].extent[1] = most;
}

#define BS_PARTS(name, p)                                                                                     \
  static void name(const order_tile *o, int up, int64_t r, int m, block b, const vec *sums, vec *sums_out) { \
    if (up)                                                                                                   \
      parts_at(p, -1, o, r, m, b, sums, sums_out);                                                               \
    else                                                                                                      \
      parts_at(p, 1, o, r, m, b, sums, sums_out);                                                                \
  }
BS_PARTS(parts_1, 1)
BS_PARTS(parts_2, 2)
BS_PARTS(parts_3, 3)
BS_PARTS(parts_any, o->n.p)

/* All n of row r of cells, downwards or upwards. */
static void sweep_parts(order_tile *o, int64_t r, int up) {
  tile *t = &o->n.t;
  memset(o->n.states, 0, sizeof(edge_state) * (size_t)o->order); /* nothing on the left edge for n > 0 */
  for (int64_t j = 0; j < t->blocks; ++j) {
    const block b = block_of(t, j, r);
    const vec *sums = o->n.ones;
    for (int m = 0; m < o->order && !stopped(t); ++m) { /* a level takes as many steps as there are below it */
      vec *out = m + 1 < o->order ? o->n.sums[m & 1] : NULL;
      switch (o->n.p) {
        case 1: parts_1(o, up, r, m, b, sums, out); break;
        case 2: parts_2(o, up, r, m, b, sums, out); break;
        case 3: parts_3(o, up, r, m, b, sums, out); break;
        default: parts_any(o, up, r, m, b, sums, out);
      }
      sums = out;
    }
  }
}

/* What the adjoint of a cell needs, in copies that no store to a register in memory can change: at the first node of the cell, k and u
   of n = 1 on its rows of nodes; w and gw; and B, the distance from n to n + 1, kbar, ubar and the states of the order_tile. */
typedef struct {
  const double *B;
  int64_t width;
  const vec *k[BS_MOST_NODES + 1], *u[BS_MOST_NODES + 1];
  vec *kbar, *ubar, *w, *gw;
  edge_adjoint *states;
} adjoint_cell;

/* n = m + 1 of the adjoint of a cell. Returns what it adds to the derivative with respect to g. */
BS_INLINE vec part_adjoint(int p, int m, const adjoint_cell *cell, vec g) {
  const int64_t width = cell->width;
  const double over_n = 1.0 / (m + 1);
  vec *kbar = cell->kbar + m * p * p, *ubar = cell->ubar + m * p * p, *w = cell->w + width * m, sum = splat(0);
  edge_adjoint *state = &cell->states[m];
  for (int i = 1; i <= p; ++i)
    for (int l = 1; l <= p; ++l) {
      const int node = (i - 1) * p + l - 1;
      const vec bar = kbar[node] * over_n, *k = cell->k[i] + l, *u = cell->u[i] + l;
      ubar[node] += bar;
      for (int j = 1; j <= m; ++j) { /* j u_j k_{n-j}: u_j is at j - 1, k_{n-j} at m - j */
        cell->ubar[(j - 1) * p * p + node] += bar * k[(m - j) * width];
        cell->kbar[(m - j) * p * p + node] += bar * u[(j - 1) * width];
      }
    }
  vec cells[BS_MOST_NODES * BS_MOST_NODES], U[BS_MOST_NODES + 1][BS_MOST_NODES + 1];
  for (int l = p; l > 0; --l) {
    vec here = w[l];
    for (int i = p; i > 0; --i) {
      state->suffix[i - 1] += ubar[(i - 1) * p + l - 1] * (m + 1.0);
      here += state->suffix[i - 1];
      cells[(i - 1) * p + l - 1] = here;
    }
    w[l] = here;
  }
  node_weights(p, cell->B, cells, U);
  vec *below = m ? cell->gw + width * (m - 1) : NULL;
  edge_adjoint *lower = m ? &cell->states[m - 1] : NULL;
  if (m) below[p] = lower->right[0];
  for (int i = 0; i <= p; ++i)
    for (int l = 0; l <= p; ++l) {
      if (!m) { /* k_0 = 1 */
        sum += U[i][l];
        continue;
      }
      sum += U[i][l] * cell->k[i][width * (m - 1) + l];
      U[i][l] *= g;
      if (l == 0)
        lower->right[i] = U[i][l];
      else if (i > 0)
        cell->kbar[((m - 1) * p + i - 1) * p + l - 1] += U[i][l];
      else if (l == p)
        below[l] += U[i][l];
      else
        below[l] = U[i][l];
    }
  return sum;
}

/* The adjoint of the cell of column c, whose row of cells has k_1 and u_1 on the rows of nodes `k` and `u`. kbar holds what is given
   from outside for the corner at its end. `unrolled`: the order is at most 6, and known to the compiler. */
BS_INLINE vec parts_adjoint_at(int p, int order, int unrolled, const order_tile *o, const vec *const *k, const vec *const *u, int64_t c,
                               vec g) {
  const int64_t at = (c - 1) * p;
  adjoint_cell cell = {.B = o->n.t.in.task->steps, .width = o->n.width, .kbar = o->kbar, .ubar = o->ubar,
                       .w = o->n.w + at, .gw = o->n.gw + at, .states = o->n.adjoints};
  for (int i = 0; i <= p; ++i) {
    cell.k[i] = k[i] + at;
    cell.u[i] = u[i] + at;
  }
  for (int m = 0; m < order; ++m) { /* what the cells to the right and below give; kbar starts from 0 but at the corner */
    vec *kbar = cell.kbar + m * p * p;
    const vec *gw = cell.gw + cell.width * m;
    for (int i = 1; i <= p; ++i) kbar[i * p - 1] += cell.states[m].right[i];
    for (int l = 1; l <= p; ++l) kbar[(p - 1) * p + l - 1] += gw[l];
  }
  vec sum = splat(0);
  if (unrolled) {
    if (order > 5) sum += part_adjoint(p, 5, &cell, g);
    if (order > 4) sum += part_adjoint(p, 4, &cell, g);
    if (order > 3) sum += part_adjoint(p, 3, &cell, g);
    if (order > 2) sum += part_adjoint(p, 2, &cell, g);
    if (order > 1) sum += part_adjoint(p, 1, &cell, g);
    return sum + part_adjoint(p, 0, &cell, g);
  }
  for (int m = order - 1; m >= 0 && !stopped(&o->n.t); --m) sum += part_adjoint(p, m, &cell, g);
  return sum;
}

/* The instances: how many nodes and, where they are few, which order, so that the loops over n are unrolled. */
typedef vec parts_adjoint(const order_tile *o, const vec *const *k, const vec *const *u, int64_t c, vec g);
#define BS_PARTS_ADJOINT(name, p, order, unrolled)                                                              \
  static vec name(const order_tile *o, const vec *const *k, const vec *const *u, int64_t c, vec g) {            \
    return parts_adjoint_at(p, order, unrolled, o, k, u, c, g);                                                 \
  }
BS_PARTS_ADJOINT(parts_adjoint_1, 1, o->order, 0)
BS_PARTS_ADJOINT(parts_adjoint_2, 2, o->order, 0)
BS_PARTS_ADJOINT(parts_adjoint_3, 3, o->order, 0)
BS_PARTS_ADJOINT(parts_adjoint_any, o->n.p, o->order, 0)
BS_PARTS_ADJOINT(parts_adjoint_1_to_2, 1, 2, 1)
BS_PARTS_ADJOINT(parts_adjoint_1_to_3, 1, 3, 1)
BS_PARTS_ADJOINT(parts_adjoint_1_to_4, 1, 4, 1)
BS_PARTS_ADJOINT(parts_adjoint_1_to_5, 1, 5, 1)
BS_PARTS_ADJOINT(parts_adjoint_1_to_6, 1, 6, 1)

static parts_adjoint *adjoint_of(const order_tile *o) {
  static parts_adjoint *const of_orders[] = {parts_adjoint_1_to_2, parts_adjoint_1_to_3, parts_adjoint_1_to_4,
                                             parts_adjoint_1_to_5, parts_adjoint_1_to_6};
  static parts_adjoint *const of_nodes[] = {parts_adjoint_1, parts_adjoint_2, parts_adjoint_3};
  if (o->n.p == 1 && o->order >= 2 && o->order <= 6) return of_orders[o->order - 2];
  return o->n.p <= 3 ? of_nodes[o->n.p - 1] : parts_adjoint_any;
}

/* Derivatives of k_1 to k_order at corner (r, c), times factor, to the last node of a cell. */
static void seed_parts(order_tile *o, int64_t first, int64_t r, int64_t c) {
  const tile *t = &o->n.t;
  const bs_task *task = t->in.task;
  const int64_t corners = task->grid_derivs ? (t->rows + 1) * (t->columns + 1) : 1, at = corners > 1 ? r * (t->columns + 1) + c : 0;
  const double *derivs = task->grid_derivs ? task->grid_derivs : task->part_derivs;
  if (!task->grid_derivs && (r < t->rows || c < t->columns)) return;
  for (int w = 0; w < W && first + w < task->pairs; ++w)
    for (int m = 0; m < o->order; ++m)
      o->kbar[(m + 1) * o->n.p * o->n.p - 1][w] = derivs[((first + w) * corners + at) * (o->order + 1) + m + 1] * t->factor;
}

static void adjoint_parts(order_tile *o, int64_t first, int64_t r) {
  tile *t = &o->n.t;
  memset(o->n.adjoints, 0, sizeof(edge_adjoint) * (size_t)o->order);
  const size_t of_cell = sizeof(vec) * (size_t)(o->order * o->n.p * o->n.p);
  parts_adjoint *const adjoint = adjoint_of(o);
  const vec *k[BS_MOST_NODES + 1], *u[BS_MOST_NODES + 1];
  for (int i = 0; i <= o->n.p; ++i) {
    k[i] = node_row(&o->n, o->n.k, 0, r * o->n.p + i);
    u[i] = node_row(&o->n, o->u, 0, r * o->n.p + i);
  }
  for (int64_t c = t->columns; c > 0; --c) {
    const int64_t cell = (c - 1) >> t->in.task->dyadic2;
    const vec g = t->g[cell];
    memset(o->kbar, 0, of_cell);
    memset(o->ubar, 0, of_cell);
    seed_parts(o, first, r + 1, c);
    t->gradient[cell] += adjoint(o, k, u, c, g);
  }
}

static void open_order(order_tile *o, int64_t first) {
  open_tile(&o->n.t, first);
  for (int m = 0; m < o->order; ++m) o->n.t.watched[m].extent[1] = splat(0);
  fill_ones(o->n.t.in.task, o->n.ones);
  for (int i = 0; i < 2; ++i) {
    vec *values = i ? o->u : o->n.k;
    fill(values, o->n.width * o->order, 0);
    for (int64_t row = 1; row < o->n.slots; ++row)
      for (int m = 0; m < o->order; ++m) *node_row(&o->n, values, m, row) = splat(0);
  }
}

/* k_0 to k_order at corner (r, c), of every lane. */
static void store_parts(const order_tile *o, int64_t first, int64_t r, int64_t c, int64_t corners, int64_t at, double *to) {
  const bs_task *task = o->n.t.in.task;
  for (int w = 0; w < W && first + w < task->pairs; ++w) {
    double *parts = to + ((first + w) * corners + at) * (o->order + 1);
    parts[0] = 1;
    for (int m = 0; m < o->order; ++m) parts[m + 1] = node_row(&o->n, o->n.k, m, r * o->n.p)[c * o->n.p][w];
  }
}

/* The corners of row r: stored, and looked at. */
static void finish_corners(order_tile *o, int64_t first, int64_t r) {
  tile *t = &o->n.t;
  const bs_task *task = t->in.task;
  const int64_t corners = (t->rows + 1) * (t->columns + 1);
  if (task->diagonal && is_whole(t, r)) { /* behind the end of the longest path of a tile it stays as it is */
    const int64_t last = r < t->rows ? coarse(t, r) : task->stride1 - 1;
    for (int64_t point = coarse(t, r); point <= last; ++point) store_parts(o, first, r, r, task->stride1, point, task->diagonal);
  }
  if (task->grid)
    for (int64_t c = 0; c <= t->columns; ++c) store_parts(o, first, r, c, corners, r * (t->columns + 1) + c, task->grid);
  for (int64_t c = task->grid_derivs ? 0 : t->columns; c <= t->columns; ++c)
    if (task->grid_derivs || r == t->rows)
      for (int m = 0; m < o->order; ++m) {
        const vec k = node_row(&o->n, o->n.k, m, r * o->n.p)[c * o->n.p];
        t->grid_sum += k - k;
      }
}

/* All rows downwards. Returns nonzero if it was asked to stop. */
static int order_down(order_tile *o, int64_t first) {
  tile *t = &o->n.t;
  start_rows(&t->in, 0);
  finish_corners(o, first, 0);
  for (int64_t r = 0; r < t->rows; ++r) {
    if (stopped(t)) return 1;
    load_increments(t, r, r + 1, 0);
    sweep_parts(o, r, 0);
    finish_corners(o, first, r + 1);
  }
  if (t->in.task->parts) store_parts(o, first, t->rows, t->columns, 1, 0, t->in.task->parts);
  return 0;
}

/* A bound for the error of k_n, n = m + 1: with S the sum of |g| and M_n the largest |k_n|, that of u_j is eps S M_{j-1}, and makes
   one of k_n of (1/n) times the sum over j of j eps S M_{j-1} M_{n-j}. */
static vec part_error(const order_tile *o, int m) {
  const tile *t = &o->n.t;
  const vec size = t->size / (t->factor * (double)((int64_t)1 << t->in.task->dyadic2));
  vec sum = splat(0);
  for (int j = 1; j <= m + 1; ++j) {
    const vec below = j > 1 ? t->watched[j - 2].extent[1] : splat(1), beside = j <= m ? t->watched[m - j].extent[1] : splat(1);
    sum += j * (below * beside);
  }
  return choose(size == splat(0), splat(0), sum * size * (BS_EPSILON / (m + 1)));
}

/* Lanes that have lost their digits: of k_n (value, error) by themselves, of their sum, or of its logarithm. */
static ivec lost_sum(int purpose, vec value, vec error, double tolerance) {
  const vec size = absolute(value);
  vec allowed = maximum(splat(1), size);
  if (purpose == BS_LOG) allowed = size * maximum(splat(1), absolute(logarithm(size)));
  if (purpose == BS_DIFFERENCE || purpose == BS_QUOTIENT) allowed = size;
  return beyond(error, allowed * tolerance) & (ivec)((size < __builtin_inf()) & (allowed == allowed));
}

static ivec lost_parts(const order_tile *o, double tolerance) {
  const tile *t = &o->n.t;
  const bs_task *task = t->in.task;
  const int grid = task->grid || task->grid_derivs;
  vec value = splat(1), error = splat(0);
  ivec gone = (ivec){0};
  if (task->purpose == BS_ROUGH) return gone;
  for (int m = 0; m < o->order; ++m) {
    const vec k = node_row(&o->n, o->n.k, m, t->rows * o->n.p)[t->columns * o->n.p], own = part_error(o, m);
    if (task->purpose == BS_PARTS && grid)
      gone |= beyond(own, splat(tolerance));
    else if (task->purpose == BS_PARTS)
      gone |= lost_sum(BS_PARTS, k, own, tolerance);
    value += k;
    error += own;
  }
  if (task->purpose == BS_PARTS) return gone;
  /* at a node of a grid the sum may be of any size */
  if (grid) return beyond(error, splat(task->purpose == BS_KERNEL ? tolerance : 0));
  return lost_sum(task->purpose, value, error, tolerance);
}

/* After the way down: which pairs are to be swept again, and which of k_n have no digits. Careful, those are not numbers. */
static ivec judge_parts(const order_tile *o, int64_t first) {
  const bs_task *task = o->n.t.in.task;
  const int again = !task->careful || task->grid || task->grid_derivs;
  const ivec gone = lost_parts(o, task->careful ? BS_TOLERANCE : BS_CONTENT);
  for (int w = 0; w < W && first + w < task->pairs; ++w) {
    task->out_of_range[first + w] = again && gone[w];
    if (again || !task->parts) continue;
    double *parts = task->parts + (first + w) * (o->order + 1);
    for (int m = -1; m < o->order; ++m) {
      const ivec own = task->purpose != BS_PARTS ? gone
                       : m < 0                   ? (ivec){0}
                                                 : lost_sum(BS_PARTS, splat(parts[m + 1]), part_error(o, m), BS_TOLERANCE);
      if (own[w]) parts[m + 1] = __builtin_nan("");
    }
  }
  return again ? (ivec){0} : gone;
}

/* All rows upwards: the gradient of every lane. Returns nonzero if it was asked to stop. */
static int order_up(order_tile *o, int64_t first) {
  tile *t = &o->n.t;
  open_gradient(t, splat(0));
  fill(o->n.w, o->n.width * o->order, 0);
  fill(o->n.gw, o->n.width * o->order, 0);
  for (int64_t r = t->rows - 1; r >= 0; --r) {
    if (stopped(t)) return 1;
    load_increments(t, r, r + 1, 1);
    if (!is_kept(&o->n, r)) sweep_parts(o, r, 1);
    if (r == 0) /* that much is known exactly */
      for (int m = 0; m < o->order; ++m) {
        fill(node_row(&o->n, o->n.k, m, 0), o->n.width, 0);
        fill(node_row(&o->n, o->u, m, 0), o->n.width, 0);
      }
    adjoint_parts(o, first, r);
    hand_on_row(t, first, r);
  }
  t->in.gradient = 0;
  return 0;
}

#endif
