//! What exchanges between processes cost, measured, and what they would cost among more.

use std::time::Instant;

use bert4rs_tensor_core::distributed::{ProcessGroup, gather, reduce_scatter_sum};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use super::{MeteredGroup, agree_on};
use crate::error::Result;

const OP: &str = "measure the network";
/// Values of the smallest exchange, whose time is latency, and of the largest.
const FEW: i64 = 2;
const MANY: i64 = 8 << 20;
/// The median of so many is taken.
const REPEATS: usize = 11;

/// One collective of one size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExchangeTime {
    /// Its name.
    pub collective: &'static str,
    /// Bytes of all ranks' values together.
    pub bytes: u64,
    /// The median, on the slowest rank.
    pub seconds: f64,
}

/// The constants of the cost model: an exchange of `V` bytes in all, of which each rank sends
/// `κV = V (N-1)/N`, takes `(N-1) latency + κV / rate`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NetworkCosts {
    /// Seconds of a message.
    pub latency_s: f64,
    /// Bytes a second that a rank sends in a reduce-scatter, its sum included.
    pub reduce_rate: f64,
    /// The same of an all-gather.
    pub gather_rate: f64,
}

impl NetworkCosts {
    /// Measures the exchanges of a step between all ranks of `group`, which all call it, in some
    /// seconds.
    ///
    /// # Errors
    /// Those of the group.
    pub fn measure(group: &MeteredGroup) -> Result<(Self, Vec<ExchangeTime>)> {
        let mut times = Vec::new();
        for values in [FEW, MANY / 64, MANY] {
            let size = group.size() as i64;
            let whole = Tensor::f_ones([values * size], (Kind::Float, Device::Cpu)).during(OP)?;
            let part = Tensor::f_ones([values], (Kind::Float, Device::Cpu)).during(OP)?;
            let bytes = (values * size * 4) as u64;
            let seconds = median(group, || reduce_scatter_sum(group, &whole).map(drop))?;
            times.push(ExchangeTime { collective: "reduce-scatter", bytes, seconds });
            let seconds = median(group, || gather(group, &part).map(drop))?;
            times.push(ExchangeTime { collective: "all-gather", bytes, seconds });
        }
        Ok((Self::fit(group.size(), &times), times))
    }

    /// The constants that follow from the smallest and the largest exchanges in `times`.
    fn fit(ranks: usize, times: &[ExchangeTime]) -> Self {
        let others = ranks.saturating_sub(1).max(1) as f64;
        let of = |name: &str| -> Vec<ExchangeTime> {
            times.iter().copied().filter(|time| time.collective == name).collect()
        };
        let (reduce, gather) = (of("reduce-scatter"), of("all-gather"));
        let first = |times: &[ExchangeTime]| times.first().map_or(0.0, |time| time.seconds);
        let latency_s = first(&gather).min(first(&reduce)) / others;
        let rate = |times: &[ExchangeTime]| {
            let last = times.last().map_or((0.0, 1.0), |time| (time.bytes as f64, time.seconds));
            let sent = last.0 * others / ranks.max(1) as f64;
            sent / (last.1 - others * latency_s).max(1e-9)
        };
        Self { latency_s, reduce_rate: rate(&reduce), gather_rate: rate(&gather) }
    }

    /// Seconds that a step's exchanges take among `ranks`: gradients of so many bytes by a
    /// reduce-scatter, as many bytes of weights or gradients by an all-gather, and the small
    /// exchanges of a step's numbers.
    pub fn step_s(&self, ranks: usize, gradients: u64, gathered: u64) -> f64 {
        /// Of sizes, dtypes, loss and wishes.
        const SMALL: f64 = 4.0;
        let others = ranks.saturating_sub(1) as f64;
        let share = others / ranks.max(1) as f64;
        let latency = (2.0 + SMALL) * others * self.latency_s;
        let sent = gradients as f64 / self.reduce_rate + gathered as f64 / self.gather_rate;
        latency + share * sent
    }
}

/// The median time of `exchange`, on the rank where it is largest.
fn median(
    group: &MeteredGroup,
    mut exchange: impl FnMut() -> bert4rs_tensor_core::Result<()>,
) -> Result<f64> {
    let mut times = Vec::with_capacity(REPEATS);
    for repeat in 0..=REPEATS {
        group.barrier()?;
        let began = Instant::now();
        exchange()?;
        // Connections and buffers are made in the first.
        if repeat > 0 {
            times.push(began.elapsed().as_nanos() as i64);
        }
    }
    times.sort_unstable();
    let [slowest] = agree_on(group, [times[REPEATS / 2]])?;
    Ok(slowest as f64 * 1e-9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_found_and_foretell_the_times_that_they_came_from() {
        let costs = NetworkCosts { latency_s: 1e-4, reduce_rate: 1e9, gather_rate: 2e9 };
        let time = |collective, bytes: u64, rate: f64| {
            let seconds = 3.0 * costs.latency_s + 0.75 * bytes as f64 / rate;
            ExchangeTime { collective, bytes, seconds }
        };
        let times = [
            time("reduce-scatter", 0, 1e9),
            time("all-gather", 0, 2e9),
            time("reduce-scatter", 1 << 30, 1e9),
            time("all-gather", 1 << 30, 2e9),
        ];
        let found = NetworkCosts::fit(4, &times);
        for (found, expected) in [
            (found.latency_s, costs.latency_s),
            (found.reduce_rate, costs.reduce_rate),
            (found.gather_rate, costs.gather_rate),
        ] {
            assert!((found / expected - 1.0).abs() < 1e-9, "{found} {expected}");
        }
        assert_eq!(found.step_s(1, 1 << 30, 1 << 30), 0.0, "a process alone");
        let step = found.step_s(4, 1 << 30, 1 << 30);
        let exchanges = times[2].seconds + times[3].seconds;
        assert!((step - exchanges - 4.0 * 3.0 * 1e-4).abs() < 1e-9, "{step} {exchanges}");
    }
}
