// The stream that libtorch launches on, for kernels of our own; and one beside it, for copies.

#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include "shim.h"

namespace {

const c10::impl::DeviceGuardImplInterface* cuda_backend() {
  return c10::impl::getDeviceGuardImpl(c10::kCUDA);
}

c10::Device cuda_device(int index) {
  return c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
}

}  // namespace

// `*stream` becomes the CUstream of the calling thread on the CUDA device.
SHIM_EXPORT char* b4_current_stream(int cuda_index, void** stream) {
  return shim_protect([&] {
    *stream = cuda_backend()->getStream(cuda_device(cuda_index)).native_handle();
  });
}

namespace {

// A stream beside the one that work is launched on.
struct Aside {
  c10::Stream stream;
  // What work on `stream` was interrupted for.
  c10::Stream before;
  c10::Event done;

  explicit Aside(c10::Device device)
      : stream(cuda_backend()->getStreamFromGlobalPool(device)),
        before(cuda_backend()->getStream(device)),
        done(c10::DeviceType::CUDA, c10::EventFlag::BACKEND_DEFAULT) {}
};

}  // namespace

SHIM_EXPORT char* b4_aside_new(int cuda_index, void** aside) {
  return shim_protect([&] { *aside = new Aside(cuda_device(cuda_index)); });
}

// What the thread launches from here on goes to the stream beside.
SHIM_EXPORT char* b4_aside_enter(void* raw) {
  return shim_protect([&] {
    auto& aside = *static_cast<Aside*>(raw);
    aside.before = cuda_backend()->exchangeStream(aside.stream);
  });
}

// What the thread launches from here on goes to the stream of before, and waits for what went to
// the one beside.
SHIM_EXPORT char* b4_aside_leave(void* raw) {
  return shim_protect([&] {
    auto& aside = *static_cast<Aside*>(raw);
    cuda_backend()->exchangeStream(aside.before);
    aside.done.record(aside.stream);
    aside.done.block(aside.before);
  });
}

// The memory of a tensor that was made on the stream beside is not used for another before work on
// the stream of before is done with it.
SHIM_EXPORT char* b4_aside_keep(void* raw, const void* tensor) {
  return shim_protect([&] {
    static_cast<const at::Tensor*>(tensor)->record_stream(static_cast<Aside*>(raw)->before);
  });
}

SHIM_EXPORT void b4_aside_drop(void* aside) { delete static_cast<Aside*>(aside); }
