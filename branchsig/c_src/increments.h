/* Increments of the static kernel, one row of cells at a time, and their gradients with respect to both paths.

   g(i, j) = kappa(x_{i+1}, y_{j+1}) - kappa(x_i, y_{j+1}) - kappa(x_{i+1}, y_j) + kappa(x_i, y_j)

   The linear kernels need only the steps of the paths: g = scale^2 <x_{i+1} - x_i, y_{j+1} - y_j>. All others are a function
   of b = <x, y> (polynomial) or of b = |x - y|^2 (radial), and kappa' below is the factor of their gradients:
   d kappa / d x = kappa' y or kappa' (x - y). A row of kappa is kept, so each value is computed once a sweep.

   One pair per lane: y is packed as [points or steps][dimension] registers, x is gathered row by row. */
#ifndef BS_INCREMENTS_H
#define BS_INCREMENTS_H

#include "bs.h"
#include "elementary.h"
#include <math.h>

enum { BS_GIVEN, BS_LINEAR, BS_POLYNOMIAL, BS_RBF, BS_MATERN12, BS_MATERN32, BS_MATERN52, BS_RATIONAL_QUADRATIC };

typedef struct {
  const bs_task *task;
  const real *x[W], *y[W]; /* the paths of each lane, or its increments in x */
  int uniform;             /* every lane has the same first path */
  int gradient;            /* kappa' is wanted too */
  vec *y_packed;           /* steps (linear) or points of y */
  vec *x_row;              /* step i (linear) or point i of x */
  vec *kappa, *slope;      /* kappa and kappa' at (x_i, y_j), for the latest i */
  vec *fresh, *fresh_slope;
  vec *corner;             /* gradient of the row of cells below the latest one, differenced along the row */
  vec *grad_x, *grad_y;    /* per lane, steps or points, as y_packed */
} increments;

BS_INLINE int is_linear(const bs_task *task) { return task->static_kernel == BS_LINEAR; }

static void pack_second_path(increments *in) {
  const int64_t d = in->task->dimension, n = in->task->length2 - is_linear(in->task);
  for (int w = 0; w < W; ++w) {
    const real *y = in->y[w];
    real *to = (real *)in->y_packed + w;
    if (is_linear(in->task))
      for (int64_t k = 0; k < n * d; ++k) to[k * W] = y[k + d] - y[k];
    else
      for (int64_t k = 0; k < n * d; ++k) to[k * W] = y[k];
  }
}

/* step i (linear: times scale^2 and the factor of the sweep, see below) or point i of the first paths */
static void gather_first_path(increments *in, int64_t i, real factor) {
  const int64_t d = in->task->dimension;
  const int linear = is_linear(in->task);
  if (in->uniform) {
    const real *x = in->x[0] + i * d;
    for (int64_t k = 0; k < d; ++k) in->x_row[k] = splat(linear ? (x[k + d] - x[k]) * factor : x[k]);
    return;
  }
  for (int w = 0; w < W; ++w) {
    const real *x = in->x[w] + i * d;
    real *to = (real *)in->x_row + w;
    for (int64_t k = 0; k < d; ++k) to[k * W] = linear ? (x[k + d] - x[k]) * factor : x[k];
  }
}

/* kappa and kappa' from b, see the table at the top */
BS_INLINE void profile(const bs_task *task, int kernel, vec b, vec *kappa, vec *slope) {
  const real p0 = (real)task->parameter[0], p1 = (real)task->parameter[1], p2 = (real)task->parameter[2];
  switch (kernel) {
    case BS_POLYNOMIAL: { /* scale (b + gamma)^degree */
      vec base = b + p1;
      vec power; /* base^(degree - 1) */
      if (p0 == (real)(int)p0 && p0 >= 1 && p0 <= 64) {
        power = whole_power(base, (int)p0 - 1);
        *kappa = p2 * (power * base);
      } else {
        vec log_base = logarithm(base);
        power = exponential((p0 - 1) * log_base);
        *kappa = p2 * exponential(p0 * log_base);
      }
      *slope = p2 * p0 * power;
      return;
    }
    case BS_RBF: /* exp(-b / sigma) */
      *kappa = exponential(-b / p0);
      *slope = *kappa * (-2 / p0);
      return;
    case BS_MATERN12: { /* exp(-r / sigma), r = sqrt(b); no slope where the points coincide */
      vec r = square_root(b);
      *kappa = exponential(-r / p0);
      *slope = choose(b == splat(0), splat(0), -*kappa / (p0 * r));
      return;
    }
    case BS_MATERN32: { /* (1 + z) exp(-z), z = sqrt(3) r / sigma */
      vec z = square_root(b) * ((real)1.7320508075688772 / p0), e = exponential(-z);
      *kappa = ((real)1 + z) * e;
      *slope = e * (-3 / (p0 * p0));
      return;
    }
    case BS_MATERN52: { /* (1 + z + z^2 / 3) exp(-z), z = sqrt(5) r / sigma */
      vec z = square_root(b) * ((real)2.23606797749979 / p0), e = exponential(-z);
      *kappa = ((real)1 + z + z * z * (real)(1.0 / 3)) * e;
      *slope = ((real)1 + z) * e * (-5 / (3 * p0 * p0));
      return;
    }
    default: { /* BS_RATIONAL_QUADRATIC: (1 + b / (2 alpha sigma^2))^-alpha */
      vec base = (real)1 + b / (2 * p1 * p0 * p0), log_base = logarithm(base);
      *kappa = exponential(-p1 * log_base);
      *slope = *kappa / base * (-1 / (p0 * p0));
    }
  }
}

BS_INLINE void kappa_row_of(increments *in, int kernel, int64_t d) {
  const int64_t n = in->task->length2;
  const int radial = kernel != BS_POLYNOMIAL;
  for (int64_t j = 0; j < n; ++j) {
    const vec *y = in->y_packed + j * d;
    vec b = splat(0), slope;
    for (int64_t k = 0; k < d; ++k) {
      if (radial) {
        vec difference = in->x_row[k] - y[k];
        b += difference * difference;
      } else {
        b += in->x_row[k] * y[k];
      }
    }
    profile(in->task, kernel, b, &in->fresh[j], &slope);
    if (in->gradient) in->fresh_slope[j] = slope;
  }
}

/* kappa(x_i, y_j) for all j into `fresh` */
static void kappa_row(increments *in, int64_t i) {
  const int64_t d = in->task->dimension;
  gather_first_path(in, i, 1);
  switch (in->task->static_kernel) {
    case BS_POLYNOMIAL: kappa_row_of(in, BS_POLYNOMIAL, d); break;
    case BS_RBF: kappa_row_of(in, BS_RBF, d); break;
    case BS_MATERN12: kappa_row_of(in, BS_MATERN12, d); break;
    case BS_MATERN32: kappa_row_of(in, BS_MATERN32, d); break;
    case BS_MATERN52: kappa_row_of(in, BS_MATERN52, d); break;
    default: kappa_row_of(in, BS_RATIONAL_QUADRATIC, d);
  }
}

static void swap(vec **a, vec **b) {
  vec *t = *a;
  *a = *b;
  *b = t;
}

static void keep_fresh(increments *in) {
  swap(&in->kappa, &in->fresh);
  swap(&in->slope, &in->fresh_slope);
}

/* Before the first row going down (from = 0) or up (from = length1 - 1). */
static void start_rows(increments *in, int64_t from) {
  if (in->task->static_kernel == BS_GIVEN || is_linear(in->task)) return;
  kappa_row(in, from);
  keep_fresh(in);
}

BS_INLINE void linear_row(increments *in, int64_t d, int64_t n, vec *g) {
  vec x[8];
  for (int64_t k = 0; k < d; ++k) x[k] = in->x_row[k];
  for (int64_t j = 0; j < n; ++j) {
    const vec *y = in->y_packed + j * d;
    vec sum = x[0] * y[0];
    for (int64_t k = 1; k < d; ++k) sum += x[k] * y[k];
    g[j] = sum;
  }
}

/* factor times the increments of row i into g. Rows come in order: down from 0, or (up) from the last one. */
static void increment_row(increments *in, int64_t i, int up, real factor, vec *g) {
  const int64_t d = in->task->dimension, n = in->task->length2 - 1;
  if (in->task->static_kernel == BS_GIVEN) {
    for (int w = 0; w < W; ++w) {
      const real *row = in->x[w] + i * n;
      real *to = (real *)g + w;
      for (int64_t j = 0; j < n; ++j) to[j * W] = row[j] * factor;
    }
    return;
  }
  if (is_linear(in->task)) {
    gather_first_path(in, i, factor * (real)in->task->parameter[0]);
    switch (d) {
      case 1: linear_row(in, 1, n, g); return;
      case 2: linear_row(in, 2, n, g); return;
      case 3: linear_row(in, 3, n, g); return;
      case 4: linear_row(in, 4, n, g); return;
      case 5: linear_row(in, 5, n, g); return;
      case 6: linear_row(in, 6, n, g); return;
      case 7: linear_row(in, 7, n, g); return;
      case 8: linear_row(in, 8, n, g); return;
    }
    for (int64_t j = 0; j < n; ++j) {
      const vec *y = in->y_packed + j * d;
      vec sum = in->x_row[0] * y[0];
      for (int64_t k = 1; k < d; ++k) sum += in->x_row[k] * y[k];
      g[j] = sum;
    }
    return;
  }
  kappa_row(in, up ? i : i + 1);
  const vec *high = up ? in->kappa : in->fresh, *low = up ? in->fresh : in->kappa;
  const vec sized = splat(factor);
  vec before = high[0] - low[0];
  for (int64_t j = 0; j < n; ++j) {
    vec next = high[j + 1] - low[j + 1];
    g[j] = (next - before) * sized;
    before = next;
  }
  keep_fresh(in);
}

/* gradient at point i from d(out)/d kappa(x_i, y_j) = node[j]; the row of kappa' at hand is `slope` */
static void node_gradient(increments *in, int64_t i, const vec *node, const vec *slope) {
  const int64_t d = in->task->dimension, n = in->task->length2;
  const int radial = in->task->static_kernel != BS_POLYNOMIAL;
  gather_first_path(in, i, 1);
  for (int64_t k = 0; k < d; ++k) {
    vec x = in->x_row[k], sum = splat(0);
    for (int64_t j = 0; j < n; ++j) {
      vec along = node[j] * slope[j], y = in->y_packed[j * d + k];
      if (radial) {
        vec part = along * (x - y);
        sum += part;
        in->grad_y[j * d + k] -= part;
      } else {
        sum += along * y;
        in->grad_y[j * d + k] += along * x;
      }
    }
    in->grad_x[i * d + k] = sum;
  }
}

/* d(out)/d kappa at the nodes of row i + 1 from the gradient of the cells of row i and of row i + 1 (kept in `corner`),
   then the gradient there. `scratch` holds length2 registers. */
static void finish_node_row(increments *in, int64_t i, const vec *cell_gradient, const vec *slope, vec *scratch) {
  const int64_t n = in->task->length2;
  for (int64_t j = 0; j < n; ++j) {
    vec left = j > 0 && cell_gradient ? cell_gradient[j - 1] : splat(0);
    vec right = j + 1 < n && cell_gradient ? cell_gradient[j] : splat(0);
    vec difference = left - right;
    scratch[j] = difference - in->corner[j];
    in->corner[j] = difference;
  }
  node_gradient(in, i, scratch, slope);
}

BS_INLINE void linear_gradient(increments *in, int64_t i, int64_t d, int64_t n, const vec *cell_gradient) {
  vec x[8], sum[8];
  for (int64_t k = 0; k < d; ++k) {
    x[k] = in->x_row[k];
    sum[k] = splat(0);
  }
  for (int64_t j = 0; j < n; ++j) {
    const vec *y = in->y_packed + j * d;
    vec *grad_y = in->grad_y + j * d, g = cell_gradient[j];
    for (int64_t k = 0; k < d; ++k) {
      sum[k] += g * y[k];
      grad_y[k] += g * x[k];
    }
  }
  for (int64_t k = 0; k < d; ++k) in->grad_x[i * d + k] = sum[k];
}

/* Takes the gradient of the cells of row i; rows come in order, upwards. */
static void increment_row_gradient(increments *in, int64_t i, const vec *cell_gradient, vec *scratch) {
  const int64_t d = in->task->dimension, n = in->task->length2 - 1;
  if (is_linear(in->task)) {
    gather_first_path(in, i, 1);
    switch (d) {
      case 1: linear_gradient(in, i, 1, n, cell_gradient); return;
      case 2: linear_gradient(in, i, 2, n, cell_gradient); return;
      case 3: linear_gradient(in, i, 3, n, cell_gradient); return;
      case 4: linear_gradient(in, i, 4, n, cell_gradient); return;
      case 5: linear_gradient(in, i, 5, n, cell_gradient); return;
      case 6: linear_gradient(in, i, 6, n, cell_gradient); return;
      case 7: linear_gradient(in, i, 7, n, cell_gradient); return;
      case 8: linear_gradient(in, i, 8, n, cell_gradient); return;
    }
    for (int64_t k = 0; k < d; ++k) {
      vec x = in->x_row[k], sum = splat(0);
      for (int64_t j = 0; j < n; ++j) {
        sum += cell_gradient[j] * in->y_packed[j * d + k];
        in->grad_y[j * d + k] += cell_gradient[j] * x;
      }
      in->grad_x[i * d + k] = sum;
    }
    return;
  }
  /* increment_row has moved kappa on to row i: that of row i + 1 lies in `fresh` */
  finish_node_row(in, i + 1, cell_gradient, in->fresh_slope, scratch);
  if (i == 0) finish_node_row(in, 0, NULL, in->slope, scratch);
}

/* Before the first increment_row_gradient. */
static void start_gradient(increments *in) {
  const int64_t d = in->task->dimension, n = in->task->length2 - is_linear(in->task);
  if (in->task->static_kernel == BS_GIVEN) return;
  for (int64_t k = 0; k < n * d; ++k) in->grad_y[k] = splat(0);
  if (!is_linear(in->task))
    for (int64_t j = 0; j < n; ++j) in->corner[j] = splat(0);
}

/* to[i] += weight times the gradient of one lane with respect to path point i; a gradient by steps is turned into one by points */
static void flush_gradient(const vec *gradient, int lane, int64_t length, int64_t dimension, int by_steps, real weight, real *to) {
  const real *from = (const real *)gradient + lane;
  if (!by_steps) {
    for (int64_t k = 0; k < length * dimension; ++k) to[k] += weight * from[k * W];
    return;
  }
  for (int64_t k = 0; k < (length - 1) * dimension; ++k) {
    real step = weight * from[k * W];
    to[k] -= step;
    to[k + dimension] += step;
  }
}

#endif
