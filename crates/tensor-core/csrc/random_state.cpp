// Reads and sets the state of libtorch's default random generators.

#include <mutex>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include "shim.h"

namespace {

// The default generator of the CPU (`cuda_index` < 0) or of a CUDA device.
at::Generator generator(int cuda_index) {
  if (cuda_index < 0) {
    return at::detail::getDefaultCPUGenerator();
  }
  return at::globalContext().defaultGenerator(
      at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(cuda_index)));
}

}  // namespace

// `*state` becomes a new byte tensor.
SHIM_EXPORT char* b4_random_state_get(int cuda_index, at::Tensor** state) {
  return shim_protect([&] {
    at::Generator chosen = generator(cuda_index);
    std::lock_guard<std::mutex> lock(chosen.mutex());
    *state = new at::Tensor(chosen.get_state());
  });
}

SHIM_EXPORT char* b4_random_state_set(int cuda_index, const at::Tensor* state) {
  return shim_protect([&] {
    at::Generator chosen = generator(cuda_index);
    std::lock_guard<std::mutex> lock(chosen.mutex());
    chosen.set_state(*state);
  });
}

// Seeds every generator of every device.
SHIM_EXPORT char* b4_random_seed(uint64_t seed) {
  return shim_protect([&] { at::manual_seed(seed); });
}
