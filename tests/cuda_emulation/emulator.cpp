// Runs the threads of some blocks at a time as fibers. See emulator.h.
#include "emulator.h"
#include "races.h"

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if !defined(EMULATOR_RACES)  // see races.h
namespace emulator::races {
void begin(unsigned, unsigned, const char*, size_t, const char*, size_t) {}
void begin_block(unsigned) {}
void meet(const unsigned*, unsigned) {}
void fence(unsigned) {}
void tell(unsigned, const void*) {}
void settle() {}
}  // namespace emulator::races
#endif

namespace emulator {
Index thread_index, block_index, block_size, grid_size;

namespace {

enum class State : uint8_t { ready, at_block_barrier, at_exchange, asleep, done };

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer;
#else
  ucontext_t context;
#endif
  const void* stack;  // what AddressSanitizer wants to know of it
  size_t stack_size;
  void* fake_stack;
  unsigned thread;
  State state;
  // of the barrier or exchange it waits at
  int line, predicate;
  Exchange what;
  unsigned mask, source_lane;
  uint64_t value, result;
};

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t stack_size = 1 << 20;  // its reports run on the stack of the fiber
#else
constexpr size_t stack_size = 128 << 10;
#endif
#if defined(EMULATOR_STATIC_SHARED)
constexpr unsigned in_flight = 1;  // variables that lie here and there are not put aside
#else
constexpr unsigned in_flight = 4;
#endif

struct Block {
  unsigned index;
  std::vector<Fiber> fibers;
  std::vector<unsigned> order;  // in which the fibers run
  unsigned position;            // of the running fiber in `order`
  unsigned alive, at_barrier;
  int any_result;
  bool gives_way;            // to other blocks, at once
  std::vector<char> shared;  // its variables, while another block runs
};

Block* block;   // the one that runs
size_t events;  // whatever has happened, but for threads that woke up and slept on
uint64_t seed;
int poison = 0xff;
Fiber scheduler, *running = &scheduler;
char* stacks;
size_t stacks_made;  // for each block in flight
std::string error;
void (*kernel)(void*);
void* kernel_arguments;
thread_local volatile int in_thread_local_block;

#if defined(__x86_64__)
extern "C" void emulator_switch(void** from, void* to);
asm(R"(.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch,@function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmp *%rcx
.size emulator_switch,.-emulator_switch
)");
#endif

void switch_fiber(Fiber* from, Fiber* to) {
#if defined(__SANITIZE_ADDRESS__)
  const bool ends = from != &scheduler && from->state == State::done;
  __sanitizer_start_switch_fiber(ends ? nullptr : &from->fake_stack, to->stack, to->stack_size);
#endif
#if defined(__x86_64__)
  emulator_switch(&from->stack_pointer, to->stack_pointer);
#else
  swapcontext(&from->context, &to->context);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from->fake_stack, nullptr, nullptr);
#endif
}

unsigned number_of(const Fiber& fiber) { return block->index * block_size.x + fiber.thread; }

// Those of a warp, or of the block, that have come to the same barrier.
template <class Present>
void meet(const Fiber* fibers, unsigned count, Present present) {
  std::vector<unsigned> numbers;
  for (unsigned f = 0; f < count; ++f)
    if (present(f)) numbers.push_back(number_of(fibers[f]));
  races::meet(numbers.data(), unsigned(numbers.size()));
}

void resume(Fiber* from, Fiber* to) {
  races::settle();
  running = to;
  thread_index.x = to->thread;
  switch_fiber(from, to);
  running = from;
  thread_index.x = from->thread;
}

// Goes on with the next fiber that can run, or with the scheduler where there is none. Seeds from 2 on give way to the fibers
// that stand first in the order, so that a warp runs ahead of the others until a block barrier; the others take turns.
void yield() {
  unsigned next = seed < 2 ? block->position + 1 : 0;
  const auto& order = block->order;
  while (next < order.size() && block->fibers[order[next]].state != State::ready) ++next;
  block->position = next;
  const bool found = next < order.size() && error.empty();
  resume(running, found ? &block->fibers[order[next]] : &scheduler);
}

// Completes an exchange once all living lanes of its mask wait at it.
bool complete_exchange(unsigned warp, unsigned mask) {
  Fiber* lanes = &block->fibers[warp * 32];
  const unsigned count = std::min(unsigned(block->fibers.size()) - warp * 32, 32u);
  unsigned present = 0;
  const Fiber* first = nullptr;
  for (unsigned l = 0; l < count; ++l) {
    if (!(mask >> l & 1) || lanes[l].state == State::done) continue;
    if (lanes[l].state != State::at_exchange || lanes[l].mask != mask) return false;
    if (!first) first = &lanes[l];
    if (first->what != lanes[l].what) {
      fail("the lanes of a warp wait at different intrinsics");
      return false;
    }
    present |= 1u << l;
  }
  if (!first) return false;
  uint64_t ballot = 0;
  for (unsigned l = 0; l < count; ++l)
    if (present >> l & 1 && lanes[l].value) ballot |= 1u << l;
  const Exchange what = first->what;
  if (what == Exchange::sync) meet(lanes, count, [&](unsigned l) { return present >> l & 1; });
  for (unsigned l = 0; l < count; ++l) {
    if (!(present >> l & 1)) continue;
    const unsigned source = lanes[l].source_lane;
    // A lane that is not there gives NaN, or -1.
    lanes[l].result = what == Exchange::ballot ? ballot : present >> source & 1 ? lanes[source].value : ~uint64_t(0);
    lanes[l].state = State::ready;
  }
  ++events;
  return true;
}

void fiber_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  kernel(kernel_arguments);
  Fiber* me = running;
  me->state = State::done;
  --block->alive;
  ++events;
  const unsigned warp = me->thread / 32;
  const auto& fibers = block->fibers;
  for (unsigned t = warp * 32; t < warp * 32 + 32 && t < fibers.size(); ++t)  // they may have waited for this lane only
    if (fibers[t].state == State::at_exchange && complete_exchange(warp, fibers[t].mask)) break;
  yield();
  abort();
}

void prepare(Fiber& fiber, unsigned thread, char* stack) {
  fiber = Fiber{};
  fiber.thread = thread;
  fiber.stack = stack;
  fiber.stack_size = stack_size;
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(stack + stack_size) - 1;  // 8 modulo 16 on entry, as after a call
  *top = nullptr;
  *--top = reinterpret_cast<void*>(fiber_main);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = stack_size;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
#endif
}

// All __shared__ variables: they are the thread-local block of this module.
std::pair<char*, size_t> shared_memory() {
  std::pair<char*, size_t> found{nullptr, 0};
#if !defined(EMULATOR_STATIC_SHARED)
  in_thread_local_block = 1;  // the block of a module is made when it is first touched
  auto look = [](dl_phdr_info* module, size_t, void* result) {
    const ElfW(Phdr)* variables = nullptr;
    bool mine = false;
    for (int i = 0; i < module->dlpi_phnum; ++i) {
      const auto& header = module->dlpi_phdr[i];
      const auto begin = module->dlpi_addr + header.p_vaddr, here = reinterpret_cast<ElfW(Addr)>(&seed);
      if (header.p_type == PT_LOAD && here >= begin && here < begin + header.p_memsz) mine = true;
      if (header.p_type == PT_TLS) variables = &header;
    }
    if (mine && variables && module->dlpi_tls_data)
      *static_cast<std::pair<char*, size_t>*>(result) = {static_cast<char*>(module->dlpi_tls_data), variables->p_memsz};
    return mine ? 1 : 0;
  };
  dl_iterate_phdr(look, &found);
#endif
  return found;
}

void release_block_barrier() {
  const Fiber* first = nullptr;
  block->any_result = 0;
  const auto& fibers = block->fibers;
  meet(fibers.data(), unsigned(fibers.size()), [&](unsigned t) { return fibers[t].state == State::at_block_barrier; });
  for (auto& fiber : block->fibers) {
    if (fiber.state != State::at_block_barrier) continue;
    if (!first) first = &fiber;
    if (fiber.line != first->line) {
      fail(("__syncthreads reached at different places: lines " + std::to_string(first->line) + " and " +
            std::to_string(fiber.line)).c_str());
      return;
    }
    block->any_result |= fiber.predicate;
    fiber.state = State::ready;
  }
  block->at_barrier = 0;
  ++events;
}

uint64_t random_after(uint64_t& random) {
  random ^= random << 13;
  random ^= random >> 7;
  random ^= random << 17;
  return random;
}

void begin(Block& begun, unsigned index, char* at, unsigned threads, std::pair<char*, size_t> shared) {
  begun.index = index;
  begun.fibers.resize(threads);
  begun.order.resize(threads);
  begun.alive = threads;
  begun.at_barrier = 0;
  begun.shared.assign(shared.second, char(poison));
  races::begin_block(index);
  for (unsigned t = 0; t < threads; ++t) {
    prepare(begun.fibers[t], t, at + t * stack_size);
    begun.order[t] = t;
  }
  uint64_t random = seed * 0x9e3779b97f4a7c15u;
  for (unsigned t = threads; seed && t-- > 1;) std::swap(begun.order[t], begun.order[random_after(random) % (t + 1)]);
}

// Runs the threads of a block until it has come to its end, or gives way to others.
void run() {
  const unsigned threads = unsigned(block->fibers.size());
  block->gives_way = false;
  for (auto& fiber : block->fibers)
    if (fiber.state == State::asleep) fiber.state = State::ready;
  while (block->alive && error.empty()) {
    bool progress = false, asleep = false;
    for (block->position = 0; block->position < threads && error.empty() && !block->gives_way; ++block->position) {
      Fiber& next = block->fibers[block->order[block->position]];
      if (next.state != State::ready) continue;
      progress = true;
      resume(&scheduler, &next);
    }
    if (!error.empty() || block->gives_way) return;
    for (auto& fiber : block->fibers) asleep |= fiber.state == State::asleep;
    if (block->alive && block->at_barrier == block->alive) {
      release_block_barrier();
    } else if (block->alive && !progress) {
      if (asleep) return;
      fail(("deadlock in block " + std::to_string(block->index) + ": " + std::to_string(block->at_barrier) + " of " +
            std::to_string(block->alive) + " threads wait at __syncthreads, the others at a warp intrinsic").c_str());
    }
  }
}

}  // namespace

unsigned lane() { return running->thread & 31; }

void fail(const char* message) {
  if (error.empty()) error = message;
}

void block_barrier(int line) { block_any(line, 0); }

int block_any(int line, int predicate) {
  running->state = State::at_block_barrier;
  running->line = line;
  running->predicate = predicate != 0;
  ++block->at_barrier;
  yield();
  return block->any_result;
}

// Until the other blocks have had their turn.
void sleep() {
  running->state = State::asleep;
  yield();
}

void fence() { races::fence(number_of(*running)); }

namespace {
// An atomic operation, behind which all threads of the block give way to the other blocks.
int atomically(int* where, int value) {
  const int before = *where;
  *where = value;
  ++events;
  if (in_flight > 1) {
    block->gives_way = true;
    resume(running, &scheduler);
  }
  return before;
}
}  // namespace

int add(int* where, int more) { return atomically(where, *where + more); }

int replace(int* where, int other) {
  races::tell(number_of(*running), where);
  return atomically(where, other);
}

uint64_t exchange(Exchange what, unsigned mask, uint64_t value, unsigned source_lane) {
  Fiber* me = running;
  if (!(mask >> lane() & 1)) fail("a lane calls a warp intrinsic whose mask leaves it out");
  me->what = what;
  me->mask = mask;
  me->value = value;
  me->source_lane = source_lane;
  me->state = State::at_exchange;
  if (!complete_exchange(me->thread / 32, mask)) yield();
  return me->result;
}

int launch(unsigned blocks, unsigned threads, void (*entry)(void*), void* arguments) {
  if (stacks_made < threads) {
    if (stacks) munmap(stacks, in_flight * stacks_made * stack_size);
    stacks = static_cast<char*>(mmap(nullptr, in_flight * threads * stack_size, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    stacks_made = threads;
  }
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(stacks, in_flight * stacks_made * stack_size);
  pthread_attr_t attributes;
  void* stack;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &scheduler.stack_size);
  pthread_attr_destroy(&attributes);
  scheduler.stack = stack;
#endif
  kernel = entry;
  kernel_arguments = arguments;
  grid_size.x = blocks;
  block_size.x = threads;
  error.clear();
  static Block slots[in_flight];
  const auto shared = shared_memory();
  races::begin(blocks, threads, stacks, in_flight * stacks_made * stack_size, shared.first, shared.second);
  Block* in_place = nullptr;  // whose variables are in shared memory
  unsigned begun = 0, places[in_flight];
  for (unsigned i = 0; i < in_flight; ++i) {
    places[i] = i;
    slots[i].alive = 0;
  }
  uint64_t random = seed * 0x9e3779b97f4a7c15u;
  bool going = true;
  for (unsigned round = 0; going && error.empty(); ++round) {
    const size_t before = events;
    going = false;
    // The blocks in flight take turns in an order that changes every time; with even seeds from 2 on it changes once in a while,
    // and only the first that has anything to do gets a turn, so that the others fall far behind.
    const bool unfair = seed >= 2 && seed % 2 == 0;
    for (unsigned i = in_flight; seed && round % (unfair ? 12 : 1) == 0 && i-- > 1;)
      std::swap(places[i], places[random_after(random) % (i + 1)]);
    for (const unsigned place : places) {
      block = &slots[place];
      if (!block->alive) {
        if (begun == blocks) continue;
        begin(*block, begun++, stacks + place * stacks_made * stack_size, threads, shared);
        ++events;
      }
      going = true;
      if (in_place != block && shared.second) {
        if (in_place) memcpy(in_place->shared.data(), shared.first, shared.second);
        memcpy(shared.first, block->shared.data(), shared.second);
      }
      in_place = block;
      block_index.x = block->index;
      run();
      if (!block->alive) in_place = nullptr;
      if (!error.empty() || (unfair && events != before)) break;
    }
    if (going && events == before) fail("the blocks in flight wait for each other for ever");
  }
  return error.empty() ? 0 : 1;
}

unsigned races::running_thread() { return running == &scheduler ? nobody : number_of(*running); }
unsigned races::running_block() { return block->index; }

// Where the accesses stand in the code is told by their distance from the beginning of this library.
void races::found(const char* what, const void* here, const char* other, const void* there) {
  Dl_info library;
  dladdr(&seed, &library);
  const char* begin = static_cast<const char*>(library.dli_fbase);
  char message[200];
  snprintf(message, sizeof message, "one thread %s at +0x%zx what another %s at +0x%zx, and nothing orders them", what,
           size_t(static_cast<const char*>(here) - begin) - 1, other, size_t(static_cast<const char*>(there) - begin) - 1);
  fail(message);
}

}  // namespace emulator

extern "C" __attribute__((visibility("default"))) const char* emulator_error() { return emulator::error.c_str(); }
extern "C" __attribute__((visibility("default"))) void emulator_seed(uint64_t seed) { emulator::seed = seed; }
extern "C" __attribute__((visibility("default"))) void emulator_poison(int byte) { emulator::poison = byte; }
