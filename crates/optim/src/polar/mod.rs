//! The polar factor of a matrix: the nearest matrix with all singular values 1, up to the
//! accuracy of a few steps of matrix products. Muon's authors say that it orthogonalizes.
//!
//! ```
//! use bert4rs_optim::polar::{Coefficients, PolarOptions, polar_factor};
//! use bert4rs_tensor_core::{Device, Kind, Tensor};
//!
//! let gradient = Tensor::randn([64, 256], (Kind::Float, Device::Cpu));
//! let options = PolarOptions::new(Coefficients::polar_express(8));
//! let factor = polar_factor(&gradient, &options)?;
//! let error = factor.matmul(&factor.tr()) - Tensor::eye(64, (Kind::Float, Device::Cpu));
//! assert!(f64::try_from(error.abs().max())? < 1e-5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod coefficients;
mod iterate;
mod workspace;

use bert4rs_kernels::sum_of_squares::sum_of_squares;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::policy::Policy;
use bert4rs_tensor_core::precision::Precision;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use serde::{Deserialize, Serialize};

use iterate::Engine;
pub(crate) use workspace::{Buffer, Workspace};

pub use coefficients::{Coefficients, PolarExpress, Quintic, SafetyPlace};

const OP: &str = "polar factor";

/// The dtype of the matrix products. Norms are always taken in FP32 or better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolarCompute {
    /// FP64 for inputs in FP64, else FP32.
    #[default]
    Input,
    /// BF16 where the device multiplies it faster than FP32, else as `Input`.
    Auto,
    /// FP32.
    Fp32,
    /// BF16 or better.
    Bf16,
    /// FP16; safe since all values are below 1.2. Slow on CPUs.
    Fp16,
}

/// Which iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Iteration {
    /// The faster one for the shape, where it is as good.
    #[default]
    Auto,
    /// On the matrix itself.
    Standard,
    /// On its Gram matrix. Refused in BF16, whose rounding it magnifies: singular values of 2.4
    /// and cosines of 0.6 to the true factor were seen.
    Gram,
}

/// How a polar factor is computed.
#[derive(Debug, Clone, PartialEq)]
pub struct PolarOptions {
    /// The polynomials.
    pub coefficients: Coefficients,
    /// Dtype of the products.
    pub compute: PolarCompute,
    /// Order of the products.
    pub iteration: Iteration,
    /// What computes the products, as its `SymmetricProduct` says.
    pub policy: Policy,
}

impl PolarOptions {
    /// These polynomials, in the input's dtype, by the faster iteration.
    pub fn new(coefficients: Coefficients) -> Self {
        let (compute, iteration) = (PolarCompute::Input, Iteration::Auto);
        Self { coefficients, compute, iteration, policy: Policy::default() }
    }

    /// Refuses what can't act or is not safe. `key` is the setting's path.
    pub fn validate(&self, key: &str) -> crate::Result<()> {
        self.coefficients.validate(&format!("{key}.coefficients"))?;
        if (self.compute, self.iteration) == (PolarCompute::Bf16, Iteration::Gram) {
            return Err(crate::Error::Config {
                key: format!("{key}.iteration"),
                value: "gram".into(),
                reason: "is not safe in BF16; use \"standard\", or compute in fp32 or fp16".into(),
            });
        }
        Ok(())
    }
}

/// Steps of the Gram iteration between restarts: fewer, the coarser the rounding. In FP16 it is
/// where Dao-AILab's search puts it for Polar Express; in FP32, zero eigenvalues that rounding
/// made negative stay small for 5 steps.
fn restart(kind: Kind) -> usize {
    match kind {
        Kind::Double => 8,
        Kind::Float => 5,
        _ => 2,
    }
}

/// Most steps for which the Gram iteration is chosen by itself. More steps are asked for to get
/// an exact factor, and its rounding would spoil what they gain: the errors of 5 steps are 0.14,
/// those of 6 are 0.002.
const MOST_GRAM_STEPS: usize = 5;

/// The iterations' costs for `m = alpha n`, in products of two `n` by `n` matrices; a symmetric
/// one is half where that is used. Standard, then Gram in `chunks` chunks.
fn costs(alpha: f64, steps: usize, chunks: usize, engine: Engine) -> (f64, f64) {
    let square = if engine == Engine::Kernel { 0.5 } else { 1.0 };
    let (steps, chunks) = (steps as f64, chunks as f64);
    let standard = steps * (alpha * square + square + alpha);
    let gram = chunks * (alpha * square + alpha) + square * (4.0 * steps - 3.0 * chunks);
    (standard, gram)
}

/// The cost of [`Engine::gram_mixed`], in products of two `n` by `n` matrices in BF16.
fn mixed_cost(alpha: f64, steps: usize) -> f64 {
    1.5 * alpha + FP32_BY_BF16 * 0.5 * (4.0 * steps as f64 - 3.0)
}

/// Products in FP32 take this many times those in BF16, by the kernel, on AVX-512.
const FP32_BY_BF16: f64 = 1.9;

/// What is computed, in an iteration's own terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PolarPlan {
    /// [`Engine::standard`], in this dtype.
    Standard(Engine, Kind),
    /// [`Engine::gram`], in this dtype.
    Gram(Engine, Kind),
    /// [`Engine::gram_mixed`].
    GramMixed,
}

impl PolarPlan {
    /// How a stack `[k, n, m]` with `n <= m`, made of FP32 or FP64 (`input`), is to be multiplied.
    /// The costs are counted; `docs/optimizers.md` has the measured table that agrees.
    ///
    /// In BF16 the Gram iteration is not safe, but with its small matrices in FP32 it is, and it
    /// beats the standard one in BF16 where `m` is much more than `n`.
    pub(crate) fn of(shape: [i64; 3], input: Kind, device: Device, options: &PolarOptions) -> Self {
        let kind = match options.compute {
            PolarCompute::Input => input,
            PolarCompute::Auto if options.iteration == Iteration::Gram => input,
            PolarCompute::Auto => match Precision::Auto.resolve(device) {
                (Precision::Bf16, _) => Kind::BFloat16,
                _ => input,
            },
            PolarCompute::Fp32 => Kind::Float,
            PolarCompute::Bf16 => Kind::BFloat16,
            PolarCompute::Fp16 => Kind::Half,
        };
        let [_, n, m] = shape;
        let (steps, alpha) = (options.coefficients.steps(), m as f64 / n as f64);
        let engine_for = |kind| Engine::of([n, m], device, kind, &options.policy);
        let engine = engine_for(kind);
        let chunks = steps.div_ceil(restart(kind));
        let (standard, gram) = costs(alpha, steps, chunks, engine);
        match options.iteration {
            Iteration::Gram => Self::Gram(engine, kind),
            Iteration::Auto if steps > MOST_GRAM_STEPS => Self::Standard(engine, kind),
            Iteration::Auto if kind == Kind::BFloat16 => {
                let kernels = (engine, engine_for(Kind::Float));
                // A GPU has no matrix units for FP32, which [`FP32_BY_BF16`] knows nothing of.
                let mixed = device == Device::Cpu && kernels == (Engine::Kernel, Engine::Kernel);
                if mixed && mixed_cost(alpha, steps) < standard {
                    Self::GramMixed
                } else {
                    Self::Standard(engine, kind)
                }
            }
            Iteration::Auto if gram < standard => Self::Gram(engine, kind),
            Iteration::Standard | Iteration::Auto => Self::Standard(engine, kind),
        }
    }

    /// The dtype that [`PolarPlan::run`] takes a stack in.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Standard(_, kind) | Self::Gram(_, kind) => kind,
            Self::GramMixed => Kind::BFloat16,
        }
    }

    /// The polar factors of a stack whose matrices have norm `1 / norm_factor`. It is used up.
    pub(crate) fn run(
        self,
        space: &mut Workspace,
        x_knm: Buffer,
        options: &PolarOptions,
    ) -> Result<Buffer> {
        let (table, scaled) = (options.coefficients.table(), options.coefficients.scales_rows());
        match self {
            Self::Standard(engine, _) => engine.standard(space, x_knm, (&table, scaled)),
            Self::Gram(engine, kind) => engine.gram(space, x_knm, (&table, scaled), restart(kind)),
            Self::GramMixed => Engine::gram_mixed(space, x_knm, (&table, scaled)),
        }
    }
}

/// The polar factor of `matrix`, `[rows, cols]` or a stack `[k, rows, cols]`, of the same shape.
///
/// Also known as orthogonalization, or as the zeroth power.
///
/// The result is of the dtype of the products, or FP32 where their sums are kept so. A zero
/// matrix gives zeros, and no scale of the input matters.
///
/// # Errors
/// Another number of axes, and what libtorch throws.
#[doc(alias = "orthogonalize")]
#[doc(alias = "zeropower")]
pub fn polar_factor(matrix: &Tensor, options: &PolarOptions) -> Result<Tensor> {
    let shape = matrix.size();
    let (rows, cols) = match shape[..] {
        [rows, cols] | [_, rows, cols] => (rows, cols),
        _ => {
            return Err(Error::Shape {
                op: OP,
                tensor: "matrix",
                found: shape,
                expected: "[rows, cols] or [stack, rows, cols]".into(),
            });
        }
    };
    let _guard = bert4rs_tensor_core::no_grad_guard();
    let matrices = matrix.detach().f_reshape([-1, rows, cols]).during(OP)?;
    let wide = rows <= cols;
    let turned = |x: &Tensor| if wide { Ok(x.shallow_clone()) } else { x.f_transpose(1, 2) };
    let x_knm = turned(&matrices).during(OP)?;
    let mut space = Workspace::default();
    let kind = if matrix.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let mut owned = space.take(&x_knm.size(), kind, x_knm.device())?;
    owned.f_copy_(&x_knm).during(OP)?;
    let factor = wide_factor(&mut space, owned, options)?;
    turned(&factor).during(OP)?.f_reshape(&shape[..]).during(OP)
}

/// The polar factors of a stack `[k, n, m]` with `n <= m`, FP32 or FP64, which is used up.
pub(crate) fn wide_factor(
    space: &mut Workspace,
    mut x_knm: Buffer,
    options: &PolarOptions,
) -> Result<Buffer> {
    let (k, n, m) = x_knm.size3().during(OP)?;
    let plan = PolarPlan::of([k, n, m], x_knm.kind(), x_knm.device(), options);
    normalize(&mut x_knm, options.coefficients.norm_factor())?;
    if plan.kind() != x_knm.kind() {
        let mut cast = space.take(&x_knm.size(), plan.kind(), x_knm.device())?;
        cast.f_copy_(&x_knm).during(OP)?;
        space.give(std::mem::replace(&mut x_knm, cast));
    }
    plan.run(space, x_knm, options)
}

/// `x / (factor * norm)` for each matrix of the stack, in place; zeros stay zeros, and no scale
/// overflows or vanishes.
fn normalize(x_knm: &mut Tensor, factor: f64) -> Result<()> {
    let (stack, _, _) = x_knm.size3().during(OP)?;
    if x_knm.device() == Device::Cpu && x_knm.kind() == Kind::Float {
        for index in 0..stack {
            let mut x_nm = x_knm.f_get(index).during(OP)?;
            let norm = sum_of_squares(&x_nm)?.sqrt() * factor;
            let _ = x_nm.f_div_scalar_(norm.max(f64::from(f32::MIN_POSITIVE))).during(OP)?;
        }
        return Ok(());
    }
    // Squares in FP32 need values near 1 first.
    let largest_k11 = x_knm.f_abs().during(OP)?.f_amax([1, 2], true).during(OP)?;
    let largest_k11 = largest_k11.f_clamp_min(f64::from(f32::MIN_POSITIVE)).during(OP)?;
    let _ = x_knm.f_div_(&largest_k11).during(OP)?;
    let norm_k11 = x_knm.f_norm_scalaropt_dim(2.0, [1, 2], true).during(OP)?;
    let norm_k11 = norm_k11.f_clamp_min(0.5).during(OP)? * factor;
    let _ = x_knm.f_div_(&norm_k11).during(OP)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use bert4rs_tensor_core::policy::Kernels;

    use super::*;

    /// BERT's and GPT's feed-forward matrices, four times as wide as high.
    #[test]
    fn a_gpu_multiplies_in_bf16_what_is_to_be() {
        let mut options = PolarOptions::new(Coefficients::polar_express(5));
        options.compute = PolarCompute::Bf16;
        options.policy = Policy::new(Kernels::Fused, true);
        let gpu = Device::Cuda(0);
        for shape in [[12, 768, 3072], [12, 768, 768], [1, 64, 4096]] {
            let plan = PolarPlan::of(shape, Kind::Float, gpu, &options);
            assert_eq!(plan, PolarPlan::Standard(Engine::Kernel, Kind::BFloat16), "{shape:?}");
        }
        options.policy = Policy::new(Kernels::Fused, false);
        let plan = PolarPlan::of([12, 768, 3072], Kind::Float, gpu, &options);
        assert_eq!(plan.kind(), Kind::BFloat16);
    }
}
