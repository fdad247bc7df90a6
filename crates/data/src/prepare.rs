//! From a corpus to a dataset in the cache, once; after that, opening it takes milliseconds.
//!
//! A dataset is a folder of the cache, named by a hash of all that decides its contents. It is
//! made under another name and then renamed, under a lock, so that a folder of the right name is
//! whole.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::corpus::{Corpus, CorpusReading};
use crate::dataset::{Dataset, SUMMARY, TOKENIZER};
use crate::duplicates::{self, DuplicateCounts, Duplicates, Found};
use crate::error::{Error, Result};
use crate::ordered_parallel::ordered_parallel;
use crate::progress::{Phase, Progress, ProgressMeter};
use crate::sealed;
use crate::shard;
use crate::split::{DatasetSplit, SplitState};
use crate::tokenizer::{
    CacheStore, Objective, TextTokenizer, TokenizerFiles, TokenizerTraining, encode_fragments,
    train_tokenizer,
};
use crate::unfinished::{State, Unfinished};

/// The list of documents that occur more than once, for people, and which of them are left out.
const DUPLICATES: &str = "duplicates.jsonl";
const DROPPED: &str = "duplicates.json";
/// Changes whenever the same inputs would give another dataset.
const FORMAT: u32 = 4;
/// Tokens of a file, after which another is begun: 64 or 128 MiB.
pub const SHARD_TOKENS: u64 = 1 << 25;

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

    /// The same without what `options` wants to be left out, which is listed and kept in the
    /// folder.
    fn without_duplicates(
        &self,
        options: &DatasetOptions,
        at: &Unfinished,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(Self, Option<DuplicateCounts>)> {
        if options.duplicates != Duplicates::Keep {
            // What is held out comes first, so that none of it is left to train on.
            let held_out = self.held_out.iter().map(|corpus| ("held out", corpus));
            let corpora: Vec<_> = held_out.chain([("training", &self.corpus)]).collect();
            let list = at.folder.join(DUPLICATES);
            let found = duplicates::find(&corpora, options.duplicates, &list, progress)?;
            sealed::write(&at.folder.join(DROPPED), &found)?;
        }
        self.without_known_duplicates(options, at)
    }

    /// The same, of what was looked for before.
    fn without_known_duplicates(
        &self,
        options: &DatasetOptions,
        at: &Unfinished,
    ) -> Result<(Self, Option<DuplicateCounts>)> {
        if options.duplicates == Duplicates::Keep {
            let Self { corpus, held_out } = self;
            return Ok((Self { corpus: corpus.clone(), held_out: held_out.clone() }, None));
        }
        let found: Found = sealed::read(&at.folder.join(DROPPED))?;
        let mut dropped = found.dropped.iter();
        let mut without =
            |corpus: &Corpus| corpus.without(dropped.next().map_or(&[], Vec::as_slice));
        let held_out = self.held_out.as_ref().map(&mut without);
        Ok((Self { corpus: without(&self.corpus), held_out }, Some(found.counts)))
    }

    fn all(&self) -> impl Iterator<Item = &Corpus> {
        std::iter::once(&self.corpus).chain(&self.held_out)
    }
}

/// What to make a dataset of.
#[derive(Debug, Clone)]
pub struct DatasetOptions {
    /// Text files and folders of them, as [`Corpus::open`] takes, or one folder of a dataset that
    /// was prepared, which is opened as it is.
    pub corpus: Vec<PathBuf>,
    /// How they become documents.
    pub reading: CorpusReading,
    /// What is to be learned from it.
    pub objective: Objective,
    /// Which tokenizer to use.
    pub tokenizer: TokenizerChoice,
    /// What is held out of training.
    pub held_out: HeldOut,
    /// What becomes of documents that occur more than once.
    pub duplicates: Duplicates,
    /// The folder that keeps datasets. It is made if it is missing.
    pub cache: PathBuf,
    /// Tokens of a file, after which another is begun, such as [`SHARD_TOKENS`]. What a process has
    /// finished when it is killed is not done again.
    pub shard_tokens: u64,
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
    if let [folder] = options.corpus.as_slice()
        && Dataset::is_in(folder)
    {
        return open_prepared(folder, options, progress);
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
    fs::create_dir_all(&options.cache).map_err(cache_error(&options.cache))?;
    let _lock = lock(&folder.with_extension("lock"), progress)?;
    if !folder.is_dir() {
        make(&texts, options, &folder, progress)?;
    }
    open(&folder, &texts, progress)
}

/// Trains the tokenizer that `options` ask for, on all of their corpora, unless it is in the cache,
/// and returns its folder.
///
/// # Errors
/// As [`prepare`]; a tokenizer that is not to be trained.
pub fn prepare_tokenizer(
    options: &DatasetOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf> {
    let TokenizerChoice::Train(training) = options.tokenizer else {
        return Err(Error::setting("the tokenizer", "loaded", "one to be trained"));
    };
    let texts = Texts::open(options)?;
    let folder = options.cache.join(format!("tokenizer-{}", key(&texts, options)?));
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(&options.cache).map_err(cache_error(&options.cache))?;
    let _lock = lock(&folder.with_extension("lock"), progress)?;
    if !folder.is_dir() {
        let at = Unfinished::open(folder.with_extension("partial"), texts.corpus.bytes())?;
        let mut train = || {
            let tokenizer = train_tokenizer(&texts.corpus, options.objective, training, progress)?;
            tokenizer.save(&at.folder.join(TOKENIZER))?;
            at.rename(&folder)
        };
        train().map_err(|error| at.explain(error))?;
    }
    Ok(folder)
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
    add(&[options.duplicates as u8]);
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

/// Says where else a cache could be, where this is no place to write to.
fn cache_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    move |source| match source.kind() {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            Error::CacheNotWritable { folder: path.to_owned(), source }
        }
        _ => Error::io("create the cache folder", path)(source),
    }
}

/// Waits until no other process holds the lock; it is released when the file is dropped.
fn lock(path: &Path, progress: &mut dyn FnMut(Progress)) -> Result<File> {
    let file = File::create(path).map_err(cache_error(path))?;
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

/// Opens a dataset that was made before.
fn open(folder: &Path, texts: &Texts, progress: &mut dyn FnMut(Progress)) -> Result<Dataset> {
    let mut dataset = Dataset::open(folder, progress)?;
    dataset.notes.splice(0..0, texts.all().flat_map(Corpus::notes));
    Ok(dataset)
}

/// Opens a dataset that was prepared elsewhere, if its own choices are those of `options`.
fn open_prepared(
    folder: &Path,
    options: &DatasetOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Dataset> {
    let mut dataset = Dataset::open(folder, progress)?;
    options.objective.check(&dataset.tokenizer)?;
    if let TokenizerChoice::Load(path) = &options.tokenizer
        && TextTokenizer::load(path)?.fingerprint()? != dataset.tokenizer.fingerprint()?
    {
        let reason = format!("was prepared with another tokenizer than {}", path.display());
        return Err(Error::corpus(folder, reason));
    }
    if let HeldOut::Files(_) = options.held_out {
        let reason = "was prepared, and what is held out with it; leave --held-out away, or \
                      prepare the text again with it";
        return Err(Error::corpus(folder, reason));
    }
    dataset.notes.push("tokens and held-out text are as they were prepared".into());
    Ok(dataset)
}

/// Makes the dataset beside its final place, or goes on where a process was ended, and renames it.
fn make(
    texts: &Texts,
    options: &DatasetOptions,
    folder: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let bytes = texts.all().map(Corpus::bytes).sum();
    let unfinished = Unfinished::open(folder.with_extension("partial"), bytes)?;
    fill(texts, options, &unfinished, progress)
        .and_then(|()| unfinished.rename(folder))
        .map_err(|error| unfinished.explain(error))
}

/// Writes all files of a dataset.
fn fill(
    texts: &Texts,
    options: &DatasetOptions,
    at: &Unfinished,
    progress: &mut dyn FnMut(Progress),
) -> Result<()> {
    let (texts, counts, begun) = match at.state() {
        Some(begun) => {
            let (texts, counts) = texts.without_known_duplicates(options, at)?;
            (texts, counts, Some(begun))
        }
        None => {
            at.clear()?;
            let (texts, counts) = texts.without_duplicates(options, at, progress)?;
            (texts, counts, None)
        }
    };
    let (tokenizer, state) = match begun {
        Some(begun) => begun,
        None => (begin(&texts, options, at, progress)?, State::default()),
    };
    let State { corpus: first, chunks, split } = state;
    let mut split = DatasetSplit::create(&at.folder, &tokenizer, options.shard_tokens, split)?;
    let meter = ProgressMeter::new(Phase::Tokenize, at.total);
    let mut report = |read: u64| {
        at.read.set(at.read.get() + read);
        meter.advance(read, progress);
    };
    let share = match options.held_out {
        HeldOut::Share(share) => share,
        HeldOut::Files(_) => 0.0,
    };
    let corpora = std::iter::once((&texts.corpus, share));
    let corpora = corpora.chain(texts.held_out.iter().map(|corpus| (corpus, 1.0)));
    for (number, (corpus, held_out)) in corpora.enumerate() {
        if number < first {
            report(corpus.bytes());
            continue;
        }
        let done = if number == first { chunks } else { 0 };
        let reading = Reading { corpus, held_out, done };
        tokenize(reading, &tokenizer, &mut split, &mut report, &mut |chunks, split| {
            at.save(&tokenizer, &State { corpus: number, chunks, split })
        })?;
    }
    if split.lacks_a_side(share) {
        at.forget()?;
        split = split.with_both_sides(&texts.corpus, share)?;
    }
    sealed::write(&at.folder.join(SUMMARY), &split.finish(counts)?)
}

/// Trains or reads the tokenizer, from which on a preparation can be taken up again.
fn begin(
    texts: &Texts,
    options: &DatasetOptions,
    at: &Unfinished,
    progress: &mut dyn FnMut(Progress),
) -> Result<TextTokenizer> {
    let tokenizer = match &options.tokenizer {
        TokenizerChoice::Train(training) => {
            train_tokenizer(&texts.corpus, options.objective, *training, progress)?
        }
        TokenizerChoice::Load(path) => TextTokenizer::load(path)?,
    };
    options.objective.check(&tokenizer)?;
    tokenizer.save(&at.folder.join(TOKENIZER))?;
    at.save(&tokenizer, &State::default())?;
    Ok(tokenizer)
}

/// A corpus, and how it is read.
struct Reading<'a> {
    corpus: &'a Corpus,
    /// About this share of it is held out.
    held_out: f64,
    /// Chunks of it that are in finished files already.
    done: u64,
}

/// Adds a corpus to `split`. Whenever files are finished, `save` is given the number of chunks that
/// are in them.
fn tokenize(
    reading: Reading<'_>,
    tokenizer: &TextTokenizer,
    split: &mut DatasetSplit<'_>,
    report: &mut dyn FnMut(u64),
    save: &mut dyn FnMut(u64, SplitState) -> Result<()>,
) -> Result<()> {
    let Reading { corpus, held_out, mut done } = reading;
    let before = if done == 0 { split.document_count() } else { 0 };
    let mut chunks = corpus.chunks();
    for chunk in chunks.by_ref().take(done as usize) {
        report(chunk?.bytes);
    }
    let caches = CacheStore::default();
    ordered_parallel(
        chunks,
        |chunk| Ok((encode_fragments(tokenizer, &caches, &chunk.fragments)?, chunk.bytes)),
        |(encoded, bytes)| {
            for fragment in encoded.iter() {
                split.push(&fragment, held_out)?;
            }
            done += 1;
            report(bytes);
            match split.next_shards()? {
                Some(state) => save(done, state),
                None => Ok(()),
            }
        },
    )?;
    split.end_document();
    corpus.check_unchanged()?;
    if split.document_count() == before { Err(corpus.no_documents()) } else { Ok(()) }
}
