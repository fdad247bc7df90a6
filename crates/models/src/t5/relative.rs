//! T5's relative positions: a learned bias to attention scores, by bucket of distance.
//! Source: arXiv 1910.10683, section 2.1.
//!
//! Axes: `h` heads, `t` queries, `s` keys, `r` distances.

use bert4rs_tensor_core::param::{Init, ParamPath, Role};
use bert4rs_tensor_core::{Kind, Tensor};

use super::T5Config;
use crate::error::Result;

/// The table of biases, which all blocks of a stack share.
#[derive(Debug)]
pub(super) struct RelativeBias {
    /// `[buckets, h]`
    weight: Tensor,
    max_distance: i64,
    /// Whether keys may come after queries.
    bidirectional: bool,
}

impl RelativeBias {
    /// Parameter `weight` under `path`.
    pub(super) fn new(path: &ParamPath, config: &T5Config, bidirectional: bool) -> Result<Self> {
        let shape = [config.relative_attention_num_buckets, config.num_heads];
        let std = config.initializer_factor * (config.d_model as f64).powf(-0.5);
        let weight = path.param("weight", &shape, Role::RelativeBias, Init::Normal(std))?;
        let max_distance = config.relative_attention_max_distance;
        Ok(Self { weight, max_distance, bidirectional })
    }

    /// `[h, t + s - 1]` for queries that are the last `t` of `s` positions: the bias of each
    /// distance `key - query`, from the least on.
    pub(super) fn forward(&self, queries: i64, keys: i64) -> Tensor {
        let options = (Kind::Int64, self.weight.device());
        let distance_r = Tensor::arange_start(1 - keys, queries, options);
        let bucket_r =
            buckets(&distance_r, self.weight.size()[0], self.max_distance, self.bidirectional);
        self.weight.index_select(0, &bucket_r).transpose(0, 1)
    }
}

/// The bucket of each distance `key - query`: half for exact distances, half for ranges that
/// grow to `max_distance`; if bidirectional, half of each for keys that come later.
///
/// In FP32 with transformers' order of operations, so that the borders of ranges are the same.
fn buckets(distance_r: &Tensor, count: i64, max_distance: i64, bidirectional: bool) -> Tensor {
    let (count, offset_r, back_r) = if bidirectional {
        let half = count / 2;
        (half, distance_r.gt(0).to_kind(Kind::Int64) * half, distance_r.abs())
    } else {
        (count, distance_r.zeros_like(), distance_r.clamp_max(0).neg())
    };
    let exact = count / 2;
    let ranges = (count - exact) as f64;
    let growth = (max_distance as f64 / exact as f64).ln();
    let far_r = (back_r.to_kind(Kind::Float) / exact as f64).log() / growth * ranges;
    // The logarithm of 0 is not used: such distances are exact.
    let far_r = far_r.clamp_min(0.0).to_kind(Kind::Int64) + exact;
    let far_r = far_r.clamp_max(count - 1);
    offset_r + back_r.where_self(&back_r.lt(exact), &far_r)
}

/// The bucket of each of `distances`; for tests.
#[cfg(test)]
fn buckets_of(distances: &[i64], bidirectional: bool) -> Vec<i64> {
    let found = buckets(&Tensor::from_slice(distances), 32, 128, bidirectional);
    Vec::<i64>::try_from(found).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From transformers 5.23.0, `T5Attention._relative_position_bucket`.
    #[test]
    fn buckets_are_those_of_transformers() {
        let distances = [-200, -128, -91, -64, -32, -20, -16, -15, -9, -8, -7, -1, 0];
        let both = [15, 15, 15, 14, 12, 10, 10, 9, 8, 8, 7, 1, 0];
        let back = [31, 31, 29, 26, 21, 17, 16, 15, 9, 8, 7, 1, 0];
        assert_eq!(buckets_of(&distances, true), both);
        assert_eq!(buckets_of(&distances, false), back);
        let later: Vec<i64> = distances[..12].iter().map(|distance| -distance).collect();
        let both_later: Vec<i64> = both[..12].iter().map(|bucket| bucket + 16).collect();
        assert_eq!(buckets_of(&later, true), both_later);
        assert_eq!(buckets_of(&later, false), [0; 12]);
    }
}
