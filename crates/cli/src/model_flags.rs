//! Flags of the commands that use a model folder.

use std::path::PathBuf;

use bert4rs_models::pretrained::Compute;
use bert4rs_tensor_core::attention::Implementation;
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
    attention: Implementation,
}

impl ModelFlags {
    /// What the flags ask for, where it can be had.
    pub(crate) fn compute(&self) -> Result<Compute> {
        let device = self.device.parse::<DeviceChoice>()?.resolve()?;
        let (precision, _) = self.precision.resolve(device);
        Ok(Compute { device, kind: precision.compute_kind(), attention: self.attention })
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

fn precision(text: &str) -> std::result::Result<Precision, String> {
    match text {
        "auto" => Ok(Precision::Auto),
        "fp32" => Ok(Precision::Fp32),
        "bf16" => Ok(Precision::Bf16),
        _ => Err("expected fp32, bf16 or auto".into()),
    }
}

fn attention(text: &str) -> std::result::Result<Implementation, String> {
    match text {
        "fused" => Ok(Implementation::Fused),
        "plain" => Ok(Implementation::Plain),
        _ => Err("expected fused or plain".into()),
    }
}
