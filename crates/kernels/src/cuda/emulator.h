// Enough of CUDA to run the kernels on a CPU, for tests: a thread of the CPU for each of a
// block's, barriers where they wait for one another. Blocks run one after the other.
//
// It shows what a kernel computes; not races between blocks, nor how fast it is.

#include <algorithm>
#include <barrier>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(threads)
#define __grid_constant__
// One block runs at a time, so what it shares can be the program's.
#define __shared__ static
// More than any launch asks for.
#define DYNAMIC_SHARED(type, name) alignas(16) static type name[1 << 16]
#define __expf expf

namespace emulated {

struct Place {
  unsigned x, y, z;
};

struct Warp {
  std::unique_ptr<std::barrier<>> barrier;
  unsigned long long slot[32];
};

inline Place grid;
// Held by a launch. Rust's lock around it is not seen by the thread sanitizer.
inline std::mutex alone;
inline thread_local std::barrier<>* block;
inline thread_local Warp* warp;
inline thread_local int lane;

}  // namespace emulated

static thread_local emulated::Place threadIdx, blockIdx;
#define gridDim emulated::grid

inline void __syncthreads() { emulated::block->arrive_and_wait(); }

inline void __syncwarp() { emulated::warp->barrier->arrive_and_wait(); }

template <typename T>
T __shfl_xor_sync(unsigned, T value, int offset) {
  auto& warp = *emulated::warp;
  std::memcpy(&warp.slot[emulated::lane], &value, sizeof(T));
  warp.barrier->arrive_and_wait();
  T other;
  std::memcpy(&other, &warp.slot[emulated::lane ^ offset], sizeof(T));
  warp.barrier->arrive_and_wait();
  return other;
}

inline unsigned __reduce_max_sync(unsigned mask, unsigned value) {
  for (int i = 16; i > 0; i /= 2) value = std::max(value, __shfl_xor_sync(mask, value, i));
  return value;
}

inline int __reduce_add_sync(unsigned mask, int value) {
  for (int i = 16; i > 0; i /= 2) value += __shfl_xor_sync(mask, value, i);
  return value;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  using C = std::common_type_t<A, B>;
  return std::min(C(a), C(b));
}

template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  using C = std::common_type_t<A, B>;
  return std::max(C(a), C(b));
}

// A load that may meet an atomic operation of another thread.
inline unsigned __ldcg(const unsigned* from) { return __atomic_load_n(from, __ATOMIC_RELAXED); }

inline unsigned atomicMax(unsigned* to, unsigned value) {
  unsigned before = __ldcg(to);
  while (before < value && !__atomic_compare_exchange_n(to, &before, value, false,
                                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return before;
}

inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long value) {
  return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}

namespace emulated {

template <typename Body>
void launch(const int* size, int count, const Body& body) {
  const std::lock_guard<std::mutex> lock(alone);
  grid = {unsigned(size[0]), unsigned(size[1]), 1};
  std::unique_ptr<std::barrier<>> own;
  std::vector<Warp> warps(count / 32);
  std::barrier<> begin(count + 1), end(count + 1);
  const auto run = [&](int index) {
    for (int i = 0; i < size[0] * size[1]; ++i) {
      begin.arrive_and_wait();
      threadIdx = {unsigned(index), 0, 0};
      blockIdx = {unsigned(i % size[0]), unsigned(i / size[0]), 0};
      block = own.get();
      warp = &warps[index / 32];
      lane = index % 32;
      body();
      // A thread that is done is waited for no more.
      block->arrive_and_drop();
      warp->barrier->arrive_and_drop();
      end.arrive_and_wait();
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) threads.emplace_back(run, i);
  for (int i = 0; i < size[0] * size[1]; ++i) {
    own = std::make_unique<std::barrier<>>(count);
    for (Warp& each : warps) each.barrier = std::make_unique<std::barrier<>>(32);
    begin.arrive_and_wait();
    end.arrive_and_wait();
  }
  for (std::thread& thread : threads) thread.join();
}

template <typename... A, size_t... I>
void call(void (*kernel)(A...), void* const* args, std::index_sequence<I...>) {
  kernel(*static_cast<A*>(args[I])...);
}

template <typename... A>
void run(void (*kernel)(A...), const int* size, int count, void* const* args) {
  launch(size, count, [&] { call(kernel, args, std::index_sequence_for<A...>()); });
}

}  // namespace emulated

#define EMULATE(kernel)                                                                           \
  extern "C" void emulate_##kernel(const int* size, int count, void* const* args) {               \
    emulated::run(&kernel, size, count, args);                                                    \
  }
