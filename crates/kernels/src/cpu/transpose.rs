//! Transposing matrices of 32-bit words.

use crate::cpu::isa::Isa;

/// Words of a block's side.
const SIDE: usize = 16;

/// `to[j][i] = from[i][j]` of `rows` rows by `cols` columns, whose rows lie `from_stride` words
/// apart, and those of the result `to_stride`.
pub(crate) fn transpose(
    isa: Isa,
    (from, from_stride): (&[u32], usize),
    (to, to_stride): (&mut [u32], usize),
    rows: usize,
    cols: usize,
) {
    if rows == 0 || cols == 0 {
        return;
    }
    // What the blocks rely on.
    assert!((rows - 1) * from_stride + cols <= from.len());
    assert!((cols - 1) * to_stride + rows <= to.len());
    let blocked = isa == Isa::Avx512;
    let (whole_rows, whole_cols) =
        if blocked { (rows / SIDE * SIDE, cols / SIDE * SIDE) } else { (0, 0) };
    #[cfg(target_arch = "x86_64")]
    for row in (0..whole_rows).step_by(SIDE) {
        for col in (0..whole_cols).step_by(SIDE) {
            avx512::block(
                &from[row * from_stride + col..],
                from_stride,
                &mut to[col * to_stride + row..],
                to_stride,
            );
        }
    }
    for row in 0..rows {
        let first = if row < whole_rows { whole_cols } else { 0 };
        for col in first..cols {
            to[col * to_stride + row] = from[row * from_stride + col];
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512 {
    #![expect(unsafe_code, reason = "vector instructions")]

    use std::arch::x86_64::*;

    use super::SIDE;
    use crate::cpu::isa::Isa;

    /// Transposes one block that begins both slices.
    pub(super) fn block(from: &[u32], from_stride: usize, to: &mut [u32], to_stride: usize) {
        assert!(Isa::fastest() == Isa::Avx512);
        let rows = std::array::from_fn(|i| from[i * from_stride..][..SIDE].as_ptr());
        assert!((SIDE - 1) * to_stride + SIDE <= to.len());
        // SAFETY: the CPU has AVX-512; the rows have 16 words, and the result room for 16 rows.
        unsafe { transpose_16(rows, to.as_mut_ptr(), to_stride) };
    }

    /// Transposes 16 words of 16 rows into 16 rows at `to`, `stride` words apart.
    ///
    /// # Safety
    /// The CPU has AVX-512 F; each row has 16 words, at any address, and so has `to` for each of
    /// its rows.
    #[target_feature(enable = "avx512f")]
    pub(crate) unsafe fn transpose_16(rows: [*const u32; SIDE], to: *mut u32, stride: usize) {
        // SAFETY: the caller's promise.
        let r: [__m512i; SIDE] =
            std::array::from_fn(|i| unsafe { _mm512_loadu_si512(rows[i].cast()) });
        // Pairs of rows, then fours: 4x4 blocks are transposed within 128 bits.
        let pairs: [__m512i; SIDE] = std::array::from_fn(|i| {
            let (low, high) = (r[i / 2 * 2], r[i / 2 * 2 + 1]);
            if i % 2 == 0 {
                _mm512_unpacklo_epi32(low, high)
            } else {
                _mm512_unpackhi_epi32(low, high)
            }
        });
        let fours: [__m512i; SIDE] = std::array::from_fn(|i| {
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
                // SAFETY: the caller's promise.
                unsafe {
                    let row = to.add((4 * lane + column) * stride);
                    _mm512_storeu_si512(row.cast(), vector);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_isa_transposes_every_edge() {
        for (rows, cols) in [(1, 1), (16, 16), (17, 33), (40, 15), (32, 48)] {
            let (from_stride, to_stride) = (cols + 3, rows + 1);
            let from: Vec<u32> = (0..(rows * from_stride) as u32).collect();
            for isa in Isa::available() {
                let mut to = vec![u32::MAX; cols * to_stride];
                transpose(isa, (&from, from_stride), (&mut to, to_stride), rows, cols);
                for row in 0..rows {
                    for col in 0..cols {
                        assert_eq!(to[col * to_stride + row], from[row * from_stride + col]);
                    }
                }
            }
        }
    }
}
