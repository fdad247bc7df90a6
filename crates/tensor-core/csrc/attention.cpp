// Attention by libtorch, by those of its kernels that may be chosen.

#include <mutex>
#include <optional>
#include <shared_mutex>

#include <ATen/Context.h>
#include <ATen/ops/_fused_sdp_choice.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include "shim.h"

namespace {

// As in `attention/backends.rs`.
constexpr int FLASH = 1;
constexpr int EFFICIENT = 2;
constexpr int MATH = 4;
constexpr int CUDNN = 8;
constexpr int ALL = FLASH | EFFICIENT | MATH | CUDNN;

// libtorch's switches as `allowed` says, for as long as it lives. They are the process's: calls
// that leave them as they are run side by side, one that changes them runs alone.
class Allowed {
 public:
  explicit Allowed(int allowed) {
    if (allowed == ALL) {
      beside_others_ = std::shared_lock(mutex());
      return;
    }
    alone_ = std::unique_lock(mutex());
    before_ = (context().userEnabledFlashSDP() ? FLASH : 0) |
              (context().userEnabledMemEfficientSDP() ? EFFICIENT : 0) |
              (context().userEnabledMathSDP() ? MATH : 0) |
              (context().userEnabledCuDNNSDP() ? CUDNN : 0);
    set(allowed & before_);
  }
  ~Allowed() {
    if (alone_) set(before_);
  }
  Allowed(const Allowed&) = delete;
  Allowed& operator=(const Allowed&) = delete;

 private:
  static at::Context& context() { return at::globalContext(); }
  static std::shared_mutex& mutex() {
    static std::shared_mutex one;
    return one;
  }
  static void set(int allowed) {
    context().setSDPUseFlash(allowed & FLASH);
    context().setSDPUseMemEfficient(allowed & EFFICIENT);
    context().setSDPUseMath(allowed & MATH);
    context().setSDPUseCuDNN(allowed & CUDNN);
  }

  std::shared_lock<std::shared_mutex> beside_others_;
  std::unique_lock<std::shared_mutex> alone_;
  int before_ = 0;
};

std::optional<at::Tensor> optional(const void* tensor) {
  return tensor ? std::optional<at::Tensor>(*static_cast<const at::Tensor*>(tensor)) : std::nullopt;
}

}  // namespace

// What crosses for an attention, as in `attention/backends.rs`.
struct SdpaArgs {
  const void* query;
  const void* key;
  const void* value;
  // May be null.
  const void* mask;
  // May be null.
  const double* scale;
  bool causal;
  bool grouped;
  int allowed;
};

namespace {

std::optional<double> scale(const SdpaArgs* args) {
  return args->scale ? std::optional<double>(*args->scale) : std::nullopt;
}

const at::Tensor& tensor(const void* raw) { return *static_cast<const at::Tensor*>(raw); }

}  // namespace

SHIM_EXPORT char* b4_sdpa(const SdpaArgs* args, void** result) {
  return shim_protect([&] {
    const Allowed switches(args->allowed);
    *result = new at::Tensor(at::scaled_dot_product_attention(
        tensor(args->query), tensor(args->key), tensor(args->value), optional(args->mask),
        /*dropout_p=*/0.0, args->causal, scale(args), args->grouped));
  });
}

// `*choice` becomes libtorch's number of the kernel that `b4_sdpa` takes.
SHIM_EXPORT char* b4_sdpa_choice(const SdpaArgs* args, int64_t* choice) {
  return shim_protect([&] {
    const Allowed switches(args->allowed);
    *choice = at::_fused_sdp_choice(tensor(args->query), tensor(args->key), tensor(args->value),
                                    optional(args->mask), /*dropout_p=*/0.0, args->causal,
                                    scale(args), args->grouped);
  });
}

// cuDNN's operation itself, whatever the switches say.
SHIM_EXPORT char* b4_cudnn_attention(const SdpaArgs* args, void** result) {
  return shim_protect([&] {
    auto outputs = at::_scaled_dot_product_cudnn_attention(
        tensor(args->query), tensor(args->key), tensor(args->value), optional(args->mask),
        /*compute_log_sumexp=*/true, /*dropout_p=*/0.0, args->causal,
        /*return_debug_mask=*/false, scale(args));
    *result = new at::Tensor(std::get<0>(outputs));
  });
}
