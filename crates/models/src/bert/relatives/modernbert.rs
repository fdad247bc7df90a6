//! ModernBERT (arXiv 2412.13663): norms before each half, rotary positions, gated feed-forward,
//! no biases, and attention within a window in most blocks.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::BertVariant;
use super::names::{
    BlockNames, HeadActivation, MaskedLmNames, Names, ProjectionNames, SequenceNames,
    TransformNames,
};
use crate::bert::BertConfig;
use crate::check::MOST_LAYERS;
use crate::hugging_face::from_keys;
use crate::layers::{Activation, Rotary};
use crate::overrides::ArchitectureOverrides;

pub(super) const NAMES: Names = Names {
    base: "model",
    words: "embeddings.tok_embeddings",
    positions: "embeddings.position_embeddings",
    token_types: "embeddings.token_type_embeddings",
    embeddings_norm: "embeddings.norm",
    blocks: "layers",
    block: BlockNames {
        projections: ProjectionNames::Joint("attn.Wqkv"),
        attention: "attn",
        attention_output: "attn.Wo",
        attention_norm: "attn_norm",
        gate: None,
        up: "mlp.Wi",
        down: "mlp.Wo",
        feed_forward_norm: "mlp_norm",
    },
    final_norm: "final_norm",
    masked_lm: MaskedLmNames { transform: HEAD, bias: "decoder.bias", output: "decoder" },
    sequence: SequenceNames { drops_first: false, transform: HEAD, output: "classifier" },
    tokens: Some(HEAD),
    answers: "classifier",
};

/// What all heads have before their last map.
const HEAD: TransformNames = TransformNames {
    dense: "head.dense",
    activation: HeadActivation::Of(Activation::Gelu),
    norm: Some("head.norm"),
};

/// What ModernBERT alone has.
#[derive(Debug, Clone, PartialEq)]
pub struct ModernBert {
    /// Positions in blocks whose tokens attend to all.
    pub global_rotary: Rotary,
    /// Positions in the other blocks.
    pub local_rotary: Rotary,
    /// In the other blocks, a token attends to as many as half of these on each side.
    pub local_attention: i64,
    /// Which blocks attend within that window.
    pub is_local: Vec<bool>,
    /// What a classifier of sequences reads.
    pub classifier_pooling: ClassifierPooling,
}

/// What a classifier of sequences reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClassifierPooling {
    /// The first token's hidden state.
    #[default]
    Cls,
    /// The mean of real tokens' hidden states.
    Mean,
}

/// The keys of its `config.json`; absent ones have transformers' values.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default)]
struct Keys {
    vocab_size: i64,
    hidden_size: i64,
    intermediate_size: i64,
    num_hidden_layers: i64,
    num_attention_heads: i64,
    hidden_activation: Activation,
    max_position_embeddings: i64,
    initializer_range: f64,
    norm_eps: f64,
    pad_token_id: Option<i64>,
    local_attention: i64,
    /// Of transformers 4; `layer_types` and `rope_parameters` say the same in 5.
    global_attn_every_n_layers: i64,
    global_rope_theta: f64,
    local_rope_theta: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer_types: Option<Vec<LayerType>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rope_parameters: Option<RopeParameters>,
    classifier_pooling: ClassifierPooling,
    classifier_dropout: f64,
    #[serde(rename = "bert4rs", skip_serializing_if = "ArchitectureOverrides::is_published")]
    overrides: ArchitectureOverrides,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum LayerType {
    FullAttention,
    SlidingAttention,
}

#[derive(Debug, Serialize, Deserialize)]
struct RopeParameters {
    full_attention: Option<Rope>,
    sliding_attention: Option<Rope>,
}

/// Stretched positions, which other types stand for, are not ModernBERT's as published.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Rope {
    #[serde(default)]
    rope_type: RopeType,
    rope_theta: f64,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RopeType {
    #[default]
    Default,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            vocab_size: 50368,
            hidden_size: 768,
            intermediate_size: 1152,
            num_hidden_layers: 22,
            num_attention_heads: 12,
            hidden_activation: Activation::Gelu,
            max_position_embeddings: 8192,
            initializer_range: 0.02,
            norm_eps: 1e-5,
            pad_token_id: Some(50283),
            local_attention: 128,
            global_attn_every_n_layers: 3,
            global_rope_theta: 160_000.0,
            local_rope_theta: 10_000.0,
            layer_types: None,
            rope_parameters: None,
            classifier_pooling: ClassifierPooling::Cls,
            classifier_dropout: 0.0,
            overrides: ArchitectureOverrides::default(),
        }
    }
}

pub(super) fn from_json(json: &Value) -> Result<BertConfig, String> {
    let keys: Keys = from_keys(json)?;
    let is_local = is_local(&keys)?;
    let rope = keys.rope_parameters.as_ref();
    let rotary = |given: Option<Rope>, theta: f64| Rotary {
        theta: given.map_or(theta, |rope| rope.rope_theta),
        yarn: None,
    };
    let modern = ModernBert {
        global_rotary: rotary(rope.and_then(|rope| rope.full_attention), keys.global_rope_theta),
        local_rotary: rotary(rope.and_then(|rope| rope.sliding_attention), keys.local_rope_theta),
        local_attention: keys.local_attention,
        is_local,
        classifier_pooling: keys.classifier_pooling,
    };
    Ok(BertConfig {
        vocab_size: keys.vocab_size,
        hidden_size: keys.hidden_size,
        num_hidden_layers: keys.num_hidden_layers,
        num_attention_heads: keys.num_attention_heads,
        intermediate_size: keys.intermediate_size,
        hidden_act: keys.hidden_activation,
        hidden_dropout_prob: 0.0,
        attention_probs_dropout_prob: 0.0,
        max_position_embeddings: keys.max_position_embeddings,
        type_vocab_size: 0,
        initializer_range: keys.initializer_range,
        layer_norm_eps: keys.norm_eps,
        pad_token_id: keys.pad_token_id,
        classifier_dropout: Some(keys.classifier_dropout),
        variant: BertVariant::ModernBert(modern),
        overrides: keys.overrides,
    })
}

/// Which blocks attend within a window: as listed, or all but each `n`-th.
fn is_local(keys: &Keys) -> Result<Vec<bool>, String> {
    let layers = keys.num_hidden_layers.clamp(0, MOST_LAYERS) as usize;
    match (&keys.layer_types, keys.global_attn_every_n_layers) {
        (Some(types), _) if types.len() == layers => {
            Ok(types.iter().map(|kind| *kind == LayerType::SlidingAttention).collect())
        }
        (Some(types), _) => Err(format!(
            "layer_types names {} layers, but num_hidden_layers = {layers}",
            types.len()
        )),
        (None, every) if every >= 1 => {
            Ok((0..layers as i64).map(|layer| layer % every != 0).collect())
        }
        (None, every) => Err(format!("global_attn_every_n_layers = {every}: must be at least 1")),
    }
}

pub(super) fn to_json(config: &BertConfig, modern: &ModernBert) -> serde_json::Result<Value> {
    let rope =
        |rotary: Rotary| Some(Rope { rope_type: RopeType::Default, rope_theta: rotary.theta });
    let layer_type = |&local: &bool| match local {
        true => LayerType::SlidingAttention,
        false => LayerType::FullAttention,
    };
    // The distance between the first two blocks that attend to all, for transformers 4.
    let every = modern.is_local.iter().skip(1).take_while(|&&local| local).count() + 1;
    serde_json::to_value(Keys {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_hidden_layers,
        num_attention_heads: config.num_attention_heads,
        hidden_activation: config.hidden_act,
        max_position_embeddings: config.max_position_embeddings,
        initializer_range: config.initializer_range,
        norm_eps: config.layer_norm_eps,
        pad_token_id: config.pad_token_id,
        local_attention: modern.local_attention,
        global_attn_every_n_layers: every as i64,
        global_rope_theta: modern.global_rotary.theta,
        local_rope_theta: modern.local_rotary.theta,
        layer_types: Some(modern.is_local.iter().map(layer_type).collect()),
        rope_parameters: Some(RopeParameters {
            full_attention: rope(modern.global_rotary),
            sliding_attention: rope(modern.local_rotary),
        }),
        classifier_pooling: modern.classifier_pooling,
        classifier_dropout: config.classifier_dropout.unwrap_or(0.0),
        overrides: config.overrides,
    })
}

pub(super) fn fixed() -> Value {
    json!({
        "attention_bias": false,
        "mlp_bias": false,
        "norm_bias": false,
        "classifier_bias": false,
        "decoder_bias": true,
        "classifier_activation": "gelu",
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_dropout": 0.0,
        "tie_word_embeddings": true,
    })
}
