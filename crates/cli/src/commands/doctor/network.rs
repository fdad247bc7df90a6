//! `doctor --network`: what exchanges between processes cost here, and would cost among more.

use std::process::ExitCode;

use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::distributed::{Launch, ProcessGroup};
use bert4rs_train::config::resolve;
use bert4rs_train::distributed::{NetworkCosts, Ranks};
use bert4rs_train::memory_plan::MemoryPlan;
use bert4rs_train::{Error, Result};

use super::super::config::config_overlays;
use super::row;
use crate::flags::ConfigFlags;

/// Up to how many ranks are foretold.
const RANKS: [usize; 6] = [2, 4, 8, 16, 32, 64];

pub(super) fn run(flags: &ConfigFlags) -> Result<ExitCode> {
    let launch = Launch::from_variables(|name| std::env::var(name).ok())?;
    let launch = launch.ok_or_else(|| Error::Config {
        origin: "command line".into(),
        key: "--network".into(),
        reason: "measures between processes; start them: bert4rs launch --processes 2 -- doctor \
                 --network"
            .into(),
    })?;
    let mut config = resolve(&config_overlays(flags)?)?;
    if config.compute.device.parse::<DeviceChoice>()? == DeviceChoice::Auto {
        config.compute.device = "cpu".into();
    }
    let ranks = Ranks::join(&config, launch)?;
    let (costs, times) = NetworkCosts::measure(ranks.group())?;
    if !ranks.leads() {
        return Ok(ExitCode::SUCCESS);
    }
    row("processes", &ranks.group().size().to_string())?;
    for time in times {
        let (bytes, seconds) = (time.bytes as f64, time.seconds);
        row(time.collective, &format!("{:>10.1} KiB {:>9.3} ms", bytes / 1024.0, 1e3 * seconds))?;
    }
    row("latency", &format!("{:.3} ms a message", 1e3 * costs.latency_s))?;
    let rates = [costs.reduce_rate, costs.gather_rate].map(|rate| rate / 1e9);
    row("rate", &format!("{:.2} GB/s reduce-scatter, {:.2} all-gather", rates[0], rates[1]))?;
    let weights = MemoryPlan::of(&config, 1)?.memory.weights;
    for count in RANKS {
        let step = costs.step_s(count, weights, weights);
        let of = format!("{count} ranks");
        row(&of, &format!("about {:.1} ms of exchanges a step of this model", 1e3 * step))?;
    }
    Ok(ExitCode::SUCCESS)
}
