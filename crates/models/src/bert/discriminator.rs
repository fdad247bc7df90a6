//! ELECTRA's discriminator: which tokens were replaced.
//!
//! Axes: `b` batch, `t` time, `d` features.

use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::ParamPath;
use bert4rs_tensor_core::{Kind, Reduction, Tensor};

use super::relatives::names::{HeadActivation, TransformNames};
use super::transform::Transform;
use super::{BertConfig, BertInput, BertModel};
use crate::error::Result;
use crate::input;
use crate::layers::{Biased, Linear};
use crate::mask;

const TRANSFORM: TransformNames = TransformNames {
    dense: "discriminator_predictions.dense",
    activation: HeadActivation::OfBlocks,
    norm: None,
};

/// Whether each token was replaced, as transformers' `ElectraForPreTraining`.
#[derive(Debug)]
pub struct BertForReplacedTokens {
    bert: BertModel,
    transform: Transform,
    prediction: Linear,
}

impl BertForReplacedTokens {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        let bert = BertModel::under_root(path, config, implementation)?;
        let d = config.hidden_size;
        let transform = Transform::new(path, &TRANSFORM, config, d)?;
        let prediction = path / "discriminator_predictions.dense_prediction";
        let prediction = Linear::head(&prediction, d, 1, Biased::Yes, config.init())?;
        Ok(Self { bert, transform, prediction })
    }

    /// The encoder.
    pub fn bert(&self) -> &BertModel {
        &self.bert
    }

    /// The encoder, to be changed.
    pub fn bert_mut(&mut self) -> &mut BertModel {
        &mut self.bert
    }

    /// Hidden states `[b, t, d]` to `[b, t]`: above 0 where a token was more likely replaced.
    ///
    /// # Errors
    /// What the kernels throw.
    pub fn classify(&self, hidden_btd: &Tensor) -> Result<Tensor> {
        Ok(self.prediction.forward(&self.transform.forward(hidden_btd)?).squeeze_dim(-1))
    }

    /// Mean binary cross-entropy of `labels_bt`, I64: 1 where a token was replaced, 0 where not; a
    /// scalar in FP32. Padding by `input.mask` does not count.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; labels of another shape or dtype; a mask of anything but padding.
    pub fn loss(&self, input: &BertInput, labels_bt: &Tensor, train: bool) -> Result<Tensor> {
        let (b, t) = input::batch_and_time("input_ids", input.input_ids)?;
        input::check_ids("labels", labels_bt, &[[b, t]])?;
        let logits_bt = self.classify(&self.bert.forward(input, train)?)?;
        let real_bt = input.mask.map(|mask| mask::real_tokens(mask, [b, t])).transpose()?;
        Ok(replaced_loss(&logits_bt, labels_bt, real_bt.as_ref()))
    }
}

/// Mean binary cross-entropy over the tokens that `real_bt` names; over all if absent.
pub(crate) fn replaced_loss(
    logits_bt: &Tensor,
    labels_bt: &Tensor,
    real_bt: Option<&Tensor>,
) -> Tensor {
    let (logits_bt, labels_bt) = (logits_bt.to_kind(Kind::Float), labels_bt.to_kind(Kind::Float));
    let none = None::<&Tensor>;
    let losses_bt =
        logits_bt.binary_cross_entropy_with_logits(&labels_bt, none, none, Reduction::None);
    match real_bt {
        None => losses_bt.mean(Kind::Float),
        Some(real_bt) => {
            let real_bt = real_bt.to_kind(Kind::Float);
            (losses_bt * &real_bt).sum(Kind::Float) / real_bt.sum(Kind::Float)
        }
    }
}
