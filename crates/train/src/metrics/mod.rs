//! What a run records of its steps. Names in these files stay stable.
//!
//! | module | holds |
//! | --- | --- |
//! | here | a step's line in `metrics.jsonl` |
//! | [`meter`] | times steps, and reads losses only when asked to |
//! | [`sink`] | where records go |
//! | [`json_lines`] | `metrics.jsonl`, one JSON object a step |

pub mod json_lines;
pub mod meter;
pub mod sink;

use std::collections::BTreeMap;
use std::time::Duration;

use bert4rs_tensor_core::Tensor;
use serde::{Deserialize, Serialize};

pub use json_lines::JsonLinesSink;
pub use meter::Meter;
pub use sink::MetricSink;

use crate::batch::{BatchDigest, BatchSize};
use crate::distributed::RankTimes;
use crate::trouble::Incident;

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
    /// Positions that the model computed, padding included.
    pub positions: u64,
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
    /// Time in which the step waited for its batches, in seconds.
    #[serde(default)]
    pub data_wait_s: f64,
    /// What was measured on held-out text after the step, by name; absent where nothing was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<BTreeMap<String, f64>>,
    /// How far the step moved the weights of each layer, relative to their norm; absent where it
    /// was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_ratio: Option<BTreeMap<String, f64>>,
    /// What went wrong at this step, and what was done; absent where nothing did.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trouble: Vec<Incident>,
    /// Of several corpora, how much of the tokens until here is of each, since the process began;
    /// absent in most steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corpora: Option<BTreeMap<String, f64>>,
    /// Resident memory of the process in bytes.
    pub resident_bytes: u64,
    /// Bytes in tensors on the GPU after the step; absent on a CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
    /// What processes that train together waited for; absent for one alone. All else is of all of
    /// them, but times, waits and memory, which are of rank 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranks: Option<RankTimes>,
}

/// JSON has no NaN: serde_json writes `null` for it.
pub(crate) fn null_is_nan<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

/// What a step leaves behind.
#[derive(Debug)]
pub struct StepOutcome {
    /// Mean loss over the step's labels, a scalar on the device.
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
    /// Time in which it waited for its batches.
    pub waited: Duration,
    /// Hashes of its batches.
    pub digests: Vec<BatchDigest>,
    /// What it cost in communication, if there are other processes.
    pub ranks: Option<RankTimes>,
    /// How far it moved the weights of each layer, relative to their norm, if that was measured.
    pub update_ratio: Option<BTreeMap<String, f64>>,
}
