//! `bert4rs doctor`: what this machine and this libtorch can do.

mod memory;
mod probe;
mod selftest;

use std::process::ExitCode;

use bert4rs_tensor_core::device::{Cuda, DeviceChoice, cuda};
use bert4rs_tensor_core::{cpu, get_num_threads, library};
use bert4rs_train::output::print_line;
use bert4rs_train::{Error, Result};

use crate::flags::DoctorFlags;

pub(crate) fn run(flags: &DoctorFlags) -> Result<ExitCode> {
    if flags.memory {
        return memory::run(&flags.config);
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
    row("attention", &probe::attention(device))?;
    if flags.selftest { selftest::run(device) } else { Ok(ExitCode::SUCCESS) }
}

fn library_and_cpu() -> Result<()> {
    let folder = library::folder().map_or("unknown".into(), |path| path.display().to_string());
    row("libtorch", &format!("{} in {folder}", library::version()))?;
    row("CPU", &cpu::name())?;
    let features = cpu::CpuFeatures::detect();
    let yes_no = |has: bool| if has { "yes" } else { "no" };
    row(
        "CPU features",
        &format!(
            "AVX2+FMA {}, AVX-512 {}, AVX-512 BF16 {}, AMX BF16 {}; libtorch uses {}",
            yes_no(features.avx2_fma),
            yes_no(features.avx512),
            yes_no(features.avx512_bf16),
            yes_no(features.amx_bf16),
            library::cpu_capability()
        ),
    )?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    row("threads", &format!("{} of {cores} cores", get_num_threads()))
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
