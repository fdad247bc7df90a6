//! The plain forms, in libtorch's operations.
//!
//! Axes: `n` rows, `v` classes.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Result, Tensor};

use super::{CrossEntropyOptions, exact};

/// [`super::softmax_cross_entropy_in_place`], of any device and float dtype.
pub(super) fn softmax_cross_entropy_in_place(
    logits: &mut Tensor,
    labels: &Tensor,
    count: &Tensor,
    options: &CrossEntropyOptions,
    wanted: bool,
) -> Result<Tensor> {
    let exact = exact(logits);
    let (classes, ignored) = (logits.size()[1], options.ignored);
    let x_nv = logits.to_kind(exact);
    let capped_nv = match options.soft_cap {
        Some(cap) => (&x_nv / cap).tanh() * cap,
        None => x_nv,
    };
    let counted_n = labels.ne(ignored).to_kind(exact) / count.to_kind(exact);
    let labels_n1 = labels.masked_fill(&labels.eq(ignored), 0).unsqueeze(1);
    let log_sum_n = capped_nv.logsumexp(-1, false);
    let hit_n = capped_nv.gather(1, &labels_n1, false).squeeze_dim(1);
    let mean_n = capped_nv.mean_dim(-1, false, exact);
    let smoothing = options.label_smoothing;
    let loss_n = (&log_sum_n - hit_n) * (1.0 - smoothing)
        + (&log_sum_n - mean_n) * smoothing
        + log_sum_n.square() * options.z_loss;
    let loss = (loss_n * &counted_n).sum(exact);
    if !wanted {
        return Ok(loss);
    }
    let factor_n1 = (&log_sum_n * (2.0 * options.z_loss) + 1.0).unsqueeze(1);
    let weights_nv = (&capped_nv - log_sum_n.unsqueeze(1)).exp() * factor_n1;
    let mut grad_nv = weights_nv - smoothing / classes as f64;
    let hit = labels_n1.full_like(0).to_kind(exact) - (1.0 - smoothing);
    let mut grad_nv = grad_nv.scatter_add_(1, &labels_n1, &hit) * counted_n.unsqueeze(1);
    if let Some(cap) = options.soft_cap {
        grad_nv *= (capped_nv / cap).square().neg() + 1.0;
    }
    logits.f_copy_(&grad_nv).during("cross-entropy")?;
    Ok(loss)
}
