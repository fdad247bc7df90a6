// Symmetric products of a stack of matrices: S = alpha X Xt + beta C, and S = alpha A B + beta C
// where A and B are symmetric and commute, as polynomials of one matrix do. On the CPU: cpu.rs,
// OutputStructure::Symmetric.
//
// Floor for a matrix of n rows and inner size d, BF16: n (n + 128) d operations, half of a full
// product's 2 n^2 d and the diagonal's tiles; n d 2 bytes read (each tile of 128 rows is read by
// n / 128 blocks, from L2), n^2 2 written. A block computes a tile of 128 x 128 on or below the
// diagonal and writes it twice, the second time mirrored through shared memory, so that both
// copies move 16 bytes an access. 8 warps hold 64 x 32 each: 4 x 4 products of m16n8k16 a step.
// Operands come in by asynchronous copies of 16 bytes, three stages of 32 along the inner size.

constexpr int kThreads = 256;
constexpr int kTile = 128;
constexpr int kDepth = 32;
constexpr int kStages = 3;
// A row of 40 values, 80 bytes: the eight rows that ldmatrix reads lie in different banks.
constexpr int kPitch = kDepth + 8;
// A row of the result as it waits to be written.
constexpr int kOutPitch = kTile + 8;

__device__ __forceinline__ u32 shared_address(const void* pointer) {
  return u32(__cvta_generic_to_shared(pointer));
}

// 16 bytes from global to shared memory; zeros where `is_there` is false.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool is_there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(is_there ? 16 : 0));
}

__device__ __forceinline__ void load_matrices(const u16* from, u32 (&to)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(from)));
}

__device__ __forceinline__ void multiply(float (&sum)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 128 rows from `row` on, 32 columns from `col` on, of a matrix of `rows` x `cols`, a multiple
// of 8.
__device__ __forceinline__ void fetch(u16* to, const u16* from, int row, int col, int rows,
                                      int cols) {
#pragma unroll
  for (int i = 0; i < kTile * kDepth / 8 / kThreads; ++i) {
    const int chunk = i * kThreads + threadIdx.x;
    const int line = chunk / (kDepth / 8), part = chunk % (kDepth / 8) * 8;
    const bool is_there = row + line < rows && col + part < cols;
    const u16* source = is_there ? from + i64(row + line) * cols + col + part : from;
    copy_async(to + line * kPitch + part, source, is_there);
  }
}

// Left and right are [stack, side, inner], row by row: right is transposed, or symmetric, which
// is the same. `plus` is null, or [stack, side, side] like `out`. `side` and `inner` are
// multiples of 8. blockIdx.x counts the tiles on and below the diagonal.
KERNEL(kThreads) symmetric_product(const u16* left, const u16* right, const u16* plus, u16* out,
                                   int side, int inner, float alpha, float beta) {
  DYNAMIC_SHARED(u16, room);
  // The row of tiles in which the blockIdx.x-th tile lies: the root, put right by at most one.
  int tile_row = int((sqrtf(8.0f * float(blockIdx.x) + 1.0f) - 1.0f) * 0.5f);
  if ((tile_row + 1) * (tile_row + 2) / 2 <= int(blockIdx.x)) ++tile_row;
  if (tile_row * (tile_row + 1) / 2 > int(blockIdx.x)) --tile_row;
  const int tile_col = int(blockIdx.x) - tile_row * (tile_row + 1) / 2;
  const int row0 = tile_row * kTile, col0 = tile_col * kTile;
  left += i64(blockIdx.y) * side * inner;
  right += i64(blockIdx.y) * side * inner;
  out += i64(blockIdx.y) * side * side;
  if (plus) plus += i64(blockIdx.y) * side * side;

  constexpr int kOperand = kTile * kPitch;
  const int steps = (inner + kDepth - 1) / kDepth;
  auto begin = [&](int step) {
    if (step < steps) {
      u16* stage = room + step % kStages * 2 * kOperand;
      fetch(stage, left, row0, step * kDepth, side, inner);
      fetch(stage + kOperand, right, col0, step * kDepth, side, inner);
    }
    // An empty group where there is nothing left, so that the count below stays right.
    asm volatile("cp.async.commit_group;");
  };
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) begin(step);

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int warp_row = warp / 4 * 64, warp_col = warp % 4 * 32;
  float sum[4][4][4] = {};
  for (int step = 0; step < steps; ++step) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2));
    __syncthreads();
    begin(step + kStages - 1);
    const u16* a_room = room + step % kStages * 2 * kOperand;
    const u16* b_room = a_room + kOperand;
#pragma unroll
    for (int k = 0; k < kDepth; k += 16) {
      u32 a[4][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int line = warp_row + i * 16 + lane % 16;
        load_matrices(a_room + line * kPitch + k + lane / 16 * 8, a[i]);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int line = warp_col + j * 16 + lane % 8 + lane / 16 * 8;
        load_matrices(b_room + line * kPitch + k + lane / 8 % 2 * 8, b[j]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          multiply(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }
  asm volatile("cp.async.wait_group 0;");
  __syncthreads();

  // Sums to shared memory, scaled, `plus` added from there on in whole rows.
  u16* tile = room;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int line = warp_row + i * 16 + half * 8 + lane / 4;
        const int col = warp_col + j * 8 + lane % 4 * 2;
        float first = alpha * sum[i][j][2 * half], second = alpha * sum[i][j][2 * half + 1];
        const int row = row0 + line;
        if (plus && row < side && col0 + col < side) {
          // Two values at an even place: side is a multiple of 8.
          const u32 pair = *reinterpret_cast<const u32*>(plus + i64(row) * side + col0 + col);
          first += beta * __uint_as_float(pair << 16);
          second += beta * __uint_as_float(pair & 0xffff0000u);
        }
        const u32 pair = u32(bf16_bits(first)) | u32(bf16_bits(second)) << 16;
        *reinterpret_cast<u32*>(tile + line * kOutPitch + col) = pair;
      }
    }
  }
  __syncthreads();
  for (int chunk = threadIdx.x; chunk < kTile * kTile / 8; chunk += kThreads) {
    const int line = chunk / (kTile / 8), part = chunk % (kTile / 8) * 8;
    if (row0 + line < side && col0 + part < side) {
      const Quad quad = load_quad(tile + line * kOutPitch + part);
      store_quad(out + i64(row0 + line) * side + col0 + part, quad);
    }
  }
  if (tile_row == tile_col) return;
  for (int chunk = threadIdx.x; chunk < kTile * kTile / 8; chunk += kThreads) {
    // Neighbouring threads read neighbouring columns of the tile.
    const int line = chunk % kTile, part = chunk / kTile * 8;
    if (col0 + line < side && row0 + part < side) {
      Quad quad;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const u32 first = tile[(part + 2 * i) * kOutPitch + line];
        const u32 second = tile[(part + 2 * i + 1) * kOutPitch + line];
        quad.word[i] = first | second << 16;
      }
      store_quad(out + i64(col0 + line) * side + row0 + part, quad);
    }
  }
}
