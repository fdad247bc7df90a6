//! Drawing tokens, the same for the same seed on every machine and in every batch.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{Sampling, logits};
use crate::error::Result;

/// A generator for each row, so that a row does not depend on the others.
#[derive(Debug)]
pub(super) struct Sampler {
    sampling: Sampling,
    generators: Vec<ChaCha8Rng>,
}

impl Sampler {
    /// For `rows` rows. Rows draw from different streams of one seed.
    pub(super) fn new(sampling: Sampling, rows: usize) -> Self {
        let stream = |row| {
            let mut generator = ChaCha8Rng::seed_from_u64(sampling.seed);
            generator.set_stream(row);
            generator
        };
        Self { sampling, generators: (0..rows as u64).map(stream).collect() }
    }

    /// A token for each row of logits `[r, v]`.
    pub(super) fn draw(&mut self, logits_rv: &Tensor) -> Result<Vec<i64>> {
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        let mut logits_rv = logits::temperature(logits_rv, temperature);
        if let Some(k) = top_k {
            logits_rv = logits::top_k(&logits_rv, k);
        }
        if let Some(p) = top_p.filter(|p| *p < 1.0) {
            logits_rv = logits::top_p(&logits_rv, p);
        }
        let v = logits_rv.size()[1] as usize;
        let probabilities = logits_rv.softmax(-1, Kind::Float).flatten(0, 1);
        let probabilities =
            Vec::<f32>::try_from(&probabilities).during("probabilities of the next token")?;
        let rows = probabilities.chunks(v).zip(&mut self.generators);
        Ok(rows.map(|(row, generator)| pick(row, uniform(generator))).collect())
    }
}

/// At least 0 and below 1.
fn uniform(generator: &mut ChaCha8Rng) -> f64 {
    (generator.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// The token at `quantile` (0 to 1) of the cumulative distribution.
fn pick(probabilities: &[f32], quantile: f64) -> i64 {
    let total: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
    let mut left = quantile * total;
    let mut last = 0;
    for (token, &p) in probabilities.iter().enumerate() {
        if p > 0.0 {
            last = token;
            if left < f64::from(p) {
                break;
            }
            left -= f64::from(p);
        }
    }
    last as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_picks_its_token() {
        let probabilities = [0.25, 0.0, 0.5, 0.25, 0.0];
        let picked = [0.0, 0.2, 0.25, 0.7, 0.75, 0.999].map(|at| pick(&probabilities, at));
        assert_eq!(picked, [0, 0, 2, 2, 3, 3]);
        assert_eq!(pick(&probabilities, 1.0), 3, "rounding never picks what is impossible");
    }
}
