//! The operations that both backends have, at sizes of a training step, forward and backward.

use bert4rs_kernels::activation::{self, Activation};
use bert4rs_kernels::attention::{self as own_attention, AttentionArgs, VisibleKeys};
use bert4rs_kernels::cross_entropy::{CrossEntropyOptions, OutputWeights, linear_cross_entropy};
use bert4rs_kernels::gemm::{self, OutputStructure, Rhs};
use bert4rs_kernels::norm::{self, FusedWith, NormArgs, NormKind};
use bert4rs_tensor_core::attention::{
    self, AttentionImplementation, AttentionOptions, MaskView, Scores,
};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::policy::{Backend, Op, OpCall, Policy, SizeClass};
use bert4rs_tensor_core::{Device, Kind, Result, Tensor, no_grad};

/// Work, to be timed. What fails is no choice.
pub(super) type TimedWork = Box<dyn FnMut() -> Result<()>>;

/// An operation, done by own kernels and by libtorch.
pub(crate) struct Contender {
    pub(crate) call: OpCall,
    pub(crate) own: TimedWork,
    pub(crate) libtorch: TimedWork,
}

/// Sizes of the operands of a class.
#[derive(Clone, Copy)]
struct Sizes {
    rows: i64,
    features: i64,
    inner: i64,
    head: i64,
    /// Tokens of a document.
    document: i64,
    classes: i64,
}

impl Sizes {
    fn of(size: SizeClass) -> Self {
        match size {
            SizeClass::Small => {
                Self { rows: 128, features: 64, inner: 256, head: 32, document: 40, classes: 1024 }
            }
            SizeClass::Large => Self {
                rows: 256,
                features: 256,
                inner: 1024,
                head: 64,
                document: 90,
                classes: 4096,
            },
        }
    }
}

/// Everything to be measured in `kind` at a size, as far as own kernels support it.
pub(crate) fn contenders(kind: Kind, size: SizeClass) -> Vec<Contender> {
    let sizes = Sizes::of(size);
    let mut all = Vec::new();
    for function in [Activation::Gelu, Activation::GeluTanh, Activation::Silu, Activation::Relu] {
        for is_gate in [false, true] {
            all.push(activation(kind, sizes, function, is_gate));
        }
    }
    for norm_kind in [NormKind::Layer, NormKind::Rms] {
        all.push(norm(kind, sizes, norm_kind, FusedWith::Nothing));
        all.push(norm(kind, sizes, norm_kind, FusedWith::Sum));
    }
    all.push(attention(kind, sizes));
    all.push(output_layer(kind, sizes));
    if gemm::supports(Device::Cpu, kind, sizes.features) {
        all.push(symmetric_product(kind, sizes));
    }
    all
}

fn random(kind: Kind, shape: &[i64]) -> Tensor {
    (Tensor::randn(shape, (Kind::Float, Device::Cpu)) * 0.1).to_kind(kind)
}

/// Forward and backward for all of `inputs`.
fn train(
    inputs: Vec<Tensor>,
    forward: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
) -> TimedWork {
    let inputs: Vec<Tensor> =
        inputs.into_iter().map(|input| input.detach().set_requires_grad(true)).collect();
    Box::new(move || {
        let sum = [forward(&inputs)?.sum(Kind::Float)];
        Tensor::f_run_backward(&sum, &inputs, false, false).during("backward").map(drop)
    })
}

fn copies(tensors: &[Tensor]) -> Vec<Tensor> {
    tensors.iter().map(Tensor::copy).collect()
}

fn activation(kind: Kind, sizes: Sizes, function: Activation, is_gate: bool) -> Contender {
    let x = || random(kind, &[sizes.rows, sizes.inner]);
    let inputs: Vec<Tensor> = (0..1 + usize::from(is_gate)).map(|_| x()).collect();
    Contender {
        call: OpCall::on(function.op(is_gate), &inputs[0]),
        own: train(copies(&inputs), move |inputs| {
            activation::activate(function, &inputs[0], inputs.get(1))
        }),
        libtorch: train(
            inputs,
            move |inputs| Ok(function.forward_gated(&inputs[0], inputs.get(1))),
        ),
    }
}

fn norm(kind: Kind, sizes: Sizes, norm_kind: NormKind, fused_with: FusedWith) -> Contender {
    let x = || random(kind, &[sizes.rows, sizes.features]);
    let row = || random(kind, &[sizes.features]);
    let mut inputs = vec![x(), x(), row()];
    if norm_kind == NormKind::Layer {
        inputs.push(row());
    }
    // The sum of both inputs has another use, as in a residual stream.
    let is_sum = matches!(fused_with, FusedWith::Sum);
    let args = move |inputs: &[Tensor]| {
        (inputs[2].shallow_clone(), inputs.get(3).map(Tensor::shallow_clone))
    };
    Contender {
        call: OpCall::on(norm_kind.op(fused_with), &inputs[0]),
        own: train(copies(&inputs), move |inputs| {
            let (weight, bias) = args(inputs);
            let args = NormArgs { norm_kind, weight: &weight, bias: bias.as_ref(), eps: 1e-6 };
            if !is_sum {
                return Ok(norm::normalize(&args, &inputs[0])? + &inputs[1]);
            }
            let [normed, sum] = norm::add_and_normalize(&args, &inputs[0], Some(&inputs[1]))?;
            Ok(normed + sum)
        }),
        libtorch: train(inputs, move |inputs| {
            let (weight, bias) = args(inputs);
            let args = NormArgs { norm_kind, weight: &weight, bias: bias.as_ref(), eps: 1e-6 };
            if !is_sum {
                return Ok(args.forward(&inputs[0]) + &inputs[1]);
            }
            let sum = &inputs[0] + &inputs[1];
            Ok(args.forward(&sum) + sum)
        }),
    }
}

/// Two heads in rows of short documents, which libtorch is told of by a mask.
fn attention(kind: Kind, sizes: Sizes) -> Contender {
    let heads = (sizes.features / sizes.head).max(1);
    let rows = match sizes.features {
        ..128 => 1,
        _ => 2,
    };
    let shape = [rows, heads, sizes.rows, sizes.head];
    let inputs: Vec<Tensor> = (0..3).map(|_| random(kind, &shape)).collect();
    let places = Tensor::arange(sizes.rows, (Kind::Int64, Device::Cpu));
    let documents = places.divide_scalar_mode(sizes.document, "floor").repeat([rows, 1]);
    let mask = documents.unsqueeze(2).eq_tensor(&documents.unsqueeze(1)).unsqueeze(1);
    let scale = 1.0 / (sizes.head as f64).sqrt();
    Contender {
        call: OpCall::on(Op::Attention, &inputs[0]),
        own: train(copies(&inputs), move |inputs| {
            let visible =
                VisibleKeys { documents: Some((&documents, &documents)), ..VisibleKeys::default() };
            let args = AttentionArgs { visible, bias: None, scale };
            own_attention::attend(&inputs[0], &inputs[1], &inputs[2], &args)
        }),
        libtorch: train(inputs, move |inputs| {
            let scores = Scores { visible: MaskView::Mask(&mask), scale: Some(scale) };
            let implementation = AttentionImplementation::Fused;
            let options = AttentionOptions { implementation, dropout: 0.0 };
            attention::attend(&inputs[0], &inputs[1], &inputs[2], &scores, &options)
        }),
    }
}

/// An output layer with its loss, by the same function under two policies.
fn output_layer(kind: Kind, sizes: Sizes) -> Contender {
    let (hidden, weight) = (
        random(kind, &[sizes.rows, sizes.features]),
        random(kind, &[sizes.classes, sizes.features]),
    );
    let inputs = [hidden, weight];
    let call = OpCall::on(Op::LinearCrossEntropy, &inputs[0]);
    let labels = Tensor::arange(sizes.rows, (Kind::Int64, Device::Cpu));
    let by = |backend| {
        let labels = labels.shallow_clone();
        let policy = Policy::default().with_overrides(&[(Op::LinearCrossEntropy, backend)]);
        train(copies(&inputs), move |inputs| {
            let output = OutputWeights { weight: &inputs[1], bias: None };
            let options = CrossEntropyOptions { ignored: -100, ..CrossEntropyOptions::default() };
            linear_cross_entropy(&inputs[0], output, &labels, None, &options, &policy)
        })
    };
    Contender { call, own: by(Backend::Own), libtorch: by(Backend::Libtorch) }
}

fn symmetric_product(kind: Kind, sizes: Sizes) -> Contender {
    let x = random(kind, &[1, sizes.features, sizes.features]);
    let (own, libtorch) = (x.shallow_clone(), x.shallow_clone());
    // A policy is asked with the sides of the matrices.
    let call = OpCall::on(Op::SymmetricProduct, &x.squeeze_dim(0));
    Contender {
        call,
        own: Box::new(move || {
            let rhs = Rhs::Transposed(&own);
            no_grad(|| gemm::product(1.0, &own, rhs, None, OutputStructure::Symmetric)).map(drop)
        }),
        libtorch: Box::new(move || {
            no_grad(|| libtorch.f_bmm(&libtorch.transpose(1, 2))).during("product").map(drop)
        }),
    }
}
