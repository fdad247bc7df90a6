//! Activation checkpointing (arXiv 1604.06174): activations are dropped and recomputed in the
//! backward pass, to save memory.

use bert4rs_tensor_core::{Error as Core, Tensor, autograd};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Which activations are recomputed instead of kept. Gradients stay the same to the bit; only that
/// of T5's relative bias, which blocks share, may be summed in another order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationCheckpointing {
    /// Nothing: every value that the backward pass needs is kept.
    #[default]
    None,
    /// Those within each block: its input alone is kept. Costs a third more FLOPs.
    Blocks,
}

/// [`autograd::checkpoint`] for a body of this crate, which `drops` values or does not.
pub(crate) fn checkpoint(
    inputs: &[&Tensor],
    weights: &[&Tensor],
    drops: bool,
    body: impl Fn(&[Tensor]) -> Result<Tensor> + Send + 'static,
) -> Result<Tensor> {
    let body = move |inputs: &[Tensor]| {
        body(inputs).map_err(|error| match error {
            Error::Core(error) => error,
            other => {
                Core::Torch { op: "activation checkpointing".into(), message: other.to_string() }
            }
        })
    };
    Ok(autograd::checkpoint(inputs, weights, drops, body)?)
}
