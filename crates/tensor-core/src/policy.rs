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

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

use crate::cpu::CpuFeatures;
use crate::precision::Precision;

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

/// How large an operand is: whether a call costs more than its arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SizeClass {
    /// Fewer than 2¹⁶ numbers.
    Small,
    /// As many or more.
    Large,
}

impl SizeClass {
    /// Of an operand of this shape.
    pub fn of(shape: &[i64]) -> Self {
        let numbers = shape.iter().fold(1i64, |all, &extent| all.saturating_mul(extent));
        if numbers < 1 << 16 { Self::Small } else { Self::Large }
    }
}

/// The backend of an operation, chosen by how long both take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// The operation.
    pub op: Op,
    /// Dtype of its operand.
    pub precision: Precision,
    /// How large that is.
    pub size: SizeClass,
    /// What is taken.
    pub backend: Backend,
    /// Nanoseconds of own kernels.
    pub own_ns: u64,
    /// Nanoseconds of libtorch.
    pub libtorch_ns: u64,
}

impl Choice {
    /// What was faster with the operand of `call`, forward and backward. Where both are within
    /// 10%, noise does not choose, but a fixed order.
    pub fn by_times(call: &OpCall, own_ns: u64, libtorch_ns: u64) -> Self {
        let (less, more) = (own_ns.min(libtorch_ns), own_ns.max(libtorch_ns));
        let is_tie = u128::from(more) * 10 <= u128::from(less) * 11;
        let backend = match is_tie {
            true => fixed(call, CpuFeatures::detect()),
            false if own_ns < libtorch_ns => Backend::Own,
            false => Backend::Libtorch,
        };
        let (precision, size) = (precision_of(call.kind), SizeClass::of(&call.shape));
        Self { op: call.op, precision, size, backend, own_ns, libtorch_ns }
    }

    fn is_of(&self, call: &OpCall) -> bool {
        self.op == call.op
            && self.precision == precision_of(call.kind)
            && self.size == SizeClass::of(&call.shape)
    }
}

fn precision_of(kind: Kind) -> Precision {
    if kind == Kind::BFloat16 { Precision::Bf16 } else { Precision::Fp32 }
}

/// Chooses the backend of each operation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    kernels: Kernels,
    cuda_kernels: CudaKernels,
    choices: Arc<[Choice]>,
    overrides: Arc<[(Op, Backend)]>,
}

impl Policy {
    /// `kernels` between the matrix products of layers; on a GPU those of ours that
    /// `cuda_kernels` lets through, or all or none of them.
    pub fn new(kernels: Kernels, cuda_kernels: impl Into<CudaKernels>) -> Self {
        Self { kernels, cuda_kernels: cuda_kernels.into(), ..Self::default() }
    }

    /// The same, which on a CPU takes what `choices` say; what they leave open stays in a fixed
    /// order.
    pub fn with_choices(self, choices: &[Choice]) -> Self {
        Self { choices: choices.into(), ..self }
    }

    /// The same, which takes these backends whatever else is said.
    pub fn with_overrides(self, overrides: &[(Op, Backend)]) -> Self {
        Self { overrides: overrides.into(), ..self }
    }

    /// What computes `call`, if own kernels support it.
    pub fn backend(&self, call: &OpCall) -> Backend {
        if let Some((_, backend)) = self.overrides.iter().find(|(op, _)| *op == call.op) {
            return *backend;
        }
        if call.op.is_between_products() && self.kernels == Kernels::Plain {
            return Backend::Libtorch;
        }
        let measured = || self.choices.iter().find(|choice| choice.is_of(call));
        match call.device {
            Device::Cpu => match measured() {
                Some(choice) => choice.backend,
                None => fixed(call, CpuFeatures::detect()),
            },
            Device::Cuda(_) if self.cuda_kernels.takes(call.op) => {
                fixed(call, CpuFeatures::detect())
            }
            _ => Backend::Libtorch,
        }
    }

    /// Whether [`backend`](Self::backend) takes own kernels for `op` on the operand `x`.
    pub fn takes_own(&self, op: Op, x: &Tensor) -> bool {
        self.backend(&OpCall::on(op, x)) == Backend::Own
    }
}

/// The fixed order, for what was not measured and for near ties: what was faster in `benches/`, on
/// processors with such features. What was not measured on GPUs is as on CPUs.
fn fixed(call: &OpCall, cpu: CpuFeatures) -> Backend {
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
    use crate::cpu_isa::CpuIsa;

    #[test]
    fn products_are_own_where_the_processor_has_dot_products_and_no_matrix_units() {
        for op in [Op::Attention, Op::LinearCrossEntropy, Op::SymmetricProduct] {
            let call = |kind| OpCall { op, device: Device::Cpu, kind, shape: vec![8, 64] };
            let own = |kind, isa: CpuIsa| fixed(&call(kind), isa.features()) == Backend::Own;
            assert!(
                own(Kind::BFloat16, CpuIsa::Avx512Bf16) && own(Kind::Float, CpuIsa::Avx512Bf16)
            );
            assert!(!own(Kind::BFloat16, CpuIsa::Amx) && own(Kind::Float, CpuIsa::Amx));
            assert!(!own(Kind::BFloat16, CpuIsa::Avx2) && !own(Kind::Float, CpuIsa::Avx2));
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

    #[test]
    fn what_is_faster_is_taken_and_near_ties_fall_to_the_order() {
        let call =
            |op| OpCall { op, device: Device::Cpu, kind: Kind::Float, shape: vec![512, 256] };
        let chosen = |op, own, libtorch| {
            let choice = Choice::by_times(&call(op), own, libtorch);
            let policy = Policy::new(Kernels::Fused, false).with_choices(&[choice]);
            assert_eq!(policy.backend(&call(op)), choice.backend);
            choice.backend
        };
        // In the order, norms are own and ReLU is libtorch's.
        for (own, libtorch) in [(100, 110), (110, 100), (100, 100), (0, 0)] {
            assert_eq!(chosen(Op::RmsNorm, own, libtorch), Backend::Own);
            assert_eq!(chosen(Op::Relu, own, libtorch), Backend::Libtorch);
        }
        assert_eq!(chosen(Op::RmsNorm, 112, 100), Backend::Libtorch);
        assert_eq!(chosen(Op::Relu, 100, 112), Backend::Own);
    }

    #[test]
    fn choices_hold_for_their_dtype_and_size_and_overrides_for_all() {
        let call = |kind, rows| OpCall {
            op: Op::RmsNorm,
            device: Device::Cpu,
            kind,
            shape: vec![rows, 64],
        };
        let large = call(Kind::Float, 1 << 10);
        let policy =
            Policy::new(Kernels::Fused, false).with_choices(&[Choice::by_times(&large, 200, 100)]);
        assert_eq!(policy.backend(&large), Backend::Libtorch);
        assert_eq!(policy.backend(&call(Kind::Float, 8)), Backend::Own);
        assert_eq!(policy.backend(&call(Kind::BFloat16, 1 << 10)), Backend::Own);
        let forced = policy.with_overrides(&[(Op::RmsNorm, Backend::Own)]);
        assert_eq!(forced.backend(&large), Backend::Own);
    }
}
