//! Tests of the crate's public face, in one program: each more would link libtorch again.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod attention;
mod autograd;
mod copy_stream;
mod cuda_loading;
mod device;
mod distributed;
mod error;
mod graph;
mod machine;
mod param;
mod profile;
mod random;
mod safetensors;
mod support;
mod varlen;
