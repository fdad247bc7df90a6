//! GPT with a class for each sequence.
//!
//! Axes: `b` batch, `t` time, `d` features, `c` classes.

use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::{Init, ParamPath};
use bert4rs_tensor_core::{Kind, Tensor};

use super::{Gpt, GptConfig, GptInput};
use crate::bert::classes_loss;
use crate::error::{Error, Result};
use crate::layers::{Biased, Linear};

/// A class, or a number, for each sequence, read from its last token that is no padding, as
/// transformers' `GPT2ForSequenceClassification`.
#[derive(Debug)]
pub struct GptForSequenceClassification {
    gpt: Gpt,
    score: Linear,
}

impl GptForSequenceClassification {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &GptConfig,
        classes: i64,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        if classes < 1 {
            return Err(Error::config("num_labels", classes, "must be at least 1"));
        }
        let gpt = Gpt::without_output(path, config, implementation)?;
        let init = Init::Normal(config.initializer_range);
        let score = Linear::head(&(path / "score"), config.n_embd, classes, Biased::No, init)?;
        Ok(Self { gpt, score })
    }

    /// The model without the classifier.
    pub fn gpt(&self) -> &Gpt {
        &self.gpt
    }

    /// The same, to be changed.
    pub fn gpt_mut(&mut self) -> &mut Gpt {
        &mut self.gpt
    }

    /// `[b, c]`.
    ///
    /// # Errors
    /// As [`Gpt::forward`] and [`classify`](Self::classify).
    pub fn logits(&self, input: &GptInput, train: bool) -> Result<Tensor> {
        self.classify(&self.gpt.forward(input, train)?, input.input_ids)
    }

    /// Hidden states `[b, t, d]` of tokens `ids_bt` to `[b, c]`.
    ///
    /// # Errors
    /// Several sequences in a model that has no padding token.
    pub fn classify(&self, hidden_btd: &Tensor, ids_bt: &Tensor) -> Result<Tensor> {
        let (b, t) = (ids_bt.size()[0], ids_bt.size()[1]);
        let last_b = match self.gpt.config().pad_token_id {
            Some(pad) => {
                let position_t = Tensor::arange(t, (Kind::Int64, ids_bt.device()));
                (ids_bt.ne(pad).to_kind(Kind::Int64) * position_t).argmax(-1, false)
            }
            None if b == 1 => Tensor::full([b], t - 1, (Kind::Int64, ids_bt.device())),
            None => {
                let reason = "several sequences need the token that fills up the shorter ones";
                return Err(Error::config("pad_token_id", "none", reason));
            }
        };
        let row_b = Tensor::arange(b, (Kind::Int64, ids_bt.device()));
        let index = [Some(row_b), Some(last_b)];
        Ok(self.score.forward(&hidden_btd.index(&index)))
    }

    /// The last tokens' hidden states `[b, d]` to `[b, c]`.
    pub fn score(&self, last_bd: &Tensor) -> Tensor {
        self.score.forward(last_bd)
    }

    /// Mean cross-entropy of classes `[b]` I64, or, with one output, the mean squared distance
    /// to numbers `[b]` FP32; a scalar in FP32.
    ///
    /// # Errors
    /// As [`logits`](Self::logits); labels of another shape or dtype.
    pub fn loss(&self, input: &GptInput, labels_b: &Tensor, train: bool) -> Result<Tensor> {
        classes_loss(&self.logits(input, train)?, labels_b)
    }
}
