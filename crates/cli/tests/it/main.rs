//! The program as its users run it: one binary, a module for each subject.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod bad_input;
mod batches;
mod forward;
mod models;
mod presets;
mod profile;
mod support;
mod text;
mod train;
