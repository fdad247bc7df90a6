//! What a run's other processes do: they compute as rank 0 does, and leave and show nothing.

use bert4rs_tensor_core::error::catch_torch_error;

use crate::build::{self, WeightSource};
use crate::config::Config;
use crate::distributed::{Ranks, share_state};
use crate::divergence::DivergenceGuard;
use crate::error::{Error, Result};
use crate::run::with_settings;
use crate::stop::StopSignal;
use crate::summary::Summary;

/// Trains as `config` says with the process that leads, which [`train`](crate::run::train)s.
///
/// # Errors
/// As of that, but that what is stopped is told by the leader alone.
pub fn follow(config: &Config, ranks: &Ranks, stop: &StopSignal) -> Result<()> {
    let mut machine = build::machine_of(config, ranks)?;
    machine.backends = ranks.share_backends(Vec::new())?;
    let weights = WeightSource::Initial;
    let parts = build::parts_of(config, &machine, (ranks, weights), &mut |_| {})?;
    ranks.check_parts(&parts, config.seed)?;
    let (trainer, facts) = parts.into_trainer_of(ranks)?;
    let mut trainer = with_settings(config, trainer)?;
    if let Some((state, records)) = share_state(ranks.group(), None)? {
        trainer.go_on(&state, &records)?;
    }
    let guard = DivergenceGuard::of_run(config);
    let mut trainer =
        trainer.with_hook(machine.peak.clone()).with_hook(stop.clone()).with_sink(guard.clone());
    let outcome = catch_torch_error("training", || {
        trainer.run()?;
        if ranks.end_of_steps(&mut trainer, stop)?.is_some() {
            return Ok(());
        }
        let held_out_loss = trainer.evaluate()?.and_then(|evaluation| evaluation.loss());
        let summary = Summary::new(&trainer, &machine, &facts)?;
        let summary = summary.with_ranks(&trainer, ranks.group())?;
        trainer.evaluate_average()?;
        guard.check_end(summary.steps, summary.final_loss, held_out_loss)
    });
    outcome.map_err(Error::from).flatten().map_err(|error| error.while_training(config))
}
