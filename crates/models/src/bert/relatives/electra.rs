//! ELECTRA (arXiv 2003.10555): a small generator fills in masked tokens, and a discriminator says
//! which tokens were replaced.
//!
//! BERT whose tables may have fewer features than its blocks, with a map between them, and whose
//! output matrix is the narrow table of tokens. Its configuration has BERT's keys and one more.

use serde_json::{Value, json};

use super::names::{HeadActivation, MaskedLmNames, Names, SequenceNames, TransformNames};
use super::{BertVariant, bert, keys_with};
use crate::bert::BertConfig;
use crate::layers::Activation;

pub(super) const NAMES: Names = Names {
    base: "electra",
    masked_lm: MaskedLmNames {
        transform: TransformNames {
            dense: "generator_predictions.dense",
            activation: HeadActivation::Of(Activation::Gelu),
            norm: Some("generator_predictions.LayerNorm"),
        },
        bias: "generator_lm_head.bias",
        output: "generator_lm_head",
    },
    sequence: SequenceNames {
        drops_first: true,
        transform: TransformNames {
            dense: "classifier.dense",
            activation: HeadActivation::Of(Activation::Gelu),
            norm: None,
        },
        output: "classifier.out_proj",
    },
    ..bert::NAMES
};

pub(super) fn from_json(json: &Value) -> Result<BertConfig, String> {
    let defaults = json!({
        "embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4,
        "intermediate_size": 1024,
    });
    let config: BertConfig = keys_with(json, defaults)?;
    let embedding_size = match &json["embedding_size"] {
        Value::Null => 128,
        given => given.as_i64().ok_or_else(|| {
            format!("embedding_size: invalid value {given}, expected a whole number")
        })?,
    };
    Ok(BertConfig { variant: BertVariant::Electra { embedding_size }, ..config })
}

pub(super) fn to_json(config: &BertConfig, embedding_size: i64) -> serde_json::Result<Value> {
    let mut json = serde_json::to_value(config)?;
    json["embedding_size"] = embedding_size.into();
    Ok(json)
}

pub(super) fn fixed() -> Value {
    bert::fixed()
}
