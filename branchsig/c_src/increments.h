/* Increments of the static kernel, one row of cells at a time, and their gradients with respect to both paths.

   g(i, j) = kappa(x_{i+1}, y_{j+1}) - kappa(x_i, y_{j+1}) - kappa(x_{i+1}, y_j) + kappa(x_i, y_j)

   The linear kernels need only the steps of the paths: g = <scale (x_{i+1} - x_i), scale (y_{j+1} - y_j)>. All others are a function
   of b = <x, y> (polynomial) or of b = |x - y|^2 (radial), and kappa' below is the factor of their gradients:
   d kappa / d x = kappa' y or kappa' (x - y). A row of kappa is kept, so each value is computed once a sweep. They may be
   dilated: g times a factor of x and one of y.

   Differences of kappa have an error of some units in the last place of kappa. Where that is too much, increments are made from the
   steps of the paths (corners.h), and a row of b is kept in the place of kappa. Every pair decides for itself (`kind_of_pair`), and a
   tile holds pairs of one kind.

   One pair per lane: y is packed as [points or steps][dimension] registers, x is gathered row by row. */
#ifndef BS_INCREMENTS_H
#define BS_INCREMENTS_H

#include "bs.h"
#include "corners.h"
#include "sweep.h"

typedef struct {
  const bs_task *task;
  const double *x[W], *y[W]; /* the paths of each lane, or its increments in x */
  const double *centre[W]; /* the first point of the first path, where x is but a part of it as well */
  double *given[W];        /* where the gradient of increments goes that are handed in, or NULL */
  int64_t given_row;       /* from one row of these to the next */
  int64_t points1[W], points2[W]; /* how many points of them there are: behind the last one a path stays where it is */
  int uniform;             /* every lane has the same first path */
  int ragged;              /* a path has fewer points than the tile has room for */
  ivec still;              /* lanes with a path of one point, which have no increments even where the static kernel is not a number */
  int any_still;
  int64_t stride;          /* from one row of cells to the next, of increments and of their gradient */
  vec scale;               /* the factors of both paths of a lane, multiplied: 1 where the kernel is not dilated */
  vec d_scale;             /* dilated: the gradient with respect to it, times it */
  int gradient;            /* kappa' is wanted too */
  vec *y_packed;           /* steps (linear) or points of y */
  vec *x_rows;             /* steps (linear) of BAND rows of x, or points of one more */
  vec *kappa, *fresh;      /* kappa(x_i, y_j), by steps b, for the last i of the band before, and for that of this one */
  int64_t slope_rows;      /* rows of slopes that there is room for */
  vec *slopes;             /* kappa' at (x_i, y_j) for the latest rows i, row i in slot i % slope_rows */
  const vec *origin;       /* radial: the first point of y, */
  vec *x_centred, *y_centred; /* points less that */
  vec *weights;            /* of the points of BAND rows in a block */
  vec *corner;             /* gradient of the row of cells below the latest one, differenced along the row */
  int joined;              /* rows above and columns on both sides belong to the same pairs, in other lanes or at other times; behind the
                              last cell of a row of the gradient then stands that of the next one */
  ivec leftmost, topmost;  /* joined: lanes that have the first column, and the first row, of their pair */
  vec *grad_x, *grad_y;    /* per lane, steps or points, as y_packed */
  int parameters;          /* gradients with respect to so many parameters of the static kernel are wanted */
  vec d_parameter[2];      /* these, as finish_parameters takes them */
  vec *squares;            /* for them, radial: b where slopes has kappa', or NULL where it is made again */
  int64_t to_changes, layer; /* by steps: the change of an increment with a parameter lies so far from it, and from one to the next */
} increments;

BS_INLINE int is_linear(const bs_task *task) { return task->static_kernel == BS_LINEAR; }
BS_INLINE int is_radial(const bs_task *task) { return task->static_kernel >= BS_RBF; }

/* Parameters that static kernels have gradients with respect to. */
BS_INLINE int parameters_of(const bs_task *task) {
  return 1 + (task->static_kernel == BS_POLYNOMIAL || task->static_kernel == BS_RATIONAL_QUADRATIC);
}

/* Channels that are coordinates. */
BS_INLINE int64_t coordinates(const bs_task *task) { return task->dimension - task->dilated; }

BS_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The path of pair k. */
BS_INLINE int64_t path_of(const int64_t *index, int64_t k) { return index ? index[k] : k; }

BS_INLINE int64_t points_of(const int64_t *lengths, const int64_t *index, int64_t k, int64_t length) {
  return lengths ? lengths[path_of(index, k)] : length;
}

/* to[k], one lane from each: from[w][k], or (apart > 0) from[w][k + apart] - from[w][k] */
static void into_lanes(const double *const from[W], int64_t count, int64_t apart, vec *to) {
  int64_t k = 0;
  for (; k + W <= count; k += W) {
    vec row[W];
    for (int w = 0; w < W; ++w) {
      row[w] = load(from[w] + k);
      if (apart) row[w] = load(from[w] + k + apart) - row[w];
    }
    transpose(row);
    for (int w = 0; w < W; ++w) to[k + w] = row[w];
  }
  if (k == count) return;
  vec row[W];
  for (int w = 0; w < W; ++w) {
    row[w] = load_part(from[w] + k, count - k);
    if (apart) row[w] = load_part(from[w] + k + apart, count - k) - row[w];
  }
  transpose(row);
  for (int w = 0; k + w < count; ++w) to[k + w] = row[w];
}

/* The same of lanes that have less: of lane w so many values, the rest of which are 0. */
static void parts_into_lanes(const double *const from[W], const int64_t there[W], int64_t count, int64_t apart, vec *to) {
  int64_t common = count;
  for (int w = 0; w < W; ++w) common = least(common, there[w]);
  if (common < 0) common = 0;
  int64_t k = common / W * W;
  into_lanes(from, k, apart, to);
  for (; k < count; k += W) {
    vec row[W];
    for (int w = 0; w < W; ++w) {
      const int64_t own = least(W, there[w] - k);
      row[w] = splat(0);
      if (own <= 0) continue;
      row[w] = load_first(from[w] + k, own);
      if (apart) row[w] = load_first(from[w] + k + apart, own) - row[w];
    }
    transpose(row);
    for (int w = 0; w < W && k + w < count; ++w) to[k + w] = row[w];
  }
}

/* Steps of a linear kernel times its scale, of both paths, so that the square of the scale need not be a finite number above 0. */
static void scale_steps(const bs_task *task, int64_t count, vec *steps) {
  const double scale = task->parameter[0];
  if (scale == 1) return;
  for (int64_t k = 0; k < count; ++k) steps[k] *= scale;
}

/* The points of y, or (linear) its steps, of every lane. Behind its end a path stays where it is. */
static void pack_second_path(increments *in) {
  const int64_t d = coordinates(in->task), channels = in->task->dimension, linear = is_linear(in->task);
  const int64_t rows = in->task->length2 - linear;
  int64_t there[W];
  for (int w = 0; w < W; ++w) there[w] = channels == d ? (in->points2[w] - linear) * d : 0;
  parts_into_lanes(in->y, there, rows * d, linear ? d : 0, in->y_packed);
  for (int w = 0; w < W && !linear; ++w) {
    const int64_t last = in->points2[w] - 1;
    double *to = (double *)in->y_packed + w;
    for (int64_t j = there[w] / d; j < rows; ++j)
      for (int64_t k = 0; k < d; ++k) to[(j * d + k) * W] = in->y[w][least(j, last) * channels + k];
  }
  if (linear) scale_steps(in->task, rows * d, in->y_packed);
}

/* Point i of the first paths to row `slot` of x_rows. */
static void gather_point(increments *in, int64_t i, int64_t slot) {
  const int64_t d = coordinates(in->task);
  const double *x[W];
  for (int w = 0; w < W; ++w) x[w] = in->x[w] + least(i, in->points1[w] - 1) * in->task->dimension;
  if (in->uniform)
    for (int64_t k = 0; k < d; ++k) in->x_rows[slot * d + k] = splat(x[0][k]);
  else
    into_lanes(x, d, 0, in->x_rows + slot * d);
}

/* Steps of the first paths: `rows` of them from `first` on into x_rows. */
static void gather_steps(increments *in, int64_t first, int64_t rows) {
  const int64_t d = in->task->dimension;
  const double *x[W];
  int64_t there[W];
  for (int w = 0; w < W; ++w) {
    x[w] = in->x[w] + first * d;
    there[w] = (in->points1[w] - 1 - first) * d;
  }
  if (in->uniform)
    for (int64_t k = 0; k < rows * d; ++k) in->x_rows[k] = splat(k < there[0] ? x[0][k + d] - x[0][k] : 0);
  else
    parts_into_lanes(x, there, rows * d, d, in->x_rows);
  scale_steps(in->task, rows * d, in->x_rows);
}

BS_INLINE int is_integer(double a) { return a == floor(a); }

/* From this alpha on, a rational quadratic kernel is 0 to rounding at distances whose squares leave the range of doubles; one that falls
   more slowly is not a number there. */
#define BS_FALLING_ALPHA 0.1

/* Forms of profile of its own for exponents that are no small whole number: for the compiler a loop over points has but one. */
enum { BS_OTHER_POLYNOMIAL = BS_RATIONAL_QUADRATIC + 1, BS_OTHER_RATIONAL_QUADRATIC };

BS_INLINE int is_polynomial(int kernel) { return kernel == BS_POLYNOMIAL || kernel == BS_OTHER_POLYNOMIAL; }

static int profile_of(const bs_task *task) {
  const int kernel = task->static_kernel;
  if (kernel != BS_POLYNOMIAL && kernel != BS_RATIONAL_QUADRATIC) return kernel;
  const double exponent = task->parameter[kernel == BS_RATIONAL_QUADRATIC];
  if (is_integer(exponent) && exponent >= 1 && exponent <= 64) return kernel;
  return kernel == BS_POLYNOMIAL ? BS_OTHER_POLYNOMIAL : BS_OTHER_RATIONAL_QUADRATIC;
}

/* kappa and, where `slope` is not NULL, kappa' from b: see the table at the top. Parameters enter by their reciprocals. */
BS_INLINE vec profile(int kernel, const double *parameter, vec b, vec *slope) {
  const double sigma = parameter[0], over_sigma = 1 / sigma;
  switch (kernel) {
    case BS_POLYNOMIAL: { /* scale (b + gamma)^degree */
      const double degree = parameter[0], scale = parameter[2];
      vec base = b + parameter[1], power = whole_power(base, (int)degree - 1);
      if (slope) *slope = scale * degree * power;
      return scale * (power * base);
    }
    case BS_OTHER_POLYNOMIAL: {
      const double degree = parameter[0], scale = parameter[2];
      const int whole = is_integer(degree), even = fmod(degree, 2) == 0;
      if (degree == 0) {
        if (slope) *slope = splat(0);
        return splat(scale);
      }
      const vec base = b + parameter[1], log_base = logarithm(whole ? absolute(base) : base);
      vec power = exponential((degree - 1) * log_base), kappa = scale * exponential(degree * log_base); /* power: base^(degree - 1) */
      if (whole && even)
        power = choose(base < splat(0), -power, power);
      else if (whole)
        kappa = choose(base < splat(0), -kappa, kappa);
      if (slope) *slope = scale * degree * power;
      return kappa;
    }
    case BS_RBF: { /* exp(-b / sigma) */
      vec kappa = decay(b * -over_sigma);
      if (slope) *slope = kappa * (-2 * over_sigma);
      return kappa;
    }
    case BS_MATERN12: { /* exp(-r / sigma), r = sqrt(b); in the place of kappa' it gives r, for `matern12_slope` */
      const vec r = square_root(b);
      if (slope) *slope = r;
      return decay(r * -over_sigma);
    }
    case BS_MATERN32: { /* (1 + z) exp(-z), z = sqrt(3) r / sigma */
      vec z = minimum(splat(BS_FARTHEST), square_root(b) * (1.7320508075688772 * over_sigma)), e = decay(-z);
      if (slope) *slope = e * (-3 * over_sigma * over_sigma);
      return (1.0 + z) * e;
    }
    case BS_MATERN52: { /* (1 + z + z^2 / 3) exp(-z), z = sqrt(5) r / sigma */
      vec z = minimum(splat(BS_FARTHEST), square_root(b) * (2.23606797749979 * over_sigma)), e = decay(-z);
      if (slope) *slope = (1.0 + z) * e * (-5.0 / 3 * over_sigma * over_sigma);
      return (1.0 + z + z * z * (1.0 / 3)) * e;
    }
    case BS_RATIONAL_QUADRATIC: { /* (1 + b / (2 alpha sigma^2))^-alpha */
      const double alpha = parameter[1];
      vec base = 1.0 + b * (0.5 / alpha / sigma / sigma), over_base = 1 / base, kappa = whole_power(over_base, (int)alpha);
      if (slope) *slope = kappa * over_base * -(over_sigma * over_sigma);
      return kappa;
    }
    default: { /* BS_OTHER_RATIONAL_QUADRATIC; log(1 + u), what 1 + u has lost of u made up for */
      const double alpha = parameter[1], farthest = alpha >= BS_FALLING_ALPHA ? 0x1p1023 : __builtin_nan("");
      vec u = b * (0.5 / alpha / sigma / sigma);
      u = choose(u > splat(0x1p1023), splat(farthest), u);
      const vec base = 1.0 + u, over_base = 1 / base;
      vec kappa = exponential(-alpha * (logarithm(base) + (u - (base - 1.0)) * over_base));
      if (slope) *slope = kappa * over_base * -(over_sigma * over_sigma);
      return kappa;
    }
  }
}

/* kappa' of Matern 1/2 from kappa and r, 0 where the points coincide, or are infinitely far apart. In the loop that makes kappa it would
   have to wait for it. */
BS_INLINE vec matern12_slope(const double *parameter, vec kappa, vec r) {
  return choose(r == splat(0), splat(0), kappa * (-1 / parameter[0]) * reciprocal(minimum(splat(1e300), r)));
}

/* Loops over channels are unrolled, and what they take of x held in registers, for runs of no more than so many. Paths of more
   channels go in runs, a short one first. */
enum { RUN = 8 };

BS_INLINE int64_t first_run(int64_t d) { return (d - 1) % RUN + 1; }

/* BS_OF_RUN(run, d, from) for every run of the channels of points that lie d apart. How many they are is known to the compiler, and
   so is d where there is but one run. */
#define BS_CASE(run) \
  case run: if (apart == run) BS_OF_RUN(run, run, 0); else BS_OF_RUN(run, apart, 0); break;
#define BS_FOR_RUNS(channels, d)                                                              \
  const int64_t apart = d, lead = first_run(channels);                                        \
  switch (lead) {                                                                             \
    BS_CASE(1) BS_CASE(2) BS_CASE(3) BS_CASE(4) BS_CASE(5) BS_CASE(6) BS_CASE(7) BS_CASE(RUN) \
  }                                                                                           \
  for (int64_t from = lead; from < channels; from += RUN) BS_OF_RUN(RUN, apart, from);

/* What the channels k, k + 1, ... of a run add to b. */
BS_INLINE vec b_of_run(int radial, int64_t run, const vec *x, const vec *y, vec b) {
  for (int64_t k = 0; k < run; ++k)
    if (radial) {
      const vec difference = x[k] - y[k];
      b += difference * difference;
    } else {
      b += x[k] * y[k];
    }
  return b;
}

BS_INLINE void b_row_of(const increments *in, int64_t run, int64_t d, int64_t from, int64_t slot, int64_t first, int64_t last, vec *b) {
  const vec *y = in->y_packed + first * d + from;
  vec x[RUN];
  for (int64_t k = 0; k < run; ++k) x[k] = in->x_rows[slot * d + from + k];
  for (int64_t j = 0; j < last - first; ++j, y += d) {
    const vec before = from ? b[j] : splat(0);
    b[j] = is_radial(in->task) ? b_of_run(1, run, x, y, before) : b_of_run(0, run, x, y, before);
  }
}

/* b of so many channels, the first ones. */
static void b_row(const increments *in, int64_t channels, int64_t slot, int64_t first, int64_t last, vec *b) {
  const int64_t d = coordinates(in->task);
#define BS_OF_RUN(run, d, from) b_row_of(in, run, d, from, slot, first, last, b)
  BS_FOR_RUNS(channels, d)
#undef BS_OF_RUN
}

/* kappa(x_i, y_j) for first <= j < last, x_i in row `slot` of x_rows, of paths with so many channels or, where that is none, with
   more than RUN; `more`: kappa' too (1), and b (2). The parameters are copied, so that what is made of them need not be made again
   for every value */
BS_INLINE void kappa_row_of(increments *in, int kernel, int64_t channels, int more, int64_t i, int64_t slot, int64_t first,
                            int64_t last, vec *kappa) {
  const double parameter[] = {in->task->parameter[0], in->task->parameter[1], in->task->parameter[2]};
  const int64_t d = channels ? channels : coordinates(in->task), run = channels ? channels : RUN;
  const vec *y = in->y_packed + first * d + (d - run);
  const int64_t kept = i % in->slope_rows * in->task->length2 + first;
  vec *slopes = more ? in->slopes + kept : NULL, *squares = more == 2 ? in->squares + kept : NULL, x[RUN];
  if (!channels) b_row(in, d - RUN, slot, first, last, kappa);
  for (int64_t k = 0; k < run; ++k) x[k] = in->x_rows[slot * d + (d - run) + k];
  for (int64_t j = 0; j < last - first; ++j, y += d) {
    const vec b = b_of_run(!is_polynomial(kernel), run, x, y, channels ? splat(0) : kappa[j]);
    kappa[j] = profile(kernel, parameter, b, slopes ? slopes + j : NULL);
    if (squares) squares[j] = b;
  }
  if (!slopes || kernel != BS_MATERN12) return;
  for (int64_t j = 0; j < last - first; ++j) slopes[j] = matern12_slope(parameter, kappa[j], slopes[j]);
}

BS_INLINE void kappa_row_with(increments *in, int kernel, int more, int64_t i, int64_t slot, int64_t first, int64_t last,
                              vec *kappa) {
  switch (coordinates(in->task)) {
    case 1: kappa_row_of(in, kernel, 1, more, i, slot, first, last, kappa); break;
    case 2: kappa_row_of(in, kernel, 2, more, i, slot, first, last, kappa); break;
    case 3: kappa_row_of(in, kernel, 3, more, i, slot, first, last, kappa); break;
    case 4: kappa_row_of(in, kernel, 4, more, i, slot, first, last, kappa); break;
    case 5: kappa_row_of(in, kernel, 5, more, i, slot, first, last, kappa); break;
    case 6: kappa_row_of(in, kernel, 6, more, i, slot, first, last, kappa); break;
    case 7: kappa_row_of(in, kernel, 7, more, i, slot, first, last, kappa); break;
    case RUN: kappa_row_of(in, kernel, RUN, more, i, slot, first, last, kappa); break;
    default: kappa_row_of(in, kernel, 0, more, i, slot, first, last, kappa);
  }
}

#define BS_KAPPA_ROW(name, kernel)                                                                               \
  static void name##_row(increments *in, int64_t i, int64_t slot, int64_t first, int64_t last, vec *kappa) {      \
    if (in->gradient && in->squares && !is_polynomial(kernel))                                                    \
      kappa_row_of(in, kernel, 0, 2, i, slot, first, last, kappa);                                               \
    else if (in->gradient)                                                                                       \
      kappa_row_with(in, kernel, 1, i, slot, first, last, kappa);                                                \
    else                                                                                                         \
      kappa_row_with(in, kernel, 0, i, slot, first, last, kappa);                                                \
  }
BS_KAPPA_ROW(polynomial, BS_POLYNOMIAL)
BS_KAPPA_ROW(rbf, BS_RBF)
BS_KAPPA_ROW(matern12, BS_MATERN12)
BS_KAPPA_ROW(matern32, BS_MATERN32)
BS_KAPPA_ROW(matern52, BS_MATERN52)
BS_KAPPA_ROW(rational_quadratic, BS_RATIONAL_QUADRATIC)
BS_KAPPA_ROW(other_polynomial, BS_OTHER_POLYNOMIAL)
BS_KAPPA_ROW(other_rational_quadratic, BS_OTHER_RATIONAL_QUADRATIC)

/* Increments from the steps of the paths. */

/* Radial kernels: a unit of length, sigma in it, and the largest difference of coordinates, whose square is finite beside it; those
   beyond are as good as infinite. The unit is 1 but for extreme sigma, whose square or its inverse would leave the range of a double. */
typedef struct {
  double unit, sigma, most;
} measure;

/* How increments are made: as differences of kappa, from the steps of the paths, or from those where lengths need a unit, or coordinates
   are as good as infinitely far apart. */
enum { BY_VALUES, BY_STEPS, BY_STEPS_IN_UNITS };

enum { LEAST_LENGTH = -100, MOST_LENGTH = 400, MOST_DIFFERENCE = 500, MOST_RATIO = 400 }; /* exponents of lengths in units */

static int exponent_of_length(const bs_task *task) {
  int exponent;
  frexp(task->parameter[0], &exponent);
  return task->static_kernel == BS_RBF ? exponent >> 1 : exponent;
}

static measure measure_of(const bs_task *task) {
  const int exponent = exponent_of_length(task);
  int shift = exponent < LEAST_LENGTH ? LEAST_LENGTH - exponent : exponent > MOST_LENGTH ? MOST_LENGTH - exponent : 0;
  if (!is_radial(task)) shift = 0;
  if (shift > 1000) shift = 1000;
  const double unit = ldexp(1, shift), sigma = task->parameter[0] * unit;
  const double most = ldexp(1, (int)least(MOST_DIFFERENCE, exponent + shift + MOST_RATIO));
  return (measure){unit, task->static_kernel == BS_RBF ? sigma * unit : sigma, most};
}

BS_INLINE vec in_units(measure by, vec difference) {
  const vec most = splat(by.most);
  return minimum(most, maximum(-most, difference * by.unit)); /* a NaN in the second argument is the result */
}

/* A path leaves its first point by so much, squared and relative to the square of the length that the kernel has there, if differences
   of kappa are to keep their digits: they are off by a unit in the last place of kappa over this. Exponents of 2. */
#define BS_LEAVES 0x1p-6
#define BS_LEAVES_ORIGIN 0x1p-8

/* For gradients of radial kernels: the points of both paths lie within so many lengths of each other that sums of x_i and y_j, weighted,
   have the digits of sums of their differences. */
#define BS_SPREAD 0x1p12

/* No channel of a point is further than `radius` from that of the centre. Where a vector holds several points, so does the centre. */
static int is_near(const double *x, int64_t points, int64_t channels, const double *centre, double radius) {
  const int64_t count = points * channels;
  if (count < W) {
    for (int64_t k = 0; k < count; ++k)
      if (!(fabs(x[k] - centre[k % channels]) <= radius)) return 0;
    return 1;
  }
  double repeated[2 * W];
  for (int64_t k = 0; k < 2 * W && channels < W; ++k) repeated[k] = centre[k % channels];
  vec most = splat(0);
  if (channels < W) {
    const int64_t next = W % channels;
    int64_t at = 0;
    for (int64_t k = 0; k + W < count; k += W) {
      most = maximum(most, absolute(load(x + k) - load(repeated + at)));
      at += at + next < channels ? next : next - channels;
    }
    most = maximum(most, absolute(load(x + count - W) - load(repeated + (count - W) % channels)));
  } else {
    for (int64_t i = 0; i < points; ++i, x += channels) {
      for (int64_t k = 0; k + W < channels; k += W) most = maximum(most, absolute(load(x + k) - load(centre + k)));
      most = maximum(most, absolute(load(x + channels - W) - load(centre + channels - W)));
    }
  }
  return !any_beyond(most, radius);
}

/* The square of the distance of two points, or of one from the origin. */
static double square_of(const double *x, const double *from, int64_t channels) {
  vec sum = splat(0);
  int64_t k = 0;
  for (; k + W <= channels; k += W) {
    vec own = load(x + k);
    if (from) own -= load(from + k);
    sum += own * own;
  }
  double square = 0;
  for (; k < channels; ++k) square += from ? (x[k] - from[k]) * (x[k] - from[k]) : x[k] * x[k];
  for (int w = 0; w < W; ++w) square += sum[w];
  return square;
}

static int leaves(const bs_task *task, const double *x, int64_t points) {
  const int64_t d = coordinates(task), channels = task->dimension;
  double length = task->parameter[0] * BS_LEAVES;
  if (!is_radial(task)) {
    length = (fabs(task->parameter[1]) + square_of(x, NULL, d)) * BS_LEAVES_ORIGIN;
  } else if (task->static_kernel != BS_RBF) {
    length *= task->parameter[0];
  }
  for (int64_t i = points - 1; i > 0; --i)
    if (square_of(x + i * channels, x, d) >= length) return 1;
  return 0;
}

/* All differences of the coordinates of two paths can be squared as they are. */
static int is_in_reach(const bs_task *task, const double *x, int64_t points1, const double *y, int64_t points2) {
  const measure by = measure_of(task);
  return by.unit == 1 && is_near(x, points1, task->dimension, x, 0.25 * by.most) && is_near(y, points2, task->dimension, x, 0.25 * by.most);
}

/* Whether the increments of two paths are made from their steps: where one of them is small beside what differences of kappa resolve, or the
   parameters are extreme. */
static int goes_by_steps(const bs_task *task, const double *x, int64_t points1, const double *y, int64_t points2, int backward) {
  if (is_linear(task)) return 0;
  if (!is_radial(task)) return !leaves(task, x, points1) || !leaves(task, y, points2);
  const int rbf = task->static_kernel == BS_RBF;
  int by_steps = !(task->parameter[0] >= (rbf ? 0x1p-200 : 0x1p-100) && task->parameter[0] <= (rbf ? 0x1p800 : 0x1p400));
  by_steps = by_steps || (task->static_kernel == BS_RATIONAL_QUADRATIC && task->parameter[1] < BS_LEAVES);
  by_steps = by_steps || !leaves(task, x, points1) || !leaves(task, y, points2);
  if (backward && !by_steps) {
    const double sigma = task->parameter[0], radius = 0.5 * BS_SPREAD * (rbf ? sqrt(sigma) : sigma);
    by_steps = !is_near(x, points1, task->dimension, x, radius) || !is_near(y, points2, task->dimension, x, radius);
  }
  return by_steps;
}

/* b at (x_i, y_j) for first <= j < last, x_i in row `slot` of x_rows, in units, and kappa' where it is wanted */
static void base_row(increments *in, int64_t i, int64_t slot, int64_t first, int64_t last, vec *b) {
  const bs_task *task = in->task;
  const measure by = measure_of(task);
  const int form = profile_of(task);
  const double parameter[] = {by.sigma, task->parameter[1], task->parameter[2]};
  const int64_t d = coordinates(task);
  const vec *x = in->x_rows + slot * d, *y = in->y_packed + first * d;
  vec *slopes = in->gradient ? in->slopes + i % in->slope_rows * task->length2 + first : NULL;
  for (int64_t j = 0; j < last - first; ++j, y += d) {
    vec sum = splat(0);
    for (int64_t k = 0; k < d; ++k)
      if (is_radial(task) && task->by_steps == BY_STEPS) {
        const vec u = x[k] - y[k];
        sum += u * u;
      } else if (is_radial(task)) {
        const vec u = in_units(by, x[k] - y[k]);
        sum += u * u;
      } else {
        sum += x[k] * y[k];
      }
    if (slopes) {
      const vec kappa = profile(form, parameter, sum, slopes + j);
      if (form == BS_MATERN12) slopes[j] = matern12_slope(parameter, kappa, slopes[j]);
    }
    if (task->static_kernel == BS_POLYNOMIAL) sum += parameter[1];
    b[j] = sum;
  }
}

/* Difference of v^degree over a cell */
static vec any_power_increment(double degree, corners v) {
  if (degree == 0) return splat(0);
  return is_integer(degree) ? whole_power_increment((int64_t)fmin(degree, 0x1p62), v) : power_increment(degree, v);
}

/* What the corners of b say of the increment and, unless `change` is NULL, of its derivatives with respect to gamma (polynomial), or
   to sigma, times sigma, and to alpha. */
BS_INLINE vec increment_of(const bs_task *task, measure by, corners b, vec *change) {
  if (task->static_kernel == BS_POLYNOMIAL) {
    const double degree = task->parameter[0], scale = task->parameter[2];
    if (change) change[0] = scale * degree * any_power_increment(degree == 0 ? 0 : degree - 1, b);
    return scale * any_power_increment(degree, b);
  }
  if (task->compact && task->static_kernel == BS_RBF && !change) return compact_rbf_increment(1 / by.sigma, b);
  const double alpha = task->parameter[1];
  const vec sign = from_extreme(0, &b);
  vec g;
  switch (task->static_kernel) {
    case BS_RBF: g = rbf_increment(1 / by.sigma, b, change); break;
    case BS_MATERN12: g = matern12_increment(1 / by.sigma, b, change); break;
    case BS_MATERN32: g = matern_increment(0, 1.7320508075688772 / by.sigma, b, change); break;
    case BS_MATERN52: g = matern_increment(1.0 / 3, 2.23606797749979 / by.sigma, b, change); break;
    default: g = rational_quadratic_increment(alpha, 0.5 / alpha / by.sigma / by.sigma, b, change);
  }
  g *= sign;
  const int two = task->static_kernel == BS_RATIONAL_QUADRATIC;
  for (int k = 0; change && k < 1 + two; ++k) change[k] *= sign;
  if (!two) return g;
  const double beyond = by.most * by.most; /* coordinates as good as infinite, but not for a kernel that hardly falls */
  const ivec out = alpha >= BS_FALLING_ALPHA ? b.v00 >= beyond : maximum(maximum(b.v10, b.v01), b.v11) >= beyond;
  const vec instead = splat(alpha >= BS_FALLING_ALPHA ? 0 : __builtin_nan(""));
  for (int k = 0; change && k < 2; ++k) change[k] = choose(out, instead, change[k]);
  return choose(out, instead, g);
}

/* Parameters whose changes of increments are made with these: the scale of a polynomial kernel has them already. */
BS_INLINE int layers_of(const bs_task *task) { return 1 + (task->static_kernel == BS_RATIONAL_QUADRATIC); }

/* The cells of a row between the rows of b `above`, at the points x, and `below`, at those `next` of them, d registers each. */
BS_INLINE void row_by_steps_of(increments *in, int changing, const vec *x, const vec *next, const vec *y, int64_t cells,
                               const vec *above, const vec *below, vec factor, vec *g) {
  const int64_t d = coordinates(in->task), radial = is_radial(in->task), in_unit = in->task->by_steps == BY_STEPS_IN_UNITS;
  const measure by = measure_of(in->task);
  for (int64_t j = 0; j < cells; ++j, y += d) {
    corners b = {above[j], below[j], above[j + 1], below[j + 1], splat(0), splat(0), splat(0)};
    for (int64_t k = 0; k < d; ++k) {
      const vec dx = next[k] - x[k], dy = y[d + k] - y[k];
      if (radial && !in_unit) {
        const vec u00 = x[k] - y[k];
        b.p += dx * ((next[k] - y[k]) + u00);
        b.q += -dy * ((x[k] - y[d + k]) + u00);
        b.r += -2.0 * dx * dy;
      } else if (radial) {
        const vec u00 = in_units(by, x[k] - y[k]), u10 = in_units(by, next[k] - y[k]);
        const vec u01 = in_units(by, x[k] - y[d + k]), u11 = in_units(by, next[k] - y[d + k]);
        const vec over_x = in_units(by, dx), over_y = in_units(by, dy), most = splat(by.most);
        /* Differences that are cut off at `most` are no longer those of the steps. */
        const ivec cut = (absolute(u00) >= most) | (absolute(u10) >= most) | (absolute(u01) >= most) | (absolute(u11) >= most);
        const vec p = rounded((u10 - u00) * (u10 + u00)), other_p = rounded((u11 - u01) * (u11 + u01));
        const vec q = rounded((u01 - u00) * (u01 + u00)), other_q = rounded((u11 - u10) * (u11 + u10));
        const ivec by_y = absolute(p) > absolute(q); /* the way that does not cross to what is far: where a row is, along the columns */
        b.p += choose(cut, p, over_x * (u10 + u00));
        b.q += choose(cut, q, -over_y * (u01 + u00));
        b.r += choose(cut, choose(by_y, other_q - q, other_p - p), -2.0 * over_x * over_y);
      } else {
        b.p += dx * y[k];
        b.q += x[k] * dy;
        b.r += dx * dy;
      }
    }
    if (!changing) {
      g[j] = increment_of(in->task, by, b, NULL) * factor;
      continue;
    }
    vec change[2];
    g[j] = increment_of(in->task, by, b, change) * factor;
    for (int k = 0; k < layers_of(in->task); ++k) g[j + in->to_changes + k * in->layer] = change[k] * factor;
  }
}

static void row_by_steps(increments *in, const vec *x, const vec *next, const vec *y, int64_t cells, const vec *above, const vec *below,
                         vec factor, vec *g) {
  if (in->gradient && in->parameters)
    row_by_steps_of(in, 1, x, next, y, cells, above, below, factor, g);
  else
    row_by_steps_of(in, 0, x, next, y, cells, above, below, factor, g);
}

static void kappa_row(increments *in, int64_t i, int64_t slot, int64_t first, int64_t last, vec *kappa) {
  if (in->task->by_steps) {
    base_row(in, i, slot, first, last, kappa);
    return;
  }
  switch (profile_of(in->task)) {
    case BS_POLYNOMIAL: polynomial_row(in, i, slot, first, last, kappa); break;
    case BS_OTHER_POLYNOMIAL: other_polynomial_row(in, i, slot, first, last, kappa); break;
    case BS_OTHER_RATIONAL_QUADRATIC: other_rational_quadratic_row(in, i, slot, first, last, kappa); break;
    case BS_RBF: rbf_row(in, i, slot, first, last, kappa); break;
    case BS_MATERN12: matern12_row(in, i, slot, first, last, kappa); break;
    case BS_MATERN32: matern32_row(in, i, slot, first, last, kappa); break;
    case BS_MATERN52: matern52_row(in, i, slot, first, last, kappa); break;
    default: rational_quadratic_row(in, i, slot, first, last, kappa);
  }
}

/* Before the first row going down (from = 0) or up (from = length1 - 1). */
static void start_rows(increments *in, int64_t from) {
  if (in->task->static_kernel == BS_GIVEN || is_linear(in->task)) return;
  gather_point(in, from, 0);
  kappa_row(in, from, 0, 0, in->task->length2, in->fresh);
}

/* Makes ready for the blocks of the rows first..last of cells. Bands of rows come in order, downwards or upwards. */
static void open_rows(increments *in, int64_t first, int64_t last) {
  if (is_linear(in->task)) {
    gather_steps(in, first, last - first + 1);
    return;
  }
  vec *latest = in->fresh;
  in->fresh = in->kappa;
  in->kappa = latest;
  for (int64_t i = first; i <= last + 1; ++i) gather_point(in, i, i - first);
  if (!in->gradient || !is_radial(in->task)) return;
  const int64_t d = coordinates(in->task);
  for (int64_t i = 0; i <= last + 1 - first; ++i)
    for (int64_t k = 0; k < d; ++k) in->x_centred[i * d + k] = in->x_rows[i * d + k] - in->origin[k];
}

/* factor times the increments of a kernel that is not linear: `rows` rows from `row` on, which are open, and of these the cells
   first..last-1, no more than a block. Values at the points of the last row that is come to are left for the next band. */
static void kappa_block(increments *in, int64_t row, int64_t rows, int up, int64_t first, int64_t last, double factor, vec *g) {
  const vec by = factor * in->scale, *latest = in->kappa + first;
  vec room[2][BLOCK + 1];
  for (int64_t step = 0; step < rows; ++step) {
    const int64_t i = up ? rows - 1 - step : step, slot = up ? i : i + 1;
    vec *next = step == rows - 1 ? in->fresh + first : room[step & 1], *to = g + i * in->stride;
    kappa_row(in, row + slot, slot, first, last + 1, next);
    const vec *after = up ? latest : next, *before = up ? next : latest;
    if (in->task->by_steps) {
      const int64_t d = coordinates(in->task);
      const vec *x = in->x_rows + i * d;
      row_by_steps(in, x, x + d, in->y_packed + first * d, last - first, before, after, by, to + first);
      latest = next;
      continue;
    }
    vec left = after[0] - before[0];
    for (int64_t j = 0; j < last - first; ++j) {
      const vec right = after[j + 1] - before[j + 1];
      to[first + j] = (right - left) * by;
      left = right;
    }
    latest = next;
  }
}

/* Rows whose steps or sums fit the registers: BAND of them are a whole number of times as many, where that can be. */
BS_INLINE int64_t rows_at_once(int64_t run) { return run <= 3 ? 8 : run <= 6 ? 4 : 2; }

/* What the channels from, from + 1, ... of a run add to increments of the linear kernel, times the factor, for `rows` rows and the
   cells first..last-1, so many columns at once. Short runs of the steps of x are held in registers. */
BS_INLINE void linear_rows_at(int64_t run, int adding, int64_t from, int64_t d, int64_t rows, int64_t columns, int64_t n, int64_t first,
                              int64_t last, const vec *x_rows, const vec *y_packed, double factor, vec *g) {
  vec x[4 * RUN];
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < run; ++k) x[i * run + k] = x_rows[i * d + from + k] * factor;
  for (int64_t j = first; j + columns <= last; j += columns) {
    const vec *y = y_packed + j * d + from;
    vec sum[8][2];
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t c = 0; c < columns; ++c)
        if (adding)
          sum[i][c] = g[i * n + j + c];
        else
          sum[i][c] = x[i * run] * y[c * d];
    for (int64_t k = !adding; k < run; ++k) /* what is there already is added by a multiply-add, whatever the rows at once */
      for (int64_t i = 0; i < rows; ++i)
        for (int64_t c = 0; c < columns; ++c) sum[i][c] += x[i * run + k] * y[c * d + k];
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t c = 0; c < columns; ++c) g[i * n + j + c] = sum[i][c];
  }
}

BS_INLINE void linear_rows_of(const increments *in, int64_t run, int adding, int64_t d, int64_t from, int64_t rows, int64_t first,
                              int64_t last, double factor, vec *g) {
  const int64_t n = in->stride, down = run <= 3 ? 8 : 4, across = run <= 6 ? 1 : 2, pairs = first + (last - first) / across * across;
  const vec *x = in->x_rows;
  int64_t i = 0;
  for (; i + down <= rows; i += down, x += down * d, g += down * n) {
    linear_rows_at(run, adding, from, d, down, across, n, first, pairs, x, in->y_packed, factor, g);
    if (pairs < last) linear_rows_at(run, adding, from, d, down, 1, n, pairs, last, x, in->y_packed, factor, g);
  }
  for (; i < rows; ++i, x += d, g += n) linear_rows_at(run, adding, from, d, 1, 1, n, first, last, x, in->y_packed, factor, g);
}

/* factor times the increments of the linear kernel of the cells first..last-1 of so many rows, whose steps of x are in x_rows. */
static void linear_rows(const increments *in, int64_t rows, int64_t first, int64_t last, double factor, vec *g) {
#define BS_OF_RUN(run, d, from) \
  from ? linear_rows_of(in, run, 1, d, from, rows, first, last, factor, g) : linear_rows_of(in, run, 0, d, from, rows, first, last, factor, g)
  BS_FOR_RUNS(in->task->dimension, in->task->dimension)
#undef BS_OF_RUN
}

/* Increments that are handed in, row i of each lane: how many there are, and where they begin. */
static void given_row(const increments *in, int64_t i, const double *from[W], int64_t there[W]) {
  for (int w = 0; w < W; ++w) {
    from[w] = in->x[w] + i * in->given_row;
    there[w] = i < in->points1[w] - 1 ? in->points2[w] - 1 : 0;
  }
}

/* factor times the rows first..last of them into g */
static void given_rows(const increments *in, int64_t first, int64_t last, double factor, vec *g) {
  const double *from[W];
  int64_t there[W];
  const int64_t n = in->task->length2 - 1;
  for (int64_t i = first; i <= last; ++i, g += in->stride) {
    given_row(in, i, from, there);
    parts_into_lanes(from, there, n, 0, g);
    for (int64_t j = 0; j < n && factor != 1; ++j) g[j] *= factor;
  }
}

/* The gradient of the cells first..last-1 of `rows` rows from `row` on to where it belongs. */
static void given_gradient(const increments *in, int64_t row, int64_t rows, int64_t first, int64_t last, const vec *gradient) {
  const double *from[W];
  int64_t there[W];
  for (int64_t i = 0; i < rows; ++i, gradient += in->stride) {
    given_row(in, row + i, from, there);
    for (int64_t j = first; j < last; j += W) {
      vec lanes[W];
      for (int w = 0; w < W; ++w) lanes[w] = j + w < last ? gradient[j + w] : splat(0);
      transpose(lanes);
      for (int w = 0; w < W; ++w) {
        const int64_t count = least(least(last, there[w]) - j, W);
        if (!in->given[w] || count <= 0) continue;
        double *to = in->given[w] + (row + i) * in->given_row + j;
        if (count < W)
          store_part(to, count, lanes[w]);
        else
          store(to, lanes[w]);
      }
    }
  }
}

/* grad_y[j] += sum over `rows` rows of weight[i][j] x[i], for first <= j < last; weights of the next row lie n further on. All of
   them are those of a run of channels, the same of the next point d further on. */
BS_INLINE void weighted_x(int64_t run, int64_t d, int64_t rows, int64_t n, int64_t first, int64_t last, const vec *x_rows,
                          const vec *weight, vec *grad_y) {
  vec x[24];
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < run; ++k) x[i * run + k] = x_rows[i * d + k];
  for (int64_t j = first; j < last; ++j) {
    vec sum[RUN];
    for (int64_t k = 0; k < run; ++k) sum[k] = grad_y[j * d + k];
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t k = 0; k < run; ++k) sum[k] += weight[i * n + j] * x[i * run + k];
    for (int64_t k = 0; k < run; ++k) grad_y[j * d + k] = sum[k];
  }
}

/* grad_x[i] += sum over first <= j < last of weight[i][j] y[j], for `rows` rows; the sums are held in registers. */
BS_INLINE void weighted_y(int64_t run, int64_t d, int64_t rows, int64_t n, int64_t first, int64_t last, const vec *y,
                          const vec *weight, vec *grad_x) {
  vec sum[24];
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < run; ++k) sum[i * run + k] = grad_x[i * d + k];
  for (int64_t j = first; j < last; ++j)
    for (int64_t k = 0; k < run; ++k) {
      const vec y_k = y[j * d + k];
      for (int64_t i = 0; i < rows; ++i) sum[i * run + k] += weight[i * n + j] * y_k;
    }
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < run; ++k) grad_x[i * d + k] = sum[i * run + k];
}

BS_INLINE void weighted_rows(int64_t run, int64_t d, int64_t rows, int64_t n, int64_t first, int64_t last, const vec *x,
                             const vec *y, const vec *weight, vec *grad_x, vec *grad_y) {
  weighted_x(run, d, rows, n, first, last, x, weight, grad_y);
  weighted_y(run, d, rows, n, first, last, y, weight, grad_x);
}

BS_INLINE void weighted_run(const increments *in, int64_t run, int64_t d, int64_t from, int64_t first_row, int64_t rows, int64_t n,
                            int64_t first, int64_t last, const vec *x, const vec *y, const vec *weight) {
  const int64_t at_once = rows_at_once(run);
  vec *grad_x = in->grad_x + first_row * d + from, *grad_y = in->grad_y + from;
  x += from;
  y += from;
  int64_t i = 0;
  for (; i + at_once <= rows; i += at_once)
    weighted_rows(run, d, at_once, n, first, last, x + i * d, y, weight + i * n, grad_x + i * d, grad_y);
  for (; i < rows; ++i) weighted_rows(run, d, 1, n, first, last, x + i * d, y, weight + i * n, grad_x + i * d, grad_y);
}

/* Of a run that leaves room for the sums of few rows, one half after the other. */
BS_INLINE void weighted_sums_of(const increments *in, int64_t run, int64_t d, int64_t from, int64_t first_row, int64_t rows,
                                int64_t n, int64_t first, int64_t last, const vec *x, const vec *y, const vec *weight) {
  const int64_t part = rows_at_once(run) < 4 ? run / 2 : run;
  weighted_run(in, part, d, from, first_row, rows, n, first, last, x, y, weight);
  if (part < run) weighted_run(in, run - part, d, from + part, first_row, rows, n, first, last, x, y, weight);
}

/* Adds to the gradient the sums of y, weighted, for x, and of x for y: over first <= j < last of `rows` rows from first_row on. */
static void weighted_sums(const increments *in, int64_t first_row, int64_t rows, int64_t n, int64_t first, int64_t last,
                          const vec *x, const vec *y, const vec *weight) {
#define BS_OF_RUN(run, d, from) weighted_sums_of(in, run, d, from, first_row, rows, n, first, last, x, y, weight)
  const int64_t channels = coordinates(in->task);
  BS_FOR_RUNS(channels, channels)
#undef BS_OF_RUN
}

/* For the points first..last-1 of row i: kappa' times the gradient with respect to kappa, which is a second difference of that of
   the cells of row i - 1 (NULL above the first) and, kept in `corner`, of row i. Radial kernels get it with the opposite sign. */
BS_INLINE vec weighed(int radial, vec difference, vec below, vec slope) {
  return (radial ? below - difference : difference - below) * slope;
}

BS_INLINE void weigh_points_of(int radial, increments *in, int64_t i, const vec *cells_above, int64_t first, int64_t last, vec *weight) {
  const int64_t n = in->task->length2, end = !cells_above ? first : in->joined ? last : least(last, n - 1); /* behind it there are no cells */
  const vec *slope = in->slopes + i % in->slope_rows * n;
  vec left = cells_above && first > 0 ? cells_above[first - 1] : splat(0);
  for (int64_t j = first; j < end; ++j) {
    const vec right = cells_above[j], difference = left - right;
    weight[j - first] = weighed(radial, difference, in->corner[j], slope[j]);
    in->corner[j] = difference;
    left = right;
  }
  for (int64_t j = end; j < last; ++j) {
    weight[j - first] = weighed(radial, left, in->corner[j], slope[j]);
    in->corner[j] = left;
    left = splat(0);
  }
}

static void weigh_points(increments *in, int64_t i, const vec *cells_above, int64_t first, int64_t last, vec *weight) {
  if (is_radial(in->task))
    weigh_points_of(1, in, i, cells_above, first, last, weight);
  else
    weigh_points_of(0, in, i, cells_above, first, last, weight);
  if (in->joined && first == 0) weight[0] = choose(in->leftmost, weight[0], splat(0));
}

/* What a run of channels adds to the gradient of a radial kernel at `rows` points, sum_j a_ij (x_i - y_j) by differences in units; points
   of x and sums are held in registers. */
BS_INLINE void distances_at(const increments *in, int in_unit, int64_t run, int64_t d, int64_t rows, int64_t first, int64_t last,
                            const vec *x_rows, const vec *y, const vec *weights, vec *grad_x, vec *grad_y) {
  const measure by = measure_of(in->task);
  vec x[12], sum[12];
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < run; ++k) {
      x[row * run + k] = x_rows[row * d + k];
      sum[row * run + k] = splat(0);
    }
  for (int64_t j = first; j < last; ++j)
    for (int64_t k = 0; k < run; ++k) {
      const vec y_k = y[j * d + k];
      vec along_y = grad_y[j * d + k];
      for (int64_t row = 0; row < rows; ++row) {
        vec moment = x[row * run + k] - y_k;
        if (in_unit) moment = in_units(by, moment);
        moment *= weights[row * (BLOCK + 1) + j];
        sum[row * run + k] += moment;
        if (in_unit) moment *= by.unit;
        along_y += moment;
      }
      grad_y[j * d + k] = along_y;
    }
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < run; ++k) {
      vec along_x = sum[row * run + k];
      if (in_unit) along_x *= by.unit;
      grad_x[row * d + k] -= along_x;
    }
}

BS_INLINE void distances_of(increments *in, int in_unit, int64_t run, int64_t d, int64_t from, int64_t i, int64_t rows, int64_t slot,
                            int64_t first, int64_t last) {
  const int64_t at_once = run == 1 ? 8 : run <= 3 ? 4 : 2;
  const vec *x = in->x_rows + slot * d + from, *y = in->y_packed + from, *weights = in->weights - first;
  vec *grad_x = in->grad_x + i * d + from, *grad_y = in->grad_y + from;
  int64_t row = 0;
  for (; row + at_once <= rows; row += at_once)
    distances_at(in, in_unit, run, d, at_once, first, last, x + row * d, y, weights + row * (BLOCK + 1), grad_x + row * d, grad_y);
  for (; row < rows; ++row)
    distances_at(in, in_unit, run, d, 1, first, last, x + row * d, y, weights + row * (BLOCK + 1), grad_x + row * d, grad_y);
}

/* Of a run that leaves room for few rows, one half after the other. */
BS_INLINE void distances_of_run(increments *in, int64_t run, int64_t d, int64_t from, int64_t i, int64_t rows, int64_t slot,
                                int64_t first, int64_t last) {
  const int64_t part = run > 4 ? run / 2 : run;
  distances_of(in, 0, part, d, from, i, rows, slot, first, last);
  if (part < run) distances_of(in, 0, run - part, d, from + part, i, rows, slot, first, last);
}

static void distances_gradient(increments *in, int64_t i, int64_t rows, int64_t slot, int64_t first, int64_t last) {
  const int64_t channels = coordinates(in->task);
  if (in->task->by_steps == BY_STEPS_IN_UNITS) {
    for (int64_t k = 0; k < channels; ++k) distances_of(in, 1, 1, channels, k, i, rows, slot, first, last);
    return;
  }
#define BS_OF_RUN(run, d, from) distances_of_run(in, run, d, from, i, rows, slot, first, last)
  BS_FOR_RUNS(channels, channels)
#undef BS_OF_RUN
}

/* The gradient at the points first..last-1 of `rows` rows from row i on, the first of them in row `slot` of x_rows, from their
   weights. A radial kernel has sum_j a_ij (x_i - y_j) = x_i sum_j a_ij - sum_j a_ij y_j, and likewise for y: with points counted
   from one of their own, so that no difference of large numbers is taken that the points themselves are not. That takes half the time
   of differences, but where weights grow as points come close to each other it leaves nothing but rounding of theirs. */
static void points_gradient(increments *in, int64_t i, int64_t rows, int64_t slot, int64_t first, int64_t last) {
  const int64_t d = coordinates(in->task), radial = is_radial(in->task);
  if (radial && (in->task->by_steps || in->task->static_kernel == BS_MATERN12)) {
    distances_gradient(in, i, rows, slot, first, last);
    return;
  }
  const vec *x = (radial ? in->x_centred : in->x_rows) + slot * d, *y = radial ? in->y_centred : in->y_packed;
  weighted_sums(in, i, rows, BLOCK + 1, first, last, x, y, in->weights - first);
  if (!radial) return;
  vec along_x[BAND];
  for (int64_t row = 0; row < rows; ++row) along_x[row] = splat(0);
  for (int64_t j = first; j < last; ++j) {
    vec along_y = splat(0);
    for (int64_t row = 0; row < rows; ++row) {
      const vec weight = in->weights[row * (BLOCK + 1) + j - first];
      along_x[row] += weight;
      along_y += weight;
    }
    for (int64_t k = 0; k < d; ++k) in->grad_y[j * d + k] -= along_y * y[j * d + k];
  }
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t k = 0; k < d; ++k) in->grad_x[(i + row) * d + k] -= along_x[row] * x[row * d + k];
}

enum { SUMS = 4 }; /* at a time: each waits for the one before */

BS_INLINE vec dot_of(const vec *a, const vec *b, int64_t count) {
  vec sum[SUMS] = {splat(0), splat(0), splat(0), splat(0)};
  int64_t j = 0;
  for (; j + SUMS <= count; j += SUMS)
    for (int k = 0; k < SUMS; ++k) sum[k] += a[j + k] * b[j + k];
  for (int k = 0; j < count; ++j, ++k) sum[k] += a[j] * b[j]; /* as if zeros followed */
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

BS_INLINE vec sum_of(const vec *a, int64_t count) {
  vec sum[SUMS] = {splat(0), splat(0), splat(0), splat(0)};
  int64_t j = 0;
  for (; j + SUMS <= count; j += SUMS)
    for (int k = 0; k < SUMS; ++k) sum[k] += a[j + k];
  for (int k = 0; j < count; ++j, ++k) sum[k] += a[j];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* Adds what the points first..last-1 of row i, in row `slot` of x_rows, say of the parameters of the static kernel, from their weights.
   Where channels are few, b is made again: that takes less time than to fetch it. */
static void sum_over_points(increments *in, int64_t i, int64_t slot, int64_t first, int64_t last, const vec *weight) {
  const bs_task *task = in->task;
  const int64_t count = last - first;
  vec room[BLOCK + 1];
  const vec *b = in->squares ? in->squares + i % in->slope_rows * task->length2 + first : room;
  if (b == room && is_radial(task)) b_row(in, coordinates(task), slot, first, last, room);
  /* The derivative with respect to gamma is kappa'; sigma times that with respect to sigma is -b kappa', or (RBF) half of it. */
  in->d_parameter[0] += is_radial(task) ? dot_of(weight, b, count) : sum_of(weight, count);
  if (task->static_kernel != BS_RATIONAL_QUADRATIC) return;
  const double sigma = task->parameter[0], c = 0.5 / task->parameter[1] / sigma / sigma;
  vec of_alpha = splat(0); /* the derivative with respect to alpha is kappa' sigma^2 (log(1 + c b) (1 + c b) - c b) */
  for (int64_t j = 0; j < count; ++j) of_alpha -= weight[j] * entropy(c * b[j]);
  in->d_parameter[1] += of_alpha;
}

/* The same of the cells first..last-1 of `rows` rows, from their gradient: what they say of the scale of a polynomial kernel, which is a
   factor of the increments g, and by steps of the other parameters. */
static void sum_over_cells(increments *in, int64_t rows, int64_t first, int64_t last, const vec *gradient, const vec *g) {
  const int polynomial = in->task->static_kernel == BS_POLYNOMIAL, layers = in->task->by_steps ? layers_of(in->task) : 0;
  for (int64_t i = 0; i < rows; ++i, gradient += in->stride, g += in->stride) {
    for (int k = 0; k < layers; ++k)
      in->d_parameter[k] += dot_of(gradient + first, g + first + in->to_changes + k * in->layer, last - first);
    if (polynomial) in->d_parameter[1] += dot_of(gradient + first, g + first, last - first);
  }
}

/* Behind the last point of a path there is nothing that a gradient could be with respect to. */
static void silence_behind_ends(const increments *in, int64_t row, int64_t rows, int64_t first, int64_t last, vec *gradient) {
  for (int w = 0; w < W; ++w)
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t end = row + i < in->points1[w] - 1 ? in->points2[w] - 1 : 0;
      double *cells = (double *)(gradient + i * in->stride) + w;
      for (int64_t j = end > first ? end : first; j < last; ++j) cells[j * W] = 0;
    }
}

/* Takes the gradient of the cells first..last-1, no more than a block, of `rows` rows from `row` on, which are open and whose
   increments are g. Bands of rows come upwards, blocks from the right. */
static void increments_gradient(increments *in, int64_t row, int64_t rows, int64_t first, int64_t last, const vec *gradient, const vec *g) {
  if (is_linear(in->task)) {
    weighted_sums(in, row, rows, in->stride, first, last, in->x_rows, in->y_packed, gradient);
    return;
  }
  const int64_t begin = first ? first + 1 : 0, end = last + 1; /* the points whose cells on both sides are done */
  const int by_points = in->parameters && !in->task->by_steps;
  if (in->parameters) sum_over_cells(in, rows, first, last, gradient, g);
  for (int64_t i = rows - 1; i >= 0; --i) {
    vec *weight = in->weights + i * (BLOCK + 1);
    weigh_points(in, row + i + 1, gradient + i * in->stride, begin, end, weight);
    if (by_points) sum_over_points(in, row + i + 1, i + 1, begin, end, weight);
  }
  points_gradient(in, row + 1, rows, 1, begin, end);
}

/* And of the points above the first row of cells, below which they are. */
static void first_row_gradient(increments *in, int64_t first, int64_t last) {
  const int64_t begin = first ? first + 1 : 0, end = last + 1;
  weigh_points(in, 0, NULL, begin, end, in->weights);
  for (int64_t j = 0; in->joined && j < end - begin; ++j) in->weights[j] = choose(in->topmost, in->weights[j], splat(0));
  if (in->parameters && !in->task->by_steps) sum_over_points(in, 0, 0, begin, end, in->weights);
  points_gradient(in, 0, 1, 0, begin, end);
}

static void fill(vec *to, int64_t count, double value) {
  for (int64_t k = 0; k < count; ++k) to[k] = splat(value);
}

/* The points of y less the first one. */
static void centre_second_path(increments *in) {
  const int64_t d = coordinates(in->task);
  for (int64_t j = 0; is_radial(in->task) && j < in->task->length2; ++j)
    for (int64_t k = 0; k < d; ++k) in->y_centred[j * d + k] = in->y_packed[j * d + k] - in->origin[k];
}

/* Before the first increments_gradient; the gradient with respect to x is added to what is there. */
static void start_gradient(increments *in) {
  const int64_t d = in->task->dimension, n = in->task->length2 - is_linear(in->task);
  if (in->task->static_kernel == BS_GIVEN) return;
  fill(in->grad_y, n * d, 0);
  in->d_scale = splat(0);
  if (is_linear(in->task)) return;
  fill(in->corner, n, 0);
}

/* Steps behind the end of a path are none. */
static void silence_steps(int64_t d, const int64_t points[W], int64_t length, vec *gradient) {
  for (int w = 0; w < W; ++w)
    for (int64_t k = (points[w] - 1) * d; k < (length - 1) * d; ++k) ((double *)(gradient + k))[w] = 0;
}

/* Linear: adds what the gradient by the steps of the second paths says of the scale. That by their steps times the scale is
   `gradient`, which the steps are multiplied with as they are: the square of the scale need not be a finite number above 0. */
static void sum_over_steps(increments *in) {
  const bs_task *task = in->task;
  const int64_t d = task->dimension;
  const double over_scale = 1 / task->parameter[0];
  vec sum[2] = {splat(0), splat(0)};
  silence_steps(d, in->points2, task->length2, in->grad_y);
  for (int64_t k = 0; k < (task->length2 - 1) * d; ++k) sum[k % 2] += in->grad_y[k] * (in->y_packed[k] * over_scale);
  in->d_parameter[0] += 2 * (sum[0] + sum[1]);
}

/* The gradient with respect to parameter k, of a lane, from what the sums over points or cells are for it; `factor` is that of the
   increments. */
static double of_parameter(const increments *in, double factor, int k, double sum, double scale) {
  const bs_task *task = in->task;
  const double sigma = task->parameter[0];
  if (is_linear(task)) return sum;
  if (task->static_kernel == BS_POLYNOMIAL && k) return sum / factor / task->parameter[2];
  if (task->by_steps)
    sum /= factor;
  else
    sum *= scale * (k ? sigma * sigma : task->static_kernel == BS_RBF ? 0.5 : 1);
  return is_radial(task) && !k ? sum / sigma : sum;
}

/* A gradient by the steps of paths with `length` points becomes one by their points. */
static void steps_to_points(int64_t d, const int64_t points[W], int64_t length, vec *gradient) {
  silence_steps(d, points, length, gradient);
  for (int64_t k = 0; k < d; ++k) {
    vec after = splat(0);
    for (int64_t j = length - 1; j > 0; --j) {
      const vec before = gradient[(j - 1) * d + k];
      gradient[j * d + k] = before - after;
      after = before;
    }
    gradient[k] = -after;
  }
}

/* Makes a gradient with respect to paths of `length` points ready for flush_gradient: it is one by points, and every lane gets
   registers of its own, of W values at a time; those left over stay. */
static void part_lanes(const bs_task *task, const int64_t points[W], int64_t length, vec *gradient) {
  const int64_t d = coordinates(task);
  if (is_linear(task)) steps_to_points(d, points, length, gradient);
  for (int64_t k = 0; k + W <= length * d; k += W) transpose(gradient + k);
}

/* to[i] += weight times the gradient of one lane with respect to the first `points` of its path, whose channels are coordinates but
   for the last one of a dilated path. The gradient, of paths of `length` points, has gone through part_lanes. */
static void flush_gradient(const bs_task *task, const vec *gradient, int64_t length, int lane, int64_t points, double weight, double *to) {
  const int64_t d = coordinates(task), channels = task->dimension, parted = length * d / W * W, own = points * d;
  int64_t k = 0;
  if (channels == d)
    for (; k + W <= least(own, parted); k += W) store(to + k, load(to + k) + weight * gradient[k + lane]);
  for (; k < own; ++k) {
    const double *from = k < parted ? (const double *)(gradient + k / W * W + lane) + k % W : (const double *)(gradient + k) + lane;
    to[k / d * channels + k % d] += weight * *from;
  }
}

#endif
