// Rotary positions of heads, with the RMS norm of each before them. On the CPU: cpu/.
//
// Floor for a value of BF16: 2 bytes read and 2 written each way, 2 more read where the backward
// pass has a norm. Angles are shared by all heads of a place, and by all rows of a batch. A thread
// takes eight features of a head's first half and their pairs in the second, by 16-byte accesses;
// a group of threads, a power of two within a warp, takes a head.

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMostFeatures = 512;

// Rows of heads `[b, t, h, e]`, which may lie in wider ones. Laid out as in rotary.rs.
template <typename T>
struct Heads {
  const T* values;
  i64 of_batch, of_time, of_head;
};

// What all heads share.
template <typename T>
struct Shape {
  const T *cos, *sin, *weight;
  // Heads in all, places in time, heads of a place, features, rows of cosines.
  i64 count, time, heads, features, angles;
  // Threads of a head.
  i64 group;
};

template <typename T>
__device__ __forceinline__ const T* head_at(const Heads<T>& x, const Shape<T>& shape, i64 index) {
  const i64 place = index / shape.heads;
  return x.values + place / shape.time * x.of_batch + place % shape.time * x.of_time +
         index % shape.heads * x.of_head;
}

// Eight features of a head's first half, and their pairs.
struct Pair {
  float first[8], second[8];
};

template <typename T>
__device__ __forceinline__ void load_pair(const T* row, int first, int half, Pair& pair) {
  load_eight(row + first, pair.first);
  load_eight(row + half + first, pair.second);
}

template <typename T>
__device__ __forceinline__ void store_pair(T* row, int first, int half, const Pair& pair) {
  store_eight(row + first, pair.first);
  store_eight(row + half + first, pair.second);
}

__device__ __forceinline__ float dot(const Pair& a, const Pair& b) {
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < 8; ++j) sum += a.first[j] * b.first[j] + a.second[j] * b.second[j];
  return sum;
}

__device__ __forceinline__ void multiply(Pair& pair, const Pair& by, float factor) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    pair.first[j] *= by.first[j] * factor;
    pair.second[j] *= by.second[j] * factor;
  }
}

// The sum over a group of threads, for all of them. Every thread of the warp takes part.
__device__ __forceinline__ float group_sum(float value, int group) {
  for (int offset = group / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

template <typename T>
__device__ __forceinline__ void forward(const Heads<T>& x, const Shape<T>& shape, float eps, T* y) {
  const int group = int(shape.group), half = int(shape.features) / 2;
  const i64 index = (i64(blockIdx.x) * kThreads + threadIdx.x) / group;
  const int first = int(threadIdx.x) % group * 8;
  const bool is_there = index < shape.count && first < half;
  Pair n = {};
  if (is_there) load_pair(head_at(x, shape, index), first, half, n);
  if (shape.weight) {
    const float squares = group_sum(dot(n, n), group);
    Pair weight = {};
    if (is_there) load_pair(shape.weight, first, half, weight);
    multiply(n, weight, 1.0f / sqrtf(squares / float(shape.features) + eps));
  }
  if (!is_there) return;
  Pair cos, sin, rotated;
  const i64 row = index / shape.heads % shape.angles * shape.features;
  load_pair(shape.cos + row, first, half, cos);
  load_pair(shape.sin + row, first, half, sin);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    rotated.first[j] = n.first[j] * cos.first[j] - n.second[j] * sin.first[j];
    rotated.second[j] = n.second[j] * cos.second[j] + n.first[j] * sin.second[j];
  }
  store_pair(y + index * shape.features, first, half, rotated);
}

// dn, from dy.
template <typename T>
__device__ __forceinline__ void turn_back(const Heads<T>& y_grad, const Shape<T>& shape, i64 index,
                                          int first, int half, Pair& of_n) {
  Pair grad, cos, sin;
  const i64 row = index / shape.heads % shape.angles * shape.features;
  load_pair(head_at(y_grad, shape, index), first, half, grad);
  load_pair(shape.cos + row, first, half, cos);
  load_pair(shape.sin + row, first, half, sin);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    of_n.first[j] = grad.first[j] * cos.first[j] + grad.second[j] * sin.second[j];
    of_n.second[j] = grad.second[j] * cos.second[j] - grad.first[j] * sin.first[j];
  }
}

template <typename T>
__device__ __forceinline__ void backward(const Heads<T>& y_grad, const Shape<T>& shape, T* x_grad) {
  const int group = int(shape.group), half = int(shape.features) / 2;
  const i64 index = (i64(blockIdx.x) * kThreads + threadIdx.x) / group;
  const int first = int(threadIdx.x) % group * 8;
  if (index >= shape.count || first >= half) return;
  Pair of_n;
  turn_back(y_grad, shape, index, first, half, of_n);
  store_pair(x_grad + index * shape.features, first, half, of_n);
}

// The weight's gradient of a block, from its threads' sums, to a row of `parts`.
__device__ __forceinline__ void sum_threads(Pair& sums, int group, int half, float* parts) {
  __shared__ float room[kWarps * kMostFeatures];
  const int lane = threadIdx.x % 32, first = lane % group * 8, features = 2 * half;
  float* row = room + threadIdx.x / 32 * features;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    for (int offset = group; offset < 32; offset *= 2) {
      sums.first[j] += __shfl_xor_sync(0xffffffffu, sums.first[j], offset);
      sums.second[j] += __shfl_xor_sync(0xffffffffu, sums.second[j], offset);
    }
    if (lane < group && first < half) {
      row[first + j] = sums.first[j];
      row[half + first + j] = sums.second[j];
    }
  }
  __syncthreads();
  for (int feature = threadIdx.x; feature < features; feature += kThreads) {
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < kWarps; ++warp) total += room[warp * features + feature];
    parts[i64(blockIdx.x) * features + feature] = total;
  }
}

// Through the norm too: blocks go on to heads further on, so that there are few rows of sums.
template <typename T>
__device__ __forceinline__ void backward_normed(const Heads<T>& y_grad, const Heads<T>& x,
                                                const Shape<T>& shape, float eps, T* x_grad,
                                                float* parts) {
  const int group = int(shape.group), half = int(shape.features) / 2;
  const int first = int(threadIdx.x) % group * 8, step = kThreads / group;
  Pair weight = {}, sums = {};
  if (first < half) load_pair(shape.weight, first, half, weight);
  for (i64 base = i64(blockIdx.x) * step; base < shape.count; base += i64(gridDim.x) * step) {
    const i64 index = base + threadIdx.x / group;
    const bool is_there = index < shape.count && first < half;
    Pair z = {}, of_n = {};
    if (is_there) {
      load_pair(head_at(x, shape, index), first, half, z);
      turn_back(y_grad, shape, index, first, half, of_n);
    }
    const float squares = group_sum(dot(z, z), group);
    const float scale = 1.0f / sqrtf(squares / float(shape.features) + eps);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      z.first[j] *= scale;
      z.second[j] *= scale;
      sums.first[j] += of_n.first[j] * z.first[j];
      sums.second[j] += of_n.second[j] * z.second[j];
    }
    multiply(of_n, weight, 1.0f);
    const float with_z = group_sum(dot(of_n, z), group) / float(shape.features);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      of_n.first[j] = (of_n.first[j] - z.first[j] * with_z) * scale;
      of_n.second[j] = (of_n.second[j] - z.second[j] * with_z) * scale;
    }
    if (is_there) store_pair(x_grad + index * shape.features, first, half, of_n);
  }
  sum_threads(sums, group, half, parts);
}

#define FOR_TYPE(T, name)                                                                         \
  KERNEL(kThreads) rotary_##name(const __grid_constant__ Heads<T> x,                              \
                                 const __grid_constant__ Shape<T> shape, float eps, T* y) {       \
    forward(x, shape, eps, y);                                                                    \
  }                                                                                               \
  KERNEL(kThreads) rotary_backward_##name(const __grid_constant__ Heads<T> y_grad,                \
                                          const __grid_constant__ Shape<T> shape, T* x_grad) {    \
    backward(y_grad, shape, x_grad);                                                              \
  }                                                                                               \
  KERNEL(kThreads) rotary_normed_backward_##name(const __grid_constant__ Heads<T> y_grad,         \
                                                 const __grid_constant__ Heads<T> x,              \
                                                 const __grid_constant__ Shape<T> shape,          \
                                                 float eps, T* x_grad, float* parts) {            \
    backward_normed(y_grad, x, shape, eps, x_grad, parts);                                        \
  }
FOR_TYPE(float, float)
FOR_TYPE(Bf16, bf16)
