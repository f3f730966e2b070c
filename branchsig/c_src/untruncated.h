/* Tiles for the kernel without truncation, with any rule of quadrature. K = exp(U) stands on both sides of the equation of a cell,
   with nodes and B as in collocation.h, A[a, k] = B[0, k] + ... + B[a - 1, k] and E(a) = exp of the integral over the cells to the
   left in the same row, down to node a:

     K[a, b] = K[0, b] E(a) exp(g sum over k, l of A[a, k] A[b, l] K[k, l])

   For p = 1 the one unknown is K = c exp(h K), so K = c W(h c), where W(z) = exp(z W(z)) = 1 + z + 3/2 z^2 + 8/3 z^3 + ...; for
   p > 1 the nodes of a cell are a fixed point. Cells where that is no strong contraction leave the range of the running products;
   careful, they are solved by Newton's method node by node. No solution that can be reached: inf. No end within the iterations: NaN.

   K is kept on the last row of nodes. In the backward pass the rows of a segment are made again from K above the segment, which the
   forward pass has kept. The adjoint of a cell is that of collocation.h with the w of the cell itself in the place of w_above, so it is a
   linear equation for w. */
#ifndef BS_UNTRUNCATED_H
#define BS_UNTRUNCATED_H

#include "collocation.h"

/* What a cell may ask for until it counts as unsolved. */
enum { MOST_STEPS = 200 };

/* Lanes where |h c|, or the contraction between the nodes, is larger leave the range of the running products. */
#define BS_SOLVABLE 0x1p-2

typedef struct {
  collocation n;   /* one level; E of its states is E(a + 1), careful: log E(a + 1) */
  int64_t segment; /* rows of cells whose nodes are in memory together, whole rows of increments */
  vec *starts;     /* backward: [segment][node] K (careful: and log K) above the segment */
  vec *rows;       /* backward, of a segment: [row of nodes][node] */
} untruncated;

static int64_t lay_out_untruncated(untruncated *u, const bs_task *task, int backward, char *base) {
  int64_t used = lay_out_collocation(&u->n, task, backward, 1, 1, base);
  u->starts = u->rows = NULL;
  if (!backward) return used;
  const int64_t p = task->nodes, refinement = (int64_t)1 << task->dyadic1, cells = task->length1 - 1;
  const int64_t size = refinement * p * u->n.width * (int64_t)sizeof(vec); /* of the nodes of a row of increments */
  int64_t coarse_rows = least(cells, KEPT_BYTES / size); /* or else as many rows of nodes as segments, or a few more */
  while (coarse_rows * coarse_rows * refinement * p < cells) ++coarse_rows;
  u->segment = coarse_rows * refinement;
  const int64_t segments = (cells + coarse_rows - 1) / coarse_rows;
  u->starts = take(base, &used, segments * u->n.width * (1 + (task->careful != 0)), sizeof(vec));
  u->rows = take(base, &used, (u->segment * p + 1) * u->n.width, sizeof(vec));
  return used;
}

/* A, from B */
BS_INLINE void add_steps(int p, const double *B, double A[BS_MOST_NODES + 1][BS_MOST_NODES + 1]) {
  for (int k = 0; k <= p; ++k) A[0][k] = 0;
  for (int a = 1; a <= p; ++a)
    for (int k = 0; k <= p; ++k) A[a][k] = A[a - 1][k] + B[(a - 1) * (p + 1) + k];
}

/* W(z) for |z| <= SOLVABLE. Which form a value gets depends on that value alone. */
#define BS_SMALL_Z 0x1p-6
BS_INLINE vec tree_exponential(int small, vec z) {
  /* W(z) = 1 + z P(z), P the Chebyshev interpolant on |z| <= SMALL_Z: relative error 1.3e-16 */
  const vec z2 = z * z, z4 = z2 * z2;
  const vec a = z * 0x1.7ffffffffffafp+0 + 0x1.fffffffffffbbp-1, b = z * 0x1.4d555557e0ec2p+2 + 0x1.555555577df95p+1;
  const vec c = z * 0x1.757cf4edcc7dbp+4 + 0x1.59996e6f5ac5fp+3, d = z * 0x1.dbc5c050a30a5p+6 + 0x1.a12e19e43ed4cp+5;
  vec result = z * ((a + z2 * b) + z4 * (c + z2 * d)) + 1.0;
  if (small) return result;
  /* the same on |z| <= 1/4 is within 1.2e-5, and two steps of Newton's method square that twice */
  vec w = splat(0x1.65ea48ec50c7ep+9);
  const double rest[] = {0x1.2c63eb01ea716p+8, 0x1.b29e3b765475fp+4, 0x1.a3a8dd9b88829p+3, 0x1.6889e8e5fc0c8p+3,
                         0x1.599dec1bfb9a6p+2, 0x1.550b880390ddfp+1, 0x1.7fc357794f598p+0, 1, 1};
  for (int k = 0; k < 9; ++k) w = w * z + rest[k];
  for (int step = 0; step < 2; ++step) {
    const vec e = exponential(z * w);
    w -= (w - e) / (1.0 - z * e);
  }
  return choose(absolute(z) <= BS_SMALL_Z, result, w);
}

/* The one unknown node of a cell for p = 1, from K at the others, and E on the right edge. Returns |h c|. */
BS_INLINE vec solve_corner(const double *B, vec g, vec k[2][BS_MOST_NODES + 1], vec *E) {
  const vec cell = g * ((B[0] * B[0]) * k[0][0] + (B[0] * B[1]) * (k[0][1] + k[1][0]));
  const vec start = (g * (B[1] * B[1])) * (k[0][1] * *E);
  const vec largest = maximum(absolute(cell), absolute(start) * (1.04 * BS_SMALL / BS_SMALL_Z)); /* exp(SMALL) < 1.04 */
  vec z, factor;
  if (any_beyond(largest, BS_SMALL)) {
    factor = small_exp(TIER_ANY, cell);
    z = start * factor;
    factor *= tree_exponential(0, z);
  } else {
    factor = small_exp(TIER_SMALL, cell);
    z = start * factor;
    factor *= tree_exponential(1, z);
  }
  *E *= factor;
  k[1][1] = k[0][1] * *E;
  return absolute(z);
}

/* exp(x); `size` promises that no |x| is beyond TINY_MOVE (0), or SMALL (1). */
#define BS_TINY_MOVE 0x1p-13
BS_INLINE vec exp_of_move(int size, vec x) {
  const vec result = x * (x * (x * (1.0 / 6) + 0.5) + 1.0) + 1.0;
  if (size == 0) return result;
  return choose(absolute(x) <= BS_TINY_MOVE, result, small_exp(size == 1 ? TIER_SMALL : TIER_ANY, x));
}

/* The p * p unknown nodes of a cell, as a fixed point, and E on the right edge. Returns the contraction. */
BS_INLINE vec solve_nodes(int p, double A[BS_MOST_NODES + 1][BS_MOST_NODES + 1], double norm, vec g,
                          vec k[BS_MOST_NODES + 1][BS_MOST_NODES + 1], vec *E) {
  vec known[BS_MOST_NODES][BS_MOST_NODES], x[BS_MOST_NODES][BS_MOST_NODES], most = splat(0);
  for (int a = 0; a < p; ++a) {
    vec down[BS_MOST_NODES + 1];
    down[0] = splat(0);
    for (int i = 0; i <= p; ++i) down[0] += A[a + 1][i] * k[i][0];
    for (int l = 1; l <= p; ++l) down[l] = A[a + 1][0] * k[0][l];
    for (int b = 0; b < p; ++b) {
      vec total = splat(0);
      for (int l = 0; l <= p; ++l) total += A[b + 1][l] * down[l];
      known[a][b] = g * total;
      x[a][b] = splat(0);
      k[a + 1][b + 1] = k[0][b + 1] * E[a];
      most = maximum(most, k[a + 1][b + 1]);
    }
  }
  const vec contraction = absolute(g) * most * (2 * norm * norm); /* exp(x) <= 2 wherever this is less than 1 / 2 */
  ivec active = contraction <= BS_SOLVABLE;
  for (int step = 0; step < MOST_STEPS; ++step) {
    vec moves[BS_MOST_NODES][BS_MOST_NODES], moved = splat(0);
    for (int a = 0; a < p; ++a) {
      vec down[BS_MOST_NODES + 1];
      for (int l = 1; l <= p; ++l) {
        down[l] = splat(0);
        for (int i = 1; i <= p; ++i) down[l] += A[a + 1][i] * k[i][l];
      }
      for (int b = 0; b < p; ++b) {
        vec total = splat(0);
        for (int l = 1; l <= p; ++l) total += A[b + 1][l] * down[l];
        moves[a][b] = (vec)((ivec)(known[a][b] + g * total - x[a][b]) & active);
        moved = maximum(moved, absolute(moves[a][b]));
      }
    }
    const int size = !any_beyond(moved, BS_TINY_MOVE) ? 0 : any_beyond(moved, BS_SMALL) ? 2 : 1;
    for (int a = 0; a < p; ++a)
      for (int b = 0; b < p; ++b) {
        const vec move = moves[a][b], e = size == 0 ? exp_of_move(0, move) : size == 1 ? exp_of_move(1, move) : exp_of_move(2, move);
        x[a][b] += move;
        k[a + 1][b + 1] *= e;
        if (b == p - 1) E[a] *= e;
      }
    active &= moved * contraction > 0x1p-54; /* otherwise what the next step would move is below rounding */
    if (!any_beyond((vec)((ivec)splat(1) & active), 0)) break;
  }
  return contraction;
}

/* The same by Newton's method node by node, in the log domain: log_k above the cell, and below it on return; log E. */
BS_INLINE void solve_carefully(int p, double A[BS_MOST_NODES + 1][BS_MOST_NODES + 1], vec g,
                               vec k[BS_MOST_NODES + 1][BS_MOST_NODES + 1], vec *log_k, vec *strip) {
  const double tolerance = 0x1p-49, inf = __builtin_inf();
  const ivec moves = g != splat(0);
  vec u[BS_MOST_NODES][BS_MOST_NODES], x[BS_MOST_NODES][BS_MOST_NODES];
  ivec done = (ivec){0};
  for (int a = 0; a < p; ++a)
    for (int b = 0; b < p; ++b) u[a][b] = log_k[b + 1] + strip[a];
  for (int step = 0;; ++step) {
    for (int a = 0; a < p; ++a)
      for (int b = 0; b < p; ++b) k[a + 1][b + 1] = exponential(u[a][b]);
    for (int a = 0; a < p; ++a) {
      vec down[BS_MOST_NODES + 1];
      for (int l = 0; l <= p; ++l) {
        down[l] = splat(0);
        for (int i = 0; i <= p; ++i) down[l] += weighted(1, A[a + 1][i], k[i][l]);
      }
      for (int b = 0; b < p; ++b) {
        vec total = splat(0);
        for (int l = 0; l <= p; ++l) total += weighted(1, A[b + 1][l], down[l]);
        x[a][b] = (vec)((ivec)(g * total) & moves);
      }
    }
    if (!any_beyond(choose(done, splat(0), splat(1)), 0)) break;
    vec next[BS_MOST_NODES][BS_MOST_NODES];
    ivec settled = ~(ivec){0}, blown_up = (ivec){0};
    for (int a = 0; a < p; ++a)
      for (int b = 0; b < p; ++b) {
        const vec here = u[a][b], residual = log_k[b + 1] + strip[a] + x[a][b] - here;
        const vec own = weighted(1, A[a + 1][a + 1] * A[b + 1][b + 1], k[a + 1][b + 1]);
        const vec slope = 1.0 - (vec)((ivec)(g * own) & moves);
        const ivec still = ~((here - here) == splat(0)) |
                           ((slope > 0) & ~(absolute(residual) > (tolerance * (1.0 + absolute(here))) * slope));
        next[a][b] = choose(still, here, choose(slope > 0, here + residual / slope, splat(inf)));
        settled &= still;
        blown_up |= next[a][b] == inf;
      }
    if (step == MOST_STEPS) /* not solved */
      for (int a = 0; a < p; ++a)
        for (int b = 0; b < p; ++b) next[a][b] = choose(settled, next[a][b], splat(__builtin_nan("")));
    for (int a = 0; a < p; ++a)
      for (int b = 0; b < p; ++b)
        u[a][b] = choose(done, u[a][b], choose(blown_up, splat(inf), next[a][b]));
    done |= settled;
    if (step == MOST_STEPS) done = ~(ivec){0};
  }
  for (int a = 0; a < p; ++a) {
    for (int b = 0; b < p; ++b) {
      x[a][b] = choose(u[a][b] == inf, u[a][b], x[a][b]); /* behind a blow-up integrals have no meaning */
      u[a][b] = log_k[b + 1] + (strip[a] + x[a][b]);
      k[a + 1][b + 1] = exponential(u[a][b]);
    }
    strip[a] += x[a][p - 1];
  }
  for (int b = 0; b < p; ++b) log_k[b + 1] = u[p - 1][b];
}

/* A block of cells of one row. K goes from the first row of nodes to the last, in `row`; all rows of nodes go to `rows`, unless that
   is NULL. `integral` is the integral of K over the row up to the block, and becomes that to its end. */
BS_INLINE void solve_block_at(int p, int careful, const bs_task *task, block b, vec *row, vec *logs, vec *const *rows, vec *integral,
                              edge_state *state, watch *watched) {
  vec *const extent = watched->extent;
  const double *B = task->steps, *V = task->whole;
  double A[BS_MOST_NODES + 1][BS_MOST_NODES + 1], norm = 0;
  vec k[BS_MOST_NODES + 1][BS_MOST_NODES + 1], E[BS_MOST_NODES], low = extent[0], high = extent[1], hardest = splat(0), sum = *integral;
  add_steps(p, B, A);
  for (int a = 1; a <= p; ++a) {
    double total = 0;
    for (int l = 1; l <= p; ++l) total += fabs(A[a][l]);
    if (total > norm) norm = total;
    E[a - 1] = state->E[a - 1];
  }
  for (int i = 0; i <= p; ++i) k[i][0] = state->k[i];
  for (int64_t c = b.first; c <= b.last; ++c) {
    const vec g = b.g[(c - 1) >> b.shift];
    const int64_t at = (c - 1) * p;
    for (int l = 1; l <= p; ++l) k[0][l] = row[at + l];
    if (careful) {
      solve_carefully(p, A, g, k, logs + at, E);
      sum = E[p - 1];
      for (int l = 1; l <= p; ++l) {
        watched->reach = maximum(watched->reach, absolute(logs[at + l]));
        for (int i = 1; i <= p; ++i) watched->mean = maximum(watched->mean, choose(g == splat(0), splat(0), k[i][l]));
      }
    } else {
      const vec hard = p == 1 ? solve_corner(B, g, k, E) : solve_nodes(p, A, norm, g, k, E);
      vec total = splat(0);
      for (int l = 0; l <= p; ++l) {
        vec down = splat(0);
        for (int i = 0; i <= p; ++i) down += V[i] * k[i][l];
        total += V[l] * down;
      }
      sum += g * total;
      hardest = maximum(hardest, hard);
      for (int i = 1; i <= p; ++i)
        for (int l = 1; l <= p; ++l) {
          low = minimum(low, k[i][l]);
          high = maximum(high, k[i][l]);
        }
    }
    if (rows)
      for (int i = 0; i <= p; ++i)
        for (int l = 1; l <= p; ++l) rows[i][at + l] = k[i][l];
    for (int l = 1; l <= p; ++l) row[at + l] = k[p][l];
    for (int i = 0; i <= p; ++i) k[i][0] = k[i][p];
  }
  for (int a = 0; a < p; ++a) state->E[a] = E[a];
  for (int i = 0; i <= p; ++i) state->k[i] = k[i][0];
  *integral = sum;
  extent[0] = low;
  extent[1] = choose(hardest <= BS_SOLVABLE, high, splat(__builtin_inf()));
}

/* The instances for any number of nodes are the careful ones too. */
#define BS_SOLVE(name, p, ever_careful)                                                                                     \
  static void name(const collocation *n, block b, vec *const *rows, vec *integral, watch *watched) {                        \
    if (ever_careful && n->t.in.task->careful)                                                                              \
      solve_block_at(p, 1, n->t.in.task, b, n->k, n->logs, rows, integral, n->states, watched);                             \
    else                                                                                                                    \
      solve_block_at(p, 0, n->t.in.task, b, n->k, NULL, rows, integral, n->states, watched);                                \
  }
BS_SOLVE(solve_block_1, 1, 0)
BS_SOLVE(solve_block_2, 2, 0)
BS_SOLVE(solve_block_3, 3, 0)
BS_SOLVE(solve_block_any, n->p, 1)

/* The cells of b; arguments as above. */
static void solve_cells(collocation *n, block b, vec *const *rows, vec *integral) {
  switch (n->t.in.task->careful ? 0 : n->p) {
    case 1: solve_block_1(n, b, rows, integral, n->t.watched); break;
    case 2: solve_block_2(n, b, rows, integral, n->t.watched); break;
    case 3: solve_block_3(n, b, rows, integral, n->t.watched); break;
    default: solve_block_any(n, b, rows, integral, n->t.watched);
  }
}

/* Before the first cell of a row. */
static void open_row(collocation *n) {
  for (int a = 0; a < n->p; ++a) n->states->E[a] = splat(n->t.in.task->careful ? 0 : 1);
  for (int i = 0; i <= n->p; ++i) n->states->k[i] = splat(1);
}

/* Row r of cells downwards, from its first row of nodes in n->k to the last; all of them to `kept`, unless that is NULL, each `width`
   behind the one before. The integral over the row is added to `integral`. */
static void solve_row(collocation *n, int64_t r, vec *kept, vec *integral) {
  tile *t = &n->t;
  vec sum = splat(0), *rows[BS_MOST_NODES + 1];
  open_row(n);
  for (int i = 0; kept && i <= n->p; ++i) {
    rows[i] = kept + i * n->width;
    *rows[i] = splat(1);
  }
  for (int64_t j = 0; j < t->blocks; ++j) solve_cells(n, block_of(t, j, r), kept ? rows : NULL, &sum);
  *integral += sum;
}

/* Row r of cells of a path with itself: its integrals left of the diagonal and on it; see sweep_cells_of_itself. */
static void solve_row_of_itself(collocation *n, int64_t r, vec *left, vec *own) {
  const int careful = n->t.in.task->careful;
  vec sum = splat(0);
  open_row(n);
  for (int64_t j = 0; j < n->t.blocks; ++j) {
    block part[3];
    split_block(block_of(&n->t, j, r), r, part);
    for (int i = 0; i < (careful ? 3 : 2); ++i) {
      if (part[i].first > part[i].last) continue;
      if (i == 1 && !careful) mirror_edge(n, r);
      solve_cells(n, part[i], NULL, &sum);
      if (i == 0) *left = sum;
      if (i == 1) *own = sum - *left;
    }
  }
}

/* The rows r and r + 1 together for p = 1, the second one a cell behind: what a cell waits for is long, and two can wait at once. */
static void solve_two_rows(collocation *n, int64_t r, vec *kept, vec *integral) {
  tile *t = &n->t;
  const bs_task *task = t->in.task;
  const double B[] = {task->steps[0], task->steps[1]};
  const int shift = task->dyadic2;
  const vec *g[] = {block_of(t, 0, r).g, block_of(t, 0, r + 1).g};
  vec *row = n->k, k[2][2][BS_MOST_NODES + 1], E[2], sum[2], low = t->watched->extent[0], high = t->watched->extent[1], hardest = splat(0);
  for (int i = 0; i < 2; ++i) {
    k[i][0][1] = k[i][1][1] = E[i] = splat(1);
    sum[i] = splat(0);
  }
  for (int i = 0; kept && i < 3; ++i) kept[i * n->width] = splat(1);
  for (int64_t c = 1; c <= t->columns + 1; ++c) {
    const vec above = k[0][1][1]; /* the second row at c - 1 */
    for (int i = 0; i < 2; ++i) {
      const int64_t at = c - i;
      if (at < 1 || at > t->columns) continue;
      for (int l = 0; l < 2; ++l) k[i][l][0] = k[i][l][1];
      k[i][0][1] = i ? above : row[at];
      const vec increment = g[i][(at - 1) >> shift], hard = solve_corner(B, increment, k[i], &E[i]), corner = k[i][1][1];
      hardest = maximum(hardest, hard);
      vec total = splat(0);
      for (int l = 0; l < 2; ++l) total += B[l] * (B[0] * k[i][0][l] + B[1] * k[i][1][l]);
      sum[i] += increment * total;
      low = minimum(low, corner);
      high = maximum(high, corner);
      if (i) row[at] = corner;
      if (kept) kept[(i + 1) * n->width + at] = corner;
      if (kept && i == 0) kept[at] = k[i][0][1];
    }
  }
  *integral = (*integral + sum[0]) + sum[1];
  t->watched->extent[0] = low;
  t->watched->extent[1] = choose(hardest <= BS_SOLVABLE, high, splat(__builtin_inf()));
}

/* The rows r..r1-1 or the first few of them, likewise, with the increments loaded; returns the row that comes next. */
static int64_t solve_rows(collocation *n, int64_t r, int64_t r1, vec *kept, vec *integral) {
  const bs_task *task = n->t.in.task;
  const int two = n->p == 1 && !task->careful && !task->grid && r % 2 == 0 && r + 1 < r1;
  load_increments(&n->t, r, r + 1 + two, 0);
  if (two)
    solve_two_rows(n, r, kept, integral);
  else
    solve_row(n, r, kept, integral);
  return r + 1 + two;
}

/* K (careful: and log K) above a segment */
static void copy_start(untruncated *u, int64_t r, int back) {
  const collocation *n = &u->n;
  vec *const kept[] = {n->k, n->logs};
  for (int i = 0; i < 1 + (n->logs != NULL); ++i) {
    vec *start = u->starts + (r / u->segment * (1 + (n->logs != NULL)) + i) * n->width;
    memcpy(back ? kept[i] : start, back ? start : kept[i], sizeof(vec) * (size_t)n->width);
  }
}

/* The first row of the last segment, whose nodes the forward pass keeps. */
static int64_t last_segment(const untruncated *u) { return (u->n.t.rows - 1) / u->segment * u->segment; }

/* The first row of nodes of row r of cells, which lies in the segment that begins with row r0. */
static vec *nodes_of(const untruncated *u, int64_t r, int64_t r0) { return u->rows + (r - r0) * u->n.p * u->n.width; }

/* All rows downwards. Returns nonzero if it was asked to stop. */
static int untruncated_down(untruncated *u, int64_t first) {
  tile *t = &u->n.t;
  const bs_task *task = t->in.task;
  const int64_t kept = u->rows ? last_segment(u) : t->rows;
  start_rows(&t->in, 0);
  if (task->grid) store_corners(&u->n, first, 0);
  if (task->diagonal) store_diagonal(t, first, 0);
  for (int64_t r = 0; task->diagonal && r < t->rows; ++r) {
    if (stopped(t)) return 1;
    load_increments(t, r, r + 1, 0);
    vec left = splat(0), own = splat(0);
    solve_row_of_itself(&u->n, r, &left, &own);
    finish_row_of_itself(t, first, r, left, own);
  }
  for (int64_t r = task->diagonal ? t->rows : 0; r < t->rows;) {
    if (stopped(t)) return 1;
    if (u->rows && r % u->segment == 0) copy_start(u, r, 0);
    const int64_t end = u->rows ? least((r / u->segment + 1) * u->segment, t->rows) : t->rows;
    r = solve_rows(&u->n, r, end, r >= kept ? nodes_of(u, r, kept) : NULL, &t->total);
    if (task->grid) store_corners(&u->n, first, r);
    if (task->grid_derivs && task->careful) check_corners(&u->n, r);
  }
  return 0;
}

/* The nodes of the rows r0..r1-1, a segment, again. Returns nonzero if it was asked to stop. */
static int solve_again(untruncated *u, int64_t r0, int64_t r1) {
  tile *t = &u->n.t;
  vec integral = splat(0);
  copy_start(u, r0, 1);
  t->in.gradient = 0; /* what the way up has of the row below the segment is there again after it */
  start_rows(&t->in, coarse(t, r0));
  for (int64_t r = r0; r < r1;) {
    if (stopped(t)) return 1;
    r = solve_rows(&u->n, r, r1, nodes_of(u, r, r0), &integral);
  }
  t->in.gradient = 1;
  return 0;
}

/* w of a cell from `known`, all of it but what K of the cell itself has given, by steps of node-wise corrections; U = B^T w B. */
BS_INLINE void solve_weights(int p, int careful, const double *B, vec g, vec k[BS_MOST_NODES + 1][BS_MOST_NODES + 1],
                             const vec *known, vec *w, vec U[BS_MOST_NODES + 1][BS_MOST_NODES + 1]) {
  vec slopes[BS_MOST_NODES][BS_MOST_NODES], most = splat(0);
  double norm = 0;
  for (int a = 0; a < p; ++a)
    for (int b = 0; b < p; ++b) {
      norm += fabs(B[a * (p + 1) + b + 1]);
      most = maximum(most, k[a + 1][b + 1]);
      w[a * p + b] = known[a * p + b];
      if (!careful) continue;
      vec behind = splat(0); /* what the node gives to itself */
      for (int i = a + 1; i <= p; ++i)
        for (int l = b + 1; l <= p; ++l) behind += (B[a * (p + 1) + i] * B[b * (p + 1) + l]) * k[i][l];
      slopes[a][b] = 1.0 - g * behind;
      slopes[a][b] = choose(slopes[a][b] > 0.25, slopes[a][b], splat(1));
    }
  const vec contraction = absolute(g) * most * (norm * norm);
  ivec settled = (ivec){0};
  for (int step = 0;; ++step) {
    node_weights(p, B, w, U);
    if (!any_beyond(choose(settled, splat(0), splat(1)), 0)) break;
    vec given[BS_MOST_NODES], moved = splat(0), largest = splat(0);
    for (int i = 0; i < p; ++i) given[i] = splat(0);
    for (int l = p - 1; l >= 0; --l) {
      vec sum = splat(0);
      for (int i = p - 1; i >= 0; --i) {
        given[i] += k[i + 1][l + 1] * U[i + 1][l + 1];
        sum += given[i];
        vec move = known[i * p + l] + g * sum - w[i * p + l];
        if (careful) move /= slopes[i][l];
        w[i * p + l] = choose(settled, w[i * p + l], w[i * p + l] + move);
        moved = maximum(moved, absolute(move));
        largest = maximum(largest, absolute(w[i * p + l]));
      }
    }
    if (step == MOST_STEPS) /* not solved */
      for (int i = 0; i < p * p; ++i) w[i] = choose(settled, w[i], splat(__builtin_nan("")));
    if (careful)
      settled |= ~(moved > 0x1p-49 * largest);
    else
      settled |= ~(moved * contraction > 0x1p-54 * largest); /* what the next step would move is below rounding */
    if (step == MOST_STEPS) settled = ~(ivec){0};
  }
}

/* The adjoint of a cell: w of the cells below becomes its own; `bar` is the derivative of the result with respect to log K at its
   last node. Returns the derivative with respect to g. */
BS_INLINE vec solve_adjoint_at(int p, int careful, const double *B, vec g, vec *const *rows, int64_t at, vec bar, vec *w, vec *gw,
                               edge_adjoint *state) {
  vec k[BS_MOST_NODES + 1][BS_MOST_NODES + 1], U[BS_MOST_NODES + 1][BS_MOST_NODES + 1], sum = splat(0);
  vec known[BS_MOST_NODES * BS_MOST_NODES], own[BS_MOST_NODES * BS_MOST_NODES];
  for (int i = 0; i <= p; ++i)
    for (int l = 0; l <= p; ++l) k[i][l] = rows[i][at + l];
  for (int l = p; l > 0; --l) {
    vec here = w[at + l];
    for (int i = p; i > 0; --i) {
      vec gathered = splat(0);
      if (l == p) gathered += state->right[i];
      if (i == p) gathered += gw[at + l];
      vec given = k[i][l] * gathered;
      if (i == p && l == p) given += bar;
      state->suffix[i - 1] += given;
      here += state->suffix[i - 1];
      known[(i - 1) * p + l - 1] = here;
    }
  }
  if (p == 1) {
    own[0] = known[0] * (1.0 / (1.0 - g * (B[1] * B[1]) * k[1][1])); /* nothing waits for the quotient */
    node_weights(p, B, own, U);
  } else {
    solve_weights(p, careful, B, g, k, known, own, U);
  }
  for (int i = 0; i <= p; ++i)
    for (int l = 0; l <= p; ++l) {
      sum += U[i][l] * k[i][l];
      U[i][l] *= g;
    }
  U[0][p] += state->right[0];
  for (int l = 1; l <= p; ++l) {
    for (int i = 1; i <= p; ++i) state->suffix[i - 1] += U[i][l] * k[i][l];
    w[at + l] = own[l - 1];
    gw[at + l] = U[0][l];
  }
  for (int i = 0; i <= p; ++i) state->right[i] = U[i][0];
  return sum;
}

#define BS_SOLVE_ADJOINT(name, p, ever_careful)                                                                              \
  static vec name(const collocation *n, vec g, vec *const *rows, int64_t at, vec bar) {                                      \
    const bs_task *task = n->t.in.task;                                                                                      \
    if (ever_careful && task->careful)                                                                                       \
      return solve_adjoint_at(p, 1, task->steps, g, rows, at, bar, n->w, n->gw, n->adjoints);                                \
    return solve_adjoint_at(p, 0, task->steps, g, rows, at, bar, n->w, n->gw, n->adjoints);                                  \
  }
BS_SOLVE_ADJOINT(solve_adjoint_1, 1, 0)
BS_SOLVE_ADJOINT(solve_adjoint_2, 2, 0)
BS_SOLVE_ADJOINT(solve_adjoint_3, 3, 0)
BS_SOLVE_ADJOINT(solve_adjoint_any, n->p, 1)

/* The adjoint of row r of cells, added to t->gradient; `seed` is the derivative with respect to log K at the last corner of all,
   where no grid of derivatives is given. */
static void adjoint_row(collocation *n, int64_t first, int64_t r, vec *const *rows, vec seed) {
  tile *t = &n->t;
  const bs_task *task = t->in.task;
  memset(n->adjoints, 0, sizeof(edge_adjoint));
  for (int64_t j = t->blocks - 1; j >= 0; --j) {
    const block b = block_of(t, j, r);
    if (task->grid_derivs) load_derivs(t, first, r + 1, b);
    for (int64_t c = b.last; c >= b.first; --c) {
      const int64_t cell = (c - 1) >> b.shift, at = (c - 1) * n->p;
      vec bar = splat(0), *gradient = &t->gradient[cell];
      if (task->grid_derivs) {
        bar = t->derivs[c - b.first];
        if (!task->wrt_log) bar *= rows[n->p][at + n->p];
      } else if (r == t->rows - 1 && c == t->columns) {
        bar = seed;
      }
      switch (task->careful ? 0 : n->p) {
        case 1: *gradient += solve_adjoint_1(n, b.g[cell], rows, at, bar); break;
        case 2: *gradient += solve_adjoint_2(n, b.g[cell], rows, at, bar); break;
        case 3: *gradient += solve_adjoint_3(n, b.g[cell], rows, at, bar); break;
        default: *gradient += solve_adjoint_any(n, b.g[cell], rows, at, bar);
      }
    }
  }
}

/* All rows upwards, segment by segment: the gradient of every lane. Returns nonzero if it was asked to stop. */
static int untruncated_up(untruncated *u, int64_t first, vec seed) {
  collocation *n = &u->n;
  tile *t = &n->t;
  open_gradient(t, splat(0));
  fill(n->w, n->width, 0);
  fill(n->gw, n->width, 0);
  for (int64_t r0 = last_segment(u); r0 >= 0; r0 -= u->segment) {
    const int64_t r1 = least(r0 + u->segment, t->rows);
    if (r1 < t->rows && solve_again(u, r0, r1)) return 1;
    for (int64_t r = r1 - 1; r >= r0; --r) {
      vec *rows[BS_MOST_NODES + 1];
      for (int i = 0; i <= n->p; ++i) rows[i] = nodes_of(u, r, r0) + i * n->width;
      if (stopped(t)) return 1;
      load_increments(t, r, r + 1, 1);
      adjoint_row(n, first, r, rows, seed);
      hand_on_row(t, r);
    }
  }
  t->in.gradient = 0;
  return 0;
}

#endif
