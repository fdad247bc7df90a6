//! Losses, with softmax statistics in FP32 whatever the logits' dtype.
//!
//! Axes: `n` rows, `v` vocabulary.

use bert4rs_tensor_core::{Kind, Reduction, Tensor};

/// The label that counts for nothing, as in transformers.
pub const IGNORED: i64 = -100;

/// Mean over rows of `-log softmax(logits)[label]`, a scalar in FP32 (FP64 for FP64 logits).
///
/// `logits_nv` is of any float dtype, `labels_n` is I64; rows labelled [`IGNORED`] don't count.
pub fn cross_entropy(logits_nv: &Tensor, labels_n: &Tensor) -> Tensor {
    let kind = if logits_nv.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let log_probs_nv = logits_nv.log_softmax(-1, kind);
    log_probs_nv.nll_loss_nd(labels_n, None::<Tensor>, Reduction::Mean, IGNORED)
}
