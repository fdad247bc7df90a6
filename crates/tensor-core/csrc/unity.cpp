// The whole shim as one translation unit: reading libtorch's headers takes longer than all that is
// done with them.

#include "attention.cpp"
#include "cpu_allocator.cpp"
#include "cuda_hooks.cpp"
#include "custom_function.cpp"
#include "device.cpp"
#include "library.cpp"
#include "process_group.cpp"
#include "profiler.cpp"
#include "random_state.cpp"
#include "stream.cpp"
#include "varlen.cpp"
