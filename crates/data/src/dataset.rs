//! A prepared corpus: a tokenizer and tokens, in a folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::progress::{Phase, Progress};
use crate::sealed;
use crate::shard::{ShardFile, TokenStore, shard_path};
use crate::summary::DatasetSummary;
use crate::tokenizer::TextTokenizer;
use crate::verified::{self, verify_changed};

pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// What the files of tokens are called.
pub(crate) const TRAIN: &str = "train";
pub(crate) const HELD_OUT: &str = "held_out";
pub(crate) const SUMMARY: &str = "summary.json";

/// A corpus as tokens, split in two.
#[derive(Debug)]
pub struct Dataset {
    /// What made the tokens.
    pub tokenizer: TextTokenizer,
    /// Documents to train on.
    pub train: Arc<TokenStore>,
    /// Documents to measure the loss on.
    pub held_out: Arc<TokenStore>,
    /// Numbers that took a pass over the data.
    pub summary: DatasetSummary,
    /// What a user should know before training: files that were left out, unknown tokens.
    pub notes: Vec<String>,
    /// Its folder in the cache.
    pub folder: PathBuf,
}

impl Dataset {
    /// Whether `folder` holds a dataset.
    pub fn is_in(folder: &Path) -> bool {
        [TOKENIZER, SUMMARY].iter().all(|name| folder.join(name).is_file())
    }

    /// Opens the dataset in `folder`. Files that are used for the first time, or have changed
    /// since, are verified.
    ///
    /// # Errors
    /// A folder whose files are damaged or don't belong together.
    pub fn open(folder: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Self> {
        read(folder, progress)
            .map_err(|error| Error::Cache { folder: folder.to_owned(), reason: error.to_string() })
    }

    /// Copies it to `folder`, which does not exist. What is there in the end is whole.
    ///
    /// # Errors
    /// A folder that exists; a place that can't be written.
    pub fn copy_to(&self, folder: &Path) -> Result<()> {
        if folder.exists() {
            let reason = "exists; choose another folder, or remove this one".to_owned();
            return Err(Error::Shard { path: folder.to_owned(), reason });
        }
        let partial = folder.with_extension("partial");
        fs::create_dir_all(&partial).map_err(Error::io("create the folder", &partial))?;
        let io = || Error::io("list", &self.folder);
        for entry in fs::read_dir(&self.folder).map_err(io())? {
            let name = entry.map_err(io())?.file_name();
            if name != verified::FILE {
                let (from, to) = (self.folder.join(&name), partial.join(&name));
                fs::copy(from, &to).map_err(Error::io("write", &to))?;
            }
        }
        fs::rename(&partial, folder).map_err(Error::io("rename the finished", &partial))
    }
}

fn read(folder: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Dataset> {
    let path = folder.join(TOKENIZER);
    let json = fs::read(&path).map_err(Error::io("read the tokenizer", &path))?;
    let fingerprint = *blake3::hash(&json).as_bytes();
    let tokenizer = TextTokenizer::from_json(&path, &json)?;
    let summary: DatasetSummary = sealed::read(&folder.join(SUMMARY))?;
    let store = |name, shards| {
        let paths: Vec<PathBuf> =
            (0..shards).map(|number| shard_path(folder, name, number)).collect();
        let store = TokenStore::open_all(&paths)?;
        match store.files().iter().find(|file| *file.fingerprint() != fingerprint) {
            None => Ok(Arc::new(store)),
            Some(other) => {
                let reason = format!("was not made with {}", path.display());
                Err(Error::Shard { path: other.path().to_owned(), reason })
            }
        }
    };
    let train = store(TRAIN, summary.train_shards)?;
    let held_out = store(HELD_OUT, summary.held_out_shards)?;
    let files: Vec<&ShardFile> = train.files().iter().chain(held_out.files()).collect();
    verify_changed(folder, &files, tokenizer.vocab_size(), &mut |done, total| {
        progress(Progress { phase: Phase::Verify, done, total });
    })?;
    let (notes, folder) = (summary.notes(), folder.to_owned());
    Ok(Dataset { tokenizer, train, held_out, summary, notes, folder })
}
