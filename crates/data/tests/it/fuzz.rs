//! Hostile bytes for every reader: each is read or refused, and nothing panics.
//!
//! A few hundred cases run with the other tests; `BERT4RS_FUZZ_CASES=1000000` asks for more of
//! each (docs/reliability.md has what was found).

use std::fs;
use std::path::{Path, PathBuf};

use bert4rs_data::tokenizer::TokenizerTraining;
use bert4rs_data::{
    Corpus, CorpusReading, Dataset, DatasetOptions, Duplicates, ModelTokenizer, Objective,
    TextTokenizer, TokenStore, TokenizerChoice, prepare, read_text,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

use crate::sample::{dataset, options, write};

const CASES: u32 = 200;

/// A change of a file's bytes.
#[derive(Debug, Clone)]
enum Change {
    Flip(usize, u8),
    Replace(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Truncate(usize),
    /// Another value for one of the JSON-like words of a text file.
    Word(usize, &'static str),
}

const WORDS: [&str; 16] = [
    "null",
    "true",
    "-1",
    "0",
    "1e999",
    "18446744073709551616",
    "{}",
    "[]",
    "\"\"",
    "[[]]",
    "\"\\ud800\"",
    "{\"type\":\"Sequence\"}",
    "{\"type\":\"BPE\"}",
    "\"▁\"",
    "4294967295",
    "0.5",
];

fn change() -> impl Strategy<Value = Change> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..9);
    prop_oneof![
        (any::<usize>(), 1u8..).prop_map(|(at, mask)| Change::Flip(at, mask)),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Change::Replace(at, bytes)),
        (any::<usize>(), bytes()).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<usize>(), 1usize..300).prop_map(|(at, count)| Change::Remove(at, count)),
        any::<usize>().prop_map(Change::Truncate),
        (any::<usize>(), prop::sample::select(&WORDS[..])).prop_map(|(at, w)| Change::Word(at, w)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let length = bytes.len().max(1);
        match self {
            _ if bytes.is_empty() => bytes.push(b'x'),
            Self::Flip(at, mask) => bytes[at % length] ^= mask,
            Self::Replace(at, new) => {
                let (start, end) = (at % length, (at % length + new.len()).min(length));
                bytes.splice(start..end, new.iter().copied());
            }
            Self::Insert(at, new) => {
                bytes.splice(at % length..at % length, new.iter().copied());
            }
            Self::Remove(at, count) => {
                bytes.drain(at % length..(at % length).saturating_add(*count).min(length));
            }
            Self::Truncate(at) => bytes.truncate(at % length),
            Self::Word(at, word) => {
                // What follows the next colon, up to what ends a JSON value.
                let start = at % length;
                let colon = bytes[start..].iter().position(|&byte| byte == b':');
                let Some(value) = colon.map(|offset| start + offset + 1) else { return };
                let end = bytes[value..].iter().position(|byte| b",}]\n".contains(byte));
                let end = end.map_or(length, |offset| value + offset);
                bytes.splice(value..end, word.bytes());
            }
        }
    }
}

/// Applies random changes to `good` and reads the result, which may be refused but not panic.
fn check_reader(good: &[u8], read: impl Fn(&[u8])) {
    let asked = std::env::var("BERT4RS_FUZZ_CASES").ok().and_then(|count| count.parse().ok());
    let config = Config { failure_persistence: None, ..Config::with_cases(asked.unwrap_or(CASES)) };
    let changes = prop::collection::vec(change(), 1..6);
    TestRunner::new(config)
        .run(&changes, |changes| {
            let mut bytes = good.to_vec();
            changes.iter().for_each(|change| change.apply(&mut bytes));
            read(&bytes);
            Ok(())
        })
        .unwrap();
}

/// A folder that is gone when it is dropped, in memory where there is such a place: on a disk,
/// waiting for what is written takes fourteen times as long as all the rest.
fn tempdir() -> std::io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

fn vectors(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name)
}

/// Loads the tokenizer and uses it.
fn use_tokenizer(folder: &Path) {
    if let Ok(tokenizer) = ModelTokenizer::load(folder)
        && let Ok(ids) = tokenizer.encode("A naïve 中文 test [MASK] </s> 😀")
    {
        let _ = tokenizer.decode(&ids);
    }
    if let Ok(tokenizer) = TextTokenizer::load(folder)
        && let Ok(ids) = tokenizer.encode("A naïve 中文 test [MASK] </s> 😀")
    {
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocab_size()));
    }
}

/// Changes one file of a tokenizer's folder.
fn check_tokenizer_file(from: &Path, name: &str) {
    let folder = tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let good = fs::read(from.join(name)).unwrap();
    check_reader(&good, |bytes| {
        fs::write(folder.path().join(name), bytes).unwrap();
        use_tokenizer(folder.path());
    });
}

#[test]
fn text() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("text.txt");
    for good in
        [&b"one\n\n\xef\xbb\xbftwo \xe4\xb8\xad"[..], b"\xff\xfea\0\x2d\x4e\x3d\xd8\x00\xde"]
    {
        check_reader(good, |bytes| {
            fs::write(&path, bytes).unwrap();
            if let Ok(text) = read_text(&path) {
                assert!(!text.contains('\0'));
            }
        });
    }
}

/// Prepares a corpus of the file `name`, which holds changes of `good`, and gives what came of it
/// to `check`.
fn check_corpus(
    name: &str,
    good: &[u8],
    choices: impl Fn(DatasetOptions) -> DatasetOptions,
    check: impl Fn(Dataset),
) {
    let folder = tempdir().unwrap();
    check_reader(good, |bytes| {
        let corpus = write(folder.path(), name, bytes);
        let cache = folder.path().join("fuzz");
        let options = DatasetOptions { cache, ..options(folder.path(), corpus) };
        let options = choices(options);
        if let Ok(dataset) = prepare(&options, &mut |_| {}) {
            check(dataset);
        }
        let _ = fs::remove_dir_all(options.cache);
        let inside: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(inside.len(), 1, "written outside of the cache: {inside:?}");
    });
}

#[test]
fn corpora_in_all_formats() {
    let folder = tempdir().unwrap();
    let tokenizer = dataset(folder.path(), 20).folder;
    let json = "{\"text\": \"The cat\\n sat.\"}\n{\"text\": \"Dogs\"}\n".as_bytes();
    let zstd = zstd::encode_all(json, 3).unwrap();
    let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
    std::io::Write::write_all(&mut xz, json).unwrap();
    let xz = xz.finish().unwrap();
    let rows = folder.path().join("rows.parquet");
    let groups: [&[Option<&str>]; 2] = [&[Some("The cat"), None], &[Some("sat.\n\nDogs")]];
    crate::parquet::write(&rows, parquet::basic::Compression::SNAPPY, &groups);
    let rows = fs::read(rows).unwrap();
    for (name, good) in [
        ("fuzz.txt", "The cat sat.\r\n\r\nDogs  barked\nat night\n\n \n中文\u{a0}x".as_bytes()),
        ("fuzz.jsonl", json),
        ("fuzz.csv", b"id,text\n1,\"The cat\nsat.\"\n2,Dogs\n"),
        ("fuzz", b"id\ttext\n1\tThe cat\n2\tDogs\n"),
        ("fuzz.md", b"# One\n\ntext\n```\n# Two\n```\n"),
        ("wiki.a.tokens", b" = One = \n a @-@ b \n = = Two = = \n"),
        ("fuzz.jsonl.zst", &zstd),
        ("fuzz.jsonl.xz", &xz),
        ("fuzz.parquet", &rows),
    ] {
        let tokenizer = || TokenizerChoice::Load(tokenizer.clone());
        let drop_near = Duplicates::DropNear;
        check_corpus(
            name,
            good,
            |options| DatasetOptions { tokenizer: tokenizer(), duplicates: drop_near, ..options },
            |dataset| {
                let (train, held_out) = (&dataset.train, &dataset.held_out);
                assert!(train.document_count() > 0 && held_out.document_count() > 0);
            },
        );
    }
}

#[test]
fn corpora_to_train_a_tokenizer_on() {
    for objective in [Objective::MaskedTokens, Objective::NextTokens, Objective::Spans] {
        let good = "aaaa bb 中文中文\n\nab abc\n\n".as_bytes();
        let tokenizer = || TokenizerChoice::Train(TokenizerTraining::new(340));
        check_corpus(
            "fuzz.txt",
            good,
            |options| DatasetOptions { objective, tokenizer: tokenizer(), ..options },
            drop,
        );
    }
}

#[test]
fn lists_of_paths() {
    let folder = tempdir().unwrap();
    write(folder.path(), "a/one.txt", "The cat sat.");
    let list = folder.path().join("list");
    let listed = std::path::PathBuf::from(format!("@{}", list.display()));
    check_reader(b"# all\na/*.txt\na/[o]ne.txt\n./a\n", |bytes| {
        fs::write(&list, bytes).unwrap();
        let _ = Corpus::open(std::slice::from_ref(&listed), CorpusReading::default());
    });
}

#[test]
fn tokenizer_json() {
    for name in ["t5", "gpt2", "bert_lower"] {
        let folder = tempdir().unwrap();
        ModelTokenizer::load(&vectors(name)).unwrap().save_folder(folder.path(), 64).unwrap();
        check_tokenizer_file(folder.path(), "tokenizer.json");
    }
}

#[test]
fn tokenizer_files_of_older_models() {
    check_tokenizer_file(&vectors("t5"), "spiece.model");
    check_tokenizer_file(&vectors("gpt2"), "vocab.json");
    check_tokenizer_file(&vectors("gpt2"), "merges.txt");
    check_tokenizer_file(&vectors("bert_cased"), "vocab.txt");
    check_tokenizer_file(&vectors("bert_cased"), "tokenizer_config.json");
}

#[test]
fn token_files() {
    let folder = tempdir().unwrap();
    let good = fs::read(dataset(folder.path(), 20).train.paths().next().unwrap()).unwrap();
    let path = folder.path().join("fuzz.tokens");
    check_reader(&good, |bytes| {
        fs::write(&path, bytes).unwrap();
        if let Ok(shard) = TokenStore::open(&path) {
            assert!(bytes == good || shard.verify(120).is_err(), "a changed file is refused");
            assert!((0..shard.document_count()).all(|index| shard.document(index).is_ok()));
        }
    });
}

#[test]
fn files_of_the_cache() {
    let folder = tempdir().unwrap();
    let made = dataset(folder.path(), 20);
    let options = options(folder.path(), folder.path().join("corpus.txt"));
    let tokens = |dataset: &bert4rs_data::Dataset| {
        dataset.train.tokens(0..dataset.train.token_count()).unwrap()
    };
    for name in ["summary.json", "tokenizer.json", "train-00000.tokens", "verified.json"] {
        let path = made.folder.join(name);
        let good = fs::read(&path).unwrap();
        check_reader(&good, |bytes| {
            fs::write(&path, bytes).unwrap();
            if let Ok(dataset) = prepare(&options, &mut |_| {}) {
                assert_eq!(tokens(&dataset), tokens(&made));
                assert_eq!(dataset.summary, made.summary);
            }
        });
        fs::write(&path, good).unwrap();
    }
}
