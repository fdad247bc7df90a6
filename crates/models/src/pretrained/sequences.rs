//! What heads for classes make of sequences that lie in rows one by one, or several side by side.
//!
//! Axes: `r` rows, `t` time, `d` features, `c` classes, `n` sequences.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Tensor};

use super::{Model, Pretrained};
use crate::bert::{BertInput, BertModel, ClassifierPooling};
use crate::error::{Error, Result};
use crate::gpt::{Gpt, GptInput};
use crate::layers::AttentionBackend;
use crate::loss::LossOptions;

/// Sequences in rows. No sequence sees another.
#[derive(Debug, Clone, Copy)]
pub struct SequenceRows<'a> {
    /// Tokens `[r, t]`, I64.
    pub input_ids: &'a Tensor,
    /// `[r, t]`, I64: which of two texts; for models that have token types.
    pub token_type_ids: Option<&'a Tensor>,
    /// `[r, t]`, I64: the place of each token within its sequence, from the family's first.
    pub position_ids: &'a Tensor,
    /// `[r, t]`, I64: the number of the sequence, from 0 over all rows; `n` where there is none.
    pub sequence_ids: &'a Tensor,
    /// `[n]`, I64: where each begins in the flattened rows.
    pub first: &'a Tensor,
    /// `[n]`, I64: how many tokens each has.
    pub lengths: &'a Tensor,
}

impl Pretrained {
    /// Logits `[n, c]` of each sequence's classes. Dropout acts if `train`.
    ///
    /// # Errors
    /// A model without such a head; what libtorch throws.
    pub fn sequence_logits(&self, rows: &SequenceRows, train: bool) -> Result<Tensor> {
        match &self.model {
            Model::Classes(model, _) => {
                let hidden = encode(model.bert(), rows, train)?;
                let pooled_nd = match model.pooling() {
                    ClassifierPooling::Cls => hidden.index_select(0, rows.first),
                    ClassifierPooling::Mean => means(&hidden, rows)?,
                };
                model.classify_pooled(pooled_nd, train)
            }
            Model::GptClasses(model, _) => {
                let hidden = encode_gpt(model.gpt(), rows, train)?;
                let last_n = rows.first + rows.lengths - 1;
                Ok(model.score(&hidden.index_select(0, &last_n)))
            }
            Model::T5Classes(model, _) => {
                let hidden =
                    model.encoder().forward(rows.input_ids, Some(rows.sequence_ids), train)?;
                Ok(model.classify_pooled(means(&hidden.flatten(0, 1), rows)?, train))
            }
            _ => Err(self.lacks_head("classes of sequences")),
        }
    }

    /// Logits `[r·t, c]` of each token's classes. Dropout acts if `train`.
    ///
    /// # Errors
    /// As [`sequence_logits`](Self::sequence_logits).
    pub fn token_logits(&self, rows: &SequenceRows, train: bool) -> Result<Tensor> {
        match &self.model {
            Model::TokenClasses(model) => {
                model.classify(&encode(model.bert(), rows, train)?, train)
            }
            _ => Err(self.lacks_head("classes of tokens")),
        }
    }

    /// Logits `[r·t, 2]` of each token being the first of an answer, and the last. Dropout acts if
    /// `train`.
    ///
    /// # Errors
    /// As [`sequence_logits`](Self::sequence_logits).
    pub fn answer_logits(&self, rows: &SequenceRows, train: bool) -> Result<Tensor> {
        match &self.model {
            Model::Answers(model) => model.spans(&encode(model.bert(), rows, train)?, train),
            _ => Err(self.lacks_head("answers")),
        }
    }

    /// Logits `[m, v]` over the tokens that follow the places `before`, I64 `[m]`, of the flattened
    /// rows. Dropout acts if `train`.
    ///
    /// # Errors
    /// As [`sequence_logits`](Self::sequence_logits).
    pub fn next_token_logits(
        &self,
        rows: &SequenceRows,
        before: &Tensor,
        train: bool,
    ) -> Result<Tensor> {
        match &self.model {
            Model::Gpt(model) => {
                Ok(model.logits(&encode_gpt(model, rows, train)?.index_select(0, before)))
            }
            _ => Err(self.lacks_head("next tokens")),
        }
    }

    /// The sum of the losses of `labels_m`, I64, the tokens that follow the places `before`, I64
    /// `[m]`, of the flattened rows; a scalar in FP32. Dropout acts if `train`. With the chunked
    /// implementation no logits but those of some places are ever held.
    ///
    /// # Errors
    /// As [`sequence_logits`](Self::sequence_logits).
    pub fn next_token_loss(
        &self,
        rows: &SequenceRows,
        (before, labels_m): (&Tensor, &Tensor),
        options: &LossOptions,
        train: bool,
    ) -> Result<Tensor> {
        match &self.model {
            Model::Gpt(model) => {
                let hidden_md = encode_gpt(model, rows, train)?.index_select(0, before);
                model.loss_after(&hidden_md, labels_m, options)
            }
            _ => Err(self.lacks_head("next tokens")),
        }
    }

    /// Hidden states `[r·t, d]` of the rows' tokens. Dropout acts if `train`.
    ///
    /// # Errors
    /// A T5; what libtorch throws.
    pub fn row_states(&self, rows: &SequenceRows, train: bool) -> Result<Tensor> {
        match (&self.model, self.encoder()) {
            (Model::Gpt(model), _) => encode_gpt(model, rows, train),
            (_, Some(encoder)) => encode(encoder, rows, train),
            _ => Err(self.lacks_head("hidden states of rows")),
        }
    }

    /// The features of a hidden state.
    pub fn features(&self) -> Option<i64> {
        match (&self.model, self.encoder()) {
            (Model::Gpt(model), _) => Some(model.config().n_embd),
            (_, encoder) => encoder.map(|encoder| encoder.config().hidden_size),
        }
    }

    /// The position of a sequence's first token.
    pub fn first_position(&self) -> i64 {
        self.encoder().map_or(0, |encoder| encoder.config().first_position())
    }

    /// Whether it tells two texts of a sequence apart by token types.
    pub fn has_token_types(&self) -> bool {
        self.encoder().is_some_and(|encoder| encoder.config().type_vocab_size > 1)
    }

    /// Whether attention adds something for each two positions of a row, so that memory grows with
    /// the square of a row's length.
    pub fn has_relative_positions(&self) -> bool {
        matches!(self.model, Model::T5(_) | Model::T5Encoder(_) | Model::T5Classes(..))
    }

    /// The code that computed attention when the model was first used; absent before.
    pub fn attention_backend(&self) -> Option<AttentionBackend> {
        match &self.model {
            Model::Gpt(model) => model.attention_backend(),
            Model::GptClasses(model, _) => model.gpt().attention_backend(),
            Model::T5(model) => model.attention_backend(),
            Model::T5Encoder(model) => model.attention_backend(),
            Model::T5Classes(model, _) => model.encoder().attention_backend(),
            _ => self.encoder().and_then(BertModel::attention_backend),
        }
    }

    fn lacks_head(&self, wanted: &str) -> Error {
        let reason = format!("is a {}, which has no {wanted}", self.architecture);
        Error::File { path: self.source.clone(), reason }
    }
}

/// Hidden states `[r·t, d]`.
fn encode(encoder: &BertModel, rows: &SequenceRows, train: bool) -> Result<Tensor> {
    let input = BertInput {
        input_ids: rows.input_ids,
        token_type_ids: rows.token_type_ids,
        position_ids: Some(rows.position_ids),
        mask: Some(rows.sequence_ids),
    };
    Ok(encoder.forward(&input, train)?.flatten(0, 1))
}

fn encode_gpt(gpt: &Gpt, rows: &SequenceRows, train: bool) -> Result<Tensor> {
    let input = GptInput {
        input_ids: rows.input_ids,
        position_ids: Some(rows.position_ids),
        mask: Some(rows.sequence_ids),
    };
    Ok(gpt.forward(&input, train)?.flatten(0, 1))
}

/// The mean of each sequence's hidden states `[r·t, d]`, `[n, d]`.
fn means(hidden: &Tensor, rows: &SequenceRows) -> Result<Tensor> {
    let (n, d) = (rows.lengths.size()[0], hidden.size()[1]);
    let sums = Tensor::f_zeros([n + 1, d], (hidden.kind(), hidden.device()));
    let sums = sums.during("means of sequences")?;
    let sums = sums.index_add(0, &rows.sequence_ids.flatten(0, 1), hidden).narrow(0, 0, n);
    Ok(sums / rows.lengths.to_kind(Kind::Float).to_kind(hidden.kind()).unsqueeze(1))
}
