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

#![expect(unsafe_code, reason = "calls of functions compiled for one instruction set")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::parallel;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor};
use half::bf16;

use crate::isa::{Isa, multiversioned};
use crate::slices::{self, Element};
use crate::weight::{
    Grad, MasterSlices, ResidualSlices, SingleSlices, Weight, WeightSlices, round_to_bf16,
    same_count,
};

const OP: &str = "Muon";
/// Values a task takes at a time where the order in memory does not matter.
const CHUNK: usize = 1 << 14;
/// Side of the squares in which a matrix is transposed, and rows of a task of [`apply_update`].
const TILE: usize = 32;
/// Independent sums, so that a loop becomes vector additions.
const LANES: usize = 16;

/// The numbers of one step that are equal for all matrices.
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
    /// How many they are.
    pub const COUNT: usize = 4;

    /// As a tensor holds them: FP32 `[4]`, in the order of the fields.
    pub fn to_array(self) -> [f32; Self::COUNT] {
        [self.one_minus_momentum, self.grad_scale, self.lr, self.decay_factor]
    }

    /// What a tensor on the CPU holds.
    fn read(numbers: &Tensor) -> Result<Self> {
        match *slices::read::<f32>(numbers, "the numbers of a step")? {
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

/// How [`momentum_update`] blends.
#[derive(Debug, Clone, Copy)]
pub struct MomentumArgs<'a> {
    /// The [`MuonKernelScalars`] of this step, read when it runs: FP32 `[4]`, on the device of all.
    pub numbers: &'a Tensor,
    /// Look ahead by one step of momentum.
    pub nesterov: bool,
    /// The update is divided by this times its norm.
    pub norm_factor: f64,
}

/// [`MomentumArgs`] with its numbers at hand.
#[derive(Clone, Copy)]
struct Momentum {
    one_minus_momentum: f32,
    grad_scale: f32,
    nesterov: bool,
}

/// A dtype of updates and polar factors.
trait Number: Element + Grad {
    fn round(value: f32) -> Self;
}

impl Number for f32 {
    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn round(value: f32) -> Self {
        bf16::from_bits(round_to_bf16(value))
    }
}

/// Whether a matrix of this shape lies transposed in a stack.
fn is_transposed(rows: usize, cols: usize) -> bool {
    rows > cols
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
    if let Device::Cuda(_) = grad.device() {
        let (rows, cols) = check_momentum(grad, momentum, x_nm)?;
        return crate::cuda::muon::momentum_update(args, grad, momentum, x_nm, (rows, cols));
    }
    match (grad.kind(), x_nm.kind()) {
        (Kind::BFloat16, Kind::BFloat16) => momentum_with::<bf16, bf16>(args, grad, momentum, x_nm),
        (Kind::BFloat16, _) => momentum_with::<bf16, f32>(args, grad, momentum, x_nm),
        (_, Kind::BFloat16) => momentum_with::<f32, bf16>(args, grad, momentum, x_nm),
        _ => momentum_with::<f32, f32>(args, grad, momentum, x_nm),
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

fn momentum_with<G: Grad + Element, O: Number>(
    args: &MomentumArgs<'_>,
    grad: &Tensor,
    momentum: &mut Tensor,
    x_nm: &mut Tensor,
) -> Result<()> {
    let (rows, cols) = check_momentum(grad, momentum, x_nm)?;
    let transposed = is_transposed(rows, cols);
    let grad: &[G] = slices::read(grad, "a gradient")?;
    let momentum: &mut [f32] = slices::write(momentum, "a momentum")?;
    let x: &mut [O] = slices::write(x_nm, "an update")?;
    let MuonKernelScalars { one_minus_momentum, grad_scale, .. } =
        MuonKernelScalars::read(args.numbers)?;
    let (isa, norm_factor) = (Isa::fastest(), args.norm_factor);
    let args = &Momentum { one_minus_momentum, grad_scale, nesterov: args.nesterov };
    // Summed in order, so that the result does not depend on the threads.
    let chunks = momentum.chunks_mut(CHUNK).zip(grad.chunks(CHUNK)).collect();
    let sums = parallel::map_of(chunks, |(m, g)| move_momentum(isa, args, g, m));
    let norm = sums.iter().sum::<f64>().sqrt() * norm_factor;
    let inverse = (1.0 / norm.max(f64::from(f32::MIN_POSITIVE))) as f32;
    let momentum = &*momentum;
    if transposed {
        let bands = x.chunks_mut(TILE * rows).enumerate().collect();
        parallel::for_each_of(bands, |(band, x)| {
            let from = TransposedBand { grad, momentum, rows, cols, col: band * TILE };
            write_transposed(isa, args, inverse, &from, x);
        });
    } else {
        let from = momentum.chunks(CHUNK).zip(grad.chunks(CHUNK));
        let chunks = x.chunks_mut(CHUNK).zip(from).collect();
        parallel::for_each_of(chunks, |(x, (m, g))| write_update(isa, args, inverse, g, m, x));
    }
    Ok(())
}

impl Momentum {
    /// A gradient's value, scaled.
    #[inline(always)]
    fn scaled(&self, g: f32) -> f32 {
        if self.grad_scale == 0.0 { 0.0 } else { g * self.grad_scale }
    }

    /// The update from the momentum already moved.
    #[inline(always)]
    fn update(&self, g: f32, m: f32) -> f32 {
        if self.nesterov { m - self.one_minus_momentum * (m - self.scaled(g)) } else { m }
    }
}

#[inline(always)]
fn move_momentum_body<G: Grad>(args: &Momentum, grad: &[G], momentum: &mut [f32]) -> f64 {
    let args = *args;
    let mut total = 0.0;
    // Sums of few squares at a time, so that FP32 lanes hold them to their last bits.
    for (grad, momentum) in grad.chunks(CHUNK / 16).zip(momentum.chunks_mut(CHUNK / 16)) {
        let mut sums = [0f64; LANES];
        let mut add = |lane: usize, g: G, m: &mut f32| {
            *m += args.one_minus_momentum * (args.scaled(g.widen()) - *m);
            let u = f64::from(args.update(g.widen(), *m));
            sums[lane] += u * u;
        };
        for (grad, momentum) in grad.chunks(LANES).zip(momentum.chunks_mut(LANES)) {
            for (lane, (&g, m)) in grad.iter().zip(momentum).enumerate() {
                add(lane, g, m);
            }
        }
        total += sums.iter().sum::<f64>();
    }
    total
}

multiversioned! {
    /// Moves the momentum; returns the sum of squares of the update.
    fn move_momentum[G: Grad][G](args: &Momentum, grad: &[G], momentum: &mut [f32]) -> f64
        = move_momentum_body
}

#[inline(always)]
fn write_update_body<G: Grad, O: Number>(
    args: &Momentum,
    inverse: f32,
    grad: &[G],
    momentum: &[f32],
    x: &mut [O],
) {
    let args = *args;
    for ((x, &g), &m) in x.iter_mut().zip(grad).zip(momentum) {
        *x = O::round(args.update(g.widen(), m) * inverse);
    }
}

multiversioned! {
    /// Writes the update, scaled.
    fn write_update[G: Grad, O: Number][G, O](
        args: &Momentum, inverse: f32, grad: &[G], momentum: &[f32], x: &mut [O],
    ) = write_update_body
}

/// A matrix of which a band of columns, from `col` on, is written as rows.
struct TransposedBand<'a, G> {
    grad: &'a [G],
    momentum: &'a [f32],
    rows: usize,
    cols: usize,
    col: usize,
}

#[inline(always)]
fn write_transposed_body<G: Grad, O: Number>(
    args: &Momentum,
    inverse: f32,
    from: &TransposedBand<'_, G>,
    x: &mut [O],
) {
    let args = *args;
    let width = TILE.min(from.cols - from.col);
    let mut tile = [[0f32; TILE]; TILE];
    for row in (0..from.rows).step_by(TILE) {
        let height = TILE.min(from.rows - row);
        for (i, tile) in tile.iter_mut().enumerate().take(height) {
            let start = (row + i) * from.cols + from.col;
            let values = from.grad[start..][..width].iter().zip(&from.momentum[start..][..width]);
            for (value, (&g, &m)) in tile.iter_mut().zip(values) {
                *value = args.update(g.widen(), m) * inverse;
            }
        }
        for (j, x) in x.chunks_mut(from.rows).enumerate().take(width) {
            for (x, tile) in x[row..][..height].iter_mut().zip(&tile) {
                *x = O::round(tile[j]);
            }
        }
    }
}

multiversioned! {
    /// Writes a band of the transposed update, scaled.
    fn write_transposed[G: Grad, O: Number][G, O](
        args: &Momentum, inverse: f32, from: &TransposedBand<'_, G>, x: &mut [O],
    ) = write_transposed_body
}

/// Sums of squares of `o_rc`'s rows, one each, or with `of_columns` of its columns. FP32 or BF16,
/// dense. FP32, on the same device, which the host does not wait for. The same bits for any thread
/// count.
///
/// # Errors
/// Another dtype, device, layout or number of axes.
pub fn sums_of_squares(o_rc: &Tensor, of_columns: bool) -> Result<Tensor> {
    if let Device::Cuda(_) = o_rc.device() {
        return crate::cuda::muon::sums_of_squares(o_rc, of_columns, shape(o_rc)?);
    }
    let sums = match o_rc.kind() {
        Kind::BFloat16 => sums_with::<bf16>(o_rc, of_columns),
        _ => sums_with::<f32>(o_rc, of_columns),
    };
    Tensor::f_from_slice(&sums?).during(OP)
}

fn sums_with<O: Number>(o_rc: &Tensor, of_columns: bool) -> Result<Vec<f32>> {
    let (_, cols) = shape(o_rc)?;
    let o: &[O] = slices::read(o_rc, "a polar factor")?;
    let isa = Isa::fastest();
    if !of_columns {
        let bands = o.chunks(TILE * cols.max(1)).collect();
        let sums_of = |band: &[O]| -> Vec<f32> {
            band.chunks(cols.max(1)).map(|row| sum_row(isa, row)).collect()
        };
        return Ok(parallel::map_of(bands, sums_of).concat());
    }
    let bands = o.chunks(TILE * cols.max(1)).collect();
    let parts = parallel::map_of(bands, |rows: &[O]| {
        let mut sums = vec![0f32; cols];
        rows.chunks(cols.max(1)).for_each(|row| add_squares(isa, row, &mut sums));
        sums
    });
    let mut total = vec![0f32; cols];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
    }
    Ok(total)
}

#[inline(always)]
fn sum_row_body<O: Number>(row: &[O]) -> f32 {
    let mut sums = [0f32; LANES];
    for values in row.chunks(LANES) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value.widen() * value.widen();
        }
    }
    sums.iter().sum()
}

multiversioned! {
    /// Sum of squares.
    fn sum_row[O: Number][O](row: &[O]) -> f32 = sum_row_body
}

#[inline(always)]
fn add_squares_body<O: Number>(row: &[O], sums: &mut [f32]) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += value.widen() * value.widen();
    }
}

multiversioned! {
    /// Adds squares to sums.
    fn add_squares[O: Number][O](row: &[O], sums: &mut [f32]) = add_squares_body
}

/// How [`apply_update`] moves a weight.
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

/// [`UpdateArgs`] with its numbers at hand.
struct UpdateFactors<'a> {
    row: &'a [f32],
    col: &'a [f32],
    step: f32,
    decay_factor: f32,
    cautious: bool,
}

/// `p = p decay_factor - step row[r] col[c] o`, and the working weight written beside it. `weight` is
/// `[rows, cols]`, `o_nm` the same, or transposed if there are more rows than columns; FP32 or
/// BF16, dense. The same bits for any thread count.
///
/// # Errors
/// Other shapes, dtypes, devices or layouts, or two that share memory; nothing is changed then.
pub fn apply_update(numbers: &UpdateArgs<'_>, o_nm: &Tensor, weight: Weight<'_>) -> Result<()> {
    if let Device::Cuda(_) = o_nm.device() {
        let sides = check_update(numbers, o_nm, &weight)?;
        return crate::cuda::muon::apply_update(numbers, o_nm, &weight, sides);
    }
    match o_nm.kind() {
        Kind::BFloat16 => apply_with::<bf16>(numbers, o_nm, weight),
        _ => apply_with::<f32>(numbers, o_nm, weight),
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

fn apply_with<O: Number>(
    numbers: &UpdateArgs<'_>,
    o_nm: &Tensor,
    weight: Weight<'_>,
) -> Result<()> {
    let (rows, cols) = check_update(numbers, o_nm, &weight)?;
    let MuonKernelScalars { lr, decay_factor, .. } = MuonKernelScalars::read(numbers.numbers)?;
    let ones = vec![1.0; rows.max(cols)];
    let side = |factors: Option<_>, count: usize| match factors {
        None => Ok(&ones[..count]),
        Some(factors) => slices::read(factors, "factors of a side"),
    };
    let (row, col) = (side(numbers.row, rows)?, side(numbers.col, cols)?);
    let (step, cautious) = (lr * numbers.factor, numbers.cautious);
    let numbers = &UpdateFactors { row, col, step, decay_factor, cautious };
    let o: &[O] = slices::read(o_nm, "a polar factor")?;
    let count = rows * cols;
    match weight {
        Weight::Single(weight) => {
            let weight = slices::write(weight, "a weight")?;
            same_count(OP, count, weight.len(), "weight")?;
            apply_to(numbers, o, SingleSlices(weight));
        }
        Weight::Master { master, weight } => {
            let master = slices::write(master, "a master weight")?;
            let weight = slices::write(weight, "a weight")?;
            same_count(OP, count, master.len(), "master weight")?;
            same_count(OP, count, weight.len(), "weight")?;
            apply_to(numbers, o, MasterSlices { master, weight });
        }
        Weight::Bf16Residual { weight, residual: low } => {
            let weight = slices::write(weight, "a weight")?;
            let low = slices::write(low, "low bits of a weight")?;
            same_count(OP, count, weight.len(), "weight")?;
            same_count(OP, count, low.len(), "low bits")?;
            apply_to(numbers, o, ResidualSlices { weight, low });
        }
    }
    Ok(())
}

fn apply_to<O: Number, W: WeightSlices>(numbers: &UpdateFactors<'_>, o: &[O], mut weight: W) {
    let (rows, cols) = (numbers.row.len(), numbers.col.len());
    let isa = Isa::fastest();
    let mut bands = Vec::with_capacity(rows.div_ceil(TILE));
    for row in (0..rows).step_by(TILE) {
        let (band, rest) = weight.split_at(TILE.min(rows - row) * cols);
        bands.push((row, band));
        weight = rest;
    }
    parallel::for_each_of(bands, |(row, mut band)| {
        if is_transposed(rows, cols) {
            apply_transposed(isa, numbers, o, row, &mut band);
        } else {
            apply_straight(isa, numbers, o, row, &mut band);
        }
    });
}

/// One row of a band: `values` are its part of `o`, from `col` on.
#[inline(always)]
fn apply_row<W: WeightSlices, const CAUTIOUS: bool>(
    numbers: &UpdateFactors<'_>,
    at: (usize, usize, usize),
    values: impl Iterator<Item = f32>,
    band: &mut W,
) {
    let (row, start, col) = at;
    let factor = numbers.step * numbers.row[row];
    for (i, (o, column)) in values.zip(&numbers.col[col..]).enumerate() {
        let u = factor * column * o;
        let p = band.load(start + i);
        let decay_factor = if CAUTIOUS && u * p < 0.0 { 1.0 } else { numbers.decay_factor };
        band.store(start + i, p * decay_factor - u);
    }
}

#[inline(always)]
fn apply_straight_body<O: Number, W: WeightSlices>(
    numbers: &UpdateFactors<'_>,
    o: &[O],
    first: usize,
    band: &mut W,
) {
    let cols = numbers.col.len();
    let height = TILE.min(numbers.row.len() - first);
    for i in 0..height {
        let row = first + i;
        let values = o[row * cols..][..cols].iter().map(|o| o.widen());
        if numbers.cautious {
            apply_row::<W, true>(numbers, (row, i * cols, 0), values, band);
        } else {
            apply_row::<W, false>(numbers, (row, i * cols, 0), values, band);
        }
    }
}

multiversioned! {
    /// Applies a band of rows of a factor that lies as the weight does.
    fn apply_straight[O: Number, W: WeightSlices][O, W](
        numbers: &UpdateFactors<'_>, o: &[O], first: usize, band: &mut W,
    ) = apply_straight_body
}

#[inline(always)]
fn apply_transposed_body<O: Number, W: WeightSlices>(
    numbers: &UpdateFactors<'_>,
    o: &[O],
    first: usize,
    band: &mut W,
) {
    let (rows, cols) = (numbers.row.len(), numbers.col.len());
    let height = TILE.min(rows - first);
    let mut tile = [[0f32; TILE]; TILE];
    for col in (0..cols).step_by(TILE) {
        let width = TILE.min(cols - col);
        for j in 0..width {
            let column = &o[(col + j) * rows + first..][..height];
            for (tile, o) in tile.iter_mut().zip(column) {
                tile[j] = o.widen();
            }
        }
        for (i, tile) in tile.iter().enumerate().take(height) {
            let (row, values) = (first + i, tile[..width].iter().copied());
            let at = (row, i * cols + col, col);
            if numbers.cautious {
                apply_row::<W, true>(numbers, at, values, band);
            } else {
                apply_row::<W, false>(numbers, at, values, band);
            }
        }
    }
}

multiversioned! {
    /// Applies a band of rows of a factor that lies transposed.
    fn apply_transposed[O: Number, W: WeightSlices][O, W](
        numbers: &UpdateFactors<'_>, o: &[O], first: usize, band: &mut W,
    ) = apply_transposed_body
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
        tensors[i + 1..].iter().any(|other| slices::overlap(tensor, other))
    };
    if tensors.iter().enumerate().any(shares) {
        let reason = "two of its tensors share memory".into();
        return Err(Error::Unsupported { what: "a pass of Muon".into(), reason });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [(i64, i64); 6] = [(1, 1), (3, 70), (70, 3), (64, 64), (100, 37), (37, 100)];

    fn numbers(one_minus_momentum: f32, grad_scale: f32) -> Tensor {
        let scalars =
            MuonKernelScalars { one_minus_momentum, grad_scale, lr: 2.0, decay_factor: 0.9 };
        Tensor::from_slice(&scalars.to_array())
    }

    #[test]
    fn a_factor_of_0_hides_what_is_not_finite() {
        let numbers = &numbers(0.0, 0.0);
        for nesterov in [false, true] {
            let args = MomentumArgs { numbers, nesterov, norm_factor: 1.0 };
            let (g, m) = (random(20, 30, Kind::Float) * f64::NAN, random(20, 30, Kind::Float));
            let (mut moved, mut x) = (m.copy(), m.zeros_like());
            momentum_update(&args, &g, &mut moved, &mut x).unwrap();
            let norm = f64::try_from(double(&x).norm()).unwrap();
            assert!(moved.equal(&m) && (norm - 1.0).abs() < 1e-5, "{norm}");
        }
    }

    fn random(rows: i64, cols: i64, kind: Kind) -> Tensor {
        Tensor::randn([rows, cols], (Kind::Float, Device::Cpu)).to_kind(kind)
    }

    fn double(tensor: &Tensor) -> Tensor {
        tensor.to_kind(Kind::Double)
    }

    fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
        let error = (double(found) - expected).abs().max() / expected.abs().max().clamp_min(1e-30);
        let error = f64::try_from(error).unwrap();
        assert!(error < tolerance, "{what}: off by {error}");
    }

    /// The matrix as it lies in a stack.
    fn stacked(matrix: &Tensor) -> Tensor {
        let (rows, cols) = matrix.size2().unwrap();
        if rows > cols { matrix.tr().contiguous() } else { matrix.copy() }
    }

    #[test]
    fn gathers_what_the_formula_says() {
        let kinds = [Kind::Float, Kind::BFloat16];
        for (rows, cols) in SHAPES {
            for (grad_kind, kind, nesterov) in kinds
                .into_iter()
                .flat_map(|grad| kinds.map(|kind| (grad, kind)))
                .flat_map(|(grad, kind)| [true, false].map(|nesterov| (grad, kind, nesterov)))
            {
                let numbers = &numbers(0.1, 0.5);
                let args = MomentumArgs { numbers, nesterov, norm_factor: 1.02 };
                let g = random(rows, cols, grad_kind);
                let mut m = random(rows, cols, Kind::Float);
                let scaled = double(&g) * 0.5;
                let moved = double(&m) + (&scaled - double(&m)) * f64::from(0.1f32);
                let u = if nesterov {
                    &scaled * f64::from(0.1f32) + &moved * (1.0 - f64::from(0.1f32))
                } else {
                    moved.copy()
                };
                let expected = stacked(&(&u / (u.norm() * 1.02)));
                let mut x = Tensor::zeros(expected.size(), (kind, Device::Cpu));
                momentum_update(&args, &g, &mut m, &mut x).unwrap();
                let what = format!("{rows}x{cols} {grad_kind:?} {kind:?}");
                assert_close(&m, &moved, 1e-6, &what);
                assert_close(&x, &expected, if kind == Kind::Float { 1e-6 } else { 5e-3 }, &what);
            }
        }
    }

    #[test]
    fn zero_and_extreme_updates_stay_finite() {
        let numbers = &numbers(0.05, 1.0);
        let args = MomentumArgs { numbers, nesterov: true, norm_factor: 1.0 };
        for scale in [0.0, 1e-30, 1e30] {
            let g = random(20, 30, Kind::Float) * scale;
            let (mut m, mut x) = (g.zeros_like(), g.zeros_like());
            momentum_update(&args, &g, &mut m, &mut x).unwrap();
            let norm = f64::try_from(double(&x).norm()).unwrap();
            let expected = if scale == 0.0 { 0.0 } else { 1.0 };
            assert!((norm - expected).abs() < 1e-5, "{scale}: {norm}");
        }
    }

    #[test]
    fn sums_squares_of_rows_and_columns() {
        for (rows, cols) in SHAPES {
            for kind in [Kind::Float, Kind::BFloat16] {
                let o = random(rows, cols, kind);
                for of_columns in [false, true] {
                    let axis = i64::from(!of_columns);
                    let expected = double(&o).square().sum_dim_intlist(axis, false, Kind::Double);
                    let found = sums_of_squares(&o, of_columns).unwrap();
                    assert_close(&found, &expected, 1e-6, &format!("{rows}x{cols} {kind:?}"));
                }
            }
        }
    }

    #[test]
    fn applies_to_every_form_of_weight() {
        for (rows, cols) in SHAPES {
            for (kind, cautious) in [(Kind::Float, false), (Kind::BFloat16, true)] {
                let (o, p) = (random(rows, cols, kind), random(rows, cols, Kind::Float));
                let (row, col) = (random(rows, 1, Kind::Float), random(1, cols, Kind::Float).abs());
                let u = double(&o) * double(&row) * double(&col) * 0.5;
                let agree =
                    if cautious { (&u * double(&p)).ge(0.0) } else { p.ones_like().ge(0.0) };
                let decay_factor = double(&agree) * (f64::from(0.9f32) - 1.0) + 1.0;
                let expected = double(&p) * decay_factor - u;
                let (numbers, row, col) = (&numbers(0.1, 1.0), Some(&row), Some(&col));
                let numbers = UpdateArgs { numbers, factor: 0.25, row, col, cautious };
                let o = stacked(&o);
                let mut single = p.copy();
                apply_update(&numbers, &o, Weight::Single(&mut single)).unwrap();
                assert_close(&single, &expected, 1e-6, &format!("{rows}x{cols} {kind:?}"));

                let (mut master, mut weight) = (p.copy(), p.to_kind(Kind::BFloat16));
                let both = Weight::Master { master: &mut master, weight: &mut weight };
                apply_update(&numbers, &o, both).unwrap();
                assert!(master.equal(&single) && weight.equal(&single.to_kind(Kind::BFloat16)));

                let (mut weight, mut low) = crate::weight::split_tensor(&p).unwrap();
                apply_update(
                    &numbers,
                    &o,
                    Weight::Bf16Residual { weight: &mut weight, residual: &mut low },
                )
                .unwrap();
                assert!(crate::weight::join_tensor(&weight, &low).unwrap().equal(&single));
            }
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let numbers = &numbers(0.1, 1.0);
        let args = MomentumArgs { numbers, nesterov: true, norm_factor: 1.0 };
        let g = random(4, 8, Kind::Float);
        let (mut m, mut x) = (random(4, 8, Kind::Float), random(8, 4, Kind::Float));
        assert!(momentum_update(&args, &g, &mut m, &mut x).is_err());
        let mut alias = m.shallow_clone();
        assert!(momentum_update(&args, &g, &mut m, &mut alias).is_err());
        let numbers = UpdateArgs { numbers, factor: 1.0, row: None, col: None, cautious: false };
        assert!(apply_update(&numbers, &x, Weight::Single(&mut m)).is_err());
        assert!(apply_update(&numbers, &alias, Weight::Single(&mut m)).is_err());
    }
}
