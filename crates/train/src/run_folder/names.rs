//! What a run may leave, by name: nothing else in its folder is ever touched.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

/// Every value of the run.
pub const CONFIG: &str = "config.toml";
/// An object a step.
pub const METRICS: &str = "metrics.jsonl";
/// What came of the run.
pub const SUMMARY: &str = "summary.json";
/// Whether the run goes on, and how it ended.
pub const STATE: &str = "run.json";
/// Folders of training states, one a step.
pub const CHECKPOINTS: &str = "checkpoints";
/// The average of the weights, as a model folder.
pub const AVERAGE: &str = "model-ema";
/// TensorBoard's event files.
pub const TENSORBOARD: &str = "tensorboard";
/// Marks a folder as a run, and is locked while a process writes it.
pub(super) const MARKER: &str = ".bert4rs-run";
/// Disk space kept for the model.
pub(super) const RESERVE: &str = ".reserved";

const FILES: [&str; 24] = [
    METRICS,
    SUMMARY,
    crate::backends::FILE,
    STATE,
    RESERVE,
    crate::profile::TABLE_FILE,
    crate::profile::TRACE_FILE,
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    // Beside the weights of models that were fine-tuned.
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "generation_config.json",
    // Of models that make vectors of texts.
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    // The last, as it tells that the folder holds a run.
    CONFIG,
];

const FOLDERS: [&str; 8] = [
    CHECKPOINTS,
    TENSORBOARD,
    AVERAGE,
    // Low-rank adapters, and what sentence-transformers reads.
    "adapter",
    "1_Pooling",
    "2_Dense",
    "3_Dense",
    "4_Dense",
];

/// Whether `name` is that of a file that was being written when a process ended:
/// `FILE.PROCESS-NUMBER.partial`.
fn is_leftover(name: &str) -> bool {
    let stem = name.strip_suffix(".partial").and_then(|stem| stem.rsplit_once('.'));
    let Some((file, count)) = stem else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    FILES.contains(&file) && count.split_once('-').is_some_and(|(a, b)| digits(a) && digits(b))
}

/// Whether a run leaves entries of this name.
pub(super) fn is_own(name: &str) -> bool {
    name == MARKER || FILES.contains(&name) || FOLDERS.contains(&name) || is_leftover(name)
}

/// Whether `folder` is marked as a run's.
pub(super) fn is_marked(folder: &Path) -> bool {
    folder.join(MARKER).is_file()
}

/// Whether a run began in `folder`, rather than only claimed it.
pub fn holds_run(folder: &Path) -> bool {
    is_marked(folder) && folder.join(CONFIG).exists()
}

/// Removes all that a run left in `folder` but its marker.
pub(super) fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_leftover) {
            fs::remove_file(entry.path())?;
        }
    }
    let absent_is_fine = |outcome: io::Result<()>| match outcome {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    for name in FOLDERS {
        absent_is_fine(fs::remove_dir_all(folder.join(name)))?;
    }
    FILES.iter().try_for_each(|name| absent_is_fine(fs::remove_file(folder.join(name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_leftovers_are_known() {
        assert!(is_own("model.safetensors.123-4.partial"));
        for other in [
            "thesis.pdf.123-4.partial",
            "model.safetensors.partial",
            "model.safetensors.a-4.partial",
            "model.safetensors.123-.partial",
            ".partial",
            "notes.txt",
        ] {
            assert!(!is_own(other), "{other}");
        }
    }
}
