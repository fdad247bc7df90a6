// Muon around its polar factor. On the CPU: cpu/, whose passes these are.
//
// Floor for a value, BF16 gradient and products, FP32 momentum and master, in bytes:
// `muon_momentum` 2 + 4 read and 4 written; `muon_write` 2 + 4 read, 2 written; sums 2 read;
// `muon_apply` 2 + 4 read, 4 + 2 written. Few operations a value. What lies transposed goes through
// shared memory by tiles of 64 x 64, so that both sides move 16 bytes an access.
//
// Sums are made in an order that depends on the shape alone, so that a step repeats bit by bit.

constexpr int kThreads = 256;
constexpr int kTile = 64;
// Values a block of `muon_momentum` takes: its threads add few squares each in FP32.
constexpr int kChunk = kThreads * 16;

// `MuonKernelScalars` of mod.rs, in its order. They lie in memory, where a recorded launch
// finds those of each replay.
struct Numbers {
  float one_minus_momentum, grad_scale, lr, decay_factor;
};

struct MomentumArgs {
  float one_minus_momentum, grad_scale;
  int nesterov;
};

__device__ __forceinline__ MomentumArgs momentum_args(const Numbers* numbers, int nesterov) {
  return {numbers->one_minus_momentum, numbers->grad_scale, nesterov};
}

// A factor of 0 hides what is not finite.
__device__ __forceinline__ float scaled(const MomentumArgs& args, float g) {
  return args.grad_scale == 0.0f ? 0.0f : g * args.grad_scale;
}

__device__ __forceinline__ float updated(const MomentumArgs& args, float g, float m) {
  return args.nesterov ? m - args.one_minus_momentum * (m - scaled(args, g)) : m;
}

// Moves the momentum; sums[block] becomes the sum of squares of its part of the update.
template <typename G>
__device__ __forceinline__ void move_momentum(const MomentumArgs& args, const G* grad,
                                              float* momentum, i64 count, bool is_aligned,
                                              double* sums) {
  __shared__ float room[kThreads / 32];
  const i64 start = i64(blockIdx.x) * kChunk;
  const i64 end = min(start + kChunk, count);
  float sum = 0.0f;
  for (i64 i = start + threadIdx.x * 8; i < end; i += kThreads * 8) {
    float g[8] = {}, m[8] = {};
    const bool whole = is_aligned && i + 8 <= end;
    if (whole) {
      load_eight(grad + i, g);
      load_eight(momentum + i, m);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (i + j < end) {
          g[j] = widen(grad[i + j]);
          m[j] = momentum[i + j];
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      m[j] += args.one_minus_momentum * (scaled(args, g[j]) - m[j]);
      const float u = updated(args, g[j], m[j]);
      sum += u * u;
    }
    if (whole) {
      store_eight(momentum + i, m);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (i + j < end) momentum[i + j] = m[j];
      }
    }
  }
  sum = block_sum<kThreads>(sum, room);
  if (threadIdx.x == 0) sums[blockIdx.x] = double(sum);
}

// inverse[0] = 1 / max(factor * root of the sum of `count` sums, the least normal number).
KERNEL(kThreads) muon_norm(const double* sums, int count, double factor, float* inverse) {
  __shared__ double room[kThreads];
  double sum = 0.0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += sums[i];
  room[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
  }
  if (threadIdx.x == 0) {
    inverse[0] = float(1.0 / fmax(sqrt(room[0]) * factor, 1.1754943508222875e-38));
  }
}

// Writes the update, scaled: as `momentum` lies.
template <typename G, typename O>
__device__ __forceinline__ void write(const MomentumArgs& args, const G* grad,
                                      const float* momentum, const float* inverse, O* x,
                                      i64 count, bool is_aligned) {
  const float scale = inverse[0];
  const i64 i = (i64(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (is_aligned && i + 8 <= count) {
    float g[8], m[8];
    load_eight(grad + i, g);
    load_eight(momentum + i, m);
#pragma unroll
    for (int j = 0; j < 8; ++j) m[j] = updated(args, g[j], m[j]) * scale;
    store_eight(x + i, m);
  } else {
    for (i64 j = i; j < min(i + 8, count); ++j) {
      x[j] = narrow<O>(updated(args, widen(grad[j]), momentum[j]) * scale);
    }
  }
}

// Eight values of a row, as far as `count` are there.
template <typename T>
__device__ __forceinline__ void load_part(const T* from, int count, bool is_aligned,
                                          float (&values)[8]) {
  if (is_aligned && count >= 8) {
    load_eight(from, values);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = j < count ? widen(from[j]) : 0.0f;
  }
}

template <typename T>
__device__ __forceinline__ void store_part(T* to, int count, bool is_aligned,
                                           const float (&values)[8]) {
  if (is_aligned && count >= 8) {
    store_eight(to, values);
  } else {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      if (j < count) to[j] = narrow<T>(values[j]);
    }
  }
}

// The same, transposed: `x` is [cols, rows].
template <typename G, typename O>
__device__ __forceinline__ void write_transposed(const MomentumArgs& args, const G* grad,
                                                 const float* momentum, const float* inverse,
                                                 O* x, int rows, int cols, bool is_aligned) {
  __shared__ float tile[kTile][kTile + 1];
  const float scale = inverse[0];
  const int row0 = blockIdx.y * kTile, col0 = blockIdx.x * kTile;
  const int part = threadIdx.x % 8 * 8;
  for (int line = threadIdx.x / 8; line < kTile; line += kThreads / 8) {
    const int row = row0 + line, count = row < rows ? cols - col0 - part : 0;
    float g[8], m[8];
    const i64 at = i64(row) * cols + col0 + part;
    load_part(grad + at, count, is_aligned, g);
    load_part(momentum + at, count, is_aligned, m);
#pragma unroll
    for (int j = 0; j < 8; ++j) tile[line][part + j] = updated(args, g[j], m[j]) * scale;
  }
  __syncthreads();
  for (int line = threadIdx.x / 8; line < kTile; line += kThreads / 8) {
    const int row = col0 + line, count = row < cols ? rows - row0 - part : 0;
    float values[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = tile[part + j][line];
    store_part(x + i64(row) * rows + row0 + part, count, is_aligned, values);
  }
}

// sums[r] becomes the sum of squares of row r: a warp a row.
template <typename O>
__device__ __forceinline__ void sum_rows(const O* o, int rows, int cols, bool is_aligned,
                                         float* sums) {
  const int row = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  float sum = 0.0f;
  for (int col = threadIdx.x % 32 * 8; col < cols; col += 32 * 8) {
    float values[8];
    load_part(o + i64(row) * cols + col, cols - col, is_aligned, values);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum += values[j] * values[j];
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) sums[row] = sum;
}

// sums[c] becomes the sum of squares of column c: a block takes 64 columns, a thread eight of
// them and every 32nd row.
template <typename O>
__device__ __forceinline__ void sum_columns(const O* o, int rows, int cols, bool is_aligned,
                                            float* sums) {
  __shared__ float tile[kThreads / 8][kTile + 1];
  const int part = threadIdx.x % 8 * 8, line = threadIdx.x / 8;
  const int col = blockIdx.x * kTile + part;
  float sum[8] = {};
  for (int row = line; row < rows; row += kThreads / 8) {
    float values[8];
    load_part(o + i64(row) * cols + col, cols - col, is_aligned, values);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[j] += values[j] * values[j];
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) tile[line][part + j] = sum[j];
  __syncthreads();
  const int own = blockIdx.x * kTile + threadIdx.x;
  if (threadIdx.x < kTile && own < cols) {
    float total = 0.0f;
    for (int i = 0; i < kThreads / 8; ++i) total += tile[i][threadIdx.x];
    sums[own] = total;
  }
}

// Where `row` or `col` is null, it is 1 throughout.
struct UpdateArgs {
  const float* row;
  const float* col;
  float step, decay_factor;
  int cautious;
};

// p = p decay_factor - step row col o, for a tile of 64 x 64. `o` is [cols, rows] where
// TRANSPOSED.
template <typename O, int FORM, bool TRANSPOSED>
__device__ __forceinline__ void apply(const UpdateArgs& args, const O* o, void* weight, void* other,
                                      int rows, int cols, bool is_aligned,
                                      float (*tile)[kTile + 1]) {
  const int row0 = blockIdx.y * kTile, col0 = blockIdx.x * kTile;
  const int part = threadIdx.x % 8 * 8;
  if (TRANSPOSED) {
    for (int line = threadIdx.x / 8; line < kTile; line += kThreads / 8) {
      const int from = col0 + line, count = from < cols ? rows - row0 - part : 0;
      float values[8];
      load_part(o + i64(from) * rows + row0 + part, count, is_aligned, values);
#pragma unroll
      for (int j = 0; j < 8; ++j) tile[line][part + j] = values[j];
    }
    __syncthreads();
  }
  for (int line = threadIdx.x / 8; line < kTile; line += kThreads / 8) {
    const int row = row0 + line;
    const int count = row < rows ? cols - col0 - part : 0;
    if (count <= 0) continue;
    const i64 at = i64(row) * cols + col0 + part;
    const float factor = args.row ? args.step * args.row[row] : args.step;
    float values[8], weights[8];
    if (TRANSPOSED) {
#pragma unroll
      for (int j = 0; j < 8; ++j) values[j] = tile[part + j][line];
    } else {
      load_part(o + at, count, is_aligned, values);
    }
    const bool whole = is_aligned && count >= 8;
    if (whole) {
      load_weights<FORM>(weight, other, at, weights);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        weights[j] = j < count ? load_weight<FORM>(weight, other, at + j) : 0.0f;
      }
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float column = args.col && j < count ? args.col[col0 + part + j] : 1.0f;
      const float u = factor * column * values[j];
      const float decay = args.cautious && u * weights[j] < 0.0f ? 1.0f : args.decay_factor;
      weights[j] = weights[j] * decay - u;
    }
    if (whole) {
      store_weights<FORM>(weight, other, at, weights);
    } else {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (j < count) store_weight<FORM>(weight, other, at + j, weights[j]);
      }
    }
  }
}

#define FOR_GRAD(G, name)                                                                         \
  KERNEL(kThreads) muon_momentum_##name(const Numbers* numbers, int nesterov, const G* grad,      \
                                        float* momentum, i64 count, int is_aligned,               \
                                        double* sums) {                                           \
    const MomentumArgs args = momentum_args(numbers, nesterov);                                   \
    move_momentum<G>(args, grad, momentum, count, is_aligned, sums);                              \
  }
FOR_GRAD(float, float)
FOR_GRAD(Bf16, bf16)

#define FOR_GRAD_AND_OUT(G, O, name)                                                              \
  KERNEL(kThreads) muon_write_##name(const Numbers* numbers, int nesterov, const G* grad,         \
                                     const float* momentum, const float* inverse, O* x,           \
                                     i64 count, int is_aligned) {                                 \
    const MomentumArgs args = momentum_args(numbers, nesterov);                                   \
    write<G, O>(args, grad, momentum, inverse, x, count, is_aligned);                             \
  }                                                                                               \
  KERNEL(kThreads) muon_write_transposed_##name(                                                  \
      const Numbers* numbers, int nesterov, const G* grad, const float* momentum,                 \
      const float* inverse, O* x, int rows, int cols, int is_aligned) {                           \
    const MomentumArgs args = momentum_args(numbers, nesterov);                                   \
    write_transposed<G, O>(args, grad, momentum, inverse, x, rows, cols, is_aligned);             \
  }
FOR_GRAD_AND_OUT(float, float, float_float)
FOR_GRAD_AND_OUT(float, Bf16, float_bf16)
FOR_GRAD_AND_OUT(Bf16, float, bf16_float)
FOR_GRAD_AND_OUT(Bf16, Bf16, bf16_bf16)

#define FOR_FACTOR(O, name)                                                                       \
  KERNEL(kThreads) muon_sum_rows_##name(const O* o, int rows, int cols, int is_aligned,           \
                                        float* sums) {                                            \
    sum_rows<O>(o, rows, cols, is_aligned, sums);                                                 \
  }                                                                                               \
  KERNEL(kThreads) muon_sum_columns_##name(const O* o, int rows, int cols, int is_aligned,        \
                                           float* sums) {                                         \
    sum_columns<O>(o, rows, cols, is_aligned, sums);                                              \
  }                                                                                               \
  KERNEL(kThreads) muon_apply_##name(const float* row, const float* col, const Numbers* numbers,  \
                                     float factor, int cautious, const O* o, void* weight,        \
                                     void* other, int rows, int cols, int is_aligned, int form) { \
    __shared__ float tile[kTile][kTile + 1];                                                      \
    const UpdateArgs args{row, col, numbers->lr * factor, numbers->decay_factor, cautious};       \
    const bool wide = is_aligned;                                                                 \
    switch (form + (rows > cols ? 3 : 0)) {                                                       \
      case 0: return apply<O, kSingle, false>(args, o, weight, other, rows, cols, wide, tile);    \
      case 1: return apply<O, kMaster, false>(args, o, weight, other, rows, cols, wide, tile);    \
      case 2: return apply<O, kResidual, false>(args, o, weight, other, rows, cols, wide, tile);  \
      case 3: return apply<O, kSingle, true>(args, o, weight, other, rows, cols, wide, tile);     \
      case 4: return apply<O, kMaster, true>(args, o, weight, other, rows, cols, wide, tile);     \
      case 5: return apply<O, kResidual, true>(args, o, weight, other, rows, cols, wide, tile);   \
    }                                                                                             \
  }
FOR_FACTOR(float, float)
FOR_FACTOR(Bf16, bf16)
