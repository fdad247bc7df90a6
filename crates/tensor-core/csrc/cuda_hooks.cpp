// libtorch's CUDA half, loaded at run time, and by whichever call comes first.
//
// libtorch makes its hooks to CUDA once, at the first call that asks for an accelerator: a seed,
// a backward pass on the CPU. Where libtorch_cuda.so is not loaded by then, they are stubs, and the
// process has no CUDA device for good. So that no call can come too early, our own maker of hooks
// stands in libtorch's registry, below the real one in rank: asked first, it loads the backend,
// whose maker takes its place, and hands over.

#include <dlfcn.h>

#include <filesystem>
#include <mutex>
#include <string>
#include <typeinfo>

#include <ATen/Context.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include "shim.h"

namespace {

constexpr char NAME[] = "CUDAHooks";

// Loads a library for the life of the process, its symbols visible to all.
bool load_global(const std::string& path) {
  return dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr;
}

std::string load_cuda() {
  if (!load_global("libcuda.so.1")) {
    return "no NVIDIA driver (libcuda.so.1) on this machine";
  }
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&at::globalContext), &info) == 0 || !info.dli_fname) {
    return "can't tell where libtorch lies";
  }
  std::error_code failed;
  const auto torch = std::filesystem::canonical(info.dli_fname, failed).parent_path();
  const auto backend = torch / "libtorch_cuda.so";
  if (failed || !std::filesystem::exists(backend, failed)) {
    return torch.string() + " has no libtorch_cuda.so (run `cargo xtask setup --cuda`)";
  }
  if (!load_global(backend.string())) {
    const char* why = dlerror();
    return backend.string() + " does not load: " + (why ? why : "no reason given") +
           " (run `cargo xtask setup --cuda`)";
  }
  return "";
}

// Why there is no CUDA; empty where it is loaded. Loads it at the first call.
const std::string& reason() {
  static const std::string* text = new std::string(load_cuda());
  return *text;
}

std::unique_ptr<at::CUDAHooksInterface> make_hooks(at::CUDAHooksArgs args) {
  if (!reason().empty()) {
    return std::make_unique<at::CUDAHooksInterface>();
  }
  return at::CUDAHooksRegistry()->Create(NAME, args);
}

const c10::Registerer<std::string, std::unique_ptr<at::CUDAHooksInterface>, at::CUDAHooksArgs>
    LOADER(NAME, c10::REGISTRY_FALLBACK, at::CUDAHooksRegistry(), make_hooks);

}  // namespace

// Loads the CUDA half of libtorch if there is a driver; the message says why there is none.
SHIM_EXPORT char* b4_load_cuda() {
  return shim_protect_text([&]() -> std::string {
    if (!reason().empty()) {
      return reason();
    }
    const auto& hooks = at::detail::getCUDAHooks();
    if (typeid(hooks) == typeid(at::CUDAHooksInterface)) {
      return "libtorch was asked for CUDA before its CUDA half was loaded, and does not ask "
             "again (loaded too late); call bert4rs_tensor_core::device::cuda() first";
    }
    return "";
  });
}
