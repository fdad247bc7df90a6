//! `summary.json`: what a whole run came to. Names in this file stay stable.

use std::collections::BTreeMap;

use bert4rs_tensor_core::distributed::ProcessGroup;
use bert4rs_tensor_core::fp8::Fp8Mode;
use bert4rs_tensor_core::load::MachineLoad;
use bert4rs_tensor_core::{get_num_threads, memory};
use serde::{Deserialize, Serialize};

use crate::captured_steps::CaptureUsage;
use crate::distributed::{MeteredGroup, RankTimes, agree_on, sum_over_ranks};
use crate::error::Result;
use crate::facts::Facts;
use crate::machine::Machine;
use crate::names::name_of;
use crate::trainer::Trainer;

/// `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// Real tokens seen, which padding is not. Of T5, the encoder's and the decoder's.
    pub tokens: u64,
    /// Positions that the model computed, padding included.
    pub positions: u64,
    /// Trained values.
    pub parameters: u64,
    /// Real tokens a second, the first steps left out.
    pub tokens_per_s: f64,
    /// The same with padding counted.
    pub positions_per_s: f64,
    /// From the start of the process to the end of the first step.
    pub time_to_first_step_s: f64,
    /// From the start of the process to the end of the last step.
    pub total_time_s: f64,
    /// Mean loss of the last tenth of the steps, in nats.
    pub final_loss: f64,
    /// Loss on the held-out text after the last step; `null` if not measured.
    pub held_out_loss: Option<f64>,
    /// All that was measured on the held-out text after the last step, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub held_out: BTreeMap<String, f64>,
    /// The same loss of the average of the weights, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out_average_loss: Option<f64>,
    /// What predicting held-out tokens by their frequency alone would cost, in nats.
    pub unigram_entropy: f64,
    /// The most memory that the process held.
    pub peak_memory_bytes: u64,
    /// The most bytes that tensors held on the GPU; absent on a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device_bytes: Option<u64>,
    /// The most bytes that were taken from the GPU's driver for them; absent on a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_device_reserved_bytes: Option<u64>,
    /// Bytes of weights, masters, gradients and optimizer state, which `doctor --memory` foretells.
    pub parameter_memory_bytes: u64,
    /// Model FLOPs utilization (MFU) against the measured peak, 0 to 1: the FLOP/s that the model's
    /// formula asks for, over the best rate of matrix products measured on this machine. Papers
    /// divide by the maker's peak instead, which gives less.
    pub speed_of_light: f64,
    /// That rate, measured at the start, in FLOP/s.
    pub best_product_flops: f64,
    /// Matrix-product FLOPs that one token needs, forward and backward.
    pub flops_per_token: f64,
    /// Share of the time spent waiting for batches.
    pub data_wait: f64,
    /// A hash of all batches since the first step, in their order: equal where two runs saw
    /// the same text with the same masks, however it lay in rows.
    pub data_fingerprint: Option<String>,
    /// Steps skipped because a gradient was not finite.
    pub skipped_steps: u64,
    /// Times that the run went back to a checkpoint.
    #[serde(default)]
    pub rollbacks: u64,
    /// Why training ended before its last step; absent where it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_early: Option<String>,
    /// Seconds that training waited for checkpoints.
    #[serde(default)]
    pub checkpoint_pause_s: f64,
    /// The same as a share of the time in steps.
    #[serde(default)]
    pub checkpoint_pause: f64,
    /// Values that FP8 rounded beyond its largest number; absent without FP8.
    pub fp8_overflows: Option<i64>,
    /// The device.
    pub device: String,
    /// Dtype of weights and activations.
    pub precision: String,
    /// The attention implementation that was asked for.
    pub attention: String,
    /// The code that computed attention: plain, own, math, flash, efficient or cudnn.
    pub attention_backend: String,
    /// Shapes of batches, CUDA graphs and steps replayed; absent where the host looks at each step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured: Option<CaptureUsage>,
    /// CPU threads.
    pub threads: u64,
    /// Other work of the machine during the steps; absent where the system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_load: Option<MachineLoad>,
    /// Of processes that trained together; absent for one alone. What is above is of all of them,
    /// but times, memory and load, which are of rank 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<RanksSummary>,
}

/// What several processes cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RanksSummary {
    /// How many there are.
    pub processes: u64,
    /// Share of the steps' time spent in exchanges, the wait for slower ranks included.
    pub communication: f64,
    /// The part of that share in which nothing else was done: all, as nothing overlaps.
    pub exposed_communication: f64,
    /// Bytes that rank 0 sent in a step.
    pub bytes_per_step: f64,
    /// The rank that was the slowest in most steps.
    pub slowest_rank: u64,
    /// By how many seconds the slowest rank worked longer than the mean, as a mean of the steps.
    pub lag_s: f64,
    /// The most memory that any of the processes held.
    pub largest_peak_memory_bytes: u64,
}

impl RanksSummary {
    /// What `trainer` measured; absent for a process alone.
    fn new(trainer: &Trainer, processes: u64, largest_peak_memory_bytes: u64) -> Option<Self> {
        let meter = trainer.meter();
        let steps = meter.ranks();
        if processes <= 1 || steps.is_empty() {
            return None;
        }
        let mean = |value: fn(&RankTimes) -> f64| {
            steps.iter().map(value).sum::<f64>() / steps.len() as f64
        };
        let times = |rank: &u64| steps.iter().filter(|step| step.slowest_rank == *rank).count();
        let time = meter.time_in_steps().as_secs_f64() / meter.steps().max(1) as f64;
        let communication = mean(|step| step.communication_s) / time.max(1e-9);
        Some(Self {
            processes,
            communication,
            exposed_communication: communication,
            bytes_per_step: mean(|step| step.bytes as f64),
            slowest_rank: (0..processes).max_by_key(times).unwrap_or_default(),
            lag_s: mean(|step| step.lag_s),
            largest_peak_memory_bytes,
        })
    }
}

impl Summary {
    /// The same with what the ranks of `group` cost; all call it.
    ///
    /// # Errors
    /// Those of the group.
    pub(crate) fn with_ranks(mut self, trainer: &Trainer, group: &MeteredGroup) -> Result<Self> {
        if !group.is_shared() {
            return Ok(self);
        }
        let [largest] = agree_on(group, [self.peak_memory_bytes as i64])?;
        let peak = sum_over_ranks(group, &[self.best_product_flops])?[0];
        self.speed_of_light *= self.best_product_flops / peak;
        self.best_product_flops = peak;
        self.ranks = RanksSummary::new(trainer, group.size() as u64, largest as u64);
        Ok(self)
    }

    /// What `trainer` came to on `machine`. The held-out loss, and the attention that was asked
    /// for, are the caller's to fill in.
    ///
    /// # Errors
    /// What the device throws.
    pub fn new(trainer: &Trainer, machine: &Machine, facts: &Facts) -> Result<Self> {
        let (meter, params) = (trainer.meter(), trainer.params());
        let device_memory = memory::of_device(machine.device)?;
        let (seen, tokens_per_s) = (meter.seen(), meter.steady_tokens_per_s());
        let best_product_flops = machine.peak.get()?.best_flops();
        let overflows = params.fp8_overflows().read()?;
        Ok(Self {
            steps: meter.steps(),
            tokens: seen.tokens,
            positions: seen.positions,
            parameters: params.count() as u64,
            tokens_per_s,
            positions_per_s: tokens_per_s * seen.positions as f64 / seen.tokens.max(1) as f64,
            time_to_first_step_s: meter.first_step_at().as_secs_f64(),
            total_time_s: meter.last_step_at().as_secs_f64(),
            final_loss: meter.final_loss(),
            held_out_loss: None,
            held_out: BTreeMap::new(),
            held_out_average_loss: None,
            unigram_entropy: facts.unigram_entropy,
            peak_memory_bytes: memory::process().map_or(0, |memory| memory.peak_resident),
            peak_device_bytes: device_memory.map(|memory| memory.peak_allocated),
            peak_device_reserved_bytes: device_memory.map(|memory| memory.peak_reserved),
            parameter_memory_bytes: trainer.parameter_bytes()?,
            speed_of_light: tokens_per_s * facts.flops_per_token / best_product_flops,
            best_product_flops,
            flops_per_token: facts.flops_per_token,
            data_wait: trainer.waited().as_secs_f64()
                / meter.time_in_steps().as_secs_f64().max(1e-9),
            data_fingerprint: Some(format!("{:016x}", meter.fingerprint().value())),
            skipped_steps: trainer.optimizer().skipped(),
            rollbacks: trainer.rollbacks(),
            ended_early: trainer.ended_early().map(str::to_owned),
            checkpoint_pause_s: trainer.paused().as_secs_f64(),
            checkpoint_pause: trainer.paused().as_secs_f64()
                / meter.time_in_steps().as_secs_f64().max(1e-9),
            fp8_overflows: (params.fp8().scaling != Fp8Mode::Off).then_some(overflows),
            device: machine.device_name(),
            precision: name_of(machine.precision),
            attention: String::new(),
            attention_backend: trainer.task().attention_backend().map(name_of).unwrap_or_default(),
            captured: trainer.capture_usage(),
            threads: get_num_threads().max(1) as u64,
            machine_load: meter.machine_load(),
            ranks: None,
        })
    }
}
