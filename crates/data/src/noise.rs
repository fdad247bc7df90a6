//! How much of a text span corruption hides, in how many spans, and which.
//!
//! Source: Raffel et al. 2019, <https://arxiv.org/abs/1910.10683>, sections 3.1.4 and 3.3.4, and
//! the authors' `random_spans_noise_mask`.

use rand::Rng;
use rand::seq::SliceRandom;

use crate::error::{Error, Result};

/// How much of a text is noise, in how long spans.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Noise {
    /// The share of tokens that are noise: above 0, at most 0.5.
    pub rate: f64,
    /// Mean tokens of a span, at least 1.
    pub mean_span: f64,
}

impl Noise {
    /// Refuses rates and lengths that can't be used.
    pub(crate) fn check(&self) -> Result<()> {
        if !(self.rate > 0.0 && self.rate <= 0.5) {
            return Err(Error::setting("the share of noise", self.rate, "above 0, at most 0.5"));
        }
        if !(self.mean_span >= 1.0 && self.mean_span.is_finite()) {
            return Err(Error::setting("the mean span", self.mean_span, "at least 1"));
        }
        Ok(())
    }

    /// How many of `tokens` are noise, and in how many spans.
    ///
    /// At least one token is noise and at least one is not; a single token is noise.
    pub fn counts(&self, tokens: usize) -> (usize, usize) {
        if tokens < 2 {
            return (tokens, tokens);
        }
        // As the authors': halves are rounded to even numbers.
        let noise = (tokens as f64 * self.rate).round_ties_even() as usize;
        let noise = noise.clamp(1, tokens - 1);
        let spans = (noise as f64 / self.mean_span).round_ties_even() as usize;
        (noise, spans.max(1).min(tokens - noise))
    }

    /// Positions that a piece of `tokens` takes in the encoder: the text, one sentinel for each
    /// span, and the end.
    pub fn source_length(&self, tokens: usize) -> usize {
        let (noise, spans) = self.counts(tokens);
        tokens - noise + spans + 1
    }

    /// Positions that it takes in the decoder: the noise, one sentinel for each span, and the
    /// end.
    pub fn target_length(&self, tokens: usize) -> usize {
        let (noise, spans) = self.counts(tokens);
        noise + spans + 1
    }

    /// The most tokens that `positions` of the encoder hold, corrupted.
    pub(crate) fn max_tokens(&self, positions: usize) -> usize {
        let fits = |tokens: usize| self.source_length(tokens) <= positions;
        // At least half of the text stays, so that it has fewer than twice the positions.
        let (mut most, mut too_many) = (0, 2 * positions + 2);
        while too_many - most > 1 {
            let middle = usize::midpoint(most, too_many);
            if fits(middle) {
                most = middle;
            } else {
                too_many = middle;
            }
        }
        most
    }

    /// Lengths of text and of noise, in turn: every way to cut both into as many parts is
    /// equally likely.
    pub(crate) fn draw(&self, tokens: usize, random: &mut impl Rng) -> Vec<usize> {
        let (noise, spans) = self.counts(tokens);
        let noise = segments(noise, spans, random);
        let text = match tokens {
            1 => vec![0],
            tokens => segments(tokens - noise.iter().sum::<usize>(), spans, random),
        };
        text.into_iter().zip(noise).flat_map(|(text, noise)| [text, noise]).collect()
    }
}

/// `items` cut into `count` parts, none empty: of the gaps between items, `count - 1` chosen by
/// chance are cuts.
fn segments(items: usize, count: usize, random: &mut impl Rng) -> Vec<usize> {
    let mut cuts: Vec<bool> = (1..items).map(|gap| gap < count).collect();
    cuts.shuffle(random);
    let mut lengths = vec![1];
    for is_cut in cuts {
        match lengths.last_mut() {
            Some(length) if !is_cut => *length += 1,
            _ => lengths.push(1),
        }
    }
    lengths
}
