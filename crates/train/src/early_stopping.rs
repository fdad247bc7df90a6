//! Ending a run whose held-out loss gets no better.

use serde::{Deserialize, Serialize};

/// How long a run waits for a better held-out loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Patience {
    /// Measurements without a better one that end the run; 0 waits for ever.
    pub measurements: u32,
    /// How much lower a loss must be to count as better, in nats.
    pub min_delta: f64,
}

/// The best held-out loss so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct BestLoss {
    /// In nats; absent before the first measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The step after which it was measured.
    pub step: u64,
    /// Measurements since then.
    pub since: u32,
}

impl BestLoss {
    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.loss.is_none()
    }

    /// Takes the next measurement; whether it is the best.
    pub(crate) fn push(&mut self, loss: f64, step: u64, min_delta: f64) -> bool {
        let is_better = self.loss.is_none_or(|best| loss < best - min_delta);
        if is_better {
            *self = Self { loss: Some(loss), step, since: 0 };
        } else {
            self.since += 1;
        }
        is_better
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_loss_that_is_enough_lower_counts() {
        let mut best = BestLoss::default();
        let better = |best: &mut BestLoss, loss, step| best.push(loss, step, 0.1);
        assert!(better(&mut best, 5.0, 1));
        assert!(!better(&mut best, 4.95, 2), "too little");
        assert!(better(&mut best, 4.8, 3));
        assert!(!better(&mut best, f64::NAN, 4));
        assert!(!better(&mut best, 6.0, 5));
        assert_eq!(best, BestLoss { loss: Some(4.8), step: 3, since: 2 });
    }
}
