//! A linear map whose products are of integers, all or the forward ones.
//!
//! Axes: `m` rows of the input (tokens), `k` input features, `n` output features.
//!
//! ```text
//! y_mn  = x_mk  w_nkᵀ          factors by rows of both
//! dx_mk = dy_mn (w_nkᵀ)ᵀ       by rows of dy, columns of w
//! dw_nk = dy_mnᵀ (x_mkᵀ)ᵀ      by columns of both
//! ```

use bert4rs_tensor_core::autograd::{self, BackwardContext, ForwardContext, Function};
use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::int8::{Int8Map, Int8Products, Int8Rounding};
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor, no_grad};

use super::{MOST_TERMS, Orientation, Quantized, product, quantize};

const OP: &str = "8-bit integer linear map";

/// Why products of integers can't be had on `device`; none where they can.
pub fn unsupported_reason(device: Device) -> Option<Error> {
    (device != Device::Cpu).then(|| Error::Unsupported {
        what: "training with 8-bit integers".into(),
        reason: "the products are for CPUs; on GPUs from Ada on, use compute.fp8".into(),
    })
}

/// One map's way of multiplying integers. It holds no parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Int8Linear {
    map: Int8Map,
}

impl Int8Linear {
    /// A map that multiplies so.
    pub fn new(map: Int8Map) -> Self {
        Self { map }
    }

    /// `x wᵀ + bias`, in the dtype of `x`: `[.., k]` to `[.., n]`. `w` is `[n, k]`, `bias` `[n]`.
    ///
    /// A product that sums over more than [`MOST_TERMS`] values is one of floats.
    ///
    /// # Errors
    /// Tensors that are not FP32 or BF16 on the CPU, a weight that does not fit, and what libtorch
    /// throws.
    pub fn forward(&self, x: &Tensor, w_nk: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let mut shape = x.size();
        let inputs = shape.pop().unwrap_or(0);
        if w_nk.size().get(1) != Some(&inputs) || w_nk.dim() != 2 {
            let expected = format!("[outputs, {inputs}], as the input has that many features");
            return Err(Error::Shape { op: OP, tensor: "weight", found: w_nk.size(), expected });
        }
        shape.push(w_nk.size()[0]);
        let rows: i64 = shape[..shape.len() - 1].iter().product();
        let x_mk = x.f_reshape([rows, inputs]).during(OP)?.f_contiguous().during(OP)?;
        let function =
            IntegerProducts { map: self.map, has_bias: bias.is_some(), x: None, w: None };
        let inputs: Vec<&Tensor> = [&x_mk, w_nk].into_iter().chain(bias).collect();
        autograd::apply_one(function, &inputs)?.f_reshape(&shape).during(OP)
    }
}

/// One application of the map.
struct IntegerProducts {
    map: Int8Map,
    has_bias: bool,
    /// The input's columns, where the weight's gradient is of integers.
    x: Option<Quantized>,
    /// The weight's columns, where the input's gradient is of integers.
    w: Option<Quantized>,
}

/// Whether 32 bits hold a sum of so many products.
fn fits(terms: i64) -> bool {
    terms <= MOST_TERMS
}

/// Rows, and columns too where asked for.
fn pack(
    x: &Tensor,
    columns: bool,
    rounding: Int8Rounding,
) -> Result<(Quantized, Option<Quantized>)> {
    if columns {
        let [rows, columns] = quantize(x, [Orientation::Rows, Orientation::Columns], rounding)?;
        Ok((rows, Some(columns)))
    } else {
        let [rows] = quantize(x, [Orientation::Rows], rounding)?;
        Ok((rows, None))
    }
}

impl IntegerProducts {
    /// The gradient of the input.
    fn input_gradient(&self, dy_mn: &Tensor, w_nk: &Tensor) -> Result<Tensor> {
        match &self.w {
            Some(w) => {
                let [dy] = quantize(dy_mn, [Orientation::Rows], self.map.rounding)?;
                product(&dy, w, None, dy_mn.kind())
            }
            None => dy_mn.f_matmul(w_nk).during(OP),
        }
    }

    /// The gradient of the weight.
    fn weight_gradient(&self, dy_mn: &Tensor, x_mk: &Tensor) -> Result<Tensor> {
        match &self.x {
            Some(x) => {
                let [dy] = quantize(dy_mn, [Orientation::Columns], self.map.rounding)?;
                product(&dy, x, None, dy_mn.kind())
            }
            None => dy_mn.f_transpose(0, 1).during(OP)?.f_matmul(x_mk).during(OP),
        }
    }
}

impl Function for IntegerProducts {
    fn name(&self) -> &'static str {
        OP
    }

    fn forward(&mut self, inputs: &[&Tensor], ctx: &mut ForwardContext) -> Result<Vec<Tensor>> {
        let (x_mk, w_nk) = (inputs[0], inputs[1]);
        let (rows, outputs) = (x_mk.size()[0], w_nk.size()[0]);
        let products = self.map.products;
        // Gradients are off in here, but the inputs still tell whether they want one.
        let (x_wants, w_wants) = (x_mk.requires_grad(), w_nk.requires_grad());
        let packs_x = w_wants && products == Int8Products::All && fits(rows);
        let packs_w = x_wants && products != Int8Products::Forward && fits(outputs);
        let bias = self.has_bias.then(|| inputs[2]);
        let y_mn = if fits(x_mk.size()[1]) {
            let (x, x_columns) = pack(x_mk, packs_x, Int8Rounding::Nearest)?;
            let (w, w_columns) =
                pack(&w_nk.f_contiguous().during(OP)?, packs_w, Int8Rounding::Nearest)?;
            (self.x, self.w) = (x_columns, w_columns);
            product(&x, &w, bias, x_mk.kind())?
        } else {
            x_mk.f_linear(w_nk, bias).during(OP)?
        };
        let undefined = Tensor::new();
        ctx.save(if w_wants && self.x.is_none() { x_mk } else { &undefined });
        ctx.save(if x_wants && self.w.is_none() { w_nk } else { &undefined });
        Ok(vec![y_mn])
    }

    fn backward(
        &self,
        ctx: &BackwardContext,
        grads: &[Option<Tensor>],
    ) -> Result<Vec<Option<Tensor>>> {
        let inputs = 2 + usize::from(self.has_bias);
        let Some(dy_mn) = &grads[0] else { return Ok((0..inputs).map(|_| None).collect()) };
        let dy_mn = &dy_mn.f_contiguous().during(OP)?;
        let mut gradients = vec![None, None];
        no_grad(|| -> Result<()> {
            if ctx.needs(0) {
                gradients[0] = Some(self.input_gradient(dy_mn, &ctx.saved()[1])?);
            }
            if ctx.needs(1) {
                gradients[1] = Some(self.weight_gradient(dy_mn, &ctx.saved()[0])?);
            }
            Ok(())
        })?;
        if self.has_bias {
            let kind: Kind = dy_mn.kind();
            let sum = || dy_mn.f_sum_dim_intlist([0i64].as_slice(), false, kind).during(OP);
            gradients.push(if ctx.needs(2) { Some(no_grad(sum)?) } else { None });
        }
        Ok(gradients)
    }
}
