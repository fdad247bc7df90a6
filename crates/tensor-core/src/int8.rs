//! Which linear maps multiply integers of 8 bits, and how. The maps themselves are in the crates
//! above.

use serde::{Deserialize, Serialize};

use crate::fp8::takes_part;
use crate::param::Role;

/// Which of a linear map's three products are of integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Int8Products {
    /// None.
    #[default]
    Off,
    /// The output alone.
    Forward,
    /// The output and the input's gradient; the weight's, where outliers of both sides meet, is in
    /// the weights' dtype (SwitchBack, arXiv 2304.13013).
    ForwardBackward,
    /// All three.
    All,
}

/// How gradients are rounded to integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Int8Rounding {
    /// To the nearest, ties to even.
    #[default]
    Nearest,
    /// Up or down with the probability that makes the mean exact. What decides is a hash of a
    /// value's bits and place, so that a run repeats itself.
    Stochastic,
}

/// Which linear maps multiply integers of 8 bits, and how.
///
/// Hidden matrices do, and heads where asked for; embeddings and norms never do. Weights and
/// their masters stay as they are: checkpoints and exported models know nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Int8Config {
    /// Which products.
    pub products: Int8Products,
    /// How gradients are rounded.
    pub rounding: Int8Rounding,
    /// Whether output projections take part too.
    pub heads: bool,
    /// Maps whose parameter names hold one of these texts stay out.
    pub skip: Vec<String>,
}

/// How one map multiplies integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Int8Map {
    /// Which products; never [`Int8Products::Off`].
    pub products: Int8Products,
    /// How gradients are rounded.
    pub rounding: Int8Rounding,
}

impl Int8Config {
    /// How the weight of this name and role takes part, if it does.
    pub fn map_of(&self, name: &str, role: Role) -> Option<Int8Map> {
        let is_on = self.products != Int8Products::Off;
        (is_on && takes_part(name, role, self.heads, &self.skip))
            .then_some(Int8Map { products: self.products, rounding: self.rounding })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_matrices_take_part_and_heads_where_asked_for() {
        let config = |heads, skip: &[&str]| Int8Config {
            products: Int8Products::All,
            heads,
            skip: skip.iter().map(|&part| part.into()).collect(),
            ..Int8Config::default()
        };
        let takes = |config: Int8Config, role| config.map_of("layer.0.query", role).is_some();
        assert!(takes(config(false, &[]), Role::Matrix));
        assert!(!takes(config(false, &["layer.0"]), Role::Matrix));
        assert!(!takes(config(false, &[]), Role::Head) && takes(config(true, &[]), Role::Head));
        assert!(!takes(config(true, &[]), Role::Embedding));
        assert!(!takes(Int8Config::default(), Role::Matrix));
    }
}
