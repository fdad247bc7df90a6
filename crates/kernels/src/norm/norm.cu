// Layer norm and RMS norm, of one tensor or of the sum of two. On the CPU: cpu/.
//
// Floor for a value of BF16: forward 2 bytes read (4 of a sum) and 2 written (4 with the sum);
// backward 4 read (2 more for each further gradient) and 2 written. A warp takes a row; what it
// reads again lies in the cache next to it, as a row is a few kilobytes.

constexpr int kRows = 8;
constexpr int kMostWarps = 4;

enum Form { kLayer = 0, kRms = 1 };

// Adds a row of values to another, each rounded to T.
template <int STEP, typename T>
__device__ __forceinline__ void add_rounded(const T* from, float (&values)[STEP]) {
  float others[STEP];
  load_step(from, others);
#pragma unroll
  for (int j = 0; j < STEP; ++j) values[j] = widen(narrow<T>(values[j] + others[j]));
}

// `[rows, features]`, all but weight and bias, which are a row; statistics are two floats a row.
template <typename T>
struct Forward {
  const T *x, *y, *weight, *bias;
  T *sum, *normed;
  float* statistics;
};

template <int STEP, typename T>
__device__ __forceinline__ void forward(const Forward<T>& at, int form, float eps, i64 rows,
                                        int features) {
  const int lane = threadIdx.x % 32;
  const i64 row = i64(blockIdx.x) * kRows + threadIdx.x / 32;
  if (row >= rows) return;
  const i64 start = row * features;
  const T* source = at.y ? at.sum : at.x;
  float values[STEP], total = 0.0f, squares = 0.0f;
  for (int i = lane * STEP; i < features; i += 32 * STEP) {
    load_step(at.x + start + i, values);
    if (at.y) {
      add_rounded(at.y + start + i, values);
      store_step(at.sum + start + i, values);
    }
#pragma unroll
    for (int j = 0; j < STEP; ++j) total += values[j];
  }
  const float mean = form == kLayer ? warp_sum(total) / float(features) : 0.0f;
  for (int i = lane * STEP; i < features; i += 32 * STEP) {
    load_step(source + start + i, values);
#pragma unroll
    for (int j = 0; j < STEP; ++j) squares += (values[j] - mean) * (values[j] - mean);
  }
  const float scale = 1.0f / sqrtf(warp_sum(squares) / float(features) + eps);
  if (lane == 0) {
    at.statistics[2 * row] = mean;
    at.statistics[2 * row + 1] = scale;
  }
  for (int i = lane * STEP; i < features; i += 32 * STEP) {
    float weight[STEP], bias[STEP];
    load_step(source + start + i, values);
    load_step(at.weight + i, weight);
    if (at.bias) load_step(at.bias + i, bias);
#pragma unroll
    for (int j = 0; j < STEP; ++j) {
      values[j] = (values[j] - mean) * scale * weight[j] + (at.bias ? bias[j] : 0.0f);
    }
    store_step(at.normed + start + i, values);
  }
}

// As in the forward pass; `of_twin` and `of_sum` may be null. `parts` is a row of sums a block.
template <typename T>
struct Backward {
  const T* weight;
  const T* sum;
  const float* statistics;
  const T *of_normed, *of_twin, *of_sum;
  T* out;
  float* parts;
};

// z and the norm's gradient of a lane's values.
template <int STEP, typename T>
__device__ __forceinline__ void read(const Backward<T>& at, i64 place, float mean, float scale,
                                     float (&z)[STEP], float (&grad)[STEP]) {
  load_step(at.sum + place, z);
  load_step(at.of_normed + place, grad);
  if (at.of_twin) add_rounded(at.of_twin + place, grad);
#pragma unroll
  for (int j = 0; j < STEP; ++j) z[j] = (z[j] - mean) * scale;
}

// Adds a lane's values to its warp's sums.
template <int STEP>
__device__ __forceinline__ void accumulate(float* sums, const float (&values)[STEP]) {
  float old[STEP];
  load_step(sums, old);
#pragma unroll
  for (int j = 0; j < STEP; ++j) old[j] += values[j];
  store_step(sums, old);
}

// The gradient of a row, by a warp, which adds to its sums for weight and, if there is one, bias.
template <int STEP, typename T>
__device__ __forceinline__ void backward_row(const Backward<T>& at, int form, i64 row,
                                             int features, bool is_biased, float* sums) {
  const int lane = threadIdx.x % 32;
  const i64 start = row * features;
  const float mean = at.statistics[2 * row], scale = at.statistics[2 * row + 1];
  float z[STEP], grad[STEP], weight[STEP], plain = 0.0f, with_z = 0.0f;
  for (int i = lane * STEP; i < features; i += 32 * STEP) {
    read(at, start + i, mean, scale, z, grad);
    load_step(at.weight + i, weight);
    float product[STEP];
#pragma unroll
    for (int j = 0; j < STEP; ++j) {
      plain += grad[j] * weight[j];
      with_z += grad[j] * weight[j] * z[j];
      product[j] = grad[j] * z[j];
    }
    accumulate(sums + i, product);
    if (is_biased) accumulate(sums + features + i, grad);
  }
  plain = form == kLayer ? warp_sum(plain) / float(features) : 0.0f;
  with_z = warp_sum(with_z) / float(features);
  for (int i = lane * STEP; i < features; i += 32 * STEP) {
    read(at, start + i, mean, scale, z, grad);
    load_step(at.weight + i, weight);
    float more[STEP] = {};
    if (at.of_sum) load_step(at.of_sum + start + i, more);
#pragma unroll
    for (int j = 0; j < STEP; ++j) {
      grad[j] = (grad[j] * weight[j] - (z[j] * with_z + plain)) * scale + more[j];
    }
    store_step(at.out + start + i, grad);
  }
}

template <int STEP, typename T>
__device__ __forceinline__ void backward(const Backward<T>& at, int form, i64 rows, int features,
                                         bool is_biased, int warps) {
  DYNAMIC_SHARED(float, room);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int columns = is_biased ? 2 * features : features;
  float* sums = room + warp * columns;
  // Each lane has columns of its own, here as below.
  for (int i = lane * STEP; i < columns; i += 32 * STEP) {
    const float zeros[STEP] = {};
    store_step(sums + i, zeros);
  }
  __syncwarp();
  for (i64 row = i64(blockIdx.x) * warps + warp; row < rows; row += i64(gridDim.x) * warps) {
    backward_row<STEP>(at, form, row, features, is_biased, sums);
  }
  __syncthreads();
  for (int column = threadIdx.x; column < columns; column += warps * 32) {
    float total = 0.0f;
    for (int i = 0; i < warps; ++i) total += room[i * columns + column];
    at.parts[i64(blockIdx.x) * columns + column] = total;
  }
}

#define FOR_TYPE(T, name)                                                                         \
  KERNEL(kRows * 32) norm_##name(const __grid_constant__ Forward<T> at, int form, float eps,      \
                                 i64 rows, int features, bool is_wide) {                          \
    if (is_wide) return forward<8>(at, form, eps, rows, features);                                \
    forward<1>(at, form, eps, rows, features);                                                    \
  }                                                                                               \
  KERNEL(kMostWarps * 32) norm_backward_##name(const __grid_constant__ Backward<T> at, int form,  \
                                               i64 rows, int features, bool is_biased, int warps, \
                                               bool is_wide) {                                    \
    if (is_wide) return backward<8>(at, form, rows, features, is_biased, warps);                  \
    backward<1>(at, form, rows, features, is_biased, warps);                                      \
  }
FOR_TYPE(float, float)
FOR_TYPE(Bf16, bf16)
