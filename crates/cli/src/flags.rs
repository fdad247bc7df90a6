//! Command-line flags. Values are checked where they are used, so that a flag, a `--set` and a
//! file give the same message.

use std::path::PathBuf;

use bert4rs_train::console::{Console, ConsoleOptions, LogFormat};
use bert4rs_train::presets::RECOMMENDED;
use clap::builder::RangedU64ValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::finetune_flags::{EvaluateFlags, FinetuneFlags, PredictFlags};
use crate::launch_flags::LaunchFlags;
use crate::model_flags::{EmbedFlags, FillMaskFlags, ForwardFlags, GenerateFlags};

/// Pretrains and fine-tunes BERT, GPT and T5 on libtorch.
#[derive(Debug, Parser)]
#[command(name = "bert4rs", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Tell on standard error what is read, made and chosen; twice: in every detail.
    #[arg(long, short, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model on plain text.
    Train(Box<TrainCommandFlags>),
    /// Teach a model a task by labelled examples.
    Finetune(FinetuneFlags),
    /// Say what a model for a task makes of each example in a file.
    Predict(Box<PredictFlags>),
    /// Score a model for a task on a labelled file.
    Evaluate(Box<EvaluateFlags>),
    /// Start several processes that train together, on this machine or several.
    Launch(LaunchFlags),
    /// Continue or answer prompts with a GPT or a T5.
    Generate(Box<GenerateFlags>),
    /// Say which tokens a BERT expects in the place of [MASK].
    FillMask(FillMaskFlags),
    /// Make a vector of each text with a BERT.
    Embed(EmbedFlags),
    /// Compute a model's results, loss and gradients for tensors in a file.
    Forward(ForwardFlags),
    /// Make tokens of a corpus ahead of a run, or say what it is like.
    Data(DataFlags),
    /// Train a tokenizer by itself, or hold one against another.
    Tokenizer(TokenizerFlags),
    /// Write the batches that a run is trained on.
    Batches(Box<BatchesFlags>),
    /// Train a few steps and tell where the time goes.
    Profile(Box<ProfileFlags>),
    /// List the presets, or show one in full.
    Presets(PresetsFlags),
    /// List runs: what they do, their numbers and sizes.
    Runs(RunsFlags),
    /// Make a page of the curves of one or several runs.
    Report(ReportFlags),
    /// Say what this machine and this libtorch can do.
    Doctor(DoctorFlags),
    /// List what lies in the cache, ~/.cache/bert4rs, or remove what no run uses.
    Cache(CacheFlags),
    /// Print what a shell needs to complete commands and flags.
    Completions(CompletionsFlags),
    /// Write a man page for each command.
    Man(ManFlags),
}

/// A number that a configuration file can hold: TOML's end here.
fn whole_number() -> RangedU64ValueParser {
    RangedU64ValueParser::new().range(..=i64::MAX as u64)
}

/// What a run is to be: presets, and what is laid over it.
#[derive(Debug, Args)]
pub(crate) struct ConfigFlags {
    /// Preset that everything else is laid over; `bert4rs presets` lists them [default:
    /// recommended]. Of several, A+B or --preset A --preset B, each is laid over those before it.
    #[arg(long, value_name = "NAME", value_delimiter = '+')]
    pub(crate) preset: Vec<String>,
    /// TOML file laid over the presets, such as the config.toml of an earlier run.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// bert, gpt or t5 in the preset's size, or a published one: bert-base, gpt2, t5-v1_1-small, …
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// One value, laid over all that; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

impl ConfigFlags {
    /// The presets' names.
    pub(crate) fn presets(&self) -> Vec<&str> {
        match &*self.preset {
            [] => vec![RECOMMENDED],
            names => names.iter().map(String::as_str).collect(),
        }
    }

    /// Whether none is given.
    pub(crate) fn are_absent(&self) -> bool {
        let Self { preset, config, model, set } = self;
        preset.is_empty() && config.is_none() && model.is_none() && set.is_empty()
    }
}

/// Flags of `data`.
#[derive(Debug, Args)]
pub(crate) struct DataFlags {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: DataCommand,
}

/// What `data` does. Its flags are those of `train`, which starts from the result.
#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Make tokens of a corpus, which `train` with the same flags starts from.
    /// --out DIR also copies the result to a folder that any machine trains from by --corpus DIR.
    Prepare(Box<TrainFlags>),
    /// Say how many documents and tokens there are, how long, which ones, and show some.
    Inspect(Box<InspectFlags>),
}

/// Flags of `data inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectFlags {
    /// Show what the model is given in this batch instead, counted from 0: pieces of documents
    /// parted by |, what is hidden with what is to be predicted in ‹›, spans and their target.
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<u64>,
    /// Documents to show the beginnings of.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) samples: usize,
    /// Of which run.
    #[command(flatten)]
    pub(crate) run: TrainFlags,
}

/// Flags of `tokenizer`.
#[derive(Debug, Args)]
pub(crate) struct TokenizerFlags {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: TokenizerCommand,
}

/// What `tokenizer` does.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenizerCommand {
    /// Train one on text, into a folder that transformers reads too.
    Train(TrainTokenizerFlags),
    /// Give a text in many scripts to two tokenizers, and tell where their ids differ; the exit
    /// code is then 1.
    Check(CheckTokenizerFlags),
}

/// Kinds of tokenizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenizerKind {
    /// BERT's, of lower-cased text.
    Wordpiece,
    /// GPT's pairs of bytes.
    Bpe,
    /// T5's.
    Unigram,
}

/// Flags of `tokenizer train`.
#[derive(Debug, Args)]
pub(crate) struct TrainTokenizerFlags {
    /// Files of text or folders of them, as `train --corpus` takes.
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    pub(crate) corpus: Vec<PathBuf>,
    /// The field or column of JSON lines, tables and Parquet that holds the text.
    #[arg(long, value_name = "NAME", default_value = "text")]
    pub(crate) text_field: String,
    /// wordpiece for BERT, bpe for GPT, unigram for T5.
    #[arg(long, value_enum)]
    pub(crate) kind: TokenizerKind,
    /// The most tokens it may have.
    #[arg(long, value_name = "N")]
    pub(crate) vocab_size: usize,
    /// Share of the text's characters that it spells at least, where there is room.
    #[arg(long, value_name = "SHARE", default_value_t = 0.9995)]
    pub(crate) character_coverage: f64,
    /// Spell unknown characters by their bytes; of unigram alone.
    #[arg(long)]
    pub(crate) byte_fallback: bool,
    /// Tokens of the longest text that transformers is to take.
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(crate) max_length: usize,
    /// The folder to write, which does not exist.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// Flags of `tokenizer check`.
#[derive(Debug, Args)]
pub(crate) struct CheckTokenizerFlags {
    /// The tokenizer's file or folder.
    pub(crate) tokenizer: PathBuf,
    /// Another tokenizer's file or folder, or a JSON file with the ids that another program gave:
    /// [{"text": "…", "ids": [1, 2]}, …].
    #[arg(long, value_name = "PATH", required_unless_present = "ids")]
    pub(crate) against: Option<PathBuf>,
    /// Write the text and its ids in that form, to be held against another program.
    #[arg(long, value_name = "FILE")]
    pub(crate) ids: Option<PathBuf>,
}

/// Flags of `train` alone.
#[derive(Debug, Args)]
pub(crate) struct TrainCommandFlags {
    #[command(flatten)]
    pub(crate) run: TrainFlags,
    /// Tell what would run, its steps, tokens, time and memory, and leave nothing.
    #[arg(long, conflicts_with_all = ["sweep", "find_lr"])]
    pub(crate) dry_run: bool,
    /// Find a learning rate: raise it to --lr, or 1, within --max-steps, or 200, and tell where the
    /// loss fell fastest.
    #[arg(long, conflicts_with = "sweep")]
    pub(crate) find_lr: bool,
    /// Train a run for each of these values, into folders within --out, and compare them. Given
    /// for several keys, such as seed=1,2, each combination is trained.
    #[arg(long, value_name = "KEY=A,B")]
    pub(crate) sweep: Vec<String>,
    /// Go on with a run: the one in --out, or that --config is of, from its newest whole
    /// checkpoint (auto), or the run or checkpoint in a folder.
    #[arg(long, value_name = "auto|DIR", conflicts_with_all = ["dry_run", "find_lr", "sweep"])]
    pub(crate) resume: Option<PathBuf>,
    /// Also write event files for TensorBoard.
    #[arg(long)]
    pub(crate) tensorboard: bool,
    #[command(flatten)]
    pub(crate) console: ConsoleFlags,
}

/// What a run shows.
#[derive(Debug, Args)]
pub(crate) struct ConsoleFlags {
    /// Show nothing but warnings and errors.
    #[arg(long, short)]
    quiet: bool,
    /// text, or json: an object a line.
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = log_format)]
    log_format: LogFormat,
}

impl ConsoleFlags {
    /// Where the run's messages go.
    pub(crate) fn console(&self) -> Console {
        Console::new(ConsoleOptions { quiet: self.quiet, format: self.log_format })
    }
}

fn log_format(name: &str) -> Result<LogFormat, String> {
    match name {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("expected text or json".into()),
    }
}

/// What is trained. A flag given twice has its last value.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct TrainFlags {
    #[command(flatten)]
    pub(crate) config: ConfigFlags,
    /// Files of text or folders of them: .txt, .md, .jsonl, .csv, .tsv, .parquet, also compressed;
    /// 'a/*.txt', @FILE with a path a line, - for standard input, or a folder of `data prepare`.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) corpus: Vec<PathBuf>,
    /// Where the documents of plain text begin: blank-line (default), line or file.
    #[arg(long, value_name = "WHERE")]
    pub(crate) document: Option<String>,
    /// The field or column of JSON lines, tables and Parquet that holds the text; default: text.
    #[arg(long, value_name = "NAME")]
    pub(crate) text_field: Option<String>,
    /// Files or folders to measure the loss on; default: a share of the corpus.
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) held_out: Vec<PathBuf>,
    /// A tokenizer's file or folder; default: trained on the corpus.
    #[arg(long, value_name = "PATH")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Begin with the weights and the tokenizer of a published model's folder, or of a run. A
    /// larger
    /// --vocab-size gives the model new tokens.
    #[arg(long, value_name = "DIR")]
    pub(crate) init: Option<PathBuf>,
    /// auto, cpu or cuda:N.
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// Keep to the instructions of a lesser processor: avx2, avx2-vnni, avx512, avx512-vnni,
    /// avx512-bf16 or amx.
    #[arg(long, value_name = "CLASS")]
    pub(crate) cpu_isa: Option<String>,
    /// Seeds weights, data order and masks.
    #[arg(long, value_name = "N", value_parser = whole_number())]
    pub(crate) seed: Option<u64>,
    /// Folder of the run; default: runs/PRESET-N, the first that is free.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replace the run that --out holds.
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Save the run's whole state each time that so many steps (500) or minutes (10m) are done, or
    /// never [default: 10m].
    #[arg(long, value_name = "STEPS|MINUTESm")]
    pub(crate) checkpoint_every: Option<String>,
    /// Checkpoints that stay, beside the best by held-out loss.
    #[arg(long, value_name = "N")]
    pub(crate) keep: Option<u32>,
    /// Optimizer steps.
    #[arg(long, value_name = "N", value_parser = whole_number(), conflicts_with = "epochs")]
    pub(crate) max_steps: Option<u64>,
    /// Passes over the corpus, instead of a number of steps.
    #[arg(long, value_name = "N")]
    pub(crate) epochs: Option<u32>,
    /// Minutes of training, in which the schedule runs, instead of a number of steps.
    #[arg(long, value_name = "MINUTES", conflicts_with_all = ["max_steps", "epochs"])]
    pub(crate) max_minutes: Option<f64>,
    /// Peak learning rate of AdamW; Muon's own is optimizer.muon.lr.
    #[arg(long, value_name = "LR", allow_negative_numbers = true)]
    pub(crate) lr: Option<f64>,
    /// Sequences a batch.
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<u32>,
    /// Tokens a sequence.
    #[arg(long, value_name = "N")]
    pub(crate) seq_len: Option<u32>,
    /// Features of a token.
    #[arg(long, value_name = "N")]
    pub(crate) hidden_size: Option<u32>,
    /// Transformer blocks.
    #[arg(long, value_name = "N")]
    pub(crate) num_layers: Option<u32>,
    /// Attention heads.
    #[arg(long, value_name = "N")]
    pub(crate) num_heads: Option<u32>,
    /// Entries of the vocabulary.
    #[arg(long, value_name = "N")]
    pub(crate) vocab_size: Option<u32>,
}

/// Flags of `batches`.
#[derive(Debug, Args)]
pub(crate) struct BatchesFlags {
    /// Batches, from the first on.
    #[arg(long, value_name = "N")]
    pub(crate) count: u64,
    /// Of which run; --out is the safetensors file.
    #[command(flatten)]
    pub(crate) train: TrainFlags,
}

/// Flags of `profile`.
#[derive(Debug, Args)]
pub(crate) struct ProfileFlags {
    /// Steps before the profile, which set up buffers and caches.
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) warmup_steps: u64,
    /// Steps in the profile.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) steps: u64,
    /// What is trained; --max-steps has no place here.
    #[command(flatten)]
    pub(crate) train: TrainFlags,
}

/// Flags of `presets`.
#[derive(Debug, Args)]
pub(crate) struct PresetsFlags {
    /// What to show; without it, all are listed.
    #[command(subcommand)]
    pub(crate) action: Option<PresetsAction>,
}

/// What `presets` shows.
#[derive(Debug, Subcommand)]
pub(crate) enum PresetsAction {
    /// Print every value that a preset leads to, or several laid over each other.
    Show {
        /// The presets, in order: A B, or A+B.
        #[arg(required = true, value_delimiter = '+')]
        names: Vec<String>,
    },
    /// Print the values in which two presets differ; each may be several, A+B.
    Diff {
        /// One.
        left: String,
        /// The other.
        right: String,
    },
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorFlags {
    /// Also run a small check of each part.
    #[arg(long, conflicts_with_all = ["memory", "network"])]
    pub(crate) selftest: bool,
    /// Say instead what a run would hold in memory, without starting it.
    #[arg(long)]
    pub(crate) memory: bool,
    /// Keep to the instructions of a lesser processor: avx2, avx2-vnni, avx512, avx512-vnni,
    /// avx512-bf16 or amx.
    #[arg(long, value_name = "CLASS")]
    pub(crate) cpu_isa: Option<String>,
    /// With --memory: what each of so many processes would hold.
    #[arg(long, value_name = "N")]
    pub(crate) processes: Option<usize>,
    /// Measure instead what exchanges cost between processes that a launcher has started, and tell
    /// what they would cost a run on up to 64.
    #[arg(long, conflicts_with_all = ["memory", "processes"])]
    pub(crate) network: bool,
    #[command(flatten)]
    pub(crate) config: ConfigFlags,
}

/// Flags of `runs`.
#[derive(Debug, Args)]
pub(crate) struct RunsFlags {
    /// The folder that holds the runs' folders.
    #[arg(default_value = "runs")]
    pub(crate) folder: PathBuf,
    /// Print an object a line instead.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `report`.
#[derive(Debug, Args)]
pub(crate) struct ReportFlags {
    /// Folders of runs, finished or not.
    #[arg(required = true, value_name = "RUN")]
    pub(crate) runs: Vec<PathBuf>,
    /// The page.
    #[arg(long, value_name = "FILE", default_value = "report.html")]
    pub(crate) out: PathBuf,
    /// Replace the file that --out names.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// Flags of `cache`.
#[derive(Debug, Args)]
pub(crate) struct CacheFlags {
    /// What to do; without it, all is listed.
    #[command(subcommand)]
    pub(crate) action: Option<CacheAction>,
}

/// What `cache` does.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheAction {
    /// Remove tokenized text and kept standard input that no run uses any more.
    Trim {
        /// Only what nobody has used for so many days.
        #[arg(long, value_name = "DAYS", default_value_t = 0)]
        older_than: u32,
    },
}

/// Flags of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsFlags {
    /// The shell. bash reads what is in `~/.local/share/bash-completion/completions/bert4rs`.
    pub(crate) shell: Shell,
}

/// Flags of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManFlags {
    /// Folder for the pages; it is made if it is missing.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}
