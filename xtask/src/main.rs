//! Sets up, trains, tests and measures bert4rs. Never links torch: it drives `cargo` and the
//! `bert4rs` program as processes, so it builds in seconds and works before libtorch is there.

mod bench_matrix;
mod bundle;
mod cache;
mod checkout;
mod console;
mod corpus;
mod doc;
mod error;
mod fetch;
mod kernels;
mod program;
mod setup;
mod test;
mod torture;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use checkout::Checkout;
use error::Result;

/// The tasks of the bert4rs workspace
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    command: XtaskCommand,
}

#[derive(Subcommand)]
enum XtaskCommand {
    Setup(setup::Args),
    Corpus(corpus::Args),
    Train(train::Args),
    Test(test::Args),
    BenchMatrix(Box<bench_matrix::Args>),
    Kernels(kernels::Args),
    Doc(doc::Args),
    Bundle(bundle::Args),
    Torture(torture::Args),
}

fn main() -> ExitCode {
    match run(Xtask::parse().command) {
        Ok(code) => code,
        Err(error) => {
            console::note(format_args!("error: {error}"));
            error.exit_code()
        }
    }
}

fn run(command: XtaskCommand) -> Result<ExitCode> {
    let checkout = Checkout::find()?;
    match command {
        XtaskCommand::Setup(args) => setup::run(&checkout, &args).map(|()| ExitCode::SUCCESS),
        XtaskCommand::Corpus(args) => corpus::run(&args).map(|()| ExitCode::SUCCESS),
        XtaskCommand::Train(args) => train::run(&checkout, &args),
        XtaskCommand::Test(args) => test::run(&checkout, &args),
        XtaskCommand::BenchMatrix(args) => bench_matrix::run(&checkout, &args),
        XtaskCommand::Doc(_) => doc::run(&checkout),
        XtaskCommand::Kernels(args) => kernels::run(&checkout, &args),
        XtaskCommand::Bundle(args) => bundle::run(&checkout, &args),
        XtaskCommand::Torture(args) => torture::run(&checkout, &args),
    }
}
