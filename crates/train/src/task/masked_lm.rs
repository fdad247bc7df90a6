//! BERT learning to fill in masked tokens (arXiv 1810.04805).

use std::path::Path;
use std::sync::Arc;

use bert4rs_data::{MaskUnit, MlmBatches, MlmOptions, TextTokenizer};
use bert4rs_models::bert::{self, BertForMaskedLm, BertInput, MlmLoss};
use bert4rs_models::hugging_face::{self, Architecture, HeadKind};
use bert4rs_models::layers::AttentionBackend;
use bert4rs_models::loss::LossOptions;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::ParamStore;
use bert4rs_tensor_core::{Device, Tensor};
use serde_json::json;

use super::Task;
use crate::batch::NamedTensors;
use crate::build::{self, Sources, TrainingData};
use crate::config::{ComputedLogits, Config};
use crate::dataset::Corpora;
use crate::error::Result;
use crate::facts::Facts;
use crate::stages::{staged, total_batches};

/// A BERT and its loss.
pub struct MaskedLm {
    model: BertForMaskedLm,
    tokenizer: TextTokenizer,
    logits_of: bert::LogitsOf,
    options: LossOptions,
}

impl MaskedLm {
    /// Makes the model in `params`.
    ///
    /// # Errors
    /// A tokenizer without BERT's special tokens, and shapes that can't be used.
    pub fn new(config: &Config, tokenizer: TextTokenizer, params: &ParamStore) -> Result<Self> {
        let bert = config.bert(tokenizer.vocabulary()?.special.pad);
        let mut model = BertForMaskedLm::new(&params.root(), &bert, config.compute.attention)?;
        model.set_activation_checkpointing(config.compute.activation_checkpointing);
        let logits_of = match config.compute.logits {
            ComputedLogits::All => bert::LogitsOf::AllTokens,
            ComputedLogits::Masked => bert::LogitsOf::MaskedOnly,
        };
        Ok(Self { model, tokenizer, logits_of, options: config.loss })
    }

    /// Positions as the model counts them: RoBERTa's begin after that of padding.
    fn position_ids(&self, batch: &NamedTensors) -> Result<Tensor> {
        let counted = batch.get("position_ids")?;
        match self.model.config().first_position() {
            0 => Ok(counted.shallow_clone()),
            first => Ok(counted.f_add_scalar(first).during("positions")?),
        }
    }

    fn loss_of(&self, batch: &NamedTensors, how: MlmLoss, train: bool) -> Result<Tensor> {
        let position_ids = self.position_ids(batch)?;
        let input = input(batch, &position_ids)?;
        let (positions, labels) = (batch.get("masked_positions")?, batch.get("masked_labels")?);
        Ok(self.model.mlm_loss(&input, positions, labels, how, train)?)
    }
}

impl Task for MaskedLm {
    fn loss(&self, batch: &NamedTensors, divisor: &Tensor) -> Result<Tensor> {
        let (logits_of, options) = (self.logits_of, self.options);
        self.loss_of(batch, MlmLoss { logits_of, options, divisor: Some(divisor) }, true)
    }

    fn evaluate(&self, batch: &NamedTensors) -> Result<Vec<(&'static str, Tensor)>> {
        let position_ids = self.position_ids(batch)?;
        let input = input(batch, &position_ids)?;
        let (positions, labels) = (batch.get("masked_positions")?, batch.get("masked_labels")?);
        Ok(super::sums(self.model.mlm_score(&input, positions, labels)?))
    }

    fn export(&self, folder: &Path, params: &ParamStore) -> Result<()> {
        let config = self.model.config();
        self.tokenizer.save_folder(folder, config.longest() as usize)?;
        let class = config.variant.model_type().with(HeadKind::MaskedLm);
        let class = class.unwrap_or(Architecture::BERT_FOR_MASKED_LM);
        Ok(hugging_face::save(folder, config, class, params, json!({}))?)
    }

    fn attention_backend(&self) -> Option<AttentionBackend> {
        self.model.attention_backend()
    }
}

/// What the model reads of a batch.
fn input<'a>(batch: &'a NamedTensors, position_ids: &'a Tensor) -> Result<BertInput<'a>> {
    Ok(BertInput {
        input_ids: batch.get("input_ids")?,
        token_type_ids: None,
        position_ids: Some(position_ids),
        mask: Some(batch.get("document_ids")?),
    })
}

/// Batches of masked tokens, and what is known of them.
///
/// # Errors
/// A tokenizer or sizes that can't be used.
pub(crate) fn data(
    config: &Config,
    corpora: &Corpora,
    (device, ranks): (Device, usize),
) -> Result<TrainingData> {
    let vocabulary = corpora.tokenizer().vocabulary()?;
    let pad = vocabulary.special.pad;
    let options = MlmOptions {
        batch_size: config.data.batch_size as usize,
        sequence_length: config.data.seq_len as usize,
        mask_rate: config.data.mask_rate,
        unit: config.data.mask_unit,
        layout: config.data.packing,
        fit: config.data.fit,
        seed: config.seed,
    };
    let words: Arc<[bool]> = match options.unit {
        MaskUnit::Tokens => Arc::from([]),
        MaskUnit::Words | MaskUnit::Spans => corpora.tokenizer().continuations().into(),
    };
    let mut held_out = Vec::new();
    for (_, store) in corpora.held_out() {
        let batches = MlmBatches::held_out(store, vocabulary, options)?;
        let count = batches.batches_per_epoch();
        held_out.push((batches.with_words(Arc::clone(&words)), count));
    }
    let mixture = corpora.train()?;
    let fixed = config.fixes_shapes(build::execution(config, device).0);
    let of_length = |sequence_length| {
        let options = MlmOptions { sequence_length, ..options };
        let batches = MlmBatches::train(mixture.clone(), vocabulary, options)?;
        let batches = batches.with_words(Arc::clone(&words));
        Ok(if fixed { batches.with_fixed_shapes() } else { batches })
    };
    let full = of_length(options.sequence_length)?;
    let pieces = full.piece_lengths();
    let (epoch_batches, reports) = (full.batches_per_epoch(), full.packing_reports());
    let total = total_batches(config, epoch_batches, ranks);
    let train = staged(config, full, total, of_length, |batches, total, before| {
        match config.data.final_mask_rate {
            0.0 => Ok(batches),
            last => Ok(batches.with_mask_rate_to(last, total, before)?),
        }
    })?;
    let names = corpora.parts().iter().map(|part| part.name.clone()).collect();
    let sources = Sources { epoch_batches, train, held_out, names, pad: pad.into() };
    let (masked, length) = (options.masked_per_sequence() as f64, options.sequence_length);
    let facts = Facts {
        flops_per_token: config.bert(pad).flops_per_token(&pieces, masked / length as f64),
        unigram_entropy: corpora.mean(|dataset| dataset.summary.unigram_entropy),
        ..Facts::default()
    };
    TrainingData::new(config, device, sources, facts.describing(corpora, &reports)?)
}
