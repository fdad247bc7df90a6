//! The configuration of a run: what each key means, and which values can be used together.
//!
//! Defaults are not written here: they are `presets/baseline.toml`, which [`resolve`] lays
//! presets, files and flags over.

mod corpus;
mod eight_bits;
mod families;
#[cfg(test)]
mod fuzz;
mod idle;
mod limits;
pub(crate) mod loop_rules;
mod model;
mod overlays;
mod pretrained;
mod processor;
pub(crate) mod validate;
mod validate_text;
pub(crate) mod vocabulary;
mod words;

pub use corpus::{Auto, CorpusEntry, Prefetch, WeightedCorpus};
pub use model::{Biases, Family, Head, ModelConfig, OrPublished, Positions, T5Form};
pub(crate) use overlays::{Defaults, fault_in, lay_over, merge, nested};
pub use overlays::{Overlay, known_keys, leaves, parse_assignment, resolve, resolve_to_run};
pub use processor::{BackendChoice, BackendsConfig};

use bert4rs_data::{Denoising, DocumentBreak, Duplicates, Fit, Layout, MaskUnit};
use bert4rs_models::checkpointing::ActivationCheckpointing;
use bert4rs_models::loss::LossOptions;
use bert4rs_optim::OptimizerConfig;
use bert4rs_optim::schedule::ScheduleConfig;
use bert4rs_tensor_core::attention;
use bert4rs_tensor_core::fp8::Fp8Config;
use bert4rs_tensor_core::int8::Int8Config;
use bert4rs_tensor_core::policy::{CudaKernels, Kernels};
use bert4rs_tensor_core::precision::Precision;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Interval;
use crate::distributed::DistributedConfig;
use crate::error::{Error, Result};
use crate::execution::Execution;
use crate::trouble::Remedy;

/// All that decides a run. Written whole to the run's folder, it repeats the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Seeds weights, data order, masks and dropout.
    pub seed: u64,
    /// The model.
    pub model: ModelConfig,
    /// Where and how numbers are computed.
    pub compute: ComputeConfig,
    /// What is learned from.
    pub data: DataConfig,
    /// What is added to cross-entropy.
    pub loss: LossOptions,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// The loop.
    pub train: LoopConfig,
    /// Saving a run's whole state.
    pub checkpoint: CheckpointConfig,
    /// How processes that train together talk.
    pub distributed: DistributedConfig,
}

/// Which tokens the output layer computes logits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputedLogits {
    /// Every token, whether its loss counts or not.
    All,
    /// Those whose loss counts, which of a BERT are the masked ones: the same loss and gradients.
    Masked,
}

/// Where and how numbers are computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeConfig {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Dtypes of weights and activations.
    pub precision: Precision,
    /// Whether FP32 products on GPUs round what they multiply to TF32.
    pub tf32: bool,
    /// Which of our CUDA kernels are taken where libtorch has operations that do the same.
    pub cuda_kernels: CudaKernels,
    /// Which linear maps multiply in FP8.
    pub fp8: Fp8Config,
    /// Which linear maps multiply integers of 8 bits.
    pub int8: Int8Config,
    /// The class of processor to keep to, or `auto` for all that is here.
    pub cpu_isa: String,
    /// What computes operations that libtorch and own kernels both have.
    pub backends: BackendsConfig,
    /// Which code computes attention.
    pub attention: attention::AttentionImplementation,
    /// What layers compute with between their matrix products.
    pub kernels: Kernels,
    /// Which tokens get logits.
    pub logits: ComputedLogits,
    /// How a step's work is launched.
    pub execution: Execution,
    /// What is computed again for the backward pass instead of kept.
    pub activation_checkpointing: ActivationCheckpointing,
    /// CPU threads; 0 means one a core.
    pub threads: u32,
}

/// What is learned from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Files of text, or folders of them; or several corpora with a weight each.
    pub corpus: Vec<CorpusEntry>,
    /// What becomes of documents that occur more than once.
    pub duplicates: Duplicates,
    /// The field or column of JSON lines and tables that holds the text.
    pub text_field: String,
    /// Where the documents of plain text begin.
    pub document: DocumentBreak,
    /// `train`, or the path of a tokenizer.
    pub tokenizer: String,
    /// Share of the text's characters that a trained tokenizer spells at least.
    pub character_coverage: f64,
    /// Whether T5's trained tokenizer spells unknown characters by their bytes.
    pub byte_fallback: bool,
    /// Tokens of a sequence.
    pub seq_len: u32,
    /// Sequences of a batch.
    pub batch_size: u32,
    /// How the pieces of documents lie in the model's rows.
    pub packing: Layout,
    /// Where documents are split.
    pub fit: Fit,
    /// Tokens of the sequences that a run begins with; 0 means none.
    pub short_seq_len: u32,
    /// The share of a run's batches that have such sequences.
    pub short_share: f64,
    /// Share of tokens to predict, of BERT and T5.
    pub mask_rate: f64,
    /// The share at the end of the run, of BERT; 0 means that it stays as it is.
    pub final_mask_rate: f64,
    /// What BERT's masks hide together.
    pub mask_unit: MaskUnit,
    /// What T5 fills in.
    pub denoising: Denoising,
    /// Mean tokens of T5's spans.
    pub mean_span: f64,
    /// Share of documents kept apart.
    pub held_out: f64,
    /// Files or folders to measure the loss on, instead of that share.
    pub held_out_corpus: Vec<String>,
    /// Batches made ahead.
    pub prefetch: Prefetch,
    /// Threads that make batches ahead.
    pub workers: u32,
}

/// The loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoopConfig {
    /// Optimizer steps, where `epochs` is 0.
    pub max_steps: u64,
    /// Passes over the corpus; 0 means that `max_steps` decides.
    pub epochs: u32,
    /// Batches a step.
    pub accumulate: u32,
    /// Steps between two lines on the terminal.
    pub log_every: u64,
    /// Held-out sequences to measure the loss on; 0 measures nothing.
    pub eval_sequences: u32,
    /// Whether TensorBoard's event files are written too.
    pub tensorboard: bool,
    /// Steps between two measurements; 0 measures at the end alone.
    pub eval_every: u64,
    /// Minutes of training, in which the schedule runs; 0 means that steps or epochs decide.
    pub max_minutes: f64,
    /// Measurements without a better held-out loss that end training; 0 never ends it.
    pub patience: u32,
    /// How much lower a held-out loss must be to be better, in nats.
    pub min_delta: f64,
    /// What is done where a loss is not finite.
    pub on_nan: Remedy,
    /// What is done where a loss is a spike.
    pub on_spike: Remedy,
    /// How far above the median of those before it a loss is a spike, in nats; 0 looks for none.
    pub spike_nats: f64,
    /// How much of an average of the weights each step keeps; 0 keeps no average.
    pub ema_decay: f64,
    /// Steps between two comparisons of an update with the weights, by layer; 0 makes none.
    pub update_ratio_every: u64,
}

/// Saving a run's whole state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// How often.
    pub every: Interval,
    /// The newest ones that stay, beside the best by held-out loss.
    pub keep: u32,
    /// Whether training ends where one can't be written.
    pub must_write: bool,
}

impl Config {
    /// Whether GPT and T5 leave padding out of the output layer. Steps that could be captured
    /// don't, as its shape would differ from batch to batch; the loss is the same.
    pub(crate) fn leaves_padding_out(&self, execution: Execution) -> bool {
        self.compute.logits == ComputedLogits::Masked && execution == Execution::Eager
    }

    /// Whether all batches are to have one shape, as each shape is recorded anew.
    pub(crate) fn fixes_shapes(&self, execution: Execution) -> bool {
        execution != Execution::Eager
    }

    /// The values as a table, as a [`Overlay`] has them.
    ///
    /// # Errors
    /// A value that TOML can't hold.
    pub fn to_table(&self) -> Result<toml::Table> {
        to_table(self)
    }

    /// The configuration as a TOML file that [`resolve`] reads back to an equal one.
    pub fn to_toml(&self) -> Result<String> {
        to_toml(self)
    }
}

/// Settings as a table.
pub(crate) fn to_table(settings: &impl Serialize) -> Result<toml::Table> {
    toml::Table::try_from(settings).map_err(not_toml)
}

/// Settings as a TOML file.
pub(crate) fn to_toml(settings: &impl Serialize) -> Result<String> {
    toml::to_string_pretty(settings).map_err(not_toml)
}

fn not_toml(error: toml::ser::Error) -> Error {
    Error::Toml { origin: "the configuration".into(), reason: error.to_string() }
}
