//! What a run takes of its processor: a class that it keeps to, and backends.

use bert4rs_tensor_core::cpu::CpuFeatures;
use bert4rs_tensor_core::cpu_isa::CpuIsa;
use bert4rs_tensor_core::policy::{Backend, Op};
use serde::{Deserialize, Serialize};

use super::Config;
use super::validate::Fault;

/// What `compute.cpu_isa` says where a run takes all that is there.
const ALL: &str = "auto";

/// How backends of operations are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// By a fixed order.
    Order,
    /// By what is faster on this machine.
    Measurement,
}

/// What computes operations that libtorch and own kernels both have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendsConfig {
    /// How they are chosen.
    pub chosen_by: BackendChoice,
    /// Operations that own kernels compute whatever is faster.
    pub own: Vec<Op>,
    /// Operations that libtorch computes whatever is faster.
    pub libtorch: Vec<Op>,
}

impl BackendsConfig {
    /// The operations whose backend is said, and that.
    pub fn overrides(&self) -> Vec<(Op, Backend)> {
        let own = self.own.iter().map(|&op| (op, Backend::Own));
        own.chain(self.libtorch.iter().map(|&op| (op, Backend::Libtorch))).collect()
    }
}

impl Config {
    /// The class of processor that the run keeps to, if one is named.
    pub fn cpu_isa(&self) -> Option<CpuIsa> {
        self.compute.cpu_isa.parse().ok()
    }

    pub(super) fn validate_cpu_isa(&self) -> Result<(), Fault> {
        let name = &self.compute.cpu_isa;
        if name == ALL || self.cpu_isa().is_some() {
            return Ok(());
        }
        let reason = format!("{name:?} is none of {ALL}, {}", CpuIsa::names());
        Err(("compute.cpu_isa".into(), reason))
    }

    /// Refuses a class that this machine can't play.
    pub(super) fn check_cpu_isa(&self) -> Result<(), Fault> {
        let Some(isa) = self.cpu_isa() else { return Ok(()) };
        let refuse = |reason| ("compute.cpu_isa".into(), reason);
        isa.check(CpuFeatures::of_machine()).map_err(|error| refuse(error.to_string()))
    }

    pub(super) fn validate_backends(&self) -> Result<(), Fault> {
        let backends = &self.compute.backends;
        match backends.own.iter().find(|op| backends.libtorch.contains(op)) {
            None => Ok(()),
            Some(op) => {
                let reason = format!("names {op:?} too; leave it out of one of the lists");
                Err(("compute.backends.libtorch".into(), reason))
            }
        }
    }
}
