//! Which files a tokenizer consists of, in a model folder or named by themselves.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::Tokenizer;

use super::{bad, byte_level, parse_json, sentence_piece, vocab_txt};
use crate::error::{Error, Result};

/// The files of a tokenizer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenizerFiles {
    format: Format,
    /// `tokenizer_config.json`, where there is one beside them.
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Format {
    /// `tokenizer.json` of Hugging Face.
    Json(PathBuf),
    /// T5's `spiece.model`.
    SentencePiece(PathBuf),
    /// GPT-2's `vocab.json` and `merges.txt`, or `encoder.json` and `vocab.bpe`.
    BytePairs { vocabulary: PathBuf, merges: PathBuf },
    /// BERT's `vocab.txt`.
    VocabTxt(PathBuf),
}

const BYTE_PAIRS: [(&str, &str); 2] = [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")];

impl TokenizerFiles {
    /// What `path` means: a folder's tokenizer, of which `tokenizer.json` is preferred to
    /// `spiece.model`, to pairs, to `vocab.txt`; or a file of one of these kinds.
    ///
    /// # Errors
    /// A path that can't be read; a folder without a tokenizer.
    pub(crate) fn find(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(Error::io("read the tokenizer", path))?;
        if metadata.is_dir() {
            return Self::in_folder(path);
        }
        if !metadata.is_file() {
            let reason = "is neither a file nor a folder";
            return Err(bad(&path.display().to_string(), reason));
        }
        let file = path.to_owned();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let merges = BYTE_PAIRS
            .iter()
            .filter(|(vocabulary, _)| *vocabulary == name)
            .map(|(_, merges)| path.with_file_name(merges))
            .find(|merges| merges.is_file());
        let format = match (ending.to_ascii_lowercase().as_str(), merges) {
            (_, Some(merges)) => Format::BytePairs { vocabulary: file, merges },
            ("model", _) => Format::SentencePiece(file),
            ("txt", _) => Format::VocabTxt(file),
            _ => Format::Json(file),
        };
        Ok(Self { format, config: None })
    }

    fn in_folder(folder: &Path) -> Result<Self> {
        let file = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let pairs = BYTE_PAIRS.iter().find_map(|(vocabulary, merges)| {
            Some(Format::BytePairs { vocabulary: file(vocabulary)?, merges: file(merges)? })
        });
        let format = file("tokenizer.json")
            .map(Format::Json)
            .or_else(|| file("spiece.model").map(Format::SentencePiece))
            .or(pairs)
            .or_else(|| file("vocab.txt").map(Format::VocabTxt));
        let Some(format) = format else {
            let reason = "this folder has no tokenizer; expected tokenizer.json, spiece.model, \
                          vocab.json and merges.txt, or vocab.txt";
            return Err(bad(&folder.display().to_string(), reason));
        };
        let config = Some(folder.join("tokenizer_config.json")).filter(|path| path.exists());
        Ok(Self { format, config })
    }

    /// Names and contents of all files, which decide what the tokenizer does.
    ///
    /// # Errors
    /// A file that can't be read.
    pub(crate) fn contents(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let files = match &self.format {
            Format::Json(file) | Format::SentencePiece(file) | Format::VocabTxt(file) => vec![file],
            Format::BytePairs { vocabulary, merges } => vec![vocabulary, merges],
        };
        let read = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, read(path)?))
        };
        files.into_iter().chain(&self.config).map(read).collect()
    }

    /// `tokenizer_config.json`, null where there is none.
    ///
    /// # Errors
    /// A file that is no JSON.
    pub(super) fn config(&self) -> Result<Value> {
        let Some(path) = &self.config else {
            return Ok(Value::Null);
        };
        serde_json::from_slice(&read(path)?)
            .map_err(|error| bad(&path.display().to_string(), format!("not JSON: {error}")))
    }

    /// The file that messages name.
    pub(super) fn origin(&self) -> String {
        let (Format::Json(file)
        | Format::SentencePiece(file)
        | Format::VocabTxt(file)
        | Format::BytePairs { vocabulary: file, .. }) = &self.format;
        file.display().to_string()
    }

    /// The tokenizer, as `config` has it.
    ///
    /// # Errors
    /// A file that is missing or malformed.
    pub(super) fn read(&self, config: &Value) -> Result<Tokenizer> {
        let origin = self.origin();
        let flag = |key: &str| config[key].as_bool();
        match &self.format {
            Format::Json(file) => parse_json(&origin, &read(file)?),
            Format::SentencePiece(file) => sentence_piece::parse(&origin, &read(file)?),
            Format::BytePairs { vocabulary, merges } => {
                byte_level::read(vocabulary, merges, flag("add_prefix_space").unwrap_or(false))
            }
            Format::VocabTxt(file) => vocab_txt::parse(file, &read(file)?, flag("do_lower_case")),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(Error::io("read the tokenizer", path))
}
