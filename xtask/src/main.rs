//! Sets up, trains, tests and measures bert4rs. Never links torch: it drives `cargo` and the
//! `bert4rs` program as processes, so it builds in seconds and works before libtorch is there.

mod bench_matrix;
mod bundle;
mod cache;
mod checkout;
mod console;
mod corpus;
mod error;
mod fetch;
mod kernels;
mod program;
mod setup;
mod test;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use checkout::Checkout;
use error::Result;

/// The tasks of the bert4rs workspace
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Setup(setup::Args),
    Corpus(corpus::Args),
    Train(train::Args),
    Test(test::Args),
    BenchMatrix(Box<bench_matrix::Args>),
    Kernels(kernels::Args),
    Bundle(bundle::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(code) => code,
        Err(error) => {
            console::note(format_args!("error: {error}"));
            error.exit_code()
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    let checkout = Checkout::find()?;
    match task {
        Task::Setup(args) => setup::run(&checkout, &args).map(|()| ExitCode::SUCCESS),
        Task::Corpus(args) => corpus::run(&args).map(|()| ExitCode::SUCCESS),
        Task::Train(args) => train::run(&checkout, &args),
        Task::Test(args) => test::run(&checkout, &args),
        Task::BenchMatrix(args) => bench_matrix::run(&checkout, &args),
        Task::Kernels(args) => kernels::run(&checkout, &args),
        Task::Bundle(args) => bundle::run(&checkout, &args),
    }
}
