//! Full and read-only disks: small tmpfs mounts, for which one must be root.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::bench::{Bench, checkpoints};
use super::broken;
use crate::error::{Error, Result};

/// Room for the run with its checkpoints, and some.
const SIZE: &str = "size=64m";

/// A mount that ends with its value.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// None where one may not mount.
    fn mount(path: &Path) -> Result<Option<Self>> {
        fs::create_dir_all(path).map_err(Error::at(path))?;
        let mounted = mount(&["-t", "tmpfs", "-o", SIZE, "bert4rs-torture"], path);
        Ok(mounted.then(|| Self(path.to_owned())))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn mount(args: &[&str], path: &Path) -> bool {
    let status = Command::new("mount").args(args).arg(path).status();
    status.is_ok_and(|status| status.success())
}

/// Fills a disk while a run trains on it, and makes it read-only.
pub(super) fn run(bench: &Bench) -> Result<String> {
    let Some(disk) = Tmpfs::mount(&bench.folder().join("disk"))? else {
        return Ok("left out: only root may mount a tmpfs".into());
    };
    let run = disk.0.join("run");
    full_for_a_while(bench, &run)?;
    full_to_the_end(bench, &run)?;
    full_and_must_write(bench, &run)?;
    read_only(bench, &disk, &run)?;
    Ok("full for a while: trained on, warned, equal to the bit; full to the end: warned, the model \
        whole and equal; full with checkpoint.must_write: ended with 1; read-only: refused with 2"
        .into())
}

/// Starts the run and fills its disk once there is a checkpoint.
fn start_and_fill(
    bench: &Bench,
    run: &Path,
    more: &[&str],
) -> Result<(std::process::Child, PathBuf)> {
    let child = bench.start(run, more)?;
    let began = Instant::now();
    while checkpoints(run).is_empty() {
        if began.elapsed() > Duration::from_secs(120) {
            return Err(broken("the run on the small disk wrote no checkpoint"));
        }
        sleep(Duration::from_millis(2));
    }
    let filler = run.with_file_name("filler");
    let mut file = fs::File::create(&filler).map_err(Error::at(&filler))?;
    // Large pieces first, then what is left.
    for size in [1 << 20, 4096, 1] {
        let piece = vec![0u8; size];
        while file.write_all(&piece).is_ok() {}
    }
    Ok((child, filler))
}

fn output(bench: &Bench) -> String {
    fs::read_to_string(bench.folder().join("output.txt")).unwrap_or_default()
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(Error::at(path))
}

fn full_for_a_while(bench: &Bench, run: &Path) -> Result<()> {
    let (mut child, filler) = start_and_fill(bench, run, &[])?;
    let began = Instant::now();
    while !output(bench).contains("not written") && began.elapsed() < Duration::from_secs(20) {
        sleep(Duration::from_millis(5));
    }
    remove(&filler)?;
    let status = child.wait().map_err(Error::at(run))?;
    let shown = output(bench);
    if !status.success() || !shown.contains("not written") {
        return Err(broken(format!("a disk that was full for a while: {status}: {shown}")));
    }
    bench.check_result(run)?;
    remove(run)
}

fn full_to_the_end(bench: &Bench, run: &Path) -> Result<()> {
    let (mut child, filler) = start_and_fill(bench, run, &[])?;
    let status = child.wait().map_err(Error::at(run))?;
    let shown = output(bench);
    if !status.success() || !shown.contains("not written") {
        return Err(broken(format!("a disk that was full to the end: {status}: {shown}")));
    }
    for name in ["model.safetensors", "model-ema/model.safetensors"] {
        let read = |path: PathBuf| fs::read(&path).map_err(Error::at(&path));
        if read(run.join(name))? != read(bench.whole().join(name))? {
            return Err(broken(format!("{name} on a full disk is not as in an undisturbed run")));
        }
    }
    remove(&filler)?;
    remove(run)
}

fn full_and_must_write(bench: &Bench, run: &Path) -> Result<()> {
    let must = ["--set", "checkpoint.must_write=true"];
    let (mut child, filler) = start_and_fill(bench, run, &must)?;
    let status = child.wait().map_err(Error::at(run))?;
    if status.code() != Some(1) {
        return Err(broken(format!("must_write on a full disk: {status}: {}", output(bench))));
    }
    remove(&filler)?;
    bench.finish(run, &[&must[..], &["--resume", "auto"]].concat())?;
    bench.check_result(run)?;
    remove(run)
}

fn read_only(bench: &Bench, disk: &Tmpfs, run: &Path) -> Result<()> {
    bench.finish(run, &[])?;
    if !mount(&["-o", "remount,ro"], &disk.0) {
        return Err(broken("the small disk could not be made read-only"));
    }
    let output = bench.output(run, &["--resume", "auto"])?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.code() != Some(2) || !error.contains("run") {
        return Err(broken(format!("a read-only disk: {}: {error}", output.status)));
    }
    Ok(())
}
