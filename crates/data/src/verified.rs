//! Which files of a dataset were found to be whole, so that each is read in full only once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::shard::ShardFile;

/// The file, in a dataset's folder, that remembers it.
pub(crate) const FILE: &str = "verified.json";

/// What changes whenever somebody writes to a file: its length and its times, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    bytes: u64,
    modified: i64,
    changed: i64,
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata =
            File::open(path).and_then(|file| file.metadata()).map_err(Error::io("read", path))?;
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Ok(Self {
            bytes: metadata.len(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// Verifies those of `shards`, which lie in `folder`, that are used for the first time or have
/// changed since. `report` hears how many tokens were read, and how many there are to read.
///
/// # Errors
/// As [`TokenStore::verify`](crate::TokenStore::verify).
pub(crate) fn verify_changed(
    folder: &Path,
    shards: &[&ShardFile],
    vocab_size: usize,
    report: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let list = folder.join(FILE);
    // What can't be read was not verified; then it is done again.
    let known: BTreeMap<String, Stamp> = fs::read(&list)
        .ok()
        .and_then(|json| serde_json::from_slice(&json).ok())
        .unwrap_or_default();
    let mut stamps = BTreeMap::new();
    let mut changed = Vec::new();
    for &shard in shards {
        let name = shard.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stamp = Stamp::of(shard.path())?;
        if known.get(&name) != Some(&stamp) {
            changed.push(shard);
        }
        stamps.insert(name, stamp);
    }
    let total = changed.iter().map(|shard| shard.tokens()).sum();
    let mut done = 0;
    for shard in &changed {
        shard.verify(vocab_size)?;
        done += shard.tokens();
        report(done, total);
    }
    if !changed.is_empty()
        && let Ok(json) = serde_json::to_vec_pretty(&stamps)
    {
        // In a cache that can't be written to, they are verified each time.
        let _ = bert4rs_tensor_core::safetensors::write_atomic(&list, &json);
    }
    Ok(())
}
