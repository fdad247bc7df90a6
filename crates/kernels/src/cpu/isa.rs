//! Which instruction set a kernel runs on, asked at run time.

use std::sync::OnceLock;

use bert4rs_tensor_core::cpu::CpuFeatures;

/// The instruction sets that kernels are compiled for, the slowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the target has.
    Portable,
    /// 256-bit vectors.
    Avx2,
    /// 512-bit vectors (F, BW, DQ, VL).
    Avx512,
}

impl Isa {
    /// The fastest that this machine has.
    pub fn fastest() -> Self {
        static FASTEST: OnceLock<Isa> = OnceLock::new();
        *FASTEST.get_or_init(|| {
            #[cfg(unoptimized)]
            warn_unoptimized();
            let cpu = CpuFeatures::detect();
            match (cpu.avx512, cpu.avx2_fma) {
                (true, _) => Self::Avx512,
                (false, true) => Self::Avx2,
                (false, false) => Self::Portable,
            }
        })
    }

    /// All that this machine has, for tests that hold them against each other.
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Portable, Self::Avx2, Self::Avx512].into_iter().filter(|&isa| isa <= Self::fastest())
    }
}

/// Says, once, as the first kernel runs, why it is slow.
#[cfg(unoptimized)]
fn warn_unoptimized() {
    use std::io::Write;
    let text = "warning: bert4rs-kernels is compiled without optimisation and up to 100 times \
                slower than it could be; add to your Cargo.toml:\n\n\
                [profile.dev.package.\"*\"]\nopt-level = 3\n";
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Compiles `$body`, an always inlined function, for every [`Isa`] under the name `$name`.
///
/// Callers pass an [`Isa`] from [`Isa::available`].
macro_rules! multiversioned {
    (
        $(#[$doc:meta])*
        $visibility:vis fn $name:ident
        [$($generics:tt)*] [$($names:tt)*] ($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)?
        = $body:ident
    ) => {
        $(#[$doc])*
        $visibility fn $name<$($generics)*>(
            isa: $crate::cpu::isa::Isa, $($argument: $type),*
        ) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512<$($generics)*>($($argument: $type),*) $(-> $result)? {
                $body::<$($names)*>($($argument),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$($generics)*>($($argument: $type),*) $(-> $result)? {
                $body::<$($names)*>($($argument),*)
            }
            assert!(isa <= $crate::cpu::isa::Isa::fastest(), "{isa:?} is not on this machine");
            match isa {
                // SAFETY: the assertion above holds only where the CPU has these features.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::isa::Isa::Avx512 => unsafe { avx512::<$($names)*>($($argument),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::isa::Isa::Avx2 => unsafe { avx2::<$($names)*>($($argument),*) },
                _ => $body::<$($names)*>($($argument),*),
            }
        }
    };
}
pub(crate) use multiversioned;
