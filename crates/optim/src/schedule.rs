//! Learning-rate schedules: pure functions from a place in a run to a factor.
//!
//! A run is so many steps, or so many seconds ("the best loss in N minutes"); a place in it is
//! in the same unit. A factor multiplies the learning rate of every rule and parameter.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How long a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Horizon {
    /// A number of steps. Places in the run are steps done before: 0 is the first.
    Steps(u64),
    /// A time budget in seconds. Places in the run are seconds since its start.
    Seconds(f64),
}

/// A part of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// So many steps. Refused where the run is measured in seconds.
    Steps(u64),
    /// This part of the whole, 0 to 1.
    Fraction(f64),
}

/// What follows the warm-up. `x` goes from 0 at its end to 1 at the end of the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "shape", rename_all = "snake_case", deny_unknown_fields)]
pub enum Decay {
    /// `1`.
    Constant,
    /// `1 - (1 - min) x`: a line down to `min`. BERT's, with `min` 0.
    Linear {
        /// Factor at the end of the run.
        min: f64,
    },
    /// `min + (1 - min) (1 + cos(pi x)) / 2`. GPT-3's, with `min` 0.1.
    Cosine {
        /// Factor at the end of the run.
        min: f64,
    },
    /// `sqrt(timescale / max(place, timescale))`. T5's (arXiv 1910.10683) is `1/sqrt(max(n, k))`
    /// with `k` 10⁴ steps, so its peak rate is `1/sqrt(k)`, 0.01.
    InverseSqrt {
        /// Where the decay begins, counted from the start of the run.
        timescale: Length,
    },
    /// `min^(1 - x)`: up from `min` to 1, by the same factor each step, which shows the rates
    /// between which a model learns: the range test (arXiv 1506.01186) on an exponential scale.
    RangeTest {
        /// Factor at the start of the run.
        min: f64,
    },
    /// Warm-up, stable, decay: `1`, then down to `min` over the last `decay` of the run.
    Wsd {
        /// Length of the decay at the end.
        decay: Length,
        /// Factor at the end of the run.
        min: f64,
        /// The curve of the decay.
        curve: DecayCurve,
    },
}

/// The decay of [`Decay::Wsd`], `y` from 0 at its start to 1 at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayCurve {
    /// `1 - (1 - min) y`: the trapezoid of modded-nanogpt.
    Linear,
    /// `1 - (1 - min) sqrt(y)` (arXiv 2405.18392).
    OneMinusSqrt,
}

/// A warm-up, linear from almost 0 to 1, and what follows it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Length of the warm-up.
    pub warmup: Length,
    /// What follows.
    pub decay: Decay,
}

impl ScheduleConfig {
    /// Warm-up of `warmup` steps, then linear to 0.
    pub fn linear(warmup: u64) -> Self {
        Self { warmup: Length::Steps(warmup), decay: Decay::Linear { min: 0.0 } }
    }

    /// The schedule over a run of length `horizon`.
    ///
    /// # Errors
    /// A length or factor out of range, or steps where the run is measured in seconds.
    pub fn resolve(self, horizon: Horizon) -> Result<Schedule> {
        let (total, first) = match horizon {
            Horizon::Steps(steps) => (steps as f64, 1.0),
            Horizon::Seconds(seconds) => (seconds, 0.0),
        };
        if !(total > 0.0 && total.is_finite()) {
            return Err(refuse("horizon", format!("{horizon:?}"), "must be more than nothing"));
        }
        let length = |key: &str, length| resolve_length(key, length, horizon, total);
        let warmup = length("warmup", self.warmup)?;
        let (start, curve) = match self.decay {
            Decay::InverseSqrt { timescale } => {
                (length("timescale", timescale)?, DecayCurve::Linear)
            }
            Decay::Wsd { decay, curve, .. } => (total - length("decay", decay)?, curve),
            _ => (warmup, DecayCurve::Linear),
        };
        if let Decay::Wsd { .. } = self.decay
            && start < warmup
        {
            let reason = "is longer than what the warm-up leaves of the run";
            return Err(refuse("decay", format!("{:?}", self.decay), reason));
        }
        if let Decay::Linear { min } | Decay::Cosine { min } | Decay::Wsd { min, .. } = self.decay
            && !(0.0..=1.0).contains(&min)
        {
            return Err(refuse("min", min.to_string(), "must be from 0 to 1"));
        }
        if let Decay::RangeTest { min } = self.decay
            && !(min > 0.0 && min <= 1.0)
        {
            return Err(refuse("min", min.to_string(), "must be above 0, at most 1"));
        }
        if matches!(self.decay, Decay::InverseSqrt { .. }) && start <= 0.0 {
            return Err(refuse("timescale", start.to_string(), "must be more than nothing"));
        }
        Ok(Schedule { decay: self.decay, curve, total, warmup, start, first })
    }
}

fn refuse(key: &str, value: String, reason: &str) -> Error {
    Error::Config { key: format!("schedule.{key}"), value, reason: reason.into() }
}

fn resolve_length(key: &str, length: Length, horizon: Horizon, total: f64) -> Result<f64> {
    match (length, horizon) {
        (Length::Fraction(part), _) if (0.0..=1.0).contains(&part) => Ok(part * total),
        (Length::Fraction(part), _) => {
            Err(refuse(key, part.to_string(), "a fraction must be from 0 to 1"))
        }
        (Length::Steps(steps), Horizon::Steps(_)) => Ok(steps as f64),
        (Length::Steps(steps), Horizon::Seconds(_)) => Err(refuse(
            key,
            format!("{steps} steps"),
            "the run is measured in seconds; give a fraction",
        )),
    }
}

/// A schedule over a run of known length. Lengths are in the horizon's unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    decay: Decay,
    curve: DecayCurve,
    total: f64,
    warmup: f64,
    /// Where the decay begins.
    start: f64,
    /// Added to the place while warming up: 1 for steps, so that the first is not lost to a
    /// rate of 0.
    first: f64,
}

impl Schedule {
    /// The factor at `place`: steps done before, or seconds since the start. Places past the
    /// end get the factor of the end.
    pub fn factor(&self, place: f64) -> f64 {
        if place + self.first <= self.warmup || place < self.warmup {
            return ((place + self.first) / self.warmup).min(1.0);
        }
        let x = fraction(place, self.start, self.total);
        match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear { min } => 1.0 - (1.0 - min) * x,
            Decay::Cosine { min } => {
                min + (1.0 - min) * 0.5 * (1.0 + (std::f64::consts::PI * x).cos())
            }
            Decay::RangeTest { min } => min.powf(1.0 - x),
            Decay::InverseSqrt { .. } => (self.start / place.max(self.start)).sqrt(),
            Decay::Wsd { min, .. } => match self.curve {
                DecayCurve::Linear => 1.0 - (1.0 - min) * x,
                DecayCurve::OneMinusSqrt => 1.0 - (1.0 - min) * x.sqrt(),
            },
        }
    }
}

/// Where `place` lies between `start` (0) and `end` (1), and not beyond.
fn fraction(place: f64, start: f64, end: f64) -> f64 {
    if end <= start {
        return if place < end { 0.0 } else { 1.0 };
    }
    ((place - start) / (end - start)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(decay: Decay, warmup: Length, horizon: Horizon, places: &[f64]) -> Vec<f64> {
        let schedule = ScheduleConfig { warmup, decay }.resolve(horizon).unwrap();
        places.iter().map(|&place| (schedule.factor(place) * 1e6).round() / 1e6).collect()
    }

    #[test]
    fn shapes() {
        let steps = Horizon::Steps(100);
        let ten = Length::Steps(10);
        let places = [0.0, 4.0, 9.0, 10.0, 55.0, 99.0, 100.0, 200.0];
        let cases = [
            (Decay::Constant, [0.1, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
            (Decay::Linear { min: 0.0 }, [0.1, 0.5, 1.0, 1.0, 0.5, 0.011111, 0.0, 0.0]),
            (Decay::Linear { min: 0.2 }, [0.1, 0.5, 1.0, 1.0, 0.6, 0.208889, 0.2, 0.2]),
            (Decay::Cosine { min: 0.1 }, [0.1, 0.5, 1.0, 1.0, 0.55, 0.100274, 0.1, 0.1]),
            (Decay::RangeTest { min: 1e-4 }, [0.1, 0.5, 1.0, 0.0001, 0.01, 0.902725, 1.0, 1.0]),
            (
                Decay::InverseSqrt { timescale: Length::Steps(25) },
                [0.1, 0.5, 1.0, 1.0, 0.6742, 0.502519, 0.5, 0.353553],
            ),
            (
                Decay::Wsd { decay: Length::Steps(50), min: 0.0, curve: DecayCurve::Linear },
                [0.1, 0.5, 1.0, 1.0, 0.9, 0.02, 0.0, 0.0],
            ),
            (
                Decay::Wsd {
                    decay: Length::Fraction(0.5),
                    min: 0.0,
                    curve: DecayCurve::OneMinusSqrt,
                },
                [0.1, 0.5, 1.0, 1.0, 0.683772, 0.010051, 0.0, 0.0],
            ),
        ];
        for (decay, expected) in cases {
            assert_eq!(at(decay, ten, steps, &places), expected, "{decay:?}");
        }
    }

    #[test]
    fn a_time_budget_is_a_horizon_in_seconds() {
        let linear = Decay::Linear { min: 0.0 };
        let budget = Horizon::Seconds(600.0);
        let factors = at(linear, Length::Fraction(0.1), budget, &[0.0, 30.0, 60.0, 330.0, 700.0]);
        assert_eq!(factors, [0.0, 0.5, 1.0, 0.5, 0.0]);
        let refused = ScheduleConfig::linear(10).resolve(budget).unwrap_err().to_string();
        assert!(refused.contains("give a fraction"), "{refused}");
    }

    #[test]
    fn no_warmup_starts_at_the_peak() {
        let linear = Decay::Linear { min: 0.0 };
        assert_eq!(at(linear, Length::Steps(0), Horizon::Steps(4), &[0.0, 2.0]), [1.0, 0.5]);
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        let resolve =
            |warmup, decay, horizon| ScheduleConfig { warmup, decay }.resolve(horizon).is_err();
        let ten = Length::Steps(10);
        assert!(resolve(ten, Decay::Constant, Horizon::Steps(0)));
        assert!(resolve(Length::Fraction(1.5), Decay::Constant, Horizon::Steps(9)));
        assert!(resolve(ten, Decay::Linear { min: 2.0 }, Horizon::Steps(100)));
        let decay = Decay::Wsd { decay: Length::Steps(95), min: 0.0, curve: DecayCurve::Linear };
        assert!(resolve(ten, decay, Horizon::Steps(100)));
    }
}
