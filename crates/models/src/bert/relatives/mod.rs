//! BERT's relatives: the same parts under other names, with a few departures each.
//!
//! | module | holds |
//! | --- | --- |
//! | `names` | what each of a model's parameters is called |
//! | `bert` | BERT's own names |
//! | `roberta` | RoBERTa and XLM-R: positions that leave out padding, a head of two maps |
//! | `distilbert` | DistilBERT: no token types |
//! | `electra` | ELECTRA: narrow embeddings; a generator and a discriminator |
//! | `modernbert` | ModernBERT: rotary positions, windows, gated feed-forward, no biases |

mod bert;
mod distilbert;
mod electra;
mod modernbert;
pub(crate) mod names;
mod roberta;

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use modernbert::{ClassifierPooling, ModernBert};
pub(crate) use names::Names;

use super::BertConfig;
use crate::hugging_face::{ModelType, from_keys};

/// A member of BERT's family, and what it alone has.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum BertVariant {
    /// BERT itself. Source: arXiv 1810.04805.
    #[default]
    Bert,
    /// Source: arXiv 1907.11692.
    Roberta,
    /// Source: arXiv 1911.02116.
    XlmRoberta,
    /// Source: arXiv 1910.01108.
    DistilBert {
        /// Probability of dropping a feature before the map to answers, in training.
        qa_dropout: f64,
    },
    /// Source: arXiv 2003.10555.
    Electra {
        /// Features of the tables of tokens, positions and token types.
        embedding_size: i64,
    },
    /// Source: arXiv 2412.13663.
    ModernBert(ModernBert),
}

impl BertVariant {
    /// The family in `config.json`.
    pub fn model_type(&self) -> ModelType {
        match self {
            Self::Bert => ModelType::Bert,
            Self::Roberta => ModelType::Roberta,
            Self::XlmRoberta => ModelType::XlmRoberta,
            Self::DistilBert { .. } => ModelType::DistilBert,
            Self::Electra { .. } => ModelType::Electra,
            Self::ModernBert(_) => ModelType::ModernBert,
        }
    }

    /// What its files call the parameters.
    pub(crate) fn names(&self) -> &'static Names {
        match self {
            Self::Bert => &bert::NAMES,
            Self::Roberta | Self::XlmRoberta => &roberta::NAMES,
            Self::DistilBert { .. } => &distilbert::NAMES,
            Self::Electra { .. } => &electra::NAMES,
            Self::ModernBert(_) => &modernbert::NAMES,
        }
    }

    /// ModernBERT's own settings.
    pub(super) fn modern(&self) -> Option<&ModernBert> {
        match self {
            Self::ModernBert(modern) => Some(modern),
            _ => None,
        }
    }
}

/// A configuration from the keys of the family `model_type`; the error is a key and what is wrong.
pub(crate) fn from_json(model_type: ModelType, json: &Value) -> Result<BertConfig, String> {
    match model_type {
        ModelType::Roberta => roberta::from_json(json, BertVariant::Roberta),
        ModelType::XlmRoberta => roberta::from_json(json, BertVariant::XlmRoberta),
        ModelType::DistilBert => distilbert::from_json(json),
        ModelType::Electra => electra::from_json(json),
        ModelType::ModernBert => modernbert::from_json(json),
        _ => from_keys(json),
    }
}

/// The keys of a configuration's own family.
pub(crate) fn to_json(config: &BertConfig) -> serde_json::Result<Value> {
    match &config.variant {
        BertVariant::DistilBert { qa_dropout } => distilbert::to_json(config, *qa_dropout),
        BertVariant::Electra { embedding_size } => electra::to_json(config, *embedding_size),
        BertVariant::ModernBert(modern) => modernbert::to_json(config, modern),
        BertVariant::Bert | BertVariant::Roberta | BertVariant::XlmRoberta => {
            serde_json::to_value(config)
        }
    }
}

/// Keys of `config.json` with the one value that we compute.
pub(crate) fn fixed(variant: &BertVariant) -> Value {
    match variant {
        BertVariant::Bert => bert::fixed(),
        BertVariant::Roberta | BertVariant::XlmRoberta => roberta::fixed(),
        BertVariant::DistilBert { .. } => distilbert::fixed(),
        BertVariant::Electra { .. } => electra::fixed(),
        BertVariant::ModernBert(_) => modernbert::fixed(),
    }
}

/// `json` as a `T`, with `defaults` for keys that are absent; the error names the key.
fn keys_with<T: DeserializeOwned>(json: &Value, defaults: Value) -> Result<T, String> {
    let mut all = defaults;
    if let (Some(all), Some(given)) = (all.as_object_mut(), json.as_object()) {
        all.extend(given.clone());
    }
    from_keys(&all)
}
