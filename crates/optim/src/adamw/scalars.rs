//! AdamW's scalars of a step.

use bert4rs_kernels::adamw::AdamwKernelScalars;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Result, Tensor};

use super::AdamwConfig;
use crate::scalars::{ScalarRow, ScalarTable, upload};
use crate::verdict::Verdict;

const OP: &str = "AdamW's scalars";

/// [`AdamwKernelScalars`] of each parameter, and the steps that it has taken.
#[derive(Debug)]
pub(crate) struct AdamwScalars {
    table: ScalarTable,
    /// Learning rate where the schedule's factor is 1, and decay, FP64 `[n]`.
    lr_n: Tensor,
    weight_decay_n: Tensor,
    /// Steps taken by each parameter: those for which it had a gradient. FP64 `[n]`.
    steps_n: Tensor,
    /// `beta1` and `beta2`, FP64 `[2, 1]`.
    betas_21: Tensor,
    /// FP64 `[n]`, 1 for parameters with a gradient, for each set of them that was seen. A captured
    /// step reads that of its capture.
    with_grad: Vec<(Vec<bool>, Tensor)>,
}

impl AdamwScalars {
    /// For parameters of these learning rates and decays.
    pub(crate) fn new(
        config: &AdamwConfig,
        lr: &[f64],
        weight_decay: &[f64],
        device: Device,
    ) -> Result<Self> {
        let AdamwConfig { beta1, beta2, eps, .. } = *config;
        let active = [1.0, 1.0 - beta1, beta2, 1.0 - beta2, 1.0, eps, 1.0, 0.0];
        let idle = [0.0, 0.0, 1.0, 0.0, 1.0, eps, 1.0, 0.0];
        let active: [f64; AdamwKernelScalars::COUNT] = active;
        Ok(Self {
            table: ScalarTable::new(lr.len(), active, idle, device)?,
            lr_n: upload(lr, device)?,
            weight_decay_n: upload(weight_decay, device)?,
            steps_n: upload(&vec![0.0; lr.len()], device)?,
            betas_21: upload(&[beta1, beta2], device)?.f_view([2, 1]).during(OP)?,
            with_grad: Vec::new(),
        })
    }

    /// Makes the scalars of the next step, in the order of [`AdamwKernelScalars`], and counts it
    /// for those of the parameters that have one of `grads`.
    pub(crate) fn advance(
        &mut self,
        verdict: &Verdict,
        lr_factor: &Tensor,
        grads: &[Tensor],
    ) -> Result<()> {
        let step_n = &self.steps_n + 1.0;
        let powers_2n = self.betas_21.f_pow(&step_n).during(OP)?;
        let corrections_2n: Tensor = 1.0 - powers_2n;
        let correction = |beta| corrections_2n.f_get(beta).during(OP);
        let lr_n = &self.lr_n * lr_factor;
        self.table.column(0).f_copy_(&verdict.clip_factor).during(OP)?;
        self.table.column(4).f_copy_(&correction(1)?.f_rsqrt().during(OP)?).during(OP)?;
        self.table.column(6).f_copy_(&(1.0 - &lr_n * &self.weight_decay_n)).during(OP)?;
        self.table.column(7).f_copy_(&(lr_n / correction(0)?)).during(OP)?;
        self.table.commit(&verdict.finite)?;
        let counts_n = self.with_grad(grads)? * &verdict.counts;
        let _ = self.steps_n.f_add_(&counts_n).during(OP)?;
        Ok(())
    }

    fn with_grad(&mut self, grads: &[Tensor]) -> Result<&Tensor> {
        let defined: Vec<bool> = grads.iter().map(Tensor::defined).collect();
        let place = match self.with_grad.iter().position(|(seen, _)| *seen == defined) {
            Some(place) => place,
            None => {
                let ones: Vec<f64> = defined.iter().map(|&has| f64::from(u8::from(has))).collect();
                let ones_n = upload(&ones, self.steps_n.device())?;
                self.with_grad.push((defined, ones_n));
                self.with_grad.len() - 1
            }
        };
        Ok(&self.with_grad[place].1)
    }

    /// All memory that a step reads or changes here.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let own = [&self.lr_n, &self.weight_decay_n, &self.steps_n, &self.betas_21];
        let with_grad = self.with_grad.iter().map(|(_, ones_n)| ones_n);
        self.table.tensors().into_iter().chain(own).chain(with_grad)
    }

    /// The scalars of parameter `index`.
    pub(crate) fn row(&self, index: usize) -> &ScalarRow {
        self.table.row(index)
    }

    /// Steps that parameter `index` has taken: FP64 `[]`, memory shared.
    pub(crate) fn steps(&self, index: usize) -> Result<Tensor> {
        self.steps_n.f_get(index as i64).during(OP)
    }
}
