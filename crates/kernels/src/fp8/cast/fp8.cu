// FP32 and BF16 to FP8. On the CPU: cpu.rs, bit for bit.
//
// Floor for a value of BF16 (FP32): 2 (4) bytes read and 1 written, 2 with the transposed copy.
// A factor of the whole tensor from its own values reads it once more (`amax`), for what the L2
// cache does not hold. Arithmetic is one multiplication and half a conversion instruction a value.
// The copies move 16 bytes an access: a thread reads 16 values and writes them as one, and eight
// threads write the 128 bytes of a line, straight and transposed.

constexpr int kTile = 128;
constexpr int kThreads = 256;
constexpr int kChunk = 16;

template <bool E4M3>
struct Format;
template <>
struct Format<true> {
  static constexpr int mantissa = 3, bias = 7;
  static constexpr u32 max = 0x43e00000u;             // 448
  static constexpr u32 first_overflow = 0x43e80001u;  // above 464
};
template <>
struct Format<false> {
  static constexpr int mantissa = 2, bias = 15;
  static constexpr u32 max = 0x47600000u;             // 57344
  static constexpr u32 first_overflow = 0x47700000u;  // 61440
};

// The same bits as `encode` of ../format.rs, from integer arithmetic.
template <bool E4M3>
__device__ __forceinline__ u32 encode_in_integers(float value) {
  using F = Format<E4M3>;
  constexpr int shift = 23 - F::mantissa;
  const u32 bits = __float_as_uint(value);
  const u32 magnitude = bits & 0x7fffffffu;
  const u32 bounded = min(magnitude, F::max);
  const u32 half = (1u << (shift - 1)) - 1u + ((bounded >> shift) & 1u);
  const u32 number = ((bounded + half) >> shift) - (u32(127 - F::bias) << F::mantissa);
  constexpr u32 step = u32(127 + 23 + 1 - F::bias - F::mantissa) << 23;
  const u32 small = __float_as_uint(__uint_as_float(bounded) + __uint_as_float(step)) - step;
  const u32 encoded = bounded < (u32(128 - F::bias) << 23) ? small : number;
  return (magnitude > kInfinity ? 0x7fu : encoded) | ((bits >> 24) & 0x80u);
}

// Two values, the first in the low byte.
template <bool E4M3>
__device__ __forceinline__ u32 encode_pair(float first, float second) {
#if __CUDA_ARCH__ >= 890
  u16 pair;
  if (E4M3) {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(second), "f"(first));
  }
  // The instruction drops a NaN's sign, which the CPU and libtorch keep.
  const u32 first_sign = __float_as_uint(first) >> 24 & 0x80u;
  const u32 second_sign = __float_as_uint(second) >> 16 & 0x8000u;
  return u32(pair) | first_sign | second_sign;
#else
  return encode_in_integers<E4M3>(first) | encode_in_integers<E4M3>(second) << 8;
#endif
}

// As `Format::factor`: magnitudes below 2^-100 count as that.
template <bool E4M3>
__device__ __forceinline__ float factor_of(float amax) {
  return __uint_as_float(Format<E4M3>::max) / fmaxf(amax, 7.8886090522101181e-31f);
}

template <bool E4M3>
__device__ __forceinline__ int overflows(float value) {
  const u32 magnitude = __float_as_uint(value) & 0x7fffffffu;
  return magnitude >= Format<E4M3>::first_overflow && magnitude <= kInfinity;
}

// 16 values of one row, as far as `count` of them are there; the others are 0. `is_aligned` tells
// that a row begins at a 16-byte boundary and holds a multiple of 16 values.
template <typename T>
__device__ __forceinline__ void load_chunk(const T* from, int count, bool is_aligned,
                                           float (&values)[kChunk]) {
  if (is_aligned) {
#pragma unroll
    for (int part = 0; part < kChunk / kPack<T>; ++part) {
      float pack[kPack<T>];
      load_pack(from + part * kPack<T>, pack);
#pragma unroll
      for (int i = 0; i < kPack<T>; ++i) values[part * kPack<T> + i] = pack[i];
    }
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) values[i] = i < count ? widen(from[i]) : 0.0f;
  }
}

__device__ __forceinline__ void store_chunk(u8* to, int count, bool is_aligned, const Quad& bytes) {
  if (is_aligned) {
    store_quad(to, bytes);
  } else {
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      if (i < count) to[i] = u8(bytes.word[i / 4] >> (8 * (i % 4)));
    }
  }
}

// Raises *amax, the bits of an FP32 number that is not negative. The value is looked at first, as
// nearly all are no larger, and past the L1 cache, where it would be as old as the block.
__device__ __forceinline__ void raise(u32* amax, u32 magnitude) {
  if (magnitude > __ldcg(amax)) atomicMax(amax, magnitude);
}

// Raises *amax and adds to *count: one atomic a warp, none for nothing.
__device__ __forceinline__ void add_up(u32 magnitude, int overflow, u32* amax, u64* count) {
  magnitude = __reduce_max_sync(0xffffffffu, magnitude);
  overflow = __reduce_add_sync(0xffffffffu, overflow);
  if (threadIdx.x % 32 == 0) {
    raise(amax, magnitude);
    if (overflow > 0) atomicAdd(count, u64(overflow));
  }
}

// *amax, 0 before, becomes the largest finite magnitude of `count` values.
template <typename T>
__device__ __forceinline__ void amax(const T* x, i64 count, u32* amax) {
  constexpr int pack = kPack<T>;
  const i64 step = i64(gridDim.x) * kThreads;
  const i64 first = i64(blockIdx.x) * kThreads + threadIdx.x;
  u32 magnitude = 0;
  const i64 packs = count / pack;
#pragma unroll 4
  for (i64 i = first; i < packs; i += step) {
    float values[pack];
    load_pack(x + i * pack, values);
#pragma unroll
    for (int j = 0; j < pack; ++j) magnitude = max(magnitude, finite_magnitude(values[j]));
  }
  const i64 last = packs * pack + first;
  if (last < count) magnitude = max(magnitude, finite_magnitude(widen(x[last])));
  magnitude = __reduce_max_sync(0xffffffffu, magnitude);
  if (threadIdx.x % 32 == 0) raise(amax, magnitude);
}

// amax[c], 0 before, becomes the largest finite magnitude of column c. A block takes the columns
// of blockIdx.x and every gridDim.y-th row.
template <typename T>
__device__ __forceinline__ void amax_columns(const T* x, int rows, int cols, u32* amax) {
  constexpr int pack = kPack<T>;
  const i64 col = (i64(blockIdx.x) * kThreads + threadIdx.x) * pack;
  if (col >= cols) return;
  const bool is_aligned = cols % pack == 0;
  u32 magnitude[pack] = {};
#pragma unroll 4
  for (int row = blockIdx.y; row < rows; row += gridDim.y) {
    const T* from = x + i64(row) * cols + col;
    float values[pack];
    if (is_aligned) {
      load_pack(from, values);
    } else {
#pragma unroll
      for (int i = 0; i < pack; ++i) values[i] = col + i < cols ? widen(from[i]) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < pack; ++i) magnitude[i] = max(magnitude[i], finite_magnitude(values[i]));
  }
#pragma unroll
  for (int i = 0; i < pack; ++i) {
    if (col + i < cols) raise(amax + col + i, magnitude[i]);
  }
}

// Where factors come from.
enum From { kAmax = 0, kGiven = 1, kColumns = 2 };

// Where a word of a row of a tile lies: neither the words of four rows nor the same word of eight
// rows that are 16 apart share a bank.
__device__ __forceinline__ int place(int row, int word) {
  return row * (kTile / 4 + 1) + row / kChunk + word;
}

// 16 values as bytes; `from` and the factors are those of `tile`.
template <bool E4M3>
__device__ __forceinline__ Quad encode_chunk(const float (&values)[kChunk], const float* factors,
                                             float one, u32& magnitude, int& overflow) {
  Quad quad;
#pragma unroll
  for (int i = 0; i < kChunk; i += 2) {
    float pair[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      magnitude = max(magnitude, finite_magnitude(values[i + j]));
      pair[j] = values[i + j] * (factors ? factors[i + j] : one);
      overflow += overflows<E4M3>(pair[j]);
    }
    const u32 two = encode_pair<E4M3>(pair[0], pair[1]);
    if (i % 4 == 0) {
      quad.word[i / 4] = two;
    } else {
      quad.word[i / 4] |= two << 16;
    }
  }
  return quad;
}

// A 128 x 128 tile: to `straight` [rows, cols] if not null, and to `transposed` [cols, rows] if not
// null, by way of shared memory. `factors` is one magnitude, one factor, or one magnitude a
// column; inverse factors go to `inverse`, as many. `seen` and `count` gather what `straight`
// (or else `transposed`) saw.
template <typename T, bool E4M3>
__device__ __forceinline__ void tile(const T* x, int rows, int cols, const float* factors, int from,
                                     u8* straight, u8* transposed, float* inverse, u32* seen,
                                     u64* count) {
  __shared__ u32 bytes[kTile * (kTile / 4 + 1) + kTile / kChunk];
  constexpr int kAcross = kTile / kChunk, kLines = kThreads / kAcross;
  const int row0 = blockIdx.y * kTile, col0 = blockIdx.x * kTile;
  const int line = threadIdx.x / kAcross, part = threadIdx.x % kAcross * kChunk;
  const bool is_first = blockIdx.x == 0 && blockIdx.y == 0 && threadIdx.x == 0;

  __shared__ float column_factor[kTile];
  if (from == kColumns) {
    const int own = col0 + threadIdx.x;
    if (threadIdx.x < kTile) {
      const float factor = factor_of<E4M3>(own < cols ? factors[own] : 0.0f);
      column_factor[threadIdx.x] = factor;
      if (blockIdx.y == 0 && own < cols) inverse[own] = 1.0f / factor;
    }
    __syncthreads();
  }
  float one = 1.0f;
  if (from == kGiven) one = factors[0];
  if (from == kAmax) one = factor_of<E4M3>(factors[0]);
  if (from != kColumns && is_first) inverse[0] = 1.0f / one;

  u32 magnitude = 0;
  int overflow = 0;
#pragma unroll 1
  for (int pass = line; pass < kTile; pass += kLines) {
    const int row = row0 + pass, col = col0 + part;
    const bool is_there = row < rows && col < cols;
    float values[kChunk] = {};
    if (is_there) load_chunk(x + i64(row) * cols + col, cols - col, cols % kChunk == 0, values);
    const float* own = from == kColumns ? column_factor + part : nullptr;
    const Quad quad = encode_chunk<E4M3>(values, own, one, magnitude, overflow);
    if (straight && is_there) {
      store_chunk(straight + i64(row) * cols + col, cols - col, cols % kChunk == 0, quad);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) bytes[place(pass, part / 4 + i)] = quad.word[i];
  }
  if (seen) add_up(magnitude, overflow, seen, count);
  if (!transposed) return;
  __syncthreads();
#pragma unroll 1
  for (int pass = line; pass < kTile; pass += kLines) {
    const int out_row = col0 + pass, out_col = row0 + part;
    if (out_row >= cols || out_col >= rows) continue;
    Quad out;
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const u32 byte = bytes[place(part + i, pass / 4)] >> (8 * (pass % 4)) & 0xffu;
      out.word[i / 4] = i % 4 == 0 ? byte : out.word[i / 4] | byte << (8 * (i % 4));
    }
    store_chunk(transposed + i64(out_row) * rows + out_col, rows - out_col, rows % kChunk == 0,
                out);
  }
}

// A warp takes a row: first its largest magnitude, then, from the first-level cache, the copy.
template <typename T, bool E4M3>
__device__ __forceinline__ void by_row(const T* x, int rows, int cols, u8* out, float* inverse,
                                       u32* seen, u64* count) {
  const int lane = threadIdx.x % 32;
  const int row = blockIdx.x * (kThreads / 32) + threadIdx.x / 32;
  if (row >= rows) return;
  const T* from = x + i64(row) * cols;
  const bool is_aligned = cols % kChunk == 0;
  u32 magnitude = 0;
  for (int col = lane * kChunk; col < cols; col += 32 * kChunk) {
    float values[kChunk];
    load_chunk(from + col, cols - col, is_aligned, values);
#pragma unroll
    for (int i = 0; i < kChunk; ++i) magnitude = max(magnitude, finite_magnitude(values[i]));
  }
  magnitude = __reduce_max_sync(0xffffffffu, magnitude);
  const float factor = factor_of<E4M3>(__uint_as_float(magnitude));
  if (lane == 0) inverse[row] = 1.0f / factor;
  int overflow = 0;
  for (int col = lane * kChunk; col < cols; col += 32 * kChunk) {
    float values[kChunk];
    load_chunk(from + col, cols - col, is_aligned, values);
    Quad quad;
#pragma unroll
    for (int i = 0; i < kChunk; i += 2) {
      const float first = values[i] * factor, second = values[i + 1] * factor;
      overflow += overflows<E4M3>(first) + overflows<E4M3>(second);
      const u32 two = encode_pair<E4M3>(first, second);
      quad.word[i / 4] = i % 4 == 0 ? two : quad.word[i / 4] | two << 16;
    }
    store_chunk(out + i64(row) * cols + col, cols - col, is_aligned, quad);
  }
  add_up(magnitude, overflow, seen, count);
}

#define FOR_TYPE(T, name)                                                                         \
  KERNEL(kThreads) fp8_amax_##name(const T* x, i64 count, u32* out) { amax(x, count, out); }      \
  KERNEL(kThreads) fp8_amax_columns_##name(const T* x, int rows, int cols, u32* out) {            \
    amax_columns(x, rows, cols, out);                                                             \
  }
FOR_TYPE(float, float)
FOR_TYPE(Bf16, bf16)

#define FOR_FORMAT(T, E4M3, name)                                                                 \
  KERNEL(kThreads) fp8_tile_##name(const T* x, int rows, int cols, const float* factors,          \
                                   int from, u8* straight, u8* transposed, float* inverse,        \
                                   u32* seen, u64* count) {                                       \
    tile<T, E4M3>(x, rows, cols, factors, from, straight, transposed, inverse, seen, count);      \
  }                                                                                               \
  KERNEL(kThreads) fp8_rows_##name(const T* x, int rows, int cols, u8* out, float* inverse,       \
                                   u32* seen, u64* count) {                                       \
    by_row<T, E4M3>(x, rows, cols, out, inverse, seen, count);                                    \
  }
FOR_FORMAT(float, true, float_e4m3)
FOR_FORMAT(float, false, float_e5m2)
FOR_FORMAT(Bf16, true, bf16_e4m3)
FOR_FORMAT(Bf16, false, bf16_e5m2)
