// The stream that libtorch launches on, for kernels of our own.

#include <c10/core/Stream.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "shim.h"

// `*stream` becomes the CUstream of the calling thread on the CUDA device.
SHIM_EXPORT char* b4_current_stream(int cuda_index, void** stream) {
  return shim_protect([&] {
    const c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(cuda_index));
    const auto* backend = c10::impl::getDeviceGuardImpl(c10::kCUDA);
    *stream = backend->getStream(device).native_handle();
  });
}
