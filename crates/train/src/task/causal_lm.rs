//! GPT learning the next token (Radford et al. 2019).

use std::path::Path;
use std::sync::Arc;

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
use crate::error::Result;
use crate::facts::Facts;

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
pub(crate) fn data(config: &Config, dataset: &Dataset, device: Device) -> Result<TrainingData> {
    let end = dataset.tokenizer.end_of_text()?;
    let options = CausalOptions {
        batch_size: config.data.batch_size as usize,
        sequence_length: config.data.seq_len as usize,
        layout: config.data.packing,
        seed: config.seed,
    };
    let held_out = CausalBatches::held_out(Arc::clone(&dataset.held_out), end, options)?;
    let train = CausalBatches::train(Arc::clone(&dataset.train), end, options)?;
    let pieces = train.piece_lengths();
    let sources = Sources {
        epoch_batches: train.batches_per_epoch(),
        train,
        held_out_batches: held_out.batches_per_epoch(),
        held_out,
        pad: end.into(),
    };
    // Each document's end is predicted too.
    let (tokens, documents) = (dataset.train.token_count(), dataset.train.document_count());
    let of_text = dataset.summary.unigram_entropy;
    let facts = Facts {
        flops_per_token: config.gpt(end).flops_per_token(&pieces),
        unigram_entropy: unigram::entropy_with(of_text, tokens as u64, &[documents as u64]),
        ..Facts::default()
    };
    TrainingData::new(config, device, sources, facts.describing(dataset)?)
}
