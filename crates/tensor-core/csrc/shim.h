// Shared by the shim's sources: how errors and tensors cross the border to Rust.
//
// Every function returns nullptr on success, else a message made with malloc that the caller
// frees. A tensor crosses as a pointer to an at::Tensor on the heap, as in torch-sys.
#pragma once

#include <cstring>
#include <exception>
#include <string>

#include <ATen/core/Tensor.h>

#define SHIM_EXPORT extern "C" __attribute__((visibility("default")))

// Runs `body` and turns any C++ exception into a message.
template <typename Body>
char* shim_protect(Body&& body) {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("unknown C++ exception");
  }
}

// The same for a `body` whose result is a message already, empty where all went well.
template <typename Body>
char* shim_protect_text(Body&& body) {
  std::string text;
  char* thrown = shim_protect([&] { text = body(); });
  return thrown || text.empty() ? thrown : strdup(text.c_str());
}
