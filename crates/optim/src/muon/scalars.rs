//! Muon's scalars of a step.

use bert4rs_kernels::muon::MuonKernelScalars;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

use super::MuonConfig;
use crate::param_group::Tuning;
use crate::scalars::{ScalarTable, upload};
use crate::verdict::Verdict;

const OP: &str = "Muon's scalars";

/// [`MuonKernelScalars`] of each parameter, and what NorMuon adds to them.
#[derive(Debug)]
pub(crate) struct MuonScalars {
    table: ScalarTable,
    /// Learning rate where the schedule's factor is 1, and decay, FP64 `[n]`.
    lr_n: Tensor,
    weight_decay_n: Tensor,
    /// [`MuonKernelScalars`] of each parameter as kernels take them: FP32 `[4]`.
    floats: Vec<Tensor>,
    /// How far NorMuon's mean squares move, FP64 `[]`: `1 - beta2`, or 0.
    pub(crate) stats_weight: Tensor,
}

impl MuonScalars {
    /// For parameters of these rates and decays.
    pub(crate) fn new(config: &MuonConfig, tunings: &[Tuning], device: Device) -> Result<Self> {
        let stats_weight = config.normuon.map_or(0.0, |norm| 1.0 - norm.beta2);
        let active = [1.0, 1.0, 0.0, 1.0, stats_weight];
        // A rank without parameters has a row all the same.
        let rows = tunings.len().max(1);
        let table = ScalarTable::new(rows, active, [0.0, 0.0, 0.0, 1.0, 0.0], device)?;
        let float = |index| {
            table.row(index).float.f_narrow(0, 0, MuonKernelScalars::COUNT as i64).during(OP)
        };
        let floats = (0..rows).map(float).collect::<Result<_>>()?;
        let stats_weight = table.row(0).exact.f_get(MuonKernelScalars::COUNT as i64).during(OP)?;
        let of = |value: &dyn Fn(&Tuning) -> f64| {
            let mut values: Vec<f64> = tunings.iter().map(value).collect();
            values.resize(rows, 0.0);
            upload(&values, device)
        };
        let lr_n = of(&|tuning| config.lr * tuning.lr_scale)?;
        let weight_decay_n = of(&|tuning| tuning.weight_decay.unwrap_or(config.weight_decay))?;
        Ok(Self { table, lr_n, weight_decay_n, floats, stats_weight })
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
        let lr_n = &self.lr_n * lr_factor;
        self.table.column(0).f_copy_(&(1.0 - momentum)).during(OP)?;
        if is_clipped {
            self.table.column(1).f_copy_(&verdict.clip_factor).during(OP)?;
        }
        self.table.column(2).f_copy_(&lr_n).during(OP)?;
        self.table.column(3).f_copy_(&(1.0 - lr_n * &self.weight_decay_n)).during(OP)?;
        self.table.commit(&verdict.finite)
    }

    /// All memory that a step reads or changes here.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.table.tensors().into_iter().chain([&self.lr_n, &self.weight_decay_n])
    }

    /// [`MuonKernelScalars`] of parameter `index` as kernels take them: FP32 `[4]`.
    pub(crate) fn float(&self, index: usize) -> &Tensor {
        &self.floats[index]
    }

    /// The same one by one, `[]` of `kind`.
    pub(crate) fn unbind(
        &self,
        index: usize,
        kind: Kind,
    ) -> Result<[Tensor; MuonKernelScalars::COUNT]> {
        let all: [Tensor; MuonKernelScalars::COUNT + 1] = self.table.row(index).unbind(kind)?;
        let [one_minus_momentum, grad_scale, lr, decay_factor, _] = all;
        Ok([one_minus_momentum, grad_scale, lr, decay_factor])
    }
}
