//! What was right and what was said, query by query.

use std::collections::HashMap;

use super::{RankPrediction, Relevance};

/// Scores and relevance of each query's texts. A query that `pairs` have more than once, as a
/// sample of queries does, is several: each begins with its first text.
pub(super) fn by_query(pairs: &[(&Relevance, &RankPrediction)]) -> Vec<(Vec<f64>, Vec<f64>)> {
    let mut groups: Vec<(Vec<f64>, Vec<f64>)> = Vec::new();
    let mut places = HashMap::new();
    for (label, said) in pairs {
        if label.first || !places.contains_key(&label.query) {
            places.insert(label.query, groups.len());
            groups.push((Vec::new(), Vec::new()));
        }
        let (scores, relevance) = &mut groups[places[&label.query]];
        scores.push(said.score);
        relevance.push(label.value);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_to_their_query_and_queries_may_repeat() {
        let text = |query, first, value| Relevance { query, first, value };
        let labels = [text(0, true, 1.0), text(1, true, 0.0), text(0, false, 0.5)];
        let said = RankPrediction { score: 0.5, rank: 0 };
        let sizes = |order: &[usize]| -> Vec<Vec<f64>> {
            let pairs: Vec<_> = order.iter().map(|&at| (&labels[at], &said)).collect();
            by_query(&pairs).into_iter().map(|(_, relevance)| relevance).collect()
        };
        assert_eq!(sizes(&[0, 1, 2]), [vec![1.0, 0.5], vec![0.0]]);
        assert_eq!(sizes(&[0, 2, 0, 2]), [vec![1.0, 0.5], vec![1.0, 0.5]]);
    }
}
