//! One class of several. Reference: scikit-learn's `accuracy_score`, `f1_score`,
//! `matthews_corrcoef`, `confusion_matrix`.

use super::{f1, ratio};

/// How often each class was taken for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfusionTable {
    classes: usize,
    /// Row by row: what was right, then what was predicted.
    counts: Vec<u64>,
}

/// What is known of one class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassScores {
    /// Of those predicted, the share that is right.
    pub precision: f64,
    /// Of those there are, the share that was found.
    pub recall: f64,
    /// The harmonic mean of both.
    pub f1: f64,
    /// How many there are.
    pub support: u64,
}

impl ConfusionTable {
    /// Counts pairs of what is right and what was predicted, each below `classes`; others are left
    /// out.
    pub fn new(classes: usize, pairs: impl IntoIterator<Item = (usize, usize)>) -> Self {
        let mut counts = vec![0; classes * classes];
        for (right, predicted) in pairs {
            if right < classes && predicted < classes {
                counts[right * classes + predicted] += 1;
            }
        }
        Self { classes, counts }
    }

    /// How many classes there are.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// How often `right` was taken for `predicted`.
    pub fn count(&self, right: usize, predicted: usize) -> u64 {
        self.counts.get(right * self.classes + predicted).copied().unwrap_or_default()
    }

    /// All examples.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    fn actual(&self, class: usize) -> u64 {
        (0..self.classes).map(|predicted| self.count(class, predicted)).sum()
    }

    fn predicted(&self, class: usize) -> u64 {
        (0..self.classes).map(|right| self.count(right, class)).sum()
    }

    fn right(&self) -> u64 {
        (0..self.classes).map(|class| self.count(class, class)).sum()
    }

    /// The share of examples whose class is right.
    pub fn accuracy(&self) -> f64 {
        ratio(self.right() as f64, self.total() as f64)
    }

    /// Precision, recall and F1 of one class, each 0 where it is of nothing.
    pub fn of_class(&self, class: usize) -> ClassScores {
        let hits = self.count(class, class) as f64;
        let (predicted, actual) = (self.predicted(class), self.actual(class));
        ClassScores {
            precision: ratio(hits, predicted as f64),
            recall: ratio(hits, actual as f64),
            f1: f1(hits, predicted as f64, actual as f64),
            support: actual,
        }
    }

    /// The mean F1 of the classes that were right or predicted at least once.
    pub fn f1_macro(&self) -> f64 {
        let seen = |class: &usize| self.actual(*class) + self.predicted(*class) > 0;
        let seen: Vec<usize> = (0..self.classes).filter(seen).collect();
        let sum: f64 = seen.iter().map(|&class| self.of_class(class).f1).sum();
        ratio(sum, seen.len() as f64)
    }

    /// F1 of all classes' counts together, which is the accuracy, as each example has one class.
    pub fn f1_micro(&self) -> f64 {
        self.accuracy()
    }

    /// Matthews' correlation for any number of classes (Gorodkin's R_K):
    /// `(c s - Σ pₖ tₖ) / √((s² - Σ pₖ²)(s² - Σ tₖ²))` of `c` right ones of `s`, and each class's
    /// predictions `pₖ` and examples `tₖ`; 0 where the root is.
    pub fn matthews(&self) -> f64 {
        let (right, total) = (self.right() as f64, self.total() as f64);
        let (mut both, mut predictions, mut examples) = (0.0, 0.0, 0.0);
        for class in 0..self.classes {
            let (predicted, actual) = (self.predicted(class) as f64, self.actual(class) as f64);
            both += predicted * actual;
            predictions += predicted * predicted;
            examples += actual * actual;
        }
        let root = ((total * total - predictions) * (total * total - examples)).sqrt();
        ratio(right * total - both, root)
    }
}
