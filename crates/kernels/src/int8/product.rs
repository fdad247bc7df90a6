//! Products of packed integers.
//!
//! A task owns a block of the result. Tiles of it stay in registers over the whole inner dimension
//! and leave them as floats: multiplied with the factors of both sides, the bias added, rounded
//! to the result's dtype. No integer sum is written to memory.
//!
//! Floor: `m n k` products of bytes, of which AVX2 makes 24 a cycle on Intel's cores and 8 to 32 on
//! AMD's, VNNI on 256 bits 64, on 512 bits 64 to 128.

#![expect(unsafe_code, reason = "vector instructions, and blocks of one result written by many")]

use std::mem::MaybeUninit;

use bert4rs_tensor_core::error::Context;
use bert4rs_tensor_core::{Device, Error, Kind, Result, Tensor, parallel};
use half::bf16;

use super::dots::{DotIsa, Dots, Plain};
use super::quantize::{PANEL, Quantized};
use super::{MOST_TERMS, dots};
use crate::cpu::number::{CacheLine, Number};
use crate::cpu::views::{self, SharedSlice};

const OP: &str = "8-bit integer product";

/// Panels of rows and of columns of a task's block.
const BLOCK: [usize; 2] = [4, 16];

/// Columns of a tile at most: two panels.
const MOST_COLS: usize = 2 * PANEL;

/// `a bᵀ`, plus `bias`, rounded once to `kind`, FP32 or BF16: of `m` and `n` vectors, `[m, n]`.
///
/// # Errors
/// Vectors of unlike lengths, or of more than [`MOST_TERMS`] values, a bias of another length, and
/// what libtorch throws.
pub fn product(a: &Quantized, b: &Quantized, bias: Option<&Tensor>, kind: Kind) -> Result<Tensor> {
    product_on(DotIsa::fastest(), a, b, bias, kind)
}

/// [`product`] on an instruction set of [`DotIsa::available`].
pub(super) fn product_on(
    isa: DotIsa,
    a: &Quantized,
    b: &Quantized,
    bias: Option<&Tensor>,
    kind: Kind,
) -> Result<Tensor> {
    let refuse = |tensor, found, expected| Err(Error::Shape { op: OP, tensor, found, expected });
    if a.inner != b.inner || a.inner > MOST_TERMS {
        let expected = format!("{} values a vector, at most {MOST_TERMS}", a.inner);
        return refuse("right operand", vec![b.vectors(), b.inner], expected);
    }
    if let Some(bias) = bias.filter(|bias| bias.size() != [b.vectors()]) {
        return refuse("bias", bias.size(), format!("[{}]", b.vectors()));
    }
    let bias = bias.map(|bias| bias.f_to_kind(Kind::Float).and_then(|bias| bias.f_contiguous()));
    let bias = bias.transpose().during(OP)?;
    let mut out = Tensor::f_empty([a.vectors(), b.vectors()], (kind, Device::Cpu)).during(OP)?;
    match kind {
        Kind::BFloat16 => run::<bf16>(isa, a, b, bias.as_ref(), &mut out)?,
        _ => run::<f32>(isa, a, b, bias.as_ref(), &mut out)?,
    }
    Ok(out)
}

/// Packed vectors as slices.
#[derive(Clone, Copy)]
struct Operand<'a> {
    lines: &'a [CacheLine],
    inverse: &'a [f32],
    sums: &'a [i32],
    /// Lines of a panel.
    groups: usize,
}

impl<'a> Operand<'a> {
    fn of(quantized: &'a Quantized) -> Result<Self> {
        let lines = quantized.lines()?;
        let inverse: &[f32] = views::read(&quantized.inverse, "inverse factors")?;
        let groups = lines.len().checked_div(inverse.len().div_ceil(PANEL)).unwrap_or(0);
        let sums = views::read(&quantized.sums, "sums of integers")?;
        Ok(Self { lines, inverse, sums, groups })
    }

    fn panels(&self) -> usize {
        self.inverse.len().div_ceil(PANEL)
    }

    fn panel(&self, panel: usize) -> &'a [CacheLine] {
        &self.lines[panel * self.groups..][..self.groups]
    }
}

/// All that tasks share.
struct Product<'a, O> {
    left: Operand<'a>,
    right: Operand<'a>,
    bias: Option<&'a [f32]>,
    out: SharedSlice<'a, O>,
}

fn run<O: Number>(
    isa: DotIsa,
    a: &Quantized,
    b: &Quantized,
    bias: Option<&Tensor>,
    out: &mut Tensor,
) -> Result<()> {
    let bias = bias.map(|bias| views::read(bias, "a bias")).transpose()?;
    let out = SharedSlice::new(views::write::<O>(out, "a product")?);
    let task = Product { left: Operand::of(a)?, right: Operand::of(b)?, bias, out };
    let blocks = [task.left.panels(), task.right.panels()];
    let blocks = [0, 1].map(|side| blocks[side].div_ceil(BLOCK[side]));
    assert!(DotIsa::available().any(|available| available == isa), "{isa:?} is not here");
    parallel::for_each(blocks[0] * blocks[1], |block| {
        // Of neighbouring tasks, the rows differ: columns, the weights, are read by all.
        let [row, col] = [block % blocks[0], block / blocks[0]];
        // SAFETY: the CPU has the instructions, as just asserted.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                DotIsa::Vnni512 => vnni512(&task, row, col),
                #[cfg(target_arch = "x86_64")]
                DotIsa::Vnni256 => vnni256(&task, row, col),
                #[cfg(target_arch = "x86_64")]
                DotIsa::Avx2 => avx2(&task, row, col),
                _ => task.block::<Plain, 4, 1>(row, col),
            }
        }
    });
    Ok(())
}

/// # Safety
/// The CPU has AVX-512 with VNNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
unsafe fn vnni512<O: Number>(task: &Product<'_, O>, row: usize, col: usize) {
    // SAFETY: the caller's promise.
    unsafe { task.block::<dots::x86::Vnni512, 8, 2>(row, col) };
}

/// # Safety
/// The CPU has AVX2 with VNNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avxvnni,avx2,fma")]
unsafe fn vnni256<O: Number>(task: &Product<'_, O>, row: usize, col: usize) {
    // SAFETY: the caller's promise.
    unsafe { task.block::<dots::x86::Vnni256, 4, 2>(row, col) };
}

/// # Safety
/// The CPU has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<O: Number>(task: &Product<'_, O>, row: usize, col: usize) {
    // SAFETY: the caller's promise.
    unsafe { task.block::<dots::x86::Avx2, 4, 2>(row, col) };
}

impl<O: Number> Product<'_, O> {
    /// Computes a block of the result, in tiles of `ROWS` by `VECTORS` vectors.
    ///
    /// # Safety
    /// The CPU has the instructions of `D`, for which the caller is compiled, and no other thread
    /// has the block.
    #[inline(always)]
    pub(super) unsafe fn block<D: Dots, const ROWS: usize, const VECTORS: usize>(
        &self,
        row: usize,
        col: usize,
    ) {
        let ends = [self.left.panels(), self.right.panels()];
        let [rows, cols] = [0, 1].map(|side| {
            let first = [row, col][side] * BLOCK[side];
            first..ends[side].min(first + BLOCK[side])
        });
        let width = D::LANES * VECTORS;
        for col in cols.step_by(width / PANEL) {
            for panel in rows.clone() {
                for part in 0..PANEL / ROWS {
                    // SAFETY: the caller's promise.
                    unsafe { self.tile::<D, ROWS, VECTORS>(panel, part * ROWS, col) };
                }
            }
        }
    }

    /// Computes the tile from row `first` of a panel of rows on, and the panel `col` of columns.
    ///
    /// # Safety
    /// As of [`block`](Self::block).
    #[inline(always)]
    unsafe fn tile<D: Dots, const ROWS: usize, const VECTORS: usize>(
        &self,
        panel: usize,
        first: usize,
        col: usize,
    ) {
        let row = panel * PANEL + first;
        if row >= self.left.inverse.len() {
            return;
        }
        let left = self.left.panel(panel);
        // A vector past the last panel repeats that, and is not stored.
        let last = self.right.panels() - 1;
        let right: [*const u32; VECTORS] = std::array::from_fn(|vector| {
            let lane = vector * D::LANES;
            let panel = self.right.panel((col + lane / PANEL).min(last));
            panel.as_ptr().cast::<u32>().wrapping_add(lane % PANEL)
        });
        let mut sums = MaybeUninit::<[[i32; MOST_COLS]; ROWS]>::uninit();
        let to = sums.as_mut_ptr().cast::<i32>();
        // SAFETY: both operands have `groups` lines of 16 words in each panel, and lines are
        // aligned to 64 bytes; `sums` has room for all lanes.
        unsafe {
            let left = left.as_ptr().cast::<u32>().wrapping_add(first);
            let mut lanes = [[D::zero(); VECTORS]; ROWS];
            for group in 0..self.left.groups {
                let right: [D::Right; VECTORS] =
                    std::array::from_fn(|vector| D::right(right[vector].add(group * PANEL)));
                for (row, lanes) in lanes.iter_mut().enumerate() {
                    let left = D::left(left.add(group * PANEL + row));
                    for (lanes, &right) in lanes.iter_mut().zip(&right) {
                        *lanes = D::add(*lanes, left, right);
                    }
                }
            }
            for (row, lanes) in lanes.into_iter().enumerate() {
                for (vector, lanes) in lanes.into_iter().enumerate() {
                    D::store(lanes, to.add(row * MOST_COLS + vector * D::LANES));
                }
            }
        }
        for at in 0..ROWS.min(self.left.inverse.len() - row) {
            // SAFETY: all lanes of the row were just written, and no other thread has this part
            // of the result.
            unsafe {
                let sums = to.add(at * MOST_COLS).cast_const();
                let sums = std::slice::from_raw_parts(sums, D::LANES * VECTORS);
                self.store(row + at, col * PANEL, D::OFFSET, sums);
            }
        }
    }

    /// Writes sums of a row of the result, from column `col` on, as far as there are columns.
    ///
    /// # Safety
    /// No other thread has this part of the result.
    #[inline(always)]
    unsafe fn store(&self, row: usize, col: usize, offset: i32, sums: &[i32]) {
        let cols = self.right.inverse.len();
        let left = LeftScale {
            excess: self.left.sums[row].wrapping_mul(offset),
            inverse: self.left.inverse[row],
        };
        for (sums, col) in sums.as_chunks::<PANEL>().0.iter().zip((col..cols).step_by(PANEL)) {
            // SAFETY: the caller's promise.
            let out = unsafe { self.out.part(row * cols + col, PANEL.min(cols - col)) };
            let (right, bias) = (&self.right.inverse[col..], self.bias.map(|bias| &bias[col..]));
            match (right.first_chunk(), bias.map(<[f32]>::first_chunk), out.first_chunk_mut()) {
                (Some(right), None, Some(out)) => left.scale(sums, right, None, out),
                (Some(right), Some(Some(bias)), Some(out)) => {
                    left.scale(sums, right, Some(bias), out);
                }
                _ => left.scale_last(sums, right, bias, out),
            }
        }
    }
}

/// What sums of a row of the left operand are scaled with.
#[derive(Clone, Copy)]
struct LeftScale {
    /// What the right operand's offset added to each sum.
    excess: i32,
    inverse: f32,
}

impl LeftScale {
    /// Results of as many sums as fill a vector.
    #[inline(always)]
    fn scale<O: Number>(
        self,
        sums: &[i32; PANEL],
        right: &[f32; PANEL],
        bias: Option<&[f32; PANEL]>,
        out: &mut [O; PANEL],
    ) {
        let mut scaled = [0.0; PANEL];
        for ((scaled, sum), right) in scaled.iter_mut().zip(sums).zip(right) {
            *scaled = sum.wrapping_sub(self.excess) as f32 * self.inverse * right;
        }
        if let Some(bias) = bias {
            for (scaled, bias) in scaled.iter_mut().zip(bias) {
                *scaled += bias;
            }
        }
        for (out, scaled) in out.iter_mut().zip(scaled) {
            *out = O::round(scaled);
        }
    }

    /// The same of the last columns, fewer than fill a vector. Apart from the others, or the
    /// compiler makes one copy of unknown length, and a call, of what both copy.
    #[cold]
    #[inline(never)]
    fn scale_last<O: Number>(
        self,
        sums: &[i32; PANEL],
        right: &[f32],
        bias: Option<&[f32]>,
        out: &mut [O],
    ) {
        let bias = bias.map(padded);
        let mut all = [O::round(0.0); PANEL];
        self.scale(sums, &padded(right), bias.as_ref(), &mut all);
        out.copy_from_slice(&all[..out.len()]);
    }
}

/// The values, fewer than fill a vector, and zeros after the last.
fn padded(values: &[f32]) -> [f32; PANEL] {
    let mut all = [0.0; PANEL];
    all[..values.len()].copy_from_slice(values);
    all
}

/// Runs `D` on the same tiles as an instruction set that is not here; for tests.
#[cfg(test)]
pub(super) fn product_by_plain<const ROWS: usize, const VECTORS: usize>(
    a: &Quantized,
    b: &Quantized,
) -> Tensor {
    let mut out = Tensor::empty([a.vectors(), b.vectors()], (Kind::Float, Device::Cpu));
    let task = Product {
        left: Operand::of(a).unwrap(),
        right: Operand::of(b).unwrap(),
        bias: None,
        out: SharedSlice::new(views::write::<f32>(&mut out, "a product").unwrap()),
    };
    for row in 0..task.left.panels().div_ceil(BLOCK[0]) {
        for col in 0..task.right.panels().div_ceil(BLOCK[1]) {
            // SAFETY: plain code runs everywhere, and this is the only thread.
            unsafe { task.block::<Plain, ROWS, VECTORS>(row, col) };
        }
    }
    out
}
