// Elementary functions of the sweeps: the factor of a cell, integer powers, and checks of the range in which running
// products are accurate. No header is included: NVRTC and the emulator of the tests both provide the functions in use.

__device__ __forceinline__ unsigned high_word(double value) { return __double2hiint(value); }
__device__ __forceinline__ unsigned high_word(float value) { return __float_as_int(value); }

template <typename work>
__device__ __forceinline__ work of_high_word(unsigned bits);
template <>
__device__ __forceinline__ double of_high_word<double>(unsigned bits) {
  return __hiloint2double(bits, 0);
}
template <>
__device__ __forceinline__ float of_high_word<float>(unsigned bits) {
  return __int_as_float(bits);
}

template <typename work>
__device__ __forceinline__ work larger(work a, work b) {
  return a > b ? a : b;
}
template <typename work>
__device__ __forceinline__ work smaller(work a, work b) {
  return a < b ? a : b;
}

// Purpose of a value: the kernel, its logarithm, a logarithm that enters a difference, or one that may be large compared with that
// difference. PARTS: the purpose of their sum, or each component by itself. ROUGH: every value is accepted.
enum { KERNEL_ITSELF, ITS_LOGARITHM, A_DIFFERENCE, A_QUOTIENT, EVERY_PART, ROUGH };

// RELATIVE: error relative to large logarithms for a quotient, in units of the tolerance
constexpr double EPSILON = 0x1p-52, TOLERANCE = 1e-4, RELATIVE = 1e-6;

// The error that a sum of components, or a kernel that need not be positive, may have, in units of the tolerance
template <typename work>
__device__ __forceinline__ work allowed_of_sum(work sum, int purpose) {
  const work size = fabs(sum);
  if (purpose == KERNEL_ITSELF) return larger(work(1), size);
  return purpose == ITS_LOGARITHM ? size * larger(work(1), work(fabs(log(size)))) : size;
}
// Whether the digits of such a kernel are lost; infinite ones are not.
__device__ inline bool lost_of_sum(double k, double error, int purpose) {
  if (purpose == ROUGH || fabs(k) > 0x1.fffffffffffffp+1023) return false;
  return !(error <= TOLERANCE * allowed_of_sum(k, purpose));
}

// Tracks the running products of a lane. Extremes are kept as unsigned integers and checked at the end: that takes no floating-point
// slot, and no instruction waits for a flag of the one before.
template <typename work>
struct Watch {
  static constexpr bool DOUBLE = sizeof(work) == 8;
  enum : unsigned {
    FRACTION = DOUBLE ? 20 : 23,  // bits of a high word below its exponent
    ONE = DOUBLE ? 0x3ff00000u : 0x3f800000u,
    LEAST = ONE - (60u << 23),               // in float32
    RANGE = DOUBLE ? 500u << 20 : 120u << 23,  // 2^-500..2^500 in float64, 2^-60..2^60 in float32
    FAINT = 0xbf7c0000u                      // 2^-6 - 1; larger as an unsigned integer means below it as a float
  };
  // in float64 the largest distance of a K from 1, in float32 the distance of the largest K from the smallest one in the range
  unsigned farthest = 0, faintest = 0;
  bool wrong = false;
  // Upper bounds of |log K|: of the levels that are kept, and of the last level if it is not kept.
  float reach = 0.0f, last = 0.0f;
  work moved = work(0);  // the sum of all |g|, in their units, if it is not known beforehand

  // K must stay in the range of the running products; 0, inf, NaN and negative values count as outside.
  __device__ __forceinline__ void over(work k) {
    const unsigned beyond_one = high_word(k) - ONE;
    farthest = max(farthest, DOUBLE ? unsigned(abs(int(beyond_one))) : beyond_one + (ONE - LEAST));
  }
  // LESS_ONE: the largest |K - 1|, as the powers of 2 by which it exceeds 1; infinities and NaN are outside.
  __device__ __forceinline__ void over_signed(work less_one) {
    farthest = max(int(farthest), int(high_word(less_one) & 0x7fffffffu) - int(ONE));
  }
  // A product minus 1, or its latest factor minus 1, has too few digits if one of them is below 2^-6. NaN is detected in K, and in the
  // backward sweep in the gradients.
  __device__ __forceinline__ void over(work run, work factor) {
    if (sizeof(work) == 4) faintest = max(faintest, max(high_word(run), high_word(factor)));
  }
  __device__ __forceinline__ bool strayed() const { return wrong || farthest > RANGE || faintest > FAINT; }
  // At the end. The mantissa, taken as the fraction of a power of 2, is off by less than 0.087.
  __device__ __forceinline__ void close() {
    wrong = strayed();
    const float powers = float(int(DOUBLE ? farthest : max(farthest, ONE - LEAST) - (ONE - LEAST)));
    reach = wrong ? 1e6f : (powers / float(1 << FRACTION) + 0.087f) * 0.69315f;
  }

  // Largest bound of the error of log K, in units of the last place of 1: 5e-5, and 5e-4 in float32.
  static __device__ __forceinline__ double digits() { return DOUBLE ? 2e11 : 8e3; }
  // The sum of |g| over the error of increments that are differences of kappa, times that of kappa: right to 1e-11 (1e-5)
  static __device__ __forceinline__ double of_increments() { return DOUBLE ? 1e5 : 2e2; }
  // Whether a pair may have lost its digits, by the bound of Bounds with upper bounds of M and L; in float32, which has few digits, by
  // its first term alone. `size`: the sum of |g|; `levels`: number of levels that are kept.
  template <bool ALL, bool OF_ITSELF>
  __device__ __forceinline__ bool doubtful(double size, int levels) const {
    const double own = size * double(exp(reach));
    double error = levels || OF_ITSELF ? own : size;
    if (OF_ITSELF) {
      error *= 1.0 + double(reach);
    } else if (DOUBLE) {
      error = size;
      for (int m = 1; m < levels; ++m) error = own + error * (0.5 * double(reach));
      if (!ALL && levels) error = own + error * (0.5 * double(last));
    }
    return !(error <= digits());
  }
  // LESS_ONE: with M the largest |K| of all levels and S the sum of |g|, errors are at most about e_m = M^2 S (eps M + e_{m-1}).
  // ALL: the nodes of a grid are requested, otherwise the one value `k`.
  template <bool ALL>
  __device__ __forceinline__ bool doubtful_sum(double size, int levels, double k, int purpose) const {
    if (wrong || purpose == ROUGH) return wrong;
    if (ALL && purpose != KERNEL_ITSELF) return true;  // every node is judged by its own size
    const double most = 1.0 + double(exp(reach)), factor = most * most * size;
    double error = factor;
    for (int m = 1; m < levels; ++m) error = factor * (most + error);
    return !(error <= digits() * (ALL ? 1.0 : allowed_of_sum(k, purpose)));
  }
};

// The contributions of the columns of a strip to log K of the last level and, if FOLLOWED, their extremes, as high words: |log K| at a
// node is at most the sum of these over the columns.
template <int COLUMNS, bool FOLLOWED, typename work>
struct Ends {
  work sum[FOLLOWED ? COLUMNS : 1];
  unsigned farthest[FOLLOWED ? COLUMNS : 1];

  __device__ __forceinline__ void start() {
#pragma unroll
    for (int c = 0; c < (FOLLOWED ? COLUMNS : 1); ++c) {
      sum[c] = work(0);
      farthest[c] = 0;
    }
  }
  __device__ __forceinline__ void add(int c, work cell) {
    const int mine = FOLLOWED ? c : 0;
    sum[mine] += cell;
    if (FOLLOWED) farthest[mine] = max(farthest[mine], high_word(sum[mine]) & 0x7fffffffu);
  }
  __device__ __forceinline__ void leave(work& total, Watch<work>& watch) const {
#pragma unroll
    for (int c = 0; c < (FOLLOWED ? COLUMNS : 1); ++c) {
      total += sum[c];
      if (FOLLOWED) watch.last += float(of_high_word<work>(farthest[c] + 1));
    }
  }
};

// Whether the digits of a value are lost, given log K and a bound of its error. Infinite logarithms are not lost, nor are kernels that
// are certainly inf or 0.
__device__ inline bool lost(double log_k, double error, int purpose) {
  const double size = fabs(log_k);
  if (purpose == ROUGH || size > 0x1.fffffffffffffp+1023) return false;
  const double relative = purpose == ITS_LOGARITHM ? size : purpose == A_QUOTIENT ? RELATIVE * size : 0.0;
  if (error <= TOLERANCE * (relative > 1.0 ? relative : 1.0)) return false;
  return purpose != KERNEL_ITSELF || !(log_k - error > 709.782712893384 || log_k + error < -744.4400719213812);
}
template <typename work>
__device__ __forceinline__ work not_a_number() {
  return work(0) / work(0);
}
// A weight times a value; CAREFUL: 0 if the weight is zero, even if the value is infinite.
template <bool CAREFUL, typename work>
__device__ __forceinline__ work weighted(work weight, work value) {
  return CAREFUL && weight == work(0) ? work(0) : weight * value;
}

template <typename real>
__device__ __forceinline__ bool is_finite(real value) {
  return value - value == real(0);
}

// The factor exp(x) of a cell; in float32 minus 1, since running products and their factors are close to 1, and on a smooth path
// their rounding errors would all have the same sign: at length 1000 gradients were off by 2e-2. Cells are small, and a polynomial
// suffices for nearly all of them: 1 + x + x^2 s(x), with s through Chebyshev nodes. Its error is at most 5e-14 x^2 in float64 and
// 5e-7 x^2 in float32 for |x| <= 2^-4 (`SMALL`), and a fifth of a unit in the last place for |x| <= 2^-1 (`MEDIUM`).
enum { SMALL = 0x3fb00000, MEDIUM = 0x3fe00000 };  // high words of those bounds in float64
__device__ __forceinline__ bool beyond(int bound, double x) {
  // The high word, as an integer, is monotonic in x and costs no floating-point slot for float64; true for NaN.
  return !(fabsf(__int_as_float(__double2hiint(x))) <= __int_as_float(bound));
}
__device__ __forceinline__ bool beyond(int bound, float x) { return !(fabsf(x) <= (bound == SMALL ? 0.0625f : 0.5f)); }

// (... (first x + second) x + ...) x + last
template <typename work>
__device__ __forceinline__ work polynomial(work, work last) {
  return last;
}
template <typename work, typename... More>
__device__ __forceinline__ work polynomial(work x, work first, work second, More... more) {
  return polynomial(x, first * x + second, more...);
}
__device__ __forceinline__ double small_factor(double x) {
  return polynomial(x, 0.0001984288459245196, 0.001389034217785489, 0.008333333309679484, 0.04166666645377959, 0.1666666666666718,
                    0.5000000000000462, 1.0, 1.0);
}
__device__ __forceinline__ float small_factor(float x) { return polynomial(x, 0.041670736f, 0.16669108f, 0.5f, 1.0f) * x; }
__device__ __forceinline__ double medium_factor(double x) {
  return polynomial(x, 2.0955762289494408e-09, 2.5162744626460177e-08, 2.755712159501279e-07, 2.755704244819296e-06,
                    2.480158751780227e-05, 0.00019841270144086635, 0.0013888888888792352, 0.008333333333198127, 0.04166666666666679,
                    0.16666666666666835, 0.5, 1.0, 1.0);
}
__device__ __forceinline__ float medium_factor(float x) {
  return polynomial(x, 0.00019944874f, 0.0013982186f, 0.008333236f, 0.041665792f, 0.16666667f, 0.5f, 1.0f) * x;
}
__device__ __forceinline__ double any_factor(double x) { return exp(x); }
__device__ __forceinline__ float any_factor(float x) { return expm1(x); }

__device__ __forceinline__ double cell_exp(double x) { return beyond(SMALL, x) ? exp(x) : small_factor(x); }

template <int COUNT, typename work>
__device__ __forceinline__ bool any_beyond(int bound, const work (&x)[COUNT]) {
  bool any = false;
#pragma unroll
  for (int c = 0; c < COUNT; ++c) any |= beyond(bound, x[c]);
  return any;
}

// The factors of many cells at a time: those of small cells without a branch, and one branch for larger cells, if there are any.
template <int LEVELS, int COLUMNS, typename work>
__device__ __forceinline__ void cell_factors(int levels, work (&x)[LEVELS][COLUMNS]) {
  work small[LEVELS][COLUMNS];
  bool any = false;
#pragma unroll
  for (int m = 0; m < levels; ++m) {
    any |= any_beyond(SMALL, x[m]);
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) small[m][c] = small_factor(x[m][c]);
  }
  if (any) {  // rare, so compact code: loops over local memory
    work cell[LEVELS][COLUMNS];
#pragma unroll
    for (int m = 0; m < levels; ++m)
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) cell[m][c] = x[m][c];
#pragma unroll 1
    for (int m = 0; m < levels; ++m) {
      if (any_beyond(MEDIUM, cell[m])) {
#pragma unroll 1
        for (int c = 0; c < COLUMNS; ++c) cell[m][c] = any_factor(cell[m][c]);
      } else {
#pragma unroll 2
        for (int c = 0; c < COLUMNS; ++c) cell[m][c] = medium_factor(cell[m][c]);
      }
    }
#pragma unroll
    for (int m = 0; m < levels; ++m)
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) small[m][c] = cell[m][c];
  }
#pragma unroll
  for (int m = 0; m < levels; ++m)
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) x[m][c] = small[m][c];
}

// The empty running product; a product times a factor; K times a product; the inverse of a product. Stored minus 1, with e and f for
// product and factor: 0; (1 + e)(1 + f) - 1 = ef + (e + f); K (1 + e) = Ke + K; 1 / (1 + e) - 1 = -e / (e + 1).
template <typename work>
__device__ __forceinline__ work no_product() {
  return sizeof(work) == 8 ? work(1) : work(0);
}
__device__ __forceinline__ double product(double run, double factor) { return run * factor; }
__device__ __forceinline__ float product(float run, float factor) { return run * factor + (run + factor); }
__device__ __forceinline__ double times_product(double k, double run) { return k * run; }
__device__ __forceinline__ float times_product(float k, float run) { return k * run + k; }
__device__ __forceinline__ double inverse_product(double run) { return 1.0 / run; }
__device__ __forceinline__ float inverse_product(float run) { return -run / (run + 1.0f); }

// base^exponent for an integer exponent >= 0, by repeated multiplication
template <typename real>
__device__ __forceinline__ real whole_power(real base, int exponent) {
  real power = real(1);
  for (; exponent; exponent >>= 1) {
    if (exponent & 1) power *= base;
    base *= base;
  }
  return power;
}

// base^exponent for a positive base; NaN for a negative one, as for fractional exponents. pow() takes twice the registers, for a last
// digit that the increments do not have.
template <typename real>
__device__ __forceinline__ real power(real base, real exponent) {
  return exp(exponent * log(base));
}

// The larger of a bound and a value; infinite if the value is NaN
template <typename work>
__device__ __forceinline__ work widened(work bound, work value) {
  return value <= bound ? bound : value == value ? value : work(1) / work(0);
}

// Bounds of the rounding error of log K of every level at a column of nodes: with e_0 = 0 and, over all cells above and to the left,
// S the sum of |g|, M_m the largest mean of K_m over a cell with g != 0, and L_m the largest |log K_m| at a node,
//
//   e_m = eps S M_{m-1} + e_{m-1} L_m / 2
//
// OF_ITSELF, without truncation: eps S M (1 + L). The bounds of the columns before arrive and leave with the values `edge` of every
// level, from AT on: level m of the arrays holds M_m, of the level below it, and L_{m+1}; level 0, whose L does not count, holds the
// sum along the row instead. M_0 is 1.
template <int ROOM, int AT, bool USED, bool OF_ITSELF, typename work>
struct Bounds {
  enum { LARGEST = AT, MOVED = AT + 1, REACH = AT + 1 + OF_ITSELF };
  work largest[USED ? ROOM : 1], reach[USED ? ROOM : 1], moved;

  __device__ __forceinline__ void start() {
    moved = work(0);
#pragma unroll
    for (int m = 0; m < (USED ? ROOM : 1); ++m) largest[m] = reach[m] = work(0);
  }
  // Adds a cell with |g| = size.
  template <int VALUES>
  __device__ __forceinline__ void move(work size, work (&edge)[ROOM][VALUES]) {
    if constexpr (USED) moved += edge[0][MOVED] += size;
  }
  // Adds the cell to level m; `mean` is the largest |mean| of the level below
  template <int VALUES>
  __device__ __forceinline__ void level(int m, work g, work mean, work (&edge)[ROOM][VALUES]) {
    if constexpr (USED) {
      const work of_row = g != work(0) ? widened(edge[m][LARGEST], mean) : edge[m][LARGEST];
      edge[m][LARGEST] = largest[m] = widened(largest[m], of_row);
    }
  }
  // Adds nodes of level m with the largest |log K| = `size`.
  template <int VALUES>
  __device__ __forceinline__ void nodes(int m, work size, work (&edge)[ROOM][VALUES]) {
    if constexpr (USED)
      if (m || OF_ITSELF) edge[m][REACH] = reach[m] = widened(reach[m], widened(edge[m][REACH], size));
  }
  __device__ __forceinline__ work error(int last) const {
    if (moved == work(0)) return work(0);
    const work own = work(EPSILON) * moved;
    if (OF_ITSELF) return own * largest[0] * (work(1) + reach[0]);
    work error = own;
#pragma unroll
    for (int m = 1; m <= (USED ? last : 0); ++m) error = own * largest[m] + error * (work(0.5) * reach[m]);
    return error;
  }
  __device__ __forceinline__ bool wrong(int m, work log_k, int purpose) const {
    return USED && lost(log_k, error(m), purpose);
  }
};
