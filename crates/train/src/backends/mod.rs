//! Backends of operations chosen by what is faster on this machine.
//!
//! Measured are `contenders`, the operations at two sizes, small and large: once
//! for a processor, version, number of threads and dtype, in a second at most. The result is
//! kept in the cache, written to each run's folder, and taken from there by a run that
//! goes on, so that its bits stay the same.

mod contenders;
mod kept;

use std::time::{Duration, Instant};

use bert4rs_tensor_core::policy::{Choice, SizeClass};
use bert4rs_tensor_core::precision::Precision;

use contenders::{Contender, TimedWork};
pub use kept::{FILE, from_cache, read, write};

/// What all measurements may take.
const BUDGET: Duration = Duration::from_secs(1);

/// Rounds of an operation at most, of which the fastest counts.
const ROUNDS: usize = 5;

/// How many nanoseconds something takes.
type Stopwatch<'a> = dyn FnMut(&mut dyn FnMut()) -> u64 + 'a;

/// The choices for `precision` on this processor, from the cache or measured now. Draws random
/// numbers: seed afterwards.
/// A cache that can't be read or written is done without.
pub fn choices(precision: Precision) -> Vec<Choice> {
    if let Some(kept) = kept::from_cache(precision) {
        return kept;
    }
    let (measured, is_whole) = measure_all(precision);
    if is_whole {
        // Where it can't be written, the next run measures again.
        let _ = kept::to_cache(precision, &measured);
    }
    measured
}

/// All choices, and whether the time sufficed for them: on a machine with other work it may not,
/// and what is left stays in the order.
fn measure_all(precision: Precision) -> (Vec<Choice>, bool) {
    let mut clock = |work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    };
    let (mut choices, mut left) = (Vec::new(), BUDGET);
    for size in [SizeClass::Large, SizeClass::Small] {
        let contenders = contenders::contenders(precision.compute_kind(), size);
        let count = contenders.len().max(1) as u32;
        for (at, contender) in contenders.into_iter().enumerate() {
            let start = Instant::now();
            let share = left / (2 * (count - at as u32));
            choices.extend(measure(contender, share, &mut clock));
            left = left.saturating_sub(start.elapsed());
            if left.is_zero() {
                return (choices, false);
            }
        }
    }
    (choices, true)
}

/// What is faster of both: in rounds in which they take turns, as long as `budget` lasts, but at
/// least one. None where one fails, or where the first try alone takes more than all that is there.
fn measure(contender: Contender, budget: Duration, clock: &mut Stopwatch<'_>) -> Option<Choice> {
    let Contender { call, mut own, mut libtorch } = contender;
    let mut failed = false;
    let mut time = |work: &mut TimedWork| clock(&mut || failed |= work().is_err());
    // The first try also sets buffers up, and is not counted.
    let mut spent = time(&mut own) + time(&mut libtorch);
    if Duration::from_nanos(spent) > BUDGET {
        return None;
    }
    let (mut own_ns, mut libtorch_ns) = (u64::MAX, u64::MAX);
    for round in 0..ROUNDS {
        if round > 0 && Duration::from_nanos(spent) > budget {
            break;
        }
        let times = match round % 2 {
            0 => [time(&mut own), time(&mut libtorch)],
            _ => {
                let second = time(&mut libtorch);
                [time(&mut own), second]
            }
        };
        own_ns = own_ns.min(times[0]);
        libtorch_ns = libtorch_ns.min(times[1]);
        spent += times[0] + times[1];
    }
    (!failed).then(|| Choice::by_times(&call, own_ns, libtorch_ns))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bert4rs_tensor_core::policy::{Backend, Op, OpCall};
    use bert4rs_tensor_core::{Device, Kind};

    use super::*;

    /// The choice where own kernels take `own` on a clock that only these move, and libtorch
    /// `libtorch`.
    fn chosen(op: Op, own: &'static [u64], libtorch: u64) -> Option<Choice> {
        thread_local!(static TIME: Cell<u64> = const { Cell::new(0) });
        let mut tries = own.iter().cycle();
        let contender = Contender {
            call: OpCall { op, device: Device::Cpu, kind: Kind::Float, shape: vec![512, 256] },
            own: Box::new(move || {
                TIME.set(TIME.get() + tries.next().unwrap());
                Ok(())
            }),
            libtorch: Box::new(move || {
                TIME.set(TIME.get() + libtorch);
                Ok(())
            }),
        };
        let mut clock = |work: &mut dyn FnMut()| {
            let start = TIME.get();
            work();
            TIME.get() - start
        };
        measure(contender, Duration::from_millis(1), &mut clock)
    }

    #[test]
    fn the_choice_follows_the_clock() {
        // The order prefers own norms and libtorch's ReLU.
        for op in [Op::RmsNorm, Op::Relu] {
            let choice = chosen(op, &[1000], 2000).unwrap();
            assert_eq!(
                (choice.backend, choice.own_ns, choice.libtorch_ns),
                (Backend::Own, 1000, 2000)
            );
            assert_eq!(chosen(op, &[2000], 1000).unwrap().backend, Backend::Libtorch);
        }
        assert_eq!(chosen(Op::RmsNorm, &[1050], 1000).unwrap().backend, Backend::Own);
        assert_eq!(chosen(Op::Relu, &[1000], 1050).unwrap().backend, Backend::Libtorch);
    }

    #[test]
    fn one_slow_round_does_not_choose_and_slow_work_is_left_to_the_order() {
        // The first try is not counted, and of the others the fastest is.
        let choice = chosen(Op::Relu, &[90_000, 5000, 1000, 7000], 2000).unwrap();
        assert_eq!((choice.backend, choice.own_ns), (Backend::Own, 1000));
        assert_eq!(chosen(Op::Relu, &[2_000_000_000], 1000), None);
    }

    #[test]
    fn everything_that_is_measured_works_in_both_dtypes() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let all = contenders::contenders(kind, SizeClass::Small);
            assert!(all.len() >= 14, "{}", all.len());
            for mut contender in all {
                (contender.own)().unwrap();
                (contender.libtorch)().unwrap();
                assert_eq!(SizeClass::of(&contender.call.shape), SizeClass::Small);
            }
            for contender in contenders::contenders(kind, SizeClass::Large) {
                assert_eq!(SizeClass::of(&contender.call.shape), SizeClass::Large);
            }
        }
    }

    #[test]
    fn what_fails_is_no_choice() {
        let contender = Contender {
            call: OpCall {
                op: Op::Silu,
                device: Device::Cpu,
                kind: Kind::Float,
                shape: vec![8, 8],
            },
            own: Box::new(|| {
                Err(bert4rs_tensor_core::Error::Unsupported {
                    what: "it".into(),
                    reason: "none".into(),
                })
            }),
            libtorch: Box::new(|| Ok(())),
        };
        assert_eq!(
            measure(contender, Duration::from_millis(1), &mut |work| {
                work();
                1
            }),
            None
        );
    }
}
