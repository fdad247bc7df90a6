//! Gradients of one step, gathered over its batches without ever filling anything with zeros.

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Kind, Tensor, no_grad};

use crate::error::Result;

/// The sum of the batches' gradients, one a parameter; undefined where there is none.
#[derive(Debug, Default)]
pub(crate) struct Gradients {
    sum: Vec<Tensor>,
}

impl Gradients {
    /// Adds a batch's gradients: the first are taken as they are.
    ///
    /// Sums are kept in FP32, as adding many BF16 gradients in BF16 loses the small ones.
    pub(crate) fn add(&mut self, batch: Vec<Tensor>) -> Result<()> {
        if self.sum.is_empty() {
            self.sum = batch;
            return Ok(());
        }
        no_grad(|| {
            for (sum, gradient) in self.sum.iter_mut().zip(batch) {
                if !gradient.defined() {
                    continue;
                }
                if !sum.defined() {
                    *sum = gradient;
                    continue;
                }
                if sum.kind() == Kind::BFloat16 || sum.kind() == Kind::Half {
                    *sum = sum.to_kind(Kind::Float);
                }
                let _ = sum.f_add_(&gradient).during("add gradients")?;
            }
            Ok(())
        })
    }

    /// The sums, in the parameters' order.
    pub(crate) fn into_tensors(self) -> Vec<Tensor> {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_bf16_gradients_are_not_lost() {
        let mut gradients = Gradients::default();
        let one = || Tensor::from(1f32).to_kind(Kind::BFloat16);
        let tiny = || Tensor::from(0.001f32).to_kind(Kind::BFloat16);
        gradients.add(vec![one(), Tensor::new()]).unwrap();
        for _ in 0..100 {
            gradients.add(vec![tiny(), Tensor::new()]).unwrap();
        }
        let sums = gradients.into_tensors();
        assert!((sums[0].double_value(&[]) - 1.1).abs() < 1e-3);
        assert!(!sums[1].defined(), "an absent gradient stays absent");
    }

    #[test]
    fn a_gradient_that_comes_late_counts() {
        let mut gradients = Gradients::default();
        gradients.add(vec![Tensor::new()]).unwrap();
        gradients.add(vec![Tensor::from(2f32)]).unwrap();
        gradients.add(vec![Tensor::from(3f32)]).unwrap();
        assert_eq!(gradients.into_tensors()[0].double_value(&[]), 5.0);
    }
}
