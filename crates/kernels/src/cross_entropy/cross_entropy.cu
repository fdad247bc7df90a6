// Softmax statistics of rows of logits, and their gradients in place. On the CPU:
// cpu/softmax.rs, whose formulas these are.
//
// Floor for a logit of BF16: 2 bytes read, 2 written. It is read twice, but a row (61 KB of
// BERT's vocabulary, 100 KB of GPT-2's) comes from L2 the second time: a block takes a row. Two
// exponentials a logit, three with a soft cap. Rows of an odd length begin at any even place: a
// few values before the first 16-byte boundary and behind the last go one by one.

constexpr int kThreads = 256;

__device__ __forceinline__ float capped(float x, float cap) {
  return cap > 0.0f ? cap * tanhf(x / cap) : x;
}

// The derivative of the cap where its result is y.
__device__ __forceinline__ float slope(float y, float cap) {
  const float part = cap > 0.0f ? y / cap : 0.0f;
  return 1.0f - part * part;
}

// The largest of some values, the sum of their exponentials relative to it, and their sum.
struct Statistics {
  float most, sum_exp, sum;
};

__device__ __forceinline__ Statistics join(const Statistics& a, const Statistics& b) {
  const float most = fmaxf(a.most, b.most);
  // Nothing seen yet is -infinity, whose difference with itself is no number.
  const float left = a.most == most ? 1.0f : __expf(a.most - most);
  const float right = b.most == most ? 1.0f : __expf(b.most - most);
  return {most, a.sum_exp * left + b.sum_exp * right, a.sum + b.sum};
}

// Calls `body(first, count)` for the thread's parts of a row: `count` is kPack<T> at boundaries
// of 16 bytes, else 1.
template <typename T, typename Body>
__device__ __forceinline__ void for_row(const T* row, int classes, Body body) {
  constexpr int pack = kPack<T>;
  const int odd = int(reinterpret_cast<u64>(row) / sizeof(T) % pack);
  const int head = min(classes, (pack - odd) % pack);
  const int packs = (classes - head) / pack;
  if (int(threadIdx.x) < head) body(int(threadIdx.x), 1);
  for (int i = threadIdx.x; i < packs; i += kThreads) body(head + i * pack, pack);
  const int tail = head + packs * pack + threadIdx.x;
  if (tail < classes) body(tail, 1);
}

template <typename T>
__device__ __forceinline__ void load_some(const T* from, int count, float (&values)[kPack<T>]) {
  if (count == kPack<T>) {
    load_pack(from, values);
  } else {
    values[0] = widen(from[0]);
  }
}

// Rows are `length` apart, at least `classes`. losses[row] becomes the row's share of the loss, not
// yet divided by `counted`. A label that is neither a class nor `ignored` makes the loss NaN.
template <typename T>
__device__ __forceinline__ void sweep(T* logits, const i64* labels, const i64* counted, int classes,
                                      int length, i64 ignored, float smoothing, float z_loss,
                                      float cap, int wanted, float* losses) {
  constexpr int pack = kPack<T>;
  __shared__ Statistics room[kThreads / 32];
  T* row = logits + i64(blockIdx.x) * length;
  const i64 label = labels[blockIdx.x];
  if (label == ignored) {
    if (threadIdx.x == 0) losses[blockIdx.x] = 0.0f;
    if (!wanted) return;
    for_row(row, classes, [&](int first, int count) {
      float zeros[pack] = {};
      if (count == pack) {
        store_pack(row + first, zeros);
      } else {
        row[first] = narrow<T>(0.0f);
      }
    });
    return;
  }
  Statistics own{-__uint_as_float(kInfinity), 0.0f, 0.0f};
  for_row(row, classes, [&](int first, int count) {
    float values[pack];
    load_some(row + first, count, values);
    float most = own.most;
#pragma unroll
    for (int j = 0; j < pack; ++j) {
      if (j < count) {
        values[j] = capped(values[j], cap);
        most = fmaxf(most, values[j]);
        own.sum += values[j];
      }
    }
    float sum = own.most == most ? own.sum_exp : own.sum_exp * __expf(own.most - most);
#pragma unroll
    for (int j = 0; j < pack; ++j) {
      if (j < count) sum += __expf(values[j] - most);
    }
    own.most = most;
    own.sum_exp = sum;
  });
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const Statistics other{__shfl_xor_sync(0xffffffffu, own.most, offset),
                           __shfl_xor_sync(0xffffffffu, own.sum_exp, offset),
                           __shfl_xor_sync(0xffffffffu, own.sum, offset)};
    own = join(own, other);
  }
  if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = own;
  const bool is_class = label >= 0 && label < classes;
  const float target = is_class ? capped(widen(row[label]), cap) : 0.0f;
  __syncthreads();
  Statistics all = room[0];
#pragma unroll
  for (int i = 1; i < kThreads / 32; ++i) all = join(all, room[i]);
  const float log_sum = all.most + logf(all.sum_exp);
  const float share = 1.0f / float(*counted);
  if (threadIdx.x == 0) {
    const float spread = smoothing * (log_sum - all.sum / float(classes));
    const float hit = (1.0f - smoothing) * (log_sum - target);
    const float loss = hit + spread + z_loss * log_sum * log_sum;
    losses[blockIdx.x] = is_class ? loss : __uint_as_float(0x7fc00000u);
  }
  if (!wanted) return;
  const float scale = share * (1.0f + 2.0f * z_loss * log_sum);
  const float even = share * smoothing / float(classes);
  const float hit = share * (1.0f - smoothing);
  for_row(row, classes, [&](int first, int count) {
    float values[pack];
    load_some(row + first, count, values);
#pragma unroll
    for (int j = 0; j < pack; ++j) {
      if (j < count) {
        const float y = capped(values[j], cap);
        const float grad = scale * __expf(y - log_sum) - even - (first + j == label ? hit : 0.0f);
        values[j] = grad * slope(y, cap);
      }
    }
    if (count == pack) {
      store_pack(row + first, values);
    } else {
      row[first] = narrow<T>(values[0]);
    }
  });
}

#define FOR_TYPE(T, name)                                                                         \
  KERNEL(kThreads) cross_entropy_##name(T* logits, const i64* labels, const i64* counted,         \
                                        int classes, int length, i64 ignored, float smoothing,    \
                                        float z_loss, float cap, int wanted, float* losses) {     \
    sweep(logits, labels, counted, classes, length, ignored, smoothing, z_loss, cap, wanted,      \
          losses);                                                                                \
  }
FOR_TYPE(float, float)
FOR_TYPE(Bf16, bf16)
