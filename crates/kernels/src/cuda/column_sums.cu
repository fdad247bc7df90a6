// Sums of columns of FP32, for the gradients of what all rows share: norm.cu and rotary.cu leave
// one row of sums a block. Adds in a fixed order, so that results have the same bits each time.
//
// Floor: 4 bytes read a number. There are few, so that what counts is how many are asked for at
// once: a block takes 32 columns, each of its warps every eighth row.

constexpr int kWarps = 8;

template <typename T>
__device__ __forceinline__ void sum(const float* parts, int rows, int columns, T* out) {
  __shared__ float room[kWarps * 32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int column = int(blockIdx.x) * 32 + lane;
  float total = 0.0f;
  if (column < columns) {
#pragma unroll 8
    for (int row = warp; row < rows; row += kWarps) total += parts[i64(row) * columns + column];
  }
  room[threadIdx.x] = total;
  __syncthreads();
  if (warp != 0 || column >= columns) return;
  total = 0.0f;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) total += room[i * 32 + lane];
  out[column] = narrow<T>(total);
}

KERNEL(kWarps * 32) columns_float(const float* parts, int rows, int columns, float* out) {
  sum(parts, rows, columns, out);
}

KERNEL(kWarps * 32) columns_bf16(const float* parts, int rows, int columns, Bf16* out) {
  sum(parts, rows, columns, out);
}
