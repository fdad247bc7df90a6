//! Which values of the loop can be used: how long a run is, and what it does about trouble.

use bert4rs_optim::schedule::Horizon;

use super::validate::{Fault, at_least, probability, within};
use super::{CheckpointConfig, Config};
use crate::checkpoint::Interval;
use crate::trouble::Remedy;

/// Refuses checkpoints after no step or in no time, and none that stay.
pub(crate) fn validate_checkpoints(config: &CheckpointConfig) -> Result<(), Fault> {
    at_least("checkpoint.keep", config.keep.into(), 1)?;
    match config.every {
        Interval::Never => Ok(()),
        Interval::Steps(steps) => at_least("checkpoint.every.steps", steps, 1),
        Interval::Minutes(minutes) => at_least("checkpoint.every.minutes", minutes, 1),
    }
}

impl Config {
    /// How long a run is, of so many steps unless a time is given.
    pub(crate) fn horizon(&self, steps: u64) -> Horizon {
        match self.train.max_minutes {
            0.0 => Horizon::Steps(steps),
            minutes => Horizon::Seconds(60.0 * minutes),
        }
    }

    pub(super) fn validate_loop(&self) -> Result<(), Fault> {
        let train = &self.train;
        at_least("train.max_steps", train.max_steps, 1)?;
        at_least("train.accumulate", train.accumulate.into(), 1)?;
        at_least("train.log_every", train.log_every, 1)?;
        at_least("distributed.timeout_s", self.distributed.timeout_s, 1)?;
        self.validate_ends()?;
        self.validate_trouble()?;
        probability("train.ema_decay", train.ema_decay)?;
        validate_checkpoints(&self.checkpoint)
    }

    fn validate_ends(&self) -> Result<(), Fault> {
        let train = &self.train;
        within("train.max_minutes", train.max_minutes, 0.0, 1e9)?;
        if train.max_minutes > 0.0 && train.epochs > 0 {
            let reason = "and train.epochs both say how long a run is; set one to 0";
            return Err(("train.max_minutes".into(), reason.into()));
        }
        within("train.min_delta", train.min_delta, 0.0, 1e9)?;
        if train.patience == 0 {
            return match train.min_delta {
                0.0 => Ok(()),
                _ => Err(("train.min_delta".into(), "goes with train.patience; set that".into())),
            };
        }
        let missing = if train.eval_every == 0 {
            "train.eval_every is 0; set it"
        } else if train.eval_sequences == 0 {
            "train.eval_sequences is 0; set it"
        } else if self.data.held_out == 0.0 && self.data.held_out_corpus.is_empty() {
            "there is no held-out text; set data.held_out"
        } else {
            return Ok(());
        };
        let reason = format!("waits for measurements on held-out text, but {missing}");
        Err(("train.patience".into(), reason))
    }

    fn validate_trouble(&self) -> Result<(), Fault> {
        let train = &self.train;
        within("train.spike_nats", train.spike_nats, 0.0, 1e9)?;
        if train.spike_nats == 0.0 && train.on_spike != Remedy::Stop {
            let reason =
                "acts on spikes, but train.spike_nats is 0, which looks for none; set that";
            return Err(("train.on_spike".into(), reason.into()));
        }
        for (key, remedy) in [("train.on_nan", train.on_nan), ("train.on_spike", train.on_spike)] {
            if remedy == Remedy::Rollback && self.checkpoint.every == Interval::Never {
                let reason = "goes back to checkpoints, but checkpoint.every is \"never\"";
                return Err((key.into(), reason.into()));
            }
        }
        Ok(())
    }
}
