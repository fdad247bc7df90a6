//! One vector of a sequence's hidden states.
//!
//! Axes: `b` batch, `t` time, `d` features.

use std::str::FromStr;

use bert4rs_tensor_core::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::input;

/// How one vector is made of the hidden states `h` of `n` tokens. Source: sentence-transformers'
/// `Pooling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolingMode {
    /// `h₁`.
    Cls,
    /// The greatest value of each feature.
    Max,
    /// `Σ hᵢ / n`.
    Mean,
    /// `Σ hᵢ / √n`.
    MeanSqrtLen,
    /// `Σ i hᵢ / Σ i`. Source: arXiv 2202.08904.
    WeightedMean,
    /// `hₙ`.
    LastToken,
}

impl PoolingMode {
    /// Every one, in the order in which sentence-transformers' older files concatenate them.
    pub const ALL: [Self; 6] =
        [Self::Cls, Self::Max, Self::Mean, Self::MeanSqrtLen, Self::WeightedMean, Self::LastToken];

    /// Its name in `1_Pooling/config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cls => "cls",
            Self::Max => "max",
            Self::Mean => "mean",
            Self::MeanSqrtLen => "mean_sqrt_len_tokens",
            Self::WeightedMean => "weightedmean",
            Self::LastToken => "lasttoken",
        }
    }

    /// The one of this name; `mean_sqrt_len` will do.
    pub fn named(name: &str) -> Option<Self> {
        let is_it = |mode: &Self| {
            name == mode.name() || name == "mean_sqrt_len" && *mode == Self::MeanSqrtLen
        };
        Self::ALL.into_iter().find(is_it)
    }

    /// `[b, d]` in FP32, of real tokens by `keep_bt1`, FP32. `position_bt1` counts tokens from 1.
    fn forward(self, hidden_btd: &Tensor, keep_bt1: &Tensor, position_bt1: &Tensor) -> Tensor {
        let time = [1i64].as_slice();
        let sum = |x: Tensor| x.sum_dim_intlist(time, false, None);
        let least = 1e-9;
        let row = |index_b: Tensor| {
            let (b, d) = (hidden_btd.size()[0], hidden_btd.size()[2]);
            let index_b1d = index_b.view([b, 1, 1]).expand([b, 1, d], false);
            hidden_btd.gather(1, &index_b1d, false).squeeze_dim(1)
        };
        match self {
            Self::Cls => row(keep_bt1.squeeze_dim(-1).argmax(1, false)),
            Self::Max => {
                let hidden_btd = hidden_btd.masked_fill(&keep_bt1.eq(0.0), f64::NEG_INFINITY);
                hidden_btd.amax(time, false)
            }
            Self::Mean => {
                sum(hidden_btd * keep_bt1) / sum(keep_bt1.shallow_clone()).clamp_min(least)
            }
            Self::MeanSqrtLen => {
                let count = sum(keep_bt1.shallow_clone()).clamp_min(least);
                sum(hidden_btd * keep_bt1) / count.sqrt()
            }
            Self::WeightedMean => {
                let weight_bt1 = keep_bt1 * position_bt1;
                sum(hidden_btd * &weight_bt1) / sum(weight_bt1).clamp_min(least)
            }
            Self::LastToken => row((keep_bt1 * position_bt1).squeeze_dim(-1).argmax(1, false)),
        }
    }
}

/// One mode of pooling, or several, whose vectors are concatenated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pooling {
    modes: Vec<PoolingMode>,
}

impl From<PoolingMode> for Pooling {
    fn from(mode: PoolingMode) -> Self {
        Self { modes: vec![mode] }
    }
}

impl Default for Pooling {
    /// The mean.
    fn default() -> Self {
        PoolingMode::Mean.into()
    }
}

impl FromStr for Pooling {
    type Err = Error;

    /// Names with `+` between them.
    fn from_str(text: &str) -> Result<Self> {
        let names: Vec<&str> = text.split('+').collect();
        Self::of_names(&names).map_err(|unknown| Error::Input {
            name: "pooling",
            found: format!("{unknown:?}"),
            expected: format!("one of {}, or several joined by +", Self::names()),
        })
    }
}

impl Pooling {
    /// Of modes by their names.
    ///
    /// # Errors
    /// The first name that is none.
    pub(super) fn of_names<'a>(names: &[&'a str]) -> std::result::Result<Self, &'a str> {
        let mode = |name: &&'a str| PoolingMode::named(name).ok_or(*name);
        let modes: Vec<_> = names.iter().map(mode).collect::<std::result::Result<_, _>>()?;
        if modes.is_empty() { Ok(Self::default()) } else { Ok(Self { modes }) }
    }

    /// Its modes.
    pub(super) fn modes(&self) -> &[PoolingMode] {
        &self.modes
    }

    /// The names of all modes.
    pub(super) fn names() -> String {
        PoolingMode::ALL.map(PoolingMode::name).join(", ")
    }

    /// `[b, t, d]` to `[b, d]`, or to a multiple of `d` features for several modes, in FP32.
    /// `keep_bt` is nonzero for real tokens, of which the first `left_out` of a row do not count.
    ///
    /// # Errors
    /// A `keep_bt` of another shape.
    pub fn forward(&self, hidden_btd: &Tensor, keep_bt: &Tensor, left_out: i64) -> Result<Tensor> {
        let [b, t, _] = hidden_btd.size()[..] else {
            return Err(input::refuse("hidden states", hidden_btd, "[batch, time, features]"));
        };
        if keep_bt.size() != [b, t] {
            return Err(input::refuse("attention_mask", keep_bt, format!("shape [{b}, {t}]")));
        }
        let real_bt = keep_bt.ne(0);
        let position_bt = real_bt.cumsum(1, Kind::Int64);
        let counted_bt = real_bt.logical_and(&position_bt.gt(left_out));
        let [keep_bt1, position_bt1] =
            [counted_bt, position_bt].map(|x_bt| x_bt.to_kind(Kind::Float).unsqueeze(-1));
        let hidden_btd = hidden_btd.to_kind(Kind::Float);
        let pooled: Vec<Tensor> = self
            .modes
            .iter()
            .map(|mode| mode.forward(&hidden_btd, &keep_bt1, &position_bt1))
            .collect();
        Ok(Tensor::cat(&pooled, -1))
    }
}
