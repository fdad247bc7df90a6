// The gradient of lookups in a table: the rows of `grad` whose ids are equal, summed in FP32 and
// rounded once. On the CPU: cpu.rs. Ids come sorted, with the positions at which each stood.
// Nothing is added atomically, so that results have the same bits each time.
//
// Floor: a read of `grad` and a write of the rows that were looked up, 2 bytes a value of BF16;
// zeros for the rest of the table are libtorch's. A block takes a chunk of the sorted ids and the
// columns of its threads, eight each, and asks for four rows at once. Ids that reach from one
// chunk into the next leave sums in `parts`, two rows a chunk, which a second launch adds up.

constexpr int kThreads = 128;
constexpr int kChunk = 32;
constexpr int kAbreast = 4;

template <typename T>
struct Lookups {
  const T* grad;
  const i64 *ids, *places;
  T* out;
  float* parts;
  i64 count, features;
  // The id that gets no gradient; -1 for none.
  i64 padding;
};

// Sums that end with the id before `end`, of a run that began at `begin` or before.
template <int STEP, typename T>
__device__ __forceinline__ void leave(const Lookups<T>& at, i64 begin, i64 end, i64 column,
                                      const float (&sums)[STEP]) {
  const i64 id = at.ids[begin], chunk = begin / kChunk;
  if (id == at.padding) return;
  const bool from_before = begin % kChunk == 0 && begin > 0 && at.ids[begin - 1] == id;
  const bool goes_on = end < at.count && at.ids[end] == id;
  if (from_before) {
    store_step(at.parts + 2 * chunk * at.features + column, sums);
  } else if (goes_on) {
    store_step(at.parts + (2 * chunk + 1) * at.features + column, sums);
  } else {
    store_step(at.out + id * at.features + column, sums);
  }
}

template <int STEP, typename T>
__device__ __forceinline__ void sum_chunk(const Lookups<T>& at) {
  const i64 first = i64(blockIdx.x) * kChunk, end = min(first + kChunk, at.count);
  const i64 column = (i64(blockIdx.y) * kThreads + threadIdx.x) * STEP;
  if (column >= at.features) return;
  i64 begin = first;
  float sums[STEP] = {};
  for (i64 base = first; base < end; base += kAbreast) {
    float rows[kAbreast][STEP];
#pragma unroll
    for (int k = 0; k < kAbreast; ++k) {
      if (base + k < end) load_step(at.grad + at.places[base + k] * at.features + column, rows[k]);
    }
#pragma unroll
    for (int k = 0; k < kAbreast; ++k) {
      const i64 place = base + k;
      if (place >= end) break;
      if (at.ids[place] != at.ids[begin]) {
        leave(at, begin, place, column, sums);
        begin = place;
#pragma unroll
        for (int j = 0; j < STEP; ++j) sums[j] = 0.0f;
      }
#pragma unroll
      for (int j = 0; j < STEP; ++j) sums[j] += rows[k][j];
    }
  }
  leave(at, begin, end, column, sums);
}

// Where the run of the id at `place` ends.
__device__ __forceinline__ i64 end_of_run(const i64* ids, i64 place, i64 count) {
  i64 low = place + 1, high = count;
  while (low < high) {
    const i64 middle = (low + high) / 2;
    if (ids[middle] == ids[place]) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// The run that begins within a chunk and goes on after it, if there is one.
template <int STEP, typename T>
__device__ __forceinline__ void sum_parts(const Lookups<T>& at) {
  const i64 chunk = blockIdx.x, last = (chunk + 1) * kChunk - 1;
  const i64 column = (i64(blockIdx.y) * kThreads + threadIdx.x) * STEP;
  if (column >= at.features || last + 1 >= at.count) return;
  const i64 id = at.ids[last];
  if (id == at.padding || at.ids[last + 1] != id) return;
  const i64 first = chunk * kChunk;
  if (first > 0 && at.ids[first] == id && at.ids[first - 1] == id) return;
  const i64 last_chunk = (end_of_run(at.ids, last, at.count) - 1) / kChunk;
  float sums[STEP], more[STEP];
  load_step(at.parts + (2 * chunk + 1) * at.features + column, sums);
#pragma unroll 4
  for (i64 next = chunk + 1; next <= last_chunk; ++next) {
    load_step(at.parts + 2 * next * at.features + column, more);
#pragma unroll
    for (int j = 0; j < STEP; ++j) sums[j] += more[j];
  }
  store_step(at.out + id * at.features + column, sums);
}

#define FOR_TYPE(T, name)                                                                         \
  KERNEL(kThreads) embedding_##name(const __grid_constant__ Lookups<T> at, bool is_wide) {        \
    if (is_wide) return sum_chunk<8>(at);                                                         \
    sum_chunk<1>(at);                                                                             \
  }                                                                                               \
  KERNEL(kThreads) embedding_parts_##name(const __grid_constant__ Lookups<T> at, bool is_wide) {  \
    if (is_wide) return sum_parts<8>(at);                                                         \
    sum_parts<1>(at);                                                                             \
  }
FOR_TYPE(float, float)
FOR_TYPE(Bf16, bf16)
