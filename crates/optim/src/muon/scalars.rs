//! Muon's scalars of a step.

use bert4rs_kernels::muon::MuonKernelScalars;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

use super::MuonConfig;
use crate::scalars::ScalarTable;
use crate::verdict::Verdict;

const OP: &str = "Muon's scalars";

/// [`MuonKernelScalars`] for all parameters, and what NorMuon adds to them.
#[derive(Debug)]
pub(crate) struct MuonScalars {
    table: ScalarTable,
    /// [`MuonKernelScalars`] as kernels take them: FP32 `[4]`.
    pub(crate) float: Tensor,
    /// How far NorMuon's mean squares move, FP64 `[]`: `1 - beta2`, or 0.
    pub(crate) stats_weight: Tensor,
}

impl MuonScalars {
    pub(crate) fn new(config: &MuonConfig, device: Device) -> Result<Self> {
        let stats_weight = config.normuon.map_or(0.0, |norm| 1.0 - norm.beta2);
        let active = [1.0, 1.0, 0.0, 1.0, stats_weight];
        let table = ScalarTable::new(1, active, [0.0, 0.0, 0.0, 1.0, 0.0], device)?;
        let row = table.row(0);
        let float = row.float.f_narrow(0, 0, MuonKernelScalars::COUNT as i64).during(OP)?;
        let stats_weight = row.exact.f_get(MuonKernelScalars::COUNT as i64).during(OP)?;
        Ok(Self { table, float, stats_weight })
    }

    /// Makes the scalars of the next step, in the order of [`MuonKernelScalars`].
    pub(crate) fn advance(
        &mut self,
        config: &MuonConfig,
        verdict: &Verdict,
        lr_factor: &Tensor,
        is_clipped: bool,
    ) -> Result<()> {
        let momentum = config.momentum.at(&verdict.taken)?;
        let lr = lr_factor * config.lr;
        self.table.column(0).f_copy_(&(1.0 - momentum)).during(OP)?;
        if is_clipped {
            self.table.column(1).f_copy_(&verdict.clip_factor).during(OP)?;
        }
        self.table.column(2).f_copy_(&lr).during(OP)?;
        self.table.column(3).f_copy_(&(1.0 - lr * config.weight_decay)).during(OP)?;
        self.table.commit(&verdict.finite)
    }

    /// All memory that a step reads or changes here.
    pub(crate) fn tensors(&self) -> [&Tensor; 4] {
        self.table.tensors()
    }

    /// The scalars of [`MuonKernelScalars`] one by one, `[]` of `kind`.
    pub(crate) fn unbind(&self, kind: Kind) -> Result<[Tensor; MuonKernelScalars::COUNT]> {
        let all: [Tensor; MuonKernelScalars::COUNT + 1] = self.table.row(0).unbind(kind)?;
        let [one_minus_momentum, grad_scale, lr, decay_factor, _] = all;
        Ok([one_minus_momentum, grad_scale, lr, decay_factor])
    }
}
