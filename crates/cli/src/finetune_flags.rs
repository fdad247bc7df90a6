//! Flags of the commands that make models for tasks, and use them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::flags::ConsoleFlags;
use crate::model_flags::ModelFlags;

/// Flags of `finetune`.
#[derive(Debug, Args)]
pub(crate) struct FinetuneFlags {
    /// What is learned.
    #[command(subcommand)]
    pub(crate) task: FinetuneTaskFlags,
}

/// The tasks.
#[derive(Debug, Subcommand)]
pub(crate) enum FinetuneTaskFlags {
    /// A class, several, or a number for a text or a pair of texts.
    Classify(Box<ClassifyFlags>),
    /// A class for each word, such as names or parts of speech.
    Tag(Box<TagFlags>),
    /// The part of a text that answers a question, or that there is none.
    Answer(Box<AnswerFlags>),
    /// A text after another, of a T5: translations, summaries.
    #[command(name = "seq2seq")]
    Seq2Seq(Box<Seq2SeqFlags>),
    /// The next token, of a GPT: texts, or completions after prompts.
    Causal(Box<CausalFlags>),
    /// Vectors that are near where texts mean the same: pairs, with scores or without, or triplets.
    Similarity(Box<SimilarityFlags>),
    /// How relevant a text is for a query, by a model that reads both together.
    Rank(Box<RankFlags>),
}

/// Flags of `finetune classify`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct ClassifyFlags {
    #[command(flatten)]
    pub(crate) run: FinetuneRunFlags,
    #[command(flatten)]
    pub(crate) columns: TextColumnFlags,
    /// auto (by the labels), single-label, multi-label or regression.
    #[arg(long, value_name = "PROBLEM")]
    pub(crate) problem: Option<String>,
    /// balanced: classes count by the inverse of their share.
    #[arg(long, value_name = "none|balanced")]
    pub(crate) class_weights: Option<String>,
}

/// Flags of `finetune tag`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct TagFlags {
    #[command(flatten)]
    pub(crate) run: FinetuneRunFlags,
    #[command(flatten)]
    pub(crate) columns: WordColumnFlags,
}

/// Flags of `finetune answer`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct AnswerFlags {
    #[command(flatten)]
    pub(crate) run: FinetuneRunFlags,
    #[command(flatten)]
    pub(crate) answers: AnswerWindowFlags,
}

/// How questions are answered.
#[derive(Debug, Args)]
pub(crate) struct AnswerWindowFlags {
    /// Long texts are read in windows; tokens that one shares with the one before [default: 128].
    #[arg(long, value_name = "N")]
    pub(crate) stride: Option<u32>,
    /// The most tokens of an answer [default: 30].
    #[arg(long, value_name = "N")]
    pub(crate) longest_answer: Option<u32>,
    /// How much surer a model must be that there is no answer than of the best one to give none, if
    /// it learned questions without answers [default: 0, or what the model's folder says].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) no_answer_threshold: Option<f64>,
}

/// Flags of `finetune seq2seq`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct Seq2SeqFlags {
    #[command(flatten)]
    pub(crate) run: FinetuneRunFlags,
    #[command(flatten)]
    pub(crate) writing: WritingFlags,
    /// The score that decides which weights are best: rouge1, rouge2, rouge_l, bleu, chrf or
    /// exact_match [default: rouge_l].
    #[arg(long, value_name = "SCORE")]
    pub(crate) best_by: Option<String>,
}

/// How texts are read and others written.
#[derive(Debug, Args)]
pub(crate) struct WritingFlags {
    /// The column or field of what is read [default: source].
    #[arg(long, value_name = "NAME")]
    pub(crate) source_column: Option<String>,
    /// The column or field of what is written [default: target].
    #[arg(long, value_name = "NAME")]
    pub(crate) target_column: Option<String>,
    /// What stands before each source, such as "summarize: " [default: none, or what the model's
    /// folder says].
    #[arg(long, value_name = "TEXT")]
    pub(crate) prefix: Option<String>,
    /// The most tokens that are written [default: 128, or what the model's folder says].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(4..))]
    pub(crate) max_target_length: Option<u32>,
    /// Candidates of a beam search; 1 takes the most probable token each time [default: 1, or what
    /// the model's folder says].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) beams: Option<u32>,
}

/// Flags of `finetune causal`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct CausalFlags {
    #[command(flatten)]
    pub(crate) run: FinetuneRunFlags,
    #[command(flatten)]
    pub(crate) columns: CompletionColumnFlags,
    /// The column or field of texts, where there are no completions [default: text].
    #[arg(long, value_name = "NAME")]
    pub(crate) text_column: Option<String>,
}

/// Flags of `finetune similarity`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct SimilarityFlags {
    #[command(flatten)]
    pub(crate) run: FinetuneRunFlags,
    #[command(flatten)]
    pub(crate) columns: PairColumnFlags,
    #[command(flatten)]
    pub(crate) negative: NegativeColumnFlags,
    /// auto (by the columns), cosine, ranking or triplet.
    #[arg(long, value_name = "LOSS")]
    pub(crate) loss: Option<String>,
    #[command(flatten)]
    pub(crate) scale: ScoreScaleFlags,
    /// Texts that are encoded at once, so that large batches fit in memory, with the same
    /// gradients (GradCache); 0: all of a batch [default: 0].
    #[arg(long, value_name = "N")]
    pub(crate) encode_at_once: Option<u32>,
    /// cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken, or several joined by +
    /// [default: as the folder says, or mean].
    #[arg(long, value_name = "MODES")]
    pub(crate) pooling: Option<String>,
}

/// Flags of `finetune rank`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct RankFlags {
    #[command(flatten)]
    pub(crate) run: FinetuneRunFlags,
    #[command(flatten)]
    pub(crate) query: QueryColumnFlags,
    #[command(flatten)]
    pub(crate) columns: LabelledColumnFlags,
    #[command(flatten)]
    pub(crate) scale: ScoreScaleFlags,
}

/// Which column holds what is sought.
#[derive(Debug, Args)]
pub(crate) struct QueryColumnFlags {
    /// To rank: the column or field of what is sought [default: query].
    #[arg(long, value_name = "NAME")]
    pub(crate) query_column: Option<String>,
}

/// What scores are divided by.
#[derive(Debug, Args)]
pub(crate) struct ScoreScaleFlags {
    /// What labels are divided by, such as 5 where they reach from 0 to 5 [default: 1].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) score_scale: Option<f64>,
}

/// Which column holds what is not like the text.
#[derive(Debug, Args)]
pub(crate) struct NegativeColumnFlags {
    /// To compare: the column or field of a third text, which is to be farther from the first than
    /// the second is [default: negative].
    #[arg(long, value_name = "NAME")]
    pub(crate) negative_column: Option<String>,
}

/// Which columns hold prompts and completions.
#[derive(Debug, Args)]
pub(crate) struct CompletionColumnFlags {
    /// The column or field of what is given [default: prompt].
    #[arg(long, value_name = "NAME")]
    pub(crate) prompt_column: Option<String>,
    /// The column or field of what is learned after it [default: completion].
    #[arg(long, value_name = "NAME")]
    pub(crate) completion_column: Option<String>,
}

/// Which columns of a table hold a text and its label.
#[derive(Debug, Args)]
pub(crate) struct LabelledColumnFlags {
    /// The column or field of the text [default: text].
    #[arg(long, value_name = "NAME")]
    pub(crate) text_column: Option<String>,
    /// The column or field of the label: a class, how alike two texts are, or how relevant one is,
    /// from 0 on [default: label].
    #[arg(long, value_name = "NAME")]
    pub(crate) label_column: Option<String>,
}

/// The same with a second text.
#[derive(Debug, Args)]
pub(crate) struct PairColumnFlags {
    #[command(flatten)]
    pub(crate) labelled: LabelledColumnFlags,
    /// The column or field of the second text of a pair [default: none or, to compare,
    /// text_pair].
    #[arg(long, value_name = "NAME")]
    pub(crate) text_pair_column: Option<String>,
}

/// The same with several labels.
#[derive(Debug, Args)]
pub(crate) struct TextColumnFlags {
    #[command(flatten)]
    pub(crate) pair: PairColumnFlags,
    /// What stands between several labels in one cell.
    #[arg(long, value_name = "TEXT")]
    pub(crate) label_separator: Option<String>,
}

/// Which columns hold words and tags.
#[derive(Debug, Args)]
pub(crate) struct WordColumnFlags {
    /// In files of columns, the column of words, from 0 [default: 0].
    #[arg(long, value_name = "N")]
    pub(crate) word_column: Option<i64>,
    /// In files of columns, the column of tags; -1 is the last [default: -1].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) tag_column: Option<i64>,
    /// In JSON lines, the field with the list of words [default: tokens].
    #[arg(long, value_name = "NAME")]
    pub(crate) words_field: Option<String>,
    /// In JSON lines, the field with the list of tags [default: tags].
    #[arg(long, value_name = "NAME")]
    pub(crate) tags_field: Option<String>,
}

/// What all tasks have.
#[derive(Debug, Args)]
pub(crate) struct FinetuneRunFlags {
    /// Folder of the model to begin with, in Hugging Face's layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Examples to learn from.
    #[arg(long, value_name = "FILE")]
    pub(crate) train: Option<PathBuf>,
    /// Examples that the best weights are chosen by.
    #[arg(long, value_name = "FILE")]
    pub(crate) validation: Option<PathBuf>,
    /// Examples that the result is measured on.
    #[arg(long, value_name = "FILE")]
    pub(crate) test: Option<PathBuf>,
    /// Passes over the examples [default: 3].
    #[arg(long, value_name = "N")]
    pub(crate) epochs: Option<u32>,
    /// Peak learning rate [default: 5e-5].
    #[arg(long, value_name = "LR", allow_negative_numbers = true)]
    pub(crate) lr: Option<f64>,
    /// Examples a batch [default: 32].
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<u32>,
    /// The most tokens of a text; 0 means what the model has positions for [default: 0].
    #[arg(long, value_name = "N")]
    pub(crate) max_length: Option<u32>,
    /// Measurements without a better score before training stops; 0 never stops [default: 0].
    #[arg(long, value_name = "N")]
    pub(crate) patience: Option<u32>,
    /// Seeds new heads, the order of examples, and dropout [default: 1].
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u32>,
    /// Train so many times, with seeds from --seed on, into folders within --out, and tell the
    /// mean of each score and its spread.
    #[arg(long, value_name = "N", conflicts_with = "resume",
          value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) seeds: Option<u32>,
    /// auto, cpu or cuda:N [default: auto].
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Folder of the run and its model; default: runs/TASK-N, the first that is free.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replace the run that --out holds.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Go on with a run, to the bit: auto (the newest whole checkpoint of --out, or of the run
    /// whose config.toml --config is), a run's folder, or one of its checkpoints.
    #[arg(long, value_name = "auto|DIR")]
    pub(crate) resume: Option<PathBuf>,
    /// How often the whole state is saved: steps (500), minutes (10m) or never [default: 10m].
    #[arg(long, value_name = "N|Nm|never")]
    pub(crate) checkpoint_every: Option<String>,
    /// Preset whose switches of computing are laid over the defaults, such as recommended, or
    /// several, A+B; what has no effect is told, and presets of pretraining alone are refused.
    #[arg(long, value_name = "NAME", value_delimiter = '+')]
    pub(crate) preset: Vec<String>,
    /// TOML file laid over defaults and presets, such as the config.toml of an earlier run.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// One value, laid over all that; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    #[command(flatten)]
    pub(crate) console: ConsoleFlags,
}

/// Flags of `predict` and `evaluate` that both have.
#[derive(Debug, Args)]
pub(crate) struct TaskModelFlags {
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    /// Table, JSON lines or file of columns to read.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    #[command(flatten)]
    pub(crate) texts: TextColumnFlags,
    #[command(flatten)]
    pub(crate) words: WordColumnFlags,
    #[command(flatten)]
    pub(crate) completions: CompletionColumnFlags,
    #[command(flatten)]
    pub(crate) answers: AnswerWindowFlags,
    #[command(flatten)]
    pub(crate) writing: WritingFlags,
    #[command(flatten)]
    pub(crate) negative: NegativeColumnFlags,
    #[command(flatten)]
    pub(crate) query: QueryColumnFlags,
    /// The most tokens of a text; 0 means what the model has positions for.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_length: usize,
    /// Examples computed at once.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) batch_size: usize,
}

/// Flags of `predict`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct PredictFlags {
    #[command(flatten)]
    pub(crate) of: TaskModelFlags,
    /// File for an object a line; default: the terminal.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Answers to list for each question, with their probabilities.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) n_best: usize,
    /// Replace the file that --output names.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// Flags of `evaluate`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct EvaluateFlags {
    #[command(flatten)]
    pub(crate) of: TaskModelFlags,
    /// Print one object instead.
    #[arg(long)]
    pub(crate) json: bool,
}
