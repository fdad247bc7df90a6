//! What ranks tell each other in a step, beside gradients: each at once by one small exchange.

use std::time::Duration;

use bert4rs_data::BatchDigest;
use bert4rs_tensor_core::Tensor;
use bert4rs_tensor_core::distributed::{ProcessGroup, ReduceOp, gather};
use bert4rs_tensor_core::error::Context;
use serde::{Deserialize, Serialize};

use super::{MeteredGroup, Traffic};
use crate::batch::BatchSize;
use crate::error::Result;

const OP: &str = "exchange of a step's numbers";
/// 64-bit words of a batch's digest, and one that says whether it has any.
const WORDS: usize = 5;

/// What a step cost in communication, and which rank the others waited for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RankTimes {
    /// Seconds in exchanges on rank 0, the wait for slower ranks included.
    pub communication_s: f64,
    /// Bytes that rank 0 sent.
    pub bytes: u64,
    /// The rank that worked longest on the step.
    pub slowest_rank: u64,
    /// By how many seconds it worked longer than the mean of all.
    pub lag_s: f64,
}

/// Sizes summed over ranks, and the digests of all ranks' batches in the order of their numbers.
pub(crate) fn gather_batches(
    group: &MeteredGroup,
    size: BatchSize,
    digests: Vec<Option<BatchDigest>>,
) -> Result<(BatchSize, Vec<BatchDigest>)> {
    if !group.is_shared() {
        return Ok((size, digests.into_iter().flatten().collect()));
    }
    let mut own = vec![size.tokens as i64, size.positions as i64, size.labels as i64];
    for digest in &digests {
        own.push(digest.is_some().into());
        own.extend(digest.map_or([0; 4], |digest| digest.words()));
    }
    let all = gather(group, &Tensor::f_from_slice(&own).during(OP)?)?;
    let all = Vec::<i64>::try_from(&all).during(OP)?;
    let mut sum = BatchSize::default();
    for rank in all.chunks(own.len()) {
        let [tokens, positions, labels] = [rank[0], rank[1], rank[2]].map(|count| count as u64);
        sum += BatchSize { tokens, positions, labels };
    }
    let mut in_order = Vec::with_capacity(digests.len() * group.size());
    for batch in 0..digests.len() {
        for rank in all.chunks(own.len()) {
            let at = 3 + batch * WORDS;
            if let [1, words @ ..] = &rank[at..at + WORDS] {
                in_order.extend(<[i64; 4]>::try_from(words).map(BatchDigest::from_words));
            }
        }
    }
    Ok((sum, in_order))
}

/// The loss of a step, of which each rank has its part, and what the step cost. `busy` is the time
/// that this rank worked on it.
pub(crate) fn end_step(
    group: &MeteredGroup,
    loss: Tensor,
    busy: Duration,
    before: Traffic,
) -> Result<(Tensor, Option<RankTimes>)> {
    if !group.is_shared() {
        return Ok((loss, None));
    }
    let own = [loss.f_double_value(&[]).during(OP)?, busy.as_secs_f64()];
    let all = gather(group, &Tensor::f_from_slice(&own).during(OP)?)?;
    let all = Vec::<f64>::try_from(&all).during(OP)?;
    let loss: f64 = all.iter().step_by(2).sum();
    let busy = || all.iter().skip(1).step_by(2).copied();
    let mean = busy().sum::<f64>() / group.size() as f64;
    let slowest = busy().enumerate().max_by(|left, right| left.1.total_cmp(&right.1));
    let (slowest, longest) = slowest.unwrap_or_default();
    let Traffic { waited, bytes } = group.traffic() - before;
    let times = RankTimes {
        communication_s: waited.as_secs_f64(),
        bytes,
        slowest_rank: slowest as u64,
        lag_s: longest - mean,
    };
    let loss = Tensor::f_from_slice(&[loss]).and_then(|loss| loss.f_get(0)).during(OP)?;
    Ok((loss, Some(times)))
}

/// For each of `wishes`, whether any rank has it; or of numbers, the largest.
pub(crate) fn agree_on<const N: usize>(group: &MeteredGroup, wishes: [i64; N]) -> Result<[i64; N]> {
    if !group.is_shared() {
        return Ok(wishes);
    }
    let mut largest = Tensor::f_from_slice(&wishes).during(OP)?;
    group.all_reduce(&mut largest, ReduceOp::Max)?.wait()?;
    let mut agreed = [0; N];
    largest.f_copy_data(&mut agreed, N).during(OP)?;
    Ok(agreed)
}

/// Sums over ranks, in their order.
pub(crate) fn sum_over_ranks(group: &MeteredGroup, own: &[f64]) -> Result<Vec<f64>> {
    if !group.is_shared() {
        return Ok(own.to_vec());
    }
    let all = gather(group, &Tensor::f_from_slice(own).during(OP)?)?;
    let all = Vec::<f64>::try_from(&all).during(OP)?;
    let mut sums = vec![0.0; own.len()];
    for rank in all.chunks(own.len().max(1)) {
        sums.iter_mut().zip(rank).for_each(|(sum, value)| *sum += value);
    }
    Ok(sums)
}
