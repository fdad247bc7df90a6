//! RoBERTa (arXiv 1907.11692) and XLM-R (arXiv 1911.02116), which is RoBERTa on a hundred
//! languages.
//!
//! BERT with positions that count real tokens alone, from the entry after the padding token's, and
//! with a head of two maps for classes of sequences. Its configuration has BERT's keys.

use serde_json::{Value, json};

use super::names::{HeadActivation, MaskedLmNames, Names, SequenceNames, TransformNames};
use super::{BertVariant, bert, keys_with};
use crate::bert::BertConfig;
use crate::layers::Activation;

pub(super) const NAMES: Names = Names {
    base: "roberta",
    masked_lm: MaskedLmNames {
        transform: TransformNames {
            dense: "lm_head.dense",
            activation: HeadActivation::Of(Activation::Gelu),
            norm: Some("lm_head.layer_norm"),
        },
        bias: "lm_head.bias",
        output: "lm_head.decoder",
    },
    sequence: SequenceNames {
        drops_first: true,
        transform: TransformNames {
            dense: "classifier.dense",
            activation: HeadActivation::Tanh,
            norm: None,
        },
        output: "classifier.out_proj",
    },
    ..bert::NAMES
};

pub(super) fn from_json(json: &Value, variant: BertVariant) -> Result<BertConfig, String> {
    let defaults = json!({ "vocab_size": 50265, "pad_token_id": 1 });
    let config: BertConfig = keys_with(json, defaults)?;
    Ok(BertConfig { variant, ..config })
}

pub(super) fn fixed() -> Value {
    bert::fixed()
}
