//! T5 learning to fill in spans (arXiv 1910.10683).

use std::path::Path;
use std::sync::Arc;

use bert4rs_data::{Dataset, Noise, SpanBatches, SpanOptions, TextTokenizer};
use bert4rs_models::hugging_face::{self, Architecture};
use bert4rs_models::layers::AttentionBackend;
use bert4rs_models::loss::{Labels, LossOptions};
use bert4rs_models::t5::{T5, T5Input};
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Tensor};
use serde_json::json;

use super::Task;
use crate::batch::NamedTensors;
use crate::build::{self, Sources, TrainingData};
use crate::config::Config;
use crate::error::Result;
use crate::facts::Facts;

/// A T5 and its loss.
pub struct SpanCorruption {
    model: T5,
    tokenizer: TextTokenizer,
    options: LossOptions,
    seq_len: u32,
}

impl SpanCorruption {
    /// Makes the model in `params`.
    ///
    /// # Errors
    /// A tokenizer without sentinels, and shapes that can't be used.
    pub fn new(config: &Config, tokenizer: TextTokenizer, params: &ParamStore) -> Result<Self> {
        let tokens = tokenizer.span_tokens()?;
        let t5 = config.t5(tokens.pad, tokens.end);
        let mut model = T5::new(&params.root(), &t5, config.compute.attention)?;
        model.set_activation_checkpointing(config.compute.activation_checkpointing);
        Ok(Self { model, tokenizer, options: config.loss, seq_len: config.data.seq_len })
    }
}

impl Task for SpanCorruption {
    fn loss(&self, batch: &NamedTensors, divisor: &Tensor) -> Result<Tensor> {
        let input = input(batch)?;
        let labels = Labels {
            ids_bt: batch.get("labels")?,
            counted_n: batch.find("counted"),
            divisor: Some(divisor),
        };
        Ok(self.model.lm_loss(&input, labels, &self.options, true)?)
    }
    fn evaluate(&self, batch: &NamedTensors) -> Result<Vec<(&'static str, Tensor)>> {
        let labels = Labels {
            ids_bt: batch.get("labels")?,
            counted_n: batch.find("counted"),
            divisor: None,
        };
        Ok(super::sums(self.model.lm_score(&input(batch)?, labels)?))
    }

    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        self.tokenizer.save_folder(folder, self.seq_len as usize)?;
        let (config, architecture) =
            (self.model.config(), Architecture::T5_FOR_CONDITIONAL_GENERATION);
        Ok(hugging_face::save(folder, config, architecture, params, json!({}))?)
    }

    fn attention_backend(&self) -> Option<AttentionBackend> {
        self.model.attention_backend()
    }
}

/// What the model reads of a batch.
fn input(batch: &NamedTensors) -> Result<T5Input<'_>> {
    let source = batch.get("document_ids")?;
    Ok(T5Input {
        input_ids: batch.get("input_ids")?,
        mask: Some(source),
        decoder_input_ids: batch.get("decoder_input_ids")?,
        decoder_mask: Some(batch.get("decoder_document_ids")?),
        cross_mask: Some(source),
    })
}

/// Batches of corrupted spans, and what is known of them.
///
/// # Errors
/// A tokenizer or sizes that can't be used.
pub(crate) fn data(config: &Config, dataset: &Dataset, device: Device) -> Result<TrainingData> {
    let tokens = dataset.tokenizer.span_tokens()?;
    let noise = Noise { rate: config.data.mask_rate, mean_span: config.data.mean_span };
    let options = SpanOptions {
        batch_size: config.data.batch_size as usize,
        sequence_length: config.data.seq_len as usize,
        noise,
        layout: config.data.packing,
        seed: config.seed,
    };
    let t5 = config.t5(tokens.pad, tokens.end);
    let pad = tokens.pad.into();
    let mut train = SpanBatches::train(Arc::clone(&dataset.train), tokens.clone(), options)?;
    if config.fixes_shapes(build::execution(config, device).0) {
        train = train.with_fixed_shapes();
    }
    let held_out = SpanBatches::held_out(Arc::clone(&dataset.held_out), tokens, options)?;
    // Shared out over the tokens in encoder and decoder.
    let pieces = train.piece_lengths();
    let tokens: i64 = pieces.iter().map(|(source, target)| source + target).sum();
    let facts = Facts {
        flops_per_token: t5.flops_of(&pieces)? / tokens.max(1) as f64,
        // Sentinels and ends are predicted too.
        unigram_entropy: train.target_entropy(dataset.summary.unigram_entropy),
        ..Facts::default()
    };
    let held_out_batches = held_out.batches_per_epoch();
    let epoch_batches = train.batches_per_epoch();
    let sources = Sources { train, held_out, held_out_batches, epoch_batches, pad };
    TrainingData::new(config, device, sources, facts.describing(dataset)?)
}
