//! How well a text finds the one that belongs to it among those of all examples.
//!
//! Axes: `n` examples, `d` features, `q` those that search at once.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Tensor, no_grad};

use super::objective::normalized;
use crate::error::Result;

/// Examples that search at once: their cosines with all others are in memory.
const AT_ONCE: i64 = 1024;

/// The rank of each example's second vector among all second vectors, by the cosine with its
/// first, from 1; equals share the best rank. Both `[n, d]` in FP32.
///
/// # Errors
/// What libtorch throws.
pub(super) fn ranks(first_nd: &Tensor, second_nd: &Tensor) -> Result<Vec<usize>> {
    let ranks_n = no_grad(|| {
        let (first_nd, second_dn) = (normalized(first_nd)?, normalized(second_nd)?.f_tr()?);
        let n = first_nd.size()[0];
        let ranks = (0..n).step_by(AT_ONCE as usize).map(|begin| {
            let count = AT_ONCE.min(n - begin);
            let cosines_qn = first_nd.f_narrow(0, begin, count)?.f_matmul(&second_dn)?;
            let own_q1 =
                Tensor::f_arange_start(begin, begin + count, (Kind::Int64, first_nd.device()))?
                    .f_unsqueeze(1)?;
            let own_q1 = cosines_qn.f_gather(1, &own_q1, false)?;
            cosines_qn.f_gt_tensor(&own_q1)?.f_sum_dim_intlist(
                [1i64].as_slice(),
                false,
                Kind::Int64,
            )
        });
        Tensor::f_cat(&ranks.collect::<std::result::Result<Vec<_>, _>>()?, 0)
    });
    let ranks = ranks_n.and_then(Vec::<i64>::try_from).during("ranks of texts")?;
    Ok(ranks.into_iter().map(|better| better as usize + 1).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_what_is_nearer() {
        let first = Tensor::from_slice(&[1f32, 0.0, 0.0, 2.0, 1.0, 1.0]).view([3, 2]);
        let second = Tensor::from_slice(&[3f32, 0.0, 1.0, 0.1, 1.0, 1.0]).view([3, 2]);
        assert_eq!(ranks(&first, &second).unwrap(), [1, 2, 1]);
        let same = Tensor::from_slice(&[1f32, 1.0, 1.0, 1.0, 1.0, 1.0]).view([3, 2]);
        assert_eq!(ranks(&first, &same).unwrap(), [1, 1, 1]);
    }
}
