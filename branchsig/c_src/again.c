/* Problems that come again with other arrays: one call from Python does all that such a call takes. */
#include "bs.h"
#include <stdlib.h>
#include <string.h>

enum { FEW = 256 }; /* pairs whose flags lie on the stack */

/* see core.cdef */
int64_t bs_again(const bs_task *known, const double *path1, const double *path2, double *ends, const double *weights, double *grad1,
                 double *grad2, void *workspace, int64_t room, double most) {
  bs_task task = *known;
  const int64_t size = bs_workspace(&task, weights != NULL);
  if (size > room) return size;
  uint8_t few[FEW], *flags = task.pairs <= FEW ? few : malloc((size_t)task.pairs);
  if (!flags) return -1;
  memset(flags, 0, (size_t)task.pairs);
  task.path1 = path1;
  task.path2 = path2;
  task.ends = ends;
  task.weight1 = task.weight2 = weights;
  task.grad1 = grad1;
  task.grad2 = grad2;
  task.workspace = workspace;
  task.out_of_range = flags;
  const int done = weights ? !bs_backward(&task) : !bs_forward(&task) && bs_within(ends, task.pairs, most);
  if (flags != few) free(flags);
  return done ? 0 : -1;
}
