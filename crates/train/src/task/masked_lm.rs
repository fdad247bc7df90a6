//! BERT learning to fill in masked tokens (arXiv 1810.04805).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bert4rs_data::{
    BatchSource, Dataset, DatasetOptions, Fingerprint, MlmBatch, MlmBatches, MlmOptions,
    Prefetcher, TokenizerChoice,
};
use bert4rs_models::bert::{self, BertForMaskedLm, BertInput, MlmLoss};
use bert4rs_models::hugging_face;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Tensor, no_grad};

use super::{BatchLoss, BatchSize, Task};
use crate::config::{Config, LogitsOf};
use crate::console::Console;
use crate::error::{Error, Result};

/// A BERT, its batches and its loss.
pub struct MaskedLm {
    model: BertForMaskedLm,
    dataset: Dataset,
    batches: Prefetcher<MlmBatches>,
    held_out: MlmBatches,
    seen: Fingerprint,
    pad: i64,
    device: Device,
    how: MlmLoss,
    eval_sequences: u32,
    seq_len: u32,
}

impl MaskedLm {
    /// Prepares the data, then makes the model in `params`.
    ///
    /// # Errors
    /// Corpus, tokenizer or shapes that can't be used.
    pub fn new(config: &Config, params: &ParamStore, console: &mut Console) -> Result<Self> {
        let dataset = prepare_dataset(config, console)?;
        let vocabulary = dataset.summary.vocabulary;
        if vocabulary.size > config.model.vocab_size as usize {
            return Err(Error::Config {
                origin: config.data.tokenizer.clone(),
                key: "model.vocab_size".into(),
                reason: format!(
                    "{} is too small for this tokenizer, which has {} tokens; raise it",
                    config.model.vocab_size, vocabulary.size
                ),
            });
        }
        let options = MlmOptions {
            batch_size: config.data.batch_size as usize,
            sequence_length: config.data.seq_len as usize,
            mask_rate: config.data.mask_rate,
            layout: config.data.packing,
            seed: config.seed,
        };
        let train = MlmBatches::train(Arc::clone(&dataset.train), vocabulary, options)?;
        let held_out = MlmBatches::held_out(Arc::clone(&dataset.held_out), vocabulary, options)?;
        let (depth, workers) = (config.data.prefetch as usize, config.data.workers as usize);
        let bert = config.bert(vocabulary.special.pad);
        let model = BertForMaskedLm::new(&params.root(), &bert, config.compute.attention)?;
        Ok(Self {
            model,
            batches: Prefetcher::new(Arc::new(train), 0, depth, workers)?,
            held_out,
            seen: Fingerprint::default(),
            pad: vocabulary.special.pad.into(),
            dataset,
            device: params.device(),
            how: MlmLoss {
                logits_of: match config.compute.logits {
                    LogitsOf::All => bert::LogitsOf::AllTokens,
                    LogitsOf::Masked => bert::LogitsOf::MaskedOnly,
                },
                options: config.loss,
            },
            eval_sequences: config.train.eval_sequences,
            seq_len: config.data.seq_len,
        })
    }

    /// Mean loss of a batch's masked tokens. Dropout acts if `train`.
    fn loss(&self, batch: &MlmBatch, how: MlmLoss, train: bool) -> Result<Tensor> {
        let batch = batch.to_tensors(self.device)?;
        let input = BertInput {
            input_ids: &batch.input_ids,
            token_type_ids: None,
            position_ids: Some(&batch.position_ids),
            mask: Some(&batch.document_ids),
        };
        let (positions, labels) = (&batch.masked_positions, &batch.masked_labels);
        Ok(self.model.mlm_loss(&input, positions, labels, how, train)?)
    }
}

impl Task for MaskedLm {
    fn next_loss(&mut self) -> Result<BatchLoss> {
        let batch = self.batches.next()?;
        self.seen.add(&batch.input_ids, self.pad, &batch.masked_labels);
        let loss = self.loss(&batch, self.how, true)?;
        let slots = (batch.rows * batch.columns) as u64;
        Ok(BatchLoss { loss, size: BatchSize { tokens: batch.real_tokens as u64, slots } })
    }

    fn held_out_loss(&self) -> Result<Option<f64>> {
        let wanted =
            u64::from(self.eval_sequences).div_ceil(self.held_out.options().batch_size as u64);
        let (mut sum, mut tokens) = (0.0, 0);
        for index in 0..wanted.min(self.held_out.batches_per_epoch()) {
            let batch = self.held_out.batch(index)?;
            let loss = no_grad(|| self.loss(&batch, bert::LogitsOf::MaskedOnly.into(), false))?;
            let masked = batch.masked_labels.len();
            sum += loss.f_double_value(&[]).during("held-out loss")? * masked as f64;
            tokens += masked;
        }
        Ok((tokens > 0).then(|| sum / tokens as f64))
    }

    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        let longest = self.model.config().max_position_embeddings;
        self.dataset.tokenizer.save_folder(folder, longest as usize)?;
        Ok(hugging_face::save_bert_for_masked_lm(folder, self.model.config(), params)?)
    }

    fn data_fingerprint(&self) -> Option<u64> {
        Some(self.seen.value())
    }

    fn batch(&self, index: u64) -> Result<Vec<(&'static str, Tensor)>> {
        let batch = self.batches.source().batch(index)?.to_tensors(Device::Cpu)?;
        Ok(vec![
            ("input_ids", batch.input_ids),
            ("position_ids", batch.position_ids),
            ("document_ids", batch.document_ids),
            ("masked_positions", batch.masked_positions),
            ("masked_labels", batch.masked_labels),
            ("real_tokens", Tensor::from(batch.real_tokens as i64)),
        ])
    }

    fn waited(&self) -> Duration {
        self.batches.waited()
    }

    fn flops_per_token(&self) -> f64 {
        let masked = self.held_out.options().masked_per_sequence() as f64;
        self.model.config().flops_per_token(self.seq_len.into(), masked / f64::from(self.seq_len))
    }

    fn unigram_entropy(&self) -> f64 {
        self.dataset.summary.unigram_entropy
    }

    fn describe(&self) -> Vec<String> {
        let (train, held_out) = (&self.dataset.train, &self.dataset.held_out);
        vec![
            format!(
                "data       {:.2} M tokens in {} documents, {} documents held out, vocabulary {}",
                train.token_count() as f64 / 1e6,
                train.document_count(),
                held_out.document_count(),
                self.dataset.summary.vocabulary.size
            ),
            format!(
                "unigram    {:.4} nats: the loss of knowing frequencies alone",
                self.dataset.summary.unigram_entropy
            ),
        ]
    }
}

fn prepare_dataset(config: &Config, console: &mut Console) -> Result<Dataset> {
    let tokenizer = match config.data.tokenizer.as_str() {
        "train" => TokenizerChoice::Train { vocab_size: config.model.vocab_size as usize },
        path => TokenizerChoice::Load(PathBuf::from(path)),
    };
    let options = DatasetOptions {
        corpus: config.data.corpus.iter().map(PathBuf::from).collect(),
        tokenizer,
        held_out_fraction: config.data.held_out,
        cache: cache_folder()?,
    };
    let mut phase = None;
    let dataset = bert4rs_data::prepare(&options, &mut |progress| {
        if phase != Some(progress.phase) {
            phase = Some(progress.phase);
            console.phase(progress.phase.label(), progress.total);
        }
        console.advance_to(progress.done);
    })?;
    console.end();
    Ok(dataset)
}

/// Where tokenized corpora are kept, for all projects of this user.
fn cache_folder() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = from("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| from("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.map(|base| base.join("bert4rs").join("tokens")).ok_or_else(|| Error::Config {
        origin: "environment".into(),
        key: "HOME".into(),
        reason: "neither XDG_CACHE_HOME nor HOME is set; set one, to keep tokenized text".into(),
    })
}
