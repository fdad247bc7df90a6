//! How numbers go together. Reference: scipy's `pearsonr` and `spearmanr`.

/// Pearson's: the covariance over both standard deviations; `None` where one list is constant or
/// not finite, or both differ in length.
pub fn pearson(left: &[f64], right: &[f64]) -> Option<f64> {
    let count = left.len();
    if count != right.len() || count < 2 {
        return None;
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / count as f64;
    let (left_mean, right_mean) = (mean(left), mean(right));
    let (mut both, mut of_left, mut of_right) = (0.0, 0.0, 0.0);
    for (x, y) in left.iter().zip(right) {
        let (x, y) = (x - left_mean, y - right_mean);
        both += x * y;
        of_left += x * x;
        of_right += y * y;
    }
    let root = of_left.sqrt() * of_right.sqrt();
    let found = both / root;
    (root > 0.0 && found.is_finite()).then(|| found.clamp(-1.0, 1.0))
}

/// Spearman's: Pearson's of the ranks, where ties have their mean rank.
pub fn spearman(left: &[f64], right: &[f64]) -> Option<f64> {
    let is_finite = |values: &[f64]| values.iter().all(|value| value.is_finite());
    (is_finite(left) && is_finite(right)).then(|| pearson(&ranks(left), &ranks(right))).flatten()
}

/// The mean squared distance; 0 of nothing.
pub fn mean_squared_error(left: &[f64], right: &[f64]) -> f64 {
    let sum: f64 = left.iter().zip(right).map(|(x, y)| (x - y).powi(2)).sum();
    super::ratio(sum, left.len() as f64)
}

/// Ranks from 1; ties have the mean of theirs.
pub(super) fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&left, &right| values[left].total_cmp(&values[right]));
    let mut ranks = vec![0.0; values.len()];
    let mut begin = 0;
    for tied in order.chunk_by(|&left, &right| values[left] == values[right]) {
        let rank = begin as f64 + (tied.len() as f64 + 1.0) / 2.0;
        tied.iter().for_each(|&index| ranks[index] = rank);
        begin += tied.len();
    }
    ranks
}
