//! Linear maps.

use bert4rs_tensor_core::param::{Init, Path, Role};
use bert4rs_tensor_core::{Result, Tensor};

/// `y = x Wᵀ + b`.
#[derive(Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weight: Tensor,
    /// `[outputs]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// With a bias that starts at 0. Parameters `weight` (of `role`) and `bias` under `path`.
    pub fn new(path: &Path, inputs: i64, outputs: i64, role: Role, init: Init) -> Result<Self> {
        let mut linear = Self::without_bias(path, inputs, outputs, role, init)?;
        linear.bias = Some(path.param("bias", &[outputs], Role::Bias, Init::Zeros)?);
        Ok(linear)
    }

    /// Without a bias. Parameter `weight` (of `role`) under `path`.
    pub fn without_bias(
        path: &Path,
        inputs: i64,
        outputs: i64,
        role: Role,
        init: Init,
    ) -> Result<Self> {
        let weight = path.param("weight", &[outputs, inputs], role, init)?;
        Ok(Self { weight, bias: None })
    }

    /// `[.., inputs]` to `[.., outputs]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight, self.bias.as_ref())
    }
}
