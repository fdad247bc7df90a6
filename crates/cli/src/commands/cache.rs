//! `bert4rs cache`: what lies in the cache, and what nobody uses removed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use bert4rs_train::cache::{Entry, Kind, entries, root};
use bert4rs_train::output::print_line;
use bert4rs_train::{Result, in_units};

use crate::flags::{CacheAction, CacheFlags};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn run(flags: &CacheFlags) -> Result<ExitCode> {
    let root = root()?;
    let found = entries(&root)?;
    match &flags.action {
        None => {
            for entry in &found {
                let path = entry.path.strip_prefix(&root).unwrap_or(&entry.path).display();
                let size = in_units(entry.bytes);
                print_line(&format!("{size:>9}  {path}: {}", describe(entry)))?;
            }
            let sum = found.iter().map(|entry| entry.bytes).sum();
            print_line(&format!("{:>9}  in {}", in_units(sum), root.display()))?;
        }
        Some(CacheAction::Trim { older_than }) => trim(&found, *older_than)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(entry: &Entry) -> String {
    match &entry.kind {
        Kind::Dataset(runs) => used("tokenized text", runs),
        Kind::Input(runs) => used("standard input", runs),
        Kind::Leftover => "left by a process that was killed".into(),
        Kind::Other => "kept".into(),
    }
}

/// What it is, and of which runs.
fn used(what: &str, runs: &BTreeSet<PathBuf>) -> String {
    if runs.is_empty() {
        return format!("{what} that no run uses");
    }
    let runs: Vec<String> = runs.iter().map(|run| run.display().to_string()).collect();
    format!("{what} of {}", runs.join(", "))
}

fn trim(found: &[Entry], older_than_days: u32) -> Result<()> {
    let mut freed = 0;
    for entry in found.iter().filter(|entry| entry.may_go(DAY * older_than_days)) {
        if entry.remove()? {
            freed += entry.bytes;
            print_line(&format!("removed {}", entry.path.display()))?;
        } else {
            print_line(&format!("{} is just being made; kept", entry.path.display()))?;
        }
    }
    print_line(&format!("{} freed", in_units(freed)))
}
