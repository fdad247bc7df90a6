//! Gradients of a loss, all dense.

use std::borrow::Borrow;

use tch::Tensor;

use crate::error::{Context, Result};

/// The gradient of `loss`, a scalar, for each of `weights`; undefined where it does not depend on
/// one. Sparse gradients, which lookups in tables may give, are made dense. The graph is freed.
///
/// # Errors
/// What libtorch throws, as where nothing was recorded.
pub fn gradients<T: Borrow<Tensor>>(loss: &Tensor, weights: &[T]) -> Result<Vec<Tensor>> {
    let op = "backward";
    let found = Tensor::f_run_backward(&[loss], weights, false, false).during(op)?;
    let dense = |gradient: Tensor| match gradient.defined() && gradient.is_sparse() {
        true => gradient.f_to_dense(None, false).during(op),
        false => Ok(gradient),
    };
    found.into_iter().map(dense).collect()
}
