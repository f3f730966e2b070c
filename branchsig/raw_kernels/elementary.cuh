// Elementary functions of the sweeps: the exponential of a cell, whole powers, and the test for the range in which running
// products are trusted. No header is included: NVRTC and the emulator of the tests both bring what is used.

// Bounds within which a K of the running products must stay; 2^-500..2^500 in float64, 2^-60..2^60 in float32. The high word
// of a number is compared as an unsigned integer, which costs no floating-point slot and is true for 0, inf, NaN and signs too.
__device__ __forceinline__ bool leaves_range(double k) {
  return (unsigned)__double2hiint(k) - 0x20b00000u > 0x5f300000u - 0x20b00000u;
}
__device__ __forceinline__ bool leaves_range(float k) {
  return (unsigned)__float_as_int(k) - 0x21800000u > 0x5d800000u - 0x21800000u;
}

template <typename real>
__device__ __forceinline__ bool is_finite(real value) {
  return value - value == real(0);
}

// exp(x) of a cell. Cells are small: a Taylor polynomial, whose remainder is below the rounding of the sum, serves nearly all.
__device__ __forceinline__ double cell_exp(double x) {
  if (fabs(x) > 0.0625) return exp(x);
  double p = 1.0 / 40320;
  p = p * x + 1.0 / 5040;
  p = p * x + 1.0 / 720;
  p = p * x + 1.0 / 120;
  p = p * x + 1.0 / 24;
  p = p * x + 1.0 / 6;
  p = p * x + 0.5;
  p = p * x + 1.0;
  return p * x + 1.0;
}
__device__ __forceinline__ float cell_exp(float x) {
  if (fabsf(x) > 0.125f) return expf(x);
  float p = 1.0f / 120;
  p = p * x + 1.0f / 24;
  p = p * x + 1.0f / 6;
  p = p * x + 0.5f;
  p = p * x + 1.0f;
  return p * x + 1.0f;
}

// base^exponent for a whole number from 0 on, by repeated multiplication
template <typename real>
__device__ __forceinline__ real whole_power(real base, int exponent) {
  real power = real(1);
  for (; exponent; exponent >>= 1) {
    if (exponent & 1) power *= base;
    base *= base;
  }
  return power;
}

// base^exponent for a positive base; NaN for a negative one, as the power of a fractional exponent is. pow() takes twice the
// registers, for a last digit that the increments do not have.
template <typename real>
__device__ __forceinline__ real power(real base, real exponent) {
  return exp(exponent * log(base));
}
