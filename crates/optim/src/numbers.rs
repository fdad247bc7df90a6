//! The numbers of one step, as tensors on the weights' device.
//!
//! Updates read them from there, so that the same launches do for every step, also for one that
//! the device alone decides about: with [`GradScale::OnDevice`] and gradients that are not finite,
//! the numbers are such that nothing changes.

use bert4rs_kernels::{adamw, muon};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

const OP: &str = "numbers of a step";

/// The factor on gradients, from clipping.
#[derive(Debug)]
pub(crate) enum GradScale {
    /// The host knows it, and that all gradients are finite.
    Known(f64),
    /// FP64 `[]`: 0 where gradients are not all finite, and then they count as 0.
    OnDevice(Tensor),
}

impl GradScale {
    /// `grad`, scaled.
    pub(crate) fn apply(&self, grad: Tensor) -> Result<Tensor> {
        match self {
            Self::Known(1.0) => Ok(grad),
            Self::Known(factor) => grad.f_mul_scalar(*factor).during(OP),
            Self::OnDevice(factor) => {
                let scaled = grad.f_mul(factor).during(OP)?;
                scaled.f_masked_fill(&factor.eq(0.0), 0.0).during(OP)
            }
        }
    }
}

/// The numbers of AdamW for parameters of one learning rate and decay.
#[derive(Debug)]
pub(crate) struct AdamwNumbers {
    /// [`adamw::Scalars`] in FP64, `[8]`.
    exact: Tensor,
    /// The same in FP32, as kernels take them.
    pub(crate) float: Tensor,
}

impl AdamwNumbers {
    /// Of each row of `[groups, 8]`, FP64.
    pub(crate) fn of_rows(rows: &Tensor) -> Result<Vec<Self>> {
        let float = rows.f_to_kind(Kind::Float).during(OP)?;
        let row = |index| {
            let exact = rows.f_get(index).during(OP)?;
            Ok(Self { exact, float: float.f_get(index).during(OP)? })
        };
        (0..rows.size()[0]).map(row).collect()
    }

    /// The numbers one by one, scalars of `kind`, in the order of [`adamw::Scalars`].
    pub(crate) fn scalars(&self, kind: Kind) -> Result<[Tensor; adamw::Scalars::COUNT]> {
        scalars(if kind == Kind::Float { &self.float } else { &self.exact })
    }
}

/// The numbers of Muon.
#[derive(Debug)]
pub(crate) struct MuonNumbers {
    /// The factor on gradients.
    pub(crate) scale: GradScale,
    /// [`muon::Scalars`] in FP64, `[4]`.
    exact: Tensor,
    /// The same in FP32, as kernels take them.
    pub(crate) float: Tensor,
    /// How far NorMuon's mean squares move, FP64 `[]`: `1 - beta2`, or 0.
    pub(crate) stats_weight: Tensor,
}

impl MuonNumbers {
    /// Of `[4]` and `[]`, FP64.
    pub(crate) fn new(scale: GradScale, exact: Tensor, stats_weight: Tensor) -> Result<Self> {
        let float = exact.f_to_kind(Kind::Float).during(OP)?;
        Ok(Self { scale, exact, float, stats_weight })
    }

    /// The numbers one by one, scalars of `kind`, in the order of [`muon::Scalars`].
    pub(crate) fn scalars(&self, kind: Kind) -> Result<[Tensor; muon::Scalars::COUNT]> {
        scalars(if kind == Kind::Float { &self.float } else { &self.exact })
    }
}

fn scalars<const COUNT: usize>(numbers: &Tensor) -> Result<[Tensor; COUNT]> {
    let all = numbers.f_unbind(0).during(OP)?;
    all.try_into().map_err(|_| bert4rs_tensor_core::Error::Shape {
        op: OP,
        tensor: "numbers",
        found: numbers.size(),
        expected: format!("[{COUNT}]"),
    })
}

/// `values` on `device`, in FP64.
pub(crate) fn upload(values: &[f64], device: Device) -> Result<Tensor> {
    Tensor::f_from_slice(values).and_then(|host| host.f_to_device(device)).during(OP)
}
