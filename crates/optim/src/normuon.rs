//! NorMuon's second stage: rows of an orthogonalised update scaled by their running size.
//!
//! A polar factor's singular values are equal, the norms of its rows (or columns, on the longer
//! side) are not. The mean square of each is tracked and divided out; then the update gets its
//! Frobenius norm back. Source: arXiv 2510.05491 and its authors' `normuon.py`.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

const OP: &str = "NorMuon";

/// NorMuon's settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NorMuonConfig {
    /// Decay rate of the mean squares. 0.95 in the paper, 0.9 in modded-nanogpt and nanochat.
    pub beta2: f64,
    /// What a mean is taken over.
    pub axis: SecondMomentAxis,
}

/// The authors'.
impl Default for NorMuonConfig {
    fn default() -> Self {
        Self { beta2: 0.95, axis: SecondMomentAxis::Rows }
    }
}

/// What NorMuon takes a mean square of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecondMomentAxis {
    /// Each row, an output neuron: `O / (sqrt(v) + 1e-10)`. The authors'.
    Rows,
    /// Each index of the longer side, rows where equal: `O / sqrt(max(v, 1e-10))`.
    /// modded-nanogpt's, found slightly better there.
    LongerSide,
}

impl SecondMomentAxis {
    /// The axis that the mean runs over, 1 or 2 of `[k, rows, cols]`.
    pub fn reduced(self, rows: i64, cols: i64) -> i64 {
        match self {
            Self::Rows => 2,
            Self::LongerSide if rows >= cols => 2,
            Self::LongerSide => 1,
        }
    }

    /// Shape of the mean squares of a matrix `[rows, cols]`.
    pub fn stats_shape(self, rows: i64, cols: i64) -> [i64; 2] {
        if self.reduced(rows, cols) == 2 { [rows, 1] } else { [1, cols] }
    }

    /// `1 / sqrt(v)`, guarded as the axis's source does.
    fn inverse_root(self, v: &Tensor) -> Result<Tensor> {
        const EPS: f64 = 1e-10;
        match self {
            Self::Rows => (v.f_sqrt().during(OP)? + EPS).f_reciprocal().during(OP),
            Self::LongerSide => v.f_clamp_min(EPS).during(OP)?.f_rsqrt().during(OP),
        }
    }
}

/// One NorMuon update of a stack: changes `stats`, `[k, rows, 1]` or `[k, 1, cols]`, and rescales
/// `o_krc`, of the same dtype, FP32 or FP64, in place. Each matrix keeps its norm.
///
/// All sums are taken over the means alone: one pass over `o` for them, one for scaling.
///
/// `weight` is how far `stats` move, a scalar: `1 - beta2`.
pub fn normalize_neurons(
    o_krc: &mut Tensor,
    stats: &mut Tensor,
    norm: &NorMuonConfig,
    weight: &Tensor,
) -> Result<()> {
    let (_, rows, cols) = o_krc.size3().during(OP)?;
    let axis = norm.axis.reduced(rows, cols);
    let count = if axis == 2 { cols } else { rows } as f64;
    let norms = o_krc.f_norm_scalaropt_dim(2.0, &[axis][..], true).during(OP)?;
    let mean = norms.f_square().during(OP)? / count;
    let scale = normuon_scale(mean, stats, norm, (weight, count))?;
    let _ = o_krc.f_mul_(&scale).during(OP)?;
    Ok(())
}

/// The factors of normuon whose mean squares, each over `count` values, are `mean`: `[k, rows, 1]`
/// or `[k, 1, cols]`, as `stats`, which is moved by `weight`.
pub fn normuon_scale(
    mean: Tensor,
    stats: &mut Tensor,
    norm: &NorMuonConfig,
    (weight, count): (&Tensor, f64),
) -> Result<Tensor> {
    let weight = weight.f_to_kind(stats.kind()).during(OP)?;
    let _ = stats.f_lerp_tensor_(&mean, &weight).during(OP)?;
    let scale = norm.axis.inverse_root(stats)?;
    let total = |square: Tensor| -> Result<Tensor> {
        let sum = square.f_sum_dim_intlist(&[1i64, 2][..], true, stats.kind()).during(OP)?;
        (sum * count).f_sqrt().during(OP)
    };
    let norm_before = total(mean.shallow_clone())?;
    let norm_after = total(mean * scale.f_square().during(OP)?)?;
    Ok(scale * norm_before / (norm_after + f64::from(f32::MIN_POSITIVE)))
}
