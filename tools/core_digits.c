/* Values and gradients of the core without Python, for C libraries that no Python is at hand for: all bits of kernels of the same
   paths, and of their gradients, which must be those of a build with another C library.
   usage: core_digits [INSTRUCTION SET]; compiled with dispatch.c and with kernels.c for each instruction set, as meson.build does */
#include "bs.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAIRS = 5, LENGTH1 = 13, LENGTH2 = 70, DIMENSION = 2 };

static double path1[PAIRS * LENGTH1 * DIMENSION], path2[PAIRS * LENGTH2 * DIMENSION];
static double grad1[PAIRS * LENGTH1 * DIMENSION], grad2[PAIRS * LENGTH2 * DIMENSION], ends[PAIRS], weights[PAIRS];
static int64_t own[PAIRS];
static uint8_t out_of_range[PAIRS];

/* Steps in eighths, of both signs, from a linear congruence: exact in binary. */
static void walk(double *path, int count, int length, double scale) {
  static uint32_t state = 1;
  for (int n = 0; n < count; ++n)
    for (int i = 0; i < length; ++i)
      for (int d = 0; d < DIMENSION; ++d) {
        state = state * 1664525u + 1013904223u;
        const double step = ((int)(state >> 28) - 7.5) / 8 * scale;
        path[(n * length + i) * DIMENSION + d] = i ? path[(n * length + i - 1) * DIMENSION + d] + step : 0;
      }
}

static void print(const char *name, const double *values, int count) {
  for (int i = 0; i < count; ++i) printf("%s %d %a\n", name, i, values[i]);
}

int main(int argc, char **argv) {
  const int32_t never = 0;
  if (argc > 1 && bs_set_isa(argv[1])) return printf("%s cannot be run here\n", argv[1]), 1;
  walk(path1, PAIRS, LENGTH1, 0.25);
  walk(path2, PAIRS, LENGTH2, 0.125);
  for (int k = 0; k < PAIRS; ++k) own[k] = k, weights[k] = 1;
  for (int kernel = BS_LINEAR; kernel <= BS_RATIONAL_QUADRATIC; ++kernel)
    for (int careful = 0; careful < 2; ++careful) {
      bs_task task = {.length1 = LENGTH1, .length2 = LENGTH2, .dimension = DIMENSION, .depth = 4, .dyadic1 = 1,
                      .static_kernel = kernel, .parameter = {1, 1, 1, 1}, .careful = careful,
                      .pairs = PAIRS, .index1 = own, .index2 = own, .path1 = path1, .path2 = path2, .stride1 = LENGTH1, .stride2 = LENGTH2,
                      .ends = ends, .out_of_range = out_of_range, .weight1 = weights, .weight2 = weights, .grad1 = grad1, .grad2 = grad2,
                      .stop = &never};
      memset(grad1, 0, sizeof grad1);
      memset(grad2, 0, sizeof grad2);
      for (int backward = 0; backward < 2; ++backward) {
        task.workspace = malloc((size_t)bs_workspace(&task, backward));
        printf("kernel %d careful %d out of range %d\n", kernel, careful, (int)(backward ? bs_backward : bs_forward)(&task));
        free(task.workspace);
      }
      print("value", ends, PAIRS);
      print("gradient", grad1, PAIRS * LENGTH1 * DIMENSION);
      print("gradient", grad2, PAIRS * LENGTH2 * DIMENSION);
    }
  return 0;
}
