//! How well token frequencies alone predict: the loss that a model must beat.

/// Entropy, in nats, of the distribution in which token `i` occurs `counts[i]` times.
///
/// A model that has learnt frequencies and nothing else has this loss.
pub fn entropy(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let term = |&count: &u64| {
        let share = count as f64 / total;
        -share * share.ln()
    };
    counts.iter().filter(|&&count| count > 0).map(term).sum()
}

/// Entropy, in nats, of a stream with `text` tokens of text, whose own entropy is `of_text`, and
/// with other tokens, of which number `i` occurs `others[i]` times.
pub fn entropy_with(of_text: f64, text: u64, others: &[u64]) -> f64 {
    let groups: Vec<u64> = std::iter::once(text).chain(others.iter().copied()).collect();
    let total = groups.iter().sum::<u64>() as f64;
    entropy(&groups) + text as f64 / total * of_text
}

/// Mean loss, in nats, of predicting the tokens counted in `held_out` by the frequencies in
/// `train`, each count raised by one so that no token is impossible.
///
/// Both have one count for each token of the vocabulary.
pub fn cross_entropy(train: &[u64], held_out: &[u64]) -> f64 {
    let train_total = (train.iter().sum::<u64>() + train.len() as u64) as f64;
    let held_out_total = held_out.iter().sum::<u64>() as f64;
    let term = |(&seen, &count): (&u64, &u64)| {
        -(count as f64 / held_out_total) * ((seen + 1) as f64 / train_total).ln()
    };
    train.iter().zip(held_out).filter(|&(_, &count)| count > 0).map(term).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_of_known_distributions() {
        assert_eq!(entropy(&[7, 0, 0]), 0.0);
        assert!((entropy(&[3, 3, 3, 3]) - 4f64.ln()).abs() < 1e-12);
        // Shares 1/2, 1/4, 1/4: 1.5 bits.
        assert!((entropy(&[2, 1, 1]) - 1.5 * 2f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn other_tokens_join_those_of_the_text() {
        let joined = entropy_with(entropy(&[2, 1, 1]), 4, &[3, 0, 1]);
        assert!((joined - entropy(&[2, 1, 1, 3, 1])).abs() < 1e-12);
    }

    #[test]
    fn cross_entropy_smooths_by_one() {
        // Smoothed train shares: 2/4, 1/4, 1/4.
        let expected = -(0.5 * 0.5f64.ln() + 0.5 * 0.25f64.ln());
        assert!((cross_entropy(&[1, 0, 0], &[1, 1, 0]) - expected).abs() < 1e-12);
    }

    #[test]
    fn no_prediction_beats_the_entropy() {
        let counts = [5, 1, 9, 30];
        assert!(cross_entropy(&[1, 1, 1, 1], &counts) > entropy(&counts));
        assert!(cross_entropy(&counts.map(|count| count * 1_000_000), &counts) > entropy(&counts));
    }
}
