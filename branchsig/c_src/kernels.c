/* The entry points, compiled once per instruction set: pairs go through tiles, long single pairs through strips, and pairs with
   another rule than the trapezoid through tiles of their own. */
#include "collocation.h"
#include "order.h"
#include "short.h"
#include "strips.h"
#include "tile.h"
#include "untruncated.h"

#define BS_PASTE_(name, isa) bs_##name##_##isa
#define BS_PASTE(name, isa) BS_PASTE_(name, isa)
#define BS_ENTRY(type, name) type BS_PASTE(name, BS_ISA)

BS_ENTRY(int32_t, lanes)(void) { return W; }

BS_ENTRY(int32_t, within)(const double *values, int64_t n, double most) {
  int beyond = 0;
  int64_t k = 0;
  for (; k + W <= n; k += W) beyond |= any_beyond(absolute(load(values + k)), most);
  for (; k < n; ++k) beyond |= !(fabs(values[k]) <= most);
  return !beyond;
}

BS_ENTRY(int32_t, ends)(const double *paths, int64_t n, int64_t length, int64_t dimension, double most, double *ends) {
  const size_t point = (size_t)dimension * sizeof(double);
  for (int64_t k = 0; k < n; ++k, ends += 2 * dimension) {
    const double *first = paths + k * length * dimension;
    memcpy(ends, first, point);
    memcpy(ends + dimension, first + (length - 1) * dimension, point);
  }
  return BS_PASTE(within, BS_ISA)(paths, n * length * dimension, most);
}

/* Makes `own`, a copy of the task, that of the pairs from `first` on, so many of them and of this kind. */
static void narrow(bs_task *own, const bs_task *task, int64_t first, int64_t count, kind of) {
  trim(own, task, first, count);
  own->by_steps = of.by_steps;
  own->compact = of.compact;
  own->products = of.products;
}

/* Picks the pairs that come next, from `first` on, and makes `own` theirs. Returns nonzero where it is one pair that goes through strips. */
static int next_pairs(const bs_task *task, int64_t first, int backward, bs_task *own) {
  const kind of = kind_of_pair(task, first, backward);
  const int64_t most = least(W, task->pairs - first);
  narrow(own, task, first, 1, of);
  if (goes_by_strips(own, most, backward)) return 1;
  int64_t count = 1;
  for (; count < most; ++count) {
    const kind other = kind_of_pair(task, first + count, backward);
    if (!is_same(other, of)) break;
    if (!backward || !is_trimmed(task)) continue;
    narrow(own, task, first + count, 1, other);
    if (goes_by_strips(own, 1, 1)) break;
  }
  narrow(own, task, first, count, of);
  return 0;
}

static int64_t size_of_pairs(const bs_task *own, int backward, int strips_next) {
  tile t = {0};
  strips s = {0};
  untruncated u = {0};
  order_tile o = {0};
  if (strips_next) return size_of_strips(&s, own, backward);
  if (own->order) return lay_out_order(&o, own, backward, NULL);
  if (own->untruncated) return lay_out_untruncated(&u, own, backward, NULL);
  if (own->nodes) return lay_out_collocation(&u.n, own, backward, backward ? own->nodes + 1 : 1, 1, NULL);
  return lay_out(&t, own, backward, 1, NULL);
}

BS_ENTRY(int64_t, workspace)(const bs_task *task, int32_t backward) {
  int64_t most = 0;
  bs_task own = *task;
  if (!is_trimmed(task)) { /* all tiles of one kind are of one size, whichever pairs they hold, and so are all strips */
    const int64_t shorter = least(task->length1, task->length2);
    const int kinds = !is_linear(task) && would_take_products(task, BY_STEPS, is_radial(task), shorter) ? BY_STEPS_IN_UNITS : BY_VALUES;
    for (own.by_steps = BY_VALUES; own.by_steps <= kinds; ++own.by_steps)
      for (int k = 0; k < 4; ++k) {
        const int strips_next = k % 2;
        own.compact = k / 2;
        own.products = would_take_products(task, own.by_steps, own.compact, shorter);
        if (own.compact && !own.products) continue;
        if (strips_next ? !goes_by_strips(&own, 1, backward) : goes_by_strips(&own, least(W, task->pairs), backward)) continue;
        const int64_t size = size_of_pairs(&own, backward, strips_next);
        if (size > most) most = size;
      }
    return most + 64;
  }
  for (int64_t first = 0; first < task->pairs; first = own.pairs) {
    const int strips_next = next_pairs(task, first, backward, &own);
    const int64_t size = size_of_pairs(&own, backward, strips_next);
    if (size > most) most = size;
  }
  return most + 64;
}

/* Before the gradient of pair k is added to what is there. */
static void open_gradients_of_pair(const bs_task *task, int64_t k) {
  if (!task->fresh) return;
  const size_t point = (size_t)task->dimension * sizeof(double);
  if (task->grad1) memset(task->grad1 + path_of(task->index1, k) * task->stride1 * task->dimension, 0, (size_t)task->stride1 * point);
  if (task->grad2) memset(task->grad2 + path_of(task->index2, k) * task->stride2 * task->dimension, 0, (size_t)task->stride2 * point);
}

/* Pair k through strips, alone or with the threads that help, in the memory where tile t has been. Returns nonzero if it was asked to
   stop. */
static int pair_of_strips(const bs_task *task, int64_t k, int backward, tile *t) {
  strips s = {0};
  t->laid_out = (layout){0};
  open_strips(&s, task, backward);
  if (work_on_strips(&s, k) || wait_for_forward(&s)) return 1;
  for (int64_t item = s.groups; backward && item < 2 * s.groups; ++item)
    if (wait_for_steps(&s, item, s.steps)) return 1;
  task->out_of_range[k] = (uint8_t)judge_strips(&s);
  if (!backward && task->ends) task->ends[k] = (task->wrt_log || task->planar ? splat(s.total) : exponential(splat(s.total)))[0];
  if (backward) open_gradients_of_pair(task, k);
  if (backward && !task->out_of_range[k]) flush_strips(&s, k);
  return 0;
}

BS_ENTRY(int64_t, shared)(const bs_task *task, int32_t backward, int32_t *threads) {
  bs_task own = *task;
  strips s = {0};
  int64_t blank;
  *threads = 1;
  if (task->pairs != 1 || !next_pairs(task, 0, backward, &own)) return 0;
  lay_out_strips(&s, &own, backward, NULL);
  *threads = (int32_t)s.groups;
  return lay_out_relay(&s, backward, NULL, &blank) + 64;
}

BS_ENTRY(void, help)(const bs_task *task, int32_t backward) {
  bs_task own = *task;
  strips s = {0};
  if (!next_pairs(task, 0, backward, &own)) return;
  open_strips(&s, &own, backward);
  work_on_strips(&s, 0);
}

BS_ENTRY(int32_t, by_strips)(const bs_task *task, int64_t count, int32_t backward) {
  bs_task own = *task;
  own.products = would_take_products(task, BY_VALUES, 0, least(task->length1, task->length2));
  return goes_by_strips(&own, least(count, W), backward);
}

/* The forward pass of the kernels of depth, or of none. Returns nonzero if it was asked to stop. */
static int tile_down(const bs_task *task, int64_t first, int backward, untruncated *u) {
  collocation *n = &u->n;
  char *base = aligned(task->workspace);
  if (!task->nodes) {
    lay_out_again(&n->t, task, backward, base);
    open_tile(&n->t, first);
    return !task->k_stack && sweep_down(&n->t, first);
  }
  if (task->untruncated)
    lay_out_untruncated(u, task, backward, base);
  else
    lay_out_collocation(n, task, backward, backward ? task->nodes + 1 : 1, 1, base);
  open_collocation(n, first);
  return task->untruncated ? untruncated_down(u, first) : collocation_down(n, first);
}

static int forward_tile(const bs_task *task, int64_t first, untruncated *u) {
  tile *t = &u->n.t;
  if (tile_down(task, first, 0, u)) return 1;
  const ivec bad = out_of_range(t);
  strike_out(t);
  const vec ends = task->wrt_log || task->planar ? t->total : exponential(t->total);
  for (int w = 0; w < W && first + w < task->pairs; ++w) {
    if (task->ends) task->ends[first + w] = ends[w];
    task->out_of_range[first + w] = bad[w] != 0;
  }
  return 0;
}

/* Returns nonzero if it was asked to stop. */
static int forward_order(const bs_task *task, int64_t first) {
  order_tile o = {0};
  lay_out_order(&o, task, 0, aligned(task->workspace));
  open_order(&o, first);
  if (order_down(&o, first)) return 1;
  judge_parts(&o, first);
  return 0;
}

static int backward_order(const bs_task *task, int64_t first) {
  order_tile o = {0};
  lay_out_order(&o, task, 1, aligned(task->workspace));
  open_order(&o, first);
  if (order_down(&o, first)) return 1;
  const ivec gone = judge_parts(&o, first);
  if (order_up(&o, first)) return 1;
  part_gradients(&o.n.t);
  for (int w = 0; w < W && first + w < task->pairs; ++w) {
    open_gradients_of_pair(task, first + w);
    if (!task->out_of_range[first + w]) flush(&o.n.t, w, first + w, o.n.t.grid_sum[w] == 0 && !gone[w]);
  }
  return 0;
}

static int backward_tile(const bs_task *task, int64_t first, untruncated *u) {
  collocation *n = &u->n;
  tile *t = &n->t;
  if (tile_down(task, first, 1, u)) return 1;
  ivec bad = task->k_stack ? (ivec){0} : out_of_range(t);
  if (!task->k_stack) strike_out(t);
  vec value = top_value(t, first), seed = splat(0);
  if (!task->grid_derivs) seed += t->factor;
  if (!task->grid_derivs && !task->wrt_log && !task->planar) seed *= value;
  if (task->untruncated ? untruncated_up(u, first, seed) : task->nodes ? collocation_up(n, first, seed) : sweep_up(t, first, seed))
    return 1;
  if (task->grid_derivs) value = t->grid_sum;
  if (task->k_stack) bad = beyond(error_bound(t, 1), splat(BS_CONTENT));
  const ivec finite = (value - value) == splat(0);
  part_gradients(t);
  for (int w = 0; w < W && first + w < task->pairs; ++w) {
    task->out_of_range[first + w] = bad[w] != 0;
    open_gradients_of_pair(task, first + w);
    if (!bad[w]) flush(t, w, first + w, finite[w] != 0);
  }
  return 0;
}

/* The number of pairs that are out of range. */
static int64_t left_over(const bs_task *task) {
  int64_t count = 0;
  for (int64_t k = 0; k < task->pairs; ++k) count += task->out_of_range[k];
  return count;
}

BS_ENTRY(int64_t, forward)(const bs_task *task) {
  untruncated u = {0}; /* what the last tile has packed of the second path serves the next one */
  bs_task own = *task;
  for (int64_t first = 0; first < task->pairs; first = own.pairs)
    if (next_pairs(task, first, 0, &own) ? pair_of_strips(&own, first, 0, &u.n.t)
        : own.order ? forward_order(&own, first)
        : forward_tile(&own, first, &u))
      return 0;
  return left_over(task);
}

BS_ENTRY(int64_t, backward)(const bs_task *task) {
  untruncated u = {0}; /* what the last tile has packed of the second path serves the next one */
  bs_task own = *task;
  for (int64_t first = 0; first < task->pairs; first = own.pairs)
    if (next_pairs(task, first, 1, &own) ? pair_of_strips(&own, first, 1, &u.n.t)
        : own.order ? backward_order(&own, first)
        : backward_tile(&own, first, &u))
      return 0;
  return left_over(task);
}
