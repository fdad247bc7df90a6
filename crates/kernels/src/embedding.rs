//! Lookups in a table whose gradient holds only the rows that were looked up.
//!
//! With ids `i` and table `w`, `y_p = w[i_p]` and `dw[e] = Σ dy_p` over the places `p` with
//! `i_p = e`.
//!
//! libtorch fills a gradient of the table's size with zeros, and adds places one after the other,
//! rounding each time. Where an output layer shares the table, autograd then adds all of that to
//! the output layer's gradient. Here a row is summed in FP32 and rounded once, and the result is a
//! sparse tensor of those rows, which autograd adds to the output layer's gradient in place. On a
//! GPU, where work must have a fixed shape, the gradient is dense.

#![expect(unsafe_code, reason = "one tensor written by many, and calls by instruction set")]

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor, parallel};
use half::bf16;

use crate::cuda;
use crate::isa::Isa;
use crate::lanes::{LANES, Lanes, vectorized};
use crate::number::Number;
use crate::slices::{self, Shared};
use crate::tail::{read, whole, write};

const OP: &str = "lookup";

/// Places that a task takes, about.
const PLACES: usize = 64;

/// Whether [`lookup`] takes a table: FP32 or BF16, `[entries, features]`, on the CPU or on a GPU
/// where our kernels are preferred.
pub fn supports(table: &Tensor) -> bool {
    (table.device() == Device::Cpu || cuda::is_preferred(table.device()))
        && matches!(table.kind(), Kind::BFloat16 | Kind::Float)
        && table.dim() == 2
}

/// The rows of `table`, `[entries, features]`, of `ids`, I64 of any shape: `[.., features]`. The
/// gradient of the table is sparse on the CPU (coalesced COO) and dense on a GPU; looking up
/// `padding` adds nothing to it.
///
/// # Errors
/// A table that it does not [support](supports), ids of another dtype, an id that is no entry.
pub fn lookup(table: &Tensor, ids: &Tensor, padding: Option<i64>) -> Result<Tensor> {
    if !supports(table) || ids.kind() != Kind::Int64 {
        return Err(Error::Unsupported {
            what: format!("{OP} of {:?} in a table of {:?}", ids.kind(), table.kind()),
            reason: "it takes I64 and a matrix of FP32 or BF16".into(),
        });
    }
    let function = Lookup { entries: table.size()[0], padding };
    autograd::apply_one(function, &[table, ids])
}

/// Inputs: the table, ids.
struct Lookup {
    entries: i64,
    padding: Option<i64>,
}

impl Function for Lookup {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        ctx.save(inputs[1]);
        Ok(vec![Tensor::f_embedding(inputs[0], inputs[1], -1, false, false).during(OP)?])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(grad) = &grads[0] else { return Ok(vec![None, None]) };
        let (grad, ids) = (grad.contiguous(), ctx.saved()[0].contiguous());
        let of_table = match (grad.device(), grad.kind()) {
            (Device::Cpu, Kind::BFloat16) => {
                sum_rows::<bf16>(Isa::fastest(), &grad, &ids, self.entries, self.padding)?
            }
            (Device::Cpu, _) => {
                sum_rows::<f32>(Isa::fastest(), &grad, &ids, self.entries, self.padding)?
            }
            _ => cuda::embedding::backward(&grad, &ids, self.entries, self.padding)?,
        };
        Ok(vec![Some(of_table), None])
    }
}

/// Where each id was looked up.
struct Runs {
    /// In ascending order, each once.
    ids: Vec<i64>,
    /// All places, those of an id behind those of the id before it.
    places: Vec<usize>,
    /// Where the places of each id end.
    ends: Vec<usize>,
}

impl Runs {
    fn of(ids: &[i64], padding: Option<i64>) -> Self {
        let mut places: Vec<usize> =
            (0..ids.len()).filter(|&place| Some(ids[place]) != padding).collect();
        places.sort_by_key(|&place| ids[place]);
        let mut runs = Self { ids: Vec::new(), places, ends: Vec::new() };
        for (index, &place) in runs.places.iter().enumerate() {
            if runs.ids.last() != Some(&ids[place]) {
                runs.ids.push(ids[place]);
                runs.ends.push(index);
            }
            if let Some(end) = runs.ends.last_mut() {
                *end = index + 1;
            }
        }
        runs
    }

    /// The places of id number `index`.
    fn places(&self, index: usize) -> &[usize] {
        let first = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.places[first..self.ends[index]]
    }

    /// Parts of the ids with about [`PLACES`] places each.
    fn tasks(&self) -> Vec<std::ops::Range<usize>> {
        let mut tasks = Vec::new();
        let (mut first, mut before) = (0, 0);
        for (index, &end) in self.ends.iter().enumerate() {
            if end - before >= PLACES || index + 1 == self.ends.len() {
                tasks.push(first..index + 1);
                (first, before) = (index + 1, end);
            }
        }
        tasks
    }
}

/// The gradient of a table of `entries` rows, sparse.
fn sum_rows<T: Number>(
    isa: Isa,
    grad: &Tensor,
    ids: &Tensor,
    entries: i64,
    padding: Option<i64>,
) -> Result<Tensor> {
    let features = grad.size().last().copied().unwrap_or(0);
    let options = (grad.kind(), grad.device());
    let runs = Runs::of(slices::read(ids, "ids")?, padding);
    let count = runs.ids.len();
    let mut values = Tensor::f_empty([count as i64, features], options).during(OP)?;
    let of_places: &[T] = slices::read(grad, "a gradient of lookups")?;
    let out = Shared::new(slices::write::<T>(&mut values, "a gradient of a table")?);
    let width = features as usize;
    parallel::for_each_of(runs.tasks(), |part| {
        // SAFETY: each task has ids of its own.
        let out = unsafe { out.part(part.start * width, part.len() * width) };
        sum_on::<T>(isa, of_places, &runs, part, out);
    });
    let indices = Tensor::f_from_slice(&runs.ids).during(OP)?.f_view([1, -1]).during(OP)?;
    let size = [entries, features];
    Tensor::f_internal_sparse_coo_tensor_unsafe(&indices, &values, size, options, true).during(OP)
}

vectorized! {
    /// [`sum_some`] on `isa`.
    fn sum_on[T: Number][T](
        of_places: &[T],
        runs: &Runs,
        part: std::ops::Range<usize>,
        out: &mut [T],
    ) = sum_some
}

/// The rows of some ids.
#[inline(always)]
fn sum_some<V: Lanes, T: Number>(
    of_places: &[T],
    runs: &Runs,
    part: std::ops::Range<usize>,
    out: &mut [T],
) {
    let features = out.len() / part.len();
    if features == 0 {
        return;
    }
    for (index, row) in part.zip(out.chunks_exact_mut(features)) {
        let places = runs.places(index);
        let end = whole(features);
        for first in (0..end).step_by(LANES) {
            let columns = first..first + LANES;
            let sum = column_sums::<V, T, false>(of_places, features, places, columns.clone());
            write::<V, T, false>(sum, &mut row[columns]);
        }
        if end < features {
            let sum = column_sums::<V, T, true>(of_places, features, places, end..features);
            write::<V, T, true>(sum, &mut row[end..]);
        }
    }
}

/// The sums of some columns over `places`.
#[inline(always)]
fn column_sums<V: Lanes, T: Number, const TAIL: bool>(
    of_places: &[T],
    features: usize,
    places: &[usize],
    columns: std::ops::Range<usize>,
) -> V {
    let mut sum = V::splat(0.0);
    for place in places {
        let row = &of_places[place * features..(place + 1) * features];
        sum = sum.add(read::<V, T, TAIL>(&row[columns.clone()]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::threads::assert_same_on_one_thread;

    fn random(shape: &[i64], kind: Kind) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
    }

    /// Ids of which some come often, some once and most never.
    fn ids(shape: &[i64], entries: i64) -> Tensor {
        let ids = Tensor::randint(entries, shape, (Kind::Int64, Device::Cpu));
        ids.where_scalarother(&random(shape, Kind::Float).gt(-0.5), 3.min(entries - 1))
    }

    /// The gradient of `w` from `dy`, in FP64.
    fn exact(dy: &Tensor, ids: &Tensor, entries: i64, padding: Option<i64>) -> Tensor {
        let features = dy.size()[dy.dim() - 1];
        let dy = dy.to_kind(Kind::Double).view([-1, features]);
        let mut sum = Tensor::zeros([entries, features], (Kind::Double, Device::Cpu));
        sum = sum.index_add(0, &ids.view(-1), &dy);
        if let Some(padding) = padding {
            let _ = sum.get(padding).zero_();
        }
        sum
    }

    #[test]
    fn values_and_gradients_equal_fp64() {
        for (entries, features, padding) in [(1, 1, None), (50, 40, Some(3)), (400, 256, None)] {
            for (kind, tolerance) in [(Kind::Float, 1e-6), (Kind::BFloat16, 4e-3)] {
                let table = random(&[entries, features], kind).set_requires_grad(true);
                let ids = ids(&[5, 61], entries);
                let y = lookup(&table, &ids, padding).unwrap();
                assert!(y.equal(&table.index_select(0, &ids.view(-1)).view([5, 61, features])));
                let dy = random(&y.size(), kind);
                let found = Tensor::run_backward(&[(y * &dy).sum(kind)], &[&table], false, false);
                assert!(found[0].is_sparse());
                let found = found[0].to_dense(None, false).to_kind(Kind::Double);
                let expected = exact(&dy, &ids, entries, padding);
                let error = (found - &expected).norm() / (expected.norm() + 1e-9);
                assert!(error.double_value(&[]) < tolerance, "{entries} {features} {kind:?}");
            }
        }
    }

    #[test]
    fn autograd_adds_its_rows_to_another_gradient() {
        let table = random(&[60, 40], Kind::Float).set_requires_grad(true);
        let ids = ids(&[70], 60);
        let tied = |own: bool| {
            let y = match own {
                true => lookup(&table, &ids, None).unwrap(),
                false => Tensor::embedding(&table, &ids, -1, false, false),
            };
            let loss = y.matmul(&table.tr()).square().sum(Kind::Float);
            let grads = Tensor::run_backward(&[loss], &[&table], false, false);
            grads.into_iter().next().unwrap()
        };
        let (found, expected) = (tied(true), tied(false));
        assert!(!found.is_sparse());
        let error = (&found - &expected).norm() / expected.norm();
        assert!(error.double_value(&[]) < 1e-6);
    }

    #[test]
    fn numbers_that_are_not_finite_stay_in_their_row() {
        let table = random(&[9, 20], Kind::BFloat16).set_requires_grad(true);
        let ids = Tensor::from_slice(&[1i64, 2, 2, 5, 1]);
        let y = lookup(&table, &ids, None).unwrap();
        let dy = random(&[5, 20], Kind::BFloat16);
        let _ = dy.get(2).narrow(0, 19, 1).fill_(f64::INFINITY);
        let found = Tensor::run_backward(&[(y * dy).sum(Kind::Float)], &[&table], false, false);
        let found = found[0].to_dense(None, false);
        assert_eq!(found.isfinite().logical_not().sum(Kind::Int64).int64_value(&[]), 1);
        assert_eq!(found.double_value(&[2, 19]), f64::INFINITY);
    }

    #[test]
    fn nothing_looked_up_has_an_empty_gradient() {
        let table = random(&[9, 20], Kind::Float).set_requires_grad(true);
        for ids in [Tensor::from_slice(&[4i64, 4]), Tensor::from_slice::<i64>(&[])] {
            let y = lookup(&table, &ids, Some(4)).unwrap().sum(Kind::Float);
            let found = Tensor::run_backward(&[y], &[&table], false, false);
            assert_eq!(
                found[0].to_dense(None, false).abs().sum(Kind::Float).double_value(&[]),
                0.0
            );
        }
    }

    #[test]
    fn every_isa_agrees() {
        let (grad, ids) = (random(&[300, 70], Kind::BFloat16), ids(&[300], 90));
        let run = |isa| sum_rows::<bf16>(isa, &grad, &ids, 90, Some(2)).unwrap();
        let expected = run(Isa::Portable).to_dense(None, false);
        for isa in Isa::available() {
            assert!(run(isa).to_dense(None, false).equal(&expected), "{isa:?}");
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let (grad, ids) = (random(&[300, 70], Kind::Float), ids(&[300], 90));
        let run = || {
            vec![
                sum_rows::<f32>(Isa::fastest(), &grad, &ids, 90, None)
                    .unwrap()
                    .to_dense(None, false),
            ]
        };
        assert_same_on_one_thread(run);
    }

    #[test]
    fn other_inputs_are_refused() {
        let table = random(&[9, 20], Kind::Double);
        let ids = Tensor::from_slice(&[1i64]);
        assert!(lookup(&table, &ids, None).is_err());
        let table = table.to_kind(Kind::Float);
        assert!(lookup(&table, &ids.to_kind(Kind::Float), None).is_err());
        assert!(lookup(&table, &Tensor::from_slice(&[9i64]), None).is_err());
    }
}
