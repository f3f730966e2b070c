/* What crosses between Python and the core: the same declarations as core.cdef, which cffi reads. */
#ifndef BS_H
#define BS_H
#include <stddef.h>
#include <stdint.h>
#include "core.cdef"
enum { BS_MOST_NODES = 8 };
/* What a thread does that waits for another one: for an instant, and lets others run. */
static inline void bs_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}
void bs_yield(void);
#endif
