// See races.h.
#include "races.h"

#include <algorithm>
#include <unordered_map>
#include <vector>

namespace emulator::races {
namespace {

typedef uint32_t Time;

// Up to which time a thread knows of each other one: of those from `first` on, and of the others nothing.
struct Clock {
  unsigned first = 0;
  std::vector<Time> times;

  Time of(unsigned thread) const { return thread - first < times.size() ? times[thread - first] : 0; }
  void set(unsigned thread, Time time) {
    cover(thread, thread + 1);
    times[thread - first] = time;
  }
  void join(const Clock& other) {
    if (other.times.empty()) return;
    cover(other.first, other.first + unsigned(other.times.size()));
    Time* mine = times.data() + (other.first - first);
    for (size_t i = 0; i < other.times.size(); ++i) mine[i] = std::max(mine[i], other.times[i]);
  }

 private:
  void cover(unsigned from, unsigned to) {
    if (times.empty()) first = from;
    if (from < first) {
      times.insert(times.begin(), first - from, 0);
      first = from;
    }
    if (to > first + times.size()) times.resize(to - first);
  }
};

constexpr size_t word = 4;

struct Access {
  unsigned thread;
  Time time;
  const void* code;
};
struct Word {
  std::vector<Access> written, read;  // of which no one knows of another
};
// Two writes that nothing orders, until it is known whether they write the same.
struct Meeting {
  const uint32_t* where;
  uint32_t before;
  const void *code, *other;
};

const char *stacks, *shared;
size_t stacks_size, shared_size;
std::vector<Clock> known, at_fence, heard;  // of each thread
std::unordered_map<const void*, Clock> told;
std::unordered_map<uintptr_t, Word> memory;
std::vector<std::vector<Word>> memory_of_block;
std::vector<Meeting> meetings;

Word& word_at(const char* address) {
  if (size_t(address - shared) >= shared_size) return memory[uintptr_t(address) / word];
  auto& words = memory_of_block[running_block()];
  return words[(address - shared) / word];
}

void touch(const char* address, bool writes, const void* code) {
  const unsigned me = running_thread();
  const Clock& clock = known[me];
  const auto known_to_me = [&](const Access& other) { return other.thread == me || clock.of(other.thread) >= other.time; };
  const auto add_to = [&](std::vector<Access>& accesses) {
    accesses.erase(std::remove_if(accesses.begin(), accesses.end(), known_to_me), accesses.end());
    accesses.push_back({me, clock.of(me), code});
  };
  Word& at = word_at(address);
  for (const Access& other : at.written) {
    if (known_to_me(other)) continue;
    if (!writes) found("reads", code, "writes", other.code);
    const auto* where = reinterpret_cast<const uint32_t*>(uintptr_t(address) / word * word);
    if (writes) meetings.push_back({where, *where, code, other.code});
  }
  if (!writes) return add_to(at.read);
  for (const Access& other : at.read)
    if (!known_to_me(other)) found("writes", code, "reads", other.code);
  at.read.clear();
  add_to(at.written);
}

void hear(const void* address) {
  const auto at = told.find(address);
  if (at != told.end()) heard[running_thread()].join(at->second);
}

void touch(const void* address, size_t size, bool writes, const void* code) {
  if (writes) settle();  // a copy of a structure tells of its writes before its reads
  const char *first = static_cast<const char*>(address), *end = first + size;
  if (running_thread() == nobody || size_t(first - stacks) < stacks_size) return;
  for (const char* at = first; at < end; at += word - uintptr_t(at) % word) touch(at, writes, code);
}

}  // namespace

void begin(unsigned blocks, unsigned threads, const char* stacks_, size_t stacks_size_, const char* shared_, size_t shared_size_) {
  stacks = stacks_;
  stacks_size = stacks_size_;
  shared = shared_;
  shared_size = shared_size_;
  known.assign(size_t(blocks) * threads, Clock());
  for (unsigned t = 0; t < known.size(); ++t) known[t].set(t, 1);
  at_fence.assign(known.size(), Clock());
  heard = at_fence;
  told.clear();
  memory.clear();
  meetings.clear();
  memory_of_block.assign(blocks, {});
}

void begin_block(unsigned block) { memory_of_block[block].assign(shared_size / word + 1, Word()); }

void meet(const unsigned* threads, unsigned count) {
  Clock all;
  for (unsigned i = 0; i < count; ++i) all.join(known[threads[i]]);
  for (unsigned i = 0; i < count; ++i) {
    const unsigned thread = threads[i];
    known[thread] = all;
    known[thread].set(thread, all.of(thread) + 1);
  }
}

void fence(unsigned thread) {
  known[thread].join(heard[thread]);
  heard[thread] = Clock();
  at_fence[thread] = known[thread];
  known[thread].set(thread, known[thread].of(thread) + 1);
}
void tell(unsigned thread, const void* where) { told[where].join(at_fence[thread]); }

void settle() {
  for (const Meeting& both : meetings)
    if (*both.where != both.before) found("writes", both.code, "writes", both.other);
  meetings.clear();
}

}  // namespace emulator::races

using emulator::races::touch;
#define HERE __builtin_return_address(0)
#define ACCESS(size)                                                                                          \
  extern "C" void __tsan_read##size(void* address) { touch(address, size, false, HERE); }                     \
  extern "C" void __tsan_write##size(void* address) { touch(address, size, true, HERE); }                     \
  extern "C" void __tsan_unaligned_read##size(void* address) { touch(address, size, false, HERE); }           \
  extern "C" void __tsan_unaligned_write##size(void* address) { touch(address, size, true, HERE); }           \
  extern "C" void __tsan_volatile_read##size(void* address) { emulator::races::hear(address); }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
extern "C" void __tsan_read_range(void* address, size_t size) { touch(address, size, false, HERE); }
extern "C" void __tsan_write_range(void* address, size_t size) { touch(address, size, true, HERE); }
extern "C" void __tsan_init() {}
