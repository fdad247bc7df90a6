//! The `bert4rs` program: a thin shell around the crates.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "flags' docs are help texts, with [MASK] in them"
)]

mod commands;
mod failure;
mod finetune_flags;
mod flags;
mod launch_flags;
mod model_flags;
mod start;
mod verbosity;

use std::process::ExitCode;

use bert4rs_tensor_core::cpu_isa::CpuIsa;
use bert4rs_tensor_core::threads;
use bert4rs_train::Error;
use bert4rs_train::clock::ProcessClock;
use clap::Parser;

use crate::flags::{Cli, Command};

fn main() -> ExitCode {
    let clock = ProcessClock::new();
    commands::launch::end_with_launcher();
    threads::limit_to_available_cores();
    bert4rs_tensor_core::memory::keep_freed_memory();
    let cli = Cli::parse();
    start::restart_for(&cli.command);
    verbosity::show(cli.verbose);
    failure::report(|| {
        CpuIsa::of_process()?;
        run(cli.command, clock)
    })
}

fn run(command: Command, clock: ProcessClock) -> Result<ExitCode, Error> {
    match command {
        Command::Train(flags) => commands::train::run(&flags, clock),
        Command::Launch(flags) => commands::launch::run(&flags),
        Command::Finetune(flags) => commands::finetune::run(&flags, clock),
        Command::Predict(flags) => commands::predict::predict(&flags),
        Command::Evaluate(flags) => commands::predict::evaluate(&flags),
        Command::Generate(flags) => commands::generate::run(&flags),
        Command::FillMask(flags) => commands::fill_mask::run(&flags),
        Command::Embed(flags) => commands::embed::run(&flags),
        Command::Forward(flags) => commands::forward::run(&flags),
        Command::Data(flags) => commands::data::run(&flags),
        Command::Tokenizer(flags) => commands::tokenizer::run(&flags),
        Command::Batches(flags) => commands::batches::run(&flags),
        Command::Profile(flags) => commands::profile::run(&flags),
        Command::Presets(flags) => commands::presets::run(&flags),
        Command::Runs(flags) => commands::runs::run(&flags),
        Command::Report(flags) => commands::report::run(&flags),
        Command::Doctor(flags) => commands::doctor::run(&flags),
        Command::Cache(flags) => commands::cache::run(&flags),
        Command::Completions(flags) => commands::completions::completions(&flags),
        Command::Man(flags) => commands::completions::man(&flags),
    }
}
