//! GPT learning the next token (Radford et al. 2019).

use std::path::Path;

use bert4rs_data::{CausalBatches, CausalOptions, Dataset, TextTokenizer, unigram};
use bert4rs_models::gpt::{Gpt, GptInput};
use bert4rs_models::hugging_face::{self, Architecture};
use bert4rs_models::layers::AttentionBackend;
use bert4rs_models::loss::{Labels, LossOptions};
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Tensor};
use serde_json::json;

use super::Task;
use crate::batch::NamedTensors;
use crate::build::{Sources, TrainingData};
use crate::config::Config;
use crate::dataset::Corpora;
use crate::error::Result;
use crate::facts::Facts;
use crate::stages::{staged, total_batches};

/// A GPT and its loss.
pub struct CausalLm {
    model: Gpt,
    tokenizer: TextTokenizer,
    options: LossOptions,
}

impl CausalLm {
    /// Makes the model in `params`.
    ///
    /// # Errors
    /// A tokenizer without an end of text, and shapes that can't be used.
    pub fn new(config: &Config, tokenizer: TextTokenizer, params: &ParamStore) -> Result<Self> {
        let gpt = config.gpt(tokenizer.end_of_text()?);
        let mut model = Gpt::new(&params.root(), &gpt, config.compute.attention)?;
        model.set_activation_checkpointing(config.compute.activation_checkpointing);
        Ok(Self { model, tokenizer, options: config.loss })
    }
}

impl Task for CausalLm {
    fn loss(&self, batch: &NamedTensors, divisor: &Tensor) -> Result<Tensor> {
        let input = input(batch)?;
        let next = Labels {
            ids_bt: batch.get("next_ids")?,
            counted_n: batch.find("counted"),
            divisor: Some(divisor),
        };
        Ok(self.model.next_token_loss(&input, next, &self.options, true)?)
    }
    fn evaluate(&self, batch: &NamedTensors) -> Result<Vec<(&'static str, Tensor)>> {
        let next = Labels {
            ids_bt: batch.get("next_ids")?,
            counted_n: batch.find("counted"),
            divisor: None,
        };
        Ok(super::sums(self.model.next_token_score(&input(batch)?, next)?))
    }

    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        let config = self.model.config();
        self.tokenizer.save_folder(folder, config.n_positions as usize)?;
        let architecture = Architecture::GPT2_LM_HEAD_MODEL;
        Ok(hugging_face::save(folder, config, architecture, params, json!({}))?)
    }

    fn attention_backend(&self) -> Option<AttentionBackend> {
        self.model.attention_backend()
    }
}

/// What the model reads of a batch.
fn input(batch: &NamedTensors) -> Result<GptInput<'_>> {
    Ok(GptInput {
        input_ids: batch.get("input_ids")?,
        position_ids: Some(batch.get("position_ids")?),
        mask: Some(batch.get("document_ids")?),
    })
}

/// Batches of next tokens, and what is known of them.
///
/// # Errors
/// A tokenizer or sizes that can't be used.
pub(crate) fn data(
    config: &Config,
    corpora: &Corpora,
    (device, ranks): (Device, usize),
) -> Result<TrainingData> {
    let end = corpora.tokenizer().end_of_text()?;
    let options = CausalOptions {
        batch_size: config.data.batch_size as usize,
        sequence_length: config.data.seq_len as usize,
        layout: config.data.packing,
        fit: config.data.fit,
        seed: config.seed,
    };
    let mut held_out = Vec::new();
    for (_, store) in corpora.held_out() {
        let batches = CausalBatches::held_out(store, end, options)?;
        let count = batches.batches_per_epoch();
        held_out.push((batches, count));
    }
    let mixture = corpora.train()?;
    let of_length = |sequence_length| {
        let options = CausalOptions { sequence_length, ..options };
        Ok(CausalBatches::train(mixture.clone(), end, options)?)
    };
    let full = of_length(options.sequence_length)?;
    let pieces = full.piece_lengths();
    let (epoch_batches, reports) = (full.batches_per_epoch(), full.packing_reports());
    let total = total_batches(config, epoch_batches, ranks);
    let train = staged(config, full, total, of_length, |batches, _, _| Ok(batches))?;
    let names = corpora.parts().iter().map(|part| part.name.clone()).collect();
    let sources = Sources { epoch_batches, train, held_out, names, pad: end.into() };
    // Each document's end is predicted too.
    let entropy = |dataset: &Dataset| {
        let (tokens, documents) = (dataset.train.token_count(), dataset.train.document_count());
        let of_text = dataset.summary.unigram_entropy;
        unigram::entropy_with(of_text, tokens as u64, &[documents as u64])
    };
    let facts = Facts {
        flops_per_token: config.gpt(end).flops_per_token(&pieces),
        unigram_entropy: corpora.mean(entropy),
        ..Facts::default()
    };
    TrainingData::new(config, device, sources, facts.describing(corpora, &reports)?)
}
