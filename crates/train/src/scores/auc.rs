//! The area under the ROC curve: the probability that an example of the class scores higher than
//! another, where ties count half. From ranks (Mann and Whitney): `(R - n(n+1)/2) / (n m)` with the
//! sum of ranks `R` of the class's `n` examples against `m` others. Reference: scikit-learn's
//! `roc_auc_score`, with `multi_class="ovr"` and `average="macro"` for several classes.

use super::correlation::ranks;

/// Of one class; `None` unless there are both examples of it and others.
pub fn of_class(scores: &[f64], is_class: &[bool]) -> Option<f64> {
    let count = is_class.iter().filter(|&&is| is).count() as f64;
    let others = is_class.len() as f64 - count;
    if count == 0.0 || others == 0.0 || scores.len() != is_class.len() {
        return None;
    }
    let ranked = ranks(scores);
    let sum: f64 = ranked.iter().zip(is_class).filter(|(_, is)| **is).map(|(rank, _)| rank).sum();
    Some((sum - count * (count + 1.0) / 2.0) / (count * others))
}

/// The mean over classes, each against all others, of scores row by row; `None` unless every class
/// has examples. Of two classes it is that of the second.
pub fn of_classes(scores: &[f64], classes: usize, right: &[usize]) -> Option<f64> {
    if classes < 2 || scores.len() != classes * right.len() {
        return None;
    }
    let of = |class: usize| {
        let column: Vec<f64> = scores.iter().skip(class).step_by(classes).copied().collect();
        let is_class: Vec<bool> = right.iter().map(|&right| right == class).collect();
        of_class(&column, &is_class)
    };
    if classes == 2 {
        return of(1);
    }
    let sum: Option<f64> = (0..classes).map(of).sum();
    Some(sum? / classes as f64)
}
