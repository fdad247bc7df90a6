// Processes that train together: a store of torch's c10d where they meet, and a group whose
// collectives are Gloo's.
//
// A handle is a c10::intrusive_ptr on the heap. Works hold their tensors until they are dropped.

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupWrapper.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "shim.h"

namespace {

using std::chrono::milliseconds;
using StorePtr = c10::intrusive_ptr<c10d::Store>;
using GroupPtr = c10::intrusive_ptr<c10d::Backend>;
using WorkPtr = c10::intrusive_ptr<c10d::Work>;

const StorePtr& as_store(const void* store) { return *static_cast<const StorePtr*>(store); }
const GroupPtr& as_group(const void* group) { return *static_cast<const GroupPtr*>(group); }
at::Tensor as_tensor(const void* tensor) { return *static_cast<const at::Tensor*>(tensor); }

void give(void** out, WorkPtr work) { *out = new WorkPtr(std::move(work)); }

c10d::ReduceOp as_op(int op) {
  switch (op) {
    case 0: return c10d::ReduceOp::SUM;
    case 1: return c10d::ReduceOp::MAX;
    default: return c10d::ReduceOp::MIN;
  }
}

GroupPtr new_gloo(const StorePtr& store, int rank, int size, const char* address,
                  int64_t timeout_ms) {
  const auto options = c10d::ProcessGroupGloo::Options::create(milliseconds(timeout_ms));
  options->devices.push_back(
      address == nullptr ? c10d::ProcessGroupGloo::createDefaultDevice()
                         : c10d::ProcessGroupGloo::createDeviceForHostname(address));
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
}

}  // namespace

// `port` is where the server listens; 0 lets the system choose, and is then set to its choice.
SHIM_EXPORT char* b4_store_new(
    const char* host, uint16_t* port, bool serves, int64_t timeout_ms, void** store) {
  return shim_protect([&] {
    c10d::TCPStoreOptions options;
    options.port = *port;
    options.isServer = serves;
    options.waitWorkers = false;
    options.timeout = milliseconds(timeout_ms);
    auto tcp = c10::make_intrusive<c10d::TCPStore>(host, options);
    *port = tcp->getPort();
    *store = new StorePtr(std::move(tcp));
  });
}

SHIM_EXPORT char* b4_store_prefix(const void* store, const char* prefix, void** result) {
  return shim_protect([&] {
    *result = new StorePtr(c10::make_intrusive<c10d::PrefixStore>(prefix, as_store(store)));
  });
}

SHIM_EXPORT void b4_store_drop(void* store) { delete static_cast<StorePtr*>(store); }

SHIM_EXPORT char* b4_store_set(
    const void* store, const char* key, const uint8_t* value, size_t count) {
  return shim_protect([&] { as_store(store)->set(key, std::vector(value, value + count)); });
}

// Waits for `key`. The value is the caller's to free.
SHIM_EXPORT char* b4_store_get(
    const void* store, const char* key, int64_t timeout_ms, uint8_t** value, size_t* count) {
  return shim_protect([&] {
    as_store(store)->wait({key}, milliseconds(timeout_ms));
    const auto found = as_store(store)->get(key);
    *value = static_cast<uint8_t*>(std::malloc(found.size() + 1));
    TORCH_CHECK(*value != nullptr, "not enough memory");
    std::copy(found.begin(), found.end(), *value);
    *count = found.size();
  });
}

SHIM_EXPORT char* b4_store_check(const void* store, const char* key, bool* found) {
  return shim_protect([&] { *found = as_store(store)->check({key}); });
}

SHIM_EXPORT char* b4_store_add(
    const void* store, const char* key, int64_t amount, int64_t* sum) {
  return shim_protect([&] { *sum = as_store(store)->add(key, amount); });
}

// `address` is that of this machine's network interface, null for the default one. With `checks`
// each collective is first compared across ranks.
SHIM_EXPORT char* b4_group_new(
    const void* store, int rank, int size, const char* address, int64_t timeout_ms, bool checks,
    void** group) {
  return shim_protect([&] {
    auto backend = new_gloo(as_store(store), rank, size, address, timeout_ms);
    if (checks) {
      const auto beside =
          c10::make_intrusive<c10d::PrefixStore>("checks", as_store(store));
      auto checker = new_gloo(beside, rank, size, address, timeout_ms);
      backend = c10::make_intrusive<c10d::ProcessGroupWrapper>(backend, std::move(checker));
    }
    *group = new GroupPtr(std::move(backend));
  });
}

SHIM_EXPORT void b4_group_drop(void* group) { delete static_cast<GroupPtr*>(group); }

SHIM_EXPORT char* b4_all_reduce(const void* group, const void* tensor, int op, void** work) {
  return shim_protect([&] {
    std::vector<at::Tensor> tensors{as_tensor(tensor)};
    c10d::AllreduceOptions options;
    options.reduceOp = as_op(op);
    give(work, as_group(group)->allreduce(tensors, options));
  });
}

SHIM_EXPORT char* b4_broadcast(const void* group, const void* tensor, int root, void** work) {
  return shim_protect([&] {
    std::vector<at::Tensor> tensors{as_tensor(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    give(work, as_group(group)->broadcast(tensors, options));
  });
}

SHIM_EXPORT char* b4_all_gather(
    const void* group, const void* output, const void* input, void** work) {
  return shim_protect([&] {
    auto out = as_tensor(output);
    auto in = as_tensor(input);
    give(work, as_group(group)->_allgather_base(out, in));
  });
}

// Equal parts: part `r` of `input` goes to rank `r`, part `r` of `output` comes from it.
SHIM_EXPORT char* b4_all_to_all(
    const void* group, const void* output, const void* input, void** work) {
  return shim_protect([&] {
    auto out = as_tensor(output);
    auto in = as_tensor(input);
    std::vector<int64_t> equal;
    give(work, as_group(group)->alltoall_base(out, in, equal, equal));
  });
}

// Rank 0 waits for all, and tells which have not come when the time is over.
SHIM_EXPORT char* b4_monitored_barrier(const void* group, int64_t timeout_ms) {
  return shim_protect([&] {
    c10d::BarrierOptions options;
    options.timeout = milliseconds(timeout_ms);
    as_group(group)->monitoredBarrier(options, /*waitAllRanks=*/true);
  });
}

SHIM_EXPORT char* b4_work_wait(const void* work) {
  return shim_protect([&] { (*static_cast<const WorkPtr*>(work))->wait(); });
}

SHIM_EXPORT char* b4_work_is_completed(const void* work, bool* completed) {
  return shim_protect([&] { *completed = (*static_cast<const WorkPtr*>(work))->isCompleted(); });
}

SHIM_EXPORT void b4_work_drop(void* work) { delete static_cast<WorkPtr*>(work); }
