//! Which backend computes an operation that both libtorch and our own kernels have.
//!
//! Kernels say what they support; a [`Policy`] decides which of two backends is taken. It is a
//! value: the store of parameters carries it to layers, the optimizer's configuration to updates.
//!
//! ```
//! use bert4rs_tensor_core::policy::{Backend, Kernels, Op, OpCall, Policy};
//! use bert4rs_tensor_core::{Device, Kind, Tensor};
//!
//! let x = Tensor::zeros([8, 64], (Kind::Float, Device::Cpu));
//! let policy = Policy::new(Kernels::Fused, false);
//! assert_eq!(policy.backend(&OpCall::on(Op::RmsNorm, &x)), Backend::Own);
//! assert_eq!(Policy::default().backend(&OpCall::on(Op::RmsNorm, &x)), Backend::Libtorch);
//! ```

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::cpu::CpuFeatures;

mod cuda_kernels;

pub use cuda_kernels::CudaKernels;

/// What layers compute with between their matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kernels {
    /// libtorch's operations, one after the other: the reference.
    #[default]
    Plain,
    /// Own kernels, one pass each, where they are the faster ones.
    Fused,
}

/// What computes an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// libtorch's operations.
    Libtorch,
    /// Our own kernels.
    Own,
}

/// The operations that there are two backends for, told apart where their speeds are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// GELU by `erf`.
    Gelu,
    /// GELU by `tanh`.
    GeluTanh,
    /// SiLU.
    Silu,
    /// ReLU and its square.
    Relu,
    /// GELU by `erf`, times another tensor.
    GatedGelu,
    /// GELU by `tanh`, times another tensor.
    GatedGeluTanh,
    /// SiLU, times another tensor.
    GatedSilu,
    /// ReLU or its square, times another tensor.
    GatedRelu,
    /// Layer norm.
    LayerNorm,
    /// RMS norm.
    RmsNorm,
    /// Layer norm of a sum, with the sum of two gradients.
    SumLayerNorm,
    /// RMS norm of a sum, with the sum of two gradients.
    SumRmsNorm,
    /// Rotary positions of heads, with a norm before them or without.
    Rotary,
    /// Rows of a table by index.
    Lookup,
    /// The same where an output layer has the same table.
    TiedLookup,
    /// Attention.
    Attention,
    /// The products of an output layer together with its cross-entropy.
    LinearCrossEntropy,
    /// Cross-entropy of logits, and their gradients in place.
    CrossEntropy,
    /// Products that know when their result is symmetric.
    SymmetricProduct,
    /// Norms of gradients.
    GradientNorm,
    /// A step of AdamW.
    AdamwStep,
    /// The passes of Muon around its products.
    MuonStep,
}

impl Op {
    /// Whether [`Kernels`] is asked about it: what layers do between matrix products.
    fn is_between_products(self) -> bool {
        match self {
            Self::Gelu
            | Self::GeluTanh
            | Self::Silu
            | Self::Relu
            | Self::GatedGelu
            | Self::GatedGeluTanh
            | Self::GatedSilu
            | Self::GatedRelu
            | Self::LayerNorm
            | Self::RmsNorm
            | Self::SumLayerNorm
            | Self::SumRmsNorm
            | Self::Rotary
            | Self::Lookup
            | Self::TiedLookup => true,
            Self::Attention
            | Self::LinearCrossEntropy
            | Self::CrossEntropy
            | Self::SymmetricProduct
            | Self::GradientNorm
            | Self::AdamwStep
            | Self::MuonStep => false,
        }
    }
}

/// One operation and the operand that tells its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpCall {
    /// What is computed.
    pub op: Op,
    /// Where.
    pub device: Device,
    /// The operand's dtype.
    pub kind: Kind,
    /// The operand's shape.
    pub shape: Vec<i64>,
}

impl OpCall {
    /// `op` on the operand `x`.
    pub fn on(op: Op, x: &Tensor) -> Self {
        Self { op, device: x.device(), kind: x.kind(), shape: x.size() }
    }
}

/// Chooses the backend of each operation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    kernels: Kernels,
    cuda_kernels: CudaKernels,
}

impl Policy {
    /// `kernels` between the matrix products of layers; on a GPU those of ours that
    /// `cuda_kernels` lets through, or all or none of them.
    pub fn new(kernels: Kernels, cuda_kernels: impl Into<CudaKernels>) -> Self {
        Self { kernels, cuda_kernels: cuda_kernels.into() }
    }

    /// What computes `call`, if own kernels support it.
    pub fn backend(&self, call: &OpCall) -> Backend {
        if call.op.is_between_products() && self.kernels == Kernels::Plain {
            return Backend::Libtorch;
        }
        match call.device {
            Device::Cpu => faster(call, CpuFeatures::detect()),
            Device::Cuda(_) if self.cuda_kernels.takes(call.op) => {
                faster(call, CpuFeatures::detect())
            }
            _ => Backend::Libtorch,
        }
    }

    /// Whether [`backend`](Self::backend) takes own kernels for `op` on the operand `x`.
    pub fn takes_own(&self, op: Op, x: &Tensor) -> bool {
        self.backend(&OpCall::on(op, x)) == Backend::Own
    }
}

/// The backend that was faster in `benches/`, on processors with such features. What was not
/// measured on GPUs is as on CPUs.
fn faster(call: &OpCall, cpu: CpuFeatures) -> Backend {
    let is_on_gpu = call.device != Device::Cpu;
    let own = match call.op {
        // libtorch has one good pass each way for GELU in BF16 and for SiLU in FP32.
        Op::Gelu => call.kind == Kind::Float,
        Op::Silu => call.kind == Kind::BFloat16,
        Op::Relu | Op::GatedRelu => false,
        Op::GeluTanh | Op::GatedGelu | Op::GatedGeluTanh | Op::GatedSilu => true,
        Op::LayerNorm | Op::RmsNorm | Op::SumRmsNorm => true,
        // As fast in FP32.
        Op::SumLayerNorm => call.kind == Kind::BFloat16,
        Op::Rotary | Op::TiedLookup => true,
        // On a CPU a sparse gradient pays only where autograd adds it to a dense one.
        Op::Lookup => is_on_gpu,
        // On a CPU, in FP32, MKL may keep to 256 bits; in BF16, libtorch widens to FP32 on
        // processors without matrix units, and uses these where there are some.
        Op::Attention | Op::LinearCrossEntropy | Op::SymmetricProduct => match call.kind {
            _ if is_on_gpu => true,
            Kind::BFloat16 => cpu.avx512_bf16 && !cpu.amx_bf16,
            _ => cpu.avx512,
        },
        Op::CrossEntropy | Op::GradientNorm | Op::AdamwStep | Op::MuonStep => true,
    };
    if own { Backend::Own } else { Backend::Libtorch }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZEN5: CpuFeatures = CpuFeatures { avx512: true, avx512_bf16: true, ..AVX2 };
    const AVX2: CpuFeatures =
        CpuFeatures { avx2_fma: true, avx512: false, avx512_bf16: false, amx_bf16: false };
    const AMX: CpuFeatures = CpuFeatures { amx_bf16: true, ..ZEN5 };

    #[test]
    fn products_are_own_where_the_processor_has_dot_products_and_no_matrix_units() {
        for op in [Op::Attention, Op::LinearCrossEntropy, Op::SymmetricProduct] {
            let call = |kind| OpCall { op, device: Device::Cpu, kind, shape: vec![8, 64] };
            let own = |kind, cpu| faster(&call(kind), cpu) == Backend::Own;
            assert!(own(Kind::BFloat16, ZEN5) && own(Kind::Float, ZEN5));
            assert!(!own(Kind::BFloat16, AMX) && own(Kind::Float, AMX));
            assert!(!own(Kind::BFloat16, AVX2) && !own(Kind::Float, AVX2));
        }
    }

    #[test]
    fn plain_layers_leave_the_rest_alone_and_gpus_are_asked_for() {
        let call = |op, device| OpCall { op, device, kind: Kind::BFloat16, shape: vec![8, 64] };
        let backend = |policy: &Policy, op, device| policy.backend(&call(op, device));
        let [plain, fused] = [Kernels::Plain, Kernels::Fused].map(|k| Policy::new(k, false));
        assert_eq!(backend(&plain, Op::SumLayerNorm, Device::Cpu), Backend::Libtorch);
        assert_eq!(backend(&fused, Op::SumLayerNorm, Device::Cpu), Backend::Own);
        assert_eq!(backend(&plain, Op::AdamwStep, Device::Cpu), Backend::Own);
        let gpu = Device::Cuda(0);
        assert_eq!(backend(&fused, Op::SumLayerNorm, gpu), Backend::Libtorch);
        assert_eq!(backend(&fused, Op::AdamwStep, gpu), Backend::Libtorch);
        let gpu_too = Policy::new(Kernels::Fused, true);
        assert_eq!(backend(&gpu_too, Op::SumLayerNorm, gpu), Backend::Own);
        assert_eq!(backend(&gpu_too, Op::Lookup, gpu), Backend::Own);
        assert_eq!(backend(&gpu_too, Op::Lookup, Device::Cpu), Backend::Libtorch);
        assert_eq!(backend(&gpu_too, Op::Gelu, gpu), Backend::Libtorch);
        let plain_gpu = Policy::new(Kernels::Plain, true);
        assert_eq!(backend(&plain_gpu, Op::SumLayerNorm, gpu), Backend::Libtorch);
        assert_eq!(backend(&plain_gpu, Op::AdamwStep, gpu), Backend::Own);
    }
}
