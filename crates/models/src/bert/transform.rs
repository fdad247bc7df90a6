//! What heads do before their last map.
//!
//! Axes: `b` batch, `t` time, `d` features.

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::param::ParamPath;
use bert4rs_tensor_core::policy::Policy;

use super::BertConfig;
use super::relatives::names::{HeadActivation, TransformNames};
use crate::error::Result;
use crate::layers::activation::activate;
use crate::layers::{Activation, Biased, Linear, Norm};

/// A linear map, an activation and, in some heads, a norm.
#[derive(Debug)]
pub(super) struct Transform {
    dense: Linear,
    /// Absent for `tanh`, which no block has.
    activation: Option<Activation>,
    policy: Policy,
    norm: Option<Norm>,
}

impl Transform {
    /// Makes its parameters under `path`, the model's root, from `d` to `features`.
    pub(super) fn new(
        path: &ParamPath,
        names: &TransformNames,
        config: &BertConfig,
        features: i64,
    ) -> Result<Self> {
        let (d, biased, init) = (config.hidden_size, config.heads_biased(), config.init());
        let dense = path / names.dense;
        let policy = dense.policy().clone();
        let dense = Linear::new(&dense, d, features, biased, init)?;
        let norm = match names.norm {
            Some(name) => Some(config.norm(&(path / name), features)?),
            None => None,
        };
        let activation = match names.activation {
            HeadActivation::OfBlocks => Some(config.hidden_act),
            HeadActivation::Of(activation) => Some(activation),
            HeadActivation::Tanh => None,
        };
        Ok(Self { dense, activation, policy, norm })
    }

    /// `[.., d]` to `[.., features]`.
    ///
    /// # Errors
    /// What the kernels throw.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.dense.forward(x);
        let inner = match self.activation {
            Some(activation) => activate(&self.policy, activation, &x, None)?,
            None => x.tanh(),
        };
        match &self.norm {
            Some(norm) => Ok(norm.forward(&inner)?),
            None => Ok(inner),
        }
    }
}

/// One vector for a sequence: `tanh` of a map of its first token, for heads.
#[derive(Debug)]
pub struct Pooler {
    dense: Linear,
}

impl Pooler {
    /// Makes its parameters under `path`, which is `bert.pooler`.
    pub fn new(path: &ParamPath, config: &BertConfig) -> Result<Self> {
        let d = config.hidden_size;
        let dense = Linear::new(&(path / "dense"), d, d, Biased::Yes, config.init())?;
        Ok(Self { dense })
    }

    /// `[b, t, d]` to `[b, d]`.
    pub fn forward(&self, hidden_btd: &Tensor) -> Tensor {
        self.dense.forward(&hidden_btd.select(1, 0)).tanh()
    }
}
