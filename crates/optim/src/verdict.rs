//! What a step's gradients say: their norm, by how much they are clipped, and whether they are
//! finite, so that the step counts. Found and kept on the device.

use bert4rs_tensor_core::distributed::{ProcessGroup, all_reduce_sum};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::policy::Policy;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

use crate::clip::{self, ClipConfig, GradScale};
use crate::scalars::upload;

const OP: &str = "verdict on gradients";

/// The verdict on the last step's gradients, and counters of all steps.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// 1 for each gradient whose norm counts, FP64 `[2, n]`: for the norm of all, and for clipping.
    counted_2n: Tensor,
    max_norm: Option<f64>,
    /// All that the host may read, FP64 `[6]`, in the order of the views below.
    report: Tensor,
    pub(crate) grad_norm: Tensor,
    pub(crate) clip_factor: Tensor,
    /// Steps: taken, skipped, skipped in a row and most of these since the host last read.
    pub(crate) taken: Tensor,
    pub(crate) skipped: Tensor,
    pub(crate) skipped_in_a_row: Tensor,
    most_in_a_row: Tensor,
    /// Whether all gradients are finite: bool `[]`, and FP64 `[]`, 1 or 0.
    pub(crate) finite: Tensor,
    pub(crate) counts: Tensor,
}

/// [`Verdict`] as the host read it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct VerdictReport {
    pub(crate) grad_norm: f64,
    pub(crate) clip_factor: f64,
    pub(crate) skipped: u64,
    pub(crate) most_in_a_row: u64,
}

impl Verdict {
    /// For gradients on `device` of which those that `clips` marks count for clipping.
    pub(crate) fn new(clip: Option<ClipConfig>, clips: &[bool], device: Device) -> Result<Self> {
        let counts = clips.iter().map(|clips| f64::from(u8::from(*clips)));
        let counted: Vec<f64> = clips.iter().map(|_| 1.0).chain(counts).collect();
        let report = upload(&[0.0, 1.0, 0.0, 0.0, 0.0, 0.0], device)?;
        let view = |index| report.f_get(index).during(OP);
        Ok(Self {
            counted_2n: upload(&counted, device)?.f_view([2, clips.len() as i64]).during(OP)?,
            max_norm: clip.map(|clip| clip.max_norm),
            grad_norm: view(0)?,
            clip_factor: view(1)?,
            taken: view(2)?,
            skipped: view(3)?,
            skipped_in_a_row: view(4)?,
            most_in_a_row: view(5)?,
            finite: Tensor::f_ones([0i64; 0], (Kind::Bool, device)).during(OP)?,
            counts: upload(&[1.0], device)?.f_get(0).during(OP)?,
            report,
        })
    }

    /// Looks at a step's gradients: those of all ranks, of which each has other ones.
    pub(crate) fn judge(
        &mut self,
        group: &dyn ProcessGroup,
        grads: &[Tensor],
        policy: &Policy,
    ) -> Result<()> {
        let squares_n = clip::sums_of_squares(grads, self.report.device(), policy)?;
        let sums_2 = (&self.counted_2n * squares_n).f_sum_dim_intlist(1i64, false, Kind::Double);
        let mut sums_2 = sums_2.during(OP)?;
        all_reduce_sum(group, &mut sums_2)?;
        let norms_2 = sums_2.f_sqrt().during(OP)?;
        let norm = norms_2.f_get(0).during(OP)?;
        self.grad_norm.f_copy_(&norm).during(OP)?;
        self.finite = norm.f_isfinite().during(OP)?;
        self.counts = self.finite.f_to_kind(Kind::Double).during(OP)?;
        if let Some(max_norm) = self.max_norm {
            let factor = clip::factor(&norms_2.f_get(1).during(OP)?, max_norm)?;
            self.clip_factor.f_copy_(&factor).during(OP)?;
        }
        Ok(())
    }

    /// Counts the step as taken or skipped: after all that looks at the count.
    pub(crate) fn count(&mut self) -> Result<()> {
        let bad: Tensor = 1.0 - &self.counts;
        let _ = self.taken.f_add_(&self.counts).during(OP)?;
        let _ = self.skipped.f_add_(&bad).during(OP)?;
        let _ = self.skipped_in_a_row.f_add_(&bad).during(OP)?.f_mul_(&bad).during(OP)?;
        let most = self.most_in_a_row.f_maximum(&self.skipped_in_a_row).during(OP)?;
        self.most_in_a_row.f_copy_(&most).during(OP)
    }

    /// The factor on gradients that the host does not know: clipping's if they are clipped.
    pub(crate) fn scale(&self, is_clipped: bool) -> Result<GradScale> {
        let factor = if is_clipped { &self.clip_factor } else { &self.counts };
        let zero = self.counts.f_zeros_like().during(OP)?;
        Ok(GradScale::OnDevice(factor.f_where_self(&self.finite, &zero).during(OP)?))
    }

    /// All memory that a step reads or changes here, but for what it makes anew.
    pub(crate) fn tensors(&self) -> [&Tensor; 2] {
        [&self.counted_2n, &self.report]
    }

    /// Waits for the device and reads it all.
    pub(crate) fn read(&mut self) -> Result<VerdictReport> {
        let report = Vec::<f64>::try_from(&self.report).during(OP)?;
        self.most_in_a_row.f_copy_(&self.skipped_in_a_row).during(OP)?;
        Ok(VerdictReport {
            grad_norm: report[0],
            clip_factor: report[1],
            skipped: report[3] as u64,
            most_in_a_row: report[5] as u64,
        })
    }

    /// Steps taken. Waits for the device.
    pub(crate) fn steps_taken(&self) -> Result<u64> {
        Ok(self.taken.f_double_value(&[]).during(OP)? as u64)
    }

    /// The counters as they are saved: steps taken, skipped, and skipped in a row, I64 `[3]`.
    pub(crate) fn counters(&self) -> Result<Tensor> {
        let counters = self.report.f_narrow(0, 2, 3).during(OP)?;
        counters.f_to_kind(Kind::Int64).during(OP)
    }

    /// Takes over what [`counters`](Self::counters) gave.
    pub(crate) fn load_counters(&mut self, counters: &Tensor) -> Result<()> {
        self.report.f_narrow(0, 2, 3).during(OP)?.f_copy_(counters).during(OP)?;
        self.most_in_a_row.f_copy_(&self.skipped_in_a_row).during(OP)
    }
}
