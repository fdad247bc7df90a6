//! T5 learning to fill in spans (arXiv 1910.10683).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bert4rs_data::packing::Framing;
use bert4rs_data::{Noise, Objective, SpanBatch, SpanBatches, SpanOptions};
use bert4rs_models::hugging_face::{self, Architecture};
use bert4rs_models::layers::AttentionBackend;
use bert4rs_models::loss::LossOptions;
use bert4rs_models::t5::{T5, T5Input};
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Tensor};
use serde_json::json;

use super::source::{Source, prepare_dataset};
use super::{Batch, BatchSize, Task, not_a_batch};
use crate::config::Config;
use crate::console::Console;
use crate::error::Result;

/// A T5, its batches and its loss.
pub struct SpanCorruption {
    model: T5,
    source: Source<SpanBatches>,
    device: Device,
    /// Whether training batches leave padding out of the output layer.
    only_counted: bool,
    options: LossOptions,
    flops_per_token: f64,
    unigram_entropy: f64,
    seq_len: u32,
}

impl SpanCorruption {
    /// Prepares the data, then makes the model in `params`.
    ///
    /// # Errors
    /// Corpus, tokenizer or shapes that can't be used.
    pub fn new(config: &Config, params: &ParamStore, console: &mut Console) -> Result<Self> {
        let dataset = prepare_dataset(config, Objective::Spans, console)?;
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
        let (shard, held_out) = (Arc::clone(&dataset.train), Arc::clone(&dataset.held_out));
        let train = SpanBatches::train(shard, tokens.clone(), options)?;
        let held_out = SpanBatches::held_out(held_out, tokens, options)?;
        let held_out_count = held_out.batches_per_epoch();
        let source = config.data.seq_len;
        let target = noise.target_length(Framing::Spans(noise).max_tokens(source.into()) as usize);
        let flops = t5.flops_per_sequence(source.into(), target as i64)?;
        let mut model = T5::new(&params.root(), &t5, config.compute.attention)?;
        model.set_activation_checkpointing(config.compute.activation_checkpointing);
        Ok(Self {
            model,
            unigram_entropy: train.target_entropy(dataset.summary.unigram_entropy),
            source: Source::new(config, dataset, train, (held_out, held_out_count))?,
            device: params.device(),
            only_counted: config.only_counted(),
            options: config.loss,
            flops_per_token: flops / (f64::from(source) + target as f64),
            seq_len: source,
        })
    }

    /// With the places that count where others are to be left out.
    fn tensors(&self, batch: &SpanBatch, only_counted: bool) -> Result<Vec<Tensor>> {
        let batch = batch.to_tensors(self.device)?;
        let all = [
            batch.input_ids,
            batch.document_ids,
            batch.decoder_input_ids,
            batch.decoder_document_ids,
            batch.labels,
        ];
        Ok(all.into_iter().chain(only_counted.then_some(batch.counted)).collect())
    }

    /// Mean loss of a batch's targets. Dropout acts if `train`.
    fn loss_of(&self, tensors: &[Tensor], options: &LossOptions, train: bool) -> Result<Tensor> {
        let [input_ids, source, decoder_input_ids, target, labels, counted @ ..] = tensors else {
            return Err(not_a_batch(tensors));
        };
        let input = T5Input {
            input_ids,
            mask: Some(source),
            decoder_input_ids,
            decoder_mask: Some(target),
            cross_mask: Some(source),
        };
        Ok(self.model.counted_loss(&input, labels, counted.first(), options, train)?)
    }
}

impl Task for SpanCorruption {
    fn next_batch(&mut self) -> Result<Batch> {
        let pad = self.model.config().pad_token_id;
        let batch = self.source.next(|seen, batch| {
            seen.add(&batch.input_ids, pad, &batch.counted_labels());
        })?;
        let slots = (batch.rows * (batch.columns + batch.target_columns)) as u64;
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
            let loss = self.loss_of(&self.tensors(batch, true)?, &plain, false)?;
            Ok((loss, batch.counted().len()))
        })
    }

    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        self.source.dataset.tokenizer.save_folder(folder, self.seq_len as usize)?;
        let (config, architecture) =
            (self.model.config(), Architecture::T5ForConditionalGeneration);
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
            ("document_ids", batch.document_ids),
            ("decoder_input_ids", batch.decoder_input_ids),
            ("decoder_document_ids", batch.decoder_document_ids),
            ("labels", batch.labels),
            ("real_tokens", real_tokens),
        ])
    }

    fn waited(&self) -> Duration {
        self.source.waited()
    }

    /// Of a sequence filled by one piece, shared out over its tokens in encoder and decoder.
    fn flops_per_token(&self) -> f64 {
        self.flops_per_token
    }

    /// Sentinels and ends are predicted too.
    fn unigram_entropy(&self) -> f64 {
        self.unigram_entropy
    }

    fn describe(&self) -> Vec<String> {
        self.source.describe(self.unigram_entropy)
    }
}
