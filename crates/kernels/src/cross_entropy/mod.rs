//! The output layer and its cross-entropy as one function, which never holds all logits.
//!
//! Rows go through in chunks. Of a chunk, logits are computed and replaced in place by their
//! gradients, from which those of hidden states, weight and bias follow at once; the backward
//! pass only scales them. Memory does not grow with the number of rows times the vocabulary.
//! Where the policy takes own products, `cpu::blocks` does all of a chunk; elsewhere libtorch
//! multiplies, and `softmax` turns logits into gradients.
//!
//! With logits `x` of a row (after the soft cap, if any), `L = log Σ exp x`, label `y`, smoothing
//! `ε` over `v` classes, weight `z` of the squared logarithm, and sums over the rows that count,
//! which are `n` unless another divisor is given:
//!
//! ```text
//! loss = 1/n Σ (1-ε) (L - x_y) + ε (L - mean x) + z L²
//! ∂loss/∂x_j = 1/n (softmax_j (1 + 2 z L) - (1-ε) [j = y] - ε/v)
//! ```
//!
//! Axes: `n` rows, `d` features, `v` classes.

mod cpu;
mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::policy::{Op, Policy};
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use half::bf16;

/// Logits that are held at once, at most; one row always is.
const LOGITS: i64 = 1 << 25;

/// The same on a GPU, where a product of few rows leaves most of it idle, and each chunk reads and
/// writes the sum of the weight's gradients: 512 MB of BF16.
const GPU_LOGITS: i64 = 1 << 28;

/// On a GPU, classes are multiplied as so many or a multiple of it: rows of logits then begin at
/// boundaries that the matrix units load from, where 50,257 columns begin at any odd place.
const GPU_CLASSES: i64 = 64;

/// How an output layer is multiplied on a device.
#[derive(Debug, Clone, Copy)]
struct ProductPlan {
    /// Logits held at once.
    limit: i64,
    /// What the number of classes is rounded up to a multiple of, in memory alone.
    multiple: i64,
}

impl ProductPlan {
    fn on(device: Device) -> Self {
        match device {
            Device::Cpu => Self { limit: LOGITS, multiple: 1 },
            _ => Self { limit: GPU_LOGITS, multiple: GPU_CLASSES },
        }
    }
}

/// What is added to cross-entropy, and done to logits.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CrossEntropyOptions {
    /// Probability `ε` that the target spreads over all classes.
    pub label_smoothing: f64,
    /// Weight of `(log Σ exp logits)²`.
    pub z_loss: f64,
    /// Logits `x` become `cap · tanh(x / cap)`.
    pub soft_cap: Option<f64>,
    /// The label of rows that don't count.
    pub ignored: i64,
}

/// The output layer: logits are `hidden weightᵀ + bias`.
#[derive(Debug, Clone, Copy)]
pub struct OutputWeights<'a> {
    /// `[v, d]`
    pub weight: &'a Tensor,
    /// `[v]`
    pub bias: Option<&'a Tensor>,
}

/// The losses of the rows that count, summed and divided once: a scalar in FP32 (FP64 for FP64
/// inputs).
///
/// `divisor` is I64 `[]` on the labels' device, such as the labels of all batches that a step
/// adds up. Absent, it is the number of rows that count, which gives their mean.
///
/// `hidden_nd` and the output layer share a float dtype; `labels_n` is I64. Statistics are FP32,
/// logits and their gradients of the inputs' dtype.
///
/// # Errors
/// Shapes and dtypes that don't fit; a label that is no class, on the CPU.
pub fn linear_cross_entropy(
    hidden_nd: &Tensor,
    output: OutputWeights,
    labels_n: &Tensor,
    divisor: Option<&Tensor>,
    options: &CrossEntropyOptions,
    policy: &Policy,
) -> Result<Tensor> {
    let plan = ProductPlan::on(hidden_nd.device());
    linear_cross_entropy_in(hidden_nd, output, (labels_n, divisor), (options, policy), plan)
}

/// [`linear_cross_entropy`] multiplied as `plan` says.
fn linear_cross_entropy_in(
    hidden_nd: &Tensor,
    output: OutputWeights,
    (labels_n, divisor): (&Tensor, Option<&Tensor>),
    (options, policy): (&CrossEntropyOptions, &Policy),
    plan: ProductPlan,
) -> Result<Tensor> {
    check(hidden_nd, output, labels_n)?;
    let mut inputs = vec![hidden_nd, output.weight];
    inputs.extend(output.bias);
    // Inside a block without gradients a view of a parameter asks for none.
    let wanted = inputs.iter().any(|input| input.view_as(input).requires_grad());
    let (rows, classes) = (hidden_nd.size()[0], output.weight.size()[0]);
    let function = LinearCrossEntropy {
        labels: labels_n.shallow_clone(),
        divisor: divisor.map(Tensor::shallow_clone),
        options: *options,
        policy: policy.clone(),
        rows_at_once: (plan.limit / classes).clamp(1, rows.max(1)),
        padding: (plan.multiple - classes % plan.multiple) % plan.multiple,
        wanted,
    };
    autograd::apply_one(function, &inputs)
}

fn check(hidden: &Tensor, output: OutputWeights, labels: &Tensor) -> Result<()> {
    let op = "cross-entropy of an output layer";
    let refuse = |tensor, found: &Tensor, expected: String| {
        Err(Error::Shape { op, tensor, found: found.size(), expected })
    };
    let [n, d] = hidden.size()[..] else { return refuse("hidden", hidden, "[n, d]".into()) };
    let v = match output.weight.size()[..] {
        [v, features] if features == d && v > 0 => v,
        _ => return refuse("weight", output.weight, format!("[classes, {d}]")),
    };
    if labels.size() != [n] || labels.kind() != Kind::Int64 {
        return refuse("labels", labels, format!("[{n}] of Int64"));
    }
    match output.bias {
        Some(bias) if bias.size() != [v] => refuse("bias", bias, format!("[{v}]")),
        _ => Ok(()),
    }
}

struct LinearCrossEntropy {
    labels: Tensor,
    /// Absent for the number of rows that count.
    divisor: Option<Tensor>,
    options: CrossEntropyOptions,
    policy: Policy,
    rows_at_once: i64,
    /// Classes that are none, behind the others, so that products have a multiple of them.
    padding: i64,
    /// Whether a gradient will be asked for.
    wanted: bool,
}

impl Function for LinearCrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy of an output layer"
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        let op = self.name();
        let (hidden, weight, bias) = (inputs[0], inputs[1], inputs.get(2).copied());
        let padded = self.padded(OutputWeights { weight, bias })?;
        let output = padded.as_ref().map_or(OutputWeights { weight, bias }, |(weight, bias)| {
            OutputWeights { weight, bias: bias.as_ref() }
        });
        let divisor = match &self.divisor {
            Some(divisor) => divisor.shallow_clone(),
            None => {
                let counted = self.labels.f_ne(self.options.ignored).during(op)?;
                counted.f_sum(Kind::Int64).during(op)?
            }
        };
        let mut gradients = GradientSums::default();
        let mut losses = Vec::new();
        let rows = hidden.size()[0];
        for first in (0..rows).step_by(self.rows_at_once as usize) {
            let length = self.rows_at_once.min(rows - first);
            let hidden = hidden.narrow(0, first, length);
            let labels = self.labels.narrow(0, first, length);
            let (loss, parts) = self.chunk(&hidden, output, &labels, &divisor)?;
            losses.push(loss);
            if let Some(parts) = parts {
                gradients.add(parts).during(op)?;
            }
        }
        if self.wanted {
            let classes = weight.size()[0];
            gradients.finish(hidden, classes).during(op)?.iter().for_each(|grad| ctx.save(grad));
        }
        let exact = if hidden.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let loss = match losses.is_empty() {
            true => Tensor::f_full([0i64; 0], f64::NAN, (exact, hidden.device())).during(op)?,
            false => Tensor::f_stack(&losses, 0).during(op)?.f_sum(exact).during(op)?,
        };
        Ok(vec![loss])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let Some(grad) = &grads[0] else { return Ok(ctx.saved().iter().map(|_| None).collect()) };
        let one = grad.device() == Device::Cpu && grad.f_double_value(&[]).during("a loss")? == 1.0;
        let scaled = |saved: &Tensor| {
            if one { Ok(saved.shallow_clone()) } else { saved.f_mul(&grad.to_kind(saved.kind())) }
        };
        ctx.saved().iter().map(|saved| scaled(saved).map(Some).during(self.name())).collect()
    }
}

impl LinearCrossEntropy {
    /// The output layer with zeros for classes that are none; absent where there are none of them.
    /// A copy of the weight: 2 bytes read and written a value of BF16, 77 MB of GPT-2's, against
    /// products that take a multiple of that time.
    fn padded(&self, output: OutputWeights) -> Result<Option<(Tensor, Option<Tensor>)>> {
        if self.padding == 0 {
            return Ok(None);
        }
        let pad = |x: &Tensor, sides: &[i64]| x.f_constant_pad_nd(sides).during(self.name());
        let weight = pad(output.weight, &[0, 0, 0, self.padding])?;
        let bias = output.bias.map(|bias| pad(bias, &[0, self.padding])).transpose()?;
        Ok(Some((weight, bias)))
    }

    /// A chunk's part of the loss and, if wanted, of the gradients.
    fn chunk(
        &self,
        hidden: &Tensor,
        output: OutputWeights,
        labels: &Tensor,
        divisor: &Tensor,
    ) -> Result<(Tensor, Option<ChunkGrads>)> {
        let (options, wanted) = (&self.options, self.wanted);
        let takes_own = self.policy.takes_own(Op::LinearCrossEntropy, hidden);
        if takes_own && cpu::blocks::supports(hidden) {
            return match hidden.kind() {
                Kind::BFloat16 => {
                    cpu::blocks::run::<bf16>(hidden, output, labels, (divisor, options), wanted)
                }
                _ => cpu::blocks::run::<f32>(hidden, output, labels, (divisor, options), wanted),
            };
        }
        let op = self.name();
        let whole = hidden.f_linear(output.weight, output.bias).during(op)?;
        let classes = whole.size()[1] - self.padding;
        let mut logits = whole.shallow_clone();
        if self.padding > 0 {
            // What stands behind the classes gets no gradient.
            let _ = whole.narrow(1, classes, self.padding).f_zero_().during(op)?;
            logits = whole.narrow(1, 0, classes);
        }
        let loss = softmax_cross_entropy_in_place(
            &mut logits,
            labels,
            divisor,
            (options, &self.policy),
            wanted,
        )?;
        let parts = || ChunkGrads::new(&whole, hidden, output).during(op);
        Ok((loss, wanted.then(parts).transpose()?))
    }
}

/// A chunk's gradients, for a loss whose own is 1.
struct ChunkGrads {
    /// Of the chunk's hidden states.
    hidden: Tensor,
    weight: Tensor,
    /// FP32, or FP64 for FP64.
    bias: Option<Tensor>,
}

impl ChunkGrads {
    /// From the gradients of logits, by libtorch's products.
    fn new(grad_nv: &Tensor, hidden_nd: &Tensor, output: OutputWeights) -> TchResult<Self> {
        let sum = |_| grad_nv.f_sum_dim_intlist([0i64].as_slice(), false, exact(grad_nv));
        Ok(Self {
            hidden: grad_nv.f_matmul(output.weight)?,
            weight: grad_nv.f_tr()?.f_matmul(hidden_nd)?,
            bias: output.bias.map(sum).transpose()?,
        })
    }
}

/// Sums over chunks, for a loss whose own gradient is 1.
#[derive(Default)]
struct GradientSums {
    hidden: Vec<Tensor>,
    weight: Option<Tensor>,
    bias: Option<Tensor>,
}

type TchResult<T> = std::result::Result<T, bert4rs_tensor_core::TchError>;

impl GradientSums {
    fn add(&mut self, parts: ChunkGrads) -> TchResult<()> {
        self.hidden.push(parts.hidden);
        self.weight = Some(added(self.weight.take(), parts.weight)?);
        if let Some(part_v) = parts.bias {
            self.bias = Some(added(self.bias.take(), part_v)?);
        }
        Ok(())
    }

    /// Of hidden states, weight, and bias if any, of so many classes, in the inputs' dtype.
    fn finish(mut self, hidden: &Tensor, classes: i64) -> TchResult<Vec<Tensor>> {
        let of_hidden = match self.hidden.len() {
            0 => hidden.f_zeros_like()?,
            1 => self.hidden.swap_remove(0),
            _ => Tensor::f_cat(&self.hidden, 0)?,
        };
        let of_classes = |sum: Option<Tensor>| sum.map(|sum| sum.f_narrow(0, 0, classes));
        let [weight, bias] = [of_classes(self.weight), of_classes(self.bias)];
        let sums = [Some(of_hidden), weight.transpose()?, bias.transpose()?].into_iter().flatten();
        sums.map(|sum| sum.f_to_kind(hidden.kind())).collect()
    }
}

/// FP32, or FP64 for FP64.
fn exact(x: &Tensor) -> Kind {
    if x.kind() == Kind::Double { Kind::Double } else { Kind::Float }
}

/// The first part as it is; later ones are added to it in FP32, in which small ones are not lost.
fn added(sum: Option<Tensor>, part: Tensor) -> TchResult<Tensor> {
    match sum {
        None => Ok(part),
        Some(sum) => {
            let mut sum = sum.f_to_kind(exact(&part))?;
            sum.f_add_(&part)
        }
    }
}

/// The part of the loss of `logits`, `[n, v]`, a scalar, divided by `count`. If `wanted`,
/// the gradient of the loss takes the place of the logits.
fn softmax_cross_entropy_in_place(
    logits: &mut Tensor,
    labels: &Tensor,
    count: &Tensor,
    (options, policy): (&CrossEntropyOptions, &Policy),
    wanted: bool,
) -> Result<Tensor> {
    let is_supported = matches!(logits.kind(), Kind::BFloat16 | Kind::Float);
    if !(is_supported && policy.takes_own(Op::CrossEntropy, logits)) {
        return reference::softmax_cross_entropy_in_place(logits, labels, count, options, wanted);
    }
    match (logits.device(), logits.kind()) {
        (Device::Cpu, Kind::BFloat16) => {
            cpu::softmax::in_place::<bf16>(logits, labels, count, options, wanted)
        }
        (Device::Cpu, _) => cpu::softmax::in_place::<f32>(logits, labels, count, options, wanted),
        _ => cuda::softmax_cross_entropy_in_place(logits, labels, count, options, wanted),
    }
}
