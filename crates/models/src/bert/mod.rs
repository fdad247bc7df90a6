//! BERT (Devlin et al., arXiv 1810.04805): a bidirectional encoder with post-norm blocks.
//!
//! Axes: `b` batch, `t` time, `d` features, `v` vocabulary, `n` = b·t tokens, `m` masked tokens.

mod config;

use bert4rs_tensor_core::attention::Implementation;
use bert4rs_tensor_core::param::{Init, Path, Role};
use bert4rs_tensor_core::{Kind, Tensor};

pub use config::{BertConfig, BertSize};

use crate::error::{Error, Result};
use crate::layers::attention::MultiHeadPaths;
use crate::layers::{
    Dropout, Embedding, FeedForward, FeedForwardConfig, LayerNorm, Linear, MultiHeadAttention,
    MultiHeadConfig,
};
use crate::loss;

/// What BERT reads.
#[derive(Debug, Clone, Copy)]
pub struct BertInput<'a> {
    /// Tokens `[b, t]`, I64.
    pub input_ids: &'a Tensor,
    /// Sentence of each token, `[b, t]`, I64; all 0 if absent.
    pub token_type_ids: Option<&'a Tensor>,
    /// Position of each token, `[b, t]` or `[1, t]`, I64; 0 to t-1 if absent.
    pub position_ids: Option<&'a Tensor>,
    /// True where a query may see a key, broadcast to `[b, heads, t, t]`; see [`crate::mask`].
    pub mask: Option<&'a Tensor>,
}

impl<'a> BertInput<'a> {
    /// Tokens alone: one sentence each, no padding.
    pub fn new(input_ids: &'a Tensor) -> Self {
        Self { input_ids, token_type_ids: None, position_ids: None, mask: None }
    }

    /// Refuses shapes and dtypes that the model can't take. Values are not looked at.
    fn check_shapes(&self, config: &BertConfig) -> Result<()> {
        let refuse = |name, tensor: &Tensor, expected: String| {
            let found = format!("{:?} of shape {:?}", tensor.kind(), tensor.size());
            Err(Error::Input { name, found, expected })
        };
        let [b, t] = self.input_ids.size()[..] else {
            return refuse("input_ids", self.input_ids, "I64 of shape [batch, time]".into());
        };
        if self.input_ids.kind() != Kind::Int64 || b < 1 || t < 1 {
            return refuse("input_ids", self.input_ids, "I64 of shape [batch, time]".into());
        }
        if self.position_ids.is_none() && t > config.max_position_embeddings {
            let longest = config.max_position_embeddings;
            let expected = format!("at most {longest} tokens (max_position_embeddings)");
            return refuse("input_ids", self.input_ids, expected);
        }
        if let Some(types) = self.token_type_ids
            && (types.kind() != Kind::Int64 || types.size() != [b, t])
        {
            return refuse("token_type_ids", types, format!("Int64 of shape [{b}, {t}]"));
        }
        if let Some(positions) = self.position_ids
            && (positions.kind() != Kind::Int64
                || (positions.size() != [b, t] && positions.size() != [1, t]))
        {
            return refuse("position_ids", positions, format!("Int64 of shape [{b}, {t}]"));
        }
        if let Some(mask) = self.mask {
            let full = [b, config.num_attention_heads, t, t];
            let size = mask.size();
            let fits = size.len() == 4
                && size.iter().zip(full).all(|(&found, want)| found == 1 || found == want);
            if mask.kind() != Kind::Bool || !fits {
                return refuse("mask", mask, format!("Bool that broadcasts to {full:?}"));
            }
        }
        Ok(())
    }

    /// Refuses ids that the model has no entry for. Waits for the device: for the border of a
    /// program, not for each step of training.
    pub fn check_values(&self, config: &BertConfig) -> Result<()> {
        let tables = [
            ("input_ids", Some(self.input_ids), config.vocab_size, "vocab_size"),
            ("token_type_ids", self.token_type_ids, config.type_vocab_size, "type_vocab_size"),
            (
                "position_ids",
                self.position_ids,
                config.max_position_embeddings,
                "max_position_embeddings",
            ),
        ];
        for (name, ids, entries, key) in tables {
            let Some(ids) = ids else { continue };
            let (low, high) = (ids.min().int64_value(&[]), ids.max().int64_value(&[]));
            if low < 0 || high >= entries {
                let found = format!("values from {low} to {high}");
                let expected = format!("0 to {} ({key} = {entries})", entries - 1);
                return Err(Error::Input { name, found, expected });
            }
        }
        Ok(())
    }
}

/// The tables of tokens, positions and token types; their sum is normalised.
#[derive(Debug)]
struct Embeddings {
    words: Embedding,
    positions: Embedding,
    token_types: Embedding,
    norm: LayerNorm,
    dropout: Dropout,
}

impl Embeddings {
    fn new(path: &Path, config: &BertConfig) -> Result<Self> {
        let d = config.hidden_size;
        let init = Init::Normal(config.initializer_range);
        let table = |name: &str, entries, padding| {
            Embedding::new(&(path / name), entries, d, padding, init)
        };
        Ok(Self {
            words: table("word_embeddings", config.vocab_size, config.pad_token_id)?,
            positions: table("position_embeddings", config.max_position_embeddings, None)?,
            token_types: table("token_type_embeddings", config.type_vocab_size, None)?,
            norm: LayerNorm::new(&(path / "LayerNorm"), d, config.layer_norm_eps)?,
            dropout: Dropout { probability: config.hidden_dropout_prob },
        })
    }

    /// `[b, t]` ids to `[b, t, d]`.
    fn forward(&self, input: &BertInput, train: bool) -> Tensor {
        // Without ids, rows are taken as views and broadcast, which is cheaper than looking up.
        let positions = match input.position_ids {
            Some(ids) => self.positions.forward(ids),
            None => self.positions.weight.narrow(0, 0, input.input_ids.size()[1]),
        };
        let types = match input.token_type_ids {
            Some(ids) => self.token_types.forward(ids),
            None => self.token_types.weight.select(0, 0),
        };
        let sum_btd = self.words.forward(input.input_ids) + (positions + types);
        self.dropout.forward(self.norm.forward(&sum_btd), train)
    }
}

/// `norm(x + attention(x))`, then `norm(x + feed_forward(x))`.
#[derive(Debug)]
struct Block {
    attention: MultiHeadAttention,
    attention_norm: LayerNorm,
    feed_forward: FeedForward,
    feed_forward_norm: LayerNorm,
    dropout: Dropout,
}

impl Block {
    fn new(path: &Path, config: &BertConfig, implementation: Implementation) -> Result<Self> {
        let (d, eps) = (config.hidden_size, config.layer_norm_eps);
        let init = Init::Normal(config.initializer_range);
        let paths = MultiHeadPaths {
            query: path / "attention.self.query",
            key: path / "attention.self.key",
            value: path / "attention.self.value",
            output: path / "attention.output.dense",
        };
        let attention = MultiHeadConfig {
            hidden: d,
            heads: config.num_attention_heads,
            implementation,
            dropout: config.attention_probs_dropout_prob,
            init,
        };
        let feed_forward = FeedForwardConfig {
            hidden: d,
            inner: config.intermediate_size,
            activation: config.hidden_act,
            init,
        };
        let (up, down) = (path / "intermediate.dense", path / "output.dense");
        Ok(Self {
            attention: MultiHeadAttention::new(&paths, &attention)?,
            attention_norm: LayerNorm::new(&(path / "attention.output.LayerNorm"), d, eps)?,
            feed_forward: FeedForward::new(&up, &down, &feed_forward)?,
            feed_forward_norm: LayerNorm::new(&(path / "output.LayerNorm"), d, eps)?,
            dropout: Dropout { probability: config.hidden_dropout_prob },
        })
    }

    /// `[b, t, d]` to `[b, t, d]`.
    fn forward(&self, x_btd: &Tensor, mask: Option<&Tensor>, train: bool) -> Result<Tensor> {
        let attended_btd = self.attention.forward(x_btd, mask, train)?;
        let x_btd =
            self.attention_norm.forward(&(x_btd + self.dropout.forward(attended_btd, train)));
        let fed_btd = self.feed_forward.forward(&x_btd);
        Ok(self.feed_forward_norm.forward(&(&x_btd + self.dropout.forward(fed_btd, train))))
    }
}

/// The encoder: embeddings and blocks, without a head.
#[derive(Debug)]
pub struct BertModel {
    config: BertConfig,
    embeddings: Embeddings,
    blocks: Vec<Block>,
}

impl BertModel {
    /// Makes its parameters under `path`, which is `bert` in models with a head.
    pub fn new(path: &Path, config: &BertConfig, implementation: Implementation) -> Result<Self> {
        config.validate()?;
        let layers = path / "encoder.layer";
        let blocks = (0..config.num_hidden_layers)
            .map(|index| Block::new(&(&layers / index), config, implementation))
            .collect::<Result<_>>()?;
        let embeddings = Embeddings::new(&(path / "embeddings"), config)?;
        Ok(Self { config: config.clone(), embeddings, blocks })
    }

    /// Hidden states `[b, t, d]` in the weights' dtype. Dropout acts if `train`.
    ///
    /// # Errors
    /// Shapes and dtypes that don't fit; attention dropout that the implementation can't do.
    pub fn forward(&self, input: &BertInput, train: bool) -> Result<Tensor> {
        input.check_shapes(&self.config)?;
        let mut x_btd = self.embeddings.forward(input, train);
        for block in &self.blocks {
            x_btd = block.forward(&x_btd, input.mask, train)?;
        }
        Ok(x_btd)
    }
}

/// The MLM head: a map, activation and norm, then the word embeddings again as output matrix.
#[derive(Debug)]
struct MaskedLmHead {
    transform: Linear,
    norm: LayerNorm,
    /// `[v]`
    bias: Tensor,
}

/// For which tokens logits are computed. Loss and gradients are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitsOf {
    /// All, as in transformers.
    AllTokens,
    /// The masked ones, about one in seven.
    MaskedOnly,
}

/// BERT with its masked-language-model head, as transformers' `BertForMaskedLM`.
#[derive(Debug)]
pub struct BertForMaskedLm {
    bert: BertModel,
    head: MaskedLmHead,
}

impl BertForMaskedLm {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(path: &Path, config: &BertConfig, implementation: Implementation) -> Result<Self> {
        let bert = BertModel::new(&(path / "bert"), config, implementation)?;
        let predictions = path / "cls.predictions";
        let transform = &predictions / "transform";
        let d = config.hidden_size;
        let init = Init::Normal(config.initializer_range);
        let head = MaskedLmHead {
            transform: Linear::new(&(&transform / "dense"), d, d, Role::Matrix, init)?,
            norm: LayerNorm::new(&(&transform / "LayerNorm"), d, config.layer_norm_eps)?,
            bias: predictions.param("bias", &[config.vocab_size], Role::Bias, Init::Zeros)?,
        };
        Ok(Self { bert, head })
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &BertConfig {
        &self.bert.config
    }

    /// Hidden states `[b, t, d]`; see [`BertModel::forward`].
    pub fn encode(&self, input: &BertInput, train: bool) -> Result<Tensor> {
        self.bert.forward(input, train)
    }

    /// Logits over the vocabulary: `[.., d]` to `[.., v]`, in the weights' dtype.
    pub fn logits(&self, hidden: &Tensor) -> Tensor {
        let mapped = self.bert.config.hidden_act.forward(&self.head.transform.forward(hidden));
        let words_vd = &self.bert.embeddings.words.weight;
        self.head.norm.forward(&mapped).linear(words_vd, Some(&self.head.bias))
    }

    /// Mean cross-entropy of the masked tokens, a scalar in FP32.
    ///
    /// `positions_m` are their places in the flattened batch (`row · t + column`), each once;
    /// `labels_m` the tokens that were there. Both I64.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; positions and labels of different or no length.
    pub fn mlm_loss(
        &self,
        input: &BertInput,
        positions_m: &Tensor,
        labels_m: &Tensor,
        logits_of: LogitsOf,
        train: bool,
    ) -> Result<Tensor> {
        check_masked(positions_m, labels_m)?;
        let hidden_nd = self.encode(input, train)?.flatten(0, 1);
        Ok(match logits_of {
            LogitsOf::MaskedOnly => {
                let hidden_md = hidden_nd.index_select(0, positions_m);
                loss::cross_entropy(&self.logits(&hidden_md), labels_m)
            }
            LogitsOf::AllTokens => {
                let ignored_n = labels_m.new_full(
                    [hidden_nd.size()[0]],
                    loss::IGNORED,
                    (Kind::Int64, labels_m.device()),
                );
                let labels_n = ignored_n.index_copy(0, positions_m, labels_m);
                loss::cross_entropy(&self.logits(&hidden_nd), &labels_n)
            }
        })
    }
}

/// Refuses positions and labels that don't belong together.
fn check_masked(positions_m: &Tensor, labels_m: &Tensor) -> Result<()> {
    let (positions, labels) = (positions_m.size(), labels_m.size());
    let fits = positions.len() == 1 && positions == labels && positions[0] > 0;
    if !fits || positions_m.kind() != Kind::Int64 || labels_m.kind() != Kind::Int64 {
        return Err(Error::Input {
            name: "masked positions and labels",
            found: format!(
                "{:?} of shape {positions:?} and {:?} of shape {labels:?}",
                positions_m.kind(),
                labels_m.kind()
            ),
            expected: "both Int64 of one shape [masked tokens], at least one".into(),
        });
    }
    Ok(())
}
