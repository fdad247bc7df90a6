//! The residual connection around each half of a transformer block.

use bert4rs_tensor_core::Tensor;
use serde::{Deserialize, Serialize};

use super::{Dropout, Norm, ResidualStream};
use crate::error::Result;

/// Where the normalisation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// `norm(x + f(x))`, as in the first transformer (arXiv 1706.03762).
    Post,
    /// `x + f(norm(x))`, with one more norm after the last block (arXiv 2002.04745).
    Pre,
}

/// A residual connection with its norm and dropout.
#[derive(Debug, Clone)]
pub struct Residual {
    /// Where the norm stands.
    pub placement: Placement,
    /// The norm; absent before the first half where the embeddings are normed already, as in
    /// ModernBERT.
    pub norm: Option<Norm>,
    /// Of the inner function's result.
    pub dropout: Dropout,
}

impl Residual {
    /// `inner` with the connection around it; shapes stay.
    pub fn forward(
        &self,
        x: ResidualStream,
        train: bool,
        inner: impl FnOnce(&Tensor) -> Result<Tensor>,
    ) -> Result<ResidualStream> {
        match (self.placement, &self.norm) {
            (Placement::Post, Some(norm)) => {
                let [x, kept] = x.twice();
                let y = self.dropout.forward(inner(&x)?, train);
                Ok(norm.of_sum(&kept, &y)?)
            }
            (Placement::Pre, Some(norm)) => {
                let [normed, x] = norm.with_sum(x)?;
                let y = self.dropout.forward(inner(&normed)?, train);
                Ok(if norm.adds(&x) {
                    ResidualStream::Sum([x, y])
                } else {
                    ResidualStream::Whole(x + y)
                })
            }
            (_, None) => {
                let [x, kept] = x.twice();
                let y = self.dropout.forward(inner(&x)?, train);
                Ok(ResidualStream::Whole(kept + y))
            }
        }
    }

    /// Its norm's parameters.
    pub fn weights(&self) -> impl Iterator<Item = &Tensor> {
        self.norm.iter().flat_map(Norm::weights)
    }
}
