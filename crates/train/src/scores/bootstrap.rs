//! How far a score would move with other examples of the same kind: percentiles of the score over
//! samples of the examples, drawn with replacement (Efron 1979).

/// Two ends of an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScoreInterval {
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

/// Draws `samples` samples of `examples` examples with replacement, and gives each to `visit` by
/// the examples' numbers. The same for the same `seed`.
pub fn samples(examples: usize, samples: usize, seed: u64, mut visit: impl FnMut(&[usize])) {
    if examples == 0 {
        return;
    }
    let mut random = SplitMix(seed);
    let mut drawn = vec![0; examples];
    for _ in 0..samples {
        drawn.iter_mut().for_each(|index| *index = random.below(examples));
        visit(&drawn);
    }
}

/// The interval that holds the middle 95% of `values`, of which those that are not finite are left
/// out; `None` of nothing.
pub fn middle(mut values: Vec<f64>) -> Option<ScoreInterval> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    Some(ScoreInterval { low: quantile(&values, 0.025)?, high: quantile(&values, 0.975)? })
}

/// Between two values it is as far as the share says, as numpy has it.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let place = share * sorted.len().checked_sub(1)? as f64;
    let (below, part) = (place.floor() as usize, place.fract());
    let above = sorted.get(below + 1).unwrap_or(&sorted[below]);
    Some(sorted[below] + part * (above - sorted[below]))
}

/// Vigna's generator, which needs no warming up.
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, without bias that matters: the high half of a wide product.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_of_coins_lies_where_theory_says() {
        let heads: Vec<f64> = (0..400).map(|index| f64::from(index % 2)).collect();
        let mean = |drawn: &[usize]| drawn.iter().map(|&at| heads[at]).sum::<f64>() / 400.0;
        let found = |seed| {
            let mut means = Vec::new();
            samples(400, 4000, seed, |drawn| means.push(mean(drawn)));
            middle(means).unwrap()
        };
        // 0.5 ± 1.96 · √(0.25 / 400)
        assert!((found(7).low - 0.451).abs() < 0.004, "{:?}", found(7));
        assert!((found(7).high - 0.549).abs() < 0.004, "{:?}", found(7));
        assert_eq!(found(7), found(7));
        assert_ne!(found(7), found(8));
        assert_eq!(middle(vec![f64::NAN]), None);
    }
}
