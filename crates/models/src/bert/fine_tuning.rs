//! BERT and its relatives with the heads that they are fine-tuned with.
//!
//! Axes: `b` batch, `t` time, `d` features, `c` classes.

use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::{Init, ParamPath};
use bert4rs_tensor_core::{Kind, Reduction, Tensor};

use super::relatives::ClassifierPooling;
use super::transform::Transform;
use super::{BertConfig, BertInput, BertModel, BertVariant};
use crate::error::{Error, Result};
use crate::input;
use crate::layers::{Biased, Dropout, Linear};
use crate::loss;
use crate::mask;

impl BertConfig {
    /// The last map of a head.
    fn classifier(&self, path: &ParamPath, classes: i64) -> Result<Linear> {
        if classes < 1 {
            return Err(Error::config("num_labels", classes, "must be at least 1"));
        }
        let init = match self.variant {
            BertVariant::ModernBert(_) => Init::Normal((self.hidden_size as f64).powf(-0.5)),
            _ => self.init(),
        };
        Ok(Linear::head(path, self.hidden_size, classes, Biased::Yes, init)?)
    }

    fn classifier_dropout(&self) -> Dropout {
        Dropout { probability: self.classifier_dropout.unwrap_or(self.hidden_dropout_prob) }
    }

    /// DistilBERT has one of its own for each head.
    fn token_dropout(&self) -> Dropout {
        match self.variant {
            BertVariant::DistilBert { .. } => self.dropout(),
            _ => self.classifier_dropout(),
        }
    }

    fn answer_dropout(&self) -> Dropout {
        match self.variant {
            BertVariant::DistilBert { qa_dropout } => Dropout { probability: qa_dropout },
            BertVariant::ModernBert(_) => self.classifier_dropout(),
            _ => Dropout { probability: 0.0 },
        }
    }
}

/// A class, or a number, for each sequence, as transformers' `BertForSequenceClassification`.
#[derive(Debug)]
pub struct BertForSequenceClassification {
    bert: BertModel,
    pooling: ClassifierPooling,
    /// Whether dropout also acts before the transform.
    drops_first: bool,
    transform: Transform,
    dropout: Dropout,
    classifier: Linear,
}

impl BertForSequenceClassification {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        classes: i64,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        let bert = BertModel::under_root(path, config, implementation)?;
        let names = &config.variant.names().sequence;
        Ok(Self {
            bert,
            pooling: config.variant.modern().map(|own| own.classifier_pooling).unwrap_or_default(),
            drops_first: names.drops_first,
            transform: Transform::new(path, &names.transform, config, config.hidden_size)?,
            dropout: config.classifier_dropout(),
            classifier: config.classifier(&(path / names.output), classes)?,
        })
    }

    /// The encoder.
    pub fn bert(&self) -> &BertModel {
        &self.bert
    }

    /// The encoder, to be changed.
    pub fn bert_mut(&mut self) -> &mut BertModel {
        &mut self.bert
    }

    /// `[b, c]`.
    ///
    /// # Errors
    /// As [`BertModel::forward`] and [`classify`](Self::classify).
    pub fn logits(&self, input: &BertInput, train: bool) -> Result<Tensor> {
        self.classify(&self.bert.forward(input, train)?, input.mask, train)
    }

    /// Hidden states `[b, t, d]` to `[b, c]`. `mask` is that of the encoder's input, which says
    /// what is padding where the mean of real tokens is read.
    ///
    /// # Errors
    /// A mask of anything but padding, where the mean is read; what the kernels throw.
    pub fn classify(
        &self,
        hidden_btd: &Tensor,
        mask: Option<&Tensor>,
        train: bool,
    ) -> Result<Tensor> {
        let x_bd = match self.pooling {
            ClassifierPooling::Cls => hidden_btd.select(1, 0),
            ClassifierPooling::Mean => mean_of_real(hidden_btd, mask)?,
        };
        self.classify_pooled(x_bd, train)
    }

    /// What of a sequence's hidden states the head reads.
    pub fn pooling(&self) -> ClassifierPooling {
        self.pooling
    }

    /// What [`pooling`](Self::pooling) says of hidden states, `[b, d]`, to `[b, c]`.
    ///
    /// # Errors
    /// What the kernels throw.
    pub fn classify_pooled(&self, mut x_bd: Tensor, train: bool) -> Result<Tensor> {
        if self.drops_first {
            x_bd = self.dropout.forward(x_bd, train);
        }
        let inner_bd = self.transform.forward(&x_bd)?;
        Ok(self.classifier.forward(&self.dropout.forward(inner_bd, train)))
    }

    /// Mean cross-entropy of classes `[b]` I64, or, with one output, the mean squared distance
    /// to numbers `[b]` FP32; a scalar in FP32.
    ///
    /// # Errors
    /// As [`logits`](Self::logits); labels of another shape or dtype.
    pub fn loss(&self, input: &BertInput, labels_b: &Tensor, train: bool) -> Result<Tensor> {
        classes_loss(&self.logits(input, train)?, labels_b)
    }
}

/// The mean of real tokens' hidden states, `[b, d]`.
pub(crate) fn mean_of_real(hidden_btd: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let time = [1i64].as_slice();
    let (b, t) = (hidden_btd.size()[0], hidden_btd.size()[1]);
    let Some(mask) = mask else {
        return Ok(hidden_btd.mean_dim(time, false, hidden_btd.kind()));
    };
    let real_bt1 = mask::real_tokens(mask, [b, t])?.to_kind(hidden_btd.kind()).unsqueeze(-1);
    let sum_bd = (hidden_btd * &real_bt1).sum_dim_intlist(time, false, None);
    Ok(sum_bd / real_bt1.sum_dim_intlist(time, false, None))
}

/// Mean cross-entropy of classes `[b]` I64, or, with one output, the mean squared distance to
/// numbers `[b]` FP32.
pub(crate) fn classes_loss(logits_bc: &Tensor, labels_b: &Tensor) -> Result<Tensor> {
    let [b, classes] = logits_bc.size()[..] else {
        return Err(input::refuse("logits", logits_bc, "[batch, classes]"));
    };
    let fits = labels_b.size() == [b];
    match labels_b.kind() {
        Kind::Int64 if fits && classes > 1 => Ok(loss::cross_entropy(logits_bc, labels_b)),
        Kind::Float if fits && classes == 1 => {
            let found_b = logits_bc.squeeze_dim(1).to_kind(Kind::Float);
            Ok(found_b.mse_loss(labels_b, Reduction::Mean))
        }
        _ => {
            let kind = if classes > 1 { "Int64" } else { "Float" };
            Err(input::refuse("labels", labels_b, format!("{kind} of shape [{b}]")))
        }
    }
}

/// What heads for tokens and answers have in common: a transform in some relatives, dropout, and
/// the last map.
#[derive(Debug)]
struct TokenHead {
    transform: Option<Transform>,
    dropout: Dropout,
    outputs: Linear,
}

impl TokenHead {
    /// Makes its parameters under `path`, the root.
    fn new(
        path: &ParamPath,
        config: &BertConfig,
        outputs: (&str, i64),
        dropout: Dropout,
    ) -> Result<Self> {
        let transform = match &config.variant.names().tokens {
            Some(names) => Some(Transform::new(path, names, config, config.hidden_size)?),
            None => None,
        };
        let outputs = config.classifier(&(path / outputs.0), outputs.1)?;
        Ok(Self { transform, dropout, outputs })
    }

    /// `[b, t, d]` to `[b, t, c]`.
    fn forward(&self, hidden_btd: &Tensor, train: bool) -> Result<Tensor> {
        let x_btd = match &self.transform {
            Some(transform) => transform.forward(hidden_btd)?,
            None => hidden_btd.shallow_clone(),
        };
        Ok(self.outputs.forward(&self.dropout.forward(x_btd, train)))
    }
}

/// A class for each token, as transformers' `BertForTokenClassification`.
#[derive(Debug)]
pub struct BertForTokenClassification {
    bert: BertModel,
    head: TokenHead,
}

impl BertForTokenClassification {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        classes: i64,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        let bert = BertModel::under_root(path, config, implementation)?;
        let head = TokenHead::new(path, config, ("classifier", classes), config.token_dropout())?;
        Ok(Self { bert, head })
    }

    /// The encoder.
    pub fn bert(&self) -> &BertModel {
        &self.bert
    }

    /// The encoder, to be changed.
    pub fn bert_mut(&mut self) -> &mut BertModel {
        &mut self.bert
    }

    /// `[b, t, c]`.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn logits(&self, input: &BertInput, train: bool) -> Result<Tensor> {
        self.classify(&self.bert.forward(input, train)?, train)
    }

    /// Hidden states `[b, t, d]` to `[b, t, c]`.
    ///
    /// # Errors
    /// What the kernels throw.
    pub fn classify(&self, hidden_btd: &Tensor, train: bool) -> Result<Tensor> {
        self.head.forward(hidden_btd, train)
    }

    /// Mean cross-entropy of classes `[b, t]` I64, where [`loss::IGNORED`] does not count; a
    /// scalar in FP32.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; labels of another shape or dtype.
    pub fn loss(&self, input: &BertInput, labels_bt: &Tensor, train: bool) -> Result<Tensor> {
        let (b, t) = input::batch_and_time("input_ids", input.input_ids)?;
        input::check_ids("labels", labels_bt, &[[b, t]])?;
        let logits_btc = self.logits(input, train)?;
        Ok(loss::cross_entropy(&logits_btc.flatten(0, 1), &labels_bt.flatten(0, 1)))
    }
}

/// The start and end of an answer within the text, as transformers' `BertForQuestionAnswering`.
#[derive(Debug)]
pub struct BertForQuestionAnswering {
    bert: BertModel,
    head: TokenHead,
}

impl BertForQuestionAnswering {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        let bert = BertModel::under_root(path, config, implementation)?;
        let outputs = (config.variant.names().answers, 2);
        let head = TokenHead::new(path, config, outputs, config.answer_dropout())?;
        Ok(Self { bert, head })
    }

    /// The encoder.
    pub fn bert(&self) -> &BertModel {
        &self.bert
    }

    /// The encoder, to be changed.
    pub fn bert_mut(&mut self) -> &mut BertModel {
        &mut self.bert
    }

    /// Logits `[b, t]` of the answer's first and last token.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn logits(&self, input: &BertInput, train: bool) -> Result<(Tensor, Tensor)> {
        let logits_bt2 = self.spans(&self.bert.forward(input, train)?, train)?;
        Ok((logits_bt2.select(-1, 0), logits_bt2.select(-1, 1)))
    }

    /// Hidden states `[b, t, d]` to the logits `[b, t, 2]` of first and last tokens.
    ///
    /// # Errors
    /// What the kernels throw.
    pub fn spans(&self, hidden_btd: &Tensor, train: bool) -> Result<Tensor> {
        self.head.forward(hidden_btd, train)
    }

    /// Mean of the cross-entropies of first and last tokens, I64 `[b]` each, where
    /// [`loss::IGNORED`] does not count; a scalar in FP32.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; labels of another shape or dtype.
    pub fn loss(
        &self,
        input: &BertInput,
        start_b: &Tensor,
        end_b: &Tensor,
        train: bool,
    ) -> Result<Tensor> {
        let (b, _) = input::batch_and_time("input_ids", input.input_ids)?;
        for (name, labels) in [("start positions", start_b), ("end positions", end_b)] {
            if labels.kind() != Kind::Int64 || labels.size() != [b] {
                return Err(input::refuse(name, labels, format!("Int64 of shape [{b}]")));
            }
        }
        let (first_bt, last_bt) = self.logits(input, train)?;
        let (start, end) =
            (loss::cross_entropy(&first_bt, start_b), loss::cross_entropy(&last_bt, end_b));
        Ok((start + end) / 2.0)
    }
}
