//! GPT learning the next token (Radford et al. 2019).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bert4rs_data::{CausalBatch, CausalBatches, CausalOptions, Objective, unigram};
use bert4rs_models::gpt::{Gpt, GptInput};
use bert4rs_models::hugging_face::{self, Architecture};
use bert4rs_models::layers::AttentionBackend;
use bert4rs_models::loss::LossOptions;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Tensor};
use serde_json::json;

use super::source::{Source, prepare_dataset};
use super::{Batch, BatchSize, Task, not_a_batch};
use crate::config::Config;
use crate::console::Console;
use crate::error::Result;

/// A GPT, its batches and its loss.
pub struct CausalLm {
    model: Gpt,
    source: Source<CausalBatches>,
    device: Device,
    end_of_text: i64,
    /// Whether training batches leave padding out of the output layer.
    only_counted: bool,
    options: LossOptions,
    seq_len: u32,
}

impl CausalLm {
    /// Prepares the data, then makes the model in `params`.
    ///
    /// # Errors
    /// Corpus, tokenizer or shapes that can't be used.
    pub fn new(config: &Config, params: &ParamStore, console: &mut Console) -> Result<Self> {
        let dataset = prepare_dataset(config, Objective::NextTokens, console)?;
        let end = dataset.tokenizer.end_of_text()?;
        let options = CausalOptions {
            batch_size: config.data.batch_size as usize,
            sequence_length: config.data.seq_len as usize,
            layout: config.data.packing,
            seed: config.seed,
        };
        let train = CausalBatches::train(Arc::clone(&dataset.train), end, options)?;
        let held_out = CausalBatches::held_out(Arc::clone(&dataset.held_out), end, options)?;
        let held_out_count = held_out.batches_per_epoch();
        let mut model = Gpt::new(&params.root(), &config.gpt(end), config.compute.attention)?;
        model.set_activation_checkpointing(config.compute.activation_checkpointing);
        Ok(Self {
            model,
            source: Source::new(config, dataset, train, (held_out, held_out_count))?,
            device: params.device(),
            end_of_text: end.into(),
            only_counted: config.only_counted(),
            options: config.loss,
            seq_len: config.data.seq_len,
        })
    }

    /// With the places that count where others are to be left out.
    fn tensors(&self, batch: &CausalBatch, only_counted: bool) -> Result<Vec<Tensor>> {
        let has_padding = batch.real_tokens < batch.rows * batch.columns;
        let batch = batch.to_tensors(self.device)?;
        let all = [batch.input_ids, batch.position_ids, batch.document_ids, batch.next_ids];
        let counted = (has_padding && only_counted).then_some(batch.counted);
        Ok(all.into_iter().chain(counted).collect())
    }

    /// Mean loss of a batch's next tokens. Dropout acts if `train`.
    fn loss_of(&self, tensors: &[Tensor], options: &LossOptions, train: bool) -> Result<Tensor> {
        let [input_ids, position_ids, document_ids, next_ids, counted @ ..] = tensors else {
            return Err(not_a_batch(tensors));
        };
        let input =
            GptInput { input_ids, position_ids: Some(position_ids), mask: Some(document_ids) };
        Ok(self.model.next_token_loss(&input, next_ids, counted.first(), options, train)?)
    }
}

impl Task for CausalLm {
    fn next_batch(&mut self) -> Result<Batch> {
        let end = self.end_of_text;
        let batch = self.source.next(|seen, batch| {
            seen.add(&batch.input_ids, end, &batch.counted_labels());
        })?;
        let slots = (batch.rows * batch.columns) as u64;
        let size = BatchSize { tokens: batch.real_tokens as u64, slots };
        Ok(Batch { tensors: self.tensors(&batch, self.only_counted)?, size })
    }

    fn loss(&self, tensors: &[Tensor]) -> Result<Tensor> {
        self.loss_of(tensors, &self.options, true)
    }

    fn held_out_loss(&self) -> Result<Option<f64>> {
        let implementation = self.options.implementation;
        let plain = LossOptions { implementation, ..LossOptions::default() };
        self.source.held_out_loss(|batch| {
            let tensors = self.tensors(batch, true)?;
            Ok((self.loss_of(&tensors, &plain, false)?, batch.real_tokens))
        })
    }

    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        let config = self.model.config();
        self.source.dataset.tokenizer.save_folder(folder, config.n_positions as usize)?;
        let architecture = Architecture::Gpt2LmHeadModel;
        Ok(hugging_face::save(folder, config, architecture, params, json!({}))?)
    }

    fn attention_backend(&self) -> Option<AttentionBackend> {
        self.model.attention_backend()
    }

    fn data_fingerprint(&self) -> u64 {
        self.source.fingerprint()
    }

    fn batch(&self, index: u64) -> Result<Vec<(&'static str, Tensor)>> {
        let batch = self.source.batch(index)?;
        let real_tokens = Tensor::from(batch.real_tokens as i64);
        let batch = batch.to_tensors(Device::Cpu)?;
        Ok(vec![
            ("input_ids", batch.input_ids),
            ("position_ids", batch.position_ids),
            ("document_ids", batch.document_ids),
            ("next_ids", batch.next_ids),
            ("real_tokens", real_tokens),
        ])
    }

    fn waited(&self) -> Duration {
        self.source.waited()
    }

    fn flops_per_token(&self) -> f64 {
        self.model.config().flops_per_token(self.seq_len.into())
    }

    /// Each document's end is predicted too.
    fn unigram_entropy(&self) -> f64 {
        let (summary, train) = (&self.source.dataset.summary, &self.source.dataset.train);
        let (tokens, documents) = (train.token_count() as u64, train.document_count() as u64);
        unigram::entropy_with(summary.unigram_entropy, tokens, &[documents])
    }

    fn describe(&self) -> Vec<String> {
        self.source.describe(self.unigram_entropy())
    }
}
