//! Finite differences in FP64: the check that every custom backward passes.

use tch::{Kind, Tensor};

use crate::error::{Context, Error, Result};
use crate::no_grad;

const OP: &str = "gradient check";

/// Compares the gradients of `f` with central differences.
///
/// `inputs`, of any shapes, are FP64 and require gradients; `f` returns any number of outputs, of
/// which those in FP64 are checked. The scalar checked is a fixed random weighting of them all, so
/// each entry of each Jacobian takes part.
///
/// # Errors
/// The first entry whose analytic and numeric gradient differ by more than
/// `tolerance * (1 + |numeric|)`, inputs of another kind, and what libtorch throws.
pub fn gradients(
    f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[Tensor],
    tolerance: f64,
) -> Result<()> {
    const STEP: f64 = 1e-6;
    if let Some(index) = inputs.iter().position(|x| x.kind() != Kind::Double || !x.requires_grad())
    {
        return Err(failed(format!("input {index} must be FP64 and require gradients")));
    }
    let scalar = |inputs: &[Tensor]| weighted_sum(&f(inputs)?).during(OP);
    let analytic = Tensor::f_run_backward(&[scalar(inputs)?], inputs, false, false).during(OP)?;
    for (index, input) in inputs.iter().enumerate() {
        let zero = input.detach().zeros_like();
        let dense = if analytic[index].defined() { &analytic[index] } else { &zero };
        let analytic = dense.flatten(0, -1);
        for entry in 0..input.numel() as i64 {
            let value_at = |by: f64| -> Result<f64> {
                let mut all: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
                all[index] = shifted(input, entry, by).during(OP)?;
                scalar(&all)?.f_double_value(&[]).during(OP)
            };
            let numeric = (value_at(STEP)? - value_at(-STEP)?) / (2.0 * STEP);
            let found = analytic.f_double_value(&[entry]).during(OP)?;
            let close = (found - numeric).abs() <= tolerance * (1.0 + numeric.abs());
            if !close {
                return Err(failed(format!(
                    "input {index}, entry {entry}: backward says {found}, finite differences say \
                     {numeric}"
                )));
            }
        }
    }
    Ok(())
}

fn failed(message: String) -> Error {
    Error::Torch { op: OP.into(), message }
}

/// `input` without its history, `by` added at `entry` in row-major order.
fn shifted(input: &Tensor, entry: i64, by: f64) -> std::result::Result<Tensor, tch::TchError> {
    no_grad(|| {
        let mut moved = Tensor::f_zeros(input.size(), (Kind::Double, input.device()))?;
        moved.f_copy_(input)?;
        let _ = moved.f_view(-1)?.f_narrow(0, entry, 1)?.f_add_scalar_(by)?;
        Ok(moved)
    })
}

/// The sum of all entries of all FP64 `outputs`, with weights of no particular pattern.
fn weighted_sum(outputs: &[Tensor]) -> std::result::Result<Tensor, tch::TchError> {
    let mut sum = Tensor::from(0f64);
    for output in outputs.iter().filter(|output| output.kind() == Kind::Double) {
        let options = (Kind::Double, output.device());
        let weights =
            (Tensor::f_arange(output.numel() as i64, options)? * 12.9898 + 0.7).f_sin()?;
        let weighted = output.f_mul(&weights.f_reshape(output.size())?)?.f_sum(Kind::Double)?;
        sum = sum.f_to_device(output.device())?.f_add(&weighted)?;
    }
    Ok(sum)
}
