//! The one instruction that differs: four products of bytes, added to a sum of 32 bits.

#![expect(unsafe_code, reason = "vector instructions")]

use bert4rs_tensor_core::cpu::CpuFeatures;

/// The ways to multiply bytes, the slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum DotIsa {
    /// What every processor of the target has.
    Portable,
    /// Sixteen-bit sums of magnitudes and signed bytes (`vpmaddubsw`), which never saturate as
    /// both are at most 127.
    Avx2,
    /// `vpdpbusd` on 256 bits.
    Vnni256,
    /// `vpdpbusd` on 512 bits.
    Vnni512,
}

impl DotIsa {
    /// All that this processor has.
    pub(crate) fn available() -> impl DoubleEndedIterator<Item = Self> {
        let cpu = CpuFeatures::detect();
        [
            (true, Self::Portable),
            (cpu.avx2_fma, Self::Avx2),
            (cpu.avx2_fma && cpu.avx_vnni, Self::Vnni256),
            (cpu.avx512 && cpu.avx512_vnni, Self::Vnni512),
        ]
        .into_iter()
        .filter_map(|(has, isa)| has.then_some(isa))
    }

    /// The fastest that this processor has.
    pub(crate) fn fastest() -> Self {
        Self::available().next_back().unwrap_or(Self::Portable)
    }
}

/// Sums of products of bytes in the lanes of a vector.
///
/// # Safety
/// Of all functions: the CPU has the instruction set of the implementation, for which the caller
/// is compiled, and pointers lead to as many words as are read or written.
pub(super) trait Dots {
    /// Lanes of 32 bits.
    const LANES: usize;
    /// What `right` adds to each of its bytes, so that it has no sign.
    const OFFSET: i32;
    /// A sum a lane.
    type Sums: Copy;
    /// The same four bytes in every lane.
    type Left: Copy;
    /// Four bytes a lane.
    type Right: Copy;
    /// Sums of nothing.
    unsafe fn zero() -> Self::Sums;
    /// The word at `from` in every lane.
    unsafe fn left(from: *const u32) -> Self::Left;
    /// The words from `from` on, at a multiple of their size.
    unsafe fn right(from: *const u32) -> Self::Right;
    /// Adds the products, modulo 2³².
    unsafe fn add(sums: Self::Sums, left: Self::Left, right: Self::Right) -> Self::Sums;
    /// Writes the sums.
    unsafe fn store(sums: Self::Sums, to: *mut i32);
}

/// `vpdpbusd` by its definition, on 16 lanes; it stands in for the 512-bit instruction where there
/// is none, and in tests of what is around it.
pub(super) struct Plain;

impl Dots for Plain {
    const LANES: usize = 16;
    const OFFSET: i32 = 128;
    type Sums = [i32; 16];
    type Left = [i8; 4];
    type Right = [[u8; 4]; 16];
    #[inline(always)]
    unsafe fn zero() -> Self::Sums {
        [0; 16]
    }
    #[inline(always)]
    unsafe fn left(from: *const u32) -> Self::Left {
        // SAFETY: the caller's promise.
        unsafe { from.read() }.to_le_bytes().map(|byte| byte as i8)
    }
    #[inline(always)]
    unsafe fn right(from: *const u32) -> Self::Right {
        // SAFETY: the caller's promise.
        let words = unsafe { from.cast::<[u32; 16]>().read() };
        words.map(|word| (word ^ 0x8080_8080).to_le_bytes())
    }
    #[inline(always)]
    unsafe fn add(mut sums: Self::Sums, left: Self::Left, right: Self::Right) -> Self::Sums {
        for (sum, right) in sums.iter_mut().zip(right) {
            for (left, right) in left.into_iter().zip(right) {
                *sum = sum.wrapping_add(i32::from(left) * i32::from(right));
            }
        }
        sums
    }
    #[inline(always)]
    unsafe fn store(sums: Self::Sums, to: *mut i32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<[i32; 16]>().write(sums) };
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use std::arch::x86_64::*;

    use super::Dots;

    /// AVX2. A magnitude times a byte that has both signs is at most 127², two of them 32,258.
    pub(crate) struct Avx2;

    impl Dots for Avx2 {
        const LANES: usize = 8;
        const OFFSET: i32 = 0;
        type Sums = __m256i;
        type Left = __m256i;
        /// Magnitudes and the bytes themselves.
        type Right = (__m256i, __m256i);
        #[inline(always)]
        unsafe fn zero() -> __m256i {
            // SAFETY: the caller's promise.
            unsafe { _mm256_setzero_si256() }
        }
        #[inline(always)]
        unsafe fn left(from: *const u32) -> __m256i {
            // SAFETY: the caller's promise.
            unsafe { _mm256_set1_epi32(from.read() as i32) }
        }
        #[inline(always)]
        unsafe fn right(from: *const u32) -> (__m256i, __m256i) {
            // SAFETY: the caller's promise.
            unsafe {
                let bytes = _mm256_load_si256(from.cast());
                (_mm256_abs_epi8(bytes), bytes)
            }
        }
        #[inline(always)]
        unsafe fn add(sums: __m256i, left: __m256i, right: (__m256i, __m256i)) -> __m256i {
            // SAFETY: the caller's promise.
            unsafe {
                let signed = _mm256_sign_epi8(left, right.1);
                let pairs = _mm256_maddubs_epi16(right.0, signed);
                _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            }
        }
        #[inline(always)]
        unsafe fn store(sums: __m256i, to: *mut i32) {
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_si256(to.cast(), sums) };
        }
    }

    /// `vpdpbusd` on vectors of one width: the type, its lanes, and the intrinsics of that width.
    macro_rules! vnni {
        (
            $(#[$doc:meta])*
            $name:ident: $vector:ty, $lanes:literal,
            $zero:ident, $splat:ident, $splat_bytes:ident, $load:ident, $xor:ident, $dot:ident,
            $store:ident
        ) => {
            $(#[$doc])*
            pub(crate) struct $name;

            impl Dots for $name {
                const LANES: usize = $lanes;
                const OFFSET: i32 = 128;
                type Sums = $vector;
                type Left = $vector;
                type Right = $vector;
                #[inline(always)]
                unsafe fn zero() -> $vector {
                    // SAFETY: the caller's promise.
                    unsafe { $zero() }
                }
                #[inline(always)]
                unsafe fn left(from: *const u32) -> $vector {
                    // SAFETY: the caller's promise.
                    unsafe { $splat(from.read() as i32) }
                }
                #[inline(always)]
                unsafe fn right(from: *const u32) -> $vector {
                    // SAFETY: the caller's promise.
                    unsafe { $xor($load(from.cast()), $splat_bytes(-128)) }
                }
                #[inline(always)]
                unsafe fn add(sums: $vector, left: $vector, right: $vector) -> $vector {
                    // SAFETY: the caller's promise.
                    unsafe { $dot(sums, right, left) }
                }
                #[inline(always)]
                unsafe fn store(sums: $vector, to: *mut i32) {
                    // SAFETY: the caller's promise.
                    unsafe { $store(to.cast(), sums) };
                }
            }
        };
    }

    vnni! {
        /// AVX-VNNI.
        Vnni256: __m256i, 8,
        _mm256_setzero_si256, _mm256_set1_epi32, _mm256_set1_epi8, _mm256_load_si256,
        _mm256_xor_si256, _mm256_dpbusd_avx_epi32, _mm256_storeu_si256
    }

    vnni! {
        /// AVX-512 with VNNI.
        Vnni512: __m512i, 16,
        _mm512_setzero_si512, _mm512_set1_epi32, _mm512_set1_epi8, _mm512_load_si512,
        _mm512_xor_si512, _mm512_dpbusd_epi32, _mm512_storeu_si512
    }
}
