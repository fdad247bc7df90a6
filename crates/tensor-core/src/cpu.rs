//! What this CPU can do, asked at run time.

#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "a CPU intrinsic"))]

use std::sync::OnceLock;

use raw_cpuid::CpuId;
use serde::Serialize;

use crate::cpu_isa::CpuIsa;

/// The instruction sets that matter for training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CpuFeatures {
    /// 256-bit vectors with fused multiply-add.
    pub avx2_fma: bool,
    /// Products of bytes on 256-bit vectors (AVX-VNNI).
    pub avx_vnni: bool,
    /// 512-bit vectors (F, BW, DQ and VL).
    pub avx512: bool,
    /// Products of bytes on 512-bit vectors.
    pub avx512_vnni: bool,
    /// BF16 dot products on 512-bit vectors.
    pub avx512_bf16: bool,
    /// BF16 matrix units.
    pub amx_bf16: bool,
}

impl CpuFeatures {
    /// What this process may use: what the machine has, or the class of processor that it plays.
    pub fn detect() -> Self {
        static FEATURES: OnceLock<CpuFeatures> = OnceLock::new();
        *FEATURES.get_or_init(|| {
            let here = Self::of_machine();
            // A class that can't be played is refused where the program starts.
            CpuIsa::of_process().ok().flatten().map_or(here, |isa| here.limited_to(isa))
        })
    }

    /// What the machine has. Asked once: a virtual machine takes long to answer.
    pub fn of_machine() -> Self {
        static FEATURES: OnceLock<CpuFeatures> = OnceLock::new();
        *FEATURES.get_or_init(Self::ask)
    }

    /// What a processor of the class `isa` has of these.
    pub fn limited_to(self, isa: CpuIsa) -> Self {
        let most = isa.features();
        Self {
            avx2_fma: self.avx2_fma && most.avx2_fma,
            avx_vnni: self.avx_vnni && most.avx_vnni,
            avx512: self.avx512 && most.avx512,
            avx512_vnni: self.avx512_vnni && most.avx512_vnni,
            avx512_bf16: self.avx512_bf16 && most.avx512_bf16,
            amx_bf16: self.amx_bf16 && most.amx_bf16,
        }
    }

    /// Asks the CPU, and the operating system where that must save the registers.
    #[cfg(target_arch = "x86_64")]
    fn ask() -> Self {
        let extended = CpuId::new().get_extended_feature_info();
        let bf16 = extended.as_ref().is_some_and(|info| info.has_avx512_bf16());
        let amx = extended.as_ref().is_some_and(|info| info.has_amx_bf16() && info.has_amx_tile());
        let avx512 = std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl");
        // Without `avx512` the system may not let programs ask what registers it saves.
        let tiles_saved = avx512 && saves_tile_registers();
        Self {
            avx2_fma: std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("fma"),
            avx_vnni: std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("avxvnni"),
            avx512,
            avx512_vnni: avx512 && std::arch::is_x86_feature_detected!("avx512vnni"),
            avx512_bf16: avx512 && bf16,
            amx_bf16: tiles_saved && amx,
        }
    }

    /// Other processors take the portable paths.
    #[cfg(not(target_arch = "x86_64"))]
    fn ask() -> Self {
        Self {
            avx2_fma: false,
            avx_vnni: false,
            avx512: false,
            avx512_vnni: false,
            avx512_bf16: false,
            amx_bf16: false,
        }
    }

    /// Whether BF16 matrix products run on units made for them.
    pub fn has_bf16_products(&self) -> bool {
        self.amx_bf16 || self.avx512_bf16
    }
}

/// Whether the operating system saves the registers of matrix units between programs.
#[cfg(target_arch = "x86_64")]
fn saves_tile_registers() -> bool {
    const TILE_CONFIG_AND_DATA: u64 = 0b11 << 17;
    if !std::arch::is_x86_feature_detected!("xsave") {
        return false;
    }
    // SAFETY: the CPU has the instruction, and a system that saves AVX registers, which the
    // caller has made sure of, lets programs use it.
    let saved = unsafe { std::arch::x86_64::_xgetbv(0) };
    saved & TILE_CONFIG_AND_DATA == TILE_CONFIG_AND_DATA
}

/// The processor's own name, such as `AMD EPYC`.
#[cfg(target_arch = "x86_64")]
pub fn name() -> String {
    let brand = CpuId::new().get_processor_brand_string();
    brand.map_or_else(|| "unknown x86-64".into(), |brand| brand.as_str().trim().to_owned())
}

/// The processor's architecture, where it has no name to ask for.
#[cfg(not(target_arch = "x86_64"))]
pub fn name() -> String {
    std::env::consts::ARCH.to_owned()
}
