//! Which linear maps multiply in FP8, and how. The maps themselves are in the crates above.

use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::buffers::Buffers;
use crate::error::{Context, Result};
use crate::param::Role;

/// Where the factor of an FP8 tensor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fp8Scaling {
    /// One factor a tensor, from its own largest magnitude: reads it twice.
    Tensor,
    /// One factor a tensor, from the largest magnitude of the last [`Fp8Scaling::HISTORY`] steps:
    /// reads it once.
    Delayed,
    /// One factor for each row along which a product sums: the most exact.
    Row,
}

impl Fp8Scaling {
    /// Steps that [`Fp8Scaling::Delayed`] looks back on.
    pub const HISTORY: i64 = 16;
}

/// [`Fp8Scaling`], or no FP8.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fp8Mode {
    /// No map multiplies in FP8.
    #[default]
    Off,
    /// [`Fp8Scaling::Tensor`].
    Tensor,
    /// [`Fp8Scaling::Delayed`].
    Delayed,
    /// [`Fp8Scaling::Row`].
    Row,
}

impl Fp8Mode {
    /// Where factors come from; none where it is off.
    pub fn scaling(self) -> Option<Fp8Scaling> {
        match self {
            Self::Off => None,
            Self::Tensor => Some(Fp8Scaling::Tensor),
            Self::Delayed => Some(Fp8Scaling::Delayed),
            Self::Row => Some(Fp8Scaling::Row),
        }
    }
}

/// Which linear maps multiply in FP8, and how.
///
/// Hidden matrices do, and heads where asked for; embeddings and norms never do. Weights and
/// their masters stay as they are: checkpoints and exported models know nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fp8Config {
    /// Where factors come from, or `off`.
    pub scaling: Fp8Mode,
    /// Whether output projections take part too.
    pub heads: bool,
    /// Maps whose parameter names hold one of these texts stay out.
    pub skip: Vec<String>,
}

impl Fp8Config {
    /// How the weight of this name and role takes part, if it does.
    pub fn scaling_of(&self, name: &str, role: Role) -> Option<Fp8Scaling> {
        self.scaling.scaling().filter(|_| takes_part(name, role, self.heads, &self.skip))
    }
}

/// Whether the map with the weight of this name and role is among those that multiply in 8 bits.
pub(crate) fn takes_part(name: &str, role: Role, heads: bool, skip: &[String]) -> bool {
    let has_role = match role {
        Role::Matrix => true,
        Role::Head => heads,
        _ => false,
    };
    has_role && !skip.iter().any(|part| name.contains(part.as_str()))
}

/// How many values were rounded beyond their format's largest number. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct OverflowCount(Buffers);

impl OverflowCount {
    const NAME: &'static str = "fp8.overflows";

    /// Counts among `buffers`.
    pub(crate) fn new(buffers: &Buffers) -> Self {
        Self(buffers.clone())
    }

    /// Adds `count`, `i64` `[1]`, without waiting for its device.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn add(&self, count: &Tensor) -> Result<()> {
        // In place, so that a captured step counts on.
        match self.0.get(Self::NAME) {
            None => self.0.set(Self::NAME, count.copy()),
            Some(mut total) => {
                let _ = total.f_add_(count).during("count FP8 overflow")?;
            }
        }
        Ok(())
    }

    /// The total so far. Waits for the device.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn read(&self) -> Result<i64> {
        match self.0.get(Self::NAME) {
            None => Ok(0),
            Some(total) => total.f_int64_value(&[0]).during("count FP8 overflow"),
        }
    }
}
