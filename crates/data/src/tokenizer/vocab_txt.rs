//! BERT's first tokenizer format: one token a line, its id the line's number.

use std::path::Path;

use ahash::AHashMap;
use tokenizers::Tokenizer;
use tokenizers::models::wordpiece::WordPiece;

use super::bert_steps::{LongWords, with_steps};
use super::{SpecialTokens, bad};
use crate::error::Result;
use crate::text::decode_text;

/// A tokenizer with BERT's usual steps around the vocabulary in `bytes`, read from `file`.
/// Where `lower_case` is not said, text is lower-cased unless a token has one of A to Z.
pub(super) fn parse(file: &Path, bytes: &[u8], lower_case: Option<bool>) -> Result<Tokenizer> {
    let origin = &file.display().to_string();
    let text = decode_text(file, bytes)?;
    let mut vocab = AHashMap::new();
    let mut all_lower = true;
    for (id, line) in text.strip_suffix('\n').unwrap_or(&text).split('\n').enumerate() {
        let token = line.strip_suffix('\r').unwrap_or(line);
        if let Some(first) = vocab.insert(token.to_owned(), id as u32) {
            let reason = format!(
                "token {token:?} is on lines {} and {}; expected each once",
                first + 1,
                id + 1
            );
            return Err(bad(origin, reason));
        }
        let bracketed = token.starts_with('[') && token.ends_with(']');
        // Uncased vocabularies hold raised capitals and the like, which have no lower case.
        all_lower &= bracketed || !token.chars().any(|letter| letter.is_ascii_uppercase());
    }
    if !vocab.contains_key("[UNK]") {
        let reason = "lacks the token [UNK]; expected one token a line, as in BERT's vocab.txt";
        return Err(bad(origin, reason));
    }
    let model = WordPiece::builder()
        .vocab(vocab)
        .build()
        .map_err(|error| bad(origin, error.to_string()))?;
    let special: Vec<&str> = SpecialTokens::TEXTS
        .into_iter()
        .filter(|text| tokenizers::Model::token_to_id(&model, text).is_some())
        .collect();
    with_steps(origin, model, lower_case.unwrap_or(all_lower), LongWords::Unknown, &special)
}
