// What libtorch holds on a CUDA device, and how it multiplies FP32 there. By the interfaces that do
// not need CUDA's headers.

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>

#include "shim.h"

// `counts` becomes bytes in tensors now and at most, bytes taken from the driver now and at most.
SHIM_EXPORT char* b4_device_memory(int cuda_index, uint64_t counts[4]) {
  return shim_protect([&] {
    const auto stats = c10::getDeviceAllocator(c10::kCUDA)->getDeviceStats(
        static_cast<c10::DeviceIndex>(cuda_index));
    const size_t all = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    counts[0] = static_cast<uint64_t>(stats.allocated_bytes[all].current);
    counts[1] = static_cast<uint64_t>(stats.allocated_bytes[all].peak);
    counts[2] = static_cast<uint64_t>(stats.reserved_bytes[all].current);
    counts[3] = static_cast<uint64_t>(stats.reserved_bytes[all].peak);
  });
}

// Whether products and convolutions of FP32 on CUDA devices round their inputs to TF32.
SHIM_EXPORT char* b4_allow_tf32(bool allow) {
  return shim_protect([&] {
    at::globalContext().setAllowTF32CuBLAS(allow);
    at::globalContext().setAllowTF32CuDNN(allow);
  });
}
