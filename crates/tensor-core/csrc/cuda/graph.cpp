// CUDA graphs, by libtorch's own capture.
//
// Compiled into a library of its own, which nothing links: it names symbols of libtorch_cuda.so,
// and is loaded behind that, on machines with a driver.

// No header that includes cuda_fp16.h, which would ask for yet another package.
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/cuda/CUDAGeneratorImpl.h>
#include <ATen/cuda/CUDAGraph.h>
#include <c10/core/Event.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <map>
#include <mutex>

#include "../shim.h"

namespace {

// Does all that it is given, whatever of it throws: parts of what failed may be closed already.
template <typename... Parts>
void each_regardless(Parts&&... parts) noexcept {
  auto regardless = [](auto&& part) {
    try {
      part();
    } catch (...) {
    }
  };
  (regardless(parts), ...);
}

// The memory that all graphs of a device share: they run one after the other, and what one leaves
// for later is held by its owner, so that no other gets that. A pool that no graph is left of is
// gone, and the next graph begins another.
class SharedPool {
 public:
  static at::cuda::MempoolId_t of(c10::DeviceIndex device) {
    std::lock_guard<std::mutex> lock(mutex());
    auto& pool = pools()[device];
    if (pool.graphs == 0) {
      pool.id = at::cuda::graph_pool_handle();
    }
    return pool.id;
  }

  static void count(c10::DeviceIndex device, int change) {
    std::lock_guard<std::mutex> lock(mutex());
    pools()[device].graphs += change;
  }

 private:
  struct Pool {
    at::cuda::MempoolId_t id{0, 0};
    int graphs = 0;
  };
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  static std::map<c10::DeviceIndex, Pool>& pools() {
    static std::map<c10::DeviceIndex, Pool> all;
    return all;
  }
};

// libtorch's graph, which can also give up: where its `capture_end` throws, as it does whenever
// CUDA refused something in between, 2.11 leaves the allocators' part and the generators' open.
// Memory would then leak into the pool, and whatever draws random numbers later would throw.
struct Recorder : at::cuda::CUDAGraph {
  bool ended() const { return capture_ended_; }

  void abandon(cudaStream_t side) noexcept {
    each_regardless([&] {
      cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
      if (cudaStreamIsCapturing(side, &status) == cudaSuccess &&
          status != cudaStreamCaptureStatusNone) {
        cudaGraph_t unfinished = nullptr;
        (void)cudaStreamEndCapture(side, &unfinished);
        if (unfinished) {
          (void)cudaGraphDestroy(unfinished);
        }
      }
      // Else the next check of any kernel would find what was refused.
      (void)cudaGetLastError();
    });
    const bool has_pool = mempool_id_.first != 0 || mempool_id_.second != 0;
    if (has_pool && !capture_ended_) {
      namespace device = c10::cuda::CUDACachingAllocator;
      auto* host = at::getHostAllocator(at::kCUDA);
      each_regardless([&] { device::endAllocateToPool(capture_dev_, mempool_id_); },
                      [&] { host->end_allocate_to_pool(mempool_id_); },
                      [&] { device::releasePool(capture_dev_, mempool_id_); },
                      [&] { host->release_pool(mempool_id_); });
      mempool_id_ = {0, 0};
    }
    // What `CUDAGeneratorState::capture_epilogue` does, which libtorch does not export.
    for (auto& generator : captured_generator_states_) {
      generator.first->capturing_ = false;
    }
  }
};

// A graph, and the streams of its capture, which works on no default stream.
struct Capture {
  explicit Capture(c10::DeviceIndex on)
      : device(on),
        before(c10::cuda::getCurrentCUDAStream(on)),
        side(c10::cuda::getStreamFromPool(/*isHighPriority=*/false, on)) {}

  ~Capture() {
    if (counted) {
      SharedPool::count(device, -1);
    }
  }

  // Makes `to` wait for all that is on `from`.
  static void order(const c10::cuda::CUDAStream& from, const c10::cuda::CUDAStream& to) {
    c10::Event event(c10::kCUDA);
    event.record(from.unwrap());
    event.block(to.unwrap());
  }

  const c10::DeviceIndex device;
  Recorder graph;
  c10::cuda::CUDAStream before;
  const c10::cuda::CUDAStream side;
  bool inside = false;
  bool counted = false;
};

// Runs `body` with the graph's device as the current one, whichever is so before and after.
template <typename Body>
char* on_device(void* raw, Body&& body) {
  return shim_protect([&] {
    auto& capture = *static_cast<Capture*>(raw);
    c10::cuda::CUDAGuard guard(capture.device);
    body(capture);
  });
}

}  // namespace

// `*capture` is to be dropped.
SHIM_EXPORT char* b4_graph_new(int device, void** capture) {
  return shim_protect([&] {
    const auto index = static_cast<c10::DeviceIndex>(device);
    c10::cuda::CUDAGuard guard(index);
    *capture = new Capture(index);
  });
}

// Makes a side stream current, behind what is on the current one. From here on, what this thread
// and its backward passes put there is recorded. After an error too, `abandon` and `leave` follow.
SHIM_EXPORT char* b4_graph_begin(void* raw) {
  return on_device(raw, [](Capture& capture) {
    // What earlier work left in the allocator would be held beside the pool for good.
    c10::cuda::CUDACachingAllocator::emptyCache();
    capture.before = c10::cuda::getCurrentCUDAStream(capture.device);
    Capture::order(capture.before, capture.side);
    c10::cuda::setCurrentCUDAStream(capture.side);
    capture.inside = true;
    capture.graph.capture_begin(SharedPool::of(capture.device));
  });
}

// Ends the recording, without running it. After an error, `abandon` follows.
SHIM_EXPORT char* b4_graph_end(void* raw) {
  return on_device(raw, [](Capture& capture) {
    capture.graph.capture_end();
    SharedPool::count(capture.device, 1);
    capture.counted = true;
  });
}

// Closes whatever of a recording is open, so that the process can go on as if there had been none.
SHIM_EXPORT char* b4_graph_abandon(void* raw) {
  return on_device(raw, [](Capture& capture) { capture.graph.abandon(capture.side); });
}

// Makes the stream current again that was so before, behind what is on the side stream.
SHIM_EXPORT char* b4_graph_leave(void* raw) {
  return on_device(raw, [](Capture& capture) {
    if (capture.inside) {
      capture.inside = false;
      c10::cuda::setCurrentCUDAStream(capture.before);
      Capture::order(capture.side, capture.before);
    }
  });
}

// Runs what was recorded on the device's current stream.
SHIM_EXPORT char* b4_graph_replay(void* raw) {
  return on_device(raw, [](Capture& capture) { capture.graph.replay(); });
}

SHIM_EXPORT void b4_graph_drop(void* raw) {
  char* message = on_device(raw, [](Capture& capture) { delete &capture; });
  // Nobody is left to tell.
  free(message);
}
