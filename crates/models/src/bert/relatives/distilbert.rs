//! DistilBERT (arXiv 1910.01108): half of BERT's blocks, no token types, no pooler, and no dropout
//! after attention.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::names::{
    BlockNames, HeadActivation, MaskedLmNames, Names, ProjectionNames, SequenceNames,
    TransformNames,
};
use super::{BertVariant, bert};
use crate::bert::BertConfig;
use crate::hugging_face::from_keys;
use crate::layers::Activation;
use crate::overrides::ArchitectureOverrides;

pub(super) const NAMES: Names = Names {
    base: "distilbert",
    blocks: "transformer.layer",
    block: BlockNames {
        projections: ProjectionNames::Separate {
            query: "attention.q_lin",
            key: "attention.k_lin",
            value: "attention.v_lin",
        },
        attention: "attention",
        attention_output: "attention.out_lin",
        attention_norm: "sa_layer_norm",
        gate: Some("ffn.gate"),
        up: "ffn.lin1",
        down: "ffn.lin2",
        feed_forward_norm: "output_layer_norm",
    },
    final_norm: "transformer.final_norm",
    masked_lm: MaskedLmNames {
        transform: TransformNames {
            dense: "vocab_transform",
            activation: HeadActivation::OfBlocks,
            norm: Some("vocab_layer_norm"),
        },
        bias: "vocab_projector.bias",
        output: "vocab_projector",
    },
    sequence: SequenceNames {
        drops_first: false,
        transform: TransformNames {
            dense: "pre_classifier",
            activation: HeadActivation::Of(Activation::Relu),
            norm: None,
        },
        output: "classifier",
    },
    ..bert::NAMES
};

/// The keys of its `config.json`; absent ones have transformers' values.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct Keys {
    vocab_size: i64,
    dim: i64,
    n_layers: i64,
    n_heads: i64,
    hidden_dim: i64,
    activation: Activation,
    dropout: f64,
    attention_dropout: f64,
    seq_classif_dropout: f64,
    qa_dropout: f64,
    max_position_embeddings: i64,
    initializer_range: f64,
    pad_token_id: Option<i64>,
    #[serde(rename = "bert4rs", skip_serializing_if = "ArchitectureOverrides::is_published")]
    overrides: ArchitectureOverrides,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            vocab_size: 30522,
            dim: 768,
            n_layers: 6,
            n_heads: 12,
            hidden_dim: 3072,
            activation: Activation::Gelu,
            dropout: 0.1,
            attention_dropout: 0.1,
            seq_classif_dropout: 0.2,
            qa_dropout: 0.1,
            max_position_embeddings: 512,
            initializer_range: 0.02,
            pad_token_id: Some(0),
            overrides: ArchitectureOverrides::default(),
        }
    }
}

pub(super) fn from_json(json: &Value) -> Result<BertConfig, String> {
    let keys: Keys = from_keys(json)?;
    Ok(BertConfig {
        vocab_size: keys.vocab_size,
        hidden_size: keys.dim,
        num_hidden_layers: keys.n_layers,
        num_attention_heads: keys.n_heads,
        intermediate_size: keys.hidden_dim,
        hidden_act: keys.activation,
        hidden_dropout_prob: keys.dropout,
        attention_probs_dropout_prob: keys.attention_dropout,
        max_position_embeddings: keys.max_position_embeddings,
        type_vocab_size: 0,
        initializer_range: keys.initializer_range,
        layer_norm_eps: 1e-12,
        pad_token_id: keys.pad_token_id,
        classifier_dropout: Some(keys.seq_classif_dropout),
        variant: BertVariant::DistilBert { qa_dropout: keys.qa_dropout },
        overrides: keys.overrides,
    })
}

pub(super) fn to_json(config: &BertConfig, qa_dropout: f64) -> serde_json::Result<Value> {
    serde_json::to_value(Keys {
        vocab_size: config.vocab_size,
        dim: config.hidden_size,
        n_layers: config.num_hidden_layers,
        n_heads: config.num_attention_heads,
        hidden_dim: config.intermediate_size,
        activation: config.hidden_act,
        dropout: config.hidden_dropout_prob,
        attention_dropout: config.attention_probs_dropout_prob,
        seq_classif_dropout: config.classifier_dropout.unwrap_or(config.hidden_dropout_prob),
        qa_dropout,
        max_position_embeddings: config.max_position_embeddings,
        initializer_range: config.initializer_range,
        pad_token_id: config.pad_token_id,
        overrides: config.overrides,
    })
}

pub(super) fn fixed() -> Value {
    json!({ "sinusoidal_pos_embds": false, "tie_word_embeddings": true })
}
