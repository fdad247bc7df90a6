//! BERT with the heads that it is pretrained with.
//!
//! Axes: `b` batch, `t` time, `d` features, `e` features of the tables, `v` vocabulary,
//! `n` = b·t tokens, `m` masked tokens.

use bert4rs_tensor_core::attention::AttentionImplementation;
use bert4rs_tensor_core::param::{Init, ParamPath, Role};
use bert4rs_tensor_core::{Kind, Tensor, no_grad_guard};

use super::transform::{Pooler, Transform};
use super::{BertConfig, BertInput, BertModel};
use crate::checkpointing::ActivationCheckpointing;
use crate::error::Result;
use crate::input::{self, check_masked};
use crate::layers::{AttentionBackend, Biased, Linear};
use crate::loss::{self, LossOptions, OutputLayer, PredictionScore};

/// The MLM head; its output matrix is the table of tokens.
#[derive(Debug)]
struct MaskedLmHead {
    transform: Transform,
    /// `[v]`
    bias: Tensor,
}

/// How the loss of masked tokens is computed.
#[derive(Debug, Clone, Copy)]
pub struct MlmLoss<'a> {
    /// For which tokens logits are computed.
    pub logits_of: LogitsOf,
    /// What is added to cross-entropy.
    pub options: LossOptions,
    /// What the sum of the losses is divided by; see [`loss::Labels::divisor`].
    pub divisor: Option<&'a Tensor>,
}

impl From<LogitsOf> for MlmLoss<'_> {
    /// Cross-entropy alone, its mean.
    fn from(logits_of: LogitsOf) -> Self {
        Self { logits_of, options: LossOptions::default(), divisor: None }
    }
}

/// For which tokens logits are computed. Loss and gradients are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitsOf {
    /// All, as in transformers.
    AllTokens,
    /// The masked ones, about one in seven.
    MaskedOnly,
}

/// BERT or a relative with its masked-language-model head, as transformers' `BertForMaskedLM`.
/// ELECTRA's is its generator.
#[derive(Debug)]
pub struct BertForMaskedLm {
    bert: BertModel,
    head: MaskedLmHead,
}

impl BertForMaskedLm {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        let mut bert = BertModel::under_root(path, config, implementation)?;
        bert.tie();
        let names = &config.variant.names().masked_lm;
        let transform = Transform::new(path, &names.transform, config, config.embedding_size())?;
        let bias = path.param(names.bias, &[config.vocab_size], Role::Bias, Init::Zeros)?;
        Ok(Self { bert, head: MaskedLmHead { transform, bias } })
    }

    /// Chooses what activation checkpointing drops and recomputes; nothing at first.
    pub fn set_activation_checkpointing(&mut self, checkpointing: ActivationCheckpointing) {
        self.bert.set_activation_checkpointing(checkpointing);
    }

    /// The configuration it was made from.
    pub fn config(&self) -> &BertConfig {
        &self.bert.config
    }

    /// The encoder.
    pub fn bert(&self) -> &BertModel {
        &self.bert
    }

    /// The encoder, to be changed.
    pub fn bert_mut(&mut self) -> &mut BertModel {
        &mut self.bert
    }

    /// The code that computed attention when the model was first used; absent before.
    pub fn attention_backend(&self) -> Option<AttentionBackend> {
        self.bert.attention_backend()
    }

    /// Hidden states `[b, t, d]`; see [`BertModel::forward`].
    pub fn encode(&self, input: &BertInput, train: bool) -> Result<Tensor> {
        self.bert.forward(input, train)
    }

    /// Logits over the vocabulary: `[.., d]` to `[.., v]`, in the weights' dtype.
    ///
    /// # Errors
    /// What the kernels throw.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.output().logits(&self.features(hidden)?))
    }

    /// What the output layer reads: `[.., d]` to `[.., e]`, as many features as the table has.
    fn features(&self, hidden: &Tensor) -> Result<Tensor> {
        self.head.transform.forward(hidden)
    }

    fn output(&self) -> OutputLayer<'_> {
        OutputLayer {
            weight: &self.bert.embeddings.words.weight,
            bias: Some(&self.head.bias),
            soft_cap: self.config().overrides.logit_soft_cap,
            policy: self.bert.embeddings.words.policy(),
        }
    }

    /// Mean cross-entropy of the masked tokens, a scalar in FP32.
    ///
    /// `positions_m` are their positions in the flattened batch (`row · t + column`), each once;
    /// `labels_m` the tokens that were there. Both I64.
    ///
    /// # Errors
    /// As [`BertModel::forward`]; positions and labels of different or no length.
    pub fn mlm_loss<'a>(
        &self,
        input: &BertInput,
        positions_m: &Tensor,
        labels_m: &Tensor,
        how: impl Into<MlmLoss<'a>>,
        train: bool,
    ) -> Result<Tensor> {
        check_masked(positions_m, labels_m)?;
        let hidden_btd = self.encode(input, train)?;
        self.masked_loss(&hidden_btd, positions_m, labels_m, how.into())
    }

    /// How well the masked tokens are predicted, as [`mlm_loss`](Self::mlm_loss) reads them.
    /// Without dropout and gradients.
    ///
    /// # Errors
    /// As [`mlm_loss`](Self::mlm_loss).
    pub fn mlm_score(
        &self,
        input: &BertInput,
        positions_m: &Tensor,
        labels_m: &Tensor,
    ) -> Result<PredictionScore> {
        let _guard = no_grad_guard();
        check_masked(positions_m, labels_m)?;
        let hidden_nd = self.encode(input, false)?.flatten(0, 1);
        let features_md = self.features(&hidden_nd.index_select(0, positions_m))?;
        self.output().score(&features_md, labels_m)
    }

    fn masked_loss(
        &self,
        hidden_btd: &Tensor,
        positions_m: &Tensor,
        labels_m: &Tensor,
        how: MlmLoss<'_>,
    ) -> Result<Tensor> {
        let hidden_nd = hidden_btd.flatten(0, 1);
        match how.logits_of {
            LogitsOf::MaskedOnly => {
                let hidden_md = hidden_nd.index_select(0, positions_m);
                let features_md = self.features(&hidden_md)?;
                self.output().cross_entropy(&features_md, labels_m, how.divisor, &how.options)
            }
            LogitsOf::AllTokens => {
                let options = (Kind::Int64, labels_m.device());
                let ignored_n = labels_m.new_full([hidden_nd.size()[0]], loss::IGNORED, options);
                let labels_n = ignored_n.index_copy(0, positions_m, labels_m);
                let features_nd = self.features(&hidden_nd)?;
                self.output().cross_entropy(&features_nd, &labels_n, how.divisor, &how.options)
            }
        }
    }
}

/// BERT with the heads for masked tokens and for whether sentence B follows sentence A, as
/// transformers' `BertForPreTraining`.
#[derive(Debug)]
pub struct BertForPreTraining {
    masked: BertForMaskedLm,
    pooler: Pooler,
    next_sentence: Linear,
}

impl BertForPreTraining {
    /// Makes its parameters under `path`, which is the root in Hugging Face's layout.
    pub fn new(
        path: &ParamPath,
        config: &BertConfig,
        implementation: AttentionImplementation,
    ) -> Result<Self> {
        let masked = BertForMaskedLm::new(path, config, implementation)?;
        let pooler = Pooler::new(&(path / "bert.pooler"), config)?;
        let (d, init) = (config.hidden_size, config.init());
        let path = path / "cls.seq_relationship";
        let next_sentence = Linear::head(&path, d, 2, Biased::Yes, init)?;
        Ok(Self { masked, pooler, next_sentence })
    }

    /// The model without the second head.
    pub fn masked(&self) -> &BertForMaskedLm {
        &self.masked
    }

    /// The same, to be changed.
    pub fn masked_mut(&mut self) -> &mut BertForMaskedLm {
        &mut self.masked
    }

    /// Logits `[b, 2]` for "B follows A" and "it does not", of hidden states `[b, t, d]`.
    pub fn next_sentence_logits(&self, hidden_btd: &Tensor) -> Tensor {
        self.next_sentence.forward(&self.pooler.forward(hidden_btd))
    }

    /// The sum of [`BertForMaskedLm::mlm_loss`] and the cross-entropy of `next_b`, I64 `[b]`: 0
    /// where sentence B follows, 1 where it does not.
    ///
    /// # Errors
    /// As [`BertForMaskedLm::mlm_loss`]; labels of another shape.
    pub fn loss<'a>(
        &self,
        input: &BertInput,
        positions_m: &Tensor,
        labels_m: &Tensor,
        next_b: &Tensor,
        how: impl Into<MlmLoss<'a>>,
        train: bool,
    ) -> Result<Tensor> {
        check_masked(positions_m, labels_m)?;
        let hidden_btd = self.masked.encode(input, train)?;
        let b = hidden_btd.size()[0];
        if next_b.kind() != Kind::Int64 || next_b.size() != [b] {
            return Err(input::refuse("next sentence labels", next_b, format!("Int64 [{b}]")));
        }
        let masked = self.masked.masked_loss(&hidden_btd, positions_m, labels_m, how.into())?;
        Ok(masked + loss::cross_entropy(&self.next_sentence_logits(&hidden_btd), next_b))
    }
}
