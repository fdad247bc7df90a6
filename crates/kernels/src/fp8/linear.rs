//! A linear map whose forward product and both backward products are FP8.
//!
//! Axes: `m` rows of the input (tokens), `k` input features, `n` output features.
//!
//! ```text
//! y_mn  = x_mk  w_nkᵀ          both E4M3
//! dx_mk = dy_mn (w_nkᵀ)ᵀ       dy E5M2
//! dw_nk = dy_mnᵀ (x_mkᵀ)ᵀ      dy E5M2
//! ```
//!
//! Each product sums along the last axis of both operands, so the backward ones take transposed
//! copies. Source of the formats: arXiv 2209.05433; of delayed factors: Transformer Engine.

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
use bert4rs_tensor_core::buffers::Buffers;
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::fp8::{Fp8Scaling, OverflowCount};
use bert4rs_tensor_core::{Device, Error, Result, Tensor, no_grad};

use super::product::MULTIPLE;
use super::{Cast, Factor, Format, Scaled, cast, product};

const OP: &str = "FP8 linear map";

/// One map's way of multiplying in FP8. It holds what delayed factors are made from, but no
/// parameter.
#[derive(Debug, Clone)]
pub struct Fp8Linear {
    scaling: Fp8Scaling,
    /// For each tensor that is cast, the largest magnitudes of the last steps, FP32 `[HISTORY]` on
    /// the device; not there before the first.
    histories: Buffers,
    overflows: OverflowCount,
}

/// The factor for the next cast of a tensor of this history, FP32 `[1]`.
fn delayed_factor(amax_history: &Tensor, format: Format) -> Result<Tensor> {
    const LEAST: f64 = f32::from_bits((127 - 100) << 23) as f64;
    let amax = amax_history.f_max().during(OP)?.f_clamp_min(LEAST).during(OP)?;
    let most = amax.f_full_like(f64::from(format.max())).during(OP)?;
    most.f_div(&amax).during(OP)?.f_view([1]).during(OP)
}

/// Which tensor of the map is cast.
#[derive(Clone, Copy)]
enum Which {
    Input,
    Weight,
    Grad,
}

impl Which {
    fn format(self) -> Format {
        match self {
            Self::Input | Self::Weight => Format::E4M3,
            Self::Grad => Format::E5M2,
        }
    }

    /// The name of its history.
    fn history(self) -> &'static str {
        match self {
            Self::Input => "fp8.input_amax_history",
            Self::Weight => "fp8.weight_amax_history",
            Self::Grad => "fp8.grad_amax_history",
        }
    }
}

impl Fp8Linear {
    /// A map that has cast nothing yet, and counts what overflows in `overflows`.
    pub fn new(scaling: Fp8Scaling, overflows: OverflowCount) -> Self {
        Self { scaling, histories: Buffers::default(), overflows }
    }

    /// The same, with its histories among `buffers`.
    pub fn with_buffers(self, buffers: Buffers) -> Self {
        Self { histories: buffers, ..self }
    }

    /// `x wᵀ + bias`, in the dtype of `x`: `[.., k]` to `[.., n]`. `w` is `[n, k]`, `bias` `[n]`.
    ///
    /// # Errors
    /// A GPU without FP8 matrix units, sizes there that are no multiples of 16 (rows of `x` may be
    /// any number), and what libtorch throws.
    pub fn forward(&self, x: &Tensor, w_nk: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut shape = x.size();
        let inputs = shape.pop().unwrap_or(0);
        if w_nk.size().get(1) != Some(&inputs) || w_nk.dim() != 2 {
            let expected = format!("[outputs, {inputs}], as the input has that many features");
            return Err(Error::Shape { op: OP, tensor: "weight", found: w_nk.size(), expected });
        }
        shape.push(w_nk.size()[0]);
        let rows: i64 = shape[..shape.len() - 1].iter().product();
        let x_mk = pad(&x.f_reshape([rows, inputs]).during(OP)?)?;
        let function = Products { map: self.clone(), has_bias: bias.is_some() };
        let inputs: Vec<&Tensor> = [&x_mk, w_nk].into_iter().chain(bias).collect();
        let y_mn = autograd::apply_one(function, &inputs)?.f_narrow(0, 0, rows).during(OP)?;
        y_mn.f_reshape(&shape).during(OP)
    }

    fn cast(&self, x: &Tensor, which: Which, transposed: bool) -> Result<Cast> {
        let format = which.format();
        let history = match self.scaling {
            Fp8Scaling::Delayed => self.histories.get(which.history()),
            Fp8Scaling::Tensor | Fp8Scaling::Row => None,
        };
        let delayed = history.map(|history| delayed_factor(&history, format)).transpose()?;
        let factor = match (&delayed, self.scaling) {
            (Some(factor), _) => Factor::Given(factor),
            (None, Fp8Scaling::Row) => Factor::Row,
            (None, Fp8Scaling::Tensor | Fp8Scaling::Delayed) => Factor::Tensor,
        };
        let cast = cast(&x.f_contiguous().during(OP)?, format, factor, transposed)?;
        if self.scaling == Fp8Scaling::Delayed {
            self.remember(which, &cast.amax)?;
        }
        self.overflows.add(&cast.overflows)?;
        Ok(cast)
    }

    /// Puts `amax` before the history, whose oldest entry goes: in place, so that a captured step
    /// goes on with it.
    fn remember(&self, which: Which, amax: &Tensor) -> Result<()> {
        let length = Fp8Scaling::HISTORY;
        match self.histories.get(which.history()) {
            None => {
                let older = amax.f_zeros_like().during(OP)?.f_repeat([length - 1]).during(OP)?;
                let history = Tensor::f_cat(&[amax, &older], 0).during(OP)?;
                self.histories.set(which.history(), history);
            }
            Some(mut history) => {
                let older = history.f_narrow(0, 0, length - 1).during(OP)?;
                let moved = Tensor::f_cat(&[amax, &older], 0).during(OP)?;
                history.f_copy_(&moved).during(OP)?;
            }
        }
        Ok(())
    }
}

/// Rows of zeros up to a multiple of 16, where the device asks for it.
fn pad(x_mk: &Tensor) -> Result<Tensor> {
    let missing = -x_mk.size()[0] & (MULTIPLE - 1);
    match x_mk.device() {
        Device::Cuda(_) if missing > 0 => x_mk.f_constant_pad_nd([0, 0, 0, missing]).during(OP),
        _ => Ok(x_mk.shallow_clone()),
    }
}

/// One application of the map.
struct Products {
    map: Fp8Linear,
    has_bias: bool,
}

/// The copy that was asked for.
fn wanted(transposed: Option<Scaled>) -> Result<Scaled> {
    transposed.ok_or_else(|| Error::Torch {
        op: OP.into(),
        message: "a transposed copy is missing".into(),
    })
}

impl Function for Products {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        let (x_mk, w_nk) = (inputs[0], inputs[1]);
        // Gradients are off in here, but the inputs still tell whether they want one.
        let (x_wants, w_wants) = (x_mk.requires_grad(), w_nk.requires_grad());
        let x = self.map.cast(x_mk, Which::Input, w_wants)?;
        let w = self.map.cast(w_nk, Which::Weight, x_wants)?;
        let bias = self.has_bias.then(|| inputs[2]);
        let y_mn = product(&x.straight, &w.straight, bias, x_mk.kind(), false)?;
        for transposed in [x.transposed, w.transposed] {
            let (values, inverse) = match transposed {
                Some(Scaled { values, inverse }) => (values, inverse),
                None => (Tensor::new(), Tensor::new()),
            };
            ctx.save(&values);
            ctx.save(&inverse);
        }
        Ok(vec![y_mn])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let inputs = 2 + usize::from(self.has_bias);
        let Some(dy_mn) = &grads[0] else { return Ok((0..inputs).map(|_| None).collect()) };
        let saved = |at: usize| {
            let part = |at: usize| ctx.saved()[at].shallow_clone();
            Scaled { values: part(at), inverse: part(at + 1) }
        };
        let kind = dy_mn.kind();
        let mut gradients = vec![None, None];
        if ctx.needs(0) || ctx.needs(1) {
            let dy = self.map.cast(dy_mn, Which::Grad, ctx.needs(1))?;
            if ctx.needs(0) {
                gradients[0] = Some(product(&dy.straight, &saved(2), None, kind, true)?);
            }
            if ctx.needs(1) {
                let dy_nm = wanted(dy.transposed)?;
                gradients[1] = Some(product(&dy_nm, &saved(0), None, kind, true)?);
            }
        }
        if self.has_bias {
            let sum = || dy_mn.f_sum_dim_intlist([0i64].as_slice(), false, kind).during(OP);
            gradients.push(if ctx.needs(2) { Some(no_grad(sum)?) } else { None });
        }
        Ok(gradients)
    }
}

#[cfg(test)]
mod tests;
