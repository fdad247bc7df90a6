//! Gradients summed over ranks, in buckets of a fixed order.
//!
//! Each rank's gradients are those of its *sum* of losses, divided by the count of labels of all
//! ranks ([`sum_counts`](super::sum_counts)). Then their sum is the gradient of the mean over all
//! labels. A mean of the ranks' means would be wrong where ranks have unlike numbers of labels, and
//! not a number where one has none.

use tch::{Device, Kind, Tensor};

use super::{ProcessGroup, ReduceOp, all_reduce_sum};
use crate::error::{Context, Error, Result};
use crate::no_grad;

const OP: &str = "exchange of gradients";
/// Dtypes of gradients, from the narrowest.
const KINDS: [Kind; 4] = [Kind::BFloat16, Kind::Half, Kind::Float, Kind::Double];

/// The plan of an exchange: which gradients travel together.
#[derive(Debug, Clone)]
pub struct GradientExchange {
    shapes: Vec<Vec<i64>>,
    /// Ranges of parameters. All ranks have the same, and go through them in this order.
    buckets: Vec<std::ops::Range<usize>>,
}

impl GradientExchange {
    /// For gradients of these shapes, in buckets of at least `bucket_values` values: large ones
    /// use the network better, small ones need less memory.
    pub fn new(shapes: Vec<Vec<i64>>, bucket_values: i64) -> Self {
        let mut buckets = Vec::new();
        let (mut start, mut values) = (0, 0);
        for (index, shape) in shapes.iter().enumerate() {
            values += shape.iter().product::<i64>();
            if values >= bucket_values || index + 1 == shapes.len() {
                buckets.push(start..index + 1);
                (start, values) = (index + 1, 0);
            }
        }
        Self { shapes, buckets }
    }

    /// Makes each of `grads` the sum over ranks, with the same bits on all. One that is undefined
    /// on some ranks counts as zeros there; one that is undefined on all stays so. Where dtypes
    /// differ, as after unlike numbers of micro-batches, the widest is taken.
    ///
    /// The new gradients share memory by bucket.
    ///
    /// # Errors
    /// Gradients of other shapes, and those of the group.
    pub fn all_reduce(&self, group: &dyn ProcessGroup, grads: &mut [Tensor]) -> Result<()> {
        self.check(grads)?;
        if group.size() == 1 {
            return Ok(());
        }
        let kinds = common_kinds(group, grads)?;
        no_grad(|| {
            for (bucket, kind) in self.buckets.iter().flat_map(|b| KINDS.map(|kind| (b, kind))) {
                let of_kind = |index: &usize| kinds[*index] == Some(kind);
                let members: Vec<usize> = bucket.clone().filter(of_kind).collect();
                if !members.is_empty() {
                    self.all_reduce_flat(group, grads, &members, kind)?;
                }
            }
            Ok(())
        })
    }

    /// Sums the gradients `members`, of `kind`, as one flat tensor.
    fn all_reduce_flat(
        &self,
        group: &dyn ProcessGroup,
        grads: &mut [Tensor],
        members: &[usize],
        kind: Kind,
    ) -> Result<()> {
        let device = grads.iter().find(|grad| grad.defined()).map_or(Device::Cpu, Tensor::device);
        let flat = |index: &usize| {
            let grad = &grads[*index];
            if grad.defined() {
                return grad.f_reshape(-1)?.f_to_kind(kind);
            }
            Tensor::f_zeros([self.values(*index)], (kind, device))
        };
        let parts = members.iter().map(flat).collect::<std::result::Result<Vec<_>, _>>();
        let mut sum = Tensor::f_cat(&parts.during(OP)?, 0).during(OP)?;
        all_reduce_sum(group, &mut sum)?;
        let mut start = 0;
        for &index in members {
            let count = self.values(index);
            let part = sum.f_narrow(0, start, count).during(OP)?;
            grads[index] = part.f_view(&self.shapes[index][..]).during(OP)?;
            start += count;
        }
        Ok(())
    }

    fn values(&self, index: usize) -> i64 {
        self.shapes[index].iter().product()
    }

    fn check(&self, grads: &[Tensor]) -> Result<()> {
        let refuse = |found: Vec<i64>, expected: String| {
            Err(Error::Shape { op: OP, tensor: "gradient", found, expected })
        };
        if grads.len() != self.shapes.len() {
            return refuse(vec![grads.len() as i64], format!("{} gradients", self.shapes.len()));
        }
        for (grad, shape) in grads.iter().zip(&self.shapes) {
            if grad.defined() && grad.size() != *shape {
                return refuse(grad.size(), format!("{shape:?}"));
            }
        }
        Ok(())
    }
}

/// The dtype of each gradient on the rank where it is widest; `None` where no rank has one.
///
/// # Errors
/// A gradient that is not of floats, and those of the group.
pub fn common_kinds(group: &dyn ProcessGroup, grads: &[Tensor]) -> Result<Vec<Option<Kind>>> {
    let code = |grad: &Tensor| -> Result<i64> {
        if !grad.defined() {
            return Ok(0);
        }
        let place = KINDS.iter().position(|kind| *kind == grad.kind());
        place.map(|place| place as i64 + 1).ok_or_else(|| Error::Unsupported {
            what: format!("a gradient in {:?}", grad.kind()),
            reason: format!("the dtypes of gradients are {KINDS:?}"),
        })
    };
    let codes = grads.iter().map(code).collect::<Result<Vec<i64>>>()?;
    let mut codes = Tensor::f_from_slice(&codes).during(OP)?;
    group.all_reduce(&mut codes, ReduceOp::Max)?.wait()?;
    let codes = Vec::<i64>::try_from(&codes).during(OP)?;
    let kind = |code: i64| code.checked_sub(1).and_then(|place| KINDS.get(place as usize).copied());
    Ok(codes.into_iter().map(kind).collect())
}
