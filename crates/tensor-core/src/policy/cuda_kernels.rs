//! Which of our CUDA kernels are taken where libtorch has operations that do the same.

use serde::{Deserialize, Serialize};
use tch::Device;

use super::{Kernels, Op, Policy};

/// Which of our CUDA kernels are taken where libtorch has operations that do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CudaKernels {
    /// None: libtorch's operations, one after the other.
    None,
    /// Those whose results, emulated on a CPU, are their CPU twins' to the last bit, or to FP64's
    /// rounding where only the order of sums differs: AdamW's step, and the norms that clip.
    #[default]
    Proven,
    /// All.
    All,
}

impl CudaKernels {
    /// Whether `op` may be one of ours.
    pub(super) fn takes(self, op: Op) -> bool {
        match self {
            Self::None => false,
            Self::Proven => matches!(op, Op::AdamwStep | Op::GradientNorm),
            Self::All => true,
        }
    }
}

impl Policy {
    /// Whether kernels of ours join what layers do between matrix products on `device`, a GPU: an
    /// activation with its bias, for which the CPU has no counterpart.
    pub fn joins_on(&self, device: Device) -> bool {
        device.is_cuda() && self.kernels == Kernels::Fused && self.cuda_kernels == CudaKernels::All
    }
}

/// All or none.
impl From<bool> for CudaKernels {
    fn from(all: bool) -> Self {
        if all { Self::All } else { Self::None }
    }
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::super::{Backend, OpCall};
    use super::*;

    #[test]
    fn proven_kernels_are_taken_unless_none_are() {
        let of = |cuda_kernels: CudaKernels, op| {
            let call = OpCall { op, device: Device::Cuda(0), kind: Kind::Float, shape: vec![8, 8] };
            Policy::new(Kernels::Fused, cuda_kernels).backend(&call)
        };
        for op in [Op::AdamwStep, Op::GradientNorm] {
            assert_eq!(of(CudaKernels::Proven, op), Backend::Own, "{op:?}");
            assert_eq!(of(CudaKernels::None, op), Backend::Libtorch, "{op:?}");
        }
        for op in [Op::RmsNorm, Op::MuonStep, Op::CrossEntropy] {
            assert_eq!(of(CudaKernels::Proven, op), Backend::Libtorch, "{op:?}");
            assert_eq!(of(CudaKernels::All, op), Backend::Own, "{op:?}");
        }
        let joins = |kernels, device| Policy::new(kernels, true).joins_on(device);
        assert!(joins(Kernels::Fused, Device::Cuda(0)) && !joins(Kernels::Fused, Device::Cpu));
        assert!(!joins(Kernels::Plain, Device::Cuda(0)));
    }
}
