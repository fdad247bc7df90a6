//! GPT-2's configuration, with the keys of transformers' `config.json`.

use serde::{Deserialize, Serialize};

use crate::check::{check_divides, check_layers, check_probabilities, check_scales, check_sizes};
use crate::error::Result;
use crate::layers::Activation;
use crate::overrides::ArchitectureOverrides;

/// What a GPT is made of. Keys that are absent from a file have the values of
/// [`GptSize::Small`], as in transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GptConfig {
    /// Number of tokens.
    pub vocab_size: i64,
    /// The longest sequence.
    pub n_positions: i64,
    /// Features of a token, a multiple of the number of heads.
    pub n_embd: i64,
    /// Number of blocks.
    pub n_layer: i64,
    /// Number of attention heads.
    pub n_head: i64,
    /// Inner features of the feed-forward half; four times `n_embd` if absent.
    pub n_inner: Option<i64>,
    /// Activation of the feed-forward half.
    pub activation_function: Activation,
    /// Probability of dropping a feature of a half's result, in training.
    pub resid_pdrop: f64,
    /// Probability of dropping a feature of the embeddings, in training.
    pub embd_pdrop: f64,
    /// Probability of dropping an attention weight, in training.
    pub attn_pdrop: f64,
    /// Added to the variance in layer norms.
    pub layer_norm_epsilon: f64,
    /// Standard deviation of matrices and tables at the start.
    pub initializer_range: f64,
    /// Whether attention scores are divided by the root of the head's size.
    pub scale_attn_weights: bool,
    /// Whether attention scores are also divided by the layer's number, from 1.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// The token that begins a text.
    pub bos_token_id: Option<i64>,
    /// The token that ends a text.
    pub eos_token_id: Option<i64>,
    /// The padding token: a class is read from the last token that is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<i64>,
    /// Departures from GPT-2 as published.
    #[serde(rename = "bert4rs", skip_serializing_if = "ArchitectureOverrides::is_published")]
    pub overrides: ArchitectureOverrides,
}

/// The published sizes (Radford et al. 2019, with the parameter counts as corrected since).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GptSize {
    /// 124 M parameters.
    Small,
    /// 355 M parameters.
    Medium,
    /// 774 M parameters.
    Large,
    /// 1558 M parameters.
    Xl,
}

impl GptSize {
    /// Every size, smallest first.
    pub const ALL: [Self; 4] = [Self::Small, Self::Medium, Self::Large, Self::Xl];
}

impl Default for GptConfig {
    fn default() -> Self {
        Self::published(GptSize::Small)
    }
}

impl GptConfig {
    /// GPT-2 of this size, as published.
    pub fn published(size: GptSize) -> Self {
        let (n_layer, n_embd, n_head) = match size {
            GptSize::Small => (12, 768, 12),
            GptSize::Medium => (24, 1024, 16),
            GptSize::Large => (36, 1280, 20),
            GptSize::Xl => (48, 1600, 25),
        };
        Self {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd,
            n_layer,
            n_head,
            n_inner: None,
            activation_function: Activation::GeluTanh,
            resid_pdrop: 0.1,
            embd_pdrop: 0.1,
            attn_pdrop: 0.1,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            bos_token_id: Some(50256),
            eos_token_id: Some(50256),
            pad_token_id: None,
            overrides: ArchitectureOverrides::default(),
        }
    }

    /// Refuses what no model can have, naming key and value.
    pub fn validate(&self) -> Result<()> {
        check_sizes(&[
            ("vocab_size", self.vocab_size),
            ("n_positions", self.n_positions),
            ("n_embd", self.n_embd),
            ("n_head", self.n_head),
            ("n_inner", self.inner_size()),
        ])?;
        check_layers("n_layer", self.n_layer)?;
        check_divides(("n_head", self.n_head), ("n_embd", self.n_embd))?;
        check_probabilities(&[
            ("resid_pdrop", self.resid_pdrop),
            ("embd_pdrop", self.embd_pdrop),
            ("attn_pdrop", self.attn_pdrop),
        ])?;
        check_scales(&[
            ("initializer_range", self.initializer_range),
            ("layer_norm_epsilon", self.layer_norm_epsilon),
        ])?;
        self.overrides.validate(self.n_head, self.head_size())
    }

    /// Features of an attention head.
    pub fn head_size(&self) -> i64 {
        self.n_embd / self.n_head
    }

    /// Inner features of the feed-forward half.
    pub fn inner_size(&self) -> i64 {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }
}
