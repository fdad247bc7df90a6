// Sums of squares of many tensors. On the CPU: cpu.rs.
//
// Floor: 2 or 4 bytes read a value, one multiplication and addition, in FP64 as on the CPU, so that
// both differ by the order of sums alone: on an H100, whose FP64 is half as fast as its FP32, less
// time than reading the value. A thread takes eight values at a time; a block takes a chunk and
// leaves its sum; a warp of the second launch adds those
// of a tensor, always in the same order. Which tensor's a chunk is, a block finds in the list that
// the launch carries in its parameters.

constexpr int kThreads = 256;
constexpr int kChunk = kThreads * 8 * 4;
constexpr int kMostEntries = 128;

// Laid out as `SquaresEntry` in cuda.rs.
struct Entry {
  const void* values;
  i64 count;
  int first_chunk;
  // 1 for BF16, + 2 where it begins at a 16-byte boundary.
  int flags;
};

struct Entries {
  int count;
  int chunks;
  Entry entry[kMostEntries];
};

template <typename T>
__device__ __forceinline__ double sum_chunk(const Entry& entry, i64 start) {
  const T* values = static_cast<const T*>(entry.values);
  const i64 end = min(start + kChunk, entry.count);
  double sum = 0.0;
  for (i64 i = start + threadIdx.x * 8; i < end; i += kThreads * 8) {
    if ((entry.flags & 2) && i + 8 <= end) {
      float eight[8];
      load_eight(values + i, eight);
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += double(eight[j]) * double(eight[j]);
    } else {
      for (i64 j = i; j < min(i + 8, end); ++j) {
        const double value = widen(values[j]);
        sum += value * value;
      }
    }
  }
  return sum;
}

KERNEL(kThreads) squares(const __grid_constant__ Entries entries, double* parts) {
  __shared__ double room[kThreads / 32];
  const Entry& entry = entries.entry[tensor_of_block(entries.entry, entries.count)];
  const i64 start = i64(int(blockIdx.x) - entry.first_chunk) * kChunk;
  const bool is_bf16 = entry.flags & 1;
  double sum = is_bf16 ? sum_chunk<Bf16>(entry, start) : sum_chunk<float>(entry, start);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double total = 0.0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) total += room[i];
  parts[blockIdx.x] = total;
}

KERNEL(32) squares_of_tensors(const __grid_constant__ Entries entries, const double* parts,
                              double* out) {
  const int index = blockIdx.x;
  const int first = entries.entry[index].first_chunk;
  const int end = index + 1 < entries.count ? entries.entry[index + 1].first_chunk : entries.chunks;
  double sum = 0.0;
  for (int i = first + int(threadIdx.x); i < end; i += 32) sum += parts[i];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  if (threadIdx.x == 0) out[index] = sum;
}
