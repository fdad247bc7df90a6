//! Any number of classes an example. Reference: scikit-learn's `f1_score` and `accuracy_score` on
//! indicator matrices.

use super::{f1, ratio};

/// Counts of each class, and of whole examples.
#[derive(Debug, Clone, PartialEq)]
pub struct MultiLabelCounts {
    /// Of each class: found rightly, predicted, there.
    classes: Vec<[f64; 3]>,
    exact: f64,
    total: f64,
}

impl MultiLabelCounts {
    /// Counts pairs of what is right and what was predicted, each a flag for each of `classes`.
    pub fn new<'a>(
        classes: usize,
        pairs: impl IntoIterator<Item = (&'a [bool], &'a [bool])>,
    ) -> Self {
        let mut counts = Self { classes: vec![[0.0; 3]; classes], exact: 0.0, total: 0.0 };
        for (right, predicted) in pairs {
            for (count, (right, predicted)) in
                counts.classes.iter_mut().zip(right.iter().zip(predicted))
            {
                count[0] += f64::from(u8::from(*right && *predicted));
                count[1] += f64::from(u8::from(*predicted));
                count[2] += f64::from(u8::from(*right));
            }
            counts.exact += f64::from(u8::from(right == predicted));
            counts.total += 1.0;
        }
        counts
    }

    /// The share of examples with every class right.
    pub fn exact_match(&self) -> f64 {
        ratio(self.exact, self.total)
    }

    /// The mean of all classes' F1.
    pub fn f1_macro(&self) -> f64 {
        let sum: f64 = self.classes.iter().map(|&[hits, said, are]| f1(hits, said, are)).sum();
        ratio(sum, self.classes.len() as f64)
    }

    /// F1 of all classes' counts together.
    pub fn f1_micro(&self) -> f64 {
        let sum = |part: usize| self.classes.iter().map(|counts| counts[part]).sum();
        f1(sum(0), sum(1), sum(2))
    }
}
