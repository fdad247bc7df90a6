//! T5 learning to fill in spans (arXiv 1910.10683).

use std::path::Path;

use bert4rs_data::{Noise, SpanBatches, SpanOptions, TextTokenizer};
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
use crate::dataset::Corpora;
use crate::error::Result;
use crate::facts::Facts;
use crate::stages::{staged, total_batches};

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
pub(crate) fn data(
    config: &Config,
    corpora: &Corpora,
    (device, ranks): (Device, usize),
) -> Result<TrainingData> {
    let tokens = corpora.tokenizer().span_tokens()?;
    let noise = Noise { rate: config.data.mask_rate, mean_span: config.data.mean_span };
    let options = SpanOptions {
        batch_size: config.data.batch_size as usize,
        sequence_length: config.data.seq_len as usize,
        noise,
        denoising: config.data.denoising,
        layout: config.data.packing,
        fit: config.data.fit,
        seed: config.seed,
    };
    let t5 = config.t5(tokens.pad, tokens.end);
    let pad = tokens.pad.into();
    let mut held_out = Vec::new();
    for (_, store) in corpora.held_out() {
        let batches = SpanBatches::held_out(store, tokens.clone(), options)?;
        let count = batches.batches_per_epoch();
        held_out.push((batches, count));
    }
    let mixture = corpora.train()?;
    let fixed = config.fixes_shapes(build::execution(config, device).0);
    let of_length = |sequence_length| {
        let options = SpanOptions { sequence_length, ..options };
        let batches = SpanBatches::train(mixture.clone(), tokens.clone(), options)?;
        Ok(if fixed { batches.with_fixed_shapes() } else { batches })
    };
    let full = of_length(options.sequence_length)?;
    let pieces = full.piece_lengths();
    let (epoch_batches, reports) = (full.batches_per_epoch(), full.packing_reports());
    // Sentinels and ends are predicted too.
    let of_text = corpora.mean(|dataset| dataset.summary.unigram_entropy);
    let unigram_entropy = full.target_entropy(of_text);
    let total = total_batches(config, epoch_batches, ranks);
    let train = staged(config, full, total, of_length, |batches, _, _| Ok(batches))?;
    // Shared out over the tokens in encoder and decoder.
    let positions: i64 = pieces.iter().map(|(source, target)| source + target).sum();
    let facts = Facts {
        flops_per_token: t5.flops_of(&pieces)? / positions.max(1) as f64,
        unigram_entropy,
        ..Facts::default()
    };
    let names = corpora.parts().iter().map(|part| part.name.clone()).collect();
    let sources = Sources { train, held_out, names, epoch_batches, pad };
    TrainingData::new(config, device, sources, facts.describing(corpora, &reports)?)
}
