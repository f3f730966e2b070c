/* Handlers of XLA's foreign function interface, by which a compiled JAX program calls the core.

   bs_xla_kernels computes kernels of pairs and Gram matrices of built-in static kernels, and their gradients, without Python. It does
   what is common and nothing else: where a value is not finite, a pair leaves the range of the running products, an operand is refused
   or memory may not do, the call goes to Python with the same frame, which does it again and has the words for what is wrong. */
#include "bs.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
  CHUNK = 8192,      /* pairs that the core is given at once: a multiple of the lanes of every instruction set */
  STEPS = 72, WHOLE = 9,
  MOST_RESULTS = 5,  /* the value; or gradients of two paths and two parameters */
  MOST_BLOCKS = 20
};
static const size_t LARGE = (size_t)1 << 26; /* bytes of a workspace that are held against the memory of the machine, which Python does */
static const double MOST_ALPHA = 1e20;       /* LARGEST_ALPHA in static_kernels/radial.py */

typedef enum { DONE, FOR_PYTHON } outcome;

static void *(*python)(bs_xla_frame *);

void bs_xla_set_python(void *(*handler)(bs_xla_frame *)) { python = handler; }

/* Answers the question for the version, which XLA asks at registration. The layout is that of all versions of one major number. */
static int is_question(const bs_xla_frame *frame) {
  for (bs_xla_extension *e = frame->extension; e; e = e->next)
    if (e->type == BS_XLA_METADATA) {
      bs_xla_metadata *answer = ((bs_xla_metadata_extension *)e)->metadata;
      const int known = frame->api && frame->api->api_version.major_version == 0;
      answer->api_version.major_version = 0;
      answer->api_version.minor_version = known ? frame->api->api_version.minor_version : 3;
      answer->traits = 0;
      return 1;
    }
  return 0;
}

static void *error(const bs_xla_frame *frame, const char *message) {
  bs_xla_error arguments = {sizeof arguments, NULL, message, BS_XLA_INVALID_ARGUMENT};
  return frame->api->create_error(&arguments);
}

static void *in_python(bs_xla_frame *frame) {
  return python ? python(frame) : error(frame, "branchsig: no function in Python is registered. Import branchsig.frameworks.jax");
}

void *bs_xla_any(bs_xla_frame *frame) { return is_question(frame) ? NULL : in_python(frame); }

static const bs_xla_array *attribute(const bs_xla_frame *frame, const char *name) {
  const bs_xla_attributes *all = &frame->attributes;
  for (int64_t k = 0; k < all->size; ++k)
    if (all->types[k] == BS_XLA_ARRAY && all->names[k]->len == strlen(name) && !memcmp(all->names[k]->ptr, name, all->names[k]->len))
      return all->values[k];
  return NULL;
}

/* A call under way. Arrays are those of the core, in float64. */
typedef struct {
  const bs_xla_frame *frame;
  const int64_t *number; /* the attribute "task" */
  bs_task task;
  int gram, symmetric, backward;
  int64_t mapped, groups; /* leading axes of all arrays, over which the call is repeated, and the number of repetitions */
  const int64_t *lead;    /* the sizes of these axes */
  int64_t n1, n2;         /* paths of one repetition */
  int64_t share;          /* pairs that have one set of parameters */
  const double *derivs;
  double *values;
  double *grads[2];
  double *grad_parameters[2];
  /* the pairs that are collected for the next call of the core */
  int64_t count, capacity;
  int64_t *index1, *index2, *place; /* the last: where a pair lies among the values */
  double *ends, *weight1, *weight2, *own_parameters;
  size_t workspace_size;
  void *blocks[MOST_BLOCKS];
  int blocks_used;
} call;

/* Memory until the end of the call, or NULL. */
static void *take(call *c, size_t count, size_t size) {
  if (c->blocks_used == MOST_BLOCKS) return NULL;
  return c->blocks[c->blocks_used++] = malloc(count && size ? count * size : 1);
}

static const bs_xla_buffer *operand(const call *c, int place) {
  const int64_t number = c->number[place];
  return number < 0 || number >= c->frame->operands.size ? NULL : c->frame->operands.buffers[number];
}

static const bs_xla_buffer *result(const call *c, int place) {
  const int64_t number = c->number[place];
  return number < 0 || number >= c->frame->results.size ? NULL : c->frame->results.buffers[number];
}

static int64_t product(const int64_t *dims, int64_t count) {
  int64_t n = 1;
  for (int64_t k = 0; k < count; ++k) n *= dims[k];
  return n;
}

static int64_t size_of(const bs_xla_buffer *buffer) { return product(buffer->dims, buffer->rank); }

/* An operand in float64, or NULL where it is of another kind or memory does not do. */
static const double *doubles(call *c, const bs_xla_buffer *buffer) {
  if (buffer->dtype == BS_XLA_F64) return buffer->data;
  if (buffer->dtype != BS_XLA_F32) return NULL;
  const int64_t n = size_of(buffer);
  double *copy = take(c, (size_t)n, sizeof(double));
  const float *values = buffer->data;
  if (copy)
    for (int64_t k = 0; k < n; ++k) copy[k] = values[k];
  return copy;
}

/* Valid lengths as the core takes them, so many times in a row, or NULL where one is not valid. */
static const int64_t *lengths(call *c, const bs_xla_buffer *buffer, int64_t most, int64_t times) {
  const int64_t n = size_of(buffer);
  int64_t *copy = take(c, (size_t)(n * times), sizeof(int64_t));
  if (!copy || (buffer->dtype != BS_XLA_S32 && buffer->dtype != BS_XLA_S64)) return NULL;
  for (int64_t k = 0; k < n; ++k) {
    copy[k] = buffer->dtype == BS_XLA_S32 ? ((const int32_t *)buffer->data)[k] : ((const int64_t *)buffer->data)[k];
    if (copy[k] < 1 || copy[k] > most) return NULL;
  }
  for (int64_t k = n; k < n * times; ++k) copy[k] = copy[k - n];
  return copy;
}

/* Repetitions that an operand has arrays for: all, 1 where it is the same for all, or some. */
static int64_t repetitions(const call *c, const bs_xla_buffer *buffer) { return buffer ? product(buffer->dims, c->mapped) : 1; }

/* The array of an operand that belongs to a repetition: its axes have size 1 where it is the same for all. */
static int64_t array_of(const call *c, const bs_xla_buffer *buffer, int64_t repetition) {
  int64_t index = 0, stride = 1;
  for (int64_t axis = c->mapped - 1; axis >= 0; --axis) {
    if (buffer->dims[axis] != 1) index += repetition % c->lead[axis] * stride;
    stride *= buffer->dims[axis];
    repetition /= c->lead[axis];
  }
  return index;
}

/* Where a result is summed up in float64: in the result itself, or in a copy; zeros, or NULL. */
static double *sums(call *c, const bs_xla_buffer *buffer) {
  const size_t n = (size_t)size_of(buffer);
  double *place = buffer->dtype == BS_XLA_F64 ? buffer->data : take(c, n, sizeof(double));
  if (place) memset(place, 0, n * sizeof(double));
  return place;
}

/* Write results of float32, which were summed up in float64. */
static outcome finished(const bs_xla_buffer *const *results, double *const *values) {
  for (int r = 0; r < MOST_RESULTS; ++r) {
    if (!values[r] || results[r]->dtype == BS_XLA_F64) continue;
    const int64_t n = size_of(results[r]);
    for (int64_t k = 0; k < n; ++k) ((float *)results[r]->data)[k] = (float)values[r][k];
  }
  return DONE;
}

/* Whether the parameters are those of a kernel that the core differentiates; Python says what is wrong with others. */
static int are_regular(const bs_task *task, int wrt_parameters) {
  const double *p = task->parameter;
  switch (task->static_kernel) {
  case BS_LINEAR: return isfinite(p[0]) && (p[0] != 0 || !wrt_parameters);
  case BS_POLYNOMIAL: return p[0] >= 0 && isfinite(p[0]) && p[0] != 1 && isfinite(p[1]) && p[2] >= 0 && isfinite(p[2]) && (p[2] != 0 || !wrt_parameters);
  case BS_RATIONAL_QUADRATIC: return p[0] > 0 && isfinite(p[0]) && p[1] > 0 && p[1] <= MOST_ALPHA;
  default: return p[0] > 0 && isfinite(p[0]);
  }
}

static double weighted(double weight, double value) { return weight == 0 ? 0 : weight * value; }

/* Let the core do the pairs that are collected. */
static outcome flush(call *c) {
  if (!c->count) return DONE;
  bs_task *task = &c->task;
  task->pairs = c->count;
  const size_t size = (size_t)bs_workspace(task, c->backward);
  if (size > LARGE) return FOR_PYTHON;
  if (size > c->workspace_size) {
    free(task->workspace);
    c->workspace_size = size;
    if (!(task->workspace = malloc(size))) return FOR_PYTHON;
  }
  if (c->own_parameters) memset(c->own_parameters, 0, (size_t)(2 * c->count) * sizeof(double));
  if (c->backward ? bs_backward(task) : bs_forward(task)) return FOR_PYTHON;
  const int of_parameters = task->static_kernel == BS_POLYNOMIAL || task->static_kernel == BS_RATIONAL_QUADRATIC ? 2 : 1;
  for (int64_t k = 0; k < c->count; ++k) {
    if (!c->backward) {
      if (!isfinite(c->ends[k])) return FOR_PYTHON;
      const double value = task->planar ? 1 + c->ends[k] : c->ends[k];
      c->values[c->place[k]] = value;
      if (c->symmetric) c->values[c->index2[k] * c->n2 + c->index1[k]] = value;
    } else if (c->own_parameters) {
      /* The parameters of a triangle are counted from both places of all pairs: half of that. */
      const double weight = c->symmetric ? 0.5 * (c->weight1[k] + c->weight2[k]) : c->weight1[k];
      for (int p = 0; p < of_parameters; ++p)
        if (c->grad_parameters[p]) c->grad_parameters[p][c->place[k] / c->share] += weighted(weight, c->own_parameters[k * of_parameters + p]);
    }
  }
  c->count = 0;
  return DONE;
}

/* Collect a pair, unless its derivative is 0: then it contributes nothing, whatever its value. */
static outcome collect(call *c, int64_t i, int64_t j, int64_t place, double weight) {
  const int64_t k = c->count;
  if (c->backward) {
    if (weight == 0) return DONE;
    c->weight1[k] = weight;
    c->weight2[k] = c->symmetric && i == j ? 0 : weight;
  }
  c->index1[k] = i;
  c->index2[k] = j;
  c->place[k] = place;
  return ++c->count == c->capacity ? flush(c) : DONE;
}

/* All pairs of a Gram matrix, in the order that suits the core: strips of as many columns as it has lanes, row by row. */
static outcome gram(call *c) {
  const int64_t lanes = bs_lanes();
  for (int64_t first = 0; first < c->n2; first += lanes) {
    const int64_t end = first + lanes < c->n2 ? first + lanes : c->n2;
    for (int64_t i = c->symmetric ? first : 0; i < c->n1; ++i)
      for (int64_t j = first; j < end && (!c->symmetric || j <= i); ++j) {
        double weight = 0;
        if (c->backward) weight = c->derivs[i * c->n2 + j] + (c->symmetric ? c->derivs[j * c->n2 + i] : 0);
        if (collect(c, i, j, i * c->n2 + j, weight)) return FOR_PYTHON;
      }
  }
  return flush(c);
}

static outcome kernels(call *c) {
  const bs_xla_frame *frame = c->frame;
  const bs_xla_array *task = attribute(frame, "task"), *numbers = attribute(frame, "numbers");
  if (!task || task->dtype != BS_XLA_S64 || task->size != BS_CALL_SIZE) return FOR_PYTHON;
  if (!numbers || numbers->dtype != BS_XLA_F64 || numbers->size != 4 + STEPS + WHOLE) return FOR_PYTHON;
  const int64_t *number = c->number = task->data;
  const bs_xla_buffer *path1 = operand(c, BS_CALL_PATH1), *path2 = operand(c, BS_CALL_PATH2), *derivs = operand(c, BS_CALL_DERIVS);
  const bs_xla_buffer *lengths1 = operand(c, BS_CALL_LENGTHS1), *lengths2 = operand(c, BS_CALL_LENGTHS2);
  if (!path1 || path1->rank < number[BS_CALL_RANK]) return FOR_PYTHON;
  const bs_xla_buffer *second = path2 ? path2 : path1;
  bs_task *t = &c->task;
  t->length1 = t->stride1 = path1->dims[path1->rank - 2];
  t->length2 = t->stride2 = second->dims[second->rank - 2];
  t->dimension = path1->dims[path1->rank - 1];
  t->depth = (int32_t)number[BS_CALL_DEPTH];
  t->dyadic1 = (int32_t)number[BS_CALL_DYADIC1];
  t->dyadic2 = (int32_t)number[BS_CALL_DYADIC2];
  t->static_kernel = (int32_t)number[BS_CALL_STATIC_KERNEL];
  t->nodes = (int32_t)number[BS_CALL_NODES];
  t->untruncated = (int32_t)number[BS_CALL_UNTRUNCATED];
  t->wrt_log = t->purpose = (int32_t)number[BS_CALL_LOG];
  t->planar = (int32_t)number[BS_CALL_PLANAR];
  memcpy(t->parameter, numbers->data, sizeof t->parameter);
  memcpy(t->steps, (double *)numbers->data + 4, sizeof t->steps);
  memcpy(t->whole, (double *)numbers->data + 4 + STEPS, sizeof t->whole);

  c->gram = (int)number[BS_CALL_GRAM];
  c->symmetric = c->gram && !path2 && !lengths2 && t->dyadic1 == t->dyadic2;
  c->backward = derivs != NULL;
  c->mapped = path1->rank - number[BS_CALL_RANK];
  c->lead = frame->results.buffers[0]->dims;
  c->groups = product(c->lead, c->mapped);
  c->n1 = product(path1->dims + c->mapped, path1->rank - 2 - c->mapped);
  c->n2 = product(second->dims + c->mapped, second->rank - 2 - c->mapped);
  const int64_t groups = c->groups, pairs = c->gram ? c->n1 * c->n2 : c->n1;

  const double *x = doubles(c, path1), *y = path2 ? doubles(c, path2) : x, *weights = derivs ? doubles(c, derivs) : NULL;
  if ((!x && size_of(path1)) || (!y && size_of(second)) || (derivs && !weights && size_of(derivs))) return FOR_PYTHON;
  const bs_xla_buffer *results[MOST_RESULTS] = {c->backward ? NULL : frame->results.buffers[0], result(c, BS_CALL_GRAD1), result(c, BS_CALL_GRAD2),
                                     result(c, BS_CALL_GRAD_PARAMETERS), result(c, BS_CALL_GRAD_PARAMETERS + 1)};
  double *all[MOST_RESULTS] = {0};
  for (int k = 0; k < MOST_RESULTS; ++k)
    if (results[k] && !(all[k] = sums(c, results[k])) && size_of(results[k])) return FOR_PYTHON;
  if (!groups || !pairs) return finished(results, all);
  const int wrt_parameters = all[3] || all[4];
  const bs_xla_buffer *parameters[4];
  const double *parameter_values[4] = {0};
  int64_t sets = 1; /* of parameters */
  for (int p = 0; p < 4; ++p) {
    if (!(parameters[p] = operand(c, BS_CALL_PARAMETERS + p))) continue;
    if (!(parameter_values[p] = doubles(c, parameters[p]))) return FOR_PYTHON;
    if (repetitions(c, parameters[p]) > sets) sets = repetitions(c, parameters[p]);
  }

  /* Repetitions of pairs are pairs of one batch, where the parameters are the same for all and what is summed up is not one path's. */
  const int64_t copies1 = repetitions(c, path1), copies2 = repetitions(c, second);
  const int64_t copies_of_derivs = repetitions(c, derivs), valid1 = repetitions(c, lengths1), valid2 = repetitions(c, lengths2);
  const int fits1 = copies1 == groups || (copies1 == 1 && !all[1] && valid1 == 1);
  const int fits2 = copies2 == groups || (copies2 == 1 && !all[2] && valid2 == 1);
  const int one_batch = !c->gram && sets == 1 && fits1 && fits2 && (copies_of_derivs == groups || copies_of_derivs == 1) &&
                        (valid1 == groups || valid1 == 1) && (valid2 == groups || valid2 == 1);
  c->share = one_batch ? pairs : INT64_MAX;
  const int64_t *points1 = NULL, *points2 = NULL;
  if (lengths1 && !(points1 = lengths(c, lengths1, t->length1, one_batch ? copies1 / valid1 : 1))) return FOR_PYTHON;
  if (lengths2 && !(points2 = lengths(c, lengths2, t->length2, one_batch ? copies2 / valid2 : 1))) return FOR_PYTHON;
  if (!path2 && !lengths2) points2 = points1;

  /* Nothing moves, or no level: kernels are 1, and gradients 0. */
  const int trivial = t->length1 < 2 || t->length2 < 2 || (t->depth == 0 && !t->untruncated);
  const int64_t most = one_batch ? pairs * groups : pairs;
  c->capacity = most < CHUNK ? most : CHUNK;
  const size_t capacity = (size_t)c->capacity;
  int64_t *index = take(c, 3 * capacity, sizeof(int64_t));
  double *own = take(c, 4 * capacity, sizeof(double)); /* ends, or two weights; and two parameters */
  uint8_t *out_of_range = take(c, capacity, 1);
  if (!index || !own || !out_of_range) return FOR_PYTHON;
  t->index1 = c->index1 = index;
  t->index2 = c->index2 = index + capacity;
  c->place = index + 2 * capacity;
  t->out_of_range = out_of_range;
  if (c->backward) {
    t->weight1 = c->weight1 = own;
    t->weight2 = c->weight2 = own + capacity;
    if (wrt_parameters) t->grad_parameters = c->own_parameters = own + 2 * capacity;
  } else
    t->ends = c->ends = own;
  static const int32_t never = 0;
  t->stop = &never;

  const int64_t size1 = c->n1 * t->length1 * t->dimension, size2 = c->n2 * t->length2 * t->dimension;
  for (int64_t g = 0; g < groups; ++g) {
    if (g == 0 || !one_batch) {
      for (int p = 0; p < 4; ++p)
        if (parameters[p]) t->parameter[p] = parameter_values[p][array_of(c, parameters[p], g)];
      if (!are_regular(t, wrt_parameters)) return FOR_PYTHON;
      t->path1 = x + array_of(c, path1, g) * size1;
      t->path2 = y + array_of(c, second, g) * size2;
      t->lengths1 = lengths1 ? points1 + array_of(c, lengths1, g) * c->n1 : NULL;
      t->lengths2 = lengths2 ? points2 + array_of(c, lengths2, g) * c->n2 : path2 ? NULL : t->lengths1;
      t->grad1 = all[1] ? all[1] + g * size1 : NULL;
      t->grad2 = all[2] ? all[2] + g * size2 : path2 ? NULL : t->grad1;
      for (int p = 0; p < 2; ++p) c->grad_parameters[p] = all[3 + p] ? all[3 + p] + g : NULL;
      c->values = all[0] ? all[0] + g * pairs : NULL;
    }
    c->derivs = weights ? weights + array_of(c, derivs, g) * pairs : NULL;
    if (trivial) {
      for (int64_t k = 0; !c->backward && k < pairs; ++k) all[0][g * pairs + k] = !t->wrt_log;
    } else if (c->gram) {
      if (gram(c)) return FOR_PYTHON;
    } else {
      const int64_t first1 = one_batch && copies1 > 1 ? g * pairs : 0, first2 = one_batch && copies2 > 1 ? g * pairs : 0;
      for (int64_t k = 0; k < pairs; ++k)
        if (collect(c, first1 + k, first2 + k, (one_batch ? g * pairs : 0) + k, c->backward ? c->derivs[k] : 0)) return FOR_PYTHON;
      if ((!one_batch || g + 1 == groups) && flush(c)) return FOR_PYTHON;
    }
  }
  return finished(results, all);
}

void *bs_xla_kernels(bs_xla_frame *frame) {
  if (is_question(frame)) return NULL;
  call c = {.frame = frame};
  const outcome found = kernels(&c);
  for (int k = 0; k < c.blocks_used; ++k) free(c.blocks[k]);
  free(c.task.workspace);
  return found == DONE ? NULL : in_python(frame);
}
