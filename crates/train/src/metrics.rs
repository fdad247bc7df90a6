//! What a run records: one line a step, and a summary. Names in these files stay stable.

use std::time::{Duration, Instant};

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::error::Context;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::task::BatchSize;

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Counted from 1.
    pub step: u64,
    /// Mean loss over the step's predicted tokens, in nats.
    #[serde(deserialize_with = "null_is_nan")]
    pub loss: f64,
    /// Real tokens of this step, which padding is not, over its time.
    pub tokens_per_s: f64,
    /// Real tokens of this step.
    pub tokens: u64,
    /// Places that the model computed, padding included.
    pub slots: u64,
    /// AdamW's learning rate in this step.
    pub lr: f64,
    /// Muon's learning rate in this step, where there is Muon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon_lr: Option<f64>,
    /// Norm of all gradients before clipping; `null` if it is not finite, and the step skipped.
    #[serde(deserialize_with = "null_is_nan")]
    pub grad_norm: f64,
    /// Duration of the step in seconds.
    pub step_time_s: f64,
    /// Time since the process began, in seconds.
    pub time_s: f64,
    /// Resident memory of the process in bytes.
    pub resident_bytes: u64,
    /// Bytes in tensors on the GPU after the step; absent on a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
}

/// JSON has no NaN: serde_json writes `null` for it.
fn null_is_nan<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Steps done.
    pub steps: u64,
    /// Real tokens seen, which padding is not. Of T5, the encoder's and the decoder's.
    pub tokens: u64,
    /// Places that the model computed, padding included.
    pub slots: u64,
    /// Trained values.
    pub parameters: u64,
    /// Real tokens a second, the first steps left out.
    pub tokens_per_s: f64,
    /// The same with padding counted.
    pub slots_per_s: f64,
    /// From the start of the process to the end of the first step.
    pub time_to_first_step_s: f64,
    /// From the start of the process to the end of the last step.
    pub total_time_s: f64,
    /// Mean loss of the last tenth of the steps, in nats.
    pub final_loss: f64,
    /// Loss on the held-out text after the last step; `null` if not measured.
    pub held_out_loss: Option<f64>,
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
    /// Useful FLOP/s over the machine's best matrix-product rate, 0 to 1.
    pub speed_of_light: f64,
    /// That rate, measured at the start, in FLOP/s.
    pub best_product_flops: f64,
    /// Matrix-product FLOPs that one token needs, forward and backward.
    pub flops_per_token: f64,
    /// Share of the time spent waiting for batches.
    pub data_wait: f64,
    /// A hash of all batches since the process began, in their order: equal where two runs saw
    /// the same text with the same masks, however it lay in rows.
    pub data_fingerprint: Option<String>,
    /// Steps skipped because a gradient was not finite.
    pub skipped_steps: u64,
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
    /// CPU threads.
    pub threads: u64,
}

/// A step whose loss and norm are still on the device.
#[derive(Debug)]
struct PendingStep {
    record: StepRecord,
    loss: Tensor,
    grad_norm: Tensor,
}

/// Times steps, and reads their losses from the device only when asked to.
#[derive(Debug)]
pub struct Meter {
    pending: Vec<PendingStep>,
    losses: Vec<f64>,
    steps: Vec<(Duration, BatchSize)>,
    step_began: Instant,
}

/// What a step tells the meter.
#[derive(Debug)]
pub struct StepOutcome {
    /// Scalar loss, on the device.
    pub loss: Tensor,
    /// How much the step learned from.
    pub size: BatchSize,
    /// AdamW's learning rate.
    pub lr: f64,
    /// Muon's, where there is Muon.
    pub muon_lr: Option<f64>,
    /// Norm of all gradients before clipping, a scalar.
    pub grad_norm: Tensor,
    /// Bytes in tensors on the GPU, if it is one.
    pub device_bytes: Option<u64>,
}

impl Meter {
    /// A meter that has seen nothing.
    pub fn new() -> Self {
        Self {
            pending: Vec::new(),
            losses: Vec::new(),
            steps: Vec::new(),
            step_began: Instant::now(),
        }
    }

    /// Starts the clock of a step.
    pub fn begin_step(&mut self) {
        self.step_began = Instant::now();
    }

    /// Ends the step and keeps its outcome.
    pub fn end_step(&mut self, step: u64, outcome: StepOutcome, since_start: Duration) {
        let time = self.step_began.elapsed();
        self.steps.push((time, outcome.size));
        let resident = bert4rs_tensor_core::memory::process().map_or(0, |memory| memory.resident);
        let record = StepRecord {
            step,
            loss: f64::NAN,
            tokens_per_s: outcome.size.tokens as f64 / time.as_secs_f64(),
            tokens: outcome.size.tokens,
            slots: outcome.size.slots,
            lr: outcome.lr,
            muon_lr: outcome.muon_lr,
            grad_norm: f64::NAN,
            step_time_s: time.as_secs_f64(),
            time_s: since_start.as_secs_f64(),
            resident_bytes: resident,
            device_bytes: outcome.device_bytes,
        };
        let StepOutcome { loss, grad_norm, .. } = outcome;
        self.pending.push(PendingStep { record, loss, grad_norm });
    }

    /// Reads the losses of the steps since the last call, for which it waits for the device: the
    /// time that this takes belongs to these steps, to each the same.
    pub fn flush(&mut self) -> Result<Vec<StepRecord>> {
        let began = Instant::now();
        let pending = std::mem::take(&mut self.pending);
        let mut records = Vec::with_capacity(pending.len());
        for PendingStep { mut record, loss, grad_norm } in pending {
            record.loss = loss.f_double_value(&[]).during("read the loss")?;
            record.grad_norm = grad_norm.f_double_value(&[]).during("read a norm")?;
            self.losses.push(record.loss);
            records.push(record);
        }
        let share = began.elapsed() / records.len().max(1) as u32;
        let first = self.steps.len().saturating_sub(records.len());
        for (record, (time, size)) in records.iter_mut().zip(&mut self.steps[first..]) {
            *time += share;
            record.step_time_s = time.as_secs_f64();
            record.tokens_per_s = size.tokens as f64 / time.as_secs_f64();
        }
        Ok(records)
    }

    /// What all steps learned from.
    pub fn seen(&self) -> BatchSize {
        let mut seen = BatchSize::default();
        self.steps.iter().for_each(|(_, size)| seen += *size);
        seen
    }

    /// Real tokens a second over the latter steps.
    ///
    /// The first tenth, at least one step and at most ten, is left out: caches, buffers and
    /// kernels are being set up.
    pub fn steady_tokens_per_s(&self) -> f64 {
        let steps = self.steps.len();
        let skipped = (steps / 10).clamp(1, 10).min(steps.saturating_sub(1));
        let steady = &self.steps[skipped..];
        let time: Duration = steady.iter().map(|(time, _)| time).sum();
        let tokens: u64 = steady.iter().map(|(_, size)| size.tokens).sum();
        tokens as f64 / time.as_secs_f64().max(1e-9)
    }

    /// Mean loss of the last tenth of the flushed steps, at least one.
    pub fn final_loss(&self) -> f64 {
        let count = self.losses.len().div_ceil(10);
        let last = &self.losses[self.losses.len() - count..];
        last.iter().sum::<f64>() / count.max(1) as f64
    }

    /// Time spent in all steps.
    pub fn time_in_steps(&self) -> Duration {
        self.steps.iter().map(|(time, _)| time).sum()
    }
}

impl Default for Meter {
    fn default() -> Self {
        Self::new()
    }
}
