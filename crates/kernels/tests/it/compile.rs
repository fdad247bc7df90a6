//! Every CUDA source compiles for every architecture: no warning, no spilled register, nothing
//! in local memory, accesses of 16 bytes. Needs NVRTC, but neither a GPU nor a driver.
//!
//! `cargo xtask test` fetches NVRTC and sets `BERT4RS_NEED_NVRTC`, so that nothing is skipped
//! there.

use bert4rs_kernels::cuda::nvrtc;
use bert4rs_kernels::cuda::source::{ALL, ARCHITECTURES, KernelSource};
use bert4rs_tensor_core::testing::skip;

/// What the compiler's log says that it should not.
fn complaints(log: &str) -> Vec<String> {
    let harmless = |line: &str| {
        line.is_empty()
            || line.starts_with("ptxas info")
            || line.ends_with("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads")
    };
    // "10 bytes stack frame" ends in what harmless lines end in, after a digit.
    let is_zero = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.iter().position(|word| *word == "stack").is_none_or(|at| words[at - 2] == "0")
    };
    let lines = log.lines().map(str::trim);
    lines.filter(|line| !(harmless(line) && is_zero(line))).map(str::to_owned).collect()
}

/// Sources that read 4 bytes at a time, or by asynchronous copies.
const OTHER_ACCESSES: [&str; 2] = ["column_sums", "gemm"];

/// Whether some kernel reads 16 bytes by one instruction.
fn reads_sixteen_bytes(ptx: &str) -> bool {
    ptx.lines().any(|line| line.contains("ld.global") && line.contains(".v4."))
}

fn check(source: &KernelSource, architecture: &str) -> Vec<String> {
    let mut options = source.options(architecture);
    options.push("--ptxas-options=-v".into());
    let found = match nvrtc::compile(source.name, &source.whole(), &options) {
        Err(error) => vec![error.to_string()],
        Ok(compiled) => {
            let ptx = String::from_utf8_lossy(&compiled.ptx);
            assert!(!compiled.cubin.is_empty());
            assert!(ptx.contains(&format!(".target {architecture}")), "{}", source.name);
            assert!(ptx.contains(".entry"), "{} has no kernel", source.name);
            let is_wide = reads_sixteen_bytes(&ptx) || OTHER_ACCESSES.contains(&source.name);
            let narrow = (!is_wide).then(|| "no access of 16 bytes".to_owned());
            complaints(&compiled.log).into_iter().chain(narrow).collect()
        }
    };
    found.iter().map(|line| format!("{} for {architecture}: {line}", source.name)).collect()
}

#[test]
fn every_kernel_compiles_without_warnings_and_spills() {
    if let Err(error) = nvrtc::available() {
        assert!(std::env::var_os("BERT4RS_NEED_NVRTC").is_none(), "{error}");
        return skip(&error.to_string());
    }
    let jobs = ALL.iter().flat_map(|source| ARCHITECTURES.map(|target| (*source, target)));
    let found: Vec<String> = jobs.flat_map(|(source, target)| check(source, target)).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_warning_a_spill_and_an_error_are_each_seen() {
    let clean = "ptxas info    : Used 40 registers\n\
        ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n";
    assert!(complaints(clean).is_empty());
    for bad in [
        "ptxas         .     800 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads",
        "ptxas         .     0 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads",
        "fp8.cu(3): warning #177-D: variable was declared but never referenced",
        "ptxas warning : Value of threads per SM is out of range",
    ] {
        assert_eq!(complaints(&format!("{clean}{bad}\n")).len(), 1, "{bad}");
    }
    if nvrtc::available().is_err() {
        return;
    }
    let options = ALL[0].options("sm_80");
    let error = nvrtc::compile("bad", "__global__ void f( {", &options).unwrap_err();
    assert!(error.to_string().contains("bad(1)"), "{error}");
}
