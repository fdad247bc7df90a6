//! What a user chooses of Muon and NorMuon.

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::param::Param;
use bert4rs_tensor_core::policy::Policy;
use serde::{Deserialize, Serialize};

use super::OP;
use super::stack::MatrixBlock;
use crate::error::{Error, Result, check};
use crate::group::{self, UpdateRule};
use crate::implementation::UpdateImplementation;
use crate::momentum::Momentum;
use crate::normuon::NorMuonConfig;
use crate::polar::{Coefficients, Iteration, PolarCompute, PolarOptions};

/// Settings of Muon, and of NorMuon. What a configuration leaves out is as in
/// [`MuonConfig::muon`] with a learning rate of 0.02.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MuonConfig {
    /// Peak learning rate. With scale `match_rms_adamw` as AdamW's, with the others 10 to 100
    /// times as much.
    pub lr: f64,
    /// Each step takes `lr * weight_decay` of a weight; `scale` does not act on it.
    pub weight_decay: f64,
    /// Decay only where update and weight agree in sign (`u * p >= 0`, as dion does).
    pub cautious: bool,
    /// Momentum.
    pub momentum: Momentum,
    /// Look ahead by one step of momentum.
    pub nesterov: bool,
    /// Factor on the update, by shape.
    pub scale: LrScale,
    /// The polynomials of the polar factor.
    pub coefficients: Coefficients,
    /// Dtype of the matrix products.
    pub compute: PolarCompute,
    /// Order of the matrix products.
    pub iteration: Iteration,
    /// NorMuon's second stage; without it this is Muon.
    pub normuon: Option<NorMuonConfig>,
    /// In how many steps a layer moves once: 1 for all layers in all steps; with more, layers take
    /// turns, which spares as much of the products, and keep momentum of all steps. Layers are
    /// numbered by the first number in their parameters' names. On a GPU, with
    /// [`Optimizer::step`](crate::Optimizer::step) alone.
    pub turns: u32,
    /// Parameters that are several matrices in one.
    pub splits: Vec<MatrixSplit>,
    /// How the passes before and after the products are computed.
    pub implementation: UpdateImplementation,
}

impl Default for MuonConfig {
    fn default() -> Self {
        Self::muon(0.02)
    }
}

impl MuonConfig {
    /// Muon with Polar Express, momentum 0.95 with Nesterov, scale `original` and no decay, as
    /// Keller Jordan's defaults are.
    pub fn muon(lr: f64) -> Self {
        Self {
            lr,
            weight_decay: 0.0,
            cautious: false,
            momentum: Momentum::constant(0.95),
            nesterov: true,
            scale: LrScale::Original,
            coefficients: Coefficients::polar_express(5),
            compute: PolarCompute::Input,
            iteration: Iteration::Auto,
            normuon: None,
            turns: 1,
            splits: Vec::new(),
            implementation: UpdateImplementation::Auto,
        }
    }

    /// NorMuon: the same, with the authors' second stage.
    pub fn normuon(lr: f64) -> Self {
        Self { normuon: Some(NorMuonConfig::default()), ..Self::muon(lr) }
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let not_negative = |key, value| check(key, value, value >= 0.0, "must not be negative");
        not_negative("muon.lr", self.lr)?;
        not_negative("muon.weight_decay", self.weight_decay)?;
        if self.cautious && self.weight_decay == 0.0 {
            let reason = "there is no weight decay to be cautious with";
            return check("muon.weight_decay", 0.0, false, reason);
        }
        self.momentum.validate("muon.momentum")?;
        check("muon.turns", f64::from(self.turns), self.turns > 0, "must be at least 1")?;
        self.polar_options(&Policy::default()).validate("muon")?;
        if let Some(NorMuonConfig { beta2, .. }) = self.normuon {
            let inside = (0.0..1.0).contains(&beta2);
            check("muon.normuon.beta2", beta2, inside, "must be at least 0 and below 1")?;
        }
        Ok(())
    }

    /// Refuses a split that matches no parameter of Muon.
    pub(crate) fn check_splits(&self, params: &[Param], rules: &[UpdateRule]) -> Result<()> {
        let unmatched = self.splits.iter().find(|split| {
            let fits = |(param, rule): (&Param, &UpdateRule)| {
                *rule == UpdateRule::Muon && group::matches(&split.names, &param.name)
            };
            !params.iter().zip(rules).any(fits)
        });
        unmatched.map_or(Ok(()), |split| {
            Err(Error::Config {
                key: "muon.splits.names".into(),
                value: split.names.clone(),
                reason: "matches no parameter of Muon".into(),
            })
        })
    }

    /// The matrices that `param` is cut into: first row, rows and columns of each.
    pub(crate) fn matrices(&self, param: &Param) -> Result<Vec<[i64; 3]>> {
        let sides = |block: &MatrixBlock| [block.start, block.rows, block.cols];
        Ok(self.blocks(param)?.iter().map(sides).collect())
    }

    /// The matrices that `param` is cut into.
    ///
    /// # Errors
    /// A parameter that is no matrix, or that a split does not fit.
    pub(super) fn blocks(&self, param: &Param) -> Result<Vec<MatrixBlock>> {
        let (rows, cols) = param.weight.size2().during(&param.name)?;
        let split = self.splits.iter().rfind(|s| group::matches(&s.names, &param.name));
        let sizes = split.map_or(Ok(vec![rows]), |split| split.rows.sizes(rows));
        let sizes =
            sizes.map_err(|reason| Error::Parameter { name: param.name.clone(), reason })?;
        let mut start = 0;
        let mut blocks = Vec::with_capacity(sizes.len());
        for rows in sizes {
            blocks.push(MatrixBlock { start, rows, cols });
            start += rows;
        }
        Ok(blocks)
    }

    /// Values of NorMuon's mean squares for `param`; none for Muon.
    pub(crate) fn stats_values(&self, param: &Param) -> Result<u64> {
        let Some(norm) = self.normuon else { return Ok(0) };
        let values = |block: &MatrixBlock| {
            norm.axis.stats_shape(block.rows, block.cols).iter().product::<i64>() as u64
        };
        Ok(self.blocks(param)?.iter().map(values).sum())
    }

    pub(super) fn polar_options(&self, policy: &Policy) -> PolarOptions {
        let Self { coefficients, compute, iteration, .. } = *self;
        PolarOptions { coefficients, compute, iteration, policy: policy.clone() }
    }
}

/// The factor on an update of shape `[rows, cols]`. A semi-orthogonal matrix has root mean
/// square `1 / sqrt(max(rows, cols))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrScale {
    /// `sqrt(max(1, rows / cols))`: Keller Jordan's, and `original` of `torch.optim.Muon`.
    Original,
    /// `sqrt(rows / cols)`, that is fan-out over fan-in: dion's default.
    Spectral,
    /// `0.2 sqrt(max(rows, cols))`, so that updates are as large as AdamW's: Moonlight's.
    MatchRmsAdamw,
    /// `0.2 sqrt(rows cols) / ‖o‖`: the same for a known norm, the NorMuon paper's.
    UpdateRms,
    /// 1.
    None,
}

impl LrScale {
    /// The factor, unless it depends on the update's norm.
    pub(super) fn by_shape(self, rows: i64, cols: i64) -> f64 {
        let (rows, cols) = (rows as f64, cols as f64);
        match self {
            Self::Original => (rows / cols).max(1.0).sqrt(),
            Self::Spectral => (rows / cols).sqrt(),
            Self::MatchRmsAdamw => 0.2 * rows.max(cols).sqrt(),
            Self::UpdateRms | Self::None => 1.0,
        }
    }

    /// Multiplies each matrix of `o_krc` by the factor, in place.
    pub fn apply(self, o_krc: &mut Tensor) -> Result<()> {
        let (_, rows, cols) = o_krc.size3().during(OP)?;
        if self == Self::UpdateRms {
            let norm_k11 = o_krc.f_norm_scalaropt_dim(2.0, [1, 2], true).during(OP)?;
            let norm_k11 = norm_k11.f_clamp_min(f64::from(f32::MIN_POSITIVE)).during(OP)?;
            let rms = 0.2 * ((rows * cols) as f64).sqrt();
            let _ = o_krc.f_div_(&(norm_k11 / rms)).during(OP)?;
        } else {
            let factor = self.by_shape(rows, cols);
            if factor != 1.0 {
                let _ = o_krc.f_mul_scalar_(factor).during(OP)?;
            }
        }
        Ok(())
    }
}

/// Parameters that hold several matrices below one another, each with a polar factor of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatrixSplit {
    /// Names of parameters, `*` for any text. Must match at least one.
    pub names: String,
    /// Where to cut.
    pub rows: SplitRows,
}

/// How the rows of a parameter are cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SplitRows {
    /// Into so many equal parts: 3 for fused Q, K and V.
    Parts(i64),
    /// Into parts of so many rows: a head's size, or that of two.
    Each(i64),
    /// Into parts of these sizes: Q, K and V with fewer heads of K and V.
    Sizes(Vec<i64>),
}

impl SplitRows {
    /// The sizes of the parts of `rows` rows, or why that can't be.
    fn sizes(&self, rows: i64) -> std::result::Result<Vec<i64>, String> {
        let equal = |parts: i64, each: i64| {
            if parts > 0 && each > 0 && parts * each == rows {
                return Ok(vec![each; parts as usize]);
            }
            Err(format!("{rows} rows can't be cut by {self:?}"))
        };
        match self {
            Self::Parts(parts) => equal(*parts, rows / (*parts).max(1)),
            Self::Each(each) => equal(rows / (*each).max(1), *each),
            Self::Sizes(sizes)
                if sizes.iter().all(|size| *size > 0) && sizes.iter().sum::<i64>() == rows =>
            {
                Ok(sizes.clone())
            }
            Self::Sizes(_) => Err(format!("{rows} rows can't be cut by {self:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bert4rs_tensor_core::{Device, Kind};

    #[test]
    fn rows_are_cut_or_refused() {
        assert_eq!(SplitRows::Parts(3).sizes(12), Ok(vec![4, 4, 4]));
        assert_eq!(SplitRows::Each(6).sizes(12), Ok(vec![6, 6]));
        assert_eq!(SplitRows::Sizes(vec![8, 2, 2]).sizes(12), Ok(vec![8, 2, 2]));
        for rows in
            [SplitRows::Parts(5), SplitRows::Parts(0), SplitRows::Each(5), SplitRows::Each(0)]
        {
            assert!(rows.sizes(12).is_err(), "{rows:?}");
        }
        assert!(SplitRows::Sizes(vec![8, 2]).sizes(12).is_err());
    }

    #[test]
    fn scales_are_those_of_their_sources() {
        let ones = |rows, cols| Tensor::ones([1, rows, cols], (Kind::Double, Device::Cpu));
        for (scale, tall, wide) in [
            (LrScale::Original, 2.0, 1.0),
            (LrScale::Spectral, 2.0, 0.5),
            (LrScale::MatchRmsAdamw, 0.2 * 8.0, 0.2 * 8.0),
            (LrScale::UpdateRms, 0.2, 0.2),
            (LrScale::None, 1.0, 1.0),
        ] {
            for (input, expected) in [(ones(64, 16), tall), (ones(16, 64), wide)] {
                let mut found = input;
                scale.apply(&mut found).unwrap();
                let found = found.double_value(&[0, 3, 3]);
                assert!((found - expected).abs() < 1e-12, "{scale:?}: {found}");
            }
        }
    }
}
