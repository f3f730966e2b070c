/* The entry points, compiled once per instruction set: pairs go through tiles, long single pairs through strips. */
#include "strips.h"
#include "tile.h"

#define BS_PASTE_(name, isa) bs_##name##_##isa
#define BS_PASTE(name, isa) BS_PASTE_(name, isa)
#define BS_ENTRY(type, name) __attribute__((visibility("hidden"))) type BS_PASTE(name, BS_ISA)

BS_ENTRY(int64_t, workspace)(const bs_task *task, int32_t backward) {
  tile t = {0};
  strips s = {0};
  const int64_t of_tile = lay_out(&t, task, backward, KEPT_BYTES, NULL), of_strips = is_long(task) ? lay_out_strips(&s, task, backward, NULL) : 0;
  return (of_tile > of_strips ? of_tile : of_strips) + 64;
}

BS_ENTRY(int32_t, lanes)(void) { return W; }

BS_ENTRY(void, forward)(const bs_task *task) {
  char *memory = aligned(task->workspace);
  tile t = {0};
  lay_out(&t, task, 0, 0, memory);
  for (int64_t first = 0; first < task->pairs; first += W) {
    if (is_long(task) && task->pairs - first <= W / 2) { /* too few pairs to fill the lanes */
      for (int64_t k = first; k < task->pairs; ++k) {
        strips s = {0};
        lay_out_strips(&s, task, 0, memory);
        if (sweep_strips(&s, k)) return;
        task->log_k[k] = s.total;
        task->out_of_range[k] = (uint8_t)strips_out_of_range(&s);
      }
      return;
    }
    open_tile(&t, first);
    if (sweep_down(&t, first)) return;
    const ivec bad = out_of_range(&t);
    for (int w = 0; w < W && first + w < task->pairs; ++w) {
      if (task->log_k) task->log_k[first + w] = t.total[w];
      task->out_of_range[first + w] = bad[w] != 0;
    }
  }
}

static void backward_strips(const bs_task *task) {
  for (int64_t k = 0; k < task->pairs; ++k) {
    strips s = {0};
    lay_out_strips(&s, task, 1, aligned(task->workspace));
    if (sweep_strips(&s, k)) return;
    task->out_of_range[k] = (uint8_t)strips_out_of_range(&s);
    if (!task->out_of_range[k] && adjoint_strips(&s, k)) return;
  }
}

BS_ENTRY(void, backward)(const bs_task *task) {
  if (is_long(task)) {
    backward_strips(task);
    return;
  }
  tile t = {0};
  lay_out(&t, task, 1, KEPT_BYTES, aligned(task->workspace));
  for (int64_t first = 0; first < task->pairs; first += W) {
    open_tile(&t, first);
    if (!task->k_stack && sweep_down(&t, first)) return;
    const ivec bad = task->k_stack ? (ivec){0} : out_of_range(&t);
    vec value = top_value(&t, first), seed = splat(0);
    if (!task->grid_derivs) seed += t.factor;
    if (!task->grid_derivs && !task->wrt_log) seed *= value;
    if (sweep_up(&t, first, seed)) return;
    if (task->grid_derivs) value = t.grid_sum;
    const ivec finite = (value - value) == splat(0);
    for (int w = 0; w < W && first + w < task->pairs; ++w) {
      task->out_of_range[first + w] = bad[w] != 0;
      if (!bad[w]) flush(&t, w, first + w, finite[w] != 0);
    }
  }
}
