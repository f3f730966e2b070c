/* Short paths: tiles whose rows are one block of columns. A row of a level is a chain of operations that wait for one another, and where it
   has few columns the processor comes to no others meanwhile. So levels are staggered: level m of row r is swept together with level
   m - 1 of row r + 1, two chains side by side. Nothing is carried from block to block, so states stay in registers. Every node sees the
   operations that it sees in other tiles, so the bits are the same. */
#ifndef BS_SHORT_H
#define BS_SHORT_H

#include "tile.h"

/* A level on a row of sub-cells */
typedef struct {
  const vec *g, *sums, *from; /* sums are of the level below */
  vec *to, *sums_out;         /* for the level above; unless the level integrates */
  vec largest_cell, bound;
  vec *integral;              /* of the top level, or NULL */
  watch *at;
  vec *largest;               /* of sums_out, likewise */
} level_row;

BS_INLINE level_row level_row_of(const tile *t, int64_t r, int m, vec *integral) {
  const vec bound = t->bound[coarse(t, r) - t->first_row];
  const int integrates = m == t->levels - 1 && t->levels < t->in.task->depth;
  return (level_row){.g = block_of(t, 0, r).g,
                     .sums = m ? t->level_sums + (m - 1) * t->columns : t->fours,
                     .from = k_row(t, r, m),
                     .to = k_row(t, r + 1, m),
                     .sums_out = t->level_sums + m * t->columns,
                     .largest_cell = m ? t->largest[m - 1] * bound : 4 * bound,
                     .bound = bound,
                     .integral = integrates ? integral : NULL,
                     .at = &t->watched[m],
                     .largest = &t->largest[m]};
}

BS_INLINE level_walk start_short_row(int tier, const level_row *row) {
  const row_state state = {splat(1), splat(2), splat(1)};
  return start_level(tier, row->largest_cell, &state);
}

BS_INLINE void short_column(int tier, int integrates, int shift, int64_t c, const level_row *row, level_walk *at) {
  level_column(tier, 1, row->g[(c - 1) >> shift], row->sums[c - 1], row->from[c], &row->to[c], integrates ? NULL : &row->sums_out[c - 1], at);
}

BS_INLINE void end_short_row(int tier, int integrates, const tile *t, const level_row *row, const level_walk *at) {
  const vec largest = end_level(tier, at, integrates ? row->integral : NULL, row->at->extent);
  if (integrates)
    row->at[1].reach += largest * row->bound * t->counts[0];
  else
    *row->largest = largest;
}

BS_INLINE void one_row_at(int tier, int integrates, int shift, const tile *t, const level_row *row) {
  level_walk at = start_short_row(tier, row);
  for (int64_t c = 1; c <= t->columns; ++c) short_column(tier, integrates, shift, c, row, &at);
  end_short_row(tier, integrates, t, row, &at);
}

/* Level m of a row (upper) and level m - 1 of the next one (lower), whose sums take the place of those that the upper level has read. */
BS_INLINE void two_rows_at(int tier, int integrates, int shift, const tile *t, const level_row *upper, const level_row *lower) {
  level_walk above = start_short_row(tier, upper), below = start_short_row(tier, lower);
  for (int64_t c = 1; c <= t->columns; ++c) {
    short_column(tier, integrates, shift, c, upper, &above);
    short_column(tier, 0, shift, c, lower, &below);
  }
  end_short_row(tier, integrates, t, upper, &above);
  end_short_row(tier, 0, t, lower, &below);
}

#define BS_FOR_TIER(largest_cell, call)            \
  switch (tier_for(largest_cell)) {                \
    case TIER_TINY: call(TIER_TINY); break;        \
    case TIER_SMALL: call(TIER_SMALL); break;      \
    case TIER_MEDIUM: call(TIER_MEDIUM); break;    \
    case TIER_LARGE: call(TIER_LARGE); break;      \
    default: call(TIER_ANY);                       \
  }

BS_INLINE void one_row(int shift, const tile *t, const level_row *row) {
#define BS_CALL(tier) row->integral ? one_row_at(tier, 1, shift, t, row) : one_row_at(tier, 0, shift, t, row)
  BS_FOR_TIER(row->largest_cell, BS_CALL)
#undef BS_CALL
}

BS_INLINE void two_rows(int shift, const tile *t, const level_row *upper, const level_row *lower) {
#define BS_CALL(tier) upper->integral ? two_rows_at(tier, 1, shift, t, upper, lower) : two_rows_at(tier, 0, shift, t, upper, lower)
  BS_FOR_TIER(maximum(upper->largest_cell, lower->largest_cell), BS_CALL)
#undef BS_CALL
}

BS_INLINE void short_rows_of(int shift, const tile *t, int64_t r0, int64_t r1, vec *integral) {
  const int64_t rows = r1 - r0;
  for (int64_t step = 0; step < rows + t->levels - 1; ++step) {
    int m = (int)least(step, t->levels - 1); /* the levels that have a row at this step are end..m */
    const int end = step < rows ? 0 : (int)(step - rows + 1);
    for (; m > end; m -= 2) {
      const level_row upper = level_row_of(t, r0 + step - m, m, &integral[step - m]);
      const level_row lower = level_row_of(t, r0 + step - m + 1, m - 1, NULL);
      two_rows(shift, t, &upper, &lower);
    }
    if (m < end) continue;
    const level_row row = level_row_of(t, r0 + step - m, m, &integral[step - m]);
    one_row(shift, t, &row);
  }
}

static void short_rows(tile *t, int64_t r0, int64_t r1, vec *integral) {
  const int shift = t->in.task->dyadic2;
  if (shift)
    short_rows_of(shift, t, r0, r1, integral);
  else
    short_rows_of(0, t, r0, r1, integral);
}

#endif
