/* Problems that come again with other arrays: one call from Python does all that such a call takes. */
#include "bs.h"
#include <stdlib.h>
#include <string.h>

enum { FEW = 256 }; /* pairs whose flags and numbers lie on the stack */

/* Where pairs do not stand in the order of a result, their numbers lie here. */
typedef struct {
  double first[FEW], second[FEW];
  uint8_t flags[FEW];
} few_pairs;

static void clear(double *gradient, int64_t paths, int64_t length, int64_t dimension) {
  if (gradient) memset(gradient, 0, (size_t)(paths * length * dimension) * sizeof(double));
}

/* see core.cdef */
int64_t bs_again(const bs_known *known, const double *path1, const double *path2, double *values, const double *derivs, double *grad1,
                 double *grad2, void *workspace, int64_t room) {
  if (((uintptr_t)path1 | (uintptr_t)path2 | (uintptr_t)derivs) % sizeof(double)) return -1;
  bs_task task = known->task;
  const int64_t size = bs_workspace(&task, derivs != NULL), *place = known->place, *mirror = known->mirror;
  if (size > room) return size;
  few_pairs few;
  double *first = few.first, *second = few.second;
  uint8_t *flags = few.flags;
  void *many = NULL;
  if (task.pairs > FEW) {
    const size_t n = (size_t)task.pairs;
    if (!(many = malloc(n * (2 * sizeof(double) + 1)))) return -1;
    first = many;
    second = first + n;
    flags = (uint8_t *)(second + n);
  }
  memset(flags, 0, (size_t)task.pairs);
  task.path1 = path1;
  task.path2 = path2;
  task.workspace = workspace;
  task.out_of_range = flags;
  int done;
  if (derivs) {
    task.weight1 = task.weight2 = derivs;
    task.grad1 = grad1;
    task.grad2 = mirror ? grad1 : grad2;
    if (place) {
      for (int64_t k = 0; k < task.pairs; ++k) first[k] = derivs[place[k]];
      task.weight1 = task.weight2 = first;
    }
    if (mirror) { /* a pair stands for two, of which one is on the diagonal */
      for (int64_t k = 0; k < task.pairs; ++k) second[k] = mirror[k] == place[k] ? 0 : derivs[mirror[k]];
      task.weight2 = second;
    }
    if (!task.fresh) {
      clear(grad1, known->paths1, task.stride1, task.dimension);
      clear(grad2, known->paths2, task.stride2, task.dimension);
    }
    done = !bs_backward(&task);
  } else {
    task.ends = place ? first : values;
    done = !bs_forward(&task) && bs_within(task.ends, task.pairs, known->most);
    if (place)
      for (int64_t k = 0; k < task.pairs; ++k) values[place[k]] = first[k];
    if (mirror)
      for (int64_t k = 0; k < task.pairs; ++k) values[mirror[k]] = first[k];
  }
  free(many);
  return done ? 0 : -1;
}
