//! From a corpus to a dataset in the cache, once; after that, opening it takes milliseconds.
//!
//! A dataset is a folder of the cache, named by a hash of all that decides its contents. It is
//! made under another name and then renamed, under a lock, so that a folder of the right name is
//! whole.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::corpus::Corpus;
use crate::error::{Error, Result};
use crate::progress::{Meter, Phase, Progress};
use crate::random::unit_hash;
use crate::rounds::for_each_round;
use crate::shard::{self, ShardWriter, TokenShard};
use crate::tokenizer::{
    CacheStore, TextTokenizer, Vocabulary, encode_chunk, tokenizer_file, train_tokenizer,
};
use crate::unigram;

/// Changes whenever the same inputs would give another dataset.
const FORMAT: u32 = 1;

/// Which tokenizer to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenizerChoice {
    /// One trained on the corpus.
    Train {
        /// The most tokens it may have.
        vocab_size: usize,
    },
    /// One from a `tokenizer.json`, a `vocab.txt`, or a folder with one of them.
    Load(PathBuf),
}

/// What to make a dataset of.
#[derive(Debug, Clone)]
pub struct DatasetOptions {
    /// Text files, and folders of `.txt` files.
    pub corpus: Vec<PathBuf>,
    /// Which tokenizer to use.
    pub tokenizer: TokenizerChoice,
    /// The share of documents that is held out: above 0, at most 0.5. At least one document is
    /// held out and at least one is not.
    pub held_out_fraction: f64,
    /// The folder that keeps datasets. It is made if it is missing.
    pub cache: PathBuf,
}

/// A corpus as tokens, split in two.
#[derive(Debug)]
pub struct Dataset {
    /// What made the tokens.
    pub tokenizer: TextTokenizer,
    /// Documents to train on.
    pub train: Arc<TokenShard>,
    /// Documents to measure the loss on.
    pub held_out: Arc<TokenShard>,
    /// Numbers that took a pass over the data.
    pub summary: Summary,
    /// Its folder in the cache.
    pub folder: PathBuf,
}

/// What is known of a dataset without reading its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The tokenizer's size and special tokens.
    pub vocabulary: Vocabulary,
    /// Entropy of the token frequencies in the whole corpus, in nats.
    pub unigram_entropy: f64,
    /// Loss on held-out tokens of a model that predicts the training tokens' frequencies, each
    /// raised by one, in nats.
    pub held_out_unigram_loss: f64,
}

/// Finds the dataset in the cache, or makes it.
///
/// `progress` is called on this thread, only while a dataset is made.
///
/// # Errors
/// What [`Corpus::open`] and [`TextTokenizer::load`] refuse; text that is not UTF-8; a corpus of
/// fewer than two documents; a cache folder that can't be written or holds a damaged dataset.
pub fn prepare(options: &DatasetOptions, progress: &mut dyn FnMut(Progress)) -> Result<Dataset> {
    let fraction = options.held_out_fraction;
    if !(fraction > 0.0 && fraction <= 0.5) {
        return Err(Error::setting("the held-out fraction", fraction, "above 0 and at most 0.5"));
    }
    let corpus = Corpus::open(&options.corpus)?;
    let folder = options.cache.join(key(&corpus, options)?);
    if folder.is_dir() {
        return open(&folder);
    }
    fs::create_dir_all(&options.cache)
        .map_err(Error::io("create the cache folder", &options.cache))?;
    let _lock = lock(&folder.with_extension("lock"), progress)?;
    if !folder.is_dir() {
        make(&corpus, options, &folder, progress)?;
    }
    open(&folder)
}

/// The name of a dataset: a hash of all that decides its contents.
///
/// A file of the corpus counts as unchanged if its path, length and time are.
fn key(corpus: &Corpus, options: &DatasetOptions) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(&FORMAT.to_le_bytes());
    add(&shard::VERSION.to_le_bytes());
    add(&options.held_out_fraction.to_le_bytes());
    match &options.tokenizer {
        TokenizerChoice::Train { vocab_size } => {
            add(b"train");
            add(&(*vocab_size as u64).to_le_bytes());
        }
        TokenizerChoice::Load(path) => {
            let file = tokenizer_file(path)?;
            add(b"load");
            add(file.extension().unwrap_or_default().as_encoded_bytes());
            add(&fs::read(&file).map_err(Error::io("read the tokenizer", &file))?);
        }
    }
    for file in corpus.files() {
        let since = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        add(file.path.as_os_str().as_encoded_bytes());
        add(&file.bytes.to_le_bytes());
        add(&since.as_nanos().to_le_bytes());
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

/// Waits until no other process holds the lock; it is released when the file is dropped.
fn lock(path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<File> {
    let file = File::create(path).map_err(Error::io("create the lock file", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            Meter::new(Phase::WaitForOther, 0).report(0, progress);
            file.lock().map_err(Error::io("lock", path))?;
        }
        Err(fs::TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
    }
    Ok(file)
}

fn open(folder: &Path) -> Result<Dataset> {
    let tokenizer_path = folder.join("tokenizer.json");
    let tokenizer = TextTokenizer::load(&tokenizer_path)?;
    let summary_path = folder.join("summary.json");
    let summary =
        fs::read(&summary_path).map_err(Error::io("read the cached dataset", &summary_path))?;
    let summary = serde_json::from_slice(&summary).map_err(|error| Error::Cache {
        path: summary_path,
        reason: error.to_string(),
        remedy: folder.to_owned(),
    })?;
    Ok(Dataset {
        tokenizer,
        train: open_shard(folder, "train.tokens")?,
        held_out: open_shard(folder, "held_out.tokens")?,
        summary,
        folder: folder.to_owned(),
    })
}

/// Opens a token file of a dataset; if it is damaged, the whole dataset is to be deleted.
fn open_shard(folder: &Path, name: &str) -> Result<Arc<TokenShard>> {
    match TokenShard::open(&folder.join(name)) {
        Ok(shard) => Ok(Arc::new(shard)),
        Err(Error::Cache { path, reason, .. }) => {
            Err(Error::Cache { path, reason, remedy: folder.to_owned() })
        }
        Err(error) => Err(error),
    }
}

/// Makes the dataset beside its final place and renames it.
fn make(
    corpus: &Corpus,
    options: &DatasetOptions,
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::io("remove the unfinished", &partial))?;
    }
    fs::create_dir(&partial).map_err(Error::io("create the cache folder", &partial))?;
    let tokenizer = match &options.tokenizer {
        TokenizerChoice::Train { vocab_size } => train_tokenizer(corpus, *vocab_size, progress)?,
        TokenizerChoice::Load(path) => TextTokenizer::load(path)?,
    };
    tokenizer.save(&partial.join("tokenizer.json"))?;
    let mut split = Split::create(&partial, &tokenizer, options.held_out_fraction)?;
    let meter = Meter::new(Phase::Tokenize, corpus.bytes());
    let caches = CacheStore::default();
    for_each_round(
        corpus.chunks(),
        |chunk| Ok((encode_chunk(&tokenizer, &caches, &chunk.text)?, chunk.bytes)),
        |(encoded, bytes)| {
            let mut start = 0;
            for &end in &encoded.ends {
                split.push(&encoded.tokens[start..end])?;
                start = end;
            }
            meter.advance(bytes, progress);
            Ok(())
        },
    )?;
    let summary = split.finish(corpus)?;
    let text = serde_json::to_vec_pretty(&summary).map_err(|error| Error::Cache {
        path: partial.join("summary.json"),
        reason: error.to_string(),
        remedy: partial.clone(),
    })?;
    let summary_path = partial.join("summary.json");
    fs::write(&summary_path, text).map_err(Error::io("write", &summary_path))?;
    fs::rename(&partial, folder).map_err(Error::io("rename the finished", &partial))
}

/// Two token files, filled from one stream of documents.
///
/// The newest document waits until the next one comes, so that the last can go where it is needed
/// if chance left one side empty.
struct Split {
    train: Side,
    held_out: Side,
    fraction: f64,
    vocabulary: Vocabulary,
    waiting: Option<Vec<u32>>,
    index: u64,
}

struct Side {
    writer: ShardWriter,
    counts: Vec<u64>,
}

impl Side {
    fn push(&mut self, tokens: &[u32]) -> Result<()> {
        for &id in tokens {
            self.counts[id as usize] += 1;
        }
        self.writer.push(tokens)
    }

    fn is_empty(&self) -> bool {
        self.writer.document_count() == 0
    }
}

impl Split {
    fn create(folder: &Path, tokenizer: &TextTokenizer, fraction: f64) -> Result<Self> {
        let vocabulary = tokenizer.vocabulary();
        let fingerprint = tokenizer.fingerprint()?;
        let side = |name| -> Result<Side> {
            let writer = ShardWriter::create(&folder.join(name), vocabulary.size, fingerprint)?;
            Ok(Side { writer, counts: vec![0; vocabulary.size] })
        };
        let (train, held_out) = (side("train.tokens")?, side("held_out.tokens")?);
        Ok(Self { train, held_out, fraction, vocabulary, waiting: None, index: 0 })
    }

    fn push(&mut self, tokens: &[u32]) -> Result<()> {
        let mut next = self.waiting.take().unwrap_or_default();
        if !next.is_empty() {
            let held_out = unit_hash(self.index) < self.fraction;
            self.index += 1;
            if held_out { self.held_out.push(&next)? } else { self.train.push(&next)? }
        }
        next.clear();
        next.extend_from_slice(tokens);
        self.waiting = Some(next);
        Ok(())
    }

    fn finish(mut self, corpus: &Corpus) -> Result<Summary> {
        let last = self.waiting.take().ok_or_else(|| corpus.no_documents())?;
        if self.train.is_empty() && self.held_out.is_empty() {
            return Err(Error::Corpus {
                path: corpus.files()[0].path.clone(),
                reason: "holds only one document, and one must be held out; separate documents \
                         by blank lines"
                    .into(),
            });
        }
        let held_out = !self.train.is_empty()
            && (self.held_out.is_empty() || unit_hash(self.index) < self.fraction);
        if held_out {
            self.held_out.push(&last)?
        } else {
            self.train.push(&last)?
        }
        let all: Vec<u64> =
            self.train.counts.iter().zip(&self.held_out.counts).map(|(a, b)| a + b).collect();
        let summary = Summary {
            vocabulary: self.vocabulary,
            unigram_entropy: unigram::entropy(&all),
            held_out_unigram_loss: unigram::cross_entropy(
                &self.train.counts,
                &self.held_out.counts,
            ),
        };
        self.train.writer.finish()?;
        self.held_out.writer.finish()?;
        Ok(summary)
    }
}
