//! Lookup tables.

use bert4rs_kernels::embedding as kernel;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::{Init, ParamPath, Role};
use bert4rs_tensor_core::policy::{Op, Policy};
use bert4rs_tensor_core::{Result, Tensor};

/// Rows of a table, looked up by index.
#[derive(Debug)]
pub struct Embedding {
    /// `[entries, features]`.
    pub weight: Tensor,
    /// The entry that gets no gradient from being looked up.
    padding: Option<i64>,
    /// Whether an output layer has the same weight.
    is_tied: bool,
    policy: Policy,
}

impl Embedding {
    /// Parameter `weight` under `path`.
    ///
    /// Looking up `padding` gives its row but no gradient to it, as in transformers; a gradient
    /// through a tied output layer still reaches it.
    pub fn new(
        path: &ParamPath,
        entries: i64,
        features: i64,
        padding: Option<i64>,
        init: Init,
    ) -> Result<Self> {
        let weight = path.param("weight", &[entries, features], Role::Embedding, init)?;
        Ok(Self { weight, padding, is_tied: false, policy: path.policy().clone() })
    }

    /// Says that an output layer has the same weight, whose dense gradient is then waiting: fused
    /// lookups give only their own rows, as a sparse gradient, for autograd to add to it.
    pub(crate) fn tie(&mut self) {
        self.is_tied = true;
    }

    /// What chooses its backend.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// `[..]` of I64, each in `0..entries`, to `[.., features]`.
    ///
    /// # Errors
    /// What libtorch throws, as for ids that are no entries.
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor> {
        let op = if self.is_tied { Op::TiedLookup } else { Op::Lookup };
        if kernel::supports(&self.weight) && self.policy.takes_own(op, &self.weight) {
            return kernel::lookup(&self.weight, ids, self.padding);
        }
        let padding = self.padding.unwrap_or(-1);
        Tensor::f_embedding(&self.weight, ids, padding, false, false).during("lookup")
    }
}
