//! Matrices as packed integers.
//!
//! Packed, the vectors along which a product sums, rows or columns, lie in panels of sixteen. A
//! line of a panel holds four values of each of its vectors, side by side. Missing vectors and
//! values are 0. Rows of a left operand and columns of a right one look the same, so that one
//! form serves all products of a linear map.
//!
//! Floor for a value: its 2 or 4 bytes are read, and 1 is written, each time it is packed. By rows
//! and columns both, it is read twice, as a column's largest magnitude is known at the end.

#![expect(unsafe_code, reason = "panels of one result written by many")]

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::int8::Int8Rounding;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor, parallel};
use half::bf16;

use super::MOST;
use super::pack::{PackingTask, largest_on, pack_columns_on, pack_rows_on, raise_on};
use crate::cpu::isa::Isa;
use crate::cpu::number::{CacheLine, Number};
use crate::cpu::views::{self, SharedSlice};

const OP: &str = "8-bit integers";

/// Vectors of a panel.
pub(super) const PANEL: usize = 16;

/// Values of a vector in a line.
pub(super) const GROUP: usize = 4;

/// Panels of columns that a task packs, so that it reads whole cache lines.
const BLOCK: usize = 4;

/// Groups of rows that a task packs of each of its panels in turn: what it reads of a cache line
/// for one panel is still near for the next. All panels of one group after the other were slower,
/// 16 against 19 GB/s of FP32.
const GROUPS: usize = 32;

/// Rows whose largest magnitudes a task looks for.
const ROWS: usize = 128;

/// Along what the products sum for which a matrix is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Orientation {
    /// Along rows: a factor a row.
    Rows,
    /// Along columns: a factor a column.
    Columns,
}

/// Vectors of integers, packed, and what brings them back.
#[derive(Debug)]
pub struct Quantized {
    /// `u8`, panels by lines by 64.
    pub(super) lines: Tensor,
    /// FP32, a factor a vector.
    pub(super) inverse: Tensor,
    /// `i32`, the sum of each vector's integers.
    pub(super) sums: Tensor,
    /// Values of a vector.
    pub(super) inner: i64,
}

impl Quantized {
    /// A second handle on the same memory.
    pub fn shallow_clone(&self) -> Self {
        let [lines, inverse, sums] =
            [&self.lines, &self.inverse, &self.sums].map(Tensor::shallow_clone);
        Self { lines, inverse, sums, inner: self.inner }
    }

    /// Number of vectors.
    pub fn vectors(&self) -> i64 {
        self.inverse.numel() as i64
    }

    /// Values of a vector.
    pub fn inner(&self) -> i64 {
        self.inner
    }

    /// What brings each vector back, FP32.
    pub fn inverse(&self) -> &Tensor {
        &self.inverse
    }

    /// The integers, `i8` `[vectors, inner]`.
    ///
    /// # Errors
    /// What libtorch throws.
    pub fn values(&self) -> Result<Tensor> {
        let groups = self.inner.max(0) as usize;
        let groups = groups.div_ceil(GROUP) as i64;
        let shape = [-1, groups, PANEL as i64, GROUP as i64];
        let rows = self.lines.f_view_dtype(Kind::Int8).during(OP)?.f_view(shape).during(OP)?;
        let rows = rows.f_permute([0, 2, 1, 3]).during(OP)?;
        let rows = rows.f_reshape([-1, groups * GROUP as i64]).during(OP)?;
        let rows = rows.f_narrow(0, 0, self.vectors()).during(OP)?;
        rows.f_narrow(1, 0, self.inner).during(OP)
    }

    /// Room for `vectors` of `inner` values.
    fn empty(vectors: usize, inner: usize) -> Result<Self> {
        let (panels, groups) = (vectors.div_ceil(PANEL), inner.div_ceil(GROUP));
        let empty = |shape: &[i64], kind| Tensor::f_empty(shape, (kind, Device::Cpu)).during(OP);
        Ok(Self {
            lines: empty(&[panels as i64, groups as i64, 64], Kind::Uint8)?,
            inverse: empty(&[vectors as i64], Kind::Float)?,
            sums: empty(&[vectors as i64], Kind::Int)?,
            inner: inner as i64,
        })
    }

    /// The packed lines.
    pub(super) fn lines(&self) -> Result<&[CacheLine]> {
        let bytes: &[u8] = views::read(&self.lines, "packed integers")?;
        bytemuck::try_cast_slice(bytes).map_err(|_| misaligned())
    }
}

fn misaligned() -> Error {
    Error::Unsupported {
        what: "packed integers".into(),
        reason: "libtorch's memory does not begin at a cache line".into(),
    }
}

/// `x_rc`, dense, FP32 or BF16, packed in each orientation that is asked for.
///
/// # Errors
/// Another dtype, number of axes, device or layout.
pub fn quantize<const N: usize>(
    x_rc: &Tensor,
    orientations: [Orientation; N],
    rounding: Int8Rounding,
) -> Result<[Quantized; N]> {
    quantize_on(Isa::fastest(), x_rc, orientations, rounding)
}

/// [`quantize`] on an instruction set of [`Isa::available`].
pub(super) fn quantize_on<const N: usize>(
    isa: Isa,
    x_rc: &Tensor,
    orientations: [Orientation; N],
    rounding: Int8Rounding,
) -> Result<[Quantized; N]> {
    let [rows, cols] = x_rc.size()[..] else {
        let (found, expected) = (x_rc.size(), "two axes".into());
        return Err(Error::Shape { op: OP, tensor: "the matrix", found, expected });
    };
    let task = PackingTask { isa, rows: rows as usize, cols: cols as usize, rounding };
    let what = "a matrix to make integers of";
    match x_rc.kind() {
        Kind::BFloat16 => task.run::<bf16, N>(views::read(x_rc, what)?, orientations),
        _ => task.run::<f32, N>(views::read(x_rc, what)?, orientations),
    }
}

/// Where results go.
struct Out<'a> {
    lines: SharedSlice<'a, CacheLine>,
    inverse: SharedSlice<'a, f32>,
    sums: SharedSlice<'a, i32>,
}

impl PackingTask {
    fn run<T: Number, const N: usize>(
        self,
        x: &[T],
        orientations: [Orientation; N],
    ) -> Result<[Quantized; N]> {
        let mut packed = Vec::with_capacity(N);
        for orientation in orientations {
            packed.push(match orientation {
                Orientation::Rows => self.by_rows(x)?,
                Orientation::Columns => self.by_columns(x)?,
            });
        }
        packed.try_into().map_err(|_| misaligned())
    }

    fn by_rows<T: Number>(self, x: &[T]) -> Result<Quantized> {
        let Self { rows, cols, .. } = self;
        let mut packed = Quantized::empty(rows, cols)?;
        let groups = cols.div_ceil(GROUP);
        with_out(&mut packed, |out| {
            parallel::for_each(rows.div_ceil(PANEL), |panel| {
                let first = panel * PANEL;
                let count = PANEL.min(rows - first);
                let x = &x[first * cols..][..count * cols];
                // SAFETY: each panel is one task's.
                let (lines, inverse, sums) = unsafe {
                    let lines = out.lines.part(panel * groups, groups);
                    (lines, out.inverse.part(first, count), out.sums.part(first, count))
                };
                let mut factors = [0.0; PANEL];
                for (row, factor) in factors.iter_mut().enumerate().take(count) {
                    let largest = largest_on(self.isa, &x[row * cols..][..cols]);
                    (*factor, inverse[row]) = factor_of(largest);
                }
                pack_rows_on(self.isa, self, x, first, &factors, (lines, sums));
            });
        })?;
        Ok(packed)
    }

    fn by_columns<T: Number>(self, x: &[T]) -> Result<Quantized> {
        let Self { isa, rows, cols, .. } = self;
        let largest = parallel::map(rows.div_ceil(ROWS), |block| {
            let x = &x[block * ROWS * cols..][..ROWS.min(rows - block * ROWS) * cols];
            let mut largest = vec![0; cols];
            raise_on(isa, x, &mut largest);
            largest
        });
        let largest = largest.into_iter().reduce(|mut all, part| {
            all.iter_mut().zip(part).for_each(|(all, part)| *all = part.max(*all));
            all
        });
        let largest = largest.unwrap_or_else(|| vec![0; cols]);
        let mut packed = Quantized::empty(cols, rows)?;
        let (panels, groups) = (cols.div_ceil(PANEL), rows.div_ceil(GROUP));
        with_out(&mut packed, |out| {
            parallel::for_each(panels.div_ceil(BLOCK), |block| {
                let block = block * BLOCK..panels.min((block + 1) * BLOCK);
                let columns = |panel: usize| panel * PANEL..cols.min((panel + 1) * PANEL);
                let mut factors = [[0.0; PANEL]; BLOCK];
                for (panel, factors) in block.clone().zip(&mut factors) {
                    let columns = columns(panel);
                    // SAFETY: each panel is one task's.
                    let (inverse, sums) = unsafe {
                        let (first, count) = (columns.start, columns.len());
                        (out.inverse.part(first, count), out.sums.part(first, count))
                    };
                    sums.fill(0);
                    let found = columns.map(|col| factor_of(largest[col]));
                    for ((found, factor), inverse) in found.zip(factors).zip(inverse) {
                        (*factor, *inverse) = found;
                    }
                }
                for begin in (0..groups).step_by(GROUPS) {
                    let count = GROUPS.min(groups - begin);
                    for (panel, factors) in block.clone().zip(&factors) {
                        let columns = columns(panel);
                        // SAFETY: as above.
                        let to = unsafe {
                            let lines = out.lines.part(panel * groups + begin, count);
                            (lines, out.sums.part(columns.start, columns.len()))
                        };
                        pack_columns_on(isa, self, x, (begin, columns.start), factors, to);
                    }
                }
            });
        })?;
        Ok(packed)
    }
}

/// Lends the memory of `packed` out, to be written.
fn with_out(packed: &mut Quantized, write: impl FnOnce(Out<'_>)) -> Result<()> {
    let bytes: &mut [u8] = views::write(&mut packed.lines, "packed integers")?;
    let lines = bytemuck::try_cast_slice_mut(bytes).map_err(|_| misaligned())?;
    write(Out {
        lines: SharedSlice::new(lines),
        inverse: SharedSlice::new(views::write(&mut packed.inverse, "inverse factors")?),
        sums: SharedSlice::new(views::write(&mut packed.sums, "sums of integers")?),
    });
    Ok(())
}

/// What a vector with this largest magnitude, as bits, is multiplied with, and what brings it back.
/// That is NaN if a value was not finite.
fn factor_of(largest: u32) -> (f32, f32) {
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        return (0.0, f32::NAN);
    }
    // What is less has no factor that is finite, and becomes 0.
    let factor = if largest < MOST * f32::MIN_POSITIVE { 0.0 } else { MOST / largest };
    (factor, largest / MOST)
}
