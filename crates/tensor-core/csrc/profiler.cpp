// libtorch's own profiler, Kineto: every operation on every thread, spans of ours, and on a GPU
// its kernels. Switched off, nothing is registered, and operations cost what they always do.

#include <cstdlib>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/record_function.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include "shim.h"

// One call, as it crosses to Rust.
struct ShimEvent {
  uint32_t name;
  uint32_t kind;
  uint64_t thread;
  int64_t start_ns;
  int64_t end_ns;
};

namespace {

using torch::autograd::profiler::KinetoEvent;
using torch::profiler::impl::ActivityType;

// Numbers of `profile::EventKind`.
enum Kind : uint32_t { SPAN, OPERATION, BACKWARD, KERNEL, OTHER };

Kind kind_of(const KinetoEvent& event) {
  // libkineto::ActivityType, whose header libtorch does not install for us to include.
  constexpr uint8_t CPU_OP = 0, USER_ANNOTATION = 1, GPU_MEMCPY = 3, CONCURRENT_KERNEL = 5;
  const uint8_t activity = event.activityType();
  if (activity == USER_ANNOTATION) return SPAN;
  if (activity >= GPU_MEMCPY && activity <= CONCURRENT_KERNEL) return KERNEL;
  if (activity != CPU_OP) return OTHER;
  const auto backward = static_cast<uint8_t>(at::RecordScope::BACKWARD_FUNCTION);
  return event.scope() == backward ? BACKWARD : OPERATION;
}

// Gathers events, each name once.
struct Events {
  std::unordered_map<std::string, uint32_t> numbers;
  std::string lines;
  std::vector<ShimEvent> all;

  void add(const KinetoEvent& event) {
    const Kind kind = kind_of(event);
    // What had not ended when the profile did has no time.
    if (kind == OTHER || event.endNs() < event.startNs()) return;
    const std::string name = event.name();
    const auto [place, is_new] = numbers.emplace(name, static_cast<uint32_t>(numbers.size()));
    if (is_new) lines += name + "\n";
    const auto stream = static_cast<uint64_t>(event.deviceResourceId());
    const uint64_t thread = kind == KERNEL ? stream : event.startThreadId();
    const auto [start, end] = std::pair<int64_t, int64_t>(event.startNs(), event.endNs());
    all.push_back({place->second, kind, thread, start, end});
  }
};

}  // namespace

// Begins to record; with `cuda`, the kernels of GPUs too. The caller takes one profile at a time.
SHIM_EXPORT char* b4_profiler_start(bool cuda) {
  return shim_protect([&] {
    torch::profiler::impl::ExperimentalConfig experimental;
    experimental.profile_all_threads = true;
    using torch::profiler::impl::ProfilerConfig;
    using torch::profiler::impl::ProfilerState;
    const ProfilerConfig config(
        ProfilerState::KINETO, false, false, false, false, false, experimental);
    std::set<ActivityType> activities{ActivityType::CPU};
    if (cuda) activities.insert(ActivityType::CUDA);
    using Scope = at::RecordScope;
    torch::autograd::profiler::prepareProfiler(config, activities);
    torch::autograd::profiler::enableProfiler(
        config, activities, {Scope::FUNCTION, Scope::BACKWARD_FUNCTION, Scope::USER_SCOPE});
  });
}

// Ends recording. If `trace` is no null pointer, Kineto writes its trace to that file. `*events`
// becomes an array of `*count` events and `*names` their names, one a line; both are made with
// malloc and are the caller's to free.
SHIM_EXPORT char* b4_profiler_stop(
    const char* trace, ShimEvent** events, size_t* count, char** names) {
  return shim_protect([&] {
    const auto result = torch::autograd::profiler::disableProfiler();
    Events found;
    for (const KinetoEvent& event : result->events()) found.add(event);
    if (trace) result->save(trace);
    const size_t bytes = found.all.size() * sizeof(ShimEvent);
    auto* copy = static_cast<ShimEvent*>(malloc(bytes + 1));
    char* text = strdup(found.lines.c_str());
    if (!copy || !text) {
      free(copy);
      free(text);
      throw std::bad_alloc();
    }
    if (bytes != 0) std::memcpy(copy, found.all.data(), bytes);
    *events = copy;
    *count = found.all.size();
    *names = text;
  });
}

// Begins a span on this thread.
SHIM_EXPORT char* b4_profiler_span(const char* name, size_t length, at::RecordFunction** span) {
  return shim_protect([&] {
    auto begun = std::make_unique<at::RecordFunction>(at::RecordScope::USER_SCOPE);
    begun->before(std::string(name, length));
    *span = begun.release();
  });
}

// Ends a span on the thread that it began on.
SHIM_EXPORT void b4_profiler_end(at::RecordFunction* span) { delete span; }
