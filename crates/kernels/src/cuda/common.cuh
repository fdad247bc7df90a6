// What all kernels share: types, 16-byte accesses, rounding, reductions. Put before each source,
// so that nothing is included and NVRTC needs no header of CUDA.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define KERNEL(threads) extern "C" __global__ __launch_bounds__(threads) void

// Shared memory of a size that the launch gives.
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]
#endif

constexpr u32 kInfinity = 0x7f800000u;

struct Bf16 {
  u16 bits;
};

__device__ __forceinline__ float widen(float value) { return value; }
__device__ __forceinline__ float widen(Bf16 value) {
  return __uint_as_float(u32(value.bits) << 16);
}

// To nearest even; a NaN stays one.
__device__ __forceinline__ u16 bf16_bits(float value) {
  const u32 bits = __float_as_uint(value);
  const u32 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const u32 quiet = (bits >> 16) | 0x40u;
  return u16((bits & 0x7fffffffu) > kInfinity ? quiet : rounded);
}

template <typename T>
__device__ __forceinline__ T narrow(float value);
template <>
__device__ __forceinline__ float narrow<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ Bf16 narrow<Bf16>(float value) {
  return Bf16{bf16_bits(value)};
}

// 16 bytes, moved by one instruction.
struct alignas(16) Quad {
  u32 word[4];
};

// How many values of T one 16-byte access moves.
template <typename T>
constexpr int kPack = 16 / sizeof(T);

__device__ __forceinline__ Quad load_quad(const void* from) {
  return *static_cast<const Quad*>(from);
}

__device__ __forceinline__ void store_quad(void* to, const Quad& quad) {
  *static_cast<Quad*>(to) = quad;
}

// kPack<T> values at a 16-byte boundary.
__device__ __forceinline__ void load_pack(const float* from, float (&values)[4]) {
  const Quad quad = load_quad(from);
#pragma unroll
  for (int i = 0; i < 4; ++i) values[i] = __uint_as_float(quad.word[i]);
}

__device__ __forceinline__ void load_pack(const Bf16* from, float (&values)[8]) {
  const Quad quad = load_quad(from);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    values[2 * i] = __uint_as_float(quad.word[i] << 16);
    values[2 * i + 1] = __uint_as_float(quad.word[i] & 0xffff0000u);
  }
}

__device__ __forceinline__ void store_pack(float* to, const float (&values)[4]) {
  Quad quad;
#pragma unroll
  for (int i = 0; i < 4; ++i) quad.word[i] = __float_as_uint(values[i]);
  store_quad(to, quad);
}

__device__ __forceinline__ void store_pack(Bf16* to, const float (&values)[8]) {
  Quad quad;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    quad.word[i] = u32(bf16_bits(values[2 * i])) | u32(bf16_bits(values[2 * i + 1])) << 16;
  }
  store_quad(to, quad);
}

// Eight values at a 16-byte boundary, by one access or two.
__device__ __forceinline__ void load_eight(const float* from, float (&values)[8]) {
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    float four[4];
    load_pack(from + 4 * part, four);
#pragma unroll
    for (int j = 0; j < 4; ++j) values[4 * part + j] = four[j];
  }
}

__device__ __forceinline__ void load_eight(const Bf16* from, float (&values)[8]) {
  load_pack(from, values);
}

__device__ __forceinline__ void store_eight(float* to, const float (&values)[8]) {
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    const float four[4] = {values[4 * part], values[4 * part + 1], values[4 * part + 2],
                           values[4 * part + 3]};
    store_pack(to + 4 * part, four);
  }
}

__device__ __forceinline__ void store_eight(Bf16* to, const float (&values)[8]) {
  store_pack(to, values);
}

// Which of `count` tensors, in the order of their chunks, the block's chunk belongs to: the last
// that begins at or before it.
template <typename Item>
__device__ __forceinline__ int tensor_of_block(const Item* items, int count) {
  int low = 0, high = count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (items[middle].first_chunk <= int(blockIdx.x)) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

// STEP values: eight at a 16-byte boundary, or one anywhere.
template <int STEP, typename T>
__device__ __forceinline__ void load_step(const T* from, float (&values)[STEP]) {
  if constexpr (STEP == 8) {
    load_eight(from, values);
  } else {
    values[0] = widen(*from);
  }
}

template <int STEP, typename T>
__device__ __forceinline__ void store_step(T* to, const float (&values)[STEP]) {
  if constexpr (STEP == 8) {
    store_eight(to, values);
  } else {
    *to = narrow<T>(values[0]);
  }
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, offset));
  }
  return value;
}

// FP32 bits without the sign, 0 for what is not finite: as integers they have the order of the
// magnitudes.
__device__ __forceinline__ u32 finite_magnitude(float value) {
  const u32 bits = __float_as_uint(value) & 0x7fffffffu;
  return bits < kInfinity ? bits : 0u;
}

// The sum over a block of THREADS, for all of its threads. `room` is shared, a float a warp; the
// caller synchronizes before it is used again.
template <int THREADS>
__device__ __forceinline__ float block_sum(float value, float* room) {
  value = warp_sum(value);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) room[warp] = value;
  __syncthreads();
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < THREADS / 32; ++i) sum += room[i];
  return sum;
}

template <int THREADS>
__device__ __forceinline__ float block_max(float value, float* room) {
  value = warp_max(value);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) room[warp] = value;
  __syncthreads();
  float most = room[0];
#pragma unroll
  for (int i = 1; i < THREADS / 32; ++i) most = fmaxf(most, room[i]);
  return most;
}
