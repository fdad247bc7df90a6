//! Momentum over a run: constant, with a warm-up and a cool-down if asked for.

use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::error::Context;
use serde::{Deserialize, Serialize};

use crate::error::{Result, check};

/// Muon's momentum.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Momentum {
    /// Its value between the ramps; 0.95 is usual.
    #[serde(default = "usual")]
    pub value: f64,
    /// From another value at the first step.
    #[serde(default)]
    pub warmup: Option<Warmup>,
    /// To another value at the end.
    #[serde(default)]
    pub cooldown: Option<Cooldown>,
}

fn usual() -> f64 {
    0.95
}

/// A linear ramp at the start: modded-nanogpt goes from 0.85 in 300 steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Warmup {
    /// Momentum of the first step.
    pub from: f64,
    /// Steps until the full value.
    pub steps: u64,
}

/// A linear ramp later: modded-nanogpt goes to 0.85 in its last 50 steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cooldown {
    /// Momentum after the ramp.
    pub to: f64,
    /// The step, counted from 0, that is the last with the full value.
    pub begin: u64,
    /// Steps from there to `to`.
    pub steps: u64,
}

impl Momentum {
    /// The same value at every step.
    pub fn constant(value: f64) -> Self {
        Self { value, warmup: None, cooldown: None }
    }

    /// Momentum of a step, which is counted from 0, FP64 `[]` on the device that `step` is on: the
    /// ramps, of which at most one is under way, added up.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn at(&self, step: &Tensor) -> bert4rs_tensor_core::Result<Tensor> {
        let op = "momentum";
        let ramp = |change: f64, begin: u64, steps: u64| {
            let done = (step - begin as f64) / steps as f64;
            Ok(done.f_clamp(0.0, 1.0).during(op)? * change)
        };
        let mut momentum = step.f_full_like(self.value).during(op)?;
        if let Some(Warmup { from, steps }) = self.warmup {
            momentum = momentum + ramp(self.value - from, 0, steps)? - (self.value - from);
        }
        if let Some(Cooldown { to, begin, steps }) = self.cooldown {
            momentum += ramp(to - self.value, begin, steps)?;
        }
        Ok(momentum)
    }

    pub(crate) fn validate(&self, key: &str) -> Result<()> {
        let inside = |name: &str, value: f64| {
            let key = format!("{key}.{name}");
            check(&key, value, (0.0..1.0).contains(&value), "must be at least 0 and below 1")
        };
        let some = |name: &str, steps: u64| {
            check(&format!("{key}.{name}"), steps as f64, steps > 0, "must be at least 1")
        };
        inside("value", self.value)?;
        if let Some(Warmup { from, steps }) = self.warmup {
            inside("warmup.from", from)?;
            some("warmup.steps", steps)?;
        }
        if let Some(Cooldown { to, begin, steps }) = self.cooldown {
            inside("cooldown.to", to)?;
            some("cooldown.steps", steps)?;
            let warm = self.warmup.map_or(0, |warmup| warmup.steps);
            let reason = "begins before the warm-up ends";
            check(&format!("{key}.cooldown.begin"), begin as f64, begin >= warm, reason)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramps_as_modded_nanogpt_does() {
        let momentum = Momentum {
            value: 0.95,
            warmup: Some(Warmup { from: 0.85, steps: 300 }),
            cooldown: Some(Cooldown { to: 0.85, begin: 1000, steps: 50 }),
        };
        let close = |step: u64, value: f64| {
            let found = momentum.at(&Tensor::from(step as f64)).unwrap().double_value(&[]);
            assert!((found - value).abs() < 1e-12, "{step}: {found}");
        };
        close(0, 0.85);
        close(150, 0.90);
        close(300, 0.95);
        close(1000, 0.95);
        close(1025, 0.90);
        close(1050, 0.85);
        close(9999, 0.85);
        assert!(momentum.validate("momentum").is_ok());
        let early = Cooldown { to: 0.85, begin: 10, steps: 50 };
        assert!(Momentum { cooldown: Some(early), ..momentum }.validate("momentum").is_err());
    }
}
