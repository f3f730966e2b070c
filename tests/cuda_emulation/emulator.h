// What CUDA kernel source needs to be compiled for the CPU: qualifiers, built-in variables, barriers, warp intrinsics.
//
// A source text is included behind this header as it is, and EMULATED_KERNEL makes an entry point of each instance. emulator.cpp
// runs it: a thread of CUDA is a fiber, and fibers are switched at barriers and warp intrinsics only, in an order that a seed
// permutes. Some blocks are in flight at a time, and take turns where a thread sleeps or does something atomic. So runs are
// deterministic, and a missing barrier shows under some order, or under any of them where races are looked for: see races.h.
#pragma once
#include <math.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

namespace emulator {
struct Index {
  unsigned x;
};
extern Index thread_index, block_index, block_size, grid_size;

// Called by the fiber of a thread; they return when the threads they wait for have arrived.
enum class Exchange { sync, shuffle, ballot };
void block_barrier(int line);
int block_any(int line, int predicate);
uint64_t exchange(Exchange what, unsigned mask, uint64_t value, unsigned source_lane);
unsigned lane();
void sleep();
void fence();
int add(int* where, int more);
int replace(int* where, int other);
void fail(const char* message);

int launch(unsigned blocks, unsigned threads, void (*kernel)(void*), void* arguments);

template <class T>
T shuffled(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = exchange(Exchange::shuffle, mask, bits, unsigned(source));
  memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class... Parameters, size_t... I>
int launch_with(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, void** arguments, std::index_sequence<I...>) {
  auto call = [&] { kernel(*static_cast<std::remove_reference_t<Parameters>*>(arguments[I])...); };
  return launch(blocks, threads, [](void* closure) { (*static_cast<decltype(call)*>(closure))(); }, &call);
}
template <class... Parameters>
int launch_with(void (*kernel)(Parameters...), unsigned blocks, unsigned threads, void** arguments) {
  return launch_with(kernel, blocks, threads, arguments, std::index_sequence_for<Parameters...>{});
}
template <class... Parameters>
constexpr int parameter_count(void (*)(Parameters...)) {
  return sizeof...(Parameters);
}
}  // namespace emulator

// The first argument is the name of the entry point, the rest is the kernel, whose template arguments hold commas.
#define EMULATED_KERNEL(name, ...)                                                                    \
  extern "C" __attribute__((visibility("default"))) int name(unsigned blocks, unsigned threads, void** arguments) { \
    return emulator::launch_with(__VA_ARGS__, blocks, threads, arguments);                            \
  }                                                                                                   \
  extern "C" __attribute__((visibility("default"))) int name##_parameters() { return emulator::parameter_count(__VA_ARGS__); }

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#ifdef EMULATOR_STATIC_SHARED  // under AddressSanitizer: red zones stand around static arrays
#define __shared__ static
#else  // all __shared__ variables are then one block of memory, which emulator.cpp poisons before every block
#define __shared__ thread_local
#endif

#define threadIdx (emulator::thread_index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

#define __syncthreads() emulator::block_barrier(__LINE__)
#define __syncthreads_or(predicate) emulator::block_any(__LINE__, predicate)

inline void __syncwarp(unsigned mask = 0xffffffffu) { emulator::exchange(emulator::Exchange::sync, mask, 0, 0); }
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return unsigned(emulator::exchange(emulator::Exchange::ballot, mask, predicate != 0, 0));
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emulator::shuffled(mask, value, source & 31);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance) {
  const int lane = int(emulator::lane()), source = lane - int(distance);
  return emulator::shuffled(mask, value, source < 0 ? lane : source);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned distance) {
  const int lane = int(emulator::lane()), source = lane + int(distance);
  return emulator::shuffled(mask, value, source > 31 ? lane : source);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits) {
  return emulator::shuffled(mask, value, (int(emulator::lane()) ^ bits) & 31);
}

inline void __nanosleep(unsigned) { emulator::sleep(); }
inline void __threadfence() { emulator::fence(); }
inline int atomicAdd(int* where, int more) { return emulator::add(where, more); }
inline int atomicExch(int* where, int other) { return emulator::replace(where, other); }

inline int __double2hiint(double value) {
  uint64_t bits;
  memcpy(&bits, &value, 8);
  return int(bits >> 32);
}
inline int __float_as_int(float value) {
  int bits;
  memcpy(&bits, &value, 4);
  return bits;
}
inline double __hiloint2double(int high, int low) {
  const uint64_t bits = uint64_t(unsigned(high)) << 32 | unsigned(low);
  double value;
  memcpy(&value, &bits, 8);
  return value;
}
inline float __int_as_float(int bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
}
// The overloads of CUDA C++, in the global namespace.
using std::exp;
using std::expm1;
using std::floor;
using std::log;
using std::log1p;
using std::pow;
using std::sqrt;
