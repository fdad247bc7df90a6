// Times every operation of libtorch, on every thread, while switched on.
//
// libtorch calls the two functions below around each operation. Each thread writes to a list of
// its own; the lists are joined when the profiler is switched off. Switched off, nothing is
// registered, and operations cost what they always do.

#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/record_function.h>

#include "shim.h"

// One call, as it crosses to Rust. `kind` is 0 for an operation, 1 for a step of backward.
struct ShimEvent {
  uint32_t name;
  uint32_t kind;
  uint64_t thread;
  int64_t start_ns;
  int64_t end_ns;
};

namespace {

struct Call {
  std::string name;
  uint32_t kind;
  uint64_t thread;
  int64_t start_ns;
  int64_t end_ns;
};

struct ThreadCalls {
  std::mutex mutex;
  std::vector<Call> calls;
};

// The lists outlive their threads. A list's own lock is contended only while it is collected.
std::mutex lists_mutex;
std::vector<std::shared_ptr<ThreadCalls>> lists;
at::CallbackHandle handle = 0;

ThreadCalls& of_this_thread() {
  thread_local const std::shared_ptr<ThreadCalls> own = [] {
    auto list = std::make_shared<ThreadCalls>();
    const std::lock_guard<std::mutex> lock(lists_mutex);
    lists.push_back(list);
    return list;
  }();
  return *own;
}

// Nanoseconds of CLOCK_MONOTONIC, which Rust's spans read too.
int64_t now_ns() {
  const auto time = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
}

struct Started : at::ObserverContext {
  int64_t start_ns = now_ns();
};

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction&) {
  return std::make_unique<Started>();
}

void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  const int64_t end_ns = now_ns();
  const auto* started = static_cast<const Started*>(context);
  if (!started) return;
  const uint32_t kind = function.scope() == at::RecordScope::BACKWARD_FUNCTION ? 1 : 0;
  ThreadCalls& own = of_this_thread();
  const std::lock_guard<std::mutex> lock(own.mutex);
  own.calls.push_back({function.name(), kind, function.threadId(), started->start_ns, end_ns});
}

}  // namespace

SHIM_EXPORT int64_t b4_profiler_now_ns() { return now_ns(); }

SHIM_EXPORT uint64_t b4_profiler_thread() { return at::RecordFunction::currentThreadId(); }

// Begins to record. A second call without `b4_profiler_stop` between is an error.
SHIM_EXPORT char* b4_profiler_start() {
  return shim_protect([] {
    const std::lock_guard<std::mutex> lock(lists_mutex);
    TORCH_CHECK(handle == 0, "a profile is being taken already");
    for (const auto& list : lists) {
      const std::lock_guard<std::mutex> own(list->mutex);
      list->calls.clear();
    }
    handle = at::addGlobalCallback(
        at::RecordFunctionCallback(on_start, on_end)
            .scopes({at::RecordScope::FUNCTION, at::RecordScope::BACKWARD_FUNCTION}));
  });
}

// Ends recording. `*events` becomes an array of `*count` events and `*names` their names, one a
// line; both are made with malloc and are the caller's to free.
SHIM_EXPORT char* b4_profiler_stop(ShimEvent** events, size_t* count, char** names) {
  return shim_protect([&] {
    const std::lock_guard<std::mutex> lock(lists_mutex);
    TORCH_CHECK(handle != 0, "no profile is being taken");
    at::removeCallback(handle);
    handle = 0;
    std::unordered_map<std::string, uint32_t> numbers;
    std::string lines;
    std::vector<ShimEvent> joined;
    for (const auto& list : lists) {
      const std::lock_guard<std::mutex> own(list->mutex);
      for (const Call& call : list->calls) {
        const auto [place, is_new] =
            numbers.emplace(call.name, static_cast<uint32_t>(numbers.size()));
        if (is_new) lines += call.name + "\n";
        joined.push_back({place->second, call.kind, call.thread, call.start_ns, call.end_ns});
      }
      list->calls.clear();
    }
    const size_t bytes = joined.size() * sizeof(ShimEvent);
    auto* copy = static_cast<ShimEvent*>(malloc(bytes + 1));
    char* text = strdup(lines.c_str());
    if (!copy || !text) {
      free(copy);
      free(text);
      throw std::bad_alloc();
    }
    if (bytes != 0) std::memcpy(copy, joined.data(), bytes);
    *events = copy;
    *count = joined.size();
    *names = text;
  });
}
