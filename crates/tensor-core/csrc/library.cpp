// What libtorch this is, where it lies, and what it was built with.

#include <dlfcn.h>

#include <ATen/Context.h>
#include <ATen/Version.h>
#include <torch/version.h>

#include "shim.h"

// Version of the headers that this shim was compiled against, such as "2.11.0".
SHIM_EXPORT const char* b4_torch_version() { return TORCH_VERSION; }

// Path of the loaded libtorch_cpu.so; nullptr if the loader does not say.
SHIM_EXPORT char* b4_torch_path() {
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&at::globalContext), &info) == 0 || !info.dli_fname) {
    return nullptr;
  }
  return strdup(info.dli_fname);
}

// The vector instructions that libtorch's own CPU kernels use here, such as "AVX512".
SHIM_EXPORT char* b4_cpu_capability() { return strdup(at::get_cpu_capability().c_str()); }
