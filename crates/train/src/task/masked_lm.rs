//! BERT learning to fill in masked tokens (arXiv 1810.04805).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bert4rs_data::{MlmBatch, MlmBatches, MlmOptions, Objective};
use bert4rs_models::bert::{self, BertForMaskedLm, BertInput, MlmLoss};
use bert4rs_models::hugging_face;
use bert4rs_models::layers::AttentionBackend;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Tensor};

use super::source::{Source, prepare_dataset};
use super::{Batch, BatchSize, Task, not_a_batch};
use crate::config::{Config, LogitsOf};
use crate::console::Console;
use crate::error::Result;

/// A BERT, its batches and its loss.
pub struct MaskedLm {
    model: BertForMaskedLm,
    source: Source<MlmBatches>,
    options: MlmOptions,
    pad: i64,
    device: Device,
    how: MlmLoss,
}

impl MaskedLm {
    /// Prepares the data, then makes the model in `params`.
    ///
    /// # Errors
    /// Corpus, tokenizer or shapes that can't be used.
    pub fn new(config: &Config, params: &ParamStore, console: &mut Console) -> Result<Self> {
        let dataset = prepare_dataset(config, Objective::MaskedTokens, console)?;
        let vocabulary = dataset.tokenizer.vocabulary()?;
        let options = MlmOptions {
            batch_size: config.data.batch_size as usize,
            sequence_length: config.data.seq_len as usize,
            mask_rate: config.data.mask_rate,
            layout: config.data.packing,
            seed: config.seed,
        };
        let train = MlmBatches::train(Arc::clone(&dataset.train), vocabulary, options)?;
        let held_out = MlmBatches::held_out(Arc::clone(&dataset.held_out), vocabulary, options)?;
        let held_out_count = held_out.batches_per_epoch();
        let bert = config.bert(vocabulary.special.pad);
        let mut model = BertForMaskedLm::new(&params.root(), &bert, config.compute.attention)?;
        model.set_activation_checkpointing(config.compute.activation_checkpointing);
        Ok(Self {
            model,
            source: Source::new(config, dataset, train, (held_out, held_out_count))?,
            options,
            pad: vocabulary.special.pad.into(),
            device: params.device(),
            how: MlmLoss {
                logits_of: match config.compute.logits {
                    LogitsOf::All => bert::LogitsOf::AllTokens,
                    LogitsOf::Masked => bert::LogitsOf::MaskedOnly,
                },
                options: config.loss,
            },
        })
    }

    fn tensors(&self, batch: &MlmBatch) -> Result<Vec<Tensor>> {
        let batch = batch.to_tensors(self.device)?;
        Ok(vec![
            batch.input_ids,
            batch.position_ids,
            batch.document_ids,
            batch.masked_positions,
            batch.masked_labels,
        ])
    }

    /// Mean loss of a batch's masked tokens. Dropout acts if `train`.
    fn loss_of(&self, tensors: &[Tensor], how: MlmLoss, train: bool) -> Result<Tensor> {
        let [input_ids, position_ids, document_ids, positions, labels] = tensors else {
            return Err(not_a_batch(tensors));
        };
        let input = BertInput {
            input_ids,
            token_type_ids: None,
            position_ids: Some(position_ids),
            mask: Some(document_ids),
        };
        Ok(self.model.mlm_loss(&input, positions, labels, how, train)?)
    }
}

impl Task for MaskedLm {
    fn next_batch(&mut self) -> Result<Batch> {
        let pad = self.pad;
        let batch = self.source.next(|seen, batch| {
            seen.add(&batch.input_ids, pad, &batch.masked_labels);
        })?;
        let slots = (batch.rows * batch.columns) as u64;
        let size = BatchSize { tokens: batch.real_tokens as u64, slots };
        Ok(Batch { tensors: self.tensors(&batch)?, size })
    }

    fn loss(&self, tensors: &[Tensor]) -> Result<Tensor> {
        self.loss_of(tensors, self.how, true)
    }

    fn held_out_loss(&self) -> Result<Option<f64>> {
        let how = bert::LogitsOf::MaskedOnly.into();
        self.source.held_out_loss(|batch| {
            let loss = self.loss_of(&self.tensors(batch)?, how, false)?;
            Ok((loss, batch.masked_labels.len()))
        })
    }

    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        let longest = self.model.config().max_position_embeddings;
        self.source.dataset.tokenizer.save_folder(folder, longest as usize)?;
        Ok(hugging_face::save_bert_for_masked_lm(folder, self.model.config(), params)?)
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
            ("masked_positions", batch.masked_positions),
            ("masked_labels", batch.masked_labels),
            ("real_tokens", real_tokens),
        ])
    }

    fn waited(&self) -> Duration {
        self.source.waited()
    }

    fn flops_per_token(&self) -> f64 {
        let (masked, slots) = (self.options.masked_per_sequence(), self.options.sequence_length);
        self.model.config().flops_per_token(slots as i64, masked as f64 / slots as f64)
    }

    fn unigram_entropy(&self) -> f64 {
        self.source.dataset.summary.unigram_entropy
    }

    fn describe(&self) -> Vec<String> {
        self.source.describe(self.unigram_entropy())
    }
}
