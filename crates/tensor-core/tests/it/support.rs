//! What several test modules use.

use bert4rs_tensor_core::{Kind, Tensor};

/// An FP64 leaf that requires gradients.
pub(crate) fn leaf(values: &[f64]) -> Tensor {
    Tensor::from_slice(values).set_requires_grad(true)
}

/// All values, in row-major order.
pub(crate) fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}
