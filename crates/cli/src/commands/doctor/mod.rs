//! `bert4rs doctor`: what this machine and this libtorch can do.

mod memory;
mod network;
mod probe;
mod selftest;

use std::process::ExitCode;

use bert4rs_tensor_core::Error as CoreError;
use bert4rs_tensor_core::cpu::CpuFeatures;
use bert4rs_tensor_core::cpu_isa::CpuIsa;
use bert4rs_tensor_core::device::{Cuda, DeviceChoice, cuda};
use bert4rs_tensor_core::precision::Precision;
use bert4rs_tensor_core::{cpu, get_num_threads, library};
use bert4rs_train::backends::from_cache;
use bert4rs_train::names::name_of;
use bert4rs_train::output::print_line;
use bert4rs_train::{Error, Result};

use crate::flags::DoctorFlags;

pub(crate) fn run(flags: &DoctorFlags) -> Result<ExitCode> {
    if let Some(name) = &flags.cpu_isa {
        refuse_cpu_isa(name)?;
    }
    if flags.memory {
        return memory::run(&flags.config, flags.processes.unwrap_or(1));
    }
    if flags.network {
        return network::run(&flags.config);
    }
    if flags.processes.is_some() {
        return Err(Error::Config {
            origin: "command line".into(),
            key: "--processes".into(),
            reason: "is for --memory; add it".into(),
        });
    }
    if !flags.config.are_absent() {
        return Err(Error::Config {
            origin: "command line".into(),
            key: "--preset, --config, --model, --set".into(),
            reason: "say what a run is to be; add --memory to see what it would hold".into(),
        });
    }
    library_and_cpu()?;
    let device = DeviceChoice::Auto.resolve()?;
    row("devices", &devices())?;
    row("chosen by auto", &format!("{device:?}"))?;
    row("dtypes", &probe::dtypes(device))?;
    row("FP8", &probe::fp8(device))?;
    row("INT8", &format!("products on the CPU by {}", bert4rs_kernels::int8::instructions()))?;
    row("attention", &probe::attention(device))?;
    for precision in [Precision::Fp32, Precision::Bf16] {
        backends(precision)?;
    }
    if flags.selftest { selftest::run(device) } else { Ok(ExitCode::SUCCESS) }
}

/// Refuses a class of processor that is not in force.
fn refuse_cpu_isa(name: &str) -> Result<()> {
    let refuse = |reason: String| Error::Config {
        origin: "command line".into(),
        key: "--cpu-isa".into(),
        reason,
    };
    let isa: CpuIsa = name.parse().map_err(|error: CoreError| refuse(error.to_string()))?;
    isa.check(CpuFeatures::of_machine()).map_err(|error| refuse(error.to_string()))?;
    match CpuIsa::of_process()? {
        Some(found) if found == isa => Ok(()),
        _ => Err(refuse("the program could not be started anew with it".into())),
    }
}

fn library_and_cpu() -> Result<()> {
    let folder = library::folder().map_or("unknown".into(), |path| path.display().to_string());
    row("libtorch", &format!("{} in {folder}", library::version()))?;
    row("CPU", &cpu::name())?;
    if let Some(isa) = CpuIsa::of_process()? {
        let variables = isa.environment().map(|(name, value)| format!("{name}={value}"));
        row("limited to", &format!("{} by {}", isa.name(), variables.join(" ")))?;
    }
    let playable: Vec<&str> =
        CpuIsa::playable(CpuFeatures::of_machine()).map(CpuIsa::name).collect();
    row("can play", &playable.join(", "))?;
    let features = CpuFeatures::detect();
    let yes_no = |has: bool| if has { "yes" } else { "no" };
    row(
        "CPU features",
        &format!(
            "AVX2+FMA {}, AVX-VNNI {}, AVX-512 {}, AVX-512 VNNI {}, AVX-512 BF16 {}, AMX BF16 {}; \
             libtorch uses {}",
            yes_no(features.avx2_fma),
            yes_no(features.avx_vnni),
            yes_no(features.avx512),
            yes_no(features.avx512_vnni),
            yes_no(features.avx512_bf16),
            yes_no(features.amx_bf16),
            library::cpu_capability()
        ),
    )?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    row("threads", &format!("{} of {cores} cores", get_num_threads()))
}

/// What was measured of the backends of operations, if a run did.
fn backends(precision: Precision) -> Result<()> {
    let Some(choices) = from_cache(precision) else { return Ok(()) };
    for choice in choices {
        row(
            "backend",
            &format!(
                "{} {} {}: {} (own {:.3} ms, libtorch {:.3} ms)",
                name_of(choice.op),
                name_of(choice.precision),
                name_of(choice.size),
                name_of(choice.backend),
                choice.own_ns as f64 / 1e6,
                choice.libtorch_ns as f64 / 1e6,
            ),
        )?;
    }
    Ok(())
}

fn devices() -> String {
    match cuda() {
        Cuda::Devices(count) => {
            let names: Vec<String> = (0..*count).map(|index| format!("cuda:{index}")).collect();
            format!("cpu, {}", names.join(", "))
        }
        Cuda::None(reason) => format!("cpu (no CUDA: {reason})"),
    }
}

/// One line: a label and what was found.
fn row(label: &str, found: &str) -> Result<()> {
    print_line(&format!("{label:<16}{found}"))
}
