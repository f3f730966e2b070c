/* How far rounding may have carried log K_m away. With e_0 = 0, eps the rounding of a double, S the sum of |g| over all cells, M_m the
   largest mean of K_m over a cell that has an increment and L_m the largest |log K_m| at a node,

     e_m = eps S M_{m-1} + e_{m-1} L_m / 2:

   the terms of log K_m are rounded as the largest of them is, and an error of K_{m-1}, which builds up along the way, comes in as
   log K_m does. Running products watch
   upper bounds of S, M and L, which cost nothing; a pair for which they allow too much is swept again in the log domain, where all three are
   exact and decide. */
#ifndef BS_DIGITS_H
#define BS_DIGITS_H

#include "elementary.h"

/* What an error may be: of a kernel, relative to it; of a logarithm, relative to it or to 1. The first sweep is content with less. */
#define BS_TOLERANCE 1e-4
#define BS_CONTENT (BS_TOLERANCE / 16)
#define BS_EPSILON 0x1p-52
/* Of a logarithm that is taken for a quotient, in units of the tolerance: relative to it, where it is large. */
#define BS_RELATIVE 1e-6

enum { BS_KERNEL, BS_LOG, BS_DIFFERENCE, BS_QUOTIENT, BS_PARTS, BS_ROUGH };

/* Of one level K_m, and of what it is the exponential of */
typedef struct {
  vec extent[2]; /* products: smallest K (or E, scaled) looked at, and a bound for the sums of K at four corners (by nodes: for K) */
  vec least;     /* products: smallest K of the rows looked at */
  vec mean;      /* careful: largest mean of K_{m-1} over a cell that moves */
  vec reach;     /* careful: largest |log K_m|; products: a bound for it where K_m is not in memory */
} watch;

static void open_watch(watch *at, int64_t count) {
  for (int64_t m = 0; m < count; ++m) at[m] = (watch){{splat(1), splat(1)}, splat(1), splat(0), splat(0)};
}

/* e_{m+1} from e_m */
BS_INLINE vec next_error(vec error, vec size, vec mean, vec reach) {
  const vec carried = choose(error == splat(0), splat(0), error * (0.5 * reach)), own = BS_EPSILON * size * mean;
  return choose(size == splat(0), splat(0), own + carried);
}

/* Lanes whose error is not within a bound; one that is not a number is not. */
static ivec beyond(vec error, vec allowed) { return ~(ivec)(error <= allowed); }

/* Lanes whose value has no digits, by what it is wanted for: K, log K, a log K that others are subtracted from, or are for a quotient
   that may be 0, or (rough) whatever comes out. What is infinite stays so, as does a K that overflows or vanishes in any case. */
static ivec lost(int purpose, vec log_k, vec error, double tolerance) {
  if (purpose == BS_ROUGH) return (ivec){0};
  const vec size = absolute(log_k);
  vec allowed = splat(tolerance);
  if (purpose == BS_LOG) allowed = maximum(splat(1), size) * tolerance;
  if (purpose == BS_QUOTIENT) allowed = maximum(splat(1), BS_RELATIVE * size) * tolerance;
  ivec gone = beyond(error, allowed);
  if (purpose == BS_KERNEL) gone &= ~(ivec)((log_k - error > 709.782712893384) | (log_k + error < -745.1332191019412));
  return gone & (ivec)(size < __builtin_inf());
}

#endif
