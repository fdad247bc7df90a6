//! Kernels against the plain operations that they replace.

mod attention;
mod support;
