//! SentencePiece's `spiece.model`: the vocabulary, scores and normalization of a Unigram model, in
//! protobuf (`sentencepiece_model.proto`). With the steps that transformers' T5 puts around it.

use prost::Message;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, Tokenizer, decoders};

use super::bad;
use crate::error::Result;

/// The fields of the file that decide which ids a text gets.
#[derive(Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerSpec>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<NormalizerSpec>,
}

#[derive(Message)]
struct Piece {
    #[prost(string, optional, tag = "1")]
    text: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Message)]
struct TrainerSpec {
    #[prost(int32, optional, tag = "3")]
    model: Option<i32>,
    #[prost(bool, optional, tag = "35")]
    byte_fallback: Option<bool>,
}

#[derive(Message)]
struct NormalizerSpec {
    #[prost(bytes = "vec", optional, tag = "2")]
    charsmap: Option<Vec<u8>>,
}

/// `Piece::kind` of `<unk>`, of control tokens, and of what users added.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
/// `TrainerSpec::model` of Unigram, the default.
const UNIGRAM: i32 = 1;
/// T5's sentinels, which its file does not hold: 99 to 0 after the last piece.
const SENTINELS: usize = 100;

/// The token of a byte, for what the vocabulary has no characters for.
pub(super) fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// A tokenizer with T5's steps around the vocabulary in `bytes`.
pub(super) fn parse(origin: &str, bytes: &[u8]) -> Result<Tokenizer> {
    let file = ModelProto::decode(bytes)
        .map_err(|error| bad(origin, format!("not a SentencePiece model: {error}")))?;
    let trained = file.trainer.as_ref().and_then(|spec| spec.model).unwrap_or(UNIGRAM);
    if trained != UNIGRAM || file.pieces.is_empty() {
        let reason = "not a Unigram model, which T5 has; save the tokenizer as tokenizer.json";
        return Err(bad(origin, reason));
    }
    let kind_of = |piece: &Piece| piece.kind.unwrap_or(1);
    let text_of = |piece: &Piece| piece.text.clone().unwrap_or_default();
    let unknown = file.pieces.iter().position(|piece| kind_of(piece) == UNKNOWN);
    let score = |piece: &Piece| f64::from(piece.score.unwrap_or(0.0));
    let mut vocabulary: Vec<(String, f64)> =
        file.pieces.iter().map(|piece| (text_of(piece), score(piece))).collect();
    let sentinels: Vec<String> =
        (0..SENTINELS).rev().map(|number| format!("<extra_id_{number}>")).collect();
    let special = file.pieces.iter().filter(|piece| matches!(kind_of(piece), UNKNOWN | CONTROL));
    let mut special: Vec<String> = special.map(text_of).collect();
    if !vocabulary.iter().any(|(text, _)| *text == sentinels[0]) {
        vocabulary.extend(sentinels.iter().map(|text| (text.clone(), 0.0)));
        special.extend(sentinels);
    }
    let added = file.pieces.iter().filter(|piece| kind_of(piece) == USER_DEFINED).map(text_of);
    let added: Vec<String> = added.collect();
    let byte_fallback = file.trainer.and_then(|spec| spec.byte_fallback).unwrap_or(false);
    let model = Unigram::from(vocabulary, unknown, byte_fallback)
        .map_err(|error| bad(origin, error.to_string()))?;
    let charsmap = file.normalizer.and_then(|spec| spec.charsmap).unwrap_or_default();
    let mut normalizers = Vec::new();
    if !charsmap.is_empty() {
        let charsmap = Precompiled::from(&charsmap)
            .map_err(|error| bad(origin, format!("its normalization: {error:?}")))?;
        normalizers.push(charsmap.into());
    }
    with_steps(origin, model, normalizers, special, added)
}

/// T5's steps around a Unigram model, `normalizers` before those for spaces.
pub(super) fn with_steps(
    origin: &str,
    model: Unigram,
    mut normalizers: Vec<NormalizerWrapper>,
    special: Vec<String>,
    added: Vec<String>,
) -> Result<Tokenizer> {
    let fail = |error: &dyn std::fmt::Display| bad(origin, error.to_string());
    let spells_bytes = model.byte_fallback();
    let mut tokenizer = Tokenizer::new(model);
    let spaces = Replace::new(
        tokenizers::normalizers::replace::ReplacePattern::Regex(" {2,}".into()),
        "\u{2581}",
    )
    .map_err(|error| fail(&error))?;
    normalizers.extend([Strip::new(false, true).into(), spaces.into()]);
    tokenizer.with_normalizer(Some(Sequence::new(normalizers))).map_err(|error| fail(&error))?;
    let metaspace = || Metaspace::new('\u{2581}', PrependScheme::Always, true);
    tokenizer.with_pre_tokenizer(Some(metaspace()));
    tokenizer.with_decoder(Some(match spells_bytes {
        true => DecoderWrapper::from(decoders::sequence::Sequence::new(vec![
            ByteFallback::new().into(),
            metaspace().into(),
        ])),
        false => metaspace().into(),
    }));
    if let Some(end) = tokenizer.token_to_id("</s>") {
        let template = TemplateProcessing::builder()
            .try_single("$A </s>")
            .and_then(|builder| builder.try_pair("$A:0 </s>:0 $B:0 </s>:0"))
            .map_err(|error| fail(&error))?
            .special_tokens(vec![("</s>", end)])
            .build()
            .map_err(|error| fail(&error))?;
        tokenizer.with_post_processor(Some(template));
    }
    let token = |text, special| AddedToken::from(text, special).normalized(false);
    tokenizer
        .add_tokens(added.into_iter().map(|text| token(text, false)))
        .and_then(|_| {
            tokenizer.add_special_tokens(special.into_iter().map(|text| token(text, true)))
        })
        .map_err(|error| fail(&error))?;
    // Reading a score from JSON may round its last bit, which decides between spellings that are
    // equally likely: as JSON, ids are those of the tokenizer.json that transformers makes of it.
    let json = tokenizer.to_string(false).map_err(|error| fail(&error))?;
    super::parse_json(origin, json.as_bytes())
}
