//! The polar factor of a matrix: the nearest matrix with all singular values 1, up to the
//! accuracy of a few steps of matrix products.
//!
//! ```
//! use bert4rs_optim::polar::{Coefficients, Options, polar_factor};
//! use bert4rs_tensor_core::{Device, Kind, Tensor};
//!
//! let gradient = Tensor::randn([64, 256], (Kind::Float, Device::Cpu));
//! let options = Options::new(Coefficients::polar_express(8));
//! let factor = polar_factor(&gradient, &options)?;
//! let error = factor.matmul(&factor.tr()) - Tensor::eye(64, (Kind::Float, Device::Cpu));
//! assert!(f64::try_from(error.abs().max())? < 1e-5);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod coefficients;
mod iterate;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Error, Kind, Result, Tensor};
use serde::{Deserialize, Serialize};

use iterate::Engine;

pub use coefficients::{Coefficients, PolarExpress, Quintic, SafetyPlace};

const OP: &str = "polar factor";

/// The dtype of the matrix products. Norms are always taken in FP32 or better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// That of the input if FP32 or FP64; else FP32.
    #[default]
    Input,
    /// FP32.
    Fp32,
    /// BF16, by the standard iteration.
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// The polynomials.
    pub coefficients: Coefficients,
    /// Dtype of the products.
    pub compute: Compute,
    /// Order of the products.
    pub iteration: Iteration,
}

impl Options {
    /// These polynomials, in the input's dtype, by the faster iteration.
    pub fn new(coefficients: Coefficients) -> Self {
        Self { coefficients, compute: Compute::Input, iteration: Iteration::Auto }
    }

    /// Refuses what can't act or is not safe. `key` is the setting's path.
    pub fn validate(&self, key: &str) -> crate::Result<()> {
        self.coefficients.validate(&format!("{key}.coefficients"))?;
        if (self.compute, self.iteration) == (Compute::Bf16, Iteration::Gram) {
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

/// Whether the Gram iteration takes less time than the standard one for sides `n <= m`, and is
/// as good. By count of operations, which the measured table in `docs/optimizers.md` confirms.
fn gram_is_faster(n: i64, m: i64, steps: usize, kind: Kind, engine: Engine) -> bool {
    if kind == Kind::BFloat16 || steps > MOST_GRAM_STEPS {
        return false;
    }
    let chunks = steps.div_ceil(restart(kind)) as f64;
    let (steps, alpha) = (steps as f64, m as f64 / n as f64);
    // In units of a product of n by n matrices; a symmetric one is half where that is used.
    let square = if engine == Engine::Kernel { 0.5 } else { 1.0 };
    let standard = steps * (alpha * square + square + alpha);
    let gram = chunks * (alpha * square + alpha) + square * (4.0 * steps - 3.0 * chunks);
    gram < standard
}

/// The polar factor of `matrix`, `[rows, cols]` or a stack `[k, rows, cols]`, of the same shape.
///
/// The result is of the dtype of the products. A zero matrix gives zeros, and no scale of the
/// input matters.
///
/// # Errors
/// Another number of axes, and what libtorch throws.
pub fn polar_factor(matrix: &Tensor, options: &Options) -> Result<Tensor> {
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
    let x_krc = matrix.detach().f_reshape([-1, rows, cols]).during(OP)?;
    let factor = if rows > cols {
        wide_factor(&x_krc.f_transpose(1, 2).during(OP)?, options)?.f_transpose(1, 2).during(OP)?
    } else {
        wide_factor(&x_krc, options)?
    };
    factor.f_reshape(&shape[..]).during(OP)
}

/// The polar factors of a stack `[k, n, m]` with `n <= m`.
pub(crate) fn wide_factor(x_knm: &Tensor, options: &Options) -> Result<Tensor> {
    let Options { coefficients, compute, iteration } = options;
    let kind = match compute {
        Compute::Input if x_knm.kind() == Kind::Double => Kind::Double,
        Compute::Input | Compute::Fp32 => Kind::Float,
        Compute::Bf16 => Kind::BFloat16,
        Compute::Fp16 => Kind::Half,
    };
    let x_knm = normalize(x_knm, coefficients.norm_factor(), kind)?;
    let (_, n, m) = x_knm.size3().during(OP)?;
    let engine = Engine::of(&x_knm);
    let gram = match iteration {
        Iteration::Auto => gram_is_faster(n, m, coefficients.steps(), kind, engine),
        Iteration::Standard => false,
        Iteration::Gram => true,
    };
    let table = coefficients.table();
    if gram { engine.gram(x_knm, &table, restart(kind)) } else { engine.standard(x_knm, &table) }
}

/// `x / (factor * norm)` for each matrix of the stack, in `kind`; zeros stay zeros.
///
/// Values are divided by the largest before they are squared, so that no scale overflows or
/// vanishes.
fn normalize(x_knm: &Tensor, factor: f64, kind: Kind) -> Result<Tensor> {
    let exact_kind = if x_knm.kind() == Kind::Double { Kind::Double } else { Kind::Float };
    let x_knm = x_knm.f_to_kind(exact_kind).during(OP)?.f_contiguous().during(OP)?;
    let largest_k11 = x_knm.f_abs().during(OP)?.f_amax([1, 2], true).during(OP)?;
    let x_knm = x_knm.f_div(&largest_k11.f_clamp_min(f64::from(f32::MIN_POSITIVE)).during(OP)?);
    let x_knm = x_knm.during(OP)?;
    let norm_k11 =
        x_knm.f_norm_scalaropt_dim(2.0, [1, 2], true).during(OP)?.f_clamp_min(0.5).during(OP)?;
    x_knm.f_div(&(norm_k11 * factor)).during(OP)?.f_to_kind(kind).during(OP)
}
