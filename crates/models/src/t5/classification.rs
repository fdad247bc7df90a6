//! T5's encoder with a class for each sequence.
//!
//! Axes: `b` batch, `t` time, `d` features, `c` classes.

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamPath;

use super::{T5Config, T5Encoder};
use crate::bert::mean_of_real;
use crate::error::{Error, Result};
use crate::layers::{Biased, Dropout, Linear};

/// A class, or a number, for each sequence, from the mean of the encoder's states of its tokens,
/// under the head of transformers' `T5ForSequenceClassification`. That class runs a decoder too,
/// and has none without: what is here is in transformers a `T5EncoderModel` and two maps.
#[derive(Debug)]
pub struct T5EncoderForSequenceClassification {
    encoder: T5Encoder,
    dropout: Dropout,
    dense: Linear,
    output: Linear,
}

impl T5EncoderForSequenceClassification {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &T5Config,
        classes: i64,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        if classes < 1 {
            return Err(Error::config("num_labels", classes, "must be at least 1"));
        }
        let encoder = T5Encoder::new(path, config, implementation)?;
        let (d, head) = (config.d_model, path / "classification_head");
        let map =
            |name, outputs| Linear::head(&(&head / name), d, outputs, Biased::Yes, config.init(d));
        Ok(Self {
            encoder,
            dropout: Dropout { probability: config.classifier_dropout.unwrap_or(0.0) },
            dense: map("dense", d)?,
            output: map("out_proj", classes)?,
        })
    }

    /// The encoder.
    pub fn encoder(&self) -> &T5Encoder {
        &self.encoder
    }

    /// The encoder, to be changed.
    pub fn encoder_mut(&mut self) -> &mut T5Encoder {
        &mut self.encoder
    }

    /// Hidden states `[b, t, d]` to `[b, c]`, without dropout. `mask` is that of the encoder's
    /// input, which says what is padding.
    ///
    /// # Errors
    /// A mask of anything but padding.
    pub fn classify(&self, hidden_btd: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
        Ok(self.classify_pooled(mean_of_real(hidden_btd, mask)?, false))
    }

    /// Means of sequences' hidden states `[b, d]` to `[b, c]`. Dropout acts if `train`.
    pub fn classify_pooled(&self, mean_bd: Tensor, train: bool) -> Tensor {
        let inner_bd = self.dense.forward(&self.dropout.forward(mean_bd, train)).tanh();
        self.output.forward(&self.dropout.forward(inner_bd, train))
    }
}
