//! Lookup tables.

use bert4rs_tensor_core::param::{Init, Path, Role};
use bert4rs_tensor_core::{Result, Tensor};

/// Rows of a table, looked up by index.
#[derive(Debug)]
pub struct Embedding {
    /// `[entries, features]`.
    pub weight: Tensor,
    /// The entry that gets no gradient from being looked up; -1 for none.
    padding: i64,
}

impl Embedding {
    /// Parameter `weight` under `path`.
    ///
    /// Looking up `padding` gives its row but no gradient to it, as in transformers; a gradient
    /// through a tied output layer still reaches it.
    pub fn new(
        path: &Path,
        entries: i64,
        features: i64,
        padding: Option<i64>,
        init: Init,
    ) -> Result<Self> {
        let weight = path.param("weight", &[entries, features], Role::Embedding, init)?;
        Ok(Self { weight, padding: padding.unwrap_or(-1) })
    }

    /// `[..]` of I64, each in `0..entries`, to `[.., features]`.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        Tensor::embedding(&self.weight, ids, self.padding, false, false)
    }
}
