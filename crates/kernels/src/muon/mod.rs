//! Muon around its polar factor, in few passes over memory.
//!
//! With gradient `g`, momentum `m` and exact weight `p`, all FP32 in registers:
//!
//! ```text
//! m = m + (1 - mu) (s g - m)                       momentum_update, first pass
//! u = (1 - mu) s g + mu m     Nesterov, else m
//! x = u / max(factor ‖u‖, tiny)                    momentum_update, second pass
//! o = polar factor of x                            crate::gemm
//! p = p decay_factor - step row[r] col[c] o        apply_update
//! ```
//!
//! `x` and `o` lie transposed in memory where a matrix is higher than wide. Of `o`, NorMuon needs
//! the sums of squares first.
//!
//! Floor for a value, BF16 gradient and products, FP32 master: 12 bytes for the first pass, 8 for
//! the second, 2 for NorMuon's sums, 12 for the last. Small matrices stay in cache between them.

mod cpu;
mod cuda;
mod reference;
#[cfg(test)]
mod tests;

use bert4rs_tensor_core::{Device, Error, Result, Tensor};

pub use reference::{apply_update_reference, momentum_update_reference};

use crate::cpu::views;
use crate::weight::{Weight, same_count};

const OP: &str = "Muon";

/// The scalars of one step, the same for all matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MuonKernelScalars {
    /// `1 - mu`, of the momentum `mu`.
    pub one_minus_momentum: f32,
    /// Factor on the gradient, `s`. With 0 a gradient counts as 0 even where it is not finite.
    pub grad_scale: f32,
    /// Learning rate.
    pub lr: f32,
    /// `1 - lr * decay`.
    pub decay_factor: f32,
}

impl MuonKernelScalars {
    /// Number of scalars.
    pub const COUNT: usize = 4;

    /// As kernels read them from a tensor: FP32 `[4]`, in the order of the fields.
    pub fn to_array(self) -> [f32; Self::COUNT] {
        [self.one_minus_momentum, self.grad_scale, self.lr, self.decay_factor]
    }

    /// Read from a CPU tensor.
    fn read(numbers: &Tensor) -> Result<Self> {
        match *views::read::<f32>(numbers, "the numbers of a step")? {
            [one_minus_momentum, grad_scale, lr, decay_factor] => {
                Ok(Self { one_minus_momentum, grad_scale, lr, decay_factor })
            }
            _ => Err(Error::Shape {
                op: OP,
                tensor: "numbers",
                found: numbers.size(),
                expected: format!("[{}]", Self::COUNT),
            }),
        }
    }
}

/// What [`momentum_update`] computes with, beside the tensors.
#[derive(Debug, Clone, Copy)]
pub struct MomentumArgs<'a> {
    /// The [`MuonKernelScalars`] of this step, read when it runs: FP32 `[4]`, on the device of all.
    pub numbers: &'a Tensor,
    /// Look ahead by one step of momentum.
    pub nesterov: bool,
    /// The update is divided by this times its norm.
    pub norm_factor: f64,
}

/// Moves `momentum` by `grad`, both `[rows, cols]`, and writes the update at norm
/// `1 / norm_factor` to `x_nm`: `[rows, cols]`, or transposed if there are more rows than columns.
/// A zero update stays zero.
///
/// `grad` is FP32 or BF16, `momentum` FP32, `x_nm` FP32 or BF16; all dense, on the CPU. The same
/// bits for any thread count.
///
/// # Errors
/// Other shapes, dtypes, devices or layouts, or two that share memory; nothing is changed then.
pub fn momentum_update(
    args: &MomentumArgs<'_>,
    grad: &Tensor,
    momentum: &mut Tensor,
    x_nm: &mut Tensor,
) -> Result<()> {
    let sides = check_momentum(grad, momentum, x_nm)?;
    match grad.device() {
        Device::Cuda(_) => cuda::momentum_update(args, grad, momentum, x_nm, sides),
        _ => cpu::momentum_update(args, grad, momentum, x_nm, sides),
    }
}

/// The sides of `grad`, if the others fit.
fn check_momentum(grad: &Tensor, momentum: &Tensor, x_nm: &Tensor) -> Result<(usize, usize)> {
    let (rows, cols) = shape(grad)?;
    refuse_sharing(&[grad, momentum, x_nm])?;
    same_shape("momentum", momentum, [rows, cols])?;
    let transposed = is_transposed(rows, cols);
    same_shape("update", x_nm, if transposed { [cols, rows] } else { [rows, cols] })?;
    Ok((rows, cols))
}

/// Sums of squares of `o_rc`'s rows, one each, or with `of_columns` of its columns. FP32 or BF16,
/// dense. FP32, on the same device, which the host does not wait for. The same bits for any thread
/// count.
///
/// # Errors
/// Another dtype, device, layout or number of axes.
pub fn sums_of_squares(o_rc: &Tensor, of_columns: bool) -> Result<Tensor> {
    let sides = shape(o_rc)?;
    match o_rc.device() {
        Device::Cuda(_) => cuda::sums_of_squares(o_rc, of_columns, sides),
        _ => cpu::sums_of_squares(o_rc, of_columns, sides.1),
    }
}

/// What [`apply_update`] computes with, beside the polar factor and the weight.
#[derive(Debug, Clone, Copy)]
pub struct UpdateArgs<'a> {
    /// The [`MuonKernelScalars`] of this step, read when it runs: FP32 `[4]`, on the device of all.
    pub numbers: &'a Tensor,
    /// The factor of the matrix's shape: `step = lr * factor`.
    pub factor: f32,
    /// A factor for each row of the weight, FP32; 1 if absent.
    pub row: Option<&'a Tensor>,
    /// A factor for each column of the weight, FP32; 1 if absent.
    pub col: Option<&'a Tensor>,
    /// Decay only where update and weight agree in sign, or either is zero.
    pub cautious: bool,
}

/// `p = p decay_factor - step row[r] col[c] o`, and the working weight written beside it. `weight`
/// is `[rows, cols]`, `o_nm` the same, or transposed if there are more rows than columns; FP32 or
/// BF16, dense. The same bits for any thread count.
///
/// # Errors
/// Other shapes, dtypes, devices or layouts, or two that share memory; nothing is changed then.
pub fn apply_update(args: &UpdateArgs<'_>, o_nm: &Tensor, weight: Weight<'_>) -> Result<()> {
    let sides = check_update(args, o_nm, &weight)?;
    match o_nm.device() {
        Device::Cuda(_) => cuda::apply_update(args, o_nm, &weight, sides),
        _ => cpu::apply_update(args, o_nm, weight, sides),
    }
}

/// The weight's sides, if all fit it.
fn check_update(
    numbers: &UpdateArgs<'_>,
    o_nm: &Tensor,
    weight: &Weight<'_>,
) -> Result<(usize, usize)> {
    let (rows, cols) = match weight {
        Weight::Single(weight) => {
            refuse_sharing(&[o_nm, weight])?;
            shape(weight)?
        }
        Weight::Master { master: other, weight }
        | Weight::Bf16Residual { weight, residual: other } => {
            refuse_sharing(&[o_nm, other, weight])?;
            shape(weight)?
        }
    };
    let expected = if is_transposed(rows, cols) { [cols, rows] } else { [rows, cols] };
    same_shape("polar factor", o_nm, expected)?;
    for (factors, count) in [(numbers.row, rows), (numbers.col, cols)] {
        if let Some(factors) = factors {
            same_count(OP, count, factors.numel(), "factors of a side")?;
        }
    }
    Ok((rows, cols))
}

/// Whether a matrix of this shape lies transposed in a stack.
fn is_transposed(rows: usize, cols: usize) -> bool {
    rows > cols
}

fn shape(matrix: &Tensor) -> Result<(usize, usize)> {
    match matrix.size()[..] {
        [rows, cols] => Ok((rows as usize, cols as usize)),
        ref found => Err(Error::Shape {
            op: OP,
            tensor: "matrix",
            found: found.to_vec(),
            expected: "[rows, cols]".into(),
        }),
    }
}

fn same_shape(tensor: &'static str, found: &Tensor, expected: [usize; 2]) -> Result<()> {
    let expected = expected.map(|extent| extent as i64);
    if found.size() == expected {
        return Ok(());
    }
    let (found, expected) = (found.size(), format!("{expected:?}"));
    Err(Error::Shape { op: OP, tensor, found, expected })
}

fn refuse_sharing(tensors: &[&Tensor]) -> Result<()> {
    let shares = |(i, tensor): (usize, &&Tensor)| {
        tensors[i + 1..].iter().any(|other| views::overlap(tensor, other))
    };
    if tensors.iter().enumerate().any(shares) {
        let reason = "two of its tensors share memory".into();
        return Err(Error::Unsupported { what: "a pass of Muon".into(), reason });
    }
    Ok(())
}
