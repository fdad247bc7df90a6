//! How many keys queries see: what the cost of attention is counted by.

use bert4rs_tensor_core::varlen::AttentionWindow;

/// Keys that a query sees on average, in rows that hold pieces of these lengths, each of which sees
/// itself alone. So a token's cost does not grow with its row, but with its piece.
pub fn mean_visible_keys(pieces: impl IntoIterator<Item = i64>, window: AttentionWindow) -> f64 {
    let (mut pairs, mut tokens) = (0.0, 0.0);
    for length in pieces {
        pairs += visible_pairs(length, window);
        tokens += length as f64;
    }
    if tokens > 0.0 { pairs / tokens } else { 0.0 }
}

/// Pairs of a query and a key that it sees, in a piece of this length.
pub fn visible_pairs(length: i64, window: AttentionWindow) -> f64 {
    let l = length as f64;
    let w = window.window.map_or(length, |window| window.min(length)) as f64;
    // The first `w` queries see 1, 2, .. keys at their place and before it, the others `w`.
    let back = w * (w + 1.0) / 2.0 + (l - w) * w;
    // In two directions as many, but a query's own place is one key.
    if window.causal { back } else { 2.0 * back - l }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_those_of_the_mask() {
        for (length, causal) in [1, 2, 7, 12].into_iter().flat_map(|l| [(l, false), (l, true)]) {
            for window in [None, Some(1), Some(3), Some(7), Some(50)] {
                let sees = |query: i64, key: i64| {
                    window.is_none_or(|window| (query - key).abs() < window)
                        && (!causal || key <= query)
                };
                let pairs = (0..length).flat_map(|query| (0..length).map(move |key| (query, key)));
                let expected = pairs.filter(|&(query, key)| sees(query, key)).count() as f64;
                assert_eq!(visible_pairs(length, AttentionWindow { causal, window }), expected);
            }
        }
    }

    #[test]
    fn a_token_costs_what_its_piece_does_not_what_its_row_does() {
        let all = AttentionWindow { causal: false, window: None };
        assert_eq!(mean_visible_keys([512], all), 512.0);
        assert_eq!(mean_visible_keys([64; 8], all), mean_visible_keys([64; 128], all));
        assert_eq!(mean_visible_keys([100, 300], all), (1e4 + 9e4) / 400.0);
        assert_eq!(mean_visible_keys([], all), 0.0);
    }
}
