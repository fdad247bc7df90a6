//! Orders of texts for a query. Reference: scikit-learn's `ndcg_score`, which averages over ties;
//! reciprocal ranks as in TREC.

use super::ratio;

/// One over the rank of the first text that is relevant; 0 where none is within `cutoff`. Of
/// texts with one score, those that are not relevant come first.
pub fn reciprocal_rank(scores: &[f64], relevant: &[bool], cutoff: usize) -> f64 {
    let best = scores.iter().zip(relevant).filter(|(_, relevant)| **relevant);
    let Some(best) = best.map(|(score, _)| *score).max_by(f64::total_cmp) else { return 0.0 };
    let before = scores.iter().zip(relevant);
    let rank = 1 + before.filter(|(score, relevant)| !**relevant && **score >= best).count();
    if rank <= cutoff { 1.0 / rank as f64 } else { 0.0 }
}

/// Normalised discounted cumulative gain within the first `cutoff`: `Σ gain / log2(rank + 1)` over
/// that of the best order. Texts with one score share their places.
pub fn ndcg(scores: &[f64], gains: &[f64], cutoff: usize) -> f64 {
    let best = discounted(gains, gains, cutoff);
    ratio(discounted(scores, gains, cutoff), best)
}

fn discounted(scores: &[f64], gains: &[f64], cutoff: usize) -> f64 {
    let mut order: Vec<usize> = (0..scores.len().min(gains.len())).collect();
    order.sort_by(|&left, &right| scores[right].total_cmp(&scores[left]));
    let (mut sum, mut begin) = (0.0, 0);
    for tied in order.chunk_by(|&left, &right| scores[left] == scores[right]) {
        let gain: f64 = tied.iter().map(|&index| gains[index]).sum::<f64>() / tied.len() as f64;
        let places = begin..(begin + tied.len()).min(cutoff);
        sum += gain * places.map(|place| 1.0 / (place as f64 + 2.0).log2()).sum::<f64>();
        begin += tied.len();
    }
    sum
}
