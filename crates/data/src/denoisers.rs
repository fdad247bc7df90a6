//! Which denoising task T5 is given: span corruption alone, or UL2's mixture.
//!
//! Tay et al. 2022, UL2, <https://arxiv.org/abs/2205.05131>, section 3.1 and table 1: seven
//! denoisers in equal shares. R, as T5's own, have spans of 3 or 8 tokens for 15% of a text; X hide
//! much of it or in long spans; S hides the last quarter. UL2's tokens that name the kind are not
//! put before the text, as T5's vocabularies lack them.

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::noise::Noise;

/// What a T5 learns to fill in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Denoising {
    /// Spans of one mean length.
    #[default]
    Spans,
    /// UL2's R, S and X.
    Ul2,
}

/// One task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Denoiser {
    /// Spans anywhere: R and X.
    Spans(Noise),
    /// The end, of this share: S, which is a prefix language model.
    Suffix(f64),
}

const fn spans(rate: f64, mean_span: f64) -> Denoiser {
    Denoiser::Spans(Noise { rate, mean_span })
}

/// UL2's seven: R, S, X.
pub(crate) const UL2: [Denoiser; 7] = [
    spans(0.15, 3.0),
    spans(0.15, 8.0),
    Denoiser::Suffix(0.25),
    spans(0.5, 3.0),
    spans(0.5, 8.0),
    spans(0.15, 64.0),
    spans(0.5, 64.0),
];

impl Denoiser {
    /// How many of `tokens` are hidden, and in how many spans.
    pub(crate) fn counts(&self, tokens: usize) -> (usize, usize) {
        match self {
            Self::Spans(noise) => noise.counts(tokens),
            Self::Suffix(_) if tokens < 2 => (tokens, tokens),
            Self::Suffix(share) => {
                let hidden = (share * tokens as f64).round_ties_even() as usize;
                (hidden.clamp(1, tokens - 1), 1)
            }
        }
    }

    /// Lengths of text and of what is hidden, in turn.
    pub(crate) fn draw(&self, tokens: usize, random: &mut impl Rng) -> Vec<usize> {
        match self {
            Self::Spans(noise) => noise.draw(tokens, random),
            Self::Suffix(_) => {
                let (hidden, _) = self.counts(tokens);
                vec![tokens - hidden, hidden]
            }
        }
    }

    /// One of UL2's, each with the same chance; T5's own where that would take more positions of
    /// the encoder, or more sentinels, than there are.
    pub(crate) fn choose(tokens: usize, sentinels: usize, random: &mut impl Rng) -> Self {
        let chosen = UL2[random.random_range(0..UL2.len())];
        let positions = |(hidden, spans): (usize, usize)| tokens - hidden + spans;
        let (plain, counts) = (UL2[0].counts(tokens), chosen.counts(tokens));
        match counts.1 <= sentinels && positions(counts) <= positions(plain) {
            true => chosen,
            false => UL2[0],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, stream};

    #[test]
    fn the_seven_have_equal_shares_where_all_fit() {
        let mut random = stream(Purpose::TrainMask, 1, 0, 0);
        let mut counts = [0u32; UL2.len()];
        for _ in 0..14_000 {
            let chosen = Denoiser::choose(500, 100, &mut random);
            counts[UL2.iter().position(|one| *one == chosen).unwrap()] += 1;
        }
        // The fourth has 83 spans. Four standard deviations of 2,000 are 166.
        assert!(counts.iter().all(|count| count.abs_diff(2000) < 166), "{counts:?}");
    }

    #[test]
    fn what_does_not_fit_is_t5s_own() {
        let mut random = stream(Purpose::TrainMask, 2, 0, 0);
        for tokens in 1..300 {
            for _ in 0..20 {
                let chosen = Denoiser::choose(tokens, 30, &mut random);
                let (hidden, spans) = chosen.counts(tokens);
                let (plain_hidden, plain_spans) = UL2[0].counts(tokens);
                assert!(tokens - hidden + spans <= tokens - plain_hidden + plain_spans);
                assert!(spans <= 30);
            }
        }
    }

    #[test]
    fn lengths_are_those_of_the_counts() {
        let mut random = stream(Purpose::TrainMask, 3, 0, 0);
        for tokens in [1, 2, 7, 100, 570] {
            for denoiser in UL2 {
                let lengths = denoiser.draw(tokens, &mut random);
                let (hidden, spans) = denoiser.counts(tokens);
                assert_eq!(lengths.iter().sum::<usize>(), tokens);
                assert_eq!(lengths.len(), 2 * spans);
                assert_eq!(lengths.iter().skip(1).step_by(2).sum::<usize>(), hidden);
            }
        }
        assert_eq!(Denoiser::Suffix(0.25).draw(100, &mut random), [75, 25]);
    }
}
