//! GPT-2's first tokenizer files: byte-level pairs, a vocabulary in JSON beside a list of merges.
//! Source: Radford et al. 2019, section 2.2.

use std::path::Path;

use ahash::AHashMap;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::processors::roberta::RobertaProcessing;
use tokenizers::{AddedToken, Tokenizer};

use super::bad;
use crate::error::Result;
use crate::text::read_text;

/// The token that begins and ends GPT-2's texts.
pub(super) const END_OF_TEXT: &str = "<|endoftext|>";

/// A tokenizer with GPT-2's steps around the vocabulary and merges in two files.
pub(super) fn read(vocabulary: &Path, merges: &Path, prefix_space: bool) -> Result<Tokenizer> {
    let origin = vocabulary.display().to_string();
    let vocab: AHashMap<String, u32> = serde_json::from_str(&read_text(vocabulary)?)
        .map_err(|error| bad(&origin, format!("not a JSON object of tokens to ids: {error}")))?;
    let pairs = parse_merges(merges, &read_text(merges)?)?;
    let model = BPE::builder()
        .vocab_and_merges(vocab, pairs)
        .build()
        .map_err(|error| bad(&merges.display().to_string(), error.to_string()))?;
    let mut tokenizer = with_steps(&origin, model, prefix_space)?;
    add_roberta_steps(&origin, &mut tokenizer, prefix_space)?;
    Ok(tokenizer)
}

/// RoBERTa's files are GPT-2's, with tokens around each text and a mask that takes the space
/// before it. Source: arXiv 1907.11692.
fn add_roberta_steps(origin: &str, tokenizer: &mut Tokenizer, prefix_space: bool) -> Result<()> {
    let id = |token: &str| tokenizer.token_to_id(token).map(|id| (token.to_owned(), id));
    let (Some(cls), Some(sep), Some(_)) = (id("<s>"), id("</s>"), id("<mask>")) else {
        return Ok(());
    };
    let plain = ["<s>", "<pad>", "</s>", "<unk>"].into_iter();
    let plain = plain.filter(|token| tokenizer.token_to_id(token).is_some());
    let mut special: Vec<AddedToken> =
        plain.map(|token| AddedToken::from(token, true).normalized(false)).collect();
    special.push(AddedToken::from("<mask>", true).normalized(false).lstrip(true));
    tokenizer.add_special_tokens(special).map_err(|error| bad(origin, error.to_string()))?;
    let around = RobertaProcessing::new(sep, cls).trim_offsets(true).add_prefix_space(prefix_space);
    tokenizer.with_post_processor(Some(around));
    Ok(())
}

/// GPT-2's steps around a model of pairs.
pub(super) fn with_steps(origin: &str, model: BPE, prefix_space: bool) -> Result<Tokenizer> {
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(prefix_space, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    if tokenizer.token_to_id(END_OF_TEXT).is_some() {
        tokenizer
            .add_special_tokens([AddedToken::from(END_OF_TEXT, true).normalized(false)])
            .map_err(|error| bad(origin, error.to_string()))?;
    }
    Ok(tokenizer)
}

/// One pair a line, after a line with the version.
fn parse_merges(path: &Path, text: &str) -> Result<Vec<(String, String)>> {
    let lines = text.lines().enumerate();
    lines
        .filter(|(_, line)| !line.is_empty() && !line.starts_with("#version"))
        .map(|(index, line)| match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok((left.into(), right.into())),
            _ => {
                let reason = format!("line {} is no pair of tokens: {line:?}", index + 1);
                Err(bad(&path.display().to_string(), reason))
            }
        })
        .collect()
}
