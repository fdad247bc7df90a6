//! Finite differences in FP64: the check that every custom backward passes.

use tch::{Kind, Tensor};

use crate::error::{Context, Error, Result};

/// Compares the gradients of `f` with central differences.
///
/// `inputs` are FP64 and require gradients; `f` returns any number of FP64 outputs. The scalar
/// checked is a fixed random weighting of all outputs, so each entry of each Jacobian takes part.
///
/// # Errors
/// The first entry whose analytic and numeric gradient differ by more than
/// `tolerance * (1 + |numeric|)`, and what libtorch throws.
pub fn gradients(
    f: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[Tensor],
    tolerance: f64,
) -> Result<()> {
    const STEP: f64 = 1e-6;
    let weights: Vec<Tensor> = f(inputs)?.iter().map(weighting).collect();
    let scalar = |inputs: &[Tensor]| -> Result<Tensor> {
        let outputs = f(inputs)?;
        let terms = outputs.iter().zip(&weights).map(|(y, w)| (y * w).sum(Kind::Double));
        Ok(terms.fold(Tensor::from(0f64), |sum, term| sum + term))
    };
    let analytic = Tensor::f_run_backward(&[scalar(inputs)?], inputs, false, false)
        .during("gradient check")?;
    for (index, input) in inputs.iter().enumerate() {
        let analytic = dense_gradient(&analytic[index], input);
        for entry in 0..input.numel() as i64 {
            let shifted = |sign: f64| -> Result<f64> {
                let moved = tch::no_grad(|| {
                    let moved = input.detach().copy();
                    let mut slot = moved.flatten(0, -1).narrow(0, entry, 1);
                    let _ = slot.f_add_scalar_(sign * STEP).during("gradient check")?;
                    Ok::<_, Error>(moved)
                })?;
                let mut all: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
                all[index] = moved;
                Ok(scalar(&all)?.double_value(&[]))
            };
            let numeric = (shifted(1.0)? - shifted(-1.0)?) / (2.0 * STEP);
            let found = analytic.double_value(&[entry]);
            let close = (found - numeric).abs() <= tolerance * (1.0 + numeric.abs());
            if !close {
                return Err(Error::Torch {
                    op: "gradient check".into(),
                    message: format!(
                        "input {index}, entry {entry}: backward says {found}, \
                         finite differences say {numeric}"
                    ),
                });
            }
        }
    }
    Ok(())
}

/// Fixed weights of no particular pattern, of `output`'s shape.
fn weighting(output: &Tensor) -> Tensor {
    let count = output.numel() as i64;
    (Tensor::arange(count, (Kind::Double, output.device())) * 12.9898 + 0.7)
        .sin()
        .reshape(output.size())
}

fn dense_gradient(gradient: &Tensor, input: &Tensor) -> Tensor {
    if gradient.defined() { gradient.flatten(0, -1) } else { input.zeros_like().flatten(0, -1) }
}
