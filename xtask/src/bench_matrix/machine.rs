//! What a report was made on.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::checkout;
use crate::setup::EXPECTED;

/// Features that decide which kernels run.
const CPU_FEATURES: [&str; 9] = [
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_int8",
];

/// Hardware, system and versions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct MeasuredMachine {
    pub(crate) cpu: String,
    /// Of those that kernels use.
    pub(crate) cpu_features: Vec<String>,
    pub(crate) cores: usize,
    pub(crate) memory_bytes: u64,
    /// Names of GPUs with their driver's version.
    pub(crate) gpus: Vec<String>,
    pub(crate) system: String,
    pub(crate) rustc: String,
    pub(crate) libtorch: String,
    /// The commit, with `+` if the checkout had changes.
    pub(crate) commit: String,
    /// SHA-256 of the program.
    pub(crate) program: String,
    /// Processes that waited for a core when the matrix began, on average over a minute.
    pub(crate) load_at_start: f64,
}

impl MeasuredMachine {
    /// Asks the system.
    pub(crate) fn of(root: &Path, program_hash: &str) -> Self {
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| -> String {
            let line = cpuinfo.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim());
            value.unwrap_or("unknown").to_owned()
        };
        let flags = field("flags");
        let has = |feature: &&str| flags.split(' ').any(|flag| flag == *feature);
        Self {
            cpu: field("model name"),
            cpu_features: CPU_FEATURES.iter().filter(|f| has(f)).map(|f| (*f).into()).collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(&read("/proc/meminfo")),
            gpus: gpus(),
            system: system(),
            rustc: output("rustc", &["--version"]).unwrap_or_else(|| "unknown".into()),
            libtorch: EXPECTED.to_owned(),
            commit: checkout::commit(root),
            program: program_hash.to_owned(),
            load_at_start: load(),
        }
    }

    /// Whether something else was running when the matrix began.
    pub(crate) fn was_busy_at_start(&self) -> bool {
        self.load_at_start > 0.5 * self.cores as f64
    }

    /// Label and value of each line of a report.
    pub(crate) fn lines(&self) -> Vec<(&'static str, String)> {
        let gib = self.memory_bytes as f64 / f64::from(1 << 30);
        let mut lines = vec![
            ("CPU", format!("{}, {} cores", self.cpu, self.cores)),
            ("CPU features", self.cpu_features.join(" ")),
            ("Memory", format!("{gib:.0} GiB")),
        ];
        if !self.gpus.is_empty() {
            lines.push(("GPU", self.gpus.join("; ")));
        }
        lines.extend([
            ("System", self.system.clone()),
            ("Versions", format!("{}, libtorch {}", self.rustc, self.libtorch)),
            ("Commit", self.commit.clone()),
            ("Program", format!("SHA-256 {}", &self.program.get(..16).unwrap_or(&self.program))),
            ("Load at start", format!("{:.2}", self.load_at_start)),
        ]);
        lines
    }
}

/// The GPUs that a driver is there for.
pub(crate) fn gpus() -> Vec<String> {
    let query = ["--query-gpu=name,driver_version", "--format=csv,noheader"];
    let text = output("nvidia-smi", &query).unwrap_or_default();
    text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
}

/// Processes that run or wait for a core, on average over the last minute.
fn load() -> f64 {
    read("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0)
}

fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo.lines().find(|line| line.starts_with("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

fn system() -> String {
    let release = read("/etc/os-release");
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{}, kernel {}", name.unwrap_or("Linux").trim_matches('"'), kernel.trim())
}

/// What a program prints, if it succeeds.
pub(crate) fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_described() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let machine = MeasuredMachine::of(root, "abc");
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 28, "{machine:?}");
        assert!(
            machine.lines().iter().all(|(label, value)| !label.is_empty() && !value.is_empty())
        );
        assert_eq!(memory_bytes("MemFree: 1 kB\nMemTotal:   2048 kB\n"), 2048 * 1024);
    }
}
