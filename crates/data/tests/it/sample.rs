//! Text, folders and options that the tests share.

use std::path::{Path, PathBuf};

use bert4rs_data::{
    CorpusReading, Dataset, DatasetOptions, Duplicates, Error, HeldOut, Objective, SHARD_TOKENS,
    TokenizerChoice, TokenizerTraining, prepare,
};

const WORDS: [&str; 16] = [
    "the", "cat", "sat", "on", "a", "mat", "and", "then", "Dogs", "barked", "at", "night", "while",
    "birds", "sang", "softly",
];

/// Numbers that look random, the same for the same seed: a linear congruential generator.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }
}

/// `count` documents of 1 to 40 words, the same each time.
pub(crate) fn text(count: usize) -> String {
    let mut random = Random(12345);
    let mut random = move |below: u64| random.below(below);
    let mut text = String::new();
    for _ in 0..count {
        for _ in 0..=random(40) {
            text += WORDS[random(16) as usize];
            text += if random(8) == 0 { ".\n" } else { " " };
        }
        text += "\n\n";
    }
    text
}

/// Writes a file and returns its path.
pub(crate) fn write(folder: &Path, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, contents).unwrap();
    path
}

/// Options to train a small tokenizer on `corpus`, with the cache in `folder`.
pub(crate) fn options(folder: &Path, corpus: PathBuf) -> DatasetOptions {
    DatasetOptions {
        corpus: vec![corpus],
        reading: CorpusReading::default(),
        objective: Objective::MaskedTokens,
        tokenizer: TokenizerChoice::Train(TokenizerTraining::new(120)),
        held_out: HeldOut::Share(0.1),
        cache: folder.join("cache"),
        shard_tokens: SHARD_TOKENS,
        duplicates: Duplicates::Keep,
    }
}

/// A dataset of `count` documents in `folder`.
pub(crate) fn dataset(folder: &Path, count: usize) -> Dataset {
    let corpus = write(folder, "corpus.txt", text(count));
    prepare(&options(folder, corpus), &mut |_| {}).unwrap()
}

/// A dataset of `count` documents in `folder`, to learn so.
pub(crate) fn dataset_for(objective: Objective, folder: &Path, count: usize) -> Dataset {
    let corpus = write(folder, "corpus.txt", text(count));
    let tokenizer = TokenizerChoice::Train(TokenizerTraining::new(340));
    let options = DatasetOptions { objective, tokenizer, ..options(folder, corpus) };
    prepare(&options, &mut |_| {}).unwrap()
}

/// Asserts that `result` is an error whose message has all of `parts`.
#[track_caller]
pub(crate) fn assert_error<T>(result: Result<T, Error>, parts: &[&str]) {
    let message = match result {
        Ok(_) => panic!("expected an error with {parts:?}"),
        Err(error) => error.to_string(),
    };
    for part in parts {
        assert!(message.contains(part), "{message:?} lacks {part:?}");
    }
}
