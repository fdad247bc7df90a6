//! BERT with the heads that it is fine-tuned with.
//!
//! Axes: `b` batch, `t` time, `d` features, `c` classes.

use bert4rs_tensor_core::attention::Implementation;
use bert4rs_tensor_core::param::ParamPath;
use bert4rs_tensor_core::{Kind, Reduction, Tensor};

use super::{BertConfig, BertInput, BertModel, Pooler};
use crate::error::{Error, Result};
use crate::input;
use crate::layers::{Biased, Dropout, Linear};
use crate::loss;

impl BertConfig {
    fn classifier(&self, path: &ParamPath, classes: i64) -> Result<(Dropout, Linear)> {
        if classes < 1 {
            return Err(Error::config("num_labels", classes, "must be at least 1"));
        }
        let probability = self.classifier_dropout.unwrap_or(self.hidden_dropout_prob);
        let map = Linear::head(path, self.hidden_size, classes, Biased::Yes, self.init())?;
        Ok((Dropout { probability }, map))
    }
}

/// A class, or a number, for each sequence.
#[derive(Debug)]
pub struct BertForSequenceClassification {
    bert: BertModel,
    pooler: Pooler,
    dropout: Dropout,
    classifier: Linear,
}

impl BertForSequenceClassification {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        classes: i64,
        implementation: Implementation,
    ) -> Result<Self> {
        let bert = BertModel::new(&(path / "bert"), config, implementation)?;
        let pooler = Pooler::new(&(path / "bert.pooler"), config)?;
        let (dropout, classifier) = config.classifier(&(path / "classifier"), classes)?;
        Ok(Self { bert, pooler, dropout, classifier })
    }

    /// The encoder.
    pub fn bert(&self) -> &BertModel {
        &self.bert
    }

    /// `[b, c]`.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn logits(&self, input: &BertInput, train: bool) -> Result<Tensor> {
        Ok(self.classify(&self.bert.forward(input, train)?, train))
    }

    /// Hidden states `[b, t, d]` to `[b, c]`.
    pub fn classify(&self, hidden_btd: &Tensor, train: bool) -> Tensor {
        let pooled_bd = self.pooler.forward(hidden_btd);
        self.classifier.forward(&self.dropout.forward(pooled_bd, train))
    }

    /// Mean cross-entropy of classes `[b]` I64, or, with one output, the mean squared distance
    /// to numbers `[b]` FP32; a scalar in FP32.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; labels of another shape or dtype.
    pub fn loss(&self, input: &BertInput, labels_b: &Tensor, train: bool) -> Result<Tensor> {
        let logits_bc = self.logits(input, train)?;
        let [b, classes] = logits_bc.size()[..] else {
            return Err(input::refuse("logits", &logits_bc, "[batch, classes]"));
        };
        let fits = labels_b.size() == [b];
        match labels_b.kind() {
            Kind::Int64 if fits && classes > 1 => Ok(loss::cross_entropy(&logits_bc, labels_b)),
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
}

/// A class for each token.
#[derive(Debug)]
pub struct BertForTokenClassification {
    bert: BertModel,
    dropout: Dropout,
    classifier: Linear,
}

impl BertForTokenClassification {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        classes: i64,
        implementation: Implementation,
    ) -> Result<Self> {
        let bert = BertModel::new(&(path / "bert"), config, implementation)?;
        let (dropout, classifier) = config.classifier(&(path / "classifier"), classes)?;
        Ok(Self { bert, dropout, classifier })
    }

    /// The encoder.
    pub fn bert(&self) -> &BertModel {
        &self.bert
    }

    /// `[b, t, c]`.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn logits(&self, input: &BertInput, train: bool) -> Result<Tensor> {
        Ok(self.classify(&self.bert.forward(input, train)?, train))
    }

    /// Hidden states `[b, t, d]` to `[b, t, c]`.
    pub fn classify(&self, hidden_btd: &Tensor, train: bool) -> Tensor {
        self.classifier.forward(&self.dropout.forward(hidden_btd.shallow_clone(), train))
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

/// The start and end of an answer within the text.
#[derive(Debug)]
pub struct BertForQuestionAnswering {
    bert: BertModel,
    outputs: Linear,
}

impl BertForQuestionAnswering {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        implementation: Implementation,
    ) -> Result<Self> {
        let bert = BertModel::new(&(path / "bert"), config, implementation)?;
        let outputs = &(path / "qa_outputs");
        let outputs = Linear::head(outputs, config.hidden_size, 2, Biased::Yes, config.init())?;
        Ok(Self { bert, outputs })
    }

    /// The encoder.
    pub fn bert(&self) -> &BertModel {
        &self.bert
    }

    /// Logits `[b, t]` of the answer's first and last token.
    ///
    /// # Errors
    /// As [`BertModel::forward`].
    pub fn logits(&self, input: &BertInput, train: bool) -> Result<(Tensor, Tensor)> {
        let logits_bt2 = self.spans(&self.bert.forward(input, train)?);
        Ok((logits_bt2.select(-1, 0), logits_bt2.select(-1, 1)))
    }

    /// Hidden states `[b, t, d]` to the logits `[b, t, 2]` of first and last tokens.
    pub fn spans(&self, hidden_btd: &Tensor) -> Tensor {
        self.outputs.forward(hidden_btd)
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
