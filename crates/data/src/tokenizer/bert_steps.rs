//! BERT's steps around a WordPiece model: normalizer, pre-tokenizer, `[CLS] … [SEP]`, decoder.

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::fixed_length::FixedLength;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, Tokenizer, decoders};

use super::bad;
use crate::error::Result;

/// What becomes of words with more characters than WordPiece takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LongWords {
    /// Each is `[UNK]`, as in the published models.
    Unknown,
    /// They are split into words of so many characters, so that nothing is lost of a text without
    /// spaces.
    Split(usize),
}

/// A tokenizer of these steps, which knows the tokens `special`.
pub(super) fn with_steps(
    origin: &str,
    model: WordPiece,
    lower_case: bool,
    long_words: LongWords,
    special: &[&str],
) -> Result<Tokenizer> {
    let fail = |error: &dyn std::fmt::Display| bad(origin, error.to_string());
    let mut tokenizer = Tokenizer::new(model);
    tokenizer
        .with_normalizer(Some(BertNormalizer::new(true, true, None, lower_case)))
        .map_err(|error| fail(&error))?;
    tokenizer.with_pre_tokenizer(Some(match long_words {
        LongWords::Unknown => PreTokenizerWrapper::from(BertPreTokenizer),
        LongWords::Split(length) => {
            Sequence::new(vec![BertPreTokenizer.into(), FixedLength::new(length).into()]).into()
        }
    }));
    tokenizer.with_decoder(Some(decoders::wordpiece::WordPiece::default()));
    let id = |text: &str| tokenizer.token_to_id(text);
    if let (Some(cls), Some(sep)) = (id("[CLS]"), id("[SEP]")) {
        let template = TemplateProcessing::builder()
            .try_single("[CLS] $A [SEP]")
            .and_then(|builder| builder.try_pair("[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"))
            .map_err(|error| fail(&error))?
            .special_tokens(vec![("[CLS]", cls), ("[SEP]", sep)])
            .build()
            .map_err(|error| fail(&error))?;
        tokenizer.with_post_processor(Some(template));
    }
    let special = special.iter().map(|&text| AddedToken::from(text, true));
    tokenizer.add_special_tokens(special).map_err(|error| fail(&error))?;
    Ok(tokenizer)
}

/// Whether a pre-tokenizer cuts at all spaces and makes each word independent of its neighbours.
pub(super) fn cuts_words_apart(steps: Option<&PreTokenizerWrapper>) -> bool {
    match steps {
        Some(PreTokenizerWrapper::BertPreTokenizer(_)) => true,
        Some(PreTokenizerWrapper::Sequence(steps)) => matches!(
            steps.as_ref(),
            [PreTokenizerWrapper::BertPreTokenizer(_), PreTokenizerWrapper::FixedLength(_)]
        ),
        _ => false,
    }
}
