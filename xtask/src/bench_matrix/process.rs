//! A process with a time limit, whose output goes to a file.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a running process is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Lines of output that a failure is told by, where no line says `error`.
const LAST_LINES: usize = 3;

/// Runs a command to its end; the error is what it said.
pub(crate) fn run(command: &mut Command, log: &Path, limit: Duration) -> Result<(), String> {
    let at = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    let output = File::create(log).map_err(|error| at(log, error))?;
    let also = output.try_clone().map_err(|error| at(log, error))?;
    command.stdin(Stdio::null()).stdout(output).stderr(also);
    let program = command.get_program().to_owned();
    let child = command.spawn().map_err(|error| at(Path::new(&program), error))?;
    match wait(child, limit).map_err(|error| at(Path::new(&program), error))? {
        Some(status) if status.success() => Ok(()),
        Some(status) => {
            let text = fs::read(log).unwrap_or_default();
            Err(reason(&String::from_utf8_lossy(&text), &status.to_string()))
        }
        None => Err(format!("ended after its limit of {} s", limit.as_secs())),
    }
}

/// Waits; after `limit` the process is ended, and there is no status.
fn wait(mut child: Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(LOOK);
    }
}

/// The last line that says what failed (ours begin with `error:`, Python's name an exception),
/// else the last lines. Of several processes it is the first such line: the others fail because
/// that one did.
fn reason(output: &str, status: &str) -> String {
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let is_error = |line: &&&str| {
        let first = line.split(':').next().unwrap_or_default();
        first == "error" || (first.ends_with("Error") && !first.contains(' '))
    };
    let of_rank = |line: &&&str| unmarked(line).is_some_and(|line| is_error(&&line));
    let told = lines.iter().find(of_rank).or_else(|| lines.iter().rev().find(is_error));
    match told {
        Some(line) => (*line).to_owned(),
        None if lines.is_empty() => status.to_owned(),
        None => {
            let last = &lines[lines.len().saturating_sub(LAST_LINES)..];
            format!("{status}: {}", last.join(" / "))
        }
    }
}

/// What a process of `bert4rs launch` wrote, of a line that the launcher marked with its rank.
fn unmarked(line: &str) -> Option<&str> {
    let (rank, text) = line.strip_prefix('[')?.split_once("] ")?;
    rank.parse::<u32>().is_ok().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        run(Command::new("sh").args(["-c", script]), &folder.path().join("log.txt"), limit)
    }

    #[test]
    fn a_failure_is_told_in_the_program_s_own_words() {
        let limit = Duration::from_secs(20);
        assert_eq!(sh("echo all is well", limit), Ok(()));
        let told = sh("echo step 1; echo 'error: no such preset' >&2; exit 2", limit);
        assert_eq!(told, Err("error: no such preset".to_owned()));
        let python = "echo Traceback; echo 'ValueError: bad shape' >&2; exit 1";
        assert_eq!(sh(python, limit), Err("ValueError: bad shape".to_owned()));
        let ranks = "echo '[1] error: no such file'; echo '[0] error: rank 1 ended'; exit 1";
        assert_eq!(sh(ranks, limit), Err("[1] error: no such file".to_owned()));
        let silent = sh("kill -9 $$", limit).unwrap_err();
        assert!(silent.contains("signal: 9"), "{silent}");
        assert!(sh("echo a; echo b; exit 3", limit).unwrap_err().ends_with("a / b"));
    }

    #[test]
    fn a_process_that_hangs_is_ended() {
        let started = Instant::now();
        let told = sh("exec sleep 30", Duration::from_millis(100)).unwrap_err();
        assert!(told.contains("limit"), "{told}");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
