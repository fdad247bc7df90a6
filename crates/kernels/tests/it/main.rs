//! Kernels against the plain operations that they replace; the CUDA ones compile wherever NVRTC
//! is, and equal their CPU twins where a GPU is.

mod attention;
mod compile;
mod gpu;
mod support;
