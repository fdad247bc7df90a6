//! Rotary position embedding (RoPE, arXiv 2104.09864), and YaRN, which stretches it to longer
//! sequences (arXiv 2309.00071).
//!
//! Axes: `b` batch, `h` heads, `t` time, `e` features of a head, `r` = e/2 rotations.
//!
//! Feature `i` pairs with feature `i + e/2`, as in Llama and GPT-NeoX.

use std::f64::consts::PI;

use bert4rs_kernels::rotary as kernel;
use bert4rs_tensor_core::policy::{Op, Policy};
use bert4rs_tensor_core::{Device, Kind, Tensor};
use serde::{Deserialize, Serialize};

use super::Norm;
use crate::error::{Error, Result};

/// How positions rotate queries and keys.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotary {
    /// The base: rotation `i` has a wavelength of `2π · theta^(2i/e)` positions.
    #[serde(default = "published_theta")]
    pub theta: f64,
    /// Stretching to longer sequences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yarn: Option<Yarn>,
}

/// YaRN: slow rotations are interpolated, fast ones kept, those between blended; queries and keys
/// are scaled by the attention temperature.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Yarn {
    /// How many times longer than the original.
    pub factor: f64,
    /// The length that the model was trained on before.
    pub original_max_position_embeddings: i64,
    /// Rotations in the original length above which a frequency is kept.
    #[serde(default = "published_beta_fast")]
    pub beta_fast: f64,
    /// Rotations in the original length below which a frequency is interpolated in full.
    #[serde(default = "published_beta_slow")]
    pub beta_slow: f64,
    /// The attention temperature's root, `0.1 ln(factor) + 1` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_factor: Option<f64>,
}

fn published_theta() -> f64 {
    10_000.0
}

fn published_beta_fast() -> f64 {
    32.0
}

fn published_beta_slow() -> f64 {
    1.0
}

impl Rotary {
    /// Refuses values that no rotation has, for heads of `head_size` features.
    pub fn validate(&self, head_size: i64) -> Result<()> {
        if head_size % 2 != 0 {
            let reason = "rotary positions need an even number of features in a head";
            return Err(Error::config("head size", head_size, reason));
        }
        if !(self.theta.is_finite() && self.theta > 1.0) {
            return Err(Error::config("positions.theta", self.theta, "must be above 1"));
        }
        let Some(yarn) = self.yarn else { return Ok(()) };
        if !(yarn.factor.is_finite() && yarn.factor >= 1.0) {
            return Err(Error::config("positions.yarn.factor", yarn.factor, "must be at least 1"));
        }
        if yarn.original_max_position_embeddings < 1 {
            let value = yarn.original_max_position_embeddings;
            let key = "positions.yarn.original_max_position_embeddings";
            return Err(Error::config(key, value, "must be at least 1"));
        }
        if !(yarn.beta_slow > 0.0 && yarn.beta_slow < yarn.beta_fast) {
            let reason = format!("must be above 0 and below beta_fast = {}", yarn.beta_fast);
            return Err(Error::config("positions.yarn.beta_slow", yarn.beta_slow, reason));
        }
        match yarn.attention_factor {
            Some(value) if !(value.is_finite() && value > 0.0) => {
                Err(Error::config("positions.yarn.attention_factor", value, "must be above 0"))
            }
            _ => Ok(()),
        }
    }

    /// Radians a position, of each of the `head_size / 2` rotations.
    pub fn frequencies(&self, head_size: i64) -> Vec<f64> {
        let width = head_size as f64;
        let plain = (0..head_size / 2).map(|i| self.theta.powf(-2.0 * i as f64 / width));
        let Some(yarn) = self.yarn else { return plain.collect() };
        let length = yarn.original_max_position_embeddings as f64;
        // The rotation that turns `turns` times over the original length.
        let rotation =
            |turns: f64| width * (length / (turns * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let low = rotation(yarn.beta_fast).floor().max(0.0);
        let mut high = rotation(yarn.beta_slow).ceil().min(width - 1.0);
        if low == high {
            high += 0.001; // as published: the ramp has no width of 0
        }
        let blend = |(i, kept): (usize, f64)| {
            let interpolated = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
            kept / yarn.factor * interpolated + kept * (1.0 - interpolated)
        };
        plain.enumerate().map(blend).collect()
    }

    /// What rotated queries and keys are multiplied with: the root of the attention temperature.
    pub fn attention_factor(&self) -> f64 {
        match self.yarn {
            None => 1.0,
            Some(yarn) => yarn.attention_factor.unwrap_or(0.1 * yarn.factor.ln() + 1.0),
        }
    }

    /// The rotations of positions `[t]` or `[b, t]`, I64, once for all layers.
    pub fn rotation(&self, positions: &Tensor, head_size: i64, kind: Kind) -> Rotation {
        let frequencies: Vec<f32> =
            self.frequencies(head_size).iter().map(|&radians| radians as f32).collect();
        let frequencies_r = Tensor::from_slice(&frequencies).to_device(positions.device());
        let half = positions.to_kind(Kind::Float).unsqueeze(-1) * frequencies_r;
        let angles = Tensor::cat(&[&half, &half], -1).unsqueeze(-2);
        let factor = self.attention_factor();
        Rotation {
            cos: (angles.cos() * factor).to_kind(kind),
            sin: (angles.sin() * factor).to_kind(kind),
        }
    }

    /// [`rotation`](Self::rotation) of positions `first` to `first + count - 1`.
    pub fn rotation_of_range(
        &self,
        first: i64,
        count: i64,
        head_size: i64,
        kind: Kind,
        device: Device,
    ) -> Rotation {
        let positions = Tensor::arange_start(first, first + count, (Kind::Int64, device));
        self.rotation(&positions, head_size, kind)
    }
}

/// Cosines and sines of some positions, `[t, 1, e]` or `[b, t, 1, e]`.
#[derive(Debug)]
pub struct Rotation {
    cos: Tensor,
    sin: Tensor,
}

/// A clone shares the tables.
impl Clone for Rotation {
    fn clone(&self) -> Self {
        Self { cos: self.cos.shallow_clone(), sin: self.sin.shallow_clone() }
    }
}

impl Rotation {
    /// `[b, t, h, e]`, each head normed if asked for, each pair of its features rotated by its
    /// position's angle.
    ///
    /// # Errors
    /// What the kernels throw.
    pub fn forward(&self, x_bthe: &Tensor, norm: Option<&Norm>, policy: &Policy) -> Result<Tensor> {
        let angles = kernel::Angles { cos: &self.cos, sin: &self.sin };
        let own_norm = norm.and_then(Norm::of_heads);
        let has_norm = own_norm.is_some() == norm.is_some();
        let is_supported = has_norm && kernel::supports(x_bthe, &angles, own_norm.as_ref());
        if is_supported && policy.takes_own(Op::Rotary, x_bthe) {
            return Ok(kernel::rotate(x_bthe, &angles, own_norm.as_ref())?);
        }
        match norm {
            Some(norm) => Ok(angles.forward(&norm.forward(x_bthe)?)),
            None => Ok(angles.forward(x_bthe)),
        }
    }
}
