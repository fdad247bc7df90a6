//! Which linear maps multiply integers of 8 bits, and how. The maps themselves are in the crates
//! above.

use serde::{Deserialize, Serialize};
use tch::Device;

use crate::cpu::CpuFeatures;
use crate::fp8::takes_part;
use crate::param::Role;

/// Which of a linear map's three products are of integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Int8Products {
    /// None.
    #[default]
    Off,
    /// All where that trains faster than products of floats; else none. See
    /// [`resolve`](Self::resolve).
    Auto,
    /// The output alone.
    Forward,
    /// The output and the input's gradient; the weight's, where outliers of both sides meet, is in
    /// the weights' dtype (SwitchBack, arXiv 2304.13013).
    ForwardBackward,
    /// All three.
    All,
}

impl Int8Products {
    /// The same with `Auto` decided for `device`: all on CPUs whose widest vectors multiply bytes,
    /// and that have no matrix units. Measured there (`docs/benchmarks.md`); vectors of 256 bits
    /// without the instruction save nothing on some processors (`docs/rejected.md`).
    pub fn resolve(self, device: Device) -> Self {
        match self {
            Self::Auto if device == Device::Cpu && pays(CpuFeatures::detect()) => Self::All,
            Self::Auto => Self::Off,
            chosen => chosen,
        }
    }
}

/// Whether products of integers train faster than those of floats.
fn pays(cpu: CpuFeatures) -> bool {
    let widest_multiply_bytes = if cpu.avx512 { cpu.avx512_vnni } else { cpu.avx_vnni };
    widest_multiply_bytes && !cpu.amx_bf16
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
    /// Which products; never [`Int8Products::Off`] or [`Int8Products::Auto`].
    pub products: Int8Products,
    /// How gradients are rounded.
    pub rounding: Int8Rounding,
}

impl Int8Config {
    /// The same with the products [resolved](Int8Products::resolve) for `device`.
    pub fn resolve(self, device: Device) -> Self {
        Self { products: self.products.resolve(device), ..self }
    }

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
    fn auto_is_all_or_nothing_and_never_on_a_gpu() {
        let here = Int8Products::Auto.resolve(Device::Cpu);
        assert!(matches!(here, Int8Products::All | Int8Products::Off));
        let of = |avx512, avx512_vnni, avx_vnni, amx_bf16| {
            let here = CpuFeatures::detect();
            pays(CpuFeatures { avx512, avx512_vnni, avx_vnni, amx_bf16, ..here })
        };
        assert!(of(true, true, false, false) && of(false, false, true, false));
        assert!(!of(false, false, false, false), "AVX2");
        assert!(!of(true, false, true, false), "floats of 512 bits, bytes of 256");
        assert!(!of(true, true, true, true), "matrix units");
        assert_eq!(Int8Products::Auto.resolve(Device::Cuda(0)), Int8Products::Off);
        assert_eq!(Int8Products::Forward.resolve(Device::Cpu), Int8Products::Forward);
    }

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
