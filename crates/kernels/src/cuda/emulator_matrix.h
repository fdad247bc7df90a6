// What gemm.cu does in PTX, as NVIDIA's manual of PTX lays out the registers of a warp.

#define __align__(bytes) alignas(bytes)

inline void copy_async(void* to, const void* from, bool is_there) {
  if (is_there) {
    std::memcpy(to, from, 16);
  } else {
    std::memset(to, 0, 16);
  }
}

struct WarpRegisters {
  const u16* row[32];
  u32 a[32][4], b[32][2];
};
static WarpRegisters registers[32];

inline float half_of(u32 word, int which) {
  return __uint_as_float(which ? word & 0xffff0000u : word << 16);
}

inline void load_matrices(const u16* from, u32 (&to)[4]) {
  WarpRegisters& warp = registers[threadIdx.x / 32];
  const int lane = emulated::lane;
  warp.row[lane] = from;
  emulated::warp->barrier->arrive_and_wait();
  for (int i = 0; i < 4; ++i) {
    const u16* row = warp.row[i * 8 + lane / 4];
    to[i] = row[lane % 4 * 2] | u32(row[lane % 4 * 2 + 1]) << 16;
  }
  emulated::warp->barrier->arrive_and_wait();
}

inline void multiply(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  WarpRegisters& warp = registers[threadIdx.x / 32];
  const int lane = emulated::lane;
  std::memcpy(warp.a[lane], a, sizeof(a));
  warp.b[lane][0] = b0;
  warp.b[lane][1] = b1;
  emulated::warp->barrier->arrive_and_wait();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + i / 2 * 8, col = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; ++k) {
      const u32 left = warp.a[row % 8 * 4 + k % 8 / 2][row / 8 + k / 8 * 2];
      const u32 right = warp.b[col * 4 + k % 8 / 2][k / 8];
      sum[i] += half_of(left, k % 2) * half_of(right, k % 2);
    }
  }
  emulated::warp->barrier->arrive_and_wait();
}
