//! Flags of the commands that use a model folder.

use std::path::PathBuf;

use bert4rs_models::pretrained::LoadOptions;
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::device::DeviceChoice;
use bert4rs_tensor_core::precision::Precision;
use bert4rs_train::Result;
use clap::Args;

/// Which model, and where and how it is computed.
#[derive(Debug, Args)]
pub(crate) struct ModelFlags {
    /// Folder with config.json and model.safetensors, in Hugging Face's layout.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// cpu, cuda:N, or auto: the first GPU, if any.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// fp32, bf16, or auto: BF16 where the device multiplies it faster.
    #[arg(long, default_value = "fp32", value_parser = precision)]
    precision: Precision,
    /// fused or plain.
    #[arg(long, default_value = "fused", value_parser = attention)]
    attention: AttentionImplementation,
}

impl ModelFlags {
    /// What the flags ask for, where it can be had.
    pub(crate) fn options(&self) -> Result<LoadOptions> {
        let device = self.device.parse::<DeviceChoice>()?.resolve()?;
        let (precision, _) = self.precision.resolve(device);
        Ok(LoadOptions { device, kind: precision.compute_kind(), attention: self.attention })
    }
}

/// Flags of `forward`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct ForwardFlags {
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    /// Tensors to read: input_ids and, where given, attention_mask, token_type_ids, position_ids,
    /// decoder_input_ids, labels.
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Tensors to write: logits, last_hidden_state and, where labels are given, loss.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Also write grad.NAME for every parameter.
    #[arg(long)]
    pub(crate) grads: bool,
    /// Replace the file that --output names.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// Flags of `generate`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct GenerateFlags {
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    /// Texts to continue (GPT) or to answer (T5); several are generated as one batch.
    #[arg(long, value_name = "TEXT", num_args = 1.., required_unless_present = "prompt_file")]
    pub(crate) prompt: Vec<String>,
    /// File with a prompt a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) prompt_file: Option<PathBuf>,
    /// The most tokens to add; default: 64, or as many as the model has positions for.
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Draw tokens at random, more boldly above 1. Without it, --top-k, --top-p or --seed, the
    /// most probable token is taken.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Draw from the K most probable tokens alone.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub(crate) top_k: Option<i64>,
    /// Draw from the fewest tokens that together have probability P.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f64>,
    /// Draw the same text each time.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Search the most probable text with N candidates.
    #[arg(long, value_name = "N", conflicts_with_all = ["temperature", "top_k", "top_p", "seed"])]
    pub(crate) beams: Option<usize>,
    /// With --beams, divide scores by length to this power: above 0 favours long texts.
    #[arg(long, value_name = "P", requires = "beams", default_value_t = 1.0)]
    #[arg(allow_negative_numbers = true)]
    pub(crate) length_penalty: f64,
    /// With --beams, stop as soon as N candidates have ended.
    #[arg(long, requires = "beams")]
    pub(crate) early_stopping: bool,
    /// Above 1 makes tokens that occurred less probable.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub(crate) repetition_penalty: f64,
    /// Recompute all tokens for each new one: the same text, slower.
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// Print an object a line instead: prompt, text, and the new tokens' ids.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `fill-mask`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct FillMaskFlags {
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    /// Texts with one or more mask tokens, such as "Paris is the [MASK] of France."
    #[arg(long, value_name = "TEXT", num_args = 1.., required = true)]
    pub(crate) text: Vec<String>,
    /// How many tokens to show for each mask.
    #[arg(long, value_name = "K", default_value_t = 5)]
    pub(crate) top_k: usize,
    /// Print an object a line instead.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `embed`.
#[derive(Debug, Args)]
#[command(args_override_self = true)]
pub(crate) struct EmbedFlags {
    #[command(flatten)]
    pub(crate) model: ModelFlags,
    /// Texts to embed.
    #[arg(long, value_name = "TEXT", num_args = 1.., required_unless_present = "file")]
    pub(crate) text: Vec<String>,
    /// File with a text a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// cls, max, mean, mean_sqrt_len, weightedmean, lasttoken, or several joined by +; default:
    /// what the model's 1_Pooling/config.json says, or mean.
    #[arg(long, value_name = "MODES")]
    pub(crate) pooling: Option<String>,
    /// Make every vector's length 1, so that a product of two is their cosine; models whose
    /// modules.json says so do it anyway.
    #[arg(long)]
    pub(crate) normalize: bool,
    /// Put the prompt of that name in config_sentence_transformers.json before each text.
    #[arg(long, value_name = "NAME")]
    pub(crate) prompt_name: Option<String>,
    /// Texts computed at once.
    #[arg(long, value_name = "N", default_value_t = 32)]
    pub(crate) batch_size: usize,
    /// A .safetensors file for the tensor `embeddings`, or a .json file; default: an object a
    /// line on the terminal.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file that --output names.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

fn precision(text: &str) -> std::result::Result<Precision, String> {
    match text {
        "auto" => Ok(Precision::Auto),
        "fp32" => Ok(Precision::Fp32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err("expected fp32, bf16 or auto".into()),
    }
}

fn attention(text: &str) -> std::result::Result<AttentionImplementation, String> {
    match text {
        "fused" => Ok(AttentionImplementation::Fused),
        "plain" => Ok(AttentionImplementation::Plain),
        _ => Err("expected fused or plain".into()),
    }
}
