//! What `bert4rs finetune` is told: every key, with its default in `defaults.toml`.

use std::path::PathBuf;

use bert4rs_data::Layout;
use bert4rs_models::checkpointing::ActivationCheckpointing;
use bert4rs_models::loss::{LossImplementation, LossOptions};
use bert4rs_optim::OptimizerConfig;
use bert4rs_optim::schedule::{Horizon, ScheduleConfig};
use bert4rs_tensor_core::attention::{AttentionImplementation, AttentionOptions};
use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::policy::Kernels;
use bert4rs_tensor_core::precision::Precision;
use serde::{Deserialize, Serialize};

use super::adapters::LoraConfig;
use super::answer::AnswerOptions;
use super::causal::CompletionColumns;
use super::classify::{ClassProblem, TextColumns};
use super::head::Dropouts;
use super::rank::RelevanceColumns;
use super::seq2seq::{SourceColumns, WritingOptions};
use super::similarity::{ComparisonColumns, SimilarityConfig, SimilarityLoss};
use super::tag::WordColumns;
use crate::config::loop_rules::validate_checkpoints;
use crate::config::validate::{Fault, at_least, fault_of_model, fault_of_optimizer, probability};
use crate::config::{CheckpointConfig, Defaults, Overlay, fault_in, lay_over, to_table, to_toml};
use crate::distributed::DistributedConfig;
use crate::error::Result;

const DEFAULTS: Defaults = Defaults {
    origin: "default",
    toml: include_str!("defaults.toml"),
    help: "the config.toml of any fine-tuned model has them all",
};

/// As `defaults.toml` has it.
const DEFAULT_LOSS: LossOptions =
    LossOptions { label_smoothing: 0.0, z_loss: 0.0, implementation: LossImplementation::Chunked };

/// All that decides a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneConfig {
    /// Seeds new heads, the order of examples, and dropout.
    pub seed: u64,
    /// What is learned, from what.
    pub task: TaskConfig,
    /// Columns of tables.
    pub columns: ColumnsConfig,
    /// How questions are answered.
    pub answer: AnswerOptions,
    /// How texts are read and written.
    pub seq2seq: WritingOptions,
    /// How vectors of texts are brought together.
    pub similarity: SimilarityConfig,
    /// Adapters instead of weights that learn.
    pub lora: LoraConfig,
    /// Changes to the model.
    pub model: FinetuneModelConfig,
    /// Where and how numbers are computed.
    pub compute: FinetuneComputeConfig,
    /// Batches.
    pub data: FinetuneDataConfig,
    /// How losses over the vocabulary are computed, and what is added to them.
    pub loss: LossOptions,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// The learning rate over time.
    pub schedule: ScheduleConfig,
    /// The loop.
    pub train: FinetuneLoopConfig,
    /// Saving a run's whole state.
    pub checkpoint: CheckpointConfig,
    /// How processes that train together talk.
    pub distributed: DistributedConfig,
}

/// Which task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskName {
    /// Classes or numbers of texts.
    Classify,
    /// Classes of words.
    Tag,
    /// Answers to questions, in texts.
    Answer,
    /// Texts that are written after others.
    Seq2seq,
    /// The next tokens of texts, or of completions.
    Causal,
    /// Vectors of texts that are compared.
    Similarity,
    /// How relevant texts are for queries.
    Rank,
}

impl TaskName {
    /// As commands and configurations have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classify => "classify",
            Self::Tag => "tag",
            Self::Answer => "answer",
            Self::Seq2seq => "seq2seq",
            Self::Causal => "causal",
            Self::Similarity => "similarity",
            Self::Rank => "rank",
        }
    }

    /// Whether what is learned is tokens of the whole vocabulary.
    pub fn has_vocabulary_loss(self) -> bool {
        matches!(self, Self::Seq2seq | Self::Causal)
    }
}

/// What is learned, from what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskConfig {
    /// Which task.
    pub name: TaskName,
    /// The folder of the model to begin with.
    pub model: PathBuf,
    /// What is learned from.
    pub train: PathBuf,
    /// What the best weights are chosen by; empty where there is none.
    pub validation: PathBuf,
    /// What is measured in the end; empty where there is none.
    pub test: PathBuf,
    /// The most tokens of a text; 0 means what the model has positions for.
    pub max_length: usize,
    /// What a label is.
    pub problem: ProblemChoice,
    /// How much classes count.
    pub class_weights: ClassWeights,
    /// What labels are divided by, where texts are compared or ranked.
    pub score_scale: f64,
}

/// What a label is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemChoice {
    /// As the labels look.
    Auto,
    /// One class.
    SingleLabel,
    /// Any number of classes.
    MultiLabel,
    /// A number.
    Regression,
}

impl ProblemChoice {
    /// The problem, if it is said.
    pub fn said(self) -> Option<ClassProblem> {
        match self {
            Self::Auto => None,
            Self::SingleLabel => Some(ClassProblem::SingleLabel),
            Self::MultiLabel => Some(ClassProblem::MultiLabel),
            Self::Regression => Some(ClassProblem::Regression),
        }
    }
}

/// How much classes count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassWeights {
    /// All alike.
    None,
    /// By the inverse of their share.
    Balanced,
}

/// Columns of tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnsConfig {
    /// The text.
    pub text: String,
    /// The second text of a pair.
    pub text_pair: String,
    /// To compare: a text that is to be farther from the first than the second is.
    pub negative: String,
    /// To rank: what is sought.
    pub query: String,
    /// The label.
    pub label: String,
    /// What stands between several labels.
    pub label_separator: String,
    /// What is read, where something is written after it.
    pub source: String,
    /// What is written.
    pub target: String,
    /// What is given before a completion.
    pub prompt: String,
    /// What is learned after a prompt.
    pub completion: String,
    /// The list of words in JSON lines.
    pub words: String,
    /// The list of tags in JSON lines.
    pub tags: String,
    /// The column of words in files of columns.
    pub word_column: i64,
    /// The column of tags in files of columns.
    pub tag_column: i64,
}

impl ColumnsConfig {
    /// Those of texts.
    pub fn of_texts(&self) -> TextColumns {
        TextColumns {
            text: self.text.clone(),
            text_pair: self.text_pair.clone(),
            label: self.label.clone(),
            label_separator: self.label_separator.clone(),
        }
    }

    /// Those of texts that are compared.
    pub fn of_comparisons(&self) -> ComparisonColumns {
        let default = ComparisonColumns::default();
        let is_named = !self.text_pair.is_empty();
        ComparisonColumns {
            text: self.text.clone(),
            text_pair: if is_named { self.text_pair.clone() } else { default.text_pair },
            negative: self.negative.clone(),
            score: self.label.clone(),
        }
    }

    /// Those of queries and texts.
    pub fn of_relevance(&self) -> RelevanceColumns {
        RelevanceColumns {
            query: self.query.clone(),
            text: self.text.clone(),
            relevance: self.label.clone(),
        }
    }

    /// Those of completions.
    pub fn of_completions(&self) -> CompletionColumns {
        CompletionColumns {
            prompt: self.prompt.clone(),
            completion: self.completion.clone(),
            text: self.text.clone(),
        }
    }

    /// Those of sources and targets.
    pub fn of_sources(&self) -> SourceColumns {
        SourceColumns { source: self.source.clone(), target: self.target.clone() }
    }

    /// Those of words.
    pub fn of_words(&self) -> WordColumns {
        WordColumns {
            words: self.words.clone(),
            tags: self.tags.clone(),
            word_column: self.word_column,
            tag_column: self.tag_column,
        }
    }
}

/// Changes to the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneModelConfig {
    /// Share of hidden values that is dropped in training; -1 means what the folder says.
    pub dropout: f64,
    /// The same of attention's weights.
    pub attention_dropout: f64,
}

impl FinetuneModelConfig {
    /// Both.
    pub fn dropouts(&self) -> Dropouts {
        let hidden = (self.dropout >= 0.0).then_some(self.dropout);
        Dropouts { hidden, attention: Some(self.attention_dropout) }
    }
}

/// Where and how numbers are computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneComputeConfig {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// Dtypes of weights and activations.
    pub precision: Precision,
    /// Whether FP32 products on GPUs round what they multiply to TF32.
    pub tf32: bool,
    /// Which code computes attention.
    pub attention: AttentionImplementation,
    /// What layers compute with between their matrix products.
    pub kernels: Kernels,
    /// Whether our CUDA kernels are taken where libtorch has operations that do the same.
    pub cuda_kernels: bool,
    /// What is computed again for the backward pass instead of kept.
    pub activation_checkpointing: ActivationCheckpointing,
    /// CPU threads; 0 means one a core.
    pub threads: u32,
}

/// Batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneDataConfig {
    /// Examples a batch.
    pub batch_size: usize,
    /// How they lie in rows.
    pub packing: Layout,
    /// Whether batches hold examples of like length.
    pub group_by_length: bool,
}

/// The loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FinetuneLoopConfig {
    /// Passes over the examples.
    pub epochs: u32,
    /// Batches a step.
    pub accumulate: u32,
    /// Steps between two lines on the terminal.
    pub log_every: u64,
    /// Steps between two measurements; 0 measures after each pass.
    pub eval_every: u64,
    /// Whether the best weights are kept rather than the last ones.
    pub keep_best: bool,
    /// Measurements without a better score before training stops; 0 never stops early.
    pub patience: u32,
    /// The learning rate of a block over that of the next above; 1 lets all learn alike.
    pub layer_decay: f64,
    /// Embeddings and so many of the lowest blocks stay as they are; -1 freezes nothing.
    pub freeze: i64,
    /// Whether TensorBoard's event files are written too.
    pub tensorboard: bool,
}

/// Lays `overlays` over the defaults, the last one on top, and checks the result.
///
/// # Errors
/// The first key or value that can't be used, and the overlay that it came from.
pub fn resolve(overlays: &[Overlay]) -> Result<FinetuneConfig> {
    let config: FinetuneConfig = lay_over(&DEFAULTS, overlays)?;
    config.validate().map_err(|fault| fault_in(&DEFAULTS, overlays, fault))?;
    Ok(config)
}

impl FinetuneConfig {
    /// The values as a table.
    ///
    /// # Errors
    /// A value that TOML can't hold.
    pub fn to_table(&self) -> Result<toml::Table> {
        to_table(self)
    }

    /// As a TOML file that [`resolve`] reads back to an equal one.
    ///
    /// # Errors
    /// A value that TOML can't hold.
    pub fn to_toml(&self) -> Result<String> {
        to_toml(self)
    }

    fn validate(&self) -> std::result::Result<(), Fault> {
        for (key, path, flag) in [
            ("task.model", &self.task.model, "--model DIR"),
            ("task.train", &self.task.train, "--train FILE"),
        ] {
            if path.as_os_str().is_empty() {
                return Err((key.into(), format!("is missing; give {flag}")));
            }
        }
        at_least("seq2seq.max_target_length", self.seq2seq.max_target_length as u64, 4)?;
        at_least("seq2seq.beams", self.seq2seq.beams as u64, 1)?;
        if !self.seq2seq.length_penalty.is_finite() {
            return Err(("seq2seq.length_penalty".into(), "must be a number".into()));
        }
        at_least("answer.longest", self.answer.longest as u64, 1)?;
        at_least("data.batch_size", self.data.batch_size as u64, 1)?;
        at_least("train.epochs", self.train.epochs.into(), 1)?;
        at_least("train.accumulate", self.train.accumulate.into(), 1)?;
        at_least("train.log_every", self.train.log_every, 1)?;
        at_least("distributed.timeout_s", self.distributed.timeout_s, 1)?;
        validate_checkpoints(&self.checkpoint)?;
        if self.model.dropout != -1.0 {
            probability("model.dropout", self.model.dropout)?;
        }
        probability("model.attention_dropout", self.model.attention_dropout)?;
        let decay = self.train.layer_decay;
        if !(decay > 0.0 && decay <= 1.0) {
            return Err(("train.layer_decay".into(), format!("{decay} is not above 0, at most 1")));
        }
        if self.train.freeze < -1 {
            let reason = format!("{} is below -1, which freezes nothing", self.train.freeze);
            return Err(("train.freeze".into(), reason));
        }
        self.compute
            .device
            .parse::<DeviceChoice>()
            .map_err(|error| ("compute.device".into(), error.to_string()))?;
        let (implementation, dropout) = (self.compute.attention, self.model.attention_dropout);
        AttentionOptions { implementation, dropout }
            .check()
            .map_err(|error| ("compute.attention".into(), error.to_string()))?;
        self.similarity.validate(self.data.batch_size)?;
        self.lora.validate(self.train.freeze >= 0)?;
        let scale = self.task.score_scale;
        if !(scale.is_finite() && scale > 0.0) {
            return Err(("task.score_scale".into(), format!("{scale} is not above 0")));
        }
        self.refuse_idle()?;
        self.loss.validate().map_err(|error| fault_of_model("loss.", &error))?;
        self.optimizer.validate().map_err(|error| fault_of_optimizer("optimizer.", error))?;
        let some = Horizon::Steps(1000);
        self.schedule.resolve(some).map(drop).map_err(|error| fault_of_optimizer("", error))
    }

    /// Whether sections that only some tasks read say something for another.
    fn idle_sections(&self) -> [(&'static str, bool, &'static str); 3] {
        let task = self.task.name;
        [
            (
                "answer",
                task != TaskName::Answer && self.answer != AnswerOptions::default(),
                "only answer reads it; leave it out",
            ),
            (
                "seq2seq",
                task != TaskName::Seq2seq && self.seq2seq != WritingOptions::default(),
                "only seq2seq reads it; leave it out",
            ),
            (
                "loss",
                !task.has_vocabulary_loss() && self.loss != DEFAULT_LOSS,
                "only seq2seq and causal have a loss over the vocabulary; leave it out",
            ),
        ]
    }

    /// Settings that would do nothing.
    fn refuse_idle(&self) -> std::result::Result<(), Fault> {
        let is_classify = self.task.name == TaskName::Classify;
        let is_similarity = self.task.name == TaskName::Similarity;
        let is_rank = self.task.name == TaskName::Rank;
        let idle = [
            (
                "task.problem",
                !is_classify && self.task.problem != ProblemChoice::Auto,
                "only classify has several; leave it out",
            ),
            (
                "columns.text_pair",
                !is_classify && !is_similarity && !self.columns.text_pair.is_empty(),
                "only classify and similarity read pairs; leave it out",
            ),
            (
                "similarity.loss",
                !is_similarity && self.similarity.loss != SimilarityLoss::Auto,
                "only similarity has several; leave it out",
            ),
            (
                "similarity.encode_at_once",
                !is_similarity && self.similarity.encode_at_once > 0,
                "only similarity encodes texts in parts; leave it out",
            ),
            (
                "task.score_scale",
                !is_similarity && !is_rank && self.task.score_scale != 1.0,
                "only similarity and rank divide labels; leave it out",
            ),
            (
                "task.class_weights",
                self.task.class_weights != ClassWeights::None
                    && (!is_classify || self.task.problem == ProblemChoice::Regression),
                "only classify has them, and not for numbers; leave it out",
            ),
            (
                "seq2seq.length_penalty",
                self.seq2seq.beams == 1 && self.seq2seq.length_penalty != 1.0,
                "only a beam search reads it; set seq2seq.beams above 1",
            ),
            (
                "data.group_by_length",
                self.data.group_by_length && self.data.packing == Layout::Packed,
                "packed rows have no padding to be saved; set data.packing = \"padded\"",
            ),
            (
                "train.patience",
                self.train.patience > 0 && self.task.validation.as_os_str().is_empty(),
                "needs a score to wait for; give --validation FILE",
            ),
        ];
        let mut all = idle.into_iter().chain(self.idle_sections());
        match all.find(|(_, is_idle, _)| *is_idle) {
            Some((key, _, reason)) => Err((key.into(), reason.into())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(values: &str) -> Result<FinetuneConfig> {
        let paths = "task.model = \"m\"\ntask.train = \"t.csv\"\n";
        resolve(&[Overlay::parse("test", &format!("{paths}{values}"))?])
    }

    #[test]
    fn every_default_is_there_and_comes_back_from_its_file() {
        let config = with("").unwrap();
        let again = resolve(&[Overlay::parse("again", &config.to_toml().unwrap()).unwrap()]);
        assert_eq!(again.unwrap(), config);
    }

    #[test]
    fn what_can_not_be_used_is_told_by_its_key() {
        for (values, told) in [
            ("task.nam = \"tag\"", "test: task.nam: no such key; did you mean name?"),
            ("train.epochs = 0", "test: train.epochs: 0 is below 1"),
            ("train.patience = 2", "give --validation FILE"),
            ("model.attention_dropout = 0.1", "compute.attention"),
            ("data.group_by_length = true", "data.packing"),
            ("task.problem = \"single\"", "did you mean single-label?"),
            ("model.seq_len = 3", "no such key"),
            ("train.layer_decay = 0.0", "test: train.layer_decay: 0 is not above 0"),
            ("seq2seq.beams = 5", "seq2seq: only seq2seq reads it"),
            ("seq2seq.max_target_length = 3", "seq2seq.max_target_length: 3 is below 4"),
            ("task.name = \"seq2seq\"\nseq2seq.length_penalty = 2.0", "seq2seq.beams above 1"),
            ("loss.label_smoothing = 0.1", "loss: only seq2seq and causal"),
            ("task.name = \"causal\"\nloss.label_smoothing = 1.0", "label_smoothing: 1: must be"),
            ("answer.stride = 5", "answer: only answer reads it"),
            ("task.name = \"answer\"\nanswer.longest = 0", "answer.longest: 0 is below 1"),
            ("train.freeze = -2", "test: train.freeze: -2 is below -1"),
        ] {
            let error = with(values).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
