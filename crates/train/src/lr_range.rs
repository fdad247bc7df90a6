//! The learning-rate range test (arXiv 1506.01186): the rate rises from step to step, and the loss
//! tells between which rates a model learns.

/// Weight of the earlier steps in the smoothed loss.
const SMOOTHING: f64 = 0.9;
/// A smoothed loss this much above the lowest has turned for good.
const TURNED: f64 = 1.25;

/// A rate to train with, and where it came from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Suggestion {
    /// Where the loss fell fastest.
    pub lr: f64,
    /// Where the loss was lowest: a rate that is already too high to last.
    pub lowest_at: f64,
    /// The lowest smoothed loss.
    pub lowest_loss: f64,
}

/// Losses of a rising rate, smoothed as they come.
#[derive(Debug, Default)]
pub struct RangeTest {
    /// Rate and smoothed loss of each step.
    points: Vec<(f64, f64)>,
    mean: f64,
    weight: f64,
}

impl RangeTest {
    /// Takes a step.
    pub fn push(&mut self, lr: f64, loss: f64) {
        self.mean = SMOOTHING * self.mean + (1.0 - SMOOTHING) * loss;
        self.weight = SMOOTHING * self.weight + (1.0 - SMOOTHING);
        self.points.push((lr, self.mean / self.weight));
    }

    /// Rate and smoothed loss of each step.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// Whether higher rates have nothing more to tell: the loss has turned for good.
    pub fn is_over(&self) -> bool {
        let lowest = self.points.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
        self.points.last().is_some_and(|(_, last)| !last.is_finite() || *last > TURNED * lowest)
    }

    /// The rate at which the loss fell fastest for each factor on the rate, before it was lowest;
    /// `None` where it never fell.
    pub fn suggestion(&self) -> Option<Suggestion> {
        let points: Vec<(f64, f64)> = self
            .points
            .iter()
            .copied()
            .filter(|(lr, loss)| *lr > 0.0 && loss.is_finite())
            .collect();
        let (place, &(lowest_at, lowest_loss)) =
            points.iter().enumerate().min_by(|(_, a), (_, b)| a.1.total_cmp(&b.1))?;
        // A slope over some steps: that of two neighbours is mostly noise.
        let span = (points.len() / 20).max(1);
        let slope = |end: usize| {
            let ((from, before), (to, after)) = (points[end - span], points[end]);
            (after - before) / (to / from).ln()
        };
        let steepest = (span..=place).min_by(|&a, &b| slope(a).total_cmp(&slope(b)))?;
        let falls = slope(steepest) < 0.0;
        falls.then(|| Suggestion { lr: points[steepest].0, lowest_at, lowest_loss })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A test over rates from 1e-6 to 1 whose loss at a rate is `loss`.
    fn run(loss: impl Fn(f64) -> f64) -> RangeTest {
        let mut test = RangeTest::default();
        for step in 0..300 {
            let lr = 10f64.powf(-6.0 + 6.0 * f64::from(step) / 299.0);
            test.push(lr, loss(lr));
            if test.is_over() {
                break;
            }
        }
        test
    }

    #[test]
    fn the_steepest_place_before_the_turn_is_suggested() {
        // Falls from 9 to 6 around 1e-3, and comes apart above 1e-1.
        let fall = |lr: f64| 9.0 - 3.0 / (1.0 + (1e-3 / lr).powi(2));
        let test = run(|lr| fall(lr) + if lr > 0.1 { 1e3 * (lr - 0.1) } else { 0.0 });
        let found = test.suggestion().unwrap();
        assert!((5e-4..4e-3).contains(&found.lr), "{found:?}");
        assert!(found.lowest_at > found.lr && found.lowest_at < 0.2, "{found:?}");
        assert!(test.points().len() < 300, "it ends where the loss has turned");
    }

    #[test]
    fn a_loss_that_never_falls_suggests_nothing() {
        assert_eq!(run(|lr| 9.0 + lr).suggestion(), None);
        assert_eq!(run(|_| f64::NAN).suggestion(), None);
        assert_eq!(RangeTest::default().suggestion(), None);
    }
}
