//! The crate as its users see it: one binary, a module for each subject.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod causal;
mod corpus;
mod formats;
mod fuzz;
mod mixture;
mod mlm;
mod model_tokenizer;
mod packing;
mod parquet;
mod prefetch;
mod prepare;
mod sample;
mod scripts;
mod shard;
mod spans;
mod tokenizer;
mod unfinished;
