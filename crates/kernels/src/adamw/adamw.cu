// AdamW over many tensors by one launch. On the CPU: cpu.rs, bit for bit.
//
// Floor for a value with an FP32 master and BF16 weight and gradient: 2 + 12 bytes read, 14
// written; about 20 operations, one of them a root and one a division. A thread takes eight
// values: nine to eleven accesses of 16 bytes. A block takes a chunk; which tensor's, it finds
// in the list that the launch carries in its parameters.

constexpr int kThreads = 256;
constexpr int kChunk = kThreads * 8 * 4;
constexpr int kMostUpdates = 32;

// `AdamwKernelScalars` of mod.rs, in its order.
struct Numbers {
  float grad_scale, one_minus_beta1, beta2, one_minus_beta2;
  float inverse_sqrt_correction2, eps, decay_factor, step_size;
};

// Laid out as `UpdateEntry` in cuda.rs.
struct ParamUpdate {
  const void* grad;
  float* moment1;
  float* moment2;
  void* weight;
  void* other;
  i64 count;
  const Numbers* numbers;
  int first_chunk;
  // Form, + 4 for BF16 gradients, + 8 for cautious, + 16 where all begin at 16-byte boundaries.
  int flags;
};

struct ParamUpdates {
  i64 count;
  ParamUpdate param[kMostUpdates];
};

__device__ __forceinline__ float update(const Numbers& n, bool cautious, float grad,
                                        float& moment1, float& moment2, float weight) {
  // A factor of 0 hides what is not finite.
  const float g = n.grad_scale == 0.0f ? 0.0f : grad * n.grad_scale;
  const float m = moment1 + n.one_minus_beta1 * (g - moment1);
  const float v = n.beta2 * moment2 + n.one_minus_beta2 * (g * g);
  moment1 = m;
  moment2 = v;
  const float u = m / (sqrtf(v) * n.inverse_sqrt_correction2 + n.eps);
  const float decay = cautious && u * weight <= 0.0f ? 1.0f : n.decay_factor;
  return weight * decay - n.step_size * u;
}

template <int FORM, typename G>
__device__ __forceinline__ void run(const ParamUpdate& param, i64 start) {
  const i64 end = min(start + kChunk, param.count);
  const G* grad = static_cast<const G*>(param.grad);
  const bool is_aligned = param.flags & 16, cautious = param.flags & 8;
  const Numbers numbers = *param.numbers;
  for (i64 i = start + threadIdx.x * 8; i < end; i += kThreads * 8) {
    if (is_aligned && i + 8 <= end) {
      float g[8], m[8], v[8], w[8];
      load_eight(grad + i, g);
      load_eight(param.moment1 + i, m);
      load_eight(param.moment2 + i, v);
      load_weights<FORM>(param.weight, param.other, i, w);
#pragma unroll
      for (int j = 0; j < 8; ++j) w[j] = update(numbers, cautious, g[j], m[j], v[j], w[j]);
      store_eight(param.moment1 + i, m);
      store_eight(param.moment2 + i, v);
      store_weights<FORM>(param.weight, param.other, i, w);
    } else {
      for (i64 j = i; j < min(i + 8, end); ++j) {
        float m = param.moment1[j], v = param.moment2[j];
        const float old = load_weight<FORM>(param.weight, param.other, j);
        const float w = update(numbers, cautious, widen(grad[j]), m, v, old);
        param.moment1[j] = m;
        param.moment2[j] = v;
        store_weight<FORM>(param.weight, param.other, j, w);
      }
    }
  }
}

KERNEL(kThreads) adamw(const __grid_constant__ ParamUpdates updates) {
  const ParamUpdate& param = updates.param[tensor_of_block(updates.param, int(updates.count))];
  const i64 start = i64(int(blockIdx.x) - param.first_chunk) * kChunk;
  switch (param.flags & 7) {
    case kSingle: return run<kSingle, float>(param, start);
    case kMaster: return run<kMaster, float>(param, start);
    case kResidual: return run<kResidual, float>(param, start);
    case kSingle + 4: return run<kSingle, Bf16>(param, start);
    case kMaster + 4: return run<kMaster, Bf16>(param, start);
    case kResidual + 4: return run<kResidual, Bf16>(param, start);
  }
}
