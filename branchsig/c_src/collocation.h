/* Tiles for rules of quadrature other than the trapezoid: left points, and Gauss-Lobatto rules of p intervals. Each side of a
   cell is divided by p + 1 nodes, shared with the neighbours. With B[a, k] the integral of the basis function of node k from node
   a to node a + 1, and sub-cells (a, b) between neighbouring nodes:

     sum_m[a, b]      = sum over the nodes k, l of the cell of B[a, k] B[b, l] K_m[k, l]
     K_m[a + 1, b]    = K_m[a, b] E_a(b),   E_a(b) = E_a(b - 1) exp(g sum_{m-1}[a, b]),   E_a = 1 on the left edge
     log K_depth      = sum over the cells of g sum over k, l of V[k] V[l] K_{depth-1}[k, l],   V[k] = sum over a of B[a, k]

   A row of cells is swept in blocks of columns, a block level by level; K is kept on the last row of nodes. For the backward pass rows of
   nodes are kept while they fit, and otherwise recovered, those of a row of cells from the last of them. The adjoint of a cell is
     U[k, l] = sum over a, b of B[a, k] w_{m+1}[a, b] B[b, l],   gradient += sum of U K_m,   Kbar_m[k, l] gathers g U[k, l],
     w_m[a, b] = sum of Kbar_m K_m over the nodes below and to the right of the sub-cell. */
#ifndef BS_COLLOCATION_H
#define BS_COLLOCATION_H

#include "tile.h"

/* E_a (careful: log E_a), K at the nodes and the integrals down the rows of nodes, all on the left edge of the next cell */
typedef struct {
  vec E[BS_MOST_NODES], k[BS_MOST_NODES + 1], sums[BS_MOST_NODES];
} edge_state;

/* sum of Kbar K right of the cell on each row of nodes but the first, and what the cell to the right gives to its left edge */
typedef struct {
  vec suffix[BS_MOST_NODES], right[BS_MOST_NODES + 1];
} edge_adjoint;

typedef struct {
  tile t;
  int p;
  int64_t width;        /* registers of a row of nodes */
  double largest_sum;   /* of any sub-cell where |K| <= 1 */
  int64_t slots;        /* rows of nodes that lie in memory at once, row i in slot i % slots */
  vec *k;               /* [slot][level][node] */
  vec *logs;            /* careful: [level][node]; of the level above too, [corner] */
  vec *ones, *sums[2];  /* of a block: [cell][a][b], of K_0 and of other levels */
  edge_state *states;   /* [level] */
  vec *w, *gw;          /* backward: [level][node] w of the sub-cells below, and what the cells below give to Kbar */
  vec *w_cells[2];      /* backward: of a block, as sums */
  edge_adjoint *adjoints; /* backward: [level] */
} collocation;

/* `fewest` rows of nodes lie in memory at once: 1, the latest, or p + 1, those of a row of cells. Then backward as many more are kept
   as fit, of `sets` arrays like k. */
static int64_t lay_out_collocation(collocation *n, const bs_task *task, int backward, int64_t fewest, int sets, char *base) {
  int64_t used = lay_out(&n->t, task, backward, 0, base);
  const tile *t = &n->t;
  const int p = n->p = task->nodes, levels = t->levels;
  n->t.factor *= 4; /* weights take the place of the mean of four corners */
  n->width = row_width(t->columns * p + 1);
  n->largest_sum = 0;
  for (int a = 0; a < p; ++a) {
    double sum = 0;
    for (int k = 0; k <= p; ++k) sum += fabs(task->steps[a * (p + 1) + k]);
    if (sum * sum > n->largest_sum) n->largest_sum = sum * sum;
  }
  n->slots = fewest;
  if (backward && fewest > 1 && levels && !task->careful) {
    n->slots = least(KEPT_BYTES / (sets * n->width * levels * (int64_t)sizeof(vec)), t->rows * p + 1);
    if (n->slots < fewest) n->slots = fewest;
  }
  n->k = take(base, &used, n->width * levels * n->slots, sizeof(vec));
  n->logs = task->careful ? take(base, &used, n->width * (levels + 1), sizeof(vec)) : NULL;
  n->ones = take(base, &used, BLOCK * p * p, sizeof(vec));
  n->sums[0] = take(base, &used, BLOCK * p * p, sizeof(vec));
  n->sums[1] = take(base, &used, BLOCK * p * p, sizeof(vec));
  n->states = take(base, &used, levels, sizeof(edge_state));
  if (backward) {
    n->w = take(base, &used, n->width * levels, sizeof(vec));
    n->gw = take(base, &used, n->width * levels, sizeof(vec));
    n->w_cells[0] = take(base, &used, BLOCK * p * p, sizeof(vec));
    n->w_cells[1] = take(base, &used, BLOCK * p * p, sizeof(vec));
    n->adjoints = take(base, &used, levels, sizeof(edge_adjoint));
  }
  return used;
}

/* Row i of the nodes of all cells on level m of `values`, which are n->k or lie as those. */
BS_INLINE vec *node_row(const collocation *n, vec *values, int m, int64_t i) {
  return values + n->width * (i % n->slots * n->t.levels + m);
}

/* Whether the way up finds the nodes of row r of cells in memory; careful, it needs the logarithms too, and makes both again. */
BS_INLINE int is_kept(const collocation *n, int64_t r) { return !n->t.in.task->careful && r * n->p + n->slots > n->t.rows * n->p; }

/* weight times value; careful: nothing where the weight is zero, also where the value is infinite */
BS_INLINE vec weighted(int careful, double weight, vec value) {
  const vec product = weight * value;
  if (!careful) return product;
  return (vec)((ivec)product & ((ivec){0} - (int64_t)(weight != 0)));
}

/* sum[a, b] of one cell from K at its nodes. `left` holds the integrals down the rows of nodes on the left edge, and takes those on
   the right one. */
BS_INLINE void sub_cell_sums(int p, int careful, const double *B, const vec *const *k, vec *left, vec *sum) {
  for (int a = 0; a < p; ++a) {
    vec down[BS_MOST_NODES + 1];
    down[0] = left[a];
    for (int l = 1; l <= p; ++l) {
      down[l] = splat(0);
      for (int i = 0; i <= p; ++i) down[l] += weighted(careful, B[a * (p + 1) + i], k[i][l]);
    }
    for (int e = 0; e < p; ++e) {
      vec total = splat(0);
      for (int i = 0; i <= p; ++i) total += weighted(careful, B[e * (p + 1) + i], down[i]);
      sum[a * p + e] = total;
    }
    left[a] = down[p];
  }
}

/* |mean of K| over sub-cell (a, e) of a cell, from its sums */
BS_INLINE vec mean_of(int p, const double *B, const vec *sum, int a, int e) {
  double side1 = 0, side2 = 0;
  for (int k = 0; k <= p; ++k) side1 += B[a * (p + 1) + k], side2 += B[e * (p + 1) + k];
  return absolute(sum[a * p + e]) * (1 / (side1 * side2));
}

/* One level over a block of cells. Downwards (sign = 1) from the first row of nodes to the last, upwards (sign = -1) the other
   way; `rows` NULL: only the row arrived at is kept, in place of the one set out from. Gives sums for the level above, or
   (`integral`) the integral of the top level. Returns the largest K met. */
BS_INLINE vec cells_at(int p, int tier, int careful, double sign, block b, vec largest_cell, const bs_task *task,
                       const vec *sums, vec *const *rows, vec *row, vec *logs, vec *sums_out, vec *integral, vec *corners,
                       edge_state *state, watch *at) {
  const double *B = task->steps, *V = task->whole;
  const growth how = growth_for(tier, largest_cell);
  vec k[BS_MOST_NODES + 1][BS_MOST_NODES + 1], column[BS_MOST_NODES], E[BS_MOST_NODES];
  vec low = at->extent[0], high = splat(0), above = splat(0);
  const int start = sign > 0 ? 0 : p, end = p - start;
  for (int a = 0; a < p; ++a) E[a] = state->E[a], column[a] = state->sums[a];
  for (int i = 0; i <= p; ++i) {
    k[i][0] = state->k[i];
    high = maximum(high, k[i][0]);
  }
  for (int64_t c = b.first; c <= b.last; ++c) {
    const vec g = b.g[(c - 1) >> b.shift], *sum = sums + (c - b.first) * p * p;
    const ivec moves = g != splat(0);
    const int64_t place = (c - 1) * p;
    vec log_k[BS_MOST_NODES + 1];
    for (int l = 1; l <= p; ++l) {
      k[start][l] = row[place + l];
      high = maximum(high, k[start][l]);
      if (careful) log_k[l] = logs[place + l];
    }
    for (int step = 0; step < p; ++step) {
      const int a = sign > 0 ? step : p - 1 - step, from = sign > 0 ? a : a + 1, to = sign > 0 ? a + 1 : a;
      for (int l = 1; l <= p; ++l) {
        const vec cell = g * sum[a * p + l - 1];
        if (careful) {
          at->mean = maximum(at->mean, (vec)((ivec)mean_of(p, B, sum, a, l - 1) & moves));
          E[a] += (vec)((ivec)cell & moves);
          log_k[l] += sign * E[a];
          at->reach = maximum(at->reach, absolute(log_k[l]));
          k[to][l] = exponential(log_k[l]);
        } else {
          E[a] = grown(tier, how, E[a], sign * cell);
          k[to][l] = k[from][l] * E[a];
          low = minimum(low, k[to][l]);
        }
        high = maximum(high, k[to][l]);
      }
    }
    if (rows)
      for (int i = 0; i <= p; ++i)
        for (int l = 1; l <= p; ++l) rows[i][place + l] = k[i][l];
    else
      for (int l = 1; l <= p; ++l) row[place + l] = k[end][l];
    if (careful)
      for (int l = 1; l <= p; ++l) logs[place + l] = log_k[l];
    if (integral) {
      vec total = splat(0);
      for (int l = 0; l <= p; ++l) {
        vec down = splat(0);
        for (int i = 0; i <= p; ++i) down += weighted(careful, V[i], k[i][l]);
        total += weighted(careful, V[l], down);
      }
      if (careful) at[1].mean = maximum(at[1].mean, (vec)((ivec)absolute(total) & moves));
      total *= g;
      if (careful) {
        above += (vec)((ivec)total & moves);
        corners[c] += *integral + above;
        at[1].reach = maximum(at[1].reach, absolute(corners[c]));
      } else {
        above += total;
      }
    } else {
      const vec *nodes[BS_MOST_NODES + 1];
      for (int i = 0; i <= p; ++i) nodes[i] = k[i];
      sub_cell_sums(p, careful, B, nodes, column, sums_out + (c - b.first) * p * p);
    }
    for (int i = 0; i <= p; ++i) k[i][0] = k[i][p];
  }
  for (int a = 0; a < p; ++a) state->E[a] = E[a], state->sums[a] = column[a];
  for (int i = 0; i <= p; ++i) state->k[i] = k[i][0];
  at->extent[0] = low;
  at->extent[1] = maximum(at->extent[1], high);
  if (integral) *integral += above;
  return high;
}

/* The instances: how many nodes, which polynomial for exp, which way. Those for any number of nodes are the careful ones too. */
#define BS_CELLS(name, p, ever_careful, sign)                                                                                  \
  static vec name(const collocation *n, int careful, vec largest_cell, block b, const vec *sums, vec *const *rows, vec *row,   \
                  vec *logs, vec *sums_out, vec *integral, edge_state *state, watch *at) {                                     \
    const bs_task *task = n->t.in.task;                                                                                        \
    if (ever_careful && careful)                                                                                               \
      return cells_at(p, TIER_ANY, 1, sign, b, largest_cell, task, sums, rows, row, logs, sums_out, integral,                  \
                      n->logs + n->width * n->t.levels, state, at);                                                            \
    const int tier = tier_for(largest_cell);                                                                                   \
    if (tier <= TIER_SMALL)                                                                                                    \
      return cells_at(p, TIER_SMALL, 0, sign, b, largest_cell, task, sums, rows, row, logs, sums_out, integral, NULL, state, at);\
    if (tier <= TIER_LARGE)                                                                                                    \
      return cells_at(p, TIER_LARGE, 0, sign, b, largest_cell, task, sums, rows, row, logs, sums_out, integral, NULL, state, at);\
    return cells_at(p, TIER_ANY, 0, sign, b, largest_cell, task, sums, rows, row, logs, sums_out, integral, NULL, state, at);  \
  }
BS_CELLS(cells_down_1, 1, 0, 1)
BS_CELLS(cells_down_2, 2, 0, 1)
BS_CELLS(cells_down_3, 3, 0, 1)
BS_CELLS(cells_down_any, n->p, 1, 1)
BS_CELLS(cells_up_1, 1, 0, -1)
BS_CELLS(cells_up_2, 2, 0, -1)
BS_CELLS(cells_up_3, 3, 0, -1)
BS_CELLS(cells_up_any, n->p, 1, -1)

/* Before the first cell of a row. */
static void open_cells(collocation *n) {
  const tile *t = &n->t;
  const int p = n->p, careful = t->in.task->careful;
  for (int m = 0; m < t->levels; ++m) {
    edge_state *state = &n->states[m];
    for (int a = 0; a < p; ++a) {
      state->E[a] = splat(careful ? 0 : 1);
      state->sums[a] = splat(0);
      for (int k = 0; k <= p; ++k) state->sums[a] += t->in.task->steps[a * (p + 1) + k];
    }
    for (int k = 0; k <= p; ++k) state->k[k] = splat(1);
  }
}

/* All levels of the cells of b, which lie in block j of row r of cells, downwards or upwards; the integral of the top level is added to
   `integral`, unless that is NULL. */
BS_INLINE void sweep_cells_of(collocation *n, block b, int64_t j, int64_t r, int up, vec *integral) {
  tile *t = &n->t;
  const int p = n->p, careful = t->in.task->careful, levels = t->levels;
  const vec bound = t->bound[j] * n->largest_sum, *sums = n->ones;
  vec largest = splat(1);
  for (int m = 0; m < levels; ++m) {
    vec *rows[BS_MOST_NODES + 1], *out = n->sums[m & 1], *logs = careful ? n->logs + n->width * m : NULL;
    for (int k = 0; k <= p; ++k) rows[k] = node_row(n, n->k, m, r * p + k);
    vec *above = m == levels - 1 ? integral : NULL;
#define BS_ARGUMENTS n, careful, largest * bound, b, sums, n->slots > 1 ? rows : NULL, rows[up ? p : 0], logs, out, above, &n->states[m], &t->watched[m]
    switch (careful ? 0 : p) {
      case 1: largest = up ? cells_up_1(BS_ARGUMENTS) : cells_down_1(BS_ARGUMENTS); break;
      case 2: largest = up ? cells_up_2(BS_ARGUMENTS) : cells_down_2(BS_ARGUMENTS); break;
      case 3: largest = up ? cells_up_3(BS_ARGUMENTS) : cells_down_3(BS_ARGUMENTS); break;
      default: largest = up ? cells_up_any(BS_ARGUMENTS) : cells_down_any(BS_ARGUMENTS);
    }
    if (above && !careful) t->watched[m + 1].reach += largest * t->bound[j] * t->counts[j];
#undef BS_ARGUMENTS
    sums = out;
  }
  if (integral && levels == 0) integrate_block(b, t->fours, integral, careful ? n->logs : NULL, t->watched);
}

/* Row r of cells. */
static void sweep_cells(collocation *n, int64_t r, int up, vec *integral) {
  open_cells(n);
  for (int64_t j = 0; j < n->t.blocks && !stopped(&n->t); ++j) sweep_cells_of(n, block_of(&n->t, j, r), j, r, up, integral);
}

/* What K is above the cell of a path with itself on the diagonal of row r, it is to the left of that cell. */
static void mirror_edge(const collocation *n, int64_t r) {
  for (int m = 0; m < n->t.levels; ++m)
    for (int l = 1; l <= n->p; ++l) node_row(n, n->k, m, r * n->p)[r * n->p + l] = n->states[m].k[l];
}

/* Row r of cells of a path with itself downwards: its integrals left of the diagonal and on it. Careful, logarithms of K to the left of
   a cell are not known, so the row has no end there. */
static void sweep_cells_of_itself(collocation *n, int64_t r, vec *left, vec *own) {
  const int careful = n->t.in.task->careful;
  vec *const integrals[] = {left, own, NULL};
  open_cells(n);
  for (int64_t j = 0; j < n->t.blocks && !stopped(&n->t); ++j) {
    block part[3];
    split_block(block_of(&n->t, j, r), r, part);
    for (int i = 0; i < (careful ? 3 : 2); ++i) {
      if (part[i].first > part[i].last) continue;
      if (i == 1 && !careful) mirror_edge(n, r);
      sweep_cells_of(n, part[i], j, r, 0, integrals[i]);
    }
  }
}

/* U = B^T w B of one cell, w[a * p + b] */
BS_INLINE void node_weights(int p, const double *B, const vec *w, vec U[BS_MOST_NODES + 1][BS_MOST_NODES + 1]) {
  vec across[BS_MOST_NODES][BS_MOST_NODES + 1];
  for (int a = 0; a < p; ++a)
    for (int l = 0; l <= p; ++l) {
      across[a][l] = splat(0);
      for (int e = 0; e < p; ++e) across[a][l] += w[a * p + e] * B[e * (p + 1) + l];
    }
  for (int k = 0; k <= p; ++k)
    for (int l = 0; l <= p; ++l) {
      U[k][l] = splat(0);
      for (int a = 0; a < p; ++a) U[k][l] += B[a * (p + 1) + k] * across[a][l];
    }
}

/* One level of the adjoint over a block of cells, right to left. w_above: w_{m+1} of the sub-cells, or (top) of the cells. A cell is
   gone through column of nodes by column, so that few registers are in use at a time; what a store to a vec might change for all that
   the compiler knows is copied first. */
BS_INLINE void cells_adjoint_at(int p, int top, int lowest, block b, const bs_task *task, const vec *w_above, vec *const *rows,
                                vec *w, vec *gw, vec *w_out, vec *gradient, edge_adjoint *state) {
  double B[BS_MOST_NODES * (BS_MOST_NODES + 1)], V[BS_MOST_NODES + 1], side[BS_MOST_NODES];
  const vec *K[BS_MOST_NODES + 1];
  edge_adjoint edge = *state;
  for (int i = 0; i < p * (p + 1); ++i) B[i] = task->steps[i];
  for (int k = 0; k <= p; ++k) V[k] = task->whole[k], K[k] = rows[k];
  for (int a = 0; a < p; ++a) {
    side[a] = 0;
    for (int k = 0; k <= p; ++k) side[a] += B[a * (p + 1) + k];
  }
  for (int64_t c = b.last; c >= b.first; --c) {
    const int64_t at = (c - 1) * p;
    const vec g = b.g[(c - 1) >> b.shift], *above = w_above + (top ? c : (c - b.first) * p * p);
    vec *out = w_out + (c - b.first) * p * p, sum = splat(0);
    for (int l = p; l >= 0; --l) {
      vec U[BS_MOST_NODES + 1], across[BS_MOST_NODES]; /* U = B^T w B, its column l */
      for (int a = 0; a < p && !top; ++a) {
        across[a] = splat(0);
        for (int e = 0; e < p; ++e) across[a] += above[a * p + e] * B[e * (p + 1) + l];
      }
      for (int k = 0; k <= p; ++k) {
        if (top) {
          U[k] = *above * (V[k] * V[l]);
        } else {
          U[k] = splat(0);
          for (int a = 0; a < p; ++a) U[k] += B[a * (p + 1) + k] * across[a];
        }
        sum += U[k] * K[k][at + l];
        U[k] *= g;
      }
      if (l == p)
        for (int k = 0; k <= p; ++k) U[k] += edge.right[k];
      if (l == 0) {
        for (int k = 0; k <= p; ++k) edge.right[k] = U[k];
        continue;
      }
      vec here = w[at + l];
      U[p] = (l < p ? rounded(U[p]) : U[p]) + gw[at + l];
      gw[at + l] = U[0];
      for (int k = p; k > 0; --k) {
        edge.suffix[k - 1] += U[k] * K[k][at + l];
        here += edge.suffix[k - 1];
        out[(k - 1) * p + l - 1] = here;
      }
      w[at + l] = here;
    }
    if (lowest) /* K_0 = 1 */
      for (int l = p; l > 0; --l)
        for (int k = p; k > 0; --k) sum += out[(k - 1) * p + l - 1] * (side[k - 1] * side[l - 1]);
    gradient[(c - 1) >> b.shift] += sum;
  }
  *state = edge;
}

#define BS_CELLS_ADJOINT(name, p)                                                                                                \
  static void name(const collocation *n, int top, int lowest, block b, const vec *w_above, vec *const *rows, vec *w, vec *gw,    \
                   vec *w_out, vec *gradient, edge_adjoint *state) {                                                             \
    if (top)                                                                                                                     \
      cells_adjoint_at(p, 1, lowest, b, n->t.in.task, w_above, rows, w, gw, w_out, gradient, state);                             \
    else                                                                                                                         \
      cells_adjoint_at(p, 0, lowest, b, n->t.in.task, w_above, rows, w, gw, w_out, gradient, state);                             \
  }
BS_CELLS_ADJOINT(cells_adjoint_1, 1)
BS_CELLS_ADJOINT(cells_adjoint_2, 2)
BS_CELLS_ADJOINT(cells_adjoint_3, 3)
BS_CELLS_ADJOINT(cells_adjoint_any, n->p)

/* w of the top level on row r of cells where derivatives are given at the corners below it. */
static void seed_cells(collocation *n, int64_t first, int64_t r, block b, vec *suffix) {
  tile *t = &n->t;
  const int wrt_log = t->in.task->wrt_log;
  const vec *lower = node_row(n, n->k, t->levels - 1, (r + 1) * n->p);
  load_derivs(t, first, r + 1, b);
  for (int64_t c = b.last; c >= b.first; --c) {
    const vec bar = t->derivs[c - b.first];
    if (wrt_log)
      *suffix += bar;
    else
      *suffix += bar * lower[c * n->p];
    t->w_top[c] += *suffix;
  }
}

/* The adjoint of row r of cells, from the top level down, added to t->gradient. */
static void adjoint_cells(collocation *n, int64_t first, int64_t r) {
  tile *t = &n->t;
  const bs_task *task = t->in.task;
  const int top = task->depth - 1; /* the integral of K_depth is never taken */
  memset(n->adjoints, 0, sizeof(edge_adjoint) * (size_t)t->levels);
  vec suffix = splat(0);
  for (int64_t j = t->blocks - 1; j >= 0; --j) {
    const block b = block_of(t, j, r);
    if (task->grid_derivs) seed_cells(n, first, r, b, &suffix);
    const vec *w_above = t->w_top;
    for (int m = top - 1; m >= 0; --m) {
      vec *rows[BS_MOST_NODES + 1], *out = n->w_cells[m & 1];
      for (int k = 0; k <= n->p; ++k) rows[k] = node_row(n, n->k, m, r * n->p + k);
#define BS_ARGUMENTS n, m == top - 1, m == 0, b, w_above, rows, n->w + n->width * m, n->gw + n->width * m, out, t->gradient, &n->adjoints[m]
      switch (n->p) {
        case 1: cells_adjoint_1(BS_ARGUMENTS); break;
        case 2: cells_adjoint_2(BS_ARGUMENTS); break;
        case 3: cells_adjoint_3(BS_ARGUMENTS); break;
        default: cells_adjoint_any(BS_ARGUMENTS);
      }
#undef BS_ARGUMENTS
      w_above = out;
    }
    if (top == 0) /* K_0 is all there is below */
      for (int64_t c = b.first; c <= b.last; ++c) t->gradient[(c - 1) >> b.shift] += w_above[c];
  }
}

/* The sums of K_0 = 1 over the sub-cells of a block. */
static void fill_ones(const bs_task *task, vec *sums) {
  const int p = task->nodes;
  for (int a = 0; a < p; ++a)
    for (int e = 0; e < p; ++e) {
      double side1 = 0, side2 = 0;
      for (int k = 0; k <= p; ++k) side1 += task->steps[a * (p + 1) + k], side2 += task->steps[e * (p + 1) + k];
      for (int c = 0; c < BLOCK; ++c) sums[(c * p + a) * p + e] = splat(side1 * side2);
    }
}

static void open_collocation(collocation *n, int64_t first) {
  tile *t = &n->t;
  open_tile(t, first);
  fill(t->fours, BLOCK, 1);
  fill_ones(t->in.task, n->ones);
  for (int m = 0; m < t->levels; ++m) {
    fill(node_row(n, n->k, m, 0), n->width, 1);
    for (int64_t i = 1; i < n->slots; ++i) *node_row(n, n->k, m, i) = splat(1);
  }
  if (n->logs) fill(n->logs, n->width * (t->levels + 1), 0);
}

/* Row r of corners of K_depth, or of K_0 to K_depth, of every lane into the grid. */
static void store_corners(const collocation *n, int64_t first, int64_t r) {
  const tile *t = &n->t;
  const bs_task *task = t->in.task;
  const int grids = task->all_levels ? task->depth + 1 : 1;
  for (int w = 0; w < W && first + w < task->pairs; ++w)
    for (int j = 0; j < grids; ++j) {
      const int m = task->all_levels ? j - 1 : task->depth - 1; /* -1: K_0 */
      const double *row = m < 0 ? NULL : (const double *)(task->log_grid ? n->logs + n->width * m : node_row(n, n->k, m, r * n->p)) + w;
      double *line = task->grid + (((first + w) * grids + j) * (t->rows + 1) + r) * (t->columns + 1);
      for (int64_t c = 0; c <= t->columns; ++c) line[c] = row ? row[c * n->p * W] : 1;
    }
}

static void check_corners(collocation *n, int64_t r) {
  const int top = n->t.levels - 1;
  const vec *k = n->t.in.task->wrt_log ? n->logs + n->width * top : node_row(n, n->k, top, r * n->p);
  for (int64_t c = 0; c <= n->t.columns; ++c) n->t.grid_sum += k[c * n->p] - k[c * n->p];
}

/* All rows downwards. Returns nonzero if it was asked to stop. */
static int collocation_down(collocation *n, int64_t first) {
  tile *t = &n->t;
  const bs_task *task = t->in.task;
  start_rows(&t->in, 0);
  if (task->grid) store_corners(n, first, 0);
  if (task->diagonal) store_diagonal(t, first, 0);
  for (int64_t r = 0; r < t->rows; ++r) {
    if (stopped(t)) return 1;
    load_increments(t, r, r + 1, 0);
    vec integral = splat(0), own = splat(0);
    if (task->diagonal) {
      sweep_cells_of_itself(n, r, &integral, &own);
      finish_row_of_itself(t, first, r, integral, own);
      continue;
    }
    sweep_cells(n, r, 0, t->levels < task->depth ? &integral : NULL);
    t->total += integral;
    if (task->grid) store_corners(n, first, r + 1);
    if (task->grid_derivs && task->careful) check_corners(n, r + 1);
  }
  return 0;
}

/* All rows upwards: the gradient of every lane, from w of the top level where no grid of derivatives is given. Returns nonzero
   if it was asked to stop. */
static int collocation_up(collocation *n, int64_t first, vec seed) {
  tile *t = &n->t;
  open_gradient(t, seed);
  fill(n->w, n->width * t->levels, 0);
  fill(n->gw, n->width * t->levels, 0);
  for (int64_t r = t->rows - 1; r >= 0; --r) {
    if (stopped(t)) return 1;
    load_increments(t, r, r + 1, 1);
    if (!is_kept(n, r)) sweep_cells(n, r, 1, NULL);
    if (r == 0) /* that much is known exactly */
      for (int m = 0; m < t->levels; ++m) fill(node_row(n, n->k, m, 0), n->width, 1);
    adjoint_cells(n, first, r);
    hand_on_row(t, r);
  }
  t->in.gradient = 0;
  return 0;
}

#endif
