// Flash attention over sequences of unlike lengths, which tch leaves out.
#include "shim.h"

#include <ATen/ops/_flash_attention_forward.h>

// Queries, keys and values are [tokens, heads, features]; `bounds`, I32, has where each sequence
// starts, and the end of the last. A reach below 0 has no limit. libtorch's own derivative of the
// operation (derivatives.yaml: `_flash_attention_backward`) is recorded by the dispatcher.
SHIM_EXPORT char* b4_flash_varlen(const void* query, const void* key, const void* value,
                                  const void* bounds, int64_t longest, bool causal, double scale,
                                  int64_t back, int64_t ahead, void** result) {
  return shim_protect([&] {
    const auto& cum = *static_cast<const at::Tensor*>(bounds);
    auto outputs = at::_flash_attention_forward(
        *static_cast<const at::Tensor*>(query), *static_cast<const at::Tensor*>(key),
        *static_cast<const at::Tensor*>(value), cum, cum, longest, longest, /*dropout_p=*/0.0,
        causal, /*return_debug_mask=*/false, scale, back, ahead);
    *result = new at::Tensor(std::get<0>(outputs));
  });
}
