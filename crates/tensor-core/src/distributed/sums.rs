//! Sums over ranks that give the same bits on all of them and at every run.
//!
//! Each rank gets a part of every rank's values and adds them up itself, in the order of ranks and
//! in FP32 where values are of lower precision. So the result does not depend on how values are
//! cut into buckets, and on Gloo it is also faster than its own reduce-scatter.

use tch::{Kind, Tensor};

use super::ProcessGroup;
use super::group::check_flat;
use crate::error::{Context, Error, Result};
use crate::no_grad;

const OP: &str = "sum over ranks";
/// Values up to which everything is sent to all ranks: one exchange instead of two.
const FEW: i64 = 4096;

/// The dtype in which values of `kind` are added.
fn sum_kind(kind: Kind) -> Kind {
    match kind {
        Kind::BFloat16 | Kind::Half => Kind::Float,
        other => other,
    }
}

/// The sum of the rows of `parts_rn`, in their order, of the dtype that [`sum_kind`] gives.
fn sum_of_rows(parts_rn: &Tensor) -> Result<Tensor> {
    let mut sum = parts_rn.f_get(0).during(OP)?.f_to_kind(sum_kind(parts_rn.kind())).during(OP)?;
    for rank in 1..parts_rn.size()[0] {
        sum = sum.f_add(&parts_rn.f_get(rank).during(OP)?).during(OP)?;
    }
    Ok(sum)
}

/// The sum over ranks of their `input`, `[size n]`, of which each rank gets its part, `[n]`: in
/// FP32 where the input is BF16 or FP16.
///
/// # Errors
/// A length that `size` does not divide, and those of the group.
pub fn reduce_scatter_sum(group: &dyn ProcessGroup, input: &Tensor) -> Result<Tensor> {
    let size = group.size() as i64;
    check_flat(OP, "input", input, None)?;
    if input.size()[0] % size != 0 {
        let expected = format!("[{size} n]");
        return Err(Error::Shape { op: OP, tensor: "input", found: input.size(), expected });
    }
    no_grad(|| {
        if size == 1 {
            return input.f_to_kind(sum_kind(input.kind())).during(OP);
        }
        let mut parts = input.f_empty_like().during(OP)?;
        group.all_to_all(&mut parts, input)?.wait()?;
        sum_of_rows(&parts.f_view([size, -1]).during(OP)?)
    })
}

/// Makes `tensor`, `[n]`, the sum over ranks: the same bits on all. Rounded once to its dtype.
///
/// # Errors
/// Those of the group.
pub fn all_reduce_sum(group: &dyn ProcessGroup, tensor: &mut Tensor) -> Result<()> {
    let size = group.size() as i64;
    check_flat(OP, "tensor", tensor, None)?;
    if size == 1 {
        return Ok(());
    }
    no_grad(|| {
        let count = tensor.size()[0];
        if count <= FEW {
            let all = gather(group, tensor)?;
            let sum = sum_of_rows(&all.f_view([size, count]).during(OP)?)?;
            return tensor.f_copy_(&sum).during(OP);
        }
        let padding = (size - count % size) % size;
        let padded = tensor.f_constant_pad_nd([0, padding]).during(OP)?;
        let part = reduce_scatter_sum(group, &padded)?.f_to_kind(tensor.kind()).during(OP)?;
        let all = gather(group, &part)?;
        tensor.f_copy_(&all.f_narrow(0, 0, count).during(OP)?).during(OP)
    })
}

/// The `input` of all ranks, `[n]`, one after another: `[size n]`.
///
/// # Errors
/// Those of the group.
pub fn gather(group: &dyn ProcessGroup, input: &Tensor) -> Result<Tensor> {
    let count = input.numel() as i64 * group.size() as i64;
    let mut all = Tensor::f_empty([count], (input.kind(), input.device())).during(OP)?;
    group.all_gather(&mut all, input)?.wait()?;
    Ok(all)
}

/// Sums of counts over ranks, such as labels in a batch.
///
/// # Errors
/// Those of the group.
pub fn sum_counts<const N: usize>(group: &dyn ProcessGroup, counts: [i64; N]) -> Result<[i64; N]> {
    let mut tensor = Tensor::f_from_slice(&counts).during(OP)?;
    all_reduce_sum(group, &mut tensor)?;
    let mut sums = [0; N];
    tensor.f_copy_data(&mut sums, N).during(OP)?;
    Ok(sums)
}
