//! Multi-head attention. Source: arXiv 1706.03762, section 3.2.
//!
//! Axes: `b` batch, `h` heads, `t` time, `d` features, `e` features of a head.

use bert4rs_tensor_core::attention::{Implementation, Options, attention};
use bert4rs_tensor_core::param::{Init, Path, Role};
use bert4rs_tensor_core::{Result, Tensor};

use super::Linear;

/// Sizes and choices of a [`MultiHeadAttention`].
#[derive(Debug, Clone, Copy)]
pub struct MultiHeadConfig {
    /// Features `d` in and out, a multiple of `heads`.
    pub hidden: i64,
    /// Number of heads.
    pub heads: i64,
    /// Which code computes attention.
    pub implementation: Implementation,
    /// Probability of dropping an attention weight, in training.
    pub dropout: f64,
    /// How the matrices start.
    pub init: Init,
}

/// Where a [`MultiHeadAttention`] has its four maps.
#[derive(Debug)]
pub struct MultiHeadPaths<'a> {
    /// Of queries.
    pub query: Path<'a>,
    /// Of keys.
    pub key: Path<'a>,
    /// Of values.
    pub value: Path<'a>,
    /// Of the heads' joint output.
    pub output: Path<'a>,
}

/// `softmax(q kᵀ / √e) v` in each head, between linear maps.
#[derive(Debug)]
pub struct MultiHeadAttention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: i64,
    implementation: Implementation,
    dropout: f64,
}

impl MultiHeadAttention {
    /// Four maps with biases.
    pub fn new(paths: &MultiHeadPaths, config: &MultiHeadConfig) -> Result<Self> {
        let linear =
            |path| Linear::new(path, config.hidden, config.hidden, Role::Matrix, config.init);
        Ok(Self {
            query: linear(&paths.query)?,
            key: linear(&paths.key)?,
            value: linear(&paths.value)?,
            output: linear(&paths.output)?,
            heads: config.heads,
            implementation: config.implementation,
            dropout: config.dropout,
        })
    }

    /// Self-attention: `[b, t, d]` to `[b, t, d]`. `mask` as in [`attention`].
    pub fn forward(&self, x_btd: &Tensor, mask: Option<&Tensor>, train: bool) -> Result<Tensor> {
        let q_bhte = self.split_heads(&self.query.forward(x_btd));
        let k_bhte = self.split_heads(&self.key.forward(x_btd));
        let v_bhte = self.split_heads(&self.value.forward(x_btd));
        let dropout = if train { self.dropout } else { 0.0 };
        let options = Options { implementation: self.implementation, dropout };
        let y_bhte = attention(&q_bhte, &k_bhte, &v_bhte, mask, &options)?;
        // The fused kernels write `[b, t, h, e]` in memory, of which this is a view.
        let y_btd = y_bhte.transpose(1, 2).flatten(2, 3);
        Ok(self.output.forward(&y_btd))
    }

    /// `[b, t, d]` to a view `[b, h, t, e]`.
    fn split_heads(&self, x_btd: &Tensor) -> Tensor {
        x_btd.unflatten(2, [self.heads, -1]).transpose(1, 2)
    }
}
