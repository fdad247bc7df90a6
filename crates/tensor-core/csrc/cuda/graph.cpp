// CUDA graphs, by libtorch's own capture.
//
// Compiled into a library of its own, which nothing links: it names symbols of libtorch_cuda.so,
// and is loaded behind that, on machines with a driver.

// No header that includes cuda_fp16.h, which would ask for yet another package.
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDAStream.h>

#include "../shim.h"

namespace {

// A graph, and the streams of its capture. Capture works on no default stream, and takes memory
// from a pool of the graph's own, which lives as long as the graph.
struct Capture {
  explicit Capture(c10::DeviceIndex device)
      : before(c10::cuda::getCurrentCUDAStream(device)),
        side(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, device)) {}

  // Makes `to` wait for all that is on `from`.
  static void order(const c10::cuda::CUDAStream& from, const c10::cuda::CUDAStream& to) {
    c10::Event event(c10::kCUDA);
    event.record(from.unwrap());
    event.block(to.unwrap());
  }

  at::cuda::CUDAGraph graph;
  const c10::cuda::CUDAStream before;
  const c10::cuda::CUDAStream side;
};

}  // namespace

// Makes a side stream current, behind what is on the current one. `*capture` is to be dropped.
SHIM_EXPORT char* b4_graph_new(int device, void** capture) {
  return shim_protect([&] {
    auto fresh = std::make_unique<Capture>(static_cast<c10::DeviceIndex>(device));
    Capture::order(fresh->before, fresh->side);
    c10::cuda::setCurrentCUDAStream(fresh->side);
    *capture = fresh.release();
  });
}

// From here on, what this thread and its backward passes put on the current stream is recorded.
SHIM_EXPORT char* b4_graph_begin(void* capture) {
  return shim_protect([&] { static_cast<Capture*>(capture)->graph.capture_begin(); });
}

// Ends the recording, without running it.
SHIM_EXPORT char* b4_graph_end(void* capture) {
  return shim_protect([&] { static_cast<Capture*>(capture)->graph.capture_end(); });
}

// Makes the stream current again that was so before, behind what is on the side stream.
SHIM_EXPORT char* b4_graph_leave(void* capture) {
  return shim_protect([&] {
    const auto* leaving = static_cast<Capture*>(capture);
    c10::cuda::setCurrentCUDAStream(leaving->before);
    Capture::order(leaving->side, leaving->before);
  });
}

// Runs what was recorded on the current stream.
SHIM_EXPORT char* b4_graph_replay(void* capture) {
  return shim_protect([&] { static_cast<Capture*>(capture)->graph.replay(); });
}

SHIM_EXPORT void b4_graph_drop(void* capture) { delete static_cast<Capture*>(capture); }
