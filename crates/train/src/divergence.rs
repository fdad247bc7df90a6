//! When losses tell that training has come apart, well below infinity.

use std::cell::Cell;
use std::rc::Rc;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::metrics::{MetricSink, StepRecord};
use crate::trouble::Remedy;

/// Losses above so many times that of knowing nothing are no learning.
const FACTOR: f64 = 10.0;
/// So many steps in a row: fewer may be a spike that passes.
const STEPS: u32 = 3;

/// Watches the losses of a run, as an outlet of the loop. Clones share the bound.
#[derive(Debug, Clone)]
pub struct DivergenceGuard {
    most: Rc<Cell<f64>>,
    above: u32,
    /// Whether steps without a finite loss are somebody else's to judge.
    lets_nan_pass: bool,
}

impl DivergenceGuard {
    /// For a model that predicts one of `vocab_size` tokens: guessing costs `ln vocab_size`.
    pub fn new(vocab_size: u32) -> Self {
        let most = FACTOR * f64::from(vocab_size.max(2)).ln();
        Self { most: Rc::new(Cell::new(most)), above: 0, lets_nan_pass: false }
    }

    /// For the run of `config`.
    pub(crate) fn of_run(config: &Config) -> Self {
        let lets_nan_pass = config.train.on_nan != Remedy::Stop;
        Self::new(config.model.vocab_size).letting_nan_pass(lets_nan_pass)
    }

    /// The same for a run that skips steps whose loss is not finite.
    pub fn letting_nan_pass(mut self, pass: bool) -> Self {
        self.lets_nan_pass = pass;
        self
    }

    /// Looks at the next steps. A run whose first loss is higher than a guess is measured by that.
    fn check(&mut self, records: &[StepRecord]) -> Result<()> {
        for record in records {
            if self.lets_nan_pass && !record.loss.is_finite() {
                continue;
            }
            if record.step == 1 && record.loss.is_finite() {
                self.most.set(self.most.get().max(FACTOR * record.loss));
            }
            self.above = if self.is_too_high(record.loss) { self.above + 1 } else { 0 };
            if self.above == STEPS || (self.above > 0 && !record.loss.is_finite()) {
                return Err(diverged(record.step, "the loss", record.loss));
            }
        }
        Ok(())
    }

    /// Looks at a run that has taken all its `steps`.
    ///
    /// # Errors
    /// A loss on training or held-out text that is far above a guess.
    pub fn check_end(&self, steps: u64, final_loss: f64, held_out_loss: Option<f64>) -> Result<()> {
        let losses = [("the final loss", Some(final_loss)), ("the held-out loss", held_out_loss)];
        let found = losses.into_iter().find_map(|(what, loss)| {
            let loss = loss.filter(|loss| self.is_too_high(*loss))?;
            Some(diverged(steps, what, loss))
        });
        found.map_or(Ok(()), Err)
    }

    fn is_too_high(&self, loss: f64) -> bool {
        !loss.is_finite() || loss > self.most.get()
    }
}

impl MetricSink for DivergenceGuard {
    /// # Errors
    /// A loss that is not finite, or some in a row that are far above a guess.
    fn steps(&mut self, records: &[StepRecord]) -> Result<()> {
        self.check(records)
    }
}

fn diverged(step: u64, what: &str, loss: f64) -> Error {
    let reason = format!(
        "{what} is {loss:.4e}: training diverged; try a lower optimizer.adamw.lr or a longer \
         schedule.warmup"
    );
    Error::Diverged { step, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether these losses, from step 1 on, stop a run of a vocabulary of e^9 tokens.
    fn stops(losses: &[f64]) -> bool {
        let line = |(step, loss): (usize, &f64)| -> StepRecord {
            let mut record = serde_json::json!({
                "step": step + 1, "loss": 0.0, "tokens_per_s": 1.0, "tokens": 1, "slots": 1,
                "positions": 1, "lr": 1.0, "grad_norm": 1.0, "step_time_s": 1.0, "time_s": 1.0,
                "resident_bytes": 1,
            });
            record["loss"] = serde_json::json!(loss);
            serde_json::from_value(record).unwrap()
        };
        let records: Vec<StepRecord> = losses.iter().enumerate().map(line).collect();
        DivergenceGuard::new(8103).check(&records).is_err()
    }

    #[test]
    fn a_spike_passes_and_a_divergence_does_not() {
        assert!(!stops(&[9.0, 8.0, 95.0, 9.0, 1e13, 7.0]));
        assert!(stops(&[9.0, 8.0, 95.0, 1e3, 91.0]));
        assert!(stops(&[9.0, f64::NAN]));
        assert!(stops(&[9.0, f64::INFINITY]));
        assert!(!stops(&[50.0, 300.0, 200.0, 150.0, 120.0]), "it began high");
    }

    #[test]
    fn the_end_is_looked_at_too() {
        let guard = DivergenceGuard::new(8103);
        assert!(guard.check_end(6, 8.9, Some(1e13)).is_err());
        assert!(guard.check_end(6, 1e5, None).is_err());
        assert!(guard.check_end(6, 8.9, Some(9.0)).is_ok());
        let error = guard.check_end(6, f64::NAN, None).unwrap_err();
        assert!(!error.is_bad_input() && error.to_string().contains("step 6"), "{error}");
    }
}
