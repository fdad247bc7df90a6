//! Several corpora in one run, each with a share of its own.
//!
//! Which corpus a position shows is a pure function of the seed and the position. Positions come in
//! blocks of [`BLOCK`], in each of which every corpus has as many as its weight says, shuffled. So
//! its next sequence is known without counting from the first, and each corpus shows all of its
//! sequences once before any for the second time.

use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;

use crate::error::{Error, Result};
use crate::random::{Purpose, stream};
use crate::shard::TokenStore;

/// Positions of a block: shares are exact to one in so many.
pub const BLOCK: usize = 4096;
/// Blocks whose order is kept: batches cross from one to the next.
const KEPT_BLOCKS: usize = 2;

/// Tokens of one corpus, or of several with a weight each.
#[derive(Debug, Clone)]
pub struct Mixture(Vec<(Arc<TokenStore>, f64)>);

impl Mixture {
    /// Corpora with their weights, of any sum.
    ///
    /// # Errors
    /// No corpus, more than [`BLOCK`], and weights that are not above 0.
    pub fn new(parts: Vec<(Arc<TokenStore>, f64)>) -> Result<Self> {
        if parts.is_empty() || parts.len() > BLOCK / 16 {
            let expected = format!("from 1 to {}", BLOCK / 16);
            return Err(Error::setting("the number of corpora", parts.len(), expected));
        }
        match parts.iter().find(|(_, weight)| !(*weight > 0.0 && weight.is_finite())) {
            Some((_, weight)) => Err(Error::setting("a corpus' weight", weight, "above 0")),
            None => Ok(Self(parts)),
        }
    }

    /// The corpora and their weights.
    pub fn parts(&self) -> &[(Arc<TokenStore>, f64)] {
        &self.0
    }
}

impl From<Arc<TokenStore>> for Mixture {
    fn from(store: Arc<TokenStore>) -> Self {
        Self(vec![(store, 1.0)])
    }
}

/// Of each position in a block, its corpus, and which of the corpus' positions there it is.
type Block = Arc<[(u16, u16)]>;

/// Which corpus each position shows, and which of its sequences in turn.
#[derive(Debug)]
pub(crate) struct Turns {
    seed: u64,
    /// Of each corpus, its positions in a block.
    counts: Vec<usize>,
    /// Blocks that were looked at last, by number.
    recent: Mutex<Vec<(u64, Block)>>,
}

impl Turns {
    pub(crate) fn new(seed: u64, weights: &[f64]) -> Self {
        Self { seed, counts: counts(weights), recent: Mutex::new(Vec::new()) }
    }

    /// The corpus at `position`, and how many positions showed it before.
    pub(crate) fn at(&self, position: u64) -> (usize, u64) {
        if self.counts.len() == 1 {
            return (0, position);
        }
        let (block, index) = (position / BLOCK as u64, position % BLOCK as u64);
        let (part, rank) = self.order(block)[index as usize];
        let before = u128::from(block) * self.counts[usize::from(part)] as u128;
        (part.into(), u64::try_from(before).unwrap_or(u64::MAX).saturating_add(rank.into()))
    }

    fn order(&self, block: u64) -> Block {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, order)) = recent.iter().find(|(known, _)| *known == block) {
            return Arc::clone(order);
        }
        let of_part = |(part, &count): (u16, &usize)| std::iter::repeat_n(part, count);
        let mut parts: Vec<u16> = (0..).zip(&self.counts).flat_map(of_part).collect();
        parts.shuffle(&mut stream(Purpose::Mixture, self.seed, block, 0));
        let mut shown = vec![0; self.counts.len()];
        let ranked = |part: u16| {
            let rank = &mut shown[usize::from(part)];
            *rank += 1;
            (part, *rank - 1)
        };
        let order: Block = parts.into_iter().map(ranked).collect();
        if recent.len() == KEPT_BLOCKS {
            recent.remove(0);
        }
        recent.push((block, Arc::clone(&order)));
        order
    }
}

/// Positions of each part in a block: at least one, and else as the weights say, by the method of
/// largest remainders.
fn counts(weights: &[f64]) -> Vec<usize> {
    let (total, free) = (weights.iter().sum::<f64>(), (BLOCK - weights.len()) as f64);
    // One each comes first, so that what is shared out by weight is what their weights lack.
    let wanted = |weight: &f64| (weight / total * BLOCK as f64 - 1.0).max(0.0);
    let all: f64 = weights.iter().map(wanted).sum::<f64>().max(f64::MIN_POSITIVE);
    let shares: Vec<f64> = weights.iter().map(|weight| wanted(weight) / all * free).collect();
    let mut counts: Vec<usize> = shares.iter().map(|share| 1 + share.floor() as usize).collect();
    let mut by_rest: Vec<usize> = (0..weights.len()).collect();
    by_rest.sort_by(|&a, &b| shares[b].fract().total_cmp(&shares[a].fract()).then(a.cmp(&b)));
    let missing = BLOCK - counts.iter().sum::<usize>();
    by_rest.into_iter().cycle().take(missing).for_each(|part| counts[part] += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_the_weights() {
        assert_eq!(counts(&[1.0]), [BLOCK]);
        assert_eq!(counts(&[1.0, 1.0]), [2048, 2048]);
        assert_eq!(counts(&[3.0, 1.0]), [3072, 1024]);
        assert_eq!(counts(&[1e-9, 1.0]), [1, 4095]);
        for weights in [vec![0.7, 0.2, 0.1], vec![1.0; 7], vec![5.0, 3.0, 2.0, 2.5]] {
            let (found, total) = (counts(&weights), weights.iter().sum::<f64>());
            assert_eq!(found.iter().sum::<usize>(), BLOCK);
            for (count, weight) in found.iter().zip(&weights) {
                let wanted = weight / total * BLOCK as f64;
                assert!((*count as f64 - wanted).abs() < 2.0, "{count} for {wanted}");
            }
        }
    }

    #[test]
    fn each_part_is_shown_in_turn_from_anywhere() {
        let turns = Turns::new(3, &[0.7, 0.2, 0.1]);
        let mut shown = [0; 3];
        let mut order = Vec::new();
        for position in 0..3 * BLOCK as u64 {
            let (part, index) = turns.at(position);
            assert_eq!(index, shown[part], "at {position}");
            shown[part] += 1;
            order.push(part);
        }
        assert!(shown[0] > 8000 && shown[1] > 2000 && shown[2] > 1000, "{shown:?}");
        assert_ne!(order[..BLOCK], order[BLOCK..2 * BLOCK], "each block is shuffled anew");
        let other = Turns::new(3, &[0.7, 0.2, 0.1]);
        assert_eq!(other.at(2 * BLOCK as u64 + 5), turns.at(2 * BLOCK as u64 + 5));
        assert_eq!(Turns::new(1, &[2.0]).at(u64::MAX), (0, u64::MAX));
        assert!(turns.at(u64::MAX).1 > u64::MAX / 20);
    }
}
