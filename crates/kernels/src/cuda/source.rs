//! The CUDA C sources, and how each is compiled.

/// One file of kernels.
#[derive(Debug)]
pub struct KernelSource {
    /// Its file's name without `.cu`.
    pub name: &'static str,
    /// What comes after [`COMMON`].
    parts: &'static [&'static str],
    /// Whether products may be fused with additions: not where the CPU twin, which never does,
    /// is to be met bit for bit.
    fused: bool,
}

const COMMON: &str = include_str!("common.cuh");

const WEIGHT: &str = include_str!("../weight/weight.cuh");

/// Activations and gates.
pub static ACTIVATION: KernelSource = KernelSource {
    name: "activation",
    parts: &[include_str!("../activation/activation.cu")],
    fused: true,
};

/// Softmax statistics and gradients of logits.
pub static CROSS_ENTROPY: KernelSource = KernelSource {
    name: "cross_entropy",
    parts: &[include_str!("../cross_entropy/cross_entropy.cu")],
    fused: true,
};

/// AdamW in one pass.
pub static ADAMW: KernelSource = KernelSource {
    name: "adamw",
    parts: &[WEIGHT, include_str!("../adamw/adamw.cu")],
    fused: false,
};

/// Casts to FP8.
pub static FP8: KernelSource =
    KernelSource { name: "fp8", parts: &[include_str!("../fp8/cast/fp8.cu")], fused: false };

/// Symmetric products.
pub static GEMM: KernelSource =
    KernelSource { name: "gemm", parts: &[include_str!("../gemm/gemm.cu")], fused: true };

/// Sums of columns.
pub static COLUMN_SUMS: KernelSource =
    KernelSource { name: "column_sums", parts: &[include_str!("column_sums.cu")], fused: true };

/// Gradients of lookups in tables.
pub static EMBEDDING: KernelSource = KernelSource {
    name: "embedding",
    parts: &[include_str!("../embedding/embedding.cu")],
    fused: true,
};

/// Layer norm and RMS norm.
pub static NORM: KernelSource =
    KernelSource { name: "norm", parts: &[include_str!("../norm/norm.cu")], fused: true };

/// Rotary positions of heads.
pub static ROTARY: KernelSource =
    KernelSource { name: "rotary", parts: &[include_str!("../rotary/rotary.cu")], fused: true };

/// What Muon does before and after its products.
pub static MUON: KernelSource =
    KernelSource { name: "muon", parts: &[WEIGHT, include_str!("../muon/muon.cu")], fused: false };

/// Sums of squares of many tensors.
pub static SUM_OF_SQUARES: KernelSource = KernelSource {
    name: "sum_of_squares",
    parts: &[include_str!("../sum_of_squares/sum_of_squares.cu")],
    fused: true,
};

/// All sources, for a check that compiles every one.
pub static ALL: [&KernelSource; 11] = [
    &ACTIVATION,
    &ADAMW,
    &COLUMN_SUMS,
    &CROSS_ENTROPY,
    &EMBEDDING,
    &FP8,
    &GEMM,
    &MUON,
    &NORM,
    &ROTARY,
    &SUM_OF_SQUARES,
];

/// The architectures that every source must compile for: Ampere, Ada and Hopper.
pub const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_89", "sm_90a"];

impl KernelSource {
    /// The text that NVRTC gets.
    pub fn whole(&self) -> String {
        // Messages name the last part's lines as those of the file.
        let (last, before) = self.parts.split_last().unwrap_or((&"", &[]));
        format!("{COMMON}\n{}\n#line 1 \"{}.cu\"\n{last}", before.concat(), self.name)
    }

    /// NVRTC's options for an architecture, as in [`ARCHITECTURES`].
    pub fn options(&self, architecture: &str) -> Vec<String> {
        vec![
            format!("--gpu-architecture={architecture}"),
            "--std=c++17".into(),
            format!("--fmad={}", self.fused),
        ]
    }
}

/// The architecture to compile for on a device of this compute capability.
pub fn architecture((major, minor): (i32, i32)) -> String {
    // Hopper's own instructions are under a name of their own.
    let suffix = if (major, minor) == (9, 0) { "a" } else { "" };
    format!("sm_{major}{minor}{suffix}")
}
