//! From a corpus to a dataset in the cache, once; after that, opening it takes milliseconds.
//!
//! A dataset is a folder of the cache, named by a hash of all that decides its contents. It is
//! made under another name and then renamed, under a lock, so that a folder of the right name is
//! whole.

use std::collections::HashSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use crate::corpus::{Corpus, CorpusReading};
use crate::error::{Error, Result};
use crate::ordered_parallel::ordered_parallel;
use crate::progress::{Phase, Progress, ProgressMeter};
use crate::shard::{self, TokenShard};
use crate::split::DatasetSplit;
use crate::summary::DatasetSummary;
use crate::tokenizer::{
    CacheStore, Objective, TextTokenizer, TokenizerFiles, TokenizerTraining, encode_fragments,
    train_tokenizer,
};
use crate::verified::verify_changed;

/// Changes whenever the same inputs would give another dataset.
const FORMAT: u32 = 3;
const TOKENIZER: &str = "tokenizer.json";
const TRAIN: &str = "train.tokens";
const HELD_OUT: &str = "held_out.tokens";
const SUMMARY: &str = "summary.json";

/// Which tokenizer to use.
#[derive(Debug, Clone, PartialEq)]
pub enum TokenizerChoice {
    /// One trained on the corpus.
    Train(TokenizerTraining),
    /// One of a file or a model folder, as [`TextTokenizer::load`] takes.
    Load(PathBuf),
}

/// What is held out of training, to measure the loss on.
#[derive(Debug, Clone, PartialEq)]
pub enum HeldOut {
    /// A share of the documents, from 0, where none is, to 0.5. At least one document is held out
    /// and at least one is not; of a single document, its end is.
    Share(f64),
    /// These files and folders, as [`Corpus::open`] takes, of which none is part of the corpus.
    Files(Vec<PathBuf>),
}

/// The text of a dataset.
struct Texts {
    corpus: Corpus,
    /// What is held out, where that is no share of the corpus.
    held_out: Option<Corpus>,
}

impl Texts {
    fn open(options: &DatasetOptions) -> Result<Self> {
        let open = |paths: &[PathBuf]| Corpus::open(paths, options.reading.clone());
        let corpus = open(&options.corpus)?;
        let held_out = match &options.held_out {
            HeldOut::Share(_) => None,
            HeldOut::Files(paths) => Some(open(paths)?),
        };
        let known: HashSet<&PathBuf> = corpus.files().iter().map(|file| &file.path).collect();
        let mut files = held_out.iter().flat_map(Corpus::files);
        if let Some(both) = files.find(|file| known.contains(&file.path)) {
            let reason = "is to be held out, but is part of the corpus too; take it out of one";
            return Err(Error::corpus(&both.path, reason));
        }
        Ok(Self { corpus, held_out })
    }

    fn all(&self) -> impl Iterator<Item = &Corpus> {
        std::iter::once(&self.corpus).chain(&self.held_out)
    }
}

/// What to make a dataset of.
#[derive(Debug, Clone)]
pub struct DatasetOptions {
    /// Text files and folders of them, as [`Corpus::open`] takes.
    pub corpus: Vec<PathBuf>,
    /// How they become documents.
    pub reading: CorpusReading,
    /// What is to be learned from it.
    pub objective: Objective,
    /// Which tokenizer to use.
    pub tokenizer: TokenizerChoice,
    /// What is held out of training.
    pub held_out: HeldOut,
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
    pub summary: DatasetSummary,
    /// What a user should know before training: files that were left out, unknown tokens.
    pub notes: Vec<String>,
    /// Its folder in the cache.
    pub folder: PathBuf,
}

/// Finds the dataset in the cache, or makes it.
///
/// `progress` is called on this thread, only while a dataset is made.
///
/// # Errors
/// What [`Corpus::open`] and [`TextTokenizer::load`] refuse; text that is not UTF-8; a corpus
/// without a document, or that changes while it is read; a cache folder that can't be written or
/// holds a damaged dataset.
pub fn prepare(options: &DatasetOptions, progress: &mut dyn FnMut(Progress)) -> Result<Dataset> {
    if let HeldOut::Share(share) = options.held_out
        && !(0.0..=0.5).contains(&share)
    {
        return Err(Error::setting("the held-out share", share, "from 0 to 0.5"));
    }
    let texts = Texts::open(options)?;
    for file in texts.all().flat_map(Corpus::files) {
        tracing::trace!(path = %file.path.display(), bytes = file.bytes, "a file of the corpus");
    }
    let folder = options.cache.join(key(&texts, options)?);
    if folder.is_dir() {
        tracing::debug!(folder = %folder.display(), "tokens are in the cache");
        return open(&folder, &texts, progress);
    }
    tracing::debug!(folder = %folder.display(), bytes = texts.corpus.bytes(), "making tokens");
    fs::create_dir_all(&options.cache)
        .map_err(Error::io("create the cache folder", &options.cache))?;
    let _lock = lock(&folder.with_extension("lock"), progress)?;
    if !folder.is_dir() {
        make(&texts, options, &folder, progress)?;
    }
    open(&folder, &texts, progress)
}

/// The name of a dataset: a hash of all that decides its contents.
///
/// A file of the corpus counts as unchanged if its path, length, time and samples of its contents
/// are.
fn key(texts: &Texts, options: &DatasetOptions) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(&FORMAT.to_le_bytes());
    add(&shard::VERSION.to_le_bytes());
    add(options.objective.name().as_bytes());
    add(options.reading.text_field.as_bytes());
    add(&[options.reading.document_break as u8]);
    match &options.tokenizer {
        TokenizerChoice::Train(training) => {
            add(b"train");
            add(&(training.vocab_size as u64).to_le_bytes());
            add(&training.character_coverage.to_le_bytes());
            add(&[training.byte_fallback.into()]);
        }
        TokenizerChoice::Load(path) => {
            add(b"load");
            for (name, contents) in TokenizerFiles::find(path)?.contents()? {
                add(name.as_bytes());
                add(&contents);
            }
        }
    }
    match &options.held_out {
        HeldOut::Share(share) => add(&share.to_le_bytes()),
        HeldOut::Files(_) => add(&texts.corpus.files().len().to_le_bytes()),
    }
    for file in texts.all().flat_map(Corpus::files) {
        let since = file.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        add(file.path.as_os_str().as_encoded_bytes());
        add(&file.bytes.to_le_bytes());
        add(&since.as_nanos().to_le_bytes());
        add(&file.samples);
    }
    Ok(hasher.finalize().to_hex()[..16].to_owned())
}

/// Waits until no other process holds the lock; it is released when the file is dropped.
fn lock(path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<File> {
    let file = File::create(path).map_err(Error::io("create the lock file", path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => {
            ProgressMeter::new(Phase::WaitForOther, 0).report(0, progress);
            file.lock().map_err(Error::io("lock", path))?;
        }
        Err(fs::TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
    }
    Ok(file)
}

/// Opens a dataset that was made before; if it can't be used, its folder is to be deleted.
fn open(folder: &Path, texts: &Texts, progress: &mut dyn FnMut(Progress)) -> Result<Dataset> {
    let mut dataset = read(folder, progress)
        .map_err(|error| Error::Cache { folder: folder.to_owned(), reason: error.to_string() })?;
    dataset.notes = texts.all().flat_map(Corpus::notes).collect();
    dataset.notes.extend(dataset.summary.notes());
    Ok(dataset)
}

fn read(folder: &Path, progress: &mut dyn FnMut(Progress)) -> Result<Dataset> {
    let path = folder.join(TOKENIZER);
    let json = fs::read(&path).map_err(Error::io("read the tokenizer", &path))?;
    let fingerprint = *blake3::hash(&json).as_bytes();
    let tokenizer = TextTokenizer::from_json(&path, &json)?;
    let shard = |name| {
        let shard = TokenShard::open(&folder.join(name))?;
        if *shard.fingerprint() == fingerprint {
            return Ok(Arc::new(shard));
        }
        let reason = format!("was not made with {}", path.display());
        Err(Error::Shard { path: shard.path().to_owned(), reason })
    };
    let (train, held_out) = (shard(TRAIN)?, shard(HELD_OUT)?);
    let summary = DatasetSummary::read(&folder.join(SUMMARY))?;
    verify_changed(folder, &[&train, &held_out], tokenizer.vocab_size(), &mut |done, total| {
        progress(Progress { phase: Phase::Verify, done, total });
    })?;
    let notes = Vec::new();
    Ok(Dataset { tokenizer, train, held_out, summary, notes, folder: folder.to_owned() })
}

/// Makes the dataset beside its final place and renames it. If that fails, nothing is left behind.
fn make(
    texts: &Texts,
    options: &DatasetOptions,
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(Error::io("remove the unfinished", &partial))?;
    }
    fs::create_dir(&partial).map_err(Error::io("create the cache folder", &partial))?;
    let made = fill(texts, options, &partial, progress).and_then(|()| {
        fs::rename(&partial, folder).map_err(Error::io("rename the finished", &partial))
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&partial);
    }
    made
}

/// Writes all files of a dataset into `folder`.
fn fill(
    texts: &Texts,
    options: &DatasetOptions,
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let tokenizer = match &options.tokenizer {
        TokenizerChoice::Train(training) => {
            train_tokenizer(&texts.corpus, options.objective, *training, progress)?
        }
        TokenizerChoice::Load(path) => TextTokenizer::load(path)?,
    };
    options.objective.check(&tokenizer)?;
    tokenizer.save(&folder.join(TOKENIZER))?;
    let mut split = DatasetSplit::create(&folder.join(TRAIN), &folder.join(HELD_OUT), &tokenizer)?;
    let bytes = texts.all().map(Corpus::bytes).sum();
    let meter = ProgressMeter::new(Phase::Tokenize, bytes);
    let mut report = |read: u64| meter.advance(read, progress);
    match (&options.held_out, &texts.held_out) {
        (HeldOut::Share(share), _) => {
            tokenize(&texts.corpus, *share, &tokenizer, &mut split, &mut report)?;
            split = split.with_both_sides(&texts.corpus, *share)?;
        }
        (HeldOut::Files(_), held_out) => {
            tokenize(&texts.corpus, 0.0, &tokenizer, &mut split, &mut report)?;
            if let Some(corpus) = held_out {
                tokenize(corpus, 1.0, &tokenizer, &mut split, &mut report)?;
            }
        }
    }
    split.finish()?.write(&folder.join(SUMMARY))
}

/// Adds a corpus to `split`, of which about the share `held_out` goes to the held-out side.
fn tokenize(
    corpus: &Corpus,
    held_out: f64,
    tokenizer: &TextTokenizer,
    split: &mut DatasetSplit<'_>,
    report: &mut dyn FnMut(u64),
) -> Result<()> {
    let before = split.document_count();
    let caches = CacheStore::default();
    ordered_parallel(
        corpus.chunks(),
        |chunk| Ok((encode_fragments(tokenizer, &caches, &chunk.fragments)?, chunk.bytes)),
        |(encoded, bytes)| {
            for fragment in encoded.iter() {
                split.push(&fragment, held_out)?;
            }
            report(bytes);
            Ok(())
        },
    )?;
    split.end_document();
    corpus.check_unchanged()?;
    if split.document_count() == before { Err(corpus.no_documents()) } else { Ok(()) }
}
