//! BERT with its heads.
//!
//! Axes: `b` batch, `t` time, `d` features, `v` vocabulary, `n` = b·t tokens, `m` masked tokens.

use bert4rs_tensor_core::attention::Implementation;
use bert4rs_tensor_core::param::{Init, Path, Role};
use bert4rs_tensor_core::{Kind, Tensor};

use super::{BertConfig, BertInput, BertModel};
use crate::error::Result;
use crate::input::check_masked;
use crate::layers::{Biased, Linear, Norm};
use crate::loss;

/// The MLM head: a map, activation and norm, then the word embeddings again as output matrix.
#[derive(Debug)]
struct MaskedLmHead {
    transform: Linear,
    norm: Norm,
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
        let (d, v) = (config.hidden_size, config.vocab_size);
        let head = MaskedLmHead {
            transform: Linear::new(&(&transform / "dense"), d, d, Biased::Yes, config.init())?,
            norm: config.norm(&(&transform / "LayerNorm"))?,
            bias: predictions.param("bias", &[v], Role::Bias, Init::Zeros)?,
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
        let config = self.config();
        let mapped = config.hidden_act.forward(&self.head.transform.forward(hidden));
        let words_vd = &self.bert.embeddings.words.weight;
        let logits = self.head.norm.forward(&mapped).linear(words_vd, Some(&self.head.bias));
        config.switches.cap(logits)
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
                let place = (Kind::Int64, labels_m.device());
                let ignored_n = labels_m.new_full([hidden_nd.size()[0]], loss::IGNORED, place);
                let labels_n = ignored_n.index_copy(0, positions_m, labels_m);
                loss::cross_entropy(&self.logits(&hidden_nd), &labels_n)
            }
        })
    }
}
