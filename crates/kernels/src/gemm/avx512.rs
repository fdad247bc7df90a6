//! The product on AVX-512; see the parent module for how it works.

use std::arch::x86_64::*;
use std::cell::RefCell;

use bert4rs_tensor_core::{Kind, Result, Tensor};
use half::bf16;
use rayon::prelude::*;

use super::{Form, Right};
use crate::slices::{self, Element};

/// Rows of a tile.
const TILE_ROWS: usize = 12;
/// Columns of a tile: two vectors.
const TILE_COLS: usize = 32;

/// A cache line of 32-bit words, so that no vector of packed columns lies across two.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u32; 16]);

/// The packed columns of a task: word `w` of column `c` is in line `2 w + c / 16`.
type Panel = [Line];

thread_local! {
    static PANEL: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// A number type of operands and results.
trait Number: Element {
    /// Values in a 32-bit word.
    const PER_WORD: usize;
    fn widen(self) -> f32;
    fn round(value: f32) -> Self;
    /// One word of each of 16 columns from the rows of a word, each at least 16 long.
    fn interleave(rows: [&[Self]; 2], word: &mut [u32]);
    /// Adds the products of a word of `a`, in all lanes, and of `b`.
    ///
    /// # Safety
    /// The CPU has the features of [`tile`]'s callers for this type.
    unsafe fn multiply_add(a: __m512i, b: __m512i, sum: __m512) -> __m512;
}

impl Number for f32 {
    const PER_WORD: usize = 1;
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn round(value: f32) -> Self {
        value
    }
    #[inline(always)]
    fn interleave(rows: [&[Self]; 2], word: &mut [u32]) {
        for (word, value) in word.iter_mut().zip(rows[0]) {
            *word = value.to_bits();
        }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: __m512i, b: __m512i, sum: __m512) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum) }
    }
}

impl Number for bf16 {
    const PER_WORD: usize = 2;
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn round(value: f32) -> Self {
        bf16::from_bits(crate::weight::round_to_bf16(value))
    }
    #[inline(always)]
    fn interleave(rows: [&[Self]; 2], word: &mut [u32]) {
        for ((word, low), high) in word.iter_mut().zip(rows[0]).zip(rows[1]) {
            *word = u32::from(low.to_bits()) | (u32::from(high.to_bits()) << 16);
        }
    }
    #[inline(always)]
    unsafe fn multiply_add(a: __m512i, b: __m512i, sum: __m512) -> __m512 {
        // SAFETY: the caller's promise; a BF16 vector is any 512 bits.
        unsafe {
            let a = std::mem::transmute::<__m512i, __m512bh>(a);
            let b = std::mem::transmute::<__m512i, __m512bh>(b);
            _mm512_dpbf16_ps(sum, a, b)
        }
    }
}

/// All that tasks share: operands of `T`, the result and what is added to it of `O`.
struct Job<'a, T, O> {
    a: &'a [T],
    b: &'a [T],
    b_transposed: bool,
    plus: Option<(f32, &'a [O])>,
    alpha: f32,
    rows: usize,
    cols: usize,
    inner: usize,
    symmetric: bool,
    out: Shared<O>,
}

/// The result, written by all tasks, no element by two.
struct Shared<T>(*mut T);

// SAFETY: tasks write disjoint elements through it, see `store`, and nobody reads meanwhile.
unsafe impl<T: Send> Sync for Shared<T> {}

pub(super) fn run(
    out: &mut Tensor,
    a: &Tensor,
    right: Right<'_>,
    alpha: f32,
    plus: Option<(f32, &Tensor)>,
    form: Form,
) -> Result<()> {
    match (a.kind(), out.kind()) {
        (Kind::BFloat16, Kind::BFloat16) => {
            run_with::<bf16, bf16>(out, a, right, alpha, plus, form)
        }
        (Kind::BFloat16, _) => run_with::<bf16, f32>(out, a, right, alpha, plus, form),
        _ => run_with::<f32, f32>(out, a, right, alpha, plus, form),
    }
}

fn run_with<T: Number, O: Number>(
    out: &mut Tensor,
    a: &Tensor,
    right: Right<'_>,
    alpha: f32,
    plus: Option<(f32, &Tensor)>,
    form: Form,
) -> Result<()> {
    let shape = out.size();
    let [stack, rows, cols] = [shape[0], shape[1], shape[2]].map(|extent| extent as usize);
    let inner = a.size()[2] as usize;
    let (b, b_transposed) = match right {
        Right::Plain(b) => (b, false),
        Right::Transposed(b) => (b, true),
    };
    let plus = match plus {
        Some((beta, c)) => Some((beta, slices::read(c, "an added matrix")?)),
        None => None,
    };
    let job = Job {
        a: slices::read::<T>(a, "a left operand")?,
        b: slices::read::<T>(b, "a right operand")?,
        b_transposed,
        plus,
        alpha,
        rows,
        cols,
        inner,
        symmetric: form == Form::Symmetric,
        out: Shared(slices::write::<O>(out, "a result")?.as_mut_ptr()),
    };
    let panels = cols.div_ceil(TILE_COLS);
    (0..stack * panels).into_par_iter().with_max_len(1).for_each(|task| {
        PANEL.with_borrow_mut(|panel| {
            job.columns(panel, task / panels, (task % panels) * TILE_COLS);
        });
    });
    Ok(())
}

impl<T: Number, O: Number> Job<'_, T, O> {
    fn words(&self) -> usize {
        self.inner / T::PER_WORD
    }

    /// Computes the result's columns from `col` on, of one matrix of the stack.
    fn columns(&self, panel: &mut Vec<Line>, matrix: usize, col: usize) {
        panel.resize(2 * self.words(), Line([0; 16]));
        self.pack(panel, matrix, col);
        // Of a symmetric result, tiles that lie above the diagonal as a whole are left out.
        let first = if self.symmetric { col / TILE_ROWS * TILE_ROWS } else { 0 };
        for row in (first..self.rows).step_by(TILE_ROWS) {
            let left = &self.a[matrix * self.rows * self.inner..][..self.rows * self.inner];
            let starts = std::array::from_fn(|i| {
                // Rows past the end repeat the last, and are not stored.
                left[(row + i).min(self.rows - 1) * self.inner..][..self.inner].as_ptr().cast()
            });
            let mut tile = [0f32; TILE_ROWS * TILE_COLS];
            // SAFETY: `available` was checked for `T`; each start has `inner` values, that is
            // `words` words, after it, and the panel two lines for each.
            unsafe {
                if T::PER_WORD == 1 {
                    tile_f32(starts, panel, &mut tile);
                } else {
                    tile_bf16(starts, panel, &mut tile);
                }
            }
            self.store(&tile, matrix, row, col);
        }
    }

    /// Packs 32 columns of `op(B)` from `col` on, zeros past the last.
    fn pack(&self, panel: &mut Panel, matrix: usize, col: usize) {
        let count = TILE_COLS.min(self.cols - col);
        let b = &self.b[matrix * self.inner * self.cols..][..self.inner * self.cols];
        if count < TILE_COLS {
            panel.fill(Line([0; 16]));
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
            T::interleave([low, high], &mut lines[half].0);
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
            // CPU has AVX-512, as `available` checked.
            unsafe { transpose_16(rows, word, panel, half) };
        }
        for word in whole..words {
            for (lane, row) in rows.iter().enumerate().take(count) {
                // SAFETY: as above; the numbers may lie at an odd address for a word.
                panel[2 * word + half].0[lane] = unsafe { row.add(word).read_unaligned() };
            }
        }
    }

    /// Writes `alpha tile + beta C` where the result has elements: all in the full form; below
    /// the diagonal, and mirrored above it, in the symmetric one.
    fn store(&self, tile: &[f32; TILE_ROWS * TILE_COLS], matrix: usize, row: usize, col: usize) {
        let base = matrix * self.rows * self.cols;
        let rows = TILE_ROWS.min(self.rows - row);
        let cols = TILE_COLS.min(self.cols - col);
        let mut rounded = [O::round(0.0); TILE_ROWS * TILE_COLS];
        for i in 0..rows {
            let start = base + (row + i) * self.cols + col;
            let (sums, results) = (&tile[i * TILE_COLS..][..cols], &mut rounded[i * TILE_COLS..]);
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
            unsafe {
                let to = self.out.0.add(start);
                std::ptr::copy_nonoverlapping(results.as_ptr(), to, stored);
            }
        }
        if self.symmetric {
            self.store_mirrored(&rounded, base, row, col);
        }
    }

    fn store_mirrored(
        &self,
        rounded: &[O; TILE_ROWS * TILE_COLS],
        base: usize,
        row: usize,
        col: usize,
    ) {
        let rows = TILE_ROWS.min(self.rows - row);
        for j in 0..TILE_COLS.min(self.cols - col) {
            let column: [O; TILE_ROWS] = std::array::from_fn(|i| rounded[i * TILE_COLS + j]);
            // The first row of the tile that is strictly below the diagonal in this column.
            let first = (col + j + 1).saturating_sub(row).min(rows);
            let start = base + (col + j) * self.cols + row + first;
            // SAFETY: elements of row `col + j` right of the diagonal, which only the task of
            // these columns writes, once, since its tiles have different rows.
            unsafe {
                let to = self.out.0.add(start);
                std::ptr::copy_nonoverlapping(column[first..].as_ptr(), to, rows - first);
            }
        }
    }
}

/// # Safety
/// The CPU has AVX-512 F; every start has a word for every two lines of `panel` after it.
#[target_feature(enable = "avx512f")]
unsafe fn tile_f32(
    starts: [*const u32; TILE_ROWS],
    panel: &Panel,
    tile: &mut [f32; TILE_ROWS * TILE_COLS],
) {
    // SAFETY: the caller's promise.
    unsafe { tile_body::<f32>(starts, panel, tile) };
}

/// # Safety
/// As of [`tile_f32`], and the CPU has AVX-512 BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn tile_bf16(
    starts: [*const u32; TILE_ROWS],
    panel: &Panel,
    tile: &mut [f32; TILE_ROWS * TILE_COLS],
) {
    // SAFETY: the caller's promise.
    unsafe { tile_body::<bf16>(starts, panel, tile) };
}

/// The product of 12 rows and 32 packed columns, in 24 registers.
///
/// # Safety
/// As of the functions above, into which it is inlined.
#[inline(always)]
unsafe fn tile_body<T: Number>(
    starts: [*const u32; TILE_ROWS],
    panel: &Panel,
    tile: &mut [f32; TILE_ROWS * TILE_COLS],
) {
    // SAFETY: lines are 64 bytes, aligned; starts may be read at every word of the panel.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; TILE_ROWS];
        for (word, lines) in panel.chunks_exact(2).enumerate() {
            let b0 = _mm512_load_si512(lines[0].0.as_ptr().cast());
            let b1 = _mm512_load_si512(lines[1].0.as_ptr().cast());
            for (sums, start) in sums.iter_mut().zip(&starts) {
                let a = _mm512_set1_epi32(start.add(word).read_unaligned() as i32);
                sums[0] = T::multiply_add(a, b0, sums[0]);
                sums[1] = T::multiply_add(a, b1, sums[1]);
            }
        }
        for (sums, row) in sums.iter().zip(tile.chunks_exact_mut(TILE_COLS)) {
            _mm512_storeu_ps(row.as_mut_ptr(), sums[0]);
            _mm512_storeu_ps(row[16..].as_mut_ptr(), sums[1]);
        }
    }
}

/// Transposes 16 words from `word` on of 16 rows into 16 lines of one half of the panel.
///
/// # Safety
/// The CPU has AVX-512 F; the rows have 16 words from `word` on, and the panel lines for them.
#[target_feature(enable = "avx512f")]
unsafe fn transpose_16(rows: [*const u32; 16], word: usize, panel: &mut Panel, half: usize) {
    // SAFETY: the caller's promise.
    let r: [__m512i; 16] =
        std::array::from_fn(|i| unsafe { _mm512_loadu_si512(rows[i].add(word).cast()) });
    // Pairs of rows, then fours: 4x4 blocks are transposed within 128 bits.
    let pairs: [__m512i; 16] = std::array::from_fn(|i| {
        let (low, high) = (r[i / 2 * 2], r[i / 2 * 2 + 1]);
        if i % 2 == 0 { _mm512_unpacklo_epi32(low, high) } else { _mm512_unpackhi_epi32(low, high) }
    });
    let fours: [__m512i; 16] = std::array::from_fn(|i| {
        let (group, column) = (i / 4 * 4, i % 4);
        let (low, high) = (pairs[group + column / 2], pairs[group + 2 + column / 2]);
        if column % 2 == 0 {
            _mm512_unpacklo_epi64(low, high)
        } else {
            _mm512_unpackhi_epi64(low, high)
        }
    });
    // `fours[4 g + c]` holds, in its lane l of 128 bits, column 4 l + c of rows 4 g to 4 g + 3.
    for column in 0..4 {
        let [g0, g1, g2, g3] = [0, 1, 2, 3].map(|group| fours[4 * group + column]);
        let (low01, high01) =
            (_mm512_shuffle_i32x4::<0x44>(g0, g1), _mm512_shuffle_i32x4::<0xee>(g0, g1));
        let (low23, high23) =
            (_mm512_shuffle_i32x4::<0x44>(g2, g3), _mm512_shuffle_i32x4::<0xee>(g2, g3));
        let lanes = [
            _mm512_shuffle_i32x4::<0x88>(low01, low23),
            _mm512_shuffle_i32x4::<0xdd>(low01, low23),
            _mm512_shuffle_i32x4::<0x88>(high01, high23),
            _mm512_shuffle_i32x4::<0xdd>(high01, high23),
        ];
        for (lane, vector) in lanes.into_iter().enumerate() {
            let line = &mut panel[2 * (word + 4 * lane + column) + half].0;
            // SAFETY: a line is 64 bytes, aligned.
            unsafe { _mm512_store_si512(line.as_mut_ptr().cast(), vector) };
        }
    }
}
