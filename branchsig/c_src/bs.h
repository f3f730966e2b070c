/* What crosses between Python and the core: the same declarations as core.cdef, which cffi reads. */
#ifndef BS_H
#define BS_H
#include <stddef.h>
#include <stdint.h>
#include "core.cdef"
enum { BS_MOST_NODES = 8 };
#endif
