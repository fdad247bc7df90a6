// An exact FP32 weight and the working weight that follows it, as in mod.rs.

enum WeightForm { kSingle = 0, kMaster = 1, kResidual = 2 };

// `weight` is FP32 where FORM is kSingle, else BF16; `other` is the FP32 master, or the low bits.
template <int FORM>
__device__ __forceinline__ float load_weight(const void* weight, const void* other, i64 i) {
  if (FORM == kSingle) return static_cast<const float*>(weight)[i];
  if (FORM == kMaster) return static_cast<const float*>(other)[i];
  const u32 high = static_cast<const u16*>(weight)[i];
  const int low = static_cast<const short*>(other)[i];
  return __uint_as_float((high << 16) + u32(low));
}

template <int FORM>
__device__ __forceinline__ void store_weight(void* weight, void* other, i64 i, float value) {
  if (FORM == kSingle) {
    static_cast<float*>(weight)[i] = value;
  } else if (FORM == kMaster) {
    static_cast<float*>(other)[i] = value;
    static_cast<u16*>(weight)[i] = bf16_bits(value);
  } else {
    const u32 bits = __float_as_uint(value);
    static_cast<u16*>(weight)[i] = u16((bits + 0x8000u) >> 16);
    static_cast<u16*>(other)[i] = u16(bits);
  }
}

// Eight values from a multiple of eight, by 16-byte accesses.
template <int FORM>
__device__ __forceinline__ void load_weights(const void* weight, const void* other, i64 i,
                                             float (&values)[8]) {
  if (FORM == kResidual) {
    const Quad high = load_quad(static_cast<const u16*>(weight) + i);
    const Quad low = load_quad(static_cast<const u16*>(other) + i);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const u32 first = u32(int(short(low.word[j] & 0xffffu)));
      const u32 second = u32(int(short(low.word[j] >> 16)));
      values[2 * j] = __uint_as_float((high.word[j] << 16) + first);
      values[2 * j + 1] = __uint_as_float((high.word[j] & 0xffff0000u) + second);
    }
    return;
  }
  const float* exact = static_cast<const float*>(FORM == kSingle ? weight : other) + i;
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    float four[4];
    load_pack(exact + 4 * part, four);
#pragma unroll
    for (int j = 0; j < 4; ++j) values[4 * part + j] = four[j];
  }
}

template <int FORM>
__device__ __forceinline__ void store_weights(void* weight, void* other, i64 i,
                                              const float (&values)[8]) {
  if (FORM == kResidual) {
    Quad high, low;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const u32 first = __float_as_uint(values[2 * j]);
      const u32 second = __float_as_uint(values[2 * j + 1]);
      high.word[j] = ((first + 0x8000u) >> 16) | ((second + 0x8000u) & 0xffff0000u);
      low.word[j] = (first & 0xffffu) | second << 16;
    }
    store_quad(static_cast<u16*>(weight) + i, high);
    store_quad(static_cast<u16*>(other) + i, low);
    return;
  }
  float* exact = static_cast<float*>(FORM == kSingle ? weight : other) + i;
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    const float four[4] = {values[4 * part], values[4 * part + 1], values[4 * part + 2],
                           values[4 * part + 3]};
    store_pack(exact + 4 * part, four);
  }
  if (FORM == kMaster) store_pack(static_cast<Bf16*>(weight) + i, values);
}
