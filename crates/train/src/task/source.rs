//! What all tasks share: the dataset, its batches, and the loss on held-out text.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bert4rs_data::{
    BatchSource, Dataset, DatasetOptions, Fingerprint, Objective, Prefetcher, TokenizerChoice,
};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Tensor, no_grad};

use crate::config::Config;
use crate::console::Console;
use crate::error::{Error, Result};

/// A dataset and its batches.
pub(super) struct Source<S: BatchSource> {
    pub(super) dataset: Dataset,
    batches: Prefetcher<S>,
    held_out: S,
    seen: Fingerprint,
    /// Batches of `held_out` to measure the loss on.
    held_out_batches: u64,
}

impl<S: BatchSource + 'static> Source<S> {
    /// Starts making batches of `train`; `held_out` has `held_out_count` batches.
    pub(super) fn new(
        config: &Config,
        dataset: Dataset,
        train: S,
        (held_out, held_out_count): (S, u64),
    ) -> Result<Self> {
        let (depth, workers) = (config.data.prefetch as usize, config.data.workers as usize);
        let wanted = config.train.eval_sequences.div_ceil(config.data.batch_size);
        Ok(Self {
            dataset,
            batches: Prefetcher::new(Arc::new(train), 0, depth, workers)?,
            held_out,
            seen: Fingerprint::default(),
            held_out_batches: held_out_count.min(wanted.into()),
        })
    }

    /// The next batch to train on, which `note` adds to the hash of what was seen.
    pub(super) fn next(
        &mut self,
        note: impl FnOnce(&mut Fingerprint, &S::Batch),
    ) -> Result<S::Batch> {
        let batch = self.batches.next()?;
        note(&mut self.seen, &batch);
        Ok(batch)
    }

    /// A hash of all batches so far.
    pub(super) fn fingerprint(&self) -> u64 {
        self.seen.value()
    }

    /// Batch number `index` to train on.
    pub(super) fn batch(&self, index: u64) -> Result<S::Batch> {
        Ok(self.batches.source().batch(index)?)
    }

    /// Time spent waiting for batches.
    pub(super) fn waited(&self) -> Duration {
        self.batches.waited()
    }

    /// Mean over held-out labels of `loss`, which gives a batch's mean loss and its number of
    /// labels; `None` where nothing is to be measured.
    pub(super) fn held_out_loss(
        &self,
        loss: impl Fn(&S::Batch) -> Result<(Tensor, usize)>,
    ) -> Result<Option<f64>> {
        let (mut sum, mut labels) = (0.0, 0);
        for index in 0..self.held_out_batches {
            let batch = self.held_out.batch(index)?;
            let (loss, count) = no_grad(|| loss(&batch))?;
            sum += loss.f_double_value(&[]).during("held-out loss")? * count as f64;
            labels += count;
        }
        Ok((labels > 0).then(|| sum / labels as f64))
    }

    /// Lines that say what is learned from; `entropy` is that of the labels' frequencies.
    pub(super) fn describe(&self, entropy: f64) -> Vec<String> {
        let (train, held_out) = (&self.dataset.train, &self.dataset.held_out);
        vec![
            format!(
                "data       {:.2} M tokens in {} documents, {} documents held out, vocabulary {}",
                train.token_count() as f64 / 1e6,
                train.document_count(),
                held_out.document_count(),
                self.dataset.tokenizer.vocab_size()
            ),
            format!("unigram    {entropy:.4} nats: the loss of knowing frequencies alone"),
        ]
    }
}

/// The corpus as tokens, by a tokenizer that the model has room for.
pub(super) fn prepare_dataset(
    config: &Config,
    objective: Objective,
    console: &mut Console,
) -> Result<Dataset> {
    let vocab_size = config.model.vocab_size as usize;
    let tokenizer = match config.data.tokenizer.as_str() {
        "train" => TokenizerChoice::Train { vocab_size },
        path => TokenizerChoice::Load(PathBuf::from(path)),
    };
    let options = DatasetOptions {
        corpus: config.data.corpus.iter().map(PathBuf::from).collect(),
        objective,
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
    let found = dataset.tokenizer.vocab_size();
    if found > vocab_size {
        return Err(Error::Config {
            origin: config.data.tokenizer.clone(),
            key: "model.vocab_size".into(),
            reason: format!(
                "{vocab_size} is too small for this tokenizer, which has {found} tokens; raise it"
            ),
        });
    }
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
