// Activations and gates. On the CPU: cpu.rs.
//
// Floor for a value of BF16: forward 2 bytes read (4 with a gate) and 2 written; backward 4 (6)
// read and 2 (4) written, the same with a bias, whose gradient is added up on the way. About 20
// operations. A thread takes eight values: one access of 16
// bytes a stream in BF16, two in FP32.

constexpr int kThreads = 256;

enum Activation { kGelu = 0, kGeluTanh = 1, kRelu = 2, kReluSquared = 3, kSilu = 4 };

// f(x), and f'(x) in `slope`.
template <int ACTIVATION>
__device__ __forceinline__ float activation(float x, float& slope) {
  if (ACTIVATION == kGelu) {
    const float below = 0.5f * (1.0f + erff(x * 0.70710678118654752f));
    slope = below + x * 0.39894228040143268f * __expf(-0.5f * x * x);
    return x * below;
  }
  if (ACTIVATION == kGeluTanh) {
    constexpr float root = 0.79788456080286536f, cubic = 0.044715f;
    const float t = tanhf(root * (x + cubic * x * x * x));
    const float inner = root * (1.0f + 3.0f * cubic * x * x);
    slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
    return 0.5f * x * (1.0f + t);
  }
  // Where `x` is NaN, so are the value and what comes of the slope.
  if (ACTIVATION == kRelu) {
    slope = x <= 0.0f ? 0.0f : 1.0f;
    return x < 0.0f ? 0.0f : x;
  }
  if (ACTIVATION == kReluSquared) {
    const float positive = x < 0.0f ? 0.0f : x;
    slope = 2.0f * positive;
    return positive * positive;
  }
  const float s = 1.0f / (1.0f + __expf(-x));
  slope = s * (1.0f + x * (1.0f - s));
  return x * s;
}

template <int ACTIVATION, typename T>
__device__ __forceinline__ void forward(const T* x, const T* gated, T* y, i64 count) {
  const i64 i = (i64(blockIdx.x) * kThreads + threadIdx.x) * 8;
  float slope;
  if (i + 8 <= count) {
    float values[8], factors[8];
    load_eight(x + i, values);
    if (gated) load_eight(gated + i, factors);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      values[j] = activation<ACTIVATION>(values[j], slope) * (gated ? factors[j] : 1.0f);
    }
    store_eight(y + i, values);
  } else {
    for (i64 j = i; j < count; ++j) {
      const float factor = gated ? widen(gated[j]) : 1.0f;
      y[j] = narrow<T>(activation<ACTIVATION>(widen(x[j]), slope) * factor);
    }
  }
}

// dx, and du where `gated` is not null.
template <int ACTIVATION, typename T>
__device__ __forceinline__ void backward(const T* x, const T* gated, const T* dy, T* dx, T* du,
                                         i64 count) {
  const i64 i = (i64(blockIdx.x) * kThreads + threadIdx.x) * 8;
  float slope;
  if (i + 8 <= count) {
    float values[8], factors[8], grads[8];
    load_eight(x + i, values);
    load_eight(dy + i, grads);
    if (gated) load_eight(gated + i, factors);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float value = activation<ACTIVATION>(values[j], slope);
      values[j] = grads[j] * (gated ? factors[j] : 1.0f) * slope;
      factors[j] = grads[j] * value;
    }
    store_eight(dx + i, values);
    if (gated) store_eight(du + i, factors);
  } else {
    for (i64 j = i; j < count; ++j) {
      const float value = activation<ACTIVATION>(widen(x[j]), slope), grad = widen(dy[j]);
      if (gated) du[j] = narrow<T>(grad * value);
      dx[j] = narrow<T>(grad * (gated ? widen(gated[j]) : 1.0f) * slope);
    }
  }
}

// f(x + b), with x [.., cols] and b [cols], cols a multiple of 8.
template <int ACTIVATION, typename T>
__device__ __forceinline__ void forward_biased(const T* x, const T* bias, T* y, i64 count,
                                               int cols) {
  const i64 i = (i64(blockIdx.x) * kThreads + threadIdx.x) * 8;
  if (i >= count) return;
  float values[8], shifts[8], slope;
  load_eight(x + i, values);
  load_eight(bias + i % cols, shifts);
#pragma unroll
  for (int j = 0; j < 8; ++j) values[j] = activation<ACTIVATION>(values[j] + shifts[j], slope);
  store_eight(y + i, values);
}

constexpr int kWarps = kThreads / 32;

// dx of [rows, cols], and in `parts`, [gridDim.y, cols], its sums over the rows that a block
// takes: a warp every gridDim.y * kWarps-th, a lane eight columns.
template <int ACTIVATION, typename T>
__device__ __forceinline__ void backward_biased(const T* x, const T* bias, const T* dy, T* dx,
                                                float* parts, int rows, int cols) {
  __shared__ float room[kWarps][kThreads];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int col = (int(blockIdx.x) * 32 + lane) * 8;
  float sums[8] = {};
  if (col < cols) {
    float shifts[8], slope;
    load_eight(bias + col, shifts);
    for (int row = int(blockIdx.y) * kWarps + warp; row < rows; row += int(gridDim.y) * kWarps) {
      const i64 at = i64(row) * cols + col;
      float values[8], grads[8];
      load_eight(x + at, values);
      load_eight(dy + at, grads);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        activation<ACTIVATION>(values[j] + shifts[j], slope);
        values[j] = grads[j] * slope;
        sums[j] += values[j];
      }
      store_eight(dx + at, values);
    }
  }
  // Neighbouring lanes take neighbouring banks.
#pragma unroll
  for (int j = 0; j < 8; ++j) room[warp][j * 32 + lane] = sums[j];
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) total += room[i][threadIdx.x];
  const int own = (int(blockIdx.x) * 32 + lane) * 8 + warp;
  if (own < cols) parts[i64(blockIdx.y) * cols + own] = total;
}

#define FOR_TYPE_BIASED(T, name)                                                                  \
  KERNEL(kThreads) activation_biased_##name(int kind, const T* x, const T* bias, T* y, i64 count, \
                                            int cols) {                                           \
    switch (kind) {                                                                               \
      case kGelu: return forward_biased<kGelu>(x, bias, y, count, cols);                          \
      case kGeluTanh: return forward_biased<kGeluTanh>(x, bias, y, count, cols);                  \
      case kRelu: return forward_biased<kRelu>(x, bias, y, count, cols);                          \
      case kReluSquared: return forward_biased<kReluSquared>(x, bias, y, count, cols);            \
      default: return forward_biased<kSilu>(x, bias, y, count, cols);                             \
    }                                                                                             \
  }                                                                                               \
  KERNEL(kThreads) activation_biased_backward_##name(int kind, const T* x, const T* bias,         \
                                                     const T* dy, T* dx, float* parts, int rows,  \
                                                     int cols) {                                  \
    switch (kind) {                                                                               \
      case kGelu: return backward_biased<kGelu>(x, bias, dy, dx, parts, rows, cols);              \
      case kGeluTanh: return backward_biased<kGeluTanh>(x, bias, dy, dx, parts, rows, cols);      \
      case kRelu: return backward_biased<kRelu>(x, bias, dy, dx, parts, rows, cols);              \
      case kReluSquared: return backward_biased<kReluSquared>(x, bias, dy, dx, parts, rows, cols); \
      default: return backward_biased<kSilu>(x, bias, dy, dx, parts, rows, cols);                 \
    }                                                                                             \
  }
FOR_TYPE_BIASED(float, float)
FOR_TYPE_BIASED(Bf16, bf16)

#define FOR_TYPE(T, name)                                                                         \
  KERNEL(kThreads) activation_##name(int kind, const T* x, const T* gated, T* y, i64 count) {     \
    switch (kind) {                                                                               \
      case kGelu: return forward<kGelu>(x, gated, y, count);                                      \
      case kGeluTanh: return forward<kGeluTanh>(x, gated, y, count);                              \
      case kRelu: return forward<kRelu>(x, gated, y, count);                                      \
      case kReluSquared: return forward<kReluSquared>(x, gated, y, count);                        \
      default: return forward<kSilu>(x, gated, y, count);                                         \
    }                                                                                             \
  }                                                                                               \
  KERNEL(kThreads) activation_backward_##name(int kind, const T* x, const T* gated,               \
                                              const T* dy, T* dx, T* du, i64 count) {             \
    switch (kind) {                                                                               \
      case kGelu: return backward<kGelu>(x, gated, dy, dx, du, count);                            \
      case kGeluTanh: return backward<kGeluTanh>(x, gated, dy, dx, du, count);                    \
      case kRelu: return backward<kRelu>(x, gated, dy, dx, du, count);                            \
      case kReluSquared: return backward<kReluSquared>(x, gated, dy, dx, du, count);              \
      default: return backward<kSilu>(x, gated, dy, dx, du, count);                               \
    }                                                                                             \
  }
FOR_TYPE(float, float)
FOR_TYPE(Bf16, bf16)
