//! The file of a run's metrics, new or gone on with.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use bert4rs_tensor_core::Error as Core;
use serde::Deserialize;

use crate::error::{Error, Result};

/// Makes the file at `path`.
pub(super) fn create(path: &Path) -> Result<File> {
    File::options().append(true).create_new(true).open(path).map_err(Error::io(path))
}

/// Opens the file at `path` to append to, without the lines after `last_step` and one that was
/// being written when the process ended.
pub(crate) fn keep_until(path: &Path, last_step: u64) -> Result<File> {
    #[derive(Deserialize)]
    struct Line {
        step: u64,
    }
    let file = File::open(path).map_err(Error::io(path))?;
    let mut kept = Vec::new();
    let mut lines = BufReader::new(file).split(b'\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        let line = line.map_err(Error::io(path))?;
        match serde_json::from_slice::<Line>(&line) {
            Ok(Line { step }) if step > last_step => {}
            Ok(_) => {
                kept.extend(line);
                kept.push(b'\n');
            }
            Err(_) if lines.peek().is_none() => {}
            Err(error) => {
                let reason = format!("line {}: not a step's record: {error}", number + 1);
                return Err(Core::File { path: path.to_owned(), reason }.into());
            }
        }
    }
    super::write(path, &kept)?;
    File::options().append(true).open(path).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::JsonLinesSink;

    #[test]
    fn a_run_goes_on_without_a_gap_or_a_repeated_step() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let line = |step: u64| format!("{{\"step\":{step},\"loss\":1.5}}\n");
        std::fs::write(&path, [line(1), line(2), line(3), "{\"step\":4,\"lo".into()].concat())
            .unwrap();
        let mut metrics = JsonLinesSink::new(path.clone(), keep_until(&path, 2).unwrap());
        metrics.append(&[serde_json::json!({ "step": 3 })]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, [line(1), line(2), "{\"step\":3}\n".into()].concat());

        std::fs::write(&path, ["half\n".into(), line(2)].concat()).unwrap();
        let error = keep_until(&path, 2).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl: line 1"), "{error}");
    }
}
