/* Chooses among the kernels compiled for each instruction set, once, at the first call. BRANCHSIG_ISA overrides. */
#include "bs.h"
#include <stdlib.h>
#include <string.h>
#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
void bs_yield(void) { SwitchToThread(); }
#else
#include <sched.h>
void bs_yield(void) { sched_yield(); }
#endif

#define BS_KERNELS(X)                                  \
  X(workspace, int64_t, (const bs_task *, int32_t))    \
  X(forward, int64_t, (const bs_task *))                  \
  X(backward, int64_t, (const bs_task *))                 \
  X(ends, int32_t, (const double *, int64_t, int64_t, int64_t, double, double *)) \
  X(within, int32_t, (const double *, int64_t, double))  \
  X(shared, int64_t, (const bs_task *, int32_t, int32_t *)) \
  X(help, void, (const bs_task *, int32_t))              \
  X(by_strips, int32_t, (const bs_task *, int64_t, int32_t)) \
  X(lanes, int32_t, (void))

typedef struct {
  const char *name;
#define BS_MEMBER(name, type, arguments) type(*name) arguments;
  BS_KERNELS(BS_MEMBER)
} kernel_table;

#define BS_DECLARE_BASELINE(name, type, arguments) type bs_##name##_baseline arguments;
#define BS_DECLARE_AVX2(name, type, arguments) type bs_##name##_avx2 arguments;
#define BS_DECLARE_AVX512(name, type, arguments) type bs_##name##_avx512 arguments;
#define BS_ENTRY_BASELINE(name, type, arguments) bs_##name##_baseline,
#define BS_ENTRY_AVX2(name, type, arguments) bs_##name##_avx2,
#define BS_ENTRY_AVX512(name, type, arguments) bs_##name##_avx512,

BS_KERNELS(BS_DECLARE_BASELINE)
static const kernel_table baseline = {"baseline", BS_KERNELS(BS_ENTRY_BASELINE)};
#ifdef BS_HAVE_AVX2
BS_KERNELS(BS_DECLARE_AVX2)
static const kernel_table avx2 = {"avx2", BS_KERNELS(BS_ENTRY_AVX2)};
#endif
#ifdef BS_HAVE_AVX512
BS_KERNELS(BS_DECLARE_AVX512)
static const kernel_table avx512 = {"avx512", BS_KERNELS(BS_ENTRY_AVX512)};
#endif

#if defined(BS_HAVE_AVX2) || defined(BS_HAVE_AVX512)
#include <cpuid.h>
enum { HAS_AVX2 = 1, HAS_AVX512 = 2 };

/* What both the processor and the operating system support. CPUID itself is read: __builtin_cpu_supports is not reliable. */
static unsigned supported(void) {
  unsigned a, b, c, d, low, high, found = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c >> 27 & 1) || !(c >> 28 & 1)) return 0; /* OSXSAVE, AVX */
  const unsigned fma = c >> 12 & 1;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return 0;
  if ((b >> 5 & 1) && fma) found |= HAS_AVX2;
  if (found && (low & 0xe6) == 0xe6 && (b >> 16 & 1) && (b >> 17 & 1) && (b >> 30 & 1) && (b >> 31 & 1)) found |= HAS_AVX512;
  return found;
}
#endif

/* The table of that name, or the best one where name is NULL; NULL if this machine cannot run it. */
static const kernel_table *find(const char *name) {
#ifdef BS_HAVE_AVX512
  if ((!name || !strcmp(name, "avx512")) && supported() & HAS_AVX512) return &avx512;
#endif
#ifdef BS_HAVE_AVX2
  if ((!name || !strcmp(name, "avx2")) && supported() & HAS_AVX2) return &avx2;
#endif
  return !name || !strcmp(name, "baseline") ? &baseline : NULL;
}

static const kernel_table *chosen;

static const kernel_table *table(void) {
  const kernel_table *t = __atomic_load_n(&chosen, __ATOMIC_ACQUIRE);
  if (!t) {
    const char *name = getenv("BRANCHSIG_ISA");
    t = find(name && *name ? name : NULL);
    if (!t) t = find(NULL);
    __atomic_store_n(&chosen, t, __ATOMIC_RELEASE);
  }
  return t;
}

const char *bs_isa_name(void) { return table()->name; }

/* how many pairs a register of it holds, 0 if the machine cannot run it */
int32_t bs_lanes_of(const char *name) {
  const kernel_table *t = find(name);
  return t ? t->lanes() : 0;
}

/* 0 if the machine can run it */
int32_t bs_set_isa(const char *name) {
  const kernel_table *t = find(name);
  if (!t) return -1;
  __atomic_store_n(&chosen, t, __ATOMIC_RELEASE);
  return 0;
}

int64_t bs_workspace(const bs_task *task, int32_t backward) { return table()->workspace(task, backward); }
int64_t bs_forward(const bs_task *task) { return table()->forward(task); }
int64_t bs_backward(const bs_task *task) { return table()->backward(task); }
int32_t bs_ends(const double *paths, int64_t n, int64_t length, int64_t dimension, double most, double *ends) {
  if ((uintptr_t)paths % sizeof(double)) return 0;
  return table()->ends(paths, n, length, dimension, most, ends);
}
int32_t bs_within(const double *values, int64_t n, double most) { return table()->within(values, n, most); }
int64_t bs_shared(const bs_task *task, int32_t backward, int32_t *threads) { return table()->shared(task, backward, threads); }
void bs_help(const bs_task *task, int32_t backward) { table()->help(task, backward); }
int32_t bs_by_strips(const bs_task *task, int64_t count, int32_t backward) { return table()->by_strips(task, count, backward); }
int32_t bs_lanes(void) { return table()->lanes(); }
