//! The product on AVX-512.
//!
//! A task owns 32 columns of one result. It packs these columns of `op(B)` once, in the order in
//! which the micro-kernel reads them, and walks down the rows of `A`, which are read where they
//! lie. Of a symmetric result, tiles above the diagonal are left out and mirrored.

#![expect(unsafe_code, reason = "vector instructions, and tiles of one result written by many")]

use std::cell::RefCell;

use bert4rs_tensor_core::{Kind, Result, Tensor, parallel};
use half::bf16;

use super::{OutputStructure, Rhs};
use crate::cpu::micro_kernel::{COLS, Tile};
use crate::cpu::number::{CacheLine, EMPTY, Number};
use crate::cpu::transpose::avx512::transpose_16;
use crate::cpu::views::{self, SharedSlice};

/// Rows of a tile: its 24 vectors leave registers for the operands.
const ROWS: usize = 12;

/// The packed columns of a task: word `w` of column `c` is in line `2 w + c / 16`.
type Panel = [CacheLine];

thread_local! {
    static PANEL: RefCell<Vec<CacheLine>> = const { RefCell::new(Vec::new()) };
}

/// All that tasks share: operands of `T`, the result and what is added to it of `O`.
struct StackedProduct<'a, T, O> {
    a: &'a [T],
    b: &'a [T],
    b_transposed: bool,
    plus: Option<(f32, &'a [O])>,
    alpha: f32,
    rows: usize,
    cols: usize,
    inner: usize,
    symmetric: bool,
    out: SharedSlice<'a, O>,
}

pub(super) fn run(
    out: &mut Tensor,
    a: &Tensor,
    rhs: Rhs<'_>,
    alpha: f32,
    plus: Option<(f32, &Tensor)>,
    structure: OutputStructure,
) -> Result<()> {
    match (a.kind(), out.kind()) {
        (Kind::BFloat16, Kind::BFloat16) => {
            run_with::<bf16, bf16>(out, a, rhs, alpha, plus, structure)
        }
        (Kind::BFloat16, _) => run_with::<bf16, f32>(out, a, rhs, alpha, plus, structure),
        _ => run_with::<f32, f32>(out, a, rhs, alpha, plus, structure),
    }
}

fn run_with<T: Number, O: Number>(
    out: &mut Tensor,
    a: &Tensor,
    rhs: Rhs<'_>,
    alpha: f32,
    plus: Option<(f32, &Tensor)>,
    structure: OutputStructure,
) -> Result<()> {
    let shape = out.size();
    let [stack, rows, cols] = [shape[0], shape[1], shape[2]].map(|extent| extent as usize);
    let inner = a.size()[2] as usize;
    let (b, b_transposed) = match rhs {
        Rhs::Plain(b) => (b, false),
        Rhs::Transposed(b) => (b, true),
    };
    let plus = match plus {
        Some((beta, c)) => Some((beta, views::read(c, "an added matrix")?)),
        None => None,
    };
    let product = StackedProduct {
        a: views::read::<T>(a, "a left operand")?,
        b: views::read::<T>(b, "a right operand")?,
        b_transposed,
        plus,
        alpha,
        rows,
        cols,
        inner,
        symmetric: structure == OutputStructure::Symmetric,
        out: SharedSlice::new(views::write::<O>(out, "a result")?),
    };
    let panels = cols.div_ceil(COLS);
    parallel::for_each(stack * panels, |task| {
        PANEL.with_borrow_mut(|panel| {
            product.columns(panel, task / panels, (task % panels) * COLS);
        });
    });
    Ok(())
}

impl<T: Number, O: Number> StackedProduct<'_, T, O> {
    fn words(&self) -> usize {
        self.inner / T::PER_WORD
    }

    /// Computes the result's columns from `col` on, of one matrix of the stack.
    fn columns(&self, panel: &mut Vec<CacheLine>, matrix: usize, col: usize) {
        panel.resize(2 * self.words(), EMPTY);
        self.pack(panel, matrix, col);
        // Of a symmetric result, tiles that lie above the diagonal as a whole are left out.
        let first = if self.symmetric { col / ROWS * ROWS } else { 0 };
        for row in (first..self.rows).step_by(ROWS) {
            let left = &self.a[matrix * self.rows * self.inner..][..self.rows * self.inner];
            let mut tile = [0f32; ROWS * COLS];
            let task = Tile {
                rows: std::array::from_fn(|i| {
                    // Rows past the end repeat the last, and are not stored.
                    left[(row + i).min(self.rows - 1) * self.inner..][..self.inner].as_ptr().cast()
                }),
                panel: panel.as_ptr().cast(),
                words: self.words(),
                out: tile.as_mut_ptr(),
                stride: COLS,
                add: false,
            };
            // SAFETY: `supports` was asked for `T`; each row has `inner` values, that is `words`
            // words, the panel two aligned lines for each, and `tile` is as large as the result.
            unsafe {
                if T::PER_WORD == 1 {
                    tile_f32(task);
                } else {
                    tile_bf16(task);
                }
            }
            self.store(&tile, matrix, row, col);
        }
    }

    /// Packs 32 columns of `op(B)` from `col` on, zeros past the last.
    fn pack(&self, panel: &mut Panel, matrix: usize, col: usize) {
        let count = COLS.min(self.cols - col);
        let b = &self.b[matrix * self.inner * self.cols..][..self.inner * self.cols];
        if count < COLS {
            panel.fill(EMPTY);
        }
        for half in 0..2 {
            let count = count.saturating_sub(16 * half).min(16);
            let col = col + 16 * half;
            if count == 0 {
                continue;
            }
            if self.b_transposed {
                self.pack_transposed(panel, half, &b[col * self.inner..], count);
            } else {
                self.pack_plain(panel, half, &b[col..], count);
            }
        }
    }

    fn pack_plain(&self, panel: &mut Panel, half: usize, b: &[T], count: usize) {
        for (word, lines) in panel.chunks_exact_mut(2).enumerate() {
            let start = word * T::PER_WORD * self.cols;
            let low = &b[start..start + count];
            let high = if T::PER_WORD == 1 { low } else { &b[start + self.cols..][..count] };
            for ((word, &low), &high) in lines[half].0.iter_mut().zip(low).zip(high) {
                *word = T::word(low, high);
            }
        }
    }

    /// `b` begins with the first of `count` rows of `inner` values, each a column of `op(B)`.
    fn pack_transposed(&self, panel: &mut Panel, half: usize, b: &[T], count: usize) {
        let words = self.words();
        let rows: [*const u32; 16] = std::array::from_fn(|i| {
            b[i.min(count - 1) * self.inner..][..self.inner].as_ptr().cast()
        });
        let whole = if count == 16 { words / 16 * 16 } else { 0 };
        for word in (0..whole).step_by(16) {
            // SAFETY: every row has `words` words, and the panel as many pairs of lines; the
            // CPU has AVX-512, as `supports` found.
            unsafe {
                let to = panel.as_mut_ptr().add(2 * word + half).cast();
                transpose_16(rows.map(|row| row.add(word)), to, COLS);
            }
        }
        for word in whole..words {
            for (lane, row) in rows.iter().enumerate().take(count) {
                // SAFETY: as above; the numbers may lie at an odd address for a word.
                panel[2 * word + half].0[lane] = unsafe { row.add(word).read_unaligned() };
            }
        }
    }

    /// Writes `alpha tile + beta C` where the result has elements: all in the full structure; below
    /// the diagonal, and mirrored above it, in the symmetric one.
    fn store(&self, tile: &[f32; ROWS * COLS], matrix: usize, row: usize, col: usize) {
        let base = matrix * self.rows * self.cols;
        let rows = ROWS.min(self.rows - row);
        let cols = COLS.min(self.cols - col);
        let mut rounded = [O::round(0.0); ROWS * COLS];
        for i in 0..rows {
            let start = base + (row + i) * self.cols + col;
            let (sums, results) = (&tile[i * COLS..][..cols], &mut rounded[i * COLS..]);
            match self.plus {
                Some((beta, c)) => {
                    for ((result, sum), c) in results.iter_mut().zip(sums).zip(&c[start..]) {
                        *result = O::round(self.alpha * sum + beta * c.widen());
                    }
                }
                None => {
                    for (result, sum) in results.iter_mut().zip(sums) {
                        *result = O::round(self.alpha * sum);
                    }
                }
            }
            let stored =
                if self.symmetric { cols.min((row + i + 1).saturating_sub(col)) } else { cols };
            // SAFETY: these elements of row `row + i` are this task's alone: no other has its
            // columns, and mirrored elements lie strictly above the diagonal.
            let to = unsafe { self.out.part(start, stored) };
            to.copy_from_slice(&results[..stored]);
        }
        if self.symmetric {
            self.store_mirrored(&rounded, base, row, col);
        }
    }

    fn store_mirrored(&self, rounded: &[O; ROWS * COLS], base: usize, row: usize, col: usize) {
        let rows = ROWS.min(self.rows - row);
        for j in 0..COLS.min(self.cols - col) {
            let column: [O; ROWS] = std::array::from_fn(|i| rounded[i * COLS + j]);
            // The first row of the tile that is strictly below the diagonal in this column.
            let first = (col + j + 1).saturating_sub(row).min(rows);
            let start = base + (col + j) * self.cols + row + first;
            // SAFETY: elements of row `col + j` rhs of the diagonal, which only the task of
            // these columns writes, once, since its tiles have different rows.
            let to = unsafe { self.out.part(start, rows - first) };
            to.copy_from_slice(&column[first..rows]);
        }
    }
}

/// # Safety
/// As of [`Tile::compute`], but for which features this is compiled.
#[target_feature(enable = "avx512f")]
unsafe fn tile_f32(tile: Tile<ROWS>) {
    // SAFETY: the caller's promise.
    unsafe { tile.compute::<f32>() };
}

/// # Safety
/// As of [`tile_f32`].
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_bf16(tile: Tile<ROWS>) {
    // SAFETY: the caller's promise.
    unsafe { tile.compute::<bf16>() };
}
