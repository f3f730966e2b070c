// Finds accesses of memory that nothing orders, whatever order the threads have run in.
//
// Every thread has a vector clock: up to which time it knows of each other one. A barrier of a block, and __syncwarp, lets the
// threads that meet there know what all of them know; a shuffle or a vote does not, for it orders no memory. A thread that reads,
// as volatile, what another one has exchanged behind a fence knows, behind a fence of its own, what that one knew at its fence:
// so kernels may release and acquire in the place of fences. An atomic addition orders nothing. For each word of
// memory there is who has written it, and who has read it since; whoever touches it then without knowing of that races with it.
// Only threads that write the same value may meet. The compiler calls in at each access (-fsanitize=thread); no library of its
// own is linked.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator::races {

// The threads of all blocks are counted through. Addresses of the stacks are those of one thread each.
void begin(unsigned blocks, unsigned threads, const char* stacks, size_t stacks_size, const char* shared, size_t shared_size);
void begin_block(unsigned block);  // whose __shared__ variables are new
void meet(const unsigned* threads, unsigned count);
void fence(unsigned thread);
void tell(unsigned thread, const void* where);
void settle();  // before anything runs but the thread that ran

// As emulator.cpp has them.
constexpr unsigned nobody = ~0u;
unsigned running_thread();  // nobody: the host
unsigned running_block();
void found(const char* what, const void* here, const char* other, const void* there);

}  // namespace emulator::races
