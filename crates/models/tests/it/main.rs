//! Integration tests, in one binary so that libtorch is linked once.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bert;
mod checkpointing;
mod embedding;
mod folders;
mod fp8;
mod fused;
mod generation;
mod gpt;
mod heads;
mod lora;
mod packing;
mod precision;
mod properties;
mod published;
mod relatives;
mod rotary;
mod support;
mod t5;
