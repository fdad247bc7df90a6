//! Low-rank adapters: what is told of them, and how a model gets them.

use bert4rs_models::pretrained::LoraOptions;
use serde::{Deserialize, Serialize};

use super::head::TaskModel;
use crate::config::validate::{Fault, probability};
use crate::error::Result;

/// Adapters (LoRA, arXiv 2106.09685) that learn instead of the weights that they stand beside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraConfig {
    /// Features between an adapter's two maps; 0 means no adapters.
    pub rank: u32,
    /// What adapters add is multiplied by `alpha / rank`.
    pub alpha: f64,
    /// The maps that get one, by the ends of their names, with commas between; empty means the
    /// family's usual ones, `all-linear` all maps within blocks.
    pub targets: String,
    /// Share of an adapter's inputs that is dropped in training.
    pub dropout: f64,
}

impl LoraConfig {
    pub(super) fn options(&self) -> Option<LoraOptions> {
        let targets = self.targets.split(',').map(str::trim).filter(|name| !name.is_empty());
        (self.rank > 0).then(|| LoraOptions {
            rank: self.rank.into(),
            alpha: self.alpha,
            targets: targets.map(str::to_owned).collect(),
            dropout: self.dropout,
        })
    }

    pub(super) fn validate(&self, freezes: bool) -> std::result::Result<(), Fault> {
        probability("lora.dropout", self.dropout)?;
        if !(self.alpha.is_finite() && self.alpha > 0.0) {
            return Err(("lora.alpha".into(), format!("{} is not above 0", self.alpha)));
        }
        let without = "does nothing without adapters; set lora.rank, or leave it out";
        let idle = [
            ("lora.targets", self.rank == 0 && !self.targets.is_empty(), without),
            ("lora.dropout", self.rank == 0 && self.dropout > 0.0, without),
            (
                "train.freeze",
                self.rank > 0 && freezes,
                "adapters freeze all that they stand beside; leave out one of both",
            ),
        ];
        match idle.into_iter().find(|(_, is_idle, _)| *is_idle) {
            Some((key, _, reason)) => Err((key.into(), reason.into())),
            None => Ok(()),
        }
    }
}

impl TaskModel {
    /// Gives the model adapters, if `config` says so, and tells how much learns.
    ///
    /// # Errors
    /// Targets that the model does not have.
    pub(super) fn adapt(&mut self, config: &LoraConfig) -> Result<()> {
        let Some(options) = config.options() else { return Ok(()) };
        self.model.add_adapters(&options)?;
        let count = |only_trained: bool| -> usize {
            let params = self.model.params().params();
            let counted = params.iter().filter(|one| !only_trained || one.weight.requires_grad());
            counted.map(|one| one.weight.numel()).sum()
        };
        let (trained, all) = (count(true), count(false));
        let share = 100.0 * trained as f64 / all.max(1) as f64;
        self.notes.push(format!("trained    {trained} of {all} parameters ({share:.2}%)"));
        self.lora = Some(options);
        Ok(())
    }
}
