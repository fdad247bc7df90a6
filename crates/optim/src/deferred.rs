//! Steps that the host does not wait for: whether gradients are finite, by how much they are
//! clipped and how many steps were taken is found and kept on the device.
//!
//! What changes from step to step lies in tensors that stay where they are, so that such a step can
//! be recorded and replayed (`bert4rs_tensor_core::graph`).

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Tensor};

use crate::adamw::AdamwGroup;
use crate::clip;
use crate::config::{AdamwConfig, ClipConfig};
use crate::error::Result;
use crate::muon::MuonConfig;
use crate::numbers::{AdamwNumbers, GradScale, MuonNumbers, upload};

const OP: &str = "deferred step";

/// What the device knows of an [`Optimizer`](crate::Optimizer)'s steps.
#[derive(Debug)]
pub struct Deferred {
    /// Of all gradients of the last step, before clipping.
    grad_norm: Tensor,
    /// The schedule's factor of the next step.
    lr_factor: Tensor,
    /// Steps since this began: taken, skipped, skipped in a row and most of these.
    taken: Tensor,
    skipped: Tensor,
    in_a_row: Tensor,
    most_in_a_row: Tensor,
    /// The optimizer's steps before.
    steps_before: f64,
    /// For each gradient, 1 where its norm counts for clipping, else 0.
    counts: Tensor,
    groups: Groups,
    /// The group of each parameter; absent for Muon's.
    pub(crate) group_of: Vec<Option<usize>>,
    /// Which parameters have had gradients: then all of them are taken to have one in each step.
    pub(crate) moved: Vec<bool>,
    /// Steps taken and skipped that the optimizer's own counters have.
    pub(crate) settled: [u64; 2],
}

/// [`AdamwGroup`]s as columns, `[g]`.
#[derive(Debug)]
struct Groups {
    lr: Tensor,
    weight_decay: Tensor,
    steps: Tensor,
}

/// What a step's gradients say, scalars in FP64.
pub(crate) struct Verdict {
    /// 1 where all are finite, else 0.
    ok: Tensor,
    /// Clipping's factor; 0 where not all are finite.
    factor: Tensor,
}

/// Counters as the host read them.
pub(crate) struct Counters {
    pub(crate) taken: u64,
    pub(crate) skipped: u64,
    pub(crate) in_a_row: u64,
    pub(crate) most_in_a_row: u64,
}

impl Deferred {
    /// For parameters on `device` whose groups are `group_of`, after `steps` and
    /// `skipped_in_a_row`.
    pub(crate) fn new(
        device: Device,
        (groups, group_of): (&[AdamwGroup], Vec<Option<usize>>),
        counts: &[f64],
        (steps, skipped_in_a_row): (u64, u64),
    ) -> Result<Self> {
        let scalar = |value: f64| upload(&[value], device)?.f_get(0).during(OP);
        let column = |value: fn(&AdamwGroup) -> f64| {
            upload(&groups.iter().map(value).collect::<Vec<_>>(), device)
        };
        Ok(Self {
            grad_norm: scalar(0.0)?,
            lr_factor: scalar(0.0)?,
            taken: scalar(0.0)?,
            skipped: scalar(0.0)?,
            in_a_row: scalar(skipped_in_a_row as f64)?,
            most_in_a_row: scalar(0.0)?,
            steps_before: steps as f64,
            counts: upload(counts, device)?,
            groups: Groups {
                lr: column(|group| group.lr)?,
                weight_decay: column(|group| group.weight_decay)?,
                steps: column(|group| group.steps as f64)?,
            },
            moved: vec![false; group_of.len()],
            group_of,
            settled: [0, 0],
        })
    }

    /// The schedule's factor on the learning rate, for the next step. Not a part of the step: it is
    /// not recorded with it.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn set_lr_factor(&mut self, factor: f64) -> Result<()> {
        let _ = self.lr_factor.f_fill_(factor).during(OP)?;
        Ok(())
    }

    /// Norm of all gradients of the last step before clipping, FP64 `[]` on the device; not finite
    /// if the step was skipped. The next step writes over it.
    pub fn grad_norm(&self) -> &Tensor {
        &self.grad_norm
    }

    /// Looks at a step's gradients and counts it.
    pub(crate) fn judge(&mut self, grads: &[Tensor], clip: Option<ClipConfig>) -> Result<Verdict> {
        let squares = clip::squares(grads, self.taken.device())?;
        let norm = squares.f_sum(Kind::Double).during(OP)?.f_sqrt().during(OP)?;
        let finite = norm.f_isfinite().during(OP)?;
        let ok = finite.f_to_kind(Kind::Double).during(OP)?;
        let factor = match clip {
            None => ok.copy(),
            Some(clip) => {
                let counted = (squares * &self.counts).f_sum(Kind::Double).during(OP)?.sqrt();
                // `clip::factor`, on the device.
                let factor = (counted + 1e-6).f_reciprocal().during(OP)? * clip.max_norm;
                let factor = factor.f_clamp_max(1.0).during(OP)?;
                factor.f_masked_fill(&finite.logical_not(), 0.0).during(OP)?
            }
        };
        self.grad_norm.f_copy_(&norm).during(OP)?;
        let bad: Tensor = 1.0 - &ok;
        let _ = self.skipped.f_add_(&bad).during(OP)?;
        let _ = self.in_a_row.f_add_(&bad).during(OP)?.f_mul_(&bad).during(OP)?;
        let most = self.most_in_a_row.f_maximum(&self.in_a_row).during(OP)?;
        self.most_in_a_row.f_copy_(&most).during(OP)?;
        Ok(Verdict { ok, factor })
    }

    /// AdamW's numbers, for each group.
    pub(crate) fn adamw(
        &self,
        config: &AdamwConfig,
        verdict: &Verdict,
    ) -> Result<Vec<AdamwNumbers>> {
        let ok = &verdict.ok;
        let Groups { lr, weight_decay, steps } = &self.groups;
        let steps_g = steps + &self.taken + 1.0;
        let correction = |beta: f64| -> Result<Tensor> {
            Ok(1.0 - Tensor::f_pow_scalar(beta, &steps_g).during(OP)?)
        };
        let (correction1, correction2) = (correction(config.beta1)?, correction(config.beta2)?);
        let lr_g = lr * &self.lr_factor;
        let of_all = |number: Tensor| number.f_expand_as(&lr_g).during(OP);
        let moved2 = ok * (1.0 - config.beta2);
        let columns = [
            of_all(verdict.factor.shallow_clone())?,
            of_all(ok * (1.0 - config.beta1))?,
            of_all(1.0 - &moved2)?,
            of_all(moved2)?,
            correction2.f_rsqrt().during(OP)?,
            lr_g.f_full_like(config.eps).during(OP)?,
            1.0 - &lr_g * weight_decay * ok,
            &lr_g / correction1 * ok,
        ];
        AdamwNumbers::of_rows(&Tensor::f_stack(&columns, 1).during(OP)?).map_err(Into::into)
    }

    /// Muon's numbers. `is_clipped` tells whether clipping acts on its gradients.
    pub(crate) fn muon(
        &self,
        config: &MuonConfig,
        verdict: &Verdict,
        is_clipped: bool,
    ) -> Result<MuonNumbers> {
        let ok = &verdict.ok;
        let factor = if is_clipped { &verdict.factor } else { ok };
        let step = &self.taken + self.steps_before;
        let lr = &self.lr_factor * config.lr;
        let columns = [
            (1.0 - config.momentum.on_device(&step)?) * ok,
            factor.shallow_clone(),
            &lr * ok,
            1.0 - &lr * config.weight_decay * ok,
        ];
        let exact = Tensor::f_stack(&columns, 0).during(OP)?;
        let stats_weight = ok * config.normuon.map_or(0.0, |norm| 1.0 - norm.beta2);
        let scale = GradScale::OnDevice(factor.shallow_clone());
        Ok(MuonNumbers::new(scale, exact, stats_weight)?)
    }

    /// Counts the step as taken, unless it was skipped: after all that looks at the count.
    pub(crate) fn count_taken(&mut self, verdict: &Verdict) -> Result<()> {
        let _ = self.taken.f_add_(&verdict.ok).during(OP)?;
        Ok(())
    }

    /// Reads the counters. Waits for the device.
    pub(crate) fn read(&mut self) -> Result<Counters> {
        let all = [&self.taken, &self.skipped, &self.in_a_row, &self.most_in_a_row];
        let all = Tensor::f_stack(&all, 0).during(OP)?;
        let all = Vec::<f64>::try_from(&all).during(OP)?;
        self.most_in_a_row.f_copy_(&self.in_a_row).during(OP)?;
        Ok(Counters {
            taken: all[0] as u64,
            skipped: all[1] as u64,
            in_a_row: all[2] as u64,
            most_in_a_row: all[3] as u64,
        })
    }
}

impl Verdict {
    /// The factor on AdamW's gradients.
    pub(crate) fn scale(&self) -> GradScale {
        GradScale::OnDevice(self.factor.shallow_clone())
    }
}
