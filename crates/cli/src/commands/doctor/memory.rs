//! `doctor --memory`: what a run would hold, from formulas, before anything is allocated.

use std::process::ExitCode;

use bert4rs_train::Result;
use bert4rs_train::config::resolve;
use bert4rs_train::memory_plan::MemoryPlan;

use super::super::at_least_one;
use super::super::config::config_overlays;
use super::row;
use crate::flags::ConfigFlags;

pub(super) fn run(flags: &ConfigFlags, processes: usize) -> Result<ExitCode> {
    at_least_one("--processes", processes)?;
    let config = resolve(&config_overlays(flags)?)?;
    let MemoryPlan { parameters, memory } = MemoryPlan::of(&config, processes)?;
    row("parameters", &format!("{:.2} M", parameters as f64 / 1e6))?;
    for (what, bytes) in [
        ("weights", memory.weights),
        ("masters", memory.masters),
        ("gradients", memory.gradients),
        ("AdamW's state", memory.adamw),
        ("Muon's state", memory.muon),
        ("together", memory.total()),
    ] {
        row(what, &mib(bytes))?;
    }
    let not_counted = match processes {
        1 => "activations, which depend on the batch, and libtorch itself",
        _ => "activations, which depend on the batch, buffers of exchanges, and libtorch itself",
    };
    row("not counted", not_counted)?;
    Ok(ExitCode::SUCCESS)
}

fn mib(bytes: u64) -> String {
    format!("{:10.1} MiB", bytes as f64 / (1 << 20) as f64)
}
