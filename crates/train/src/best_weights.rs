//! The best weights so far, by a score on held-out examples, and when there is no use in going on.

use std::collections::BTreeMap;

use bert4rs_tensor_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::checkpoint::shared;
use crate::evaluation::Evaluation;

/// The best score so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct BestScore {
    /// Absent before the first measurement that is a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<f64>,
    /// The step after which it was measured.
    pub step: u64,
    /// Measurements since then.
    pub since: u32,
}

impl BestScore {
    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Keeps the weights that scored best, through restarts too; see
/// [`Trainer::with_best_weights`](crate::trainer::Trainer::with_best_weights).
#[derive(Debug)]
pub struct BestWeights {
    /// Of what is measured, the name of what decides; more is better.
    score: &'static str,
    /// Measurements without a better score before training stops; 0 never stops.
    patience: u32,
    best: BestScore,
    /// The exact values of all parameters by name, on the CPU.
    weights: BTreeMap<String, Tensor>,
}

impl BestWeights {
    /// Watches `score`, of which more is better, and stops training after `patience` measurements
    /// without a better one; 0 never stops it.
    pub fn new(score: &'static str, patience: u32) -> Self {
        Self { score, patience, best: BestScore::default(), weights: BTreeMap::new() }
    }

    /// The best score.
    pub fn best(&self) -> BestScore {
        self.best
    }

    /// The weights that had it; none before it was measured.
    pub fn weights(&self) -> &BTreeMap<String, Tensor> {
        &self.weights
    }

    /// Takes the next measurement; whether the weights that were measured are to be kept.
    pub(crate) fn judge(&mut self, evaluation: &Evaluation) -> bool {
        let Some(&score) = evaluation.means.get(self.score) else { return false };
        let is_better = !score.is_nan() && self.best.score.is_none_or(|best| score > best);
        if is_better {
            self.best = BestScore { score: Some(score), step: evaluation.step, since: 0 };
        } else {
            self.best.since += 1;
        }
        is_better
    }

    /// Keeps `weights`, which [`judge`](Self::judge) found the best.
    pub(crate) fn keep(&mut self, weights: BTreeMap<String, Tensor>) {
        self.weights = weights;
    }

    /// Why there is no use in going on, if there is none.
    pub(crate) fn is_over(&self) -> Option<String> {
        let BestScore { score, step, since } = self.best;
        (self.patience > 0 && since >= self.patience).then(|| {
            let best = score.unwrap_or(f64::NAN);
            let name = self.score;
            format!("{name} was no better in {since} measurements than {best:.4} after step {step}")
        })
    }

    /// Goes on where `best` and the weights that had it were saved.
    pub(crate) fn go_on(&mut self, best: BestScore, weights: &BTreeMap<String, Tensor>) {
        (self.best, self.weights) = (best, shared(weights));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(best: &mut BestWeights, step: u64, score: f64) -> bool {
        let means = [("f1".to_owned(), score)].into();
        best.judge(&Evaluation { step, labels: 1, means })
    }

    #[test]
    fn only_a_higher_score_is_better_and_patience_ends() {
        let mut best = BestWeights::new("f1", 2);
        assert!(!measured(&mut best, 1, f64::NAN));
        assert!(measured(&mut best, 2, 0.5));
        assert!(measured(&mut best, 3, 0.9));
        assert!(!measured(&mut best, 4, 0.9));
        assert_eq!(best.is_over(), None);
        assert!(!measured(&mut best, 5, 0.8));
        assert_eq!(best.best(), BestScore { score: Some(0.9), step: 3, since: 2 });
        assert!(best.is_over().unwrap().contains("0.9000 after step 3"));
    }

    #[test]
    fn what_was_saved_goes_on() {
        let mut best = BestWeights::new("f1", 2);
        measured(&mut best, 1, 0.1 + 0.2);
        best.keep([("w".to_owned(), Tensor::from_slice(&[1.5f32]))].into());
        let saved = serde_json::to_string(&best.best()).unwrap();
        let mut again = BestWeights::new("f1", 2);
        again.go_on(serde_json::from_str(&saved).unwrap(), best.weights());
        assert_eq!(again.best(), best.best());
        assert_eq!(again.weights()["w"].double_value(&[0]), 1.5);
        assert!(!measured(&mut again, 2, 0.1 + 0.2), "no better than what was saved");
    }
}
