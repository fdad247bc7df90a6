//! On the CPU: a task is a head of keys and values with the queries that share it, in one segment
//! of a row.

mod backward;
mod forward;
mod head;

use std::cell::RefCell;
use std::ops::Range;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Result, Tensor, parallel};

use super::visible::Segment;
use super::{Call, extents};
use crate::cpu::number::Number;
use crate::cpu::views::{self, SharedSlice};
use head::HeadRows;

/// Queries of a block in the backward pass.
const QUERIES: usize = 64;

/// Queries of a block in the forward pass.
const QUERY_ROWS: usize = 32;

/// Queries, keys, values, or what has their shape, `[b, h, t, d]` in whatever order in memory.
struct StridedHeads<'a, T> {
    values: &'a [T],
    strides: [usize; 4],
    features: usize,
}

impl<'a, T: Number> StridedHeads<'a, T> {
    fn new(tensor: &'a Tensor, what: &str) -> Result<Self> {
        let [_, _, _, features] = extents(tensor);
        let (values, strides) = views::read_strided(tensor, what)?;
        Ok(Self { values, strides, features })
    }

    /// The places `part` of a head.
    fn head(&self, row: usize, head: usize, part: &Range<usize>) -> HeadRows<'a, T> {
        let Self { values, strides, features } = *self;
        let first = row * strides[0] + head * strides[1] + part.start * strides[2];
        HeadRows { values: &values[first..], stride: strides[2], count: part.len(), features }
    }
}

pub(super) fn forward_all<T: Number>(
    call: &Call,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
) -> Result<(Tensor, Tensor)> {
    thread_local! {
        static SCRATCH: RefCell<forward::ForwardScratch> = RefCell::default();
    }
    let op = "attention";
    let place = (q.kind(), q.device());
    let [b, h, t, d] = extents(q).map(|extent| extent as i64);
    let mut out = Tensor::f_empty([b, t, h, d], place).during(op)?;
    let mut log_sums = Tensor::f_empty([b, h, t], (Kind::Float, q.device())).during(op)?;
    let results = forward::AttentionResults {
        out: SharedSlice::new(views::write::<T>(&mut out, "a result")?),
        log_sums: SharedSlice::new(views::write(&mut log_sums, "logarithms")?),
    };
    let (q, k, v) =
        (StridedHeads::new(q, "q")?, StridedHeads::new(k, "k")?, StridedHeads::new(v, "v")?);
    let heads = call.heads / call.groups;
    let segments = call.rule.segments();
    parallel::for_each(segments.len() * call.groups, |task| {
        let (segment, group) = (task / call.groups, task % call.groups);
        let (rule, segment) = (call.rule.of(segment), &segments[segment]);
        let Segment { row, queries, keys } = segment;
        SCRATCH.with_borrow_mut(|scratch| {
            let [k, v] = [&k, &v].map(|side| side.head(*row, group, keys));
            scratch.pack::<T>(call.isa, k, v, rule);
            for head in group * heads..(group + 1) * heads {
                scratch.run(call, (segment, head), q.head(*row, head, queries), rule, &results);
            }
        });
    });
    Ok((out, log_sums))
}

/// What the backward pass reads.
pub(super) struct Saved<'a> {
    pub(in crate::attention) q: &'a Tensor,
    pub(in crate::attention) k: &'a Tensor,
    pub(in crate::attention) v: &'a Tensor,
    pub(in crate::attention) out: &'a Tensor,
    pub(in crate::attention) log_sums: &'a Tensor,
    pub(in crate::attention) grad: &'a Tensor,
}

pub(super) fn backward_all<T: Number>(call: &Call, saved: &Saved) -> Result<Vec<Option<Tensor>>> {
    thread_local! {
        static SCRATCH: RefCell<backward::BackwardScratch> = RefCell::default();
    }
    let op = "attention backward";
    let place = (saved.q.kind(), saved.q.device());
    let [b, h, t, d] = extents(saved.q).map(|extent| extent as i64);
    let [_, g, s, _] = extents(saved.k).map(|extent| extent as i64);
    let mut dq = Tensor::f_empty([b, t, h, d], place).during(op)?;
    let mut dk = Tensor::f_empty([b, s, g, d], place).during(op)?;
    let mut dv = Tensor::f_empty([b, s, g, d], place).during(op)?;
    let shape = [b, h, call.distances() as i64];
    let mut dbias = match call.bias {
        Some(_) => Some(Tensor::f_zeros(shape, (Kind::Float, saved.q.device())).during(op)?),
        None => None,
    };
    let gradients = backward::AttentionGrads {
        q: SharedSlice::new(views::write::<T>(&mut dq, "a gradient")?),
        k: SharedSlice::new(views::write::<T>(&mut dk, "a gradient")?),
        v: SharedSlice::new(views::write::<T>(&mut dv, "a gradient")?),
        bias: match &mut dbias {
            Some(dbias) => Some(SharedSlice::new(views::write(dbias, "a gradient")?)),
            None => None,
        },
    };
    let (q, out) =
        (StridedHeads::<T>::new(saved.q, "q")?, StridedHeads::new(saved.out, "a result")?);
    let (k, v) = (StridedHeads::new(saved.k, "k")?, StridedHeads::new(saved.v, "v")?);
    let grad = StridedHeads::new(saved.grad, "a gradient")?;
    let log_sums: &[f32] = views::read(saved.log_sums, "logarithms")?;
    let heads = call.heads / call.groups;
    let segments = call.rule.segments();
    parallel::for_each(segments.len() * call.groups, |task| {
        let (segment, group) = (task / call.groups, task % call.groups);
        let (rule, segment) = (call.rule.of(segment), &segments[segment]);
        let Segment { row, queries, keys } = segment;
        SCRATCH.with_borrow_mut(|scratch| {
            let [k, v] = [&k, &v].map(|side| side.head(*row, group, keys));
            scratch.pack::<T>(call, k, v);
            for head in group * heads..(group + 1) * heads {
                let [q, grad, out] = [&q, &grad, &out].map(|side| side.head(*row, head, queries));
                let first = (row * call.heads + head) * call.queries + queries.start;
                let log_sums = &log_sums[first..][..queries.len()];
                let query = backward::QueryHead { q, grad, out, log_sums };
                scratch.run(call, (segment, head), query, rule, &gradients);
            }
            scratch.store_keys(call, (segment, group), &gradients);
        });
    });
    let mut results: Vec<_> = [dq, dk, dv].map(|grad| Some(grad.transpose(1, 2))).into();
    results.extend(dbias.map(|dbias| {
        let sum = dbias.sum_dim_intlist([0i64].as_slice(), false, Kind::Float);
        Some(sum.flip([1]))
    }));
    Ok(results)
}
