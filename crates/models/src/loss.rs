//! Losses, with softmax statistics in FP32 whatever the logits' dtype.
//!
//! Axes: `n` rows, `d` features, `v` vocabulary.

use bert4rs_kernels::cross_entropy as kernel;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::policy::Policy;
use bert4rs_tensor_core::{Kind, Reduction, Tensor, no_grad_guard};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The label that counts for nothing, as in transformers.
pub const IGNORED: i64 = -100;

/// Which code computes the loss of an output layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossImplementation {
    /// All logits, then their log-softmax: the reference.
    #[default]
    Plain,
    /// Output layer, loss and gradients together, a chunk of rows at a time, so that memory does
    /// not grow with rows times vocabulary. The same loss within rounding.
    Chunked,
}

/// What is added to cross-entropy, nothing by default, and how it is computed.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossOptions {
    /// Probability `ε` that the target spreads over the whole vocabulary (arXiv 1512.00567).
    pub label_smoothing: f64,
    /// Weight of `(log Σ exp logits)²`, which keeps logits small (arXiv 2204.02311: 1e-4).
    pub z_loss: f64,
    /// Which code computes it.
    pub implementation: LossImplementation,
}

impl LossOptions {
    /// Cross-entropy alone, by the same code: what is measured rather than trained.
    pub fn without_regularization(&self) -> Self {
        Self { implementation: self.implementation, ..Self::default() }
    }

    /// Refuses what is no probability or weight.
    pub fn validate(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.label_smoothing) {
            let reason = "must be at least 0 and below 1";
            return Err(Error::config("label_smoothing", self.label_smoothing, reason));
        }
        if !(self.z_loss.is_finite() && self.z_loss >= 0.0) {
            return Err(Error::config("z_loss", self.z_loss, "must be at least 0"));
        }
        Ok(())
    }
}

/// The labels of a batch, and how their losses become one.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// I64 `[b, t]`, the token that is to follow each position; [`IGNORED`] does not count.
    pub ids_bt: &'a Tensor,
    /// The positions in the flattened batch (`row · t + column`), I64 `[n]`, whose labels count:
    /// logits are computed for these alone, with the same loss and gradients. All if absent.
    pub counted_n: Option<&'a Tensor>,
    /// What the sum of the losses is divided by, I64 `[]` on the labels' device: the number of
    /// labels in all batches of a step, for batches whose gradients are added up. If absent, the
    /// number of these labels that count, which gives their mean.
    pub divisor: Option<&'a Tensor>,
}

impl<'a> From<&'a Tensor> for Labels<'a> {
    /// The mean over those that count.
    fn from(ids_bt: &'a Tensor) -> Self {
        Self { ids_bt, counted_n: None, divisor: None }
    }
}

impl Labels<'_> {
    /// The rows of `hidden_nd` that are to be predicted from, and their labels `[n]`.
    pub(crate) fn select(&self, hidden_nd: Tensor) -> (Tensor, Tensor) {
        let labels_n = self.ids_bt.flatten(0, 1);
        match self.counted_n {
            None => (hidden_nd, labels_n),
            Some(rows) => (hidden_nd.index_select(0, rows), labels_n.index_select(0, rows)),
        }
    }
}

/// Mean over rows of `-log softmax(logits)[label]`, a scalar in FP32 (FP64 for FP64 logits).
///
/// `logits_nv` is of any float dtype, `labels_n` is I64; rows labelled [`IGNORED`] don't count.
pub fn cross_entropy(logits_nv: &Tensor, labels_n: &Tensor) -> Tensor {
    cross_entropy_with(logits_nv, labels_n, &LossOptions::default())
}

/// [`cross_entropy`], with what `options` add.
pub fn cross_entropy_with(logits_nv: &Tensor, labels_n: &Tensor, options: &LossOptions) -> Tensor {
    let count = labels_n.ne(IGNORED).sum(Kind::Int64);
    divided_cross_entropy(logits_nv, labels_n, &count, options)
}

/// The sum that [`cross_entropy_with`] divides by the number of labels, divided by `divisor`.
fn divided_cross_entropy(
    logits_nv: &Tensor,
    labels_n: &Tensor,
    divisor: &Tensor,
    options: &LossOptions,
) -> Tensor {
    let exact = if logits_nv.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let log_probs_nv = logits_nv.log_softmax(-1, exact);
    let sum = log_probs_nv.nll_loss_nd(labels_n, None::<Tensor>, Reduction::Sum, IGNORED);
    let mut loss = sum / divisor;
    if options.label_smoothing == 0.0 && options.z_loss == 0.0 {
        return loss;
    }
    let counted_n = labels_n.ne(IGNORED).to_kind(exact);
    let mean_of = |x_n: Tensor| (x_n * &counted_n).sum(exact) / divisor;
    if options.label_smoothing > 0.0 {
        let uniform = mean_of(-log_probs_nv.mean_dim(-1, false, exact));
        loss = loss * (1.0 - options.label_smoothing) + uniform * options.label_smoothing;
    }
    if options.z_loss > 0.0 {
        let log_z_n = logits_nv.to_kind(exact).logsumexp(-1, false);
        loss += mean_of(log_z_n.square()) * options.z_loss;
    }
    loss
}

/// How well labels are predicted, summed over those that count.
#[derive(Debug)]
pub struct PredictionScore {
    /// Cross-entropy in nats, FP32 `[]`.
    pub loss: Tensor,
    /// Labels that have the greatest logit, FP32 `[]`.
    pub correct: Tensor,
}

/// The layer from features to logits over the vocabulary.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputLayer<'a> {
    /// `[v, d]`
    pub(crate) weight: &'a Tensor,
    /// `[v]`
    pub(crate) bias: Option<&'a Tensor>,
    /// Logits `x` become `cap · tanh(x / cap)`.
    pub(crate) soft_cap: Option<f64>,
    /// What chooses the backends of the chunked loss.
    pub(crate) policy: &'a Policy,
}

impl OutputLayer<'_> {
    /// `[.., d]` to `[.., v]`, in the weight's dtype.
    pub(crate) fn logits(&self, features: &Tensor) -> Tensor {
        let logits = features.linear(self.weight, self.bias);
        match self.soft_cap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        }
    }

    /// How well `features_nd` predict `labels_n`. No logits but those of a chunk of rows are ever
    /// held, and none are kept.
    ///
    /// # Errors
    /// What libtorch throws.
    pub(crate) fn score(&self, features_nd: &Tensor, labels_n: &Tensor) -> Result<PredictionScore> {
        /// So many rows at a time: enough for a product at full speed.
        const ROWS: i64 = 512;
        const OP: &str = "score predictions";
        let _guard = no_grad_guard();
        let zero = || Tensor::f_zeros([0i64; 0], (Kind::Float, labels_n.device())).during(OP);
        let (mut loss, mut correct) = (zero()?, zero()?);
        let rows = labels_n.size()[0];
        for start in (0..rows).step_by(ROWS as usize) {
            let count = ROWS.min(rows - start);
            let labels = labels_n.f_narrow(0, start, count).during(OP)?;
            let logits = self.logits(&features_nd.f_narrow(0, start, count).during(OP)?);
            let hits = logits.f_argmax(-1, false).during(OP)?.f_eq_tensor(&labels).during(OP)?;
            correct += hits.f_sum(Kind::Float).during(OP)?;
            let log_probs = logits.f_log_softmax(-1, Kind::Float).during(OP)?;
            loss += log_probs.nll_loss_nd(&labels, None::<Tensor>, Reduction::Sum, IGNORED);
        }
        Ok(PredictionScore { loss, correct })
    }

    /// [`cross_entropy_with`] of the logits of `features_nd`, by the implementation that
    /// `options` name, and divided as [`Labels::divisor`] says.
    ///
    /// # Errors
    /// A label that is no token, where it is looked at.
    pub(crate) fn cross_entropy(
        &self,
        features_nd: &Tensor,
        labels_n: &Tensor,
        divisor: Option<&Tensor>,
        options: &LossOptions,
    ) -> Result<Tensor> {
        match options.implementation {
            LossImplementation::Plain => {
                let logits_nv = self.logits(features_nd);
                Ok(match divisor {
                    Some(divisor) => divided_cross_entropy(&logits_nv, labels_n, divisor, options),
                    None => cross_entropy_with(&logits_nv, labels_n, options),
                })
            }
            LossImplementation::Chunked => {
                let output = kernel::OutputWeights { weight: self.weight, bias: self.bias };
                let options = kernel::CrossEntropyOptions {
                    label_smoothing: options.label_smoothing,
                    z_loss: options.z_loss,
                    soft_cap: self.soft_cap,
                    ignored: IGNORED,
                };
                let policy = self.policy;
                Ok(kernel::linear_cross_entropy(
                    features_nd,
                    output,
                    labels_n,
                    divisor,
                    &options,
                    policy,
                )?)
            }
        }
    }
}
