//! `bert4rs report`: curves of runs, in one file.

use std::process::ExitCode;

use bert4rs_tensor_core::safetensors::write_atomic;
use bert4rs_train::Result;
use bert4rs_train::output::print_line;
use bert4rs_train::report::{RecordedRun, report};

use super::refuse;
use crate::flags::ReportFlags;

pub(crate) fn run(flags: &ReportFlags) -> Result<ExitCode> {
    let out = &flags.out;
    if out.exists() && !flags.overwrite {
        return Err(refuse(out, "exists; choose another file with --out, or add --overwrite"));
    }
    let runs: Vec<RecordedRun> =
        flags.runs.iter().map(|path| RecordedRun::read(path)).collect::<Result<_>>()?;
    write_atomic(out, report(&runs).as_bytes())?;
    print_line(&format!("{} runs in {}", runs.len(), out.display()))?;
    Ok(ExitCode::SUCCESS)
}
