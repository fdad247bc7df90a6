//! [`crate::muon`] on a GPU.

#![expect(unsafe_code, reason = "launches of kernels on raw device memory")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Kind, Result, Tensor};

use crate::cuda::launch::{Arg, KernelLaunch};
use crate::cuda::{blocks, by_kind, check, check_float, check_int, is_aligned, source};
use crate::muon::{MomentumArgs, MuonKernelScalars, UpdateArgs};
use crate::weight::{Weight, same_count};

const OP: &str = "Muon";

/// As in `muon.cu`.
const THREADS: u32 = 256;
const TILE: i64 = 64;
const CHUNK: i64 = THREADS as i64 * 16;

/// Launches a kernel of `muon.cu` on the device of `on`.
///
/// # Safety
/// As of [`KernelLaunch::run`].
unsafe fn launch(
    on: &Tensor,
    kernel: &'static str,
    grid: (u32, u32),
    args: &[Arg<'_>],
) -> Result<()> {
    let grid = (grid.0, grid.1, 1);
    let launch = KernelLaunch { source: &source::MUON, kernel, grid, block: THREADS, shared: 0 };
    // SAFETY: the caller's promise.
    unsafe { launch.run(on.device(), args) }
}

/// Checks the numbers of a step, which kernels read.
fn check_numbers(numbers: &Tensor, device: Device) -> Result<()> {
    check(numbers, Kind::Float, device, "numbers of a step")?;
    same_count(OP, MuonKernelScalars::COUNT, numbers.numel(), "numbers of a step")
}

/// See [`crate::muon::momentum_update`], which has checked shapes and that no two tensors overlap.
pub(crate) fn momentum_update(
    args: &MomentumArgs<'_>,
    grad: &Tensor,
    momentum: &mut Tensor,
    x_nm: &mut Tensor,
    (rows, cols): (usize, usize),
) -> Result<()> {
    let device = grad.device();
    check_float(grad, "a gradient")?;
    check(momentum, Kind::Float, device, "a momentum")?;
    check_float(x_nm, "an update")?;
    check(x_nm, x_nm.kind(), device, "an update")?;
    check_int(rows.max(cols), "a side of a matrix")?;
    let count = (rows * cols) as i64;
    let parts = blocks(count, CHUNK);
    let sums = Tensor::f_empty([i64::from(parts.max(1))], (Kind::Double, device)).during(OP)?;
    let inverse = Tensor::f_empty([1], (Kind::Float, device)).during(OP)?;
    let tensors = [grad, &*momentum, &*x_nm];
    let sides = [rows, cols].iter().all(|side| side.is_multiple_of(8));
    let aligned = Arg::from(tensors.into_iter().all(is_aligned) && sides);
    check_numbers(args.numbers, device)?;
    let numbers: [Arg<'_>; 2] = [args.numbers.into(), args.nesterov.into()];
    let begin = |tensors: &[&Tensor]| -> Vec<Arg<'_>> {
        numbers.into_iter().chain(tensors.iter().map(|&tensor| Arg::from(tensor))).collect()
    };
    let mut taken = begin(&[grad, momentum]);
    taken.extend([Arg::from(count), aligned, Arg::from(&sums)]);
    let norm = [(&sums).into(), (parts as i32).into(), args.norm_factor.into(), (&inverse).into()];
    // SAFETY: all tensors were checked above or made for this; `sums` holds one number a block.
    unsafe {
        let move_kernel = by_kind(grad.kind(), "muon_momentum_float", "muon_momentum_bf16");
        launch(grad, move_kernel, (parts, 1), &taken)?;
        launch(grad, "muon_norm", (1, 1), &norm)?;
    }
    let mut taken = begin(&[grad, momentum, &inverse, x_nm]);
    if rows <= cols {
        taken.extend([Arg::from(count), aligned]);
        let of_float = by_kind(x_nm.kind(), "muon_write_float_float", "muon_write_float_bf16");
        let of_bf16 = by_kind(x_nm.kind(), "muon_write_bf16_float", "muon_write_bf16_bf16");
        let grid = (blocks(count, i64::from(THREADS) * 8), 1);
        // SAFETY: as above.
        return unsafe { launch(grad, by_kind(grad.kind(), of_float, of_bf16), grid, &taken) };
    }
    taken.extend([Arg::from(rows as i32), Arg::from(cols as i32), aligned]);
    let of_float = by_kind(
        x_nm.kind(),
        "muon_write_transposed_float_float",
        "muon_write_transposed_float_bf16",
    );
    let of_bf16 =
        by_kind(x_nm.kind(), "muon_write_transposed_bf16_float", "muon_write_transposed_bf16_bf16");
    // SAFETY: as above.
    unsafe { launch(grad, by_kind(grad.kind(), of_float, of_bf16), tiles(rows, cols)?, &taken) }
}

/// A block for each tile: column_sums, rows.
fn tiles(rows: usize, cols: usize) -> Result<(u32, u32)> {
    let grid = (blocks(cols as i64, TILE), blocks(rows as i64, TILE));
    match grid.1 <= crate::cuda::MOST_GRID_Y {
        true => Ok(grid),
        false => Err(crate::cuda::too_large("rows of a matrix", rows as i64)),
    }
}

/// See [`crate::muon::sums_of_squares`].
pub(crate) fn sums_of_squares(
    o_rc: &Tensor,
    of_columns: bool,
    (rows, cols): (usize, usize),
) -> Result<Tensor> {
    check_float(o_rc, "a polar factor")?;
    check_int(rows.max(cols), "a side of a matrix")?;
    let count = if of_columns { cols } else { rows } as i64;
    let sums = Tensor::f_zeros([count], (Kind::Float, o_rc.device())).during(OP)?;
    let aligned = is_aligned(o_rc) && cols.is_multiple_of(8);
    let args =
        [o_rc.into(), (rows as i32).into(), (cols as i32).into(), aligned.into(), (&sums).into()];
    let (kernel, grid) = if of_columns {
        (
            by_kind(o_rc.kind(), "muon_sum_columns_float", "muon_sum_columns_bf16"),
            blocks(count, TILE),
        )
    } else {
        let rows_a_block = i64::from(THREADS / 32);
        (
            by_kind(o_rc.kind(), "muon_sum_rows_float", "muon_sum_rows_bf16"),
            blocks(count, rows_a_block),
        )
    };
    // SAFETY: the factor is dense, `[rows, cols]`; `sums` holds as many as there are rows or
    // columns.
    unsafe { launch(o_rc, kernel, (grid, 1), &args)? };
    Ok(sums)
}

/// See [`crate::muon::apply_update`], which has checked shapes and that no two tensors overlap.
pub(crate) fn apply_update(
    numbers: &UpdateArgs<'_>,
    o_nm: &Tensor,
    weight: &Weight<'_>,
    (rows, cols): (usize, usize),
) -> Result<()> {
    let device = o_nm.device();
    check_float(o_nm, "a polar factor")?;
    check_int(rows.max(cols), "a side of a matrix")?;
    let (form, weight, other) = crate::weight::cuda::parts(OP, weight, rows * cols, device)?;
    check_numbers(numbers.numbers, device)?;
    for factors in [numbers.row, numbers.col].into_iter().flatten() {
        check(factors, Kind::Float, device, "factors of a side")?;
    }
    let sides = [rows, cols].iter().all(|side| side.is_multiple_of(8));
    let aligned = sides && [o_nm, weight].into_iter().chain(other).all(is_aligned);
    let args = [
        numbers.row.into(),
        numbers.col.into(),
        numbers.numbers.into(),
        numbers.factor.into(),
        numbers.cautious.into(),
        o_nm.into(),
        weight.into(),
        other.into(),
        (rows as i32).into(),
        (cols as i32).into(),
        aligned.into(),
        (form as i32).into(),
    ];
    let kernel = by_kind(o_nm.kind(), "muon_apply_float", "muon_apply_bf16");
    // SAFETY: every tensor was checked by `parts`, here, or by the caller; `row` and `col` are
    // absent or as long as the sides.
    unsafe { launch(o_nm, kernel, tiles(rows, cols)?, &args) }
}
