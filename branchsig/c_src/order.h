/* Tiles for the truncation by the number of nodes, with any rule of quadrature; nodes, sub-cells, B and sum as in collocation.h:

     u_n at the nodes = the integral of k_{n-1} = the sum of g sum_{n-1}[a, b] over the sub-cells above and to the left
     n k_n            = sum over j = 1..n of j u_j k_{n-j},   k_0 = 1

   k_n and n u_n of all n are kept on the rows of nodes of one row of cells, and for the backward pass of as many as fit; above them u is
   recovered from the last row. The adjoint goes
   cell by cell, right to left, and in a cell from the highest n down:
     ubar_j += j/n k_{n-j} kbar_n,   kbar_{n-j} += j/n u_j kbar_n,   w_n[a, b] = the sum of ubar_n below and to the right,
     U_n = B^T w_n B,   gradient += sum of U_n k_{n-1},   kbar_{n-1} gathers g U_n.

   With a bound on the depth as well there are such sums for every depth m,

     u_{m,n} = the integral of k_{m-1,n-1},   n k_{m,n} = sum over j = 1..n of j u_{m,j} k_{m,n-j},   k_{0,n} = 0 for n > 0,

   but no forest of n nodes is deeper than n, so k_{m,n} = k_{n,n} for n <= m; and k_{depth,order} needs no k_{m,n} of more than
   order - depth nodes beyond m. So one level holds k_{m,n} and n u_{m,n} for each m = 1..depth and n = m..m + order - depth. Without a
   bound the depth is the order, and there is one level to an m.

   Over ordered forests

     k_{m,n} = the integral of f_{m,n} = sum over i + j = n - 1 of k_{m,i} k_{m-1,j}

   takes the place of both sums, and a level holds k_{m,n} alone. The adjoint of a cell is U_{m,n} = B^T w_{m,n} B with w the sum of
   kbar_{m,n} below and to the right, gradient += sum of U f; kbar_{m,i} gathers g U k_{m-1,j}, and kbar_{m-1,j} g U k_{m,i}. */
#ifndef BS_ORDER_H
#define BS_ORDER_H

#include "collocation.h"

typedef struct {
  collocation n;    /* level (m - 1) per_depth + n - m holds k_{m,n}; E of its states is a sum here; w is w_n, and gw what the cells below
                       give to kbar_n */
  int order, depth, per_depth; /* and order - depth + 1, the levels to a depth */
  vec *sums;        /* of a block, as those of n: of the levels of a depth but the first */
  vec *u;           /* n u_n, as n.k; NULL over ordered forests */
  vec *kbar, *ubar; /* backward, of a cell: [level][row of nodes but the first][node but the first] */
} order_tile;

static int64_t lay_out_order(order_tile *o, const bs_task *task, int backward, char *base) {
  int64_t used = lay_out_collocation(&o->n, task, backward, task->nodes + 1, task->ordered ? 1 : 2, base);
  const int64_t levels = o->n.t.levels, of_cell = task->nodes * task->nodes;
  o->order = task->order;
  o->depth = task->depth;
  o->per_depth = levels_per_depth(task);
  o->sums = take(base, &used, (o->per_depth - 1) * BLOCK * of_cell, sizeof(vec));
  o->u = task->ordered ? NULL : take(base, &used, o->n.width * levels * o->n.slots, sizeof(vec));
  if (backward) {
    o->kbar = take(base, &used, levels * of_cell, sizeof(vec));
    o->ubar = task->ordered ? NULL : take(base, &used, levels * of_cell, sizeof(vec));
  }
  return used;
}

/* The level of the sums over the forests of n >= 1 nodes and a depth of at most m >= 1. */
BS_INLINE int64_t level_of(int64_t per_depth, int64_t m, int64_t n) { return n - 1 + (per_depth - 1) * ((n < m ? n : m) - 1); }

/* The level of k_n at the largest depth. */
BS_INLINE int result_level(const order_tile *o, int n) { return (int)level_of(o->per_depth, o->depth, n); }

/* u_n and k_n at depth m over a block of cells, n = m + past, from the sums of k_{n-1} at the depth below; gives the sums of k_n.
   `per_depth` is that of the tile, and known to the compiler where it is 1. */
BS_INLINE void parts_at(int p, int per_depth, double sign, const order_tile *o, int64_t r, int m, int past, block b, const vec *sums,
                        vec *sums_out) {
  const int n = m + past, level = (m - 1) * per_depth + past, watching = n < o->order; /* the largest k_order is never asked for */
  vec most = o->n.t.watched[level].extent[1];
  const bs_task *task = o->n.t.in.task;
  const double *B = task->steps, over_n = 1.0 / n;
  edge_state *state = &o->n.states[level];
  vec *k[BS_MOST_NODES + 1], *u[BS_MOST_NODES + 1];
  for (int i = 0; i <= p; ++i) {
    k[i] = node_row(&o->n, o->n.k, level, r * p + i);
    u[i] = node_row(&o->n, o->u, level, r * p + i);
  }
  const int64_t width = o->n.width; /* from a level to the next one */
  for (int64_t c = b.first; c <= b.last; ++c) {
    const vec g = b.g[(c - 1) >> b.shift], *sum = sums + (c - b.first) * p * p;
    const ivec moves = g != splat(0);
    const int64_t at = (c - 1) * p;
    for (int step = 0; step < p; ++step) {
      const int a = sign > 0 ? step : p - 1 - step, from = sign > 0 ? a : a + 1, to = sign > 0 ? a + 1 : a;
      for (int l = 1; l <= p; ++l) {
        const vec cell = (g * sum[a * p + l - 1]) * (double)n;
        state->E[a] += (vec)((ivec)cell & moves);
        const vec own = u[from][at + l] + sign * state->E[a];
        u[to][at + l] = own;
        vec total = own;
        for (int j = 1; j < n; ++j) { /* j u_j k_{n-j} */
          const int64_t of_u = level_of(per_depth, m, j) - level, of_k = level_of(per_depth, m, n - j) - level;
          total += u[to][at + l + width * of_u] * k[to][at + l + width * of_k];
        }
        total *= over_n;
        k[to][at + l] = total;
        if (watching && sign > 0) most = widened(most, total);
      }
    }
    if (!sums_out) continue;
    const vec *nodes[BS_MOST_NODES + 1];
    for (int i = 0; i <= p; ++i) nodes[i] = k[i] + at;
    sub_cell_sums(p, 0, B, nodes, state->sums, sums_out + (c - b.first) * p * p);
  }
  o->n.t.watched[level].extent[1] = most;
}

/* The instances: how many nodes, and whether there is a level to a depth or more. */
typedef void parts(const order_tile *o, int up, int64_t r, int m, int past, block b, const vec *sums, vec *sums_out);
#define BS_PARTS(name, p, per_depth)                                                                                    \
  static void name(const order_tile *o, int up, int64_t r, int m, int past, block b, const vec *sums, vec *sums_out) { \
    if (up)                                                                                                             \
      parts_at(p, per_depth, -1, o, r, m, past, b, sums, sums_out);                                                     \
    else                                                                                                                \
      parts_at(p, per_depth, 1, o, r, m, past, b, sums, sums_out);                                                      \
  }
BS_PARTS(parts_1, 1, 1)
BS_PARTS(parts_2, 2, 1)
BS_PARTS(parts_3, 3, 1)
BS_PARTS(parts_any, o->n.p, 1)
BS_PARTS(parts_of_depths_1, 1, o->per_depth)
BS_PARTS(parts_of_depths_2, 2, o->per_depth)
BS_PARTS(parts_of_depths_3, 3, o->per_depth)
BS_PARTS(parts_of_depths_any, o->n.p, o->per_depth)

static parts *parts_of(const order_tile *o) {
  static parts *const instances[2][4] = {{parts_any, parts_1, parts_2, parts_3},
                                         {parts_of_depths_any, parts_of_depths_1, parts_of_depths_2, parts_of_depths_3}};
  return instances[o->per_depth > 1][o->n.p <= 3 ? o->n.p : 0];
}

/* Ordered forests: f_{m,n}, n > 1, at the nodes first..p of the rows of nodes `k` of a cell, whose level 0 begins there. */
BS_INLINE void products_at(int p, int per_depth, int m, int n, int first, int64_t width, const vec *const *k, vec (*f)[BS_MOST_NODES + 1]) {
  const int64_t beside = width * level_of(per_depth, m, n - 1);
  for (int i = 0; i <= p; ++i)
    for (int l = first; l <= p; ++l) f[i][l] = k[i][beside + l];
  for (int j = 1; j < n && m > 1; ++j) { /* k_{m,n-1-j} k_{m-1,j}, and k_{m,0} = 1 */
    const int64_t below = width * level_of(per_depth, m - 1, j);
    const int64_t own = j < n - 1 ? width * level_of(per_depth, m, n - 1 - j) : 0;
    for (int i = 0; i <= p; ++i)
      for (int l = first; l <= p; ++l) {
        vec product = k[i][below + l];
        if (j < n - 1) product *= k[i][own + l];
        f[i][l] += product;
      }
  }
}

/* k_n at depth m over a block of cells, over ordered forests, downwards or upwards (sign = -1). */
BS_INLINE void ordered_parts_at(int p, int per_depth, double sign, const order_tile *o, int64_t r, int m, int past, block b) {
  const int n = m + past, level = (m - 1) * per_depth + past, watching = n < o->order;
  const int64_t width = o->n.width;
  edge_state *state = &o->n.states[level];
  vec most = o->n.t.watched[level].extent[1], *k[BS_MOST_NODES + 1];
  for (int i = 0; i <= p; ++i) k[i] = node_row(&o->n, o->n.k, 0, r * p + i);
  for (int64_t c = b.first; c <= b.last; ++c) {
    const vec g = b.g[(c - 1) >> b.shift], *cell[BS_MOST_NODES + 1], *nodes[BS_MOST_NODES + 1], *sum = o->n.ones;
    const ivec moves = g != splat(0);
    const int64_t at = (c - 1) * p, own = at + width * level;
    vec f[BS_MOST_NODES + 1][BS_MOST_NODES + 1], sums[BS_MOST_NODES * BS_MOST_NODES];
    if (n > 1) {
      for (int i = 0; i <= p; ++i) cell[i] = k[i] + at, nodes[i] = f[i];
      products_at(p, per_depth, m, n, 1, width, cell, f);
      sub_cell_sums(p, 0, o->n.t.in.task->steps, nodes, state->sums, sums);
      sum = sums;
    }
    for (int step = 0; step < p; ++step) {
      const int a = sign > 0 ? step : p - 1 - step, from = sign > 0 ? a : a + 1, to = sign > 0 ? a + 1 : a;
      for (int l = 1; l <= p; ++l) {
        const vec part = g * sum[a * p + l - 1];
        state->E[a] += (vec)((ivec)part & moves);
        const vec value = k[from][own + l] + sign * state->E[a];
        k[to][own + l] = value;
        if (watching && sign > 0) most = widened(most, value);
      }
    }
  }
  o->n.t.watched[level].extent[1] = most;
}

typedef void ordered_parts(const order_tile *o, int up, int64_t r, int m, int past, block b);
#define BS_ORDERED_PARTS(name, p)                                                                 \
  static void name(const order_tile *o, int up, int64_t r, int m, int past, block b) {            \
    if (o->per_depth == 1)                                                                        \
      ordered_parts_at(p, 1, up ? -1 : 1, o, r, m, past, b);                                      \
    else                                                                                          \
      ordered_parts_at(p, o->per_depth, up ? -1 : 1, o, r, m, past, b);                           \
  }
BS_ORDERED_PARTS(ordered_parts_1, 1)
BS_ORDERED_PARTS(ordered_parts_2, 2)
BS_ORDERED_PARTS(ordered_parts_3, 3)
BS_ORDERED_PARTS(ordered_parts_any, o->n.p)

/* All levels of row r of cells, downwards or upwards, over ordered forests. */
static void sweep_ordered_parts(order_tile *o, int64_t r, int up) {
  static ordered_parts *const instances[] = {ordered_parts_any, ordered_parts_1, ordered_parts_2, ordered_parts_3};
  ordered_parts *const sweep = instances[o->n.p <= 3 ? o->n.p : 0];
  memset(o->n.states, 0, sizeof(edge_state) * (size_t)o->n.t.levels); /* f is 0 on the left edge for n > 1 */
  for (int64_t j = 0; j < o->n.t.blocks; ++j) {
    const block b = block_of(&o->n.t, j, r);
    for (int m = 1; m <= o->depth; ++m)
      for (int past = 0; past < o->per_depth && !stopped(&o->n.t); ++past) sweep(o, up, r, m, past, b);
  }
}

/* All levels of row r of cells, downwards or upwards. */
static void sweep_parts(order_tile *o, int64_t r, int up) {
  if (o->n.t.in.task->ordered) {
    sweep_ordered_parts(o, r, up);
    return;
  }
  tile *t = &o->n.t;
  const int64_t of_level = BLOCK * o->n.p * o->n.p;
  parts *const sweep = parts_of(o);
  memset(o->n.states, 0, sizeof(edge_state) * (size_t)t->levels); /* nothing on the left edge for n > 0 */
  for (int64_t j = 0; j < t->blocks; ++j) {
    const block b = block_of(t, j, r);
    fill(o->sums, (o->per_depth - 1) * of_level, 0); /* k_{0,n} */
    for (int m = 1; m <= o->depth; ++m)
      for (int past = 0; past < o->per_depth && !stopped(t); ++past) { /* a level takes as many steps as there are below it */
        vec *own = past ? o->sums + (past - 1) * of_level : o->n.sums[0]; /* those of the depth below, and then of this one */
        sweep(o, up, r, m, past, b, m + past > 1 ? own : o->n.ones, m < o->depth ? own : NULL);
      }
  }
}

/* What the adjoint of a cell needs, in copies that no store to a register in memory can change: at the first node of the cell, k and u
   of level 0 on its rows of nodes; w and gw; and B, the distance from a level to the next, kbar, ubar and the states of the order_tile. */
typedef struct {
  const double *B;
  int64_t width;
  const vec *k[BS_MOST_NODES + 1], *u[BS_MOST_NODES + 1];
  vec *kbar, *ubar, *w, *gw;
  edge_adjoint *states;
} adjoint_cell;

/* Depth m and n = m + past of the adjoint of a cell. Returns what they add to the derivative with respect to g. */
BS_INLINE vec part_adjoint(int p, int per_depth, int m, int past, const adjoint_cell *cell, vec g) {
  const int64_t width = cell->width;
  const int n = m + past, level = (m - 1) * per_depth + past, below = level - per_depth;
  const double over_n = 1.0 / n;
  vec *kbar = cell->kbar + level * p * p, *ubar = cell->ubar + level * p * p, *w = cell->w + width * level, sum = splat(0);
  edge_adjoint *state = &cell->states[level];
  for (int i = 1; i <= p; ++i)
    for (int l = 1; l <= p; ++l) {
      const int node = (i - 1) * p + l - 1;
      const vec bar = kbar[node] * over_n, *k = cell->k[i] + l, *u = cell->u[i] + l;
      ubar[node] += bar;
      for (int j = 1; j < n; ++j) { /* j u_j k_{n-j} */
        const int64_t of_u = level_of(per_depth, m, j), of_k = level_of(per_depth, m, n - j);
        cell->ubar[of_u * p * p + node] += bar * k[of_k * width];
        cell->kbar[of_k * p * p + node] += bar * u[of_u * width];
      }
    }
  if (m == 1 && n > 1) return sum; /* there u_n = 0 */
  vec cells[BS_MOST_NODES * BS_MOST_NODES], U[BS_MOST_NODES + 1][BS_MOST_NODES + 1];
  for (int l = p; l > 0; --l) {
    vec here = w[l];
    for (int i = p; i > 0; --i) {
      state->suffix[i - 1] += ubar[(i - 1) * p + l - 1] * (double)n;
      here += state->suffix[i - 1];
      cells[(i - 1) * p + l - 1] = here;
    }
    w[l] = here;
  }
  node_weights(p, cell->B, cells, U);
  vec *gw = level ? cell->gw + width * below : NULL;
  edge_adjoint *lower = level ? &cell->states[below] : NULL;
  if (level) gw[p] = lower->right[0];
  for (int i = 0; i <= p; ++i)
    for (int l = 0; l <= p; ++l) {
      if (!level) { /* k_0 = 1 */
        sum += U[i][l];
        continue;
      }
      sum += U[i][l] * cell->k[i][width * below + l];
      U[i][l] *= g;
      if (l == 0)
        lower->right[i] = U[i][l];
      else if (i > 0)
        cell->kbar[(below * p + i - 1) * p + l - 1] += U[i][l];
      else if (l == p)
        gw[l] += U[i][l];
      else
        gw[l] = U[i][l];
    }
  return sum;
}

/* The derivative with respect to k of a level at a node of a cell: those on the left and the upper edge are for its neighbours. */
BS_INLINE vec *derivative_at(int p, const adjoint_cell *cell, int64_t level, int i, int l) {
  if (l == 0) return &cell->states[level].right[i];
  return i == 0 ? &cell->gw[cell->width * level + l] : &cell->kbar[(level * p + i - 1) * p + l - 1];
}

/* The same over ordered forests. What it gives to lower levels on the left and the upper edge is added to what lies there. */
BS_INLINE vec ordered_part_adjoint(int p, int per_depth, int m, int past, const adjoint_cell *cell, vec g) {
  const int64_t width = cell->width;
  const int n = m + past, level = (m - 1) * per_depth + past;
  vec *kbar = cell->kbar + level * p * p, *w = cell->w + width * level, sum = splat(0);
  edge_adjoint *state = &cell->states[level];
  vec cells[BS_MOST_NODES * BS_MOST_NODES], U[BS_MOST_NODES + 1][BS_MOST_NODES + 1], f[BS_MOST_NODES + 1][BS_MOST_NODES + 1];
  for (int l = p; l > 0; --l) {
    vec here = w[l];
    for (int i = p; i > 0; --i) {
      state->suffix[i - 1] += kbar[(i - 1) * p + l - 1];
      here += state->suffix[i - 1];
      cells[(i - 1) * p + l - 1] = here;
    }
    w[l] = here;
  }
  node_weights(p, cell->B, cells, U);
  if (n > 1) products_at(p, per_depth, m, n, 0, width, cell->k, f);
  for (int i = 0; i <= p; ++i)
    for (int l = 0; l <= p; ++l) {
      if (n > 1)
        sum += U[i][l] * f[i][l];
      else
        sum += U[i][l];
      U[i][l] *= g;
    }
  for (int j = 0; j < n && n > 1 && (j == 0 || m > 1); ++j) { /* k_{m,n-1-j} k_{m-1,j} */
    const int64_t own = level_of(per_depth, m, n - 1 - j), below = level_of(per_depth, m - 1, j);
    for (int i = 0; i <= p; ++i)
      for (int l = 0; l <= p; ++l) {
        vec of_own = U[i][l], of_below = of_own;
        if (j > 0) of_own *= cell->k[i][width * below + l];
        if (j < n - 1) of_below *= cell->k[i][width * own + l];
        if (j < n - 1) *derivative_at(p, cell, own, i, l) += of_own;
        if (j > 0) *derivative_at(p, cell, below, i, l) += of_below;
      }
  }
  return sum;
}

/* The adjoint of the cell of column c, whose row of cells has k_1 and u_1 on the rows of nodes `k` and `u`. kbar holds what is given
   from outside for the corner at its end. `unrolled`: there is no bound on the depth, the order is at most 6, and the compiler knows it. */
BS_INLINE vec parts_adjoint_at(int p, int order, int per_depth, int unrolled, int ordered, const order_tile *o, const vec *const *k,
                               const vec *const *u, int64_t c, vec g) {
  const int depth = order + 1 - per_depth;
  const int64_t at = (c - 1) * p;
  adjoint_cell cell = {.B = o->n.t.in.task->steps, .width = o->n.width, .kbar = o->kbar, .ubar = o->ubar,
                       .w = o->n.w + at, .gw = o->n.gw + at, .states = o->n.adjoints};
  for (int i = 0; i <= p; ++i) {
    cell.k[i] = k[i] + at;
    cell.u[i] = ordered ? NULL : u[i] + at;
  }
  for (int m = 0; m < depth * per_depth; ++m) { /* what the cells to the right and below give; kbar starts from 0 but at the corner */
    vec *kbar = cell.kbar + m * p * p;
    vec *gw = cell.gw + cell.width * m, *right = cell.states[m].right;
    for (int i = 1; i <= p; ++i) kbar[i * p - 1] += right[i];
    for (int l = 1; l <= p; ++l) kbar[(p - 1) * p + l - 1] += gw[l];
    if (!ordered) continue;
    for (int l = 1; l <= p; ++l) gw[l] = l < p ? splat(0) : right[0];
    for (int i = 0; i <= p; ++i) right[i] = splat(0);
  }
  vec sum = splat(0);
  if (unrolled) {
    if (order > 5) sum += part_adjoint(p, 1, 6, 0, &cell, g);
    if (order > 4) sum += part_adjoint(p, 1, 5, 0, &cell, g);
    if (order > 3) sum += part_adjoint(p, 1, 4, 0, &cell, g);
    if (order > 2) sum += part_adjoint(p, 1, 3, 0, &cell, g);
    if (order > 1) sum += part_adjoint(p, 1, 2, 0, &cell, g);
    return sum + part_adjoint(p, 1, 1, 0, &cell, g);
  }
  for (int m = depth; m > 0; --m)
    for (int past = per_depth - 1; past >= 0 && !stopped(&o->n.t); --past)
      sum += ordered ? ordered_part_adjoint(p, per_depth, m, past, &cell, g) : part_adjoint(p, per_depth, m, past, &cell, g);
  return sum;
}

/* The instances: how many nodes, whether there is a level to a depth or more and, where it is small, which order, so that the loops over
   n are unrolled. */
typedef vec parts_adjoint(const order_tile *o, const vec *const *k, const vec *const *u, int64_t c, vec g);
#define BS_PARTS_ADJOINT(name, p, order, per_depth, unrolled)                                        \
  static vec name(const order_tile *o, const vec *const *k, const vec *const *u, int64_t c, vec g) { \
    return parts_adjoint_at(p, order, per_depth, unrolled, 0, o, k, u, c, g);                        \
  }
#define BS_ORDERED_ADJOINT(name, p)                                                                  \
  static vec name(const order_tile *o, const vec *const *k, const vec *const *u, int64_t c, vec g) { \
    if (o->per_depth == 1) return parts_adjoint_at(p, o->order, 1, 0, 1, o, k, u, c, g);             \
    return parts_adjoint_at(p, o->order, o->per_depth, 0, 1, o, k, u, c, g);                         \
  }
BS_PARTS_ADJOINT(parts_adjoint_1, 1, o->order, 1, 0)
BS_PARTS_ADJOINT(parts_adjoint_2, 2, o->order, 1, 0)
BS_PARTS_ADJOINT(parts_adjoint_3, 3, o->order, 1, 0)
BS_PARTS_ADJOINT(parts_adjoint_any, o->n.p, o->order, 1, 0)
BS_PARTS_ADJOINT(parts_adjoint_1_to_2, 1, 2, 1, 1)
BS_PARTS_ADJOINT(parts_adjoint_1_to_3, 1, 3, 1, 1)
BS_PARTS_ADJOINT(parts_adjoint_1_to_4, 1, 4, 1, 1)
BS_PARTS_ADJOINT(parts_adjoint_1_to_5, 1, 5, 1, 1)
BS_PARTS_ADJOINT(parts_adjoint_1_to_6, 1, 6, 1, 1)
BS_PARTS_ADJOINT(parts_adjoint_of_depths_1, 1, o->order, o->per_depth, 0)
BS_PARTS_ADJOINT(parts_adjoint_of_depths_2, 2, o->order, o->per_depth, 0)
BS_PARTS_ADJOINT(parts_adjoint_of_depths_3, 3, o->order, o->per_depth, 0)
BS_PARTS_ADJOINT(parts_adjoint_of_depths_any, o->n.p, o->order, o->per_depth, 0)
BS_ORDERED_ADJOINT(ordered_adjoint_1, 1)
BS_ORDERED_ADJOINT(ordered_adjoint_2, 2)
BS_ORDERED_ADJOINT(ordered_adjoint_3, 3)
BS_ORDERED_ADJOINT(ordered_adjoint_any, o->n.p)

static parts_adjoint *adjoint_of(const order_tile *o) {
  static parts_adjoint *const of_orders[] = {parts_adjoint_1_to_2, parts_adjoint_1_to_3, parts_adjoint_1_to_4,
                                             parts_adjoint_1_to_5, parts_adjoint_1_to_6};
  static parts_adjoint *const instances[2][4] = {
      {parts_adjoint_any, parts_adjoint_1, parts_adjoint_2, parts_adjoint_3},
      {parts_adjoint_of_depths_any, parts_adjoint_of_depths_1, parts_adjoint_of_depths_2, parts_adjoint_of_depths_3}};
  static parts_adjoint *const of_ordered[] = {ordered_adjoint_any, ordered_adjoint_1, ordered_adjoint_2, ordered_adjoint_3};
  if (o->n.t.in.task->ordered) return of_ordered[o->n.p <= 3 ? o->n.p : 0];
  if (o->n.p == 1 && o->per_depth == 1 && o->order >= 2 && o->order <= 6) return of_orders[o->order - 2];
  return instances[o->per_depth > 1][o->n.p <= 3 ? o->n.p : 0];
}

/* Derivatives of k_1 to k_order at corner (r, c), times factor, to the last node of a cell. */
static void seed_parts(order_tile *o, int64_t first, int64_t r, int64_t c) {
  const tile *t = &o->n.t;
  const bs_task *task = t->in.task;
  const int64_t corners = task->grid_derivs ? (t->rows + 1) * (t->columns + 1) : 1, at = corners > 1 ? r * (t->columns + 1) + c : 0;
  const double *derivs = task->grid_derivs ? task->grid_derivs : task->part_derivs;
  for (int w = 0; w < W && first + w < task->pairs; ++w)
    for (int n = 1; n <= o->order; ++n)
      o->kbar[(result_level(o, n) + 1) * o->n.p * o->n.p - 1][w] = derivs[((first + w) * corners + at) * (o->order + 1) + n] * t->factor;
}

static void adjoint_parts(order_tile *o, int64_t first, int64_t r) {
  tile *t = &o->n.t;
  memset(o->n.adjoints, 0, sizeof(edge_adjoint) * (size_t)t->levels);
  const size_t of_cell = sizeof(vec) * (size_t)t->levels * (size_t)(o->n.p * o->n.p);
  parts_adjoint *const adjoint = adjoint_of(o);
  const vec *k[BS_MOST_NODES + 1], *u[BS_MOST_NODES + 1];
  for (int i = 0; i <= o->n.p; ++i) {
    k[i] = node_row(&o->n, o->n.k, 0, r * o->n.p + i);
    u[i] = o->u ? node_row(&o->n, o->u, 0, r * o->n.p + i) : NULL;
  }
  for (int64_t c = t->columns; c > 0; --c) {
    const int64_t cell = (c - 1) >> t->in.task->dyadic2;
    const vec g = t->g[cell];
    memset(o->kbar, 0, of_cell);
    if (o->ubar) memset(o->ubar, 0, of_cell);
    if (t->in.task->grid_derivs || (r + 1 == t->rows && c == t->columns)) seed_parts(o, first, r + 1, c);
    t->gradient[cell] += adjoint(o, k, u, c, g);
  }
}

static void open_order(order_tile *o, int64_t first) {
  const int levels = o->n.t.levels;
  open_tile(&o->n.t, first);
  for (int m = 0; m < levels; ++m) o->n.t.watched[m].extent[1] = splat(0);
  fill_ones(o->n.t.in.task, o->n.ones);
  for (int i = 0; i < (o->u ? 2 : 1); ++i) {
    vec *values = i ? o->u : o->n.k;
    fill(values, o->n.width * levels, 0);
    for (int64_t row = 1; row < o->n.slots; ++row)
      for (int m = 0; m < levels; ++m) *node_row(&o->n, values, m, row) = splat(0);
  }
}

/* k_n at the largest depth on corner (r, c). */
BS_INLINE vec result(const order_tile *o, int n, int64_t r, int64_t c) {
  return node_row(&o->n, o->n.k, result_level(o, n), r * o->n.p)[c * o->n.p];
}

/* k_0 to k_order at corner (r, c), of every lane. */
static void store_parts(const order_tile *o, int64_t first, int64_t r, int64_t c, int64_t corners, int64_t at, double *to) {
  const bs_task *task = o->n.t.in.task;
  for (int w = 0; w < W && first + w < task->pairs; ++w) {
    double *parts = to + ((first + w) * corners + at) * (o->order + 1);
    parts[0] = 1;
    for (int n = 1; n <= o->order; ++n) parts[n] = result(o, n, r, c)[w];
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
      for (int n = 1; n <= o->order; ++n) {
        const vec k = result(o, n, r, c);
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

/* The largest |k_{m,n}| met. */
static vec largest_part(const order_tile *o, int m, int n) {
  if (n == 0) return splat(1);
  return m ? o->n.t.watched[level_of(o->per_depth, m, n)].extent[1] : splat(0);
}

/* A bound for the error of k_n at the largest depth: with S the sum of |g| and M_n the largest |k_n|, that of u_j is eps S M_{j-1}, M that
   of the depth below, and makes one of k_n of (1/n) times the sum over j of j eps S M_{j-1} M_{n-j}; over ordered forests, of eps S times
   the sum of M_{j-1} M_{n-j}. */
static vec part_error(const order_tile *o, int n) {
  const tile *t = &o->n.t;
  const vec size = t->size / (t->factor * (double)((int64_t)1 << t->in.task->dyadic2));
  vec sum = splat(0);
  const int ordered = t->in.task->ordered;
  for (int j = 1; j <= n; ++j)
    sum += (ordered ? 1 : j) * (largest_part(o, o->depth - 1, j - 1) * largest_part(o, o->depth, n - j));
  return choose(size == splat(0), splat(0), sum * size * (BS_EPSILON / (ordered ? 1 : n)));
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
  for (int n = 1; n <= o->order; ++n) {
    const vec k = result(o, n, t->rows, t->columns), own = part_error(o, n);
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

/* After the forward pass: which pairs are to be swept again, and which of k_n have no digits. In the log domain those are NaN. */
static ivec judge_parts(const order_tile *o, int64_t first) {
  const bs_task *task = o->n.t.in.task;
  const int again = !task->careful || task->grid || task->grid_derivs;
  const ivec gone = lost_parts(o, task->careful ? BS_TOLERANCE : BS_CONTENT);
  for (int w = 0; w < W && first + w < task->pairs; ++w) {
    task->out_of_range[first + w] = again && gone[w];
    if (again || !task->parts) continue;
    double *parts = task->parts + (first + w) * (o->order + 1);
    for (int n = 0; n <= o->order; ++n) {
      const ivec own = task->purpose != BS_PARTS ? gone
                       : n == 0                  ? (ivec){0}
                                                 : lost_sum(BS_PARTS, splat(parts[n]), part_error(o, n), BS_TOLERANCE);
      if (own[w]) parts[n] = __builtin_nan("");
    }
  }
  return again ? (ivec){0} : gone;
}

/* All rows upwards: the gradient of every lane. Returns nonzero if it was asked to stop. */
static int order_up(order_tile *o, int64_t first) {
  tile *t = &o->n.t;
  open_gradient(t, splat(0));
  fill(o->n.w, o->n.width * t->levels, 0);
  fill(o->n.gw, o->n.width * t->levels, 0);
  for (int64_t r = t->rows - 1; r >= 0; --r) {
    if (stopped(t)) return 1;
    load_increments(t, r, r + 1, 1);
    if (!is_kept(&o->n, r)) sweep_parts(o, r, 1);
    if (r == 0) /* that much is known exactly */
      for (int m = 0; m < t->levels; ++m) {
        fill(node_row(&o->n, o->n.k, m, 0), o->n.width, 0);
        if (o->u) fill(node_row(&o->n, o->u, m, 0), o->n.width, 0);
      }
    adjoint_parts(o, first, r);
    hand_on_row(t, r);
  }
  t->in.gradient = 0;
  return 0;
}

#endif
