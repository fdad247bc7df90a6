//! What follows a step whose loss is not a number, or far above those before it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::metrics::null_is_nan;

/// What a run does about such a step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Remedy {
    /// The run ends.
    #[default]
    Stop,
    /// The step changes nothing, and the next one follows.
    Skip,
    /// The run goes back to its newest checkpoint, and leaves that step's batches out.
    Rollback,
}

/// What is wrong with a loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TroubleKind {
    /// It is not finite.
    Nan,
    /// It is far above those before it.
    Spike,
}

/// Which losses are trouble, and what is done about them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TroublePolicy {
    /// Of a loss that is not finite.
    pub on_nan: Remedy,
    /// Of a spike.
    pub on_spike: Remedy,
    /// How far above the median of the losses before it a spike is, in nats; 0 looks for none.
    pub spike_nats: f64,
}

impl TroublePolicy {
    /// What is done about trouble of this kind.
    pub fn remedy(&self, kind: TroubleKind) -> Remedy {
        match kind {
            TroubleKind::Nan => self.on_nan,
            TroubleKind::Spike => self.on_spike,
        }
    }

    /// Whether spikes are left out before they change anything, so that each step's loss is read.
    pub(crate) fn skips_spikes(&self) -> bool {
        self.spike_nats > 0.0 && self.on_spike == Remedy::Skip
    }

    /// Whether a checkpoint must be there from the start.
    pub(crate) fn goes_back(&self) -> bool {
        let spikes = self.spike_nats > 0.0 && self.on_spike == Remedy::Rollback;
        spikes || self.on_nan == Remedy::Rollback
    }
}

/// A step that was in trouble, as `metrics.jsonl` and checkpoints have it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// The step, counted from 1.
    pub step: u64,
    /// What was wrong.
    pub kind: TroubleKind,
    /// Its loss; `null` if it was not finite.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// What was done.
    pub remedy: Remedy,
    /// The number of the first batch that was left out, of those that make one step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
    /// The step after which the run went on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub back_to: Option<u64>,
}

/// Looks at losses in their order. What it says follows from them alone, so that a run that goes on
/// judges as one that never stopped.
#[derive(Debug, Default)]
pub(crate) struct TroubleWatch {
    pub(crate) policy: TroublePolicy,
    recent: VecDeque<f64>,
}

/// Losses that a spike is held against.
const RECENT: usize = 50;
/// Before so many, a loss that rises is no spike.
const LEAST: usize = 20;

impl TroubleWatch {
    pub(crate) fn new(policy: TroublePolicy) -> Self {
        Self { policy, recent: VecDeque::new() }
    }

    /// Forgets all losses but these.
    pub(crate) fn refill(&mut self, losses: &[f64]) {
        let finite = losses.iter().rev().copied().filter(|loss| loss.is_finite());
        self.recent = finite.take(RECENT).collect();
        self.recent.make_contiguous().reverse();
    }

    /// What is wrong with the next loss, if anything is.
    pub(crate) fn judge(&mut self, loss: f64) -> Option<TroubleKind> {
        if !loss.is_finite() {
            return Some(TroubleKind::Nan);
        }
        let most = self.policy.spike_nats;
        let is_spike = most > 0.0 && self.median().is_some_and(|median| loss > median + most);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(loss);
        is_spike.then_some(TroubleKind::Spike)
    }

    fn median(&self) -> Option<f64> {
        if self.recent.len() < LEAST {
            return None;
        }
        let mut sorted: Vec<f64> = self.recent.iter().copied().collect();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_is_far_above_the_median_and_refilled_losses_judge_alike() {
        let policy = TroublePolicy { spike_nats: 2.0, ..TroublePolicy::default() };
        let mut watch = TroubleWatch::new(policy);
        let losses: Vec<f64> = (0..60).map(|step| 9.0 - 0.05 * f64::from(step)).collect();
        assert_eq!(watch.judge(20.0), None, "nothing to hold it against");
        assert!(losses.iter().all(|&loss| watch.judge(loss).is_none()));
        let mut again = TroubleWatch::new(policy);
        again.refill(&losses);
        for loss in [f64::NAN, 9.0, 9.5, 6.0, 9.3, f64::INFINITY, 12.0] {
            assert_eq!(again.judge(loss), watch.judge(loss), "{loss}");
        }
        assert_eq!(watch.judge(f64::NAN), Some(TroubleKind::Nan));
        assert_eq!(watch.judge(10.0), Some(TroubleKind::Spike));
    }
}
