//! GradCache (arXiv 2101.06983): the loss of a large batch, whose examples need one another, with
//! the gradients of the whole and the memory of one part.
//!
//! All texts are encoded part by part, and only their vectors are kept. The loss of all vectors
//! gives the gradient of each vector. With these, the parts are encoded once more, each with its
//! own backward pass, whose gradients add up: the sum of `vector · gradient` has them.

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function, apply_one};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::random::RandomState;
use bert4rs_tensor_core::{Kind, Tensor};

use crate::error::Result;
use crate::gradients::Gradients;

/// The loss of the vectors that `encode` makes of each of `parts` parts, a scalar whose gradients
/// for `weights` are those of the whole batch. `encode` draws the same random numbers each time.
///
/// # Errors
/// What `encode` and `loss` return, and what libtorch throws.
pub(super) fn loss_of_parts(
    weights: &[Tensor],
    parts: usize,
    encode: impl Fn(usize) -> Result<Tensor>,
    loss: impl Fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let Some(device) = weights.first().map(Tensor::device) else {
        return loss(&joined(&(0..parts).map(encode).collect::<Result<Vec<_>>>()?)?);
    };
    let before = RandomState::of(device)?;
    // With gradients on, as libtorch's choice of a kernel depends on it; each graph goes at once.
    let vectors = (0..parts).map(|part| Ok(encode(part)?.detach()));
    let vectors = vectors.collect::<Result<Vec<_>>>()?;
    let all = joined(&vectors)?.set_requires_grad(true);
    let value = loss(&all)?;
    let of_vectors = autograd::gradients(&value, std::slice::from_ref(&all))?;
    before.restore()?;
    let mut gradients = Gradients::default();
    let mut begin = 0;
    for (part, vectors) in vectors.iter().enumerate() {
        let count = vectors.size()[0];
        let of_part = of_vectors[0].f_narrow(0, begin, count).during("GradCache")?;
        let again = encode(part)?;
        let sum = (again * of_part).f_sum(Kind::Float).during("GradCache")?;
        gradients.add(autograd::gradients(&sum, weights)?)?;
        begin += count;
    }
    let known = KnownGradients { value: value.detach(), gradients: gradients.into_tensors() };
    Ok(apply_one(known, &weights.iter().collect::<Vec<_>>())?)
}

fn joined(parts: &[Tensor]) -> Result<Tensor> {
    Ok(Tensor::f_cat(parts, 0).during("join vectors")?)
}

/// A value whose gradients are there already.
struct KnownGradients {
    value: Tensor,
    /// One for each input; undefined where it has none.
    gradients: Vec<Tensor>,
}

impl Function for KnownGradients {
    fn name(&self) -> &'static str {
        "known gradients"
    }

    fn forward(
        &mut self,
        _: &[&Tensor],
        _: &mut ForwardContext,
    ) -> bert4rs_tensor_core::Result<Vec<Tensor>> {
        Ok(vec![self.value.shallow_clone()])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> bert4rs_tensor_core::Result<Vec<Option<Tensor>>> {
        let scaled = |(at, gradient): (usize, &Tensor)| match &grads[0] {
            Some(factor) if gradient.defined() && ctx.needs(at) => {
                gradient.f_mul(factor).during("known gradients").map(Some)
            }
            _ => Ok(None),
        };
        self.gradients.iter().enumerate().map(scaled).collect()
    }
}

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::testing::in_own_process;
    use bert4rs_tensor_core::{Device, random};

    use super::*;
    use crate::finetune::similarity::SimilarityObjective;

    /// Two layers with dropout between, whose numbers differ from part to part.
    fn encode(x_nd: &Tensor, weights: &[Tensor]) -> Tensor {
        x_nd.matmul(&weights[0]).tanh().dropout(0.2, true).matmul(&weights[1])
    }

    // Other tests draw from the same generator.
    #[test]
    fn gradients_are_those_of_the_whole_batch() {
        let test =
            "finetune::similarity::grad_cache::tests::gradients_are_those_of_the_whole_batch";
        in_own_process(test, compare_with_the_whole_batch);
    }

    fn compare_with_the_whole_batch() {
        random::seed(3);
        let options = (Kind::Float, Device::Cpu);
        let weight = |shape: [i64; 2]| Tensor::randn(shape, options).set_requires_grad(true);
        let weights = [weight([6, 8]), weight([8, 5]), weight([2, 2])];
        let texts_nd = Tensor::randn([14, 6], options);
        let part = |at: usize| texts_nd.narrow(0, 4 * at as i64, [4, 4, 4, 2][at]);
        let loss = |vectors: &Tensor| {
            SimilarityObjective::Ranking { scale: 20.0 }.loss(&vectors.view([7, 2, 5]), None)
        };
        let state = RandomState::of(Device::Cpu).unwrap();
        let whole =
            Tensor::cat(&(0..4).map(|at| encode(&part(at), &weights)).collect::<Vec<_>>(), 0);
        let whole = loss(&whole).unwrap();
        let expected = autograd::gradients(&whole, &weights).unwrap();
        let after = Tensor::rand([3], options);
        state.restore().unwrap();
        let found = loss_of_parts(&weights, 4, |at| Ok(encode(&part(at), &weights)), loss).unwrap();
        assert_eq!(Tensor::rand([3], options), after, "random numbers go on as if nothing was");
        assert_eq!(found.double_value(&[]), whole.double_value(&[]));
        let found = autograd::gradients(&(found / 2.0), &weights).unwrap();
        for (found, expected) in found.iter().zip(&expected).take(2) {
            let worst = (found * 2.0 - expected).abs().max().double_value(&[]);
            let size = expected.abs().max().double_value(&[]);
            assert!(worst < 1e-6 * size.max(1.0), "{worst} of {size}");
        }
        assert!(!found[2].defined() || found[2].abs().max().double_value(&[]) == 0.0);
    }
}
