//! What holds for the workspace as a whole, and how xtask meets bad input.

#![expect(clippy::unwrap_used, reason = "a test that cannot read what it checks has failed")]

mod architecture;
mod bench_matrix;
mod commands;
mod dependencies;
mod layering;
mod rust_text;
mod tidy;
mod workspace;
